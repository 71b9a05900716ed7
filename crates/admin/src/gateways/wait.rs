//! Waiting until all gateways enforce a version, or have carried out a refresh.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Serialize;
use tidegate_policy::version::Version;
use tidegate_policy::wire::sync::Ack;
use tokio::time::{Instant, sleep_until, timeout_at};
use utoipa::ToSchema;

use super::Gateways;

/// After this long without the acks that a waiter needs, and [`NUDGE_EACH`] per live gateway, open
/// polls are answered to get them: these are gateways that were answered before the waiter came.
/// Those whose answer asked for an ack are usually quicker.
const NUDGE_AFTER: Duration = Duration::from_millis(20);
/// Thousands of gateways take longer until each has been answered and has acked. A nudge wakes all
/// open polls.
const NUDGE_EACH: Duration = Duration::from_micros(200);

/// What a waiter waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Goal {
    /// The version that gateways must enforce, or a later one.
    pub version: Version,
    /// The refresh that they must have carried out, or a later one; 0: none.
    pub refresh: u64,
}

impl From<Version> for Goal {
    fn from(version: Version) -> Self {
        Self { version, refresh: 0 }
    }
}

impl Goal {
    /// Whether the sender of `ack` has reached the goal.
    #[must_use]
    pub fn is_met(&self, ack: &Ack) -> bool {
        ack.stale == 0 && self.is_known(ack)
    }

    /// Whether `ack` has the goal's version and refresh, with stale VMs or without.
    pub(super) fn is_known(&self, ack: &Ack) -> bool {
        ack.version.covers(&self.version) && ack.refresh >= self.refresh
    }
}

/// How many gateways enforce a version.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, ToSchema)]
pub struct Applied {
    /// Live gateways that enforce it in all VMs that serve requests.
    pub gateways: usize,
    /// Live gateways.
    pub of: usize,
    /// Gateways that were not heard of for over 3 s; what they enforce is unknown.
    pub lost: usize,
    /// The version.
    #[serde(serialize_with = "as_text")]
    #[schema(value_type = String)]
    pub version: Version,
    /// Time from the waiter's announcement to the result.
    #[serde(skip)]
    pub elapsed: Duration,
}

impl Applied {
    /// Whether every live gateway enforces the version.
    #[must_use]
    pub fn all(&self) -> bool {
        self.gateways == self.of
    }
}

fn as_text<S: serde::Serializer>(version: &Version, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(version)
}

/// A wait for acks. While it exists, answers to polls ask for an ack at once.
pub struct Waiter {
    gateways: Gateways,
    since: Instant,
    nudging: bool,
}

impl Waiter {
    pub(super) fn new(gateways: Gateways) -> Self {
        gateways.0.waiters.fetch_add(1, Ordering::AcqRel);
        Self { gateways, since: Instant::now(), nudging: false }
    }

    /// Waits until every live gateway has reached `goal`, at most `within` from now. Returns at
    /// once when there are no gateways, and when the version's epoch is over or ends meanwhile;
    /// always with the counts at that moment.
    pub async fn reached(mut self, goal: impl Into<Goal>, within: Duration) -> Applied {
        let goal = goal.into();
        let began = Instant::now();
        let deadline = began + within;
        let mut moved = self.gateways.0.moved.subscribe();
        loop {
            let live = self.gateways.live_acks();
            let applied = live.applied(&goal);
            if live.is_out_of_reach(&goal) {
                return self.answer(Applied { gateways: 0, ..applied });
            }
            let now = Instant::now();
            if applied.all() || now >= deadline {
                return self.answer(applied);
            }
            let each = NUDGE_EACH * u32::try_from(live.of).unwrap_or(u32::MAX);
            let nudge_at = began + NUDGE_AFTER + each;
            if now >= nudge_at && !self.nudging {
                self.nudge();
            }
            let nudge_at = (!self.nudging).then_some(nudge_at);
            let look = [nudge_at, live.next_loss].into_iter().flatten().fold(deadline, Instant::min);
            // An error would mean that the registry is gone, which `self` holds.
            let _ = timeout_at(look, moved.wait_for(|moves| *moves != live.moves)).await;
            sleep_until(live.used_until().min(deadline)).await;
        }
    }

    fn nudge(&mut self) {
        self.nudging = true;
        self.gateways.0.nudging.fetch_add(1, Ordering::AcqRel);
        self.gateways.0.nudged.send_modify(|n| *n = n.wrapping_add(1));
    }

    fn answer(&self, applied: Applied) -> Applied {
        Applied { elapsed: self.since.elapsed(), ..applied }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.gateways.0.waiters.fetch_sub(1, Ordering::AcqRel);
        if self.nudging {
            self.gateways.0.nudging.fetch_sub(1, Ordering::AcqRel);
        }
    }
}
