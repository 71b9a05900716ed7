//! What all live gateways have acked, taken at one moment and shared by all waiters.

use std::time::Duration;

use tidegate_policy::wire::sync::Ack;
use tokio::time::Instant;

use super::{Applied, Goal};

/// How long it is used, per live gateway. With thousands of gateways every ack would otherwise make every waiter look at
/// all of them.
const USED_EACH: Duration = Duration::from_micros(8);
/// If that comes to less, it is used once: a waiter learns of each ack at once.
const LEAST_USED: Duration = Duration::from_millis(1);

/// The acks of the live gateways.
pub(super) struct LiveAcks {
    /// When they were taken.
    pub(super) at: Instant,
    /// How often something had changed by then.
    pub(super) moves: u64,
    /// The epoch that acks count in.
    pub(super) epoch: u64,
    /// Those that hold for all VMs of their gateway.
    pub(super) acks: Vec<Ack>,
    /// Live gateways.
    pub(super) of: usize,
    /// Lost ones.
    pub(super) lost: usize,
    /// When these numbers may change without a message.
    pub(super) next_loss: Option<Instant>,
}

impl LiveAcks {
    /// None yet, at this moment.
    pub(super) fn new(at: Instant, moves: u64, epoch: u64) -> Self {
        Self { at, moves, epoch, acks: Vec::new(), of: 0, lost: 0, next_loss: None }
    }

    /// Until when they are used; with few gateways they are out of date at once.
    pub(super) fn used_until(&self) -> Instant {
        let used = USED_EACH * u32::try_from(self.of).unwrap_or(u32::MAX);
        if used < LEAST_USED { self.at } else { self.at + used }
    }

    /// How many gateways have reached `goal`.
    pub(super) fn applied(&self, goal: &Goal) -> Applied {
        Applied {
            gateways: self.acks.iter().filter(|ack| goal.is_met(ack)).count(),
            of: self.of,
            lost: self.lost,
            version: goal.version,
            elapsed: Duration::ZERO,
        }
    }

    /// Whether `goal` will not be reached any more: its epoch is over, and there are live gateways.
    pub(super) fn is_out_of_reach(&self, goal: &Goal) -> bool {
        self.epoch != goal.version.epoch && self.of > 0
    }
}
