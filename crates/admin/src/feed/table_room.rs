//! Which entries of a table of addresses fit into it. A table has a limit of bytes; entries
//! beyond it have no effect, which is this table's own trouble: all others are laid out and sent
//! as ever.
//!
//! Those that came first are in. An entry that is in stays in, whatever comes; one that does not
//! fit waits, and the first of those that wait comes in when another leaves. When all rows are
//! read at once, at the start of the service, "first" goes by their times.

use imbl::{OrdMap, OrdSet};
use tidegate_policy::UnixSeconds;
use tidegate_policy::address::Prefix;
use tidegate_policy::table::AddressTable;

use super::clock::Millis;
use super::ip_rows::{ParsedRow, RowStatus};

/// When an entry came, milliseconds since 1970; `i64::MAX` if its rows do not say.
pub(super) type Arrival = i64;

/// Until when an entry holds; `None`: it does not expire.
type End = Option<UnixSeconds>;

/// The part of a table that the API leaves free, `1 / FREE` of its limit: what is being
/// committed at this moment must fit as well.
const FREE: usize = 1_024;

/// Entries of one table that are in, and those that wait.
#[derive(Clone)]
pub(super) struct TableRoom {
    /// Bytes of the table, at most.
    limit: usize,
    v4: usize,
    v6: usize,
    waiting: OrdSet<(Arrival, Prefix)>,
    /// Of those that wait.
    arrivals: OrdMap<Prefix, Arrival>,
}

impl TableRoom {
    /// An empty table of at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { limit, v4: 0, v6: 0, waiting: OrdSet::new(), arrivals: OrdMap::new() }
    }

    /// Notes what the rows of `prefix` said about it `before` and say `after` a change; `None`:
    /// nothing. Returns what was in force before, and is after it.
    pub fn change(
        &mut self,
        prefix: Prefix,
        before: Option<End>,
        after: Option<End>,
        arrival: Arrival,
    ) -> (Option<End>, Option<End>) {
        let was = before.filter(|_| !self.is_left_out(&prefix));
        let is = match (was, after) {
            (Some(_), Some(end)) => Some(end),
            (Some(_), None) => {
                self.count(&prefix, |entries| entries.saturating_sub(1));
                None
            }
            (None, after) => {
                self.forget(&prefix);
                after.filter(|_| self.enter(prefix, arrival))
            }
        };
        (was, is)
    }

    /// Takes in the first entry that waits, if it fits.
    pub fn next(&mut self) -> Option<Prefix> {
        let (_, prefix) = *self.waiting.get_min()?;
        if !self.has_room(&prefix, 0) {
            return None;
        }
        self.forget(&prefix);
        self.count(&prefix, |entries| entries.saturating_add(1));
        Some(prefix)
    }

    /// Entries that are in.
    pub fn len(&self) -> usize {
        self.v4.saturating_add(self.v6)
    }

    /// Whether that many more entries fit, whichever they are.
    pub fn has_room_for(&self, entries: usize) -> bool {
        self.waiting.is_empty()
            && AddressTable::most_bytes(self.v4, self.v6.saturating_add(entries)) <= self.limit
    }

    /// Whether the API may add `prefix`.
    pub fn may_be_added(&self, prefix: &Prefix) -> bool {
        self.waiting.is_empty() && self.has_room(prefix, self.limit / FREE)
    }

    /// Whether `prefix` has no effect because it does not fit.
    pub fn is_left_out(&self, prefix: &Prefix) -> bool {
        !self.arrivals.is_empty() && self.arrivals.contains_key(prefix)
    }

    /// The entries that do not fit, by when they came.
    pub fn left_out(&self) -> impl ExactSizeIterator<Item = Prefix> + '_ {
        self.waiting.iter().map(|(_, prefix)| *prefix)
    }

    /// Takes `prefix` in, or lets it wait.
    fn enter(&mut self, prefix: Prefix, arrival: Arrival) -> bool {
        if self.waiting.is_empty() && self.has_room(&prefix, 0) {
            self.count(&prefix, |entries| entries.saturating_add(1));
            return true;
        }
        self.waiting.insert((arrival, prefix));
        self.arrivals.insert(prefix, arrival);
        false
    }

    fn forget(&mut self, prefix: &Prefix) {
        if self.is_left_out(prefix)
            && let Some(arrival) = self.arrivals.remove(prefix)
        {
            self.waiting.remove(&(arrival, *prefix));
        }
    }

    fn has_room(&self, prefix: &Prefix, free: usize) -> bool {
        let (v4, v6) = match prefix.as_v4() {
            Some(_) => (self.v4.saturating_add(1), self.v6),
            None => (self.v4, self.v6.saturating_add(1)),
        };
        AddressTable::most_bytes(v4, v6).saturating_add(free) <= self.limit
    }

    fn count(&mut self, prefix: &Prefix, change: impl Fn(usize) -> usize) {
        let entries = if prefix.as_v4().is_some() { &mut self.v4 } else { &mut self.v6 };
        *entries = change(*entries);
    }
}

/// When the first of `rows` with `status` came; before all others if there is none.
pub(super) fn arrival(rows: &[ParsedRow], status: RowStatus) -> Arrival {
    let times = rows.iter().filter(|row| row.status == status);
    let times = times.map(|row| row.created.or(row.updated).map_or(Arrival::MAX, Millis::get));
    times.min().unwrap_or(Arrival::MIN)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    /// Room for 4 IPv4 entries; one of IPv6 takes a little more than the place of two.
    fn limit() -> usize {
        AddressTable::most_bytes(4, 0)
    }

    fn prefix(n: u8) -> Prefix {
        match n {
            0..8 => Prefix::host([192, 0, 2, n].into()),
            _ => Prefix::host([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(n)].into()),
        }
    }

    /// What the room should do, entry by entry.
    #[derive(Default)]
    struct Naive {
        inside: BTreeSet<u8>,
        waiting: BTreeMap<u8, Arrival>,
    }

    impl Naive {
        fn fits(&self, n: u8) -> bool {
            let v6 = self.inside.iter().chain([&n]).filter(|n| **n >= 8).count();
            AddressTable::most_bytes(self.inside.len() + 1 - v6, v6) <= limit()
        }

        fn change(&mut self, n: u8, there: bool, arrival: Arrival) {
            self.waiting.remove(&n);
            match there {
                false => drop(self.inside.remove(&n)),
                true if self.inside.contains(&n) => {}
                true if self.waiting.is_empty() && self.fits(n) => drop(self.inside.insert(n)),
                true => drop(self.waiting.insert(n, arrival)),
            }
        }

        fn let_in(&mut self) {
            while let Some((&n, _)) = self.waiting.iter().min_by_key(|(n, at)| (**at, prefix(**n))) {
                if !self.fits(n) {
                    break;
                }
                self.waiting.remove(&n);
                self.inside.insert(n);
            }
        }
    }

    proptest! {
        #[test]
        fn those_that_came_first_are_in(
            steps in prop::collection::vec(
                (prop::collection::vec((0..12u8, any::<bool>(), 0..5i64), 1..4), any::<bool>()), 1..40,
            ),
        ) {
            let (mut room, mut naive) = (TableRoom::new(limit()), Naive::default());
            let mut rows = BTreeMap::new();
            for (batch, ends) in steps {
                for (n, there, arrival) in batch {
                    let end = ends.then_some(9);
                    let before = rows.get(&n).copied();
                    let after = there.then_some(end);
                    let (was, is) = room.change(prefix(n), before, after, arrival);
                    prop_assert_eq!(was, before.filter(|_| naive.inside.contains(&n)));
                    naive.change(n, there, arrival);
                    prop_assert_eq!(is, after.filter(|_| naive.inside.contains(&n)));
                    rows.remove(&n);
                    rows.extend(after.map(|end| (n, end)));
                }
                while let Some(came) = room.next() {
                    prop_assert!(rows.keys().any(|n| prefix(*n) == came));
                }
                naive.let_in();
                for n in 0..12 {
                    prop_assert_eq!(room.is_left_out(&prefix(n)), naive.waiting.contains_key(&n));
                }
                prop_assert_eq!(room.left_out().len(), naive.waiting.len());
                prop_assert_eq!(room.v4 + room.v6, naive.inside.len());
                prop_assert!(AddressTable::most_bytes(room.v4, room.v6) <= limit());
            }
        }
    }
}
