//! The ban table, in three levels: an immutable base, an overlay with the changes since, and the
//! recent ones of these in a level of their own. So one ban among a million is sent as a few bytes,
//! and only the recent level, which has at most some thousand entries, is written and loaded anew.
//! It is folded into the overlay when it has grown, and the overlay into a new base.

mod merge;

#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::IpAddr;

use crate::UnixSeconds;
use crate::address::Prefix;
use crate::codec::FormatError;
use crate::digest::{BlobHash, BlobHasher, SetDigest};
use crate::table::EntryState;
use crate::table::{AddressTable, Entry, entry_bytes};
use merge::{Merge, Tombstones};

/// Entries of the recent level, at least, before it is folded into the overlay.
const RECENT_MIN: usize = if cfg!(test) { 8 } else { 512 };
/// It is folded when it has more entries than this part of the overlay, too: a change costs what
/// the recent level has, and its share of a fold what the overlay has.
const RECENT_DIVISOR: usize = 64;

/// Base, overlay and recent changes, searched together: an entry of a later level replaces
/// those of the earlier ones for the same prefix. A clone shares the bytes of all.
#[derive(Clone)]
pub struct BanTable {
    base: AddressTable,
    overlay: AddressTable,
    recent: AddressTable,
    /// Of base and overlay together.
    settled: SetDigest,
    /// Of all levels together.
    digest: SetDigest,
}

/// The ban that covers an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ban {
    /// The longest prefix that covers it and has not expired.
    pub prefix: Prefix,
    /// When that entry ends.
    pub expires: Option<UnixSeconds>,
}

impl BanTable {
    /// Joins `base` and `overlay`. Takes time in proportion to the overlay: see
    /// [`JoinDigest`] for doing it in steps.
    #[must_use]
    pub fn new(base: AddressTable, overlay: AddressTable) -> Self {
        JoinDigest::new(base, overlay, AddressTable::empty()).finish()
    }

    /// The table with `changes`, in one go; see [`ApplyChanges`] and [`FoldRecent`] for doing it
    /// in steps. Takes time in proportion to the recent level, and seldom to the overlay.
    ///
    /// # Errors
    /// When the result would be too large.
    pub fn with_changes(&self, changes: &[Entry]) -> Result<Self, FormatError> {
        let recent = AddressTable::from_bytes(apply(&self.recent, changes)?)?;
        if is_recent(&recent, &self.overlay) {
            return Ok(JoinDigest::with_recent(self, recent).finish());
        }
        let mut fold = FoldRecent::new(&self.overlay, &recent);
        loop {
            if let Some(bytes) = fold.step(usize::MAX)? {
                return Ok(Self::new(self.base.clone(), AddressTable::from_bytes(bytes)?));
            }
        }
    }

    /// A table without bans.
    #[must_use]
    pub fn empty() -> Self {
        Self::new(AddressTable::empty(), AddressTable::empty())
    }

    /// The immutable base.
    #[must_use]
    pub fn base(&self) -> &AddressTable {
        &self.base
    }

    /// The changes since the base was made, without the recent ones.
    #[must_use]
    pub fn overlay(&self) -> &AddressTable {
        &self.overlay
    }

    /// The changes since the overlay was made.
    #[must_use]
    pub fn recent(&self) -> &AddressTable {
        &self.recent
    }

    /// The ban with the longest prefix that covers `address` and has not expired. `now`
    /// is called at most once, and only if an entry with an expiry covers the address.
    pub fn covering(&self, address: IpAddr, now: impl FnOnce() -> UnixSeconds) -> Option<Ban> {
        let mut clock = Clock { read: Some(now), now: 0 };
        let levels = [&self.recent, &self.overlay, &self.base];
        let mut levels = levels.map(|level| level.covering(address).peekable());
        loop {
            // All cover the address, so equal length is the same prefix: the latest level's counts.
            let longest = levels.iter_mut().filter_map(|level| Some(level.peek()?.prefix.len())).max()?;
            let mut entry = None;
            for level in &mut levels {
                let same = level.next_if(|next| next.prefix.len() == longest);
                entry = entry.or(same);
            }
            let entry = entry?;
            if let EntryState::Present(expires) = entry.state
                && entry.is_in_force(|| clock.now())
            {
                return Some(Ban { prefix: entry.prefix, expires });
            }
        }
    }

    /// The entry for exactly this prefix, expired or not.
    #[must_use]
    pub fn get(&self, prefix: &Prefix) -> Option<EntryState> {
        let state = self.recent.get(prefix).or_else(|| self.settled_state(prefix));
        state.filter(|state| *state != EntryState::Absent)
    }

    /// What base and overlay say of this prefix.
    fn settled_state(&self, prefix: &Prefix) -> Option<EntryState> {
        self.overlay.get(prefix).or_else(|| self.base.get(prefix))
    }

    /// The digest of all levels together. Known already: not computed here.
    #[must_use]
    pub fn digest(&self) -> SetDigest {
        self.digest
    }
}

/// A clock that is read once.
struct Clock<F> {
    read: Option<F>,
    now: UnixSeconds,
}

impl<F: FnOnce() -> UnixSeconds> Clock<F> {
    fn now(&mut self) -> UnixSeconds {
        if let Some(read) = self.read.take() {
            self.now = read();
        }
        self.now
    }
}

/// Whether `recent` is so small that it stays a level of its own over `overlay`.
#[must_use]
pub fn is_recent(recent: &AddressTable, overlay: &AddressTable) -> bool {
    recent.len() <= most_recent(overlay)
}

/// Whether `recent` has grown so far that it is folded before anything else.
#[must_use]
pub fn is_overgrown(recent: &AddressTable, overlay: &AddressTable) -> bool {
    recent.len() > most_recent(overlay).saturating_mul(4)
}

fn most_recent(overlay: &AddressTable) -> usize {
    overlay.len().checked_div(RECENT_DIVISOR).unwrap_or_default().max(RECENT_MIN)
}

/// Joins the levels in steps: computes the digest of all together.
pub struct JoinDigest {
    table: BanTable,
    /// The overlay is joined.
    is_settled: bool,
    /// Entries of the level that is joined now that are in the digest.
    joined: usize,
}

impl JoinDigest {
    /// Begins.
    #[must_use]
    pub fn new(base: AddressTable, overlay: AddressTable, recent: AddressTable) -> Self {
        let digest = base.digest();
        let table = BanTable { base, overlay, recent, settled: digest, digest };
        Self { table, is_settled: false, joined: 0 }
    }

    /// Begins to join `recent`, in place of that level of `table`, to base and overlay, which are
    /// joined there.
    #[must_use]
    pub fn with_recent(table: &BanTable, recent: AddressTable) -> Self {
        let table = BanTable { recent, digest: table.settled, ..table.clone() };
        Self { table, is_settled: true, joined: 0 }
    }

    /// Takes up to `entries` more of overlay and recent level (at least one); the table
    /// once all are in.
    pub fn step(&mut self, entries: usize) -> Option<BanTable> {
        (0..entries.max(1)).any(|_| self.advance()).then(|| self.table.clone())
    }

    /// Takes all that is left.
    #[must_use]
    pub fn finish(mut self) -> BanTable {
        while !self.advance() {}
        self.table
    }

    /// Takes one entry; true if none was left.
    fn advance(&mut self) -> bool {
        let table = &mut self.table;
        let level = if self.is_settled { &table.recent } else { &table.overlay };
        let Some(Entry { prefix, state }) = level.entry(self.joined) else {
            if self.is_settled {
                return true;
            }
            (self.is_settled, self.joined, table.settled) = (true, 0, table.digest);
            return false;
        };
        let below = if self.is_settled { table.settled_state(&prefix) } else { table.base.get(&prefix) };
        if let Some(EntryState::Present(expires)) = below {
            table.digest.remove(&entry_bytes(&prefix, expires));
        }
        if let EntryState::Present(expires) = state {
            table.digest.insert(&entry_bytes(&prefix, expires));
        }
        self.joined = self.joined.saturating_add(1);
        false
    }
}

/// `overlay` with `changes` applied, as the bytes of a new overlay table, in one
/// go; see [`ApplyChanges`].
///
/// # Errors
/// When the result would be too large.
pub fn apply(overlay: &AddressTable, changes: &[Entry]) -> Result<Vec<u8>, FormatError> {
    let mut apply = ApplyChanges::new(overlay, changes);
    loop {
        if let Some(bytes) = apply.step(usize::MAX)? {
            return Ok(bytes);
        }
    }
}

/// Applies changes to an overlay, in steps. Of several changes to one prefix the
/// last counts. An absent entry is kept, whether or not a base has the prefix: the
/// overlay does not depend on a base.
pub struct ApplyChanges(Merge<Vec<Entry>>);

impl ApplyChanges {
    /// Begins. Changes that are not sorted by prefix are sorted first, in one go: that
    /// takes long if there are many.
    #[must_use]
    pub fn new(overlay: &AddressTable, changes: &[Entry]) -> Self {
        let sorted = if changes.is_sorted_by(|one, next| one.prefix < next.prefix) {
            changes.to_vec()
        } else {
            in_order(changes).copied().collect()
        };
        Self(Merge::new(overlay.clone(), sorted, Tombstones::Keep))
    }

    /// Takes up to `entries` more (at least one), where every entry of the overlay
    /// counts once and every change twice; the new overlay's bytes once all are in.
    ///
    /// # Errors
    /// When the result would be too large, or was handed out already.
    pub fn step(&mut self, entries: usize) -> Result<Option<Vec<u8>>, FormatError> {
        self.0.step(entries)
    }
}

/// Folds recent changes into the overlay, in steps. An absent entry is kept, whether or not a
/// base has the prefix.
pub struct FoldRecent(Merge<AddressTable>);

impl FoldRecent {
    /// Begins.
    #[must_use]
    pub fn new(overlay: &AddressTable, recent: &AddressTable) -> Self {
        Self(Merge::new(overlay.clone(), recent.clone(), Tombstones::Keep))
    }

    /// Takes up to `entries` more (at least one), where every entry of the overlay counts once
    /// and every recent one twice; the new overlay's bytes once all are in.
    ///
    /// # Errors
    /// When the result would be too large, or was handed out already.
    pub fn step(&mut self, entries: usize) -> Result<Option<Vec<u8>>, FormatError> {
        self.0.step(entries)
    }
}

/// The changes sorted by prefix; of several to one prefix the last. With a heap, whose
/// code is smaller than a sort's: it is needed only if the sender did not sort.
fn in_order(changes: &[Entry]) -> impl Iterator<Item = &Entry> {
    let places = changes.iter().enumerate().map(|(place, change)| (change.prefix, Reverse(place)));
    let mut places = places.collect::<BinaryHeap<_>>().into_sorted_vec();
    places.dedup_by_key(|(prefix, _)| *prefix);
    places.into_iter().filter_map(|(_, Reverse(place))| changes.get(place))
}

/// Bytes that are hashed in about the time that an entry takes.
const HASHED_PER_ENTRY: usize = 32;

/// Folds base and overlay into a new base, in steps. Equal entries give equal bytes,
/// whatever base and overlay they came from: those of [`AddressTable::encode`].
pub struct FoldBase {
    merge: Merge<AddressTable>,
    merged: Vec<u8>,
    hashed: usize,
    hasher: BlobHasher,
}

impl FoldBase {
    /// Begins to fold `overlay` into `base`. Recent changes must be folded into `overlay` before:
    /// see [`FoldRecent`].
    #[must_use]
    pub fn new(base: &AddressTable, overlay: &AddressTable) -> Self {
        Self {
            merge: Merge::new(base.clone(), overlay.clone(), Tombstones::Drop),
            merged: Vec::new(),
            hashed: 0,
            hasher: BlobHasher::default(),
        }
    }

    /// Takes up to `entries` more (at least one); the new base's bytes and hash
    /// once all are in. Every entry of both tables counts once, changes twice, and so
    /// does every 32 bytes that are hashed; beyond that a step at most allocates
    /// the result.
    ///
    /// # Errors
    /// When the result would be too large, or was handed out already.
    pub fn step(&mut self, entries: usize) -> Result<Option<(Vec<u8>, BlobHash)>, FormatError> {
        if self.merged.is_empty() {
            if let Some(bytes) = self.merge.step(entries)? {
                self.merged = bytes;
            }
            return Ok(None);
        }
        let rest = self.merged.get(self.hashed..).unwrap_or_default();
        let budget = entries.max(1).saturating_mul(HASHED_PER_ENTRY);
        let piece = rest.get(..budget).unwrap_or(rest);
        self.hasher.update(piece);
        self.hashed = self.hashed.saturating_add(piece.len());
        if self.hashed < self.merged.len() {
            return Ok(None);
        }
        Ok(Some((std::mem::take(&mut self.merged), self.hasher.finish())))
    }
}
