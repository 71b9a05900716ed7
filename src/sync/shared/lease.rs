//! The lease: which VM of the process polls the admin service, publishes tables and
//! drains the events queue.

use serde::{Deserialize, Serialize};
use tidegate_policy::codec::{FormatError, decode, encode};
use tidegate_policy::wire::event::VmId;

use super::keys::Keys;
use super::service_clock::ServiceClock;
use crate::host::{Expect, Host};
use crate::metrics::{Count, Metrics};

const LEASE_FORMAT: u8 = 2;
const MAX_LEASE: usize = 128;

/// How long a lease lasts without being renewed; renewed at every tick.
pub const TERM_NS: u64 = 1_500_000_000;

/// What a VM is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Decides requests, and takes the lease when no VM holds it.
    Gate,
    /// The singleton of the bootstrap: decides nothing, and is preferred as the
    /// holder of the lease.
    Recorder,
}

/// Who holds the lease.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Lease {
    /// The VM.
    pub source: VmId,
    /// Grows by one with each holder; a VM with a lower one stops writing.
    pub fence: u64,
    /// When it ends unless renewed: monotonic clock, nanoseconds.
    pub deadline_ns: u64,
    /// Held by the singleton recorder, from which a worker does not take it.
    pub recorder: bool,
    /// The holder's slot, for waking it.
    pub slot: Option<u16>,
    /// The last answer of the admin service. Kept in the lease so that every VM knows that clock
    /// and the age of its tables, also after the holder changed.
    pub clock: ServiceClock,
}

impl Lease {
    /// Whether the deadline is ahead. One more than twice the term ahead cannot be
    /// right, and counts as past.
    #[must_use]
    pub fn is_alive(&self, now_ns: u64) -> bool {
        let ahead = self.deadline_ns.saturating_sub(now_ns);
        ahead > 0 && ahead <= TERM_NS.saturating_mul(2)
    }
}

/// The lease as this VM last saw it.
#[derive(Debug)]
pub struct LeaseView {
    source: VmId,
    role: Role,
    seen: Option<Lease>,
    /// The fence, while this VM holds it.
    held_fence: Option<u64>,
    /// A fence seen in shared data: the next one taken is above it.
    highest_fence: u64,
}

impl LeaseView {
    /// Not yet looked at.
    #[must_use]
    pub fn new(source: VmId, role: Role) -> Self {
        Self { source, role, seen: None, held_fence: None, highest_fence: 0 }
    }

    /// What this VM is.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// The fence, while this VM holds the lease.
    #[must_use]
    pub fn fence(&self) -> Option<u64> {
        self.held_fence
    }

    /// Whether some VM held it, when last looked at.
    #[must_use]
    pub fn is_alive(&self, now_ns: u64) -> bool {
        self.seen.is_some_and(|lease| lease.is_alive(now_ns))
    }

    /// The lease as last seen.
    #[must_use]
    pub fn seen(&self) -> Option<&Lease> {
        self.seen.as_ref()
    }

    /// Gives it up without a write: shared data has a higher fence.
    pub fn lose_to(&mut self, fence: u64) {
        self.held_fence = None;
        self.highest_fence = self.highest_fence.max(fence);
    }

    /// Ends the lease, if this VM holds it: the next tick of any VM takes it.
    pub fn give_up<H: Host>(&mut self, host: &H, keys: &Keys) {
        let Some(fence) = self.held_fence.take() else { return };
        let key = keys.lease();
        if let Ok(Some((bytes, cas))) = host.shared_get(&key)
            && let Ok(lease) = read(&bytes)
            && (lease.source, lease.fence) == (self.source, fence)
        {
            write(host, &key, &Lease { deadline_ns: 0, ..lease }, Expect::Unchanged(cas));
            self.seen = None;
        }
    }

    /// Renews the lease, or takes it when no VM holds it. The recorder takes it from a
    /// worker: it has no requests to decide beside that work.
    pub fn tick<H: Host>(
        &mut self,
        host: &H,
        keys: &Keys,
        metrics: &Metrics<H>,
        slot: Option<u16>,
        clock: ServiceClock,
    ) {
        let now = host.monotonic_ns();
        let key = keys.lease();
        let (found, expect) = match host.shared_get(&key) {
            Ok(Some((bytes, cas))) => (read(&bytes).ok(), Expect::Unchanged(cas)),
            Ok(None) => (None, Expect::Absent),
            Err(_) => return,
        };
        self.seen = found;
        let current = found.map_or(0, |lease| lease.fence);
        let next = Lease {
            source: self.source,
            fence: current,
            deadline_ns: now.saturating_add(TERM_NS),
            recorder: self.role == Role::Recorder,
            slot,
            clock: found.map_or(clock, |lease| clock.newer(lease.clock)),
        };
        match found {
            Some(lease) if lease.source == self.source && self.held_fence == Some(lease.fence) => {
                if !write(host, &key, &next, expect) {
                    self.held_fence = None;
                    return;
                }
            }
            Some(lease) if lease.is_alive(now) && !self.takes_over(&lease) => {
                self.held_fence = None;
                return;
            }
            _ => {
                self.held_fence = None;
                let fence = current.max(self.highest_fence).saturating_add(1);
                if !write(host, &key, &Lease { fence, ..next }, expect) {
                    return;
                }
                self.held_fence = Some(fence);
                metrics.count(Count::Leases);
                self.seen = Some(Lease { fence, ..next });
                return;
            }
        }
        self.seen = Some(next);
    }

    /// Whether this VM takes `lease` although it is alive: from a worker if this
    /// is the recorder; from itself, when shared data has a higher fence.
    fn takes_over(&self, lease: &Lease) -> bool {
        lease.source == self.source || (self.role == Role::Recorder && !lease.recorder)
    }
}

fn read(bytes: &[u8]) -> Result<Lease, FormatError> {
    decode(LEASE_FORMAT, MAX_LEASE, bytes)
}

fn write<H: Host>(host: &H, key: &str, lease: &Lease, expect: Expect) -> bool {
    let Ok(bytes) = encode(LEASE_FORMAT, lease) else { return false };
    host.shared_set(key, &bytes, expect).is_ok()
}
