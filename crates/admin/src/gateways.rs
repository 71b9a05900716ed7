//! Connected gateways: which are live, and which version each enforces.
//!
//! A gateway is identified by node and process. It is **live** while a poll of it is open or it
//! was heard of within the last 3 s, and **lost** after that. It is removed a day later, or as
//! soon as a newer process of its node has replaced it.

mod enforced;
mod live_acks;
mod poller;
pub(crate) mod refresh_id;
mod registry;
#[cfg(test)]
mod tests;
mod wait;

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use prometheus_client::metrics::histogram::Histogram;
use tidegate_policy::digest::BlobHash;
use tidegate_policy::version::Version;
use tidegate_policy::wire::formats::Formats;
use tidegate_policy::wire::sync::{Ack, Gateway, Poller};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::lock::locked;
use crate::store::time_text;
use live_acks::LiveAcks;
pub use poller::PollerStatus;
use registry::Registry;
pub use wait::{Applied, Goal, Waiter};

/// A gateway without an open poll that was not heard of for longer than this, and than this service is late, is lost.
pub const LOST_AFTER: Duration = Duration::from_secs(3);
/// A lost gateway is counted for this long.
pub const FORGOTTEN_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// All gateways that this service has heard of. A clone shares the registry.
#[derive(Clone)]
pub struct Gateways(Arc<GatewaysInner>);

struct GatewaysInner {
    registry: Mutex<Registry>,
    /// Seconds from a version's creation to the ack of each gateway.
    enforced: Histogram,
    /// Waiters that have not been answered.
    waiters: AtomicUsize,
    /// Those of them that have waited so long that open polls are answered to get acks.
    nudging: AtomicUsize,
    /// What waiters count, as last taken.
    live_acks: Mutex<Option<Arc<LiveAcks>>>,
    /// Changes when an ack, a poll or the epoch may have changed a waiter's result.
    moved: watch::Sender<u64>,
    /// Changes when open polls should be answered to get an ack that a waiter misses.
    nudged: watch::Sender<u64>,
}

/// State of one gateway.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GatewayStatus {
    /// Its node and process.
    pub gateway: Gateway,
    /// Where its polls come from; `None`: it has not polled yet.
    pub address: Option<IpAddr>,
    /// Its last ack; `None`: none yet.
    pub ack: Option<Ack>,
    /// Whether it counts as lost.
    pub lost: bool,
    /// Time since this service first heard of it.
    pub known_for: Duration,
    /// Time since it last polled or acked; zero while a poll is open.
    pub silent_for: Duration,
    /// Table formats that it does not read in the version that this service writes. It keeps the
    /// tables that it has, so it counts as enforcing no version.
    pub unread: Vec<&'static str>,
    /// What its last poll said of the VM that polls; `None`: it does not say.
    pub poller: Option<PollerStatus>,
}

impl GatewayStatus {
    /// Whether it enforces `version`, or a later one, in all VMs that serve requests, as far as it has said.
    #[must_use]
    pub fn enforces(&self, version: Version) -> bool {
        self.unread.is_empty() && self.ack.is_some_and(|ack| Goal::from(version).is_met(&ack))
    }
}

impl Gateways {
    /// A registry without gateways.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(GatewaysInner {
            registry: Mutex::default(),
            enforced: Histogram::new(enforced::BUCKETS),
            waiters: AtomicUsize::new(0),
            nudging: AtomicUsize::new(0),
            live_acks: Mutex::default(),
            moved: watch::Sender::new(0),
            nudged: watch::Sender::new(0),
        }))
    }

    /// Registers an open poll of `gateway`. It ends when the guard is dropped, also when the
    /// client disconnected and the handler was cancelled.
    #[must_use]
    pub fn poll(&self, gateway: &Gateway) -> Poll {
        if self.registry().poll_opened(gateway) {
            self.note_move();
        }
        Poll { gateways: self.clone(), gateway: gateway.clone() }
    }

    /// Notes which formats `gateway` reads, before it polls.
    pub fn note_formats(&self, gateway: &Gateway, formats: &Formats) {
        if self.registry().note_formats(gateway, formats) {
            if !formats.unread().is_empty() {
                let unread = formats.unread().join(", ");
                tracing::warn!(%gateway, unread, "a gateway of another version cannot read all tables");
            }
            self.note_move();
        }
    }

    /// Notes the address that `gateway` polls from.
    pub fn note_address(&self, gateway: &Gateway, address: IpAddr) {
        self.registry().note_address(gateway, address);
    }

    /// Notes what a poll of `gateway` says of the VM that polls, and the flags that it holds.
    pub fn note_poller(&self, gateway: &Gateway, poller: Poller, flags: Option<BlobHash>) {
        self.registry().note_poller(gateway, poller, flags, time_text::now_ms());
    }

    /// The addresses that live gateways poll from, with their nodes.
    #[must_use]
    pub fn addresses(&self) -> Vec<(IpAddr, String)> {
        self.registry().addresses()
    }

    /// Notes that `gateway` posted events or asked for a page of a table: it counts as live from now on, also when this service has just
    /// started and the gateway still waits to poll again.
    pub fn note_heard(&self, gateway: &Gateway) {
        if self.registry().note_heard(gateway) {
            self.note_move();
        }
    }

    /// Notes that messages wait for so long at this moment until this service reads them: gateways are not lost
    /// because it is late.
    pub fn note_delay(&self, delay: Duration) {
        self.registry().note_delay(delay);
    }

    /// Notes an ack of `gateway`. One that is older than its last ack in the same epoch was
    /// overtaken on the way and is ignored.
    pub fn ack(&self, gateway: &Gateway, mut ack: Ack) {
        if ack.refresh > refresh_id::highest_believed() {
            ack.refresh = 0;
        }
        let heard = self.registry().ack(gateway, ack);
        for took in heard.enforced {
            self.0.enforced.observe(took.as_secs_f64());
        }
        if heard.changed {
            self.note_move();
        }
    }

    /// Notes that `version` was created: the time until it is enforced counts from now.
    pub fn note_version(&self, version: Version) {
        self.registry().note_version(version);
    }

    /// Histogram of the seconds from each version's creation until a gateway acked that all its
    /// VMs enforce it; one observation per version and gateway.
    #[must_use]
    pub fn enforced(&self) -> Histogram {
        self.0.enforced.clone()
    }

    /// Age of the oldest version that some live gateway does not yet enforce in all its VMs.
    #[must_use]
    pub fn unenforced(&self) -> Option<Duration> {
        self.registry().unenforced()
    }

    /// Removes `gateway`; its next poll adds it again. Returns whether it was known.
    pub fn forget(&self, gateway: &Gateway) -> bool {
        let known = self.registry().forget(gateway);
        if known {
            self.note_move();
        }
        known
    }

    /// Whether a waiter needs acks: answers then ask gateways to ack at once.
    #[must_use]
    pub fn want(&self) -> bool {
        self.0.waiters.load(Ordering::Acquire) > 0
    }

    /// Announces a waiter. To be called **before** the change is committed, so that the first
    /// answer that carries the change also says that an ack is wanted.
    #[must_use]
    pub fn waiter(&self) -> Waiter {
        Waiter::new(self.clone())
    }

    /// Every gateway, by node and process.
    #[must_use]
    pub fn list(&self) -> Vec<GatewayStatus> {
        self.registry().list()
    }

    /// How many of these gateways, whose VMs have not ended as far as is known, are not heard of.
    #[must_use]
    pub fn silent(&self, open: &[Gateway]) -> usize {
        let heard = self.list().into_iter().filter(|status| !status.lost);
        let heard: HashSet<Gateway> = heard.map(|status| status.gateway).collect();
        open.iter().filter(|gateway| !heard.contains(gateway)).count()
    }

    /// Sets the epoch that acks count in. A new one ends all waits: versions of the old epoch can
    /// no longer be acked.
    pub fn set_epoch(&self, epoch: u64) {
        self.registry().set_epoch(epoch);
        self.note_move();
    }

    /// Changes when open polls should check again whether their ack is missed.
    pub(crate) fn nudges(&self) -> watch::Receiver<u64> {
        self.0.nudged.subscribe()
    }

    /// What all live gateways have acked: now, or with many gateways a moment ago.
    fn live_acks(&self) -> Arc<LiveAcks> {
        // While it is taken, whoever else waits for acks waits here.
        let mut taken = locked(&self.0.live_acks);
        if let Some(taken) = taken.as_ref().filter(|taken| Instant::now() < taken.used_until()) {
            return Arc::clone(taken);
        }
        // Before the look: what moves during it makes the waiters look again.
        let moves = *self.0.moved.borrow();
        let live = Arc::new(self.registry().live_acks(moves));
        *taken = Some(Arc::clone(&live));
        live
    }

    fn note_move(&self) {
        self.0.moved.send_modify(|n| *n = n.wrapping_add(1));
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        locked(&self.0.registry)
    }
}

impl Default for Gateways {
    fn default() -> Self {
        Self::new()
    }
}

/// An open poll of a gateway.
pub struct Poll {
    gateways: Gateways,
    gateway: Gateway,
}

impl Poll {
    /// Whether the poll should be answered although nothing changed, because a waiter has missed
    /// this gateway's ack of `newest` for a while. True once per goal: a gateway that cannot ack
    /// yet would otherwise poll again and again at once.
    pub(crate) fn misses_ack(&self, newest: &Goal) -> bool {
        let nudging = self.gateways.0.nudging.load(Ordering::Acquire) > 0;
        nudging && self.gateways.registry().misses_ack(&self.gateway, newest)
    }

    /// Whether an answer that carries `newest` says that an ack is wanted.
    pub(crate) fn ack_wanted(&self, newest: Goal) -> bool {
        let wanted = self.gateways.want();
        if wanted {
            self.gateways.registry().note_asked(&self.gateway, newest);
        }
        wanted
    }
}

impl Drop for Poll {
    fn drop(&mut self) {
        self.gateways.registry().poll_closed(&self.gateway);
    }
}
