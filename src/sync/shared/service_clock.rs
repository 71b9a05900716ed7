//! The admin service's clock, by which entries expire, between its answers.

use serde::{Deserialize, Serialize};

/// What the admin service's clock said, and when that was heard. All VMs of a process have the same
/// monotonic clock, so this holds for all of them, and the machine's own wall clock, which may be
/// wrong or set anew, is not asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ServiceClock {
    /// Monotonic clock, nanoseconds; 0: never heard.
    pub heard_ns: u64,
    /// Milliseconds since the Unix epoch.
    pub said_ms: u64,
}

impl ServiceClock {
    /// Milliseconds since the Unix epoch, at `now_ns` of the monotonic clock; `None` if it was
    /// never heard.
    #[must_use]
    pub fn at(&self, now_ns: u64) -> Option<u64> {
        let passed_ms = now_ns.saturating_sub(self.heard_ns) / 1_000_000;
        (self.heard_ns > 0).then(|| self.said_ms.saturating_add(passed_ms))
    }

    /// Of both, what was heard last.
    #[must_use]
    pub fn newer(self, other: Self) -> Self {
        if other.heard_ns > self.heard_ns { other } else { self }
    }
}
