//! A VM's slot in shared data: its id, its last heartbeat, and the version that it
//! enforces.

use serde::{Deserialize, Serialize};
use tidegate_policy::codec::{FormatError, decode, encode};
use tidegate_policy::version::Version;
use tidegate_policy::wire::event::VmId;

use super::keys::{Keys, SLOTS};
use crate::host::{Expect, Host};
use crate::metrics::{Count, Metrics};

const SLOT_FORMAT: u8 = 1;
const MAX_SLOT: usize = 256;

/// After this long without a heartbeat, what a slot says no longer counts.
pub const STALE_NS: u64 = 2_000_000_000;
/// After this long without a heartbeat, a slot may be taken by another VM.
pub const FREE_NS: u64 = 10_000_000_000;

/// A slot's content.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Slot {
    /// The VM.
    pub source: VmId,
    /// Last heartbeat: monotonic clock, nanoseconds.
    pub heartbeat_ns: u64,
    /// It has had a request. Only such slots count in an ack: a VM sets this
    /// **before** it reads the manifest for its first request. If the holder
    /// computed an ack before that, it had published before, so the VM reads that
    /// version or a newer one; if after, the slot is counted. So no request is
    /// decided by older tables than were acked, and acks do not wait for a VM that
    /// never serves (the main thread has one).
    pub serving: bool,
    /// What it enforces; the default while it has no tables.
    pub version: Version,
    /// The refresh that it has carried out.
    pub refresh: u64,
    /// The highest event number that it has given.
    pub numbered_hi: u64,
    /// The VM that had the slot before, and its highest event number: the holder of the
    /// lease reports it as dead, also if it was replaced between two looks of the holder.
    pub before: Option<(VmId, u64)>,
}

impl Slot {
    fn from_bytes(bytes: &[u8]) -> Result<Self, FormatError> {
        decode(SLOT_FORMAT, MAX_SLOT, bytes)
    }

    fn to_bytes(self) -> Result<Vec<u8>, FormatError> {
        encode(SLOT_FORMAT, &self)
    }

    /// Nanoseconds since the last heartbeat.
    #[must_use]
    pub fn age_ns(&self, now_ns: u64) -> u64 {
        now_ns.saturating_sub(self.heartbeat_ns)
    }

    /// Whether it may be taken by another VM.
    #[must_use]
    pub fn is_free(&self, now_ns: u64) -> bool {
        self.age_ns(now_ns) > FREE_NS
    }

    /// Whether its content still counts.
    #[must_use]
    pub fn is_live(&self, now_ns: u64) -> bool {
        self.age_ns(now_ns) <= STALE_NS
    }
}

/// Reads the slot in `index`. One that does not decode may be taken.
fn read<H: Host>(host: &H, keys: &Keys, index: u16) -> Option<(Slot, Expect)> {
    match host.shared_get(&keys.slot(index)) {
        Ok(Some((bytes, cas))) => {
            Some((Slot::from_bytes(&bytes).unwrap_or_default(), Expect::Unchanged(cas)))
        }
        Ok(None) => None,
        Err(_) => None,
    }
}

/// All slots that were ever claimed. They are claimed from the lowest up and
/// never deleted, so the first one missing ends the list.
pub fn all<H: Host>(host: &H, keys: &Keys) -> Vec<(u16, Slot)> {
    (0..SLOTS).map_while(|index| read(host, keys, index).map(|(slot, _)| (index, slot))).collect()
}

/// This VM's own slot.
#[derive(Debug)]
pub struct OwnSlot {
    index: Option<u16>,
    content: Slot,
}

impl OwnSlot {
    /// Not yet claimed.
    #[must_use]
    pub fn new(source: VmId) -> Self {
        Self { index: None, content: Slot { source, ..Slot::default() } }
    }

    /// Which slot it is, once claimed.
    #[must_use]
    pub fn index(&self) -> Option<u16> {
        self.index
    }

    /// Nanoseconds on the monotonic clock when it was last written.
    #[must_use]
    pub fn heartbeat_ns(&self) -> u64 {
        self.content.heartbeat_ns
    }

    /// From the next [`write`](Self::write) on the slot counts in acks.
    pub fn set_serving(&mut self) {
        self.content.serving = true;
    }

    /// Writes that the slot no longer counts in acks. The last write, unless requests
    /// still come.
    pub fn close<H: Host>(&mut self, host: &H, keys: &Keys, metrics: &Metrics<H>) {
        self.content.serving = false;
        if self.index.is_some() {
            self.write(host, keys, metrics);
        }
    }

    /// Notes the highest event number for the next write.
    pub fn note_numbered(&mut self, hi: u64) {
        self.content.numbered_hi = self.content.numbered_hi.max(hi);
    }

    /// Notes what is enforced for the next write.
    pub fn set_enforced(&mut self, version: Version, refresh: u64) {
        self.content.version = version;
        self.content.refresh = refresh;
    }

    /// Writes the slot, and claims one first if there is none or it was lost.
    /// True if it is in shared data now.
    pub fn write<H: Host>(&mut self, host: &H, keys: &Keys, metrics: &Metrics<H>) -> bool {
        self.content.heartbeat_ns = host.monotonic_ns();
        if let Some(index) = self.index {
            if self.renew(host, keys, index) {
                return true;
            }
            self.index = None;
            metrics.count(Count::SlotsLost);
        }
        self.claim(host, keys)
    }

    fn renew<H: Host>(&mut self, host: &H, keys: &Keys, index: u16) -> bool {
        match read(host, keys, index) {
            Some((slot, expect)) if slot.source == self.content.source => {
                self.content.before = slot.before;
                self.put(host, keys, index, expect)
            }
            _ => false,
        }
    }

    fn claim<H: Host>(&mut self, host: &H, keys: &Keys) -> bool {
        let now = self.content.heartbeat_ns;
        for index in 0..SLOTS {
            let expect = match read(host, keys, index) {
                None => {
                    self.content.before = None;
                    Expect::Absent
                }
                Some((slot, expect)) if slot.source == self.content.source => {
                    self.content.before = slot.before;
                    expect
                }
                Some((slot, expect)) if slot.is_free(now) => {
                    self.content.before = before(&slot);
                    expect
                }
                Some(_) => continue,
            };
            if self.put(host, keys, index, expect) {
                self.index = Some(index);
                return true;
            }
        }
        false
    }

    fn put<H: Host>(&self, host: &H, keys: &Keys, index: u16, expect: Expect) -> bool {
        let Ok(bytes) = self.content.to_bytes() else { return false };
        host.shared_set(&keys.slot(index), &bytes, expect).is_ok()
    }
}

/// What is kept of the VM that had the slot. One that never numbered an event need
/// not be reported, but the one before it may have to be.
fn before(slot: &Slot) -> Option<(VmId, u64)> {
    match slot.numbered_hi {
        0 => slot.before,
        hi => Some((slot.source, hi)),
    }
}
