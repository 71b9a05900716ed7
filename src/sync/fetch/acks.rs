//! The version that all VMs of the process enforce, from their slots.

use tidegate_policy::version::Version;
use tidegate_policy::wire::sync::Ack;

use crate::sync::shared::slots::Slot;
use crate::sync::snapshot::Snapshot;

/// The ack of this gateway, which never goes back within an epoch.
#[derive(Debug, Default)]
pub struct Acks {
    current: Ack,
    accepted: Option<Ack>,
    /// The admin service waits for an ack of this version and refresh.
    wanted: Option<(Version, u64)>,
}

impl Acks {
    /// The ack, as last computed.
    #[must_use]
    pub fn current(&self) -> Ack {
        self.current
    }

    /// The admin service waits for an ack that `version` is enforced and `refresh`
    /// carried out.
    pub fn note_wanted(&mut self, version: Version, refresh: u64) {
        self.wanted = Some((version, refresh));
    }

    fn is_wanted(&self, ack: &Ack) -> bool {
        self.wanted.is_some_and(|(version, refresh)| ack.version.covers(&version) && ack.refresh >= refresh)
    }

    /// The ack that should be posted, if any.
    #[must_use]
    pub fn due(&self) -> Option<Ack> {
        (self.is_wanted(&self.current) && self.accepted != Some(self.current)).then_some(self.current)
    }

    /// The admin service took `ack`.
    pub fn accepted(&mut self, ack: Ack) {
        self.accepted = Some(ack);
        // With a stale VM the version does not count as applied: more acks must follow.
        if ack.stale == 0 && self.is_wanted(&ack) {
            self.wanted = None;
        }
    }

    /// Computes the ack from the slots anew, for a holder that enforces `own`. A VM
    /// that has claimed its slot and loaded nothing yet has version 0 there; it cannot
    /// have decided a request by older tables than were acked before (see
    /// [`Slot::serving`]), so the ack does not go back.
    pub fn update(&mut self, slots: &[(u16, Slot)], own: &Snapshot, now_ns: u64) {
        let serving = || slots.iter().map(|(_, slot)| slot).filter(|slot| slot.serving);
        let live = || serving().filter(|slot| slot.is_live(now_ns));
        let stale = serving().filter(|slot| !slot.is_live(now_ns) && !slot.is_free(now_ns));
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        (self.current.live, self.current.stale) = (number(live().count()), number(stale.count()));
        let target = own.tables.version;
        if live().any(|slot| slot.version.epoch != target.epoch) {
            return;
        }
        let seq = live().map(|slot| slot.version.seq).min().unwrap_or(target.seq).min(target.seq);
        let refresh = live().map(|slot| slot.refresh).min().unwrap_or(own.refresh).min(own.refresh);
        let version = Version { seq, ..target };
        if self.current.version.epoch != target.epoch {
            (self.current.version, self.current.refresh) = (version, refresh);
        } else if version.covers(&self.current.version) {
            self.current.version = version;
            self.current.refresh = self.current.refresh.max(refresh);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use tidegate_policy::decide::Tables;
    use tidegate_policy::tables::{PerTable, TableSet};

    use super::*;
    use crate::sync::shared::service_clock::ServiceClock;

    fn own(seq: u64) -> Snapshot {
        let tables = Tables::new(Version { epoch: 1, seq }, TableSet::empty());
        let blobs = PerTable::default();
        Snapshot { refresh: 0, clock: ServiceClock::default(), blobs, tables: Rc::new(tables) }
    }

    fn slot(seq: u64, heartbeat_s: u64, serving: bool) -> (u16, Slot) {
        let version = Version { epoch: 1, seq };
        let heartbeat_ns = heartbeat_s * 1_000_000_000;
        (0, Slot { serving, version, heartbeat_ns, ..Slot::default() })
    }

    #[test]
    fn the_slowest_live_vm_that_serves_decides() {
        let mut acks = Acks::default();
        let now = 20_000_000_000;
        acks.update(&[slot(7, 20, true), slot(9, 20, true), slot(0, 20, false)], &own(9), now);
        assert_eq!(
            acks.current(),
            Ack { version: Version { epoch: 1, seq: 7 }, refresh: 0, live: 2, stale: 0 }
        );
        acks.note_wanted(Version { epoch: 1, seq: 9 }, 0);
        assert_eq!(acks.due(), None);
        acks.update(&[slot(7, 15, true), slot(9, 20, true), slot(1, 5, true)], &own(9), now);
        assert_eq!(
            acks.current(),
            Ack { version: Version { epoch: 1, seq: 9 }, refresh: 0, live: 1, stale: 1 }
        );
        let due = acks.due().unwrap();
        acks.accepted(due);
        assert_eq!(acks.due(), None, "not twice");
        acks.update(&[slot(9, 20, true), slot(9, 20, true)], &own(9), now);
        assert_eq!(acks.due().map(|ack| ack.stale), Some(0), "the stale one came back");
    }

    #[test]
    fn a_new_vm_does_not_take_an_ack_back_and_an_old_epoch_holds_it_up() {
        let mut acks = Acks::default();
        let now = 1_000_000_000;
        acks.update(&[], &own(9), now);
        assert_eq!(acks.current().version.seq, 9, "nobody serves: nothing could decide by older tables");
        acks.update(&[slot(0, 1, true)], &own(9), now);
        assert_eq!(acks.current().version.seq, 9);
        let old = Slot { serving: true, heartbeat_ns: now, ..Slot::default() };
        acks.update(&[(0, old)], &own(12), now);
        assert_eq!(acks.current().version.seq, 9);
    }
}
