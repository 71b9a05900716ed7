//! What clients have used of their limits, exact over all workers of a process.
//!
//! It lies in shared data, in a fixed number of buckets
//! ([`Bucket`](tidegate_policy::limit::Bucket)): read, asked and written by
//! compare-and-set, so that of two workers that ask for the last request of a
//! limit one gets it. Who must wait changes nothing, and costs one read.

#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::rc::Rc;

use tidegate_policy::limit::{Bucket, Gcra, KeyLocation, KeyValue, Limit};

use crate::host::{Expect, Host, HostError};
use crate::metrics::{Count, Metrics};
use crate::sync::Keys;
use crate::sync::shared::manifest::SharedData;

/// How often a request asks anew because another worker was quicker. Each time
/// that other has got something done, so it takes many workers at one limit to
/// come to this.
const TRIES: u32 = 32;

/// What a limit says of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LimitAnswer {
    /// It passes; the key's new time. See [`Gcra`](tidegate_policy::limit::Gcra).
    Passes {
        /// The key's new time.
        tat: u64,
    },
    /// It must wait.
    Waits {
        /// The key's time, unchanged.
        tat: u64,
        /// Nanoseconds until a request passes.
        wait_ns: u64,
    },
    /// Nobody knows: others were quicker too often, or the host refused. It passes;
    /// a metric says that this happened.
    Unknown,
}

/// One VM's way to what is used of limits.
pub struct Limiter<H> {
    host: H,
    metrics: Rc<Metrics<H>>,
    keys: Keys,
    seed: Cell<Option<[u8; 16]>>,
}

impl<H: Host> Limiter<H> {
    /// Of the instance that `keys` are of. Makes no host call.
    pub fn new(host: H, metrics: Rc<Metrics<H>>, keys: Keys) -> Self {
        Self { host, metrics, keys, seed: Cell::new(None) }
    }

    /// Takes one request of `value` out of `limit`, if it has one left.
    pub fn ask(&self, limit: &Limit, value: &KeyValue<'_>) -> LimitAnswer {
        let took = self.seed().and_then(|seed| {
            let location = KeyLocation::of(limit, value, &seed);
            let now_ns = || self.host.monotonic_ns();
            take(&self.host, &self.keys.bucket(location.bucket), location.hash, limit.gcra(), now_ns)
        });
        let Ok(TakeResult { asked, retries, forgot }) = took else {
            self.metrics.count(Count::HostErrors);
            return LimitAnswer::Unknown;
        };
        self.metrics.add(Count::LimitsRetries, u64::from(retries));
        self.metrics.add(Count::LimitsForgotten, u64::from(forgot));
        if asked == LimitAnswer::Unknown {
            self.metrics.count(Count::LimitsGivenUp);
        }
        asked
    }

    /// Finds the key of the process's hashes, or mints it.
    fn seed(&self) -> Result<[u8; 16], HostError> {
        if let Some(seed) = self.seed.get() {
            return Ok(seed);
        }
        let key = self.keys.limit_seed();
        let fresh = [self.host.random_u64().to_le_bytes(), self.host.random_u64().to_le_bytes()];
        // Refused when there is one: then that counts.
        let _ = self.host.shared_set(&key, fresh.as_flattened(), Expect::Absent);
        let found = self.host.shared_get(&key)?.ok_or(HostError::NotFound)?;
        let seed = <[u8; 16]>::try_from(found.0).map_err(|_| HostError::NotFound)?;
        self.seed.set(Some(seed));
        Ok(seed)
    }
}

/// How it went to take one request.
struct TakeResult {
    asked: LimitAnswer,
    /// How often others were quicker.
    retries: u32,
    /// Another key had to be forgotten.
    forgot: bool,
}

/// Takes one request of the key with this hash, out of the bucket under `key`.
fn take(
    shared: &impl SharedData,
    key: &str,
    hash: u128,
    gcra: Gcra,
    now_ns: impl Fn() -> u64,
) -> Result<TakeResult, HostError> {
    for retries in 0..TRIES {
        let (mut bucket, expect) = match shared.get(key)? {
            None => (Bucket::default(), Expect::Absent),
            // One that does not decode holds nothing that could be kept.
            Some((bytes, cas)) => (Bucket::from_bytes(&bytes).unwrap_or_default(), Expect::Unchanged(cas)),
        };
        // After the read: an older clock would be stricter than the limit.
        let (before, now_ns) = (bucket.tat(hash), now_ns());
        let tat = match gcra.ask(before, now_ns) {
            Ok(tat) => tat,
            Err(wait_ns) => {
                let asked = LimitAnswer::Waits { tat: before, wait_ns };
                return Ok(TakeResult { asked, retries, forgot: false });
            }
        };
        let forgot = bucket.keep(hash, tat, now_ns);
        match shared.set(key, &bucket.to_bytes(), expect) {
            Ok(()) => return Ok(TakeResult { asked: LimitAnswer::Passes { tat }, retries, forgot }),
            Err(HostError::CasMismatch) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(TakeResult { asked: LimitAnswer::Unknown, retries: TRIES, forgot: false })
}
