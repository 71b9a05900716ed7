//! The ban table: an immutable base and a small overlay with the changes since, so that one ban
//! among a million is sent as a few bytes, and only the overlay is written anew.

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

/// Base and overlay, searched together: an entry of the overlay replaces the base's
/// entry for the same prefix. A clone shares the bytes of both.
#[derive(Clone)]
pub struct BanTable {
    base: AddressTable,
    overlay: AddressTable,
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
    /// Joins `overlay` and `base`. Takes time in proportion to the overlay: see
    /// [`JoinDigest`] for doing it in steps.
    #[must_use]
    pub fn new(base: AddressTable, overlay: AddressTable) -> Self {
        let mut join = JoinDigest::new(base, overlay);
        while !join.advance() {}
        join.table
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

    /// The changes since the base was made.
    #[must_use]
    pub fn overlay(&self) -> &AddressTable {
        &self.overlay
    }

    /// The ban with the longest prefix that covers `address` and has not expired. `now`
    /// is called at most once, and only if an entry with an expiry covers the address.
    pub fn covering(&self, address: IpAddr, now: impl FnOnce() -> UnixSeconds) -> Option<Ban> {
        let mut clock = Clock { read: Some(now), now: 0 };
        let mut base = self.base.covering(address).peekable();
        let mut overlay = self.overlay.covering(address).peekable();
        loop {
            // Both cover the address, so equal length is the same prefix.
            let from_base = base.next_if(|entry| {
                overlay.peek().is_none_or(|change| change.prefix.len() < entry.prefix.len())
            });
            let entry = match from_base {
                Some(entry) => entry,
                None => {
                    let change = overlay.next()?;
                    base.next_if(|entry| entry.prefix == change.prefix);
                    change
                }
            };
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
        let state = self.overlay.get(prefix).or_else(|| self.base.get(prefix));
        state.filter(|state| *state != EntryState::Absent)
    }

    /// The digest of base and overlay together. Known already: not computed here.
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

/// Joins an overlay and a base in steps: computes the digest of both together.
pub struct JoinDigest {
    table: BanTable,
    /// Entries of the overlay that are in the digest.
    joined: usize,
}

impl JoinDigest {
    /// Begins.
    #[must_use]
    pub fn new(base: AddressTable, overlay: AddressTable) -> Self {
        let digest = base.digest();
        Self { table: BanTable { base, overlay, digest }, joined: 0 }
    }

    /// Takes up to `entries` more of the overlay (at least one); the table once
    /// all are in.
    pub fn step(&mut self, entries: usize) -> Option<BanTable> {
        (0..entries.max(1)).any(|_| self.advance()).then(|| self.table.clone())
    }

    /// Takes one entry of the overlay; true if none was left.
    fn advance(&mut self) -> bool {
        let BanTable { base, overlay, digest } = &mut self.table;
        let Some(Entry { prefix, state }) = overlay.entry(self.joined) else { return true };
        if let Some(EntryState::Present(expires)) = base.get(&prefix) {
            digest.remove(&entry_bytes(&prefix, expires));
        }
        if let EntryState::Present(expires) = state {
            digest.insert(&entry_bytes(&prefix, expires));
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
    /// Begins to fold `table`.
    #[must_use]
    pub fn new(table: &BanTable) -> Self {
        Self {
            merge: Merge::new(table.base.clone(), table.overlay.clone(), Tombstones::Drop),
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
