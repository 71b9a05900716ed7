//! Merging changes into an address table, in steps: count the result's entries, then
//! write each to its final place.

use crate::codec::FormatError;
use crate::table::EntryState;
use crate::table::{AddressTable, Entry, Shape, Writer};

/// What becomes of changes to [`EntryState::Absent`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Tombstones {
    /// They become entries: the result is an overlay.
    Keep,
    /// They only remove entries: the result is a base.
    Drop,
}

/// Changes in order, each prefix once.
pub(super) trait Changes {
    /// The `i`-th change.
    fn change(&self, i: usize) -> Option<Entry>;
}

impl Changes for AddressTable {
    fn change(&self, i: usize) -> Option<Entry> {
        self.entry(i)
    }
}

impl Changes for Vec<Entry> {
    fn change(&self, i: usize) -> Option<Entry> {
        self.get(i).copied()
    }
}

/// A merge under way.
pub(super) struct Merge<C> {
    under: AddressTable,
    over: C,
    tombstones: Tombstones,
    /// Entries of the result, as far as they are counted.
    shape: Shape,
    /// Entries of `over` that are counted.
    counted: usize,
    /// Present once all are counted.
    writer: Option<Writer>,
    /// Entries of `under` and of `over` that are written or skipped.
    taken: (usize, usize),
    /// The result was returned.
    ended: bool,
}

impl<C: Changes> Merge<C> {
    /// Begins to merge: for a prefix that both have, `over` counts. Entries of `under`
    /// that are absent stay so.
    pub(super) fn new(under: AddressTable, over: C, tombstones: Tombstones) -> Self {
        let shape = under.shape();
        Self { under, over, tombstones, shape, counted: 0, writer: None, taken: (0, 0), ended: false }
    }

    /// Takes up to `entries` more (at least one); the bytes once all are in.
    ///
    /// # Errors
    /// When the result would be too large, or was handed out already.
    pub(super) fn step(&mut self, entries: usize) -> Result<Option<Vec<u8>>, FormatError> {
        if self.ended {
            return Err(FormatError::Malformed("the merge has ended"));
        }
        for _ in 0..entries.max(1) {
            if !(self.count() || self.write()?) {
                self.ended = true;
                return self.writer.take().map(Writer::finish).transpose();
            }
        }
        Ok(None)
    }

    fn keeps(&self, change: &Entry) -> bool {
        change.state != EntryState::Absent || self.tombstones == Tombstones::Keep
    }

    /// Counts one change; false if none was left.
    fn count(&mut self) -> bool {
        let Some(change) = self.over.change(self.counted) else { return false };
        if let Some(state) = self.under.get(&change.prefix) {
            self.shape.remove(&Entry { prefix: change.prefix, state });
        }
        if self.keeps(&change) {
            self.shape.insert(&change);
        }
        self.counted = self.counted.saturating_add(1);
        true
    }

    /// Writes one entry, or skips one that is removed; false if none was left.
    fn write(&mut self) -> Result<bool, FormatError> {
        let (under, over) = self.taken;
        let (below, change) = (self.under.entry(under), self.over.change(over));
        let (below_taken, change_taken) = match (&below, &change) {
            (None, None) => (false, false),
            (Some(_), None) => (true, false),
            (None, Some(_)) => (false, true),
            (Some(below), Some(change)) => (below.prefix <= change.prefix, change.prefix <= below.prefix),
        };
        let entry = if change_taken { change.filter(|change| self.keeps(change)) } else { below };
        let writer = match &mut self.writer {
            Some(writer) => writer,
            none => none.insert(Writer::new(self.shape)?),
        };
        if let Some(entry) = entry {
            writer.push(&entry)?;
        }
        self.taken =
            (under.saturating_add(usize::from(below_taken)), over.saturating_add(usize::from(change_taken)));
        Ok(below_taken || change_taken)
    }
}
