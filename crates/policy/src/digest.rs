//! Hashes of bytes and digests of sets, by which gateway and admin service compare what
//! they hold.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

/// The XXH3-128 of an immutable run of bytes, which also names it. Detects mixed and
/// half-written tables, not forgery: whoever can write shared data or the admin service's
/// answers is trusted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
pub struct BlobHash(pub u128);

impl BlobHash {
    /// The hash of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(xxh3_128(bytes))
    }
}

impl fmt::Display for BlobHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for BlobHash {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u128::from_str_radix(text, 16).map(Self)
    }
}

/// [`BlobHash`] of bytes that arrive in pieces, so that hashing 12 MB need not
/// happen inside one callback.
#[derive(Clone, Default)]
pub struct BlobHasher(Xxh3);

impl BlobHasher {
    /// Takes the next piece.
    pub fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    /// The hash of all pieces so far, in order.
    #[must_use]
    pub fn finish(&self) -> BlobHash {
        BlobHash(self.0.digest128())
    }
}

/// The digest of a set of entries, whatever their order: how many there are, and
/// the sum modulo 2^128 of the hashes of each. Adding and removing an entry
/// costs one hash, so both sides keep it up to date change by change.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SetDigest {
    /// Entries in the set, expired ones included.
    pub count: u64,
    /// Sum of the entries' hashes.
    pub sum: u128,
}

impl SetDigest {
    /// Adds an entry; `entry` is its canonical bytes.
    pub fn insert(&mut self, entry: &[u8]) {
        self.count = self.count.wrapping_add(1);
        self.sum = self.sum.wrapping_add(xxh3_128(entry));
    }

    /// Removes an entry that was added.
    pub fn remove(&mut self, entry: &[u8]) {
        self.count = self.count.wrapping_sub(1);
        self.sum = self.sum.wrapping_sub(xxh3_128(entry));
    }
}

impl fmt::Display for SetDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:032x}", self.count, self.sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_hash_like_the_whole() {
        let bytes: Vec<u8> = (0..10_000u32).flat_map(u32::to_le_bytes).collect();
        let mut hasher = BlobHasher::default();
        for piece in bytes.chunks(777) {
            hasher.update(piece);
        }
        assert_eq!(hasher.finish(), BlobHash::of(&bytes));
        assert_eq!(BlobHash::of(&bytes).to_string().parse(), Ok(BlobHash::of(&bytes)));
    }

    #[test]
    fn a_set_digest_knows_no_order_and_forgets_what_left() {
        let (mut one, mut other) = (SetDigest::default(), SetDigest::default());
        one.insert(b"a");
        one.insert(b"b");
        other.insert(b"b");
        other.insert(b"x");
        other.insert(b"a");
        assert_ne!(one, other);
        other.remove(b"x");
        assert_eq!(one, other);
    }
}
