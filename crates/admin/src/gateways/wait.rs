//! Waiting until all gateways enforce a version.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Serialize;
use tidegate_policy::wire::sync::Version;
use tokio::time::{Instant, sleep, timeout_at};

use super::Gateways;

/// Polls that were answered before somebody waited are asked for their ack when
/// nothing has been heard for this long: gateways that were told in the answer
/// itself are usually quicker.
const NUDGE_AFTER: Duration = Duration::from_millis(20);
/// A look over all gateways is repeated no sooner than this per gateway: with
/// thousands of them every ack would otherwise cost a look over all.
const LOOK_EVERY: Duration = Duration::from_micros(1);

/// How far a version has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Applied {
    /// Live gateways that enforce it in all VMs that serve requests.
    pub gateways: usize,
    /// Live gateways.
    pub of: usize,
    /// Gateways that have not polled for over 3 s: nobody knows what they enforce.
    pub lost: usize,
    /// Which version.
    #[serde(serialize_with = "as_text")]
    pub version: Version,
    /// From the waiter's announcement to the answer.
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

/// Somebody who waits for acks; as long as it lives, gateways are told to ack at
/// once.
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

    /// Waits until every live gateway enforces `version`, at most `within` from
    /// now. Answers at once when there is no gateway, and when the epoch of
    /// `version` is over or ends meanwhile; always with the numbers as they are.
    pub async fn applied(mut self, version: Version, within: Duration) -> Applied {
        let deadline = Instant::now() + within;
        let nudge_at = Instant::now() + NUDGE_AFTER;
        let mut moved = self.gateways.0.moved.subscribe();
        loop {
            moved.mark_unchanged();
            let count = self.gateways.registry().count(version);
            let Some(count) = count else {
                let applied = self.gateways.registry().count_of_old_epoch(version);
                return self.answer(applied);
            };
            let now = Instant::now();
            if count.applied.all() || now >= deadline {
                return self.answer(count.applied);
            }
            if now >= nudge_at && !self.nudging {
                self.nudge();
            }
            let nudge_at = (!self.nudging).then_some(nudge_at);
            let look = [nudge_at, count.next_loss].into_iter().flatten().fold(deadline, Instant::min);
            // An error would mean that the registry is gone, which `self` holds.
            if timeout_at(look, moved.changed()).await.is_ok() {
                let pause = LOOK_EVERY * u32::try_from(count.applied.of).unwrap_or(u32::MAX);
                if pause >= Duration::from_millis(1) {
                    sleep(pause.min(deadline.saturating_duration_since(Instant::now()))).await;
                }
            }
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
