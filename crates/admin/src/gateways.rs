//! Connected gateways: which are live, and which version each enforces.
//!
//! A gateway is (node, process). It is **live** while a poll of it is open or it
//! was heard of within the last 3 s, **lost** after that, and forgotten a day later,
//! or as soon as a newer process of its node has taken over.

mod enforced;
mod registry;
#[cfg(test)]
mod tests;
mod wait;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use prometheus_client::metrics::histogram::Histogram;
use tidegate_policy::version::Version;
use tidegate_policy::wire::formats::Formats;
use tidegate_policy::wire::sync::{Ack, Gateway};
use tokio::sync::watch;

use crate::lock::locked;
use registry::Registry;
pub use wait::{Applied, Goal, Waiter};

/// A gateway without an open poll or another sign of life for longer than this is lost.
pub const LOST_AFTER: Duration = Duration::from_secs(3);
/// A lost gateway is counted for this long.
pub const FORGOTTEN_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// All gateways that this service has heard of. A clone shares the registry.
#[derive(Clone)]
pub struct Gateways(Arc<GatewaysInner>);

struct GatewaysInner {
    registry: Mutex<Registry>,
    /// Seconds from a version to the ack of each gateway.
    enforced: Histogram,
    /// Waiters that have not been answered.
    waiters: AtomicUsize,
    /// Those of them who have waited so long that polls are asked for acks.
    nudging: AtomicUsize,
    /// Moves when an ack, a poll or the epoch may have changed an answer.
    moved: watch::Sender<u64>,
    /// Moves when open polls should be asked for the ack that a waiter misses.
    nudged: watch::Sender<u64>,
}

/// What is known of one gateway.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GatewayStatus {
    /// Who it is.
    pub gateway: Gateway,
    /// What it last said it enforces; `None`: it has not said yet.
    pub ack: Option<Ack>,
    /// Whether it counts as lost.
    pub lost: bool,
    /// Time since this service first heard of it.
    pub known_for: Duration,
    /// Time since it last polled or acked; zero while a poll is open.
    pub silent_for: Duration,
    /// Formats that it does not read as this service writes them: those tables stay as
    /// they are there, so it counts as enforcing nothing.
    pub unread: Vec<&'static str>,
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
            moved: watch::Sender::new(0),
            nudged: watch::Sender::new(0),
        }))
    }

    /// A poll of `gateway` has opened; it closes when the guard is dropped, also
    /// when the client went away and the handler was cancelled.
    #[must_use]
    pub fn poll(&self, gateway: &Gateway) -> Poll {
        if self.registry().poll_opened(gateway) {
            self.note_move();
        }
        Poll { gateways: self.clone(), gateway: gateway.clone() }
    }

    /// `gateway` is about to poll, and says which formats it reads.
    pub fn note_formats(&self, gateway: &Gateway, formats: &Formats) {
        if self.registry().note_formats(gateway, formats) {
            if !formats.unread().is_empty() {
                let unread = formats.unread().join(", ");
                tracing::warn!(%gateway, unread, "a gateway of another version cannot read all tables");
            }
            self.note_move();
        }
    }

    /// `gateway` posted something: it serves, whatever it enforces. It counts from
    /// now on, also when this service started while it waits to poll again.
    pub fn note_post(&self, gateway: &Gateway) {
        if self.registry().note_post(gateway) {
            self.note_move();
        }
    }

    /// `gateway` says what it enforces. What is older than what it said before,
    /// in the same epoch, is a message that was overtaken, and ignored.
    pub fn ack(&self, gateway: &Gateway, ack: Ack) {
        let heard = self.registry().ack(gateway, ack);
        for took in heard.enforced {
            self.0.enforced.observe(took.as_secs_f64());
        }
        if heard.changed {
            self.note_move();
        }
    }

    /// A change made `version`: from now on it counts how late it is enforced.
    pub fn note_version(&self, version: Version) {
        self.registry().note_version(version);
    }

    /// Seconds from each version to the moment at which a gateway said that all its
    /// VMs enforce it; one observation per version and gateway.
    #[must_use]
    pub fn enforced(&self) -> Histogram {
        self.0.enforced.clone()
    }

    /// Age of the oldest version that some gateway that is there does not enforce yet
    /// in all its VMs.
    #[must_use]
    pub fn unenforced(&self) -> Option<Duration> {
        self.registry().unenforced()
    }

    /// Removes `gateway` from the counts; it comes back with its next poll.
    /// Whether it was known.
    pub fn forget(&self, gateway: &Gateway) -> bool {
        let known = self.registry().forget(gateway);
        if known {
            self.note_move();
        }
        known
    }

    /// Whether somebody waits for acks: gateways are told to ack at once.
    #[must_use]
    pub fn want(&self) -> bool {
        self.0.waiters.load(Ordering::Acquire) > 0
    }

    /// Announces that somebody will wait. Taken **before** the change is
    /// committed, so that the very answer that carries the change also says that
    /// an ack is wanted.
    #[must_use]
    pub fn waiter(&self) -> Waiter {
        Waiter::new(self.clone())
    }

    /// Every gateway, by node and process.
    #[must_use]
    pub fn list(&self) -> Vec<GatewayStatus> {
        self.registry().list()
    }

    /// The epoch that acks count in. A new one answers every waiter: what was
    /// numbered before can no longer be proven.
    pub fn set_epoch(&self, epoch: u64) {
        self.registry().set_epoch(epoch);
        self.note_move();
    }

    /// Moves when open polls should look again whether their ack is missed.
    pub(crate) fn nudges(&self) -> watch::Receiver<u64> {
        self.0.nudged.subscribe()
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
    /// Whether the poll should be answered, though nothing changed, because
    /// somebody has waited for a while for this gateway's word on `newest`. Asks
    /// once for each: a gateway that cannot ack yet must not be answered in a
    /// circle.
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
