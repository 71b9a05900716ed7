//! Rate limits: which ones hold for a request, the key that it is counted under, and
//! whether it may pass. The filter keeps the counts: `docs/LIMITS.md`.

mod bucket;
mod fields;
mod gcra;
mod key;
mod limits;
#[cfg(test)]
mod tests;

pub use bucket::{Bucket, KEYS_PER_BUCKET};
pub use fields::{LimitStatus, retry_after};
pub use gcra::{Gcra, Remaining};
pub use key::{BUCKETS, CLIENT_BUCKETS, KeyLocation, KeyValue, OPERATOR_BUCKETS};
pub use limits::{
    LIMITS_FORMAT, Limit, LimitKey, Limits, MAX_LIMITS, MAX_LIMITS_BYTES, MAX_MATCHES, MAX_PER_S, MAX_RATE,
    MAX_REFILL_S, V6_PREFIX,
};
