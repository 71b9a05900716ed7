//! Usage of the limits, exact over all workers of a process.
//!
//! It is kept in shared data, in a fixed number of buckets
//! ([`Bucket`](tidegate_policy::limit::Bucket)), and written by compare-and-set, so
//! that of two workers that take the last request of a limit one gets it. A request
//! that must wait changes nothing and costs one read.

#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::rc::Rc;

use tidegate_policy::limit::{Bucket, Gcra, KeyLocation, KeyValue, Limit};

use crate::host::{Expect, Host, HostError};
use crate::metrics::{Count, Metrics};
use crate::sync::Keys;
use crate::sync::shared::manifest::SharedData;

/// How often a bucket is read and written anew because another worker wrote it first.
/// Each time one of them succeeds, so only many workers at one limit come to this.
const TRIES: u32 = 32;

/// Whether a limit lets a request pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LimitAnswer {
    /// It passes. For the times see [`Gcra`](tidegate_policy::limit::Gcra).
    Passes {
        /// The key's new theoretical arrival time.
        tat: u64,
    },
    /// It must wait.
    Waits {
        /// The key's theoretical arrival time, unchanged.
        tat: u64,
        /// Nanoseconds until a request passes.
        wait_ns: u64,
    },
    /// Not known: other workers wrote the bucket first too often, or the host refused.
    /// It passes, and is counted.
    Unknown,
}

/// One VM's access to the usage of limits.
pub struct Limiter<H> {
    host: H,
    metrics: Rc<Metrics<H>>,
    keys: Keys,
    seed: Cell<Option<[u8; 16]>>,
}

impl<H: Host> Limiter<H> {
    /// The limiter of the instance of `keys`. Makes no host call.
    pub fn new(host: H, metrics: Rc<Metrics<H>>, keys: Keys) -> Self {
        Self { host, metrics, keys, seed: Cell::new(None) }
    }

    /// Takes one request of the key `value` out of `limit`, if there is one left.
    pub fn take(&self, limit: &Limit, value: &KeyValue<'_>) -> LimitAnswer {
        let took = self.seed().and_then(|seed| {
            let location = KeyLocation::of(limit, value, &seed);
            let now_ns = || self.host.monotonic_ns();
            take_from_bucket(
                &self.host,
                &self.keys.bucket(location.bucket),
                location.hash,
                limit.gcra(),
                now_ns,
            )
        });
        let Ok(TakeResult { answer, retries, forgot }) = took else {
            self.metrics.count(Count::HostErrors);
            return LimitAnswer::Unknown;
        };
        self.metrics.add(Count::LimitsRetries, u64::from(retries));
        self.metrics.add(Count::LimitsForgotten, u64::from(forgot));
        if answer == LimitAnswer::Unknown {
            self.metrics.count(Count::LimitsGivenUp);
        }
        answer
    }

    /// The seed of the process's hashes: read, or made if there is none.
    fn seed(&self) -> Result<[u8; 16], HostError> {
        if let Some(seed) = self.seed.get() {
            return Ok(seed);
        }
        let key = self.keys.limit_seed();
        let fresh = [self.host.random_u64().to_le_bytes(), self.host.random_u64().to_le_bytes()];
        // Refused if there is one, which is then read.
        let _ = self.host.shared_set(&key, fresh.as_flattened(), Expect::Absent);
        let found = self.host.shared_get(&key)?.ok_or(HostError::NotFound)?;
        let seed = <[u8; 16]>::try_from(found.0).map_err(|_| HostError::NotFound)?;
        self.seed.set(Some(seed));
        Ok(seed)
    }
}

/// The result of [`take_from_bucket`].
struct TakeResult {
    answer: LimitAnswer,
    /// How often other workers wrote the bucket first.
    retries: u32,
    /// Another key had to be dropped from the full bucket.
    forgot: bool,
}

/// Takes one request of the key with this hash, out of the bucket under `key`.
fn take_from_bucket(
    shared: &impl SharedData,
    key: &str,
    hash: u128,
    gcra: Gcra,
    now_ns: impl Fn() -> u64,
) -> Result<TakeResult, HostError> {
    for retries in 0..TRIES {
        let (mut bucket, expect) = match shared.get(key)? {
            None => (Bucket::default(), Expect::Absent),
            // A bucket that does not decode is replaced by an empty one.
            Some((bytes, cas)) => (Bucket::from_bytes(&bytes).unwrap_or_default(), Expect::Unchanged(cas)),
        };
        // The clock is read after the bucket: an older time would be stricter than the limit.
        let (before, now_ns) = (bucket.tat(hash), now_ns());
        let tat = match gcra.take(before, now_ns) {
            Ok(tat) => tat,
            Err(wait_ns) => {
                let answer = LimitAnswer::Waits { tat: before, wait_ns };
                return Ok(TakeResult { answer, retries, forgot: false });
            }
        };
        let forgot = bucket.insert(hash, tat, now_ns);
        match shared.set(key, &bucket.to_bytes(), expect) {
            Ok(()) => return Ok(TakeResult { answer: LimitAnswer::Passes { tat }, retries, forgot }),
            Err(HostError::CasMismatch) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(TakeResult { answer: LimitAnswer::Unknown, retries: TRIES, forgot: false })
}
