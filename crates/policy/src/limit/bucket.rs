//! GCRA times of up to [`KEYS_PER_BUCKET`] keys in one value of shared data. The number of
//! such values is fixed, so memory is bounded: a full bucket evicts the key that is
//! nearest to a full burst, which then has its whole burst again. Keys are 128-bit
//! hashes, seeded with bytes that no client knows, so that no client can collide with
//! another on purpose.

use crate::codec::FormatError;

/// Keys that one bucket holds.
pub const KEYS_PER_BUCKET: usize = 16;

const BUCKET_FORMAT: u8 = 1;
/// Hash and time, both little endian.
const KEY_TIME_BYTES: usize = 24;

/// Keys and their theoretical arrival times (ns).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Bucket {
    entries: [KeyTime; KEYS_PER_BUCKET],
    len: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct KeyTime {
    hash: u128,
    tat: u64,
}

impl Bucket {
    /// The theoretical arrival time of a key; zero when it is not in the bucket. See
    /// [`Gcra`](super::Gcra).
    #[must_use]
    pub fn tat(&self, hash: u128) -> u64 {
        self.entries().iter().find(|entry| entry.hash == hash).map_or(0, |entry| entry.tat)
    }

    /// Notes the theoretical arrival time of a key. Keys that are replenished by `now_ns`
    /// are dropped, as if they had never been there. True if a key that is not replenished
    /// had to be dropped.
    pub fn insert(&mut self, hash: u128, tat: u64, now_ns: u64) -> bool {
        let mut kept = Self::default();
        for entry in self.entries().iter().filter(|entry| entry.hash != hash && entry.tat > now_ns) {
            kept.push(*entry);
        }
        let evicts = kept.len == KEYS_PER_BUCKET;
        match kept.entries.iter_mut().min_by_key(|entry| entry.tat).filter(|_| evicts) {
            Some(nearest) => *nearest = KeyTime { hash, tat },
            None => kept.push(KeyTime { hash, tat }),
        }
        *self = kept;
        evicts
    }

    fn entries(&self) -> &[KeyTime] {
        self.entries.get(..self.len).unwrap_or_default()
    }

    fn push(&mut self, entry: KeyTime) {
        if let Some(free) = self.entries.get_mut(self.len) {
            *free = entry;
            self.len = self.len.saturating_add(1);
        }
    }

    /// The bucket's bytes: 385 at most.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.len.saturating_mul(KEY_TIME_BYTES).saturating_add(1));
        bytes.push(BUCKET_FORMAT);
        for entry in self.entries() {
            bytes.extend_from_slice(&entry.hash.to_le_bytes());
            bytes.extend_from_slice(&entry.tat.to_le_bytes());
        }
        bytes
    }

    /// Reads a bucket.
    ///
    /// # Errors
    /// When the bytes are of another version, too many, or not whole entries.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FormatError> {
        let (&found, rest) = bytes.split_first().ok_or(FormatError::Malformed("empty"))?;
        if found != BUCKET_FORMAT {
            return Err(FormatError::Version { found, known: BUCKET_FORMAT });
        }
        if rest.len() > KEYS_PER_BUCKET.saturating_mul(KEY_TIME_BYTES) {
            return Err(FormatError::TooLong {
                len: rest.len(),
                max: KEYS_PER_BUCKET.saturating_mul(KEY_TIME_BYTES),
            });
        }
        let (entries, []) = rest.as_chunks::<KEY_TIME_BYTES>() else {
            return Err(FormatError::Malformed("part of an entry"));
        };
        let mut bucket = Self::default();
        for entry in entries {
            let (hash, tat) = entry.split_first_chunk().ok_or(FormatError::Malformed("part of an entry"))?;
            let tat = tat.first_chunk().ok_or(FormatError::Malformed("part of an entry"))?;
            bucket.push(KeyTime { hash: u128::from_le_bytes(*hash), tat: u64::from_le_bytes(*tat) });
        }
        Ok(bucket)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_bucket_is_a_map_that_forgets_the_one_nearest_to_replenished(
            steps in vec((0u128..40, 1u64..50, 0u64..3), 1..200),
        ) {
            let (mut bucket, mut map, mut now) = (Bucket::default(), BTreeMap::<u128, u64>::new(), 0);
            for (hash, ahead, passes) in steps {
                now += passes;
                let tat = now + ahead;
                map.retain(|_, tat| *tat > now);
                let held = map.contains_key(&hash);
                let evicts = !held && map.len() == KEYS_PER_BUCKET;
                if evicts {
                    let nearest = *map.values().min().unwrap();
                    let candidates: Vec<u128> =
                        map.iter().filter(|(_, tat)| **tat == nearest).map(|(hash, _)| *hash).collect();
                    prop_assert!(bucket.insert(hash, tat, now));
                    let gone: Vec<u128> = map.keys().copied().filter(|hash| bucket.tat(*hash) == 0).collect();
                    prop_assert_eq!(gone.len(), 1);
                    prop_assert!(candidates.contains(&gone[0]));
                    map.remove(&gone[0]);
                } else {
                    prop_assert!(!bucket.insert(hash, tat, now));
                }
                map.insert(hash, tat);
                for hash in 0..40 {
                    prop_assert_eq!(bucket.tat(hash), map.get(&hash).copied().unwrap_or(0));
                }
                let bytes = bucket.to_bytes();
                prop_assert!(bytes.len() <= 385);
                prop_assert_eq!(Bucket::from_bytes(&bytes), Ok(bucket.clone()));
            }
        }

        #[test]
        fn any_bytes_are_a_bucket_or_an_error(mut bytes in vec(any::<u8>(), 0..500), is_format: bool) {
            if let Some(first) = bytes.first_mut().filter(|_| is_format) {
                *first = BUCKET_FORMAT;
            }
            if let Ok(mut bucket) = Bucket::from_bytes(&bytes) {
                prop_assert_eq!(bucket.to_bytes(), bytes);
                bucket.insert(1, 2, 1);
                prop_assert_eq!(bucket.tat(1), 2);
            }
        }
    }
}
