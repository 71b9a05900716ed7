//! Conversion between `u64` and SQLite's signed 64-bit integers. Our counts and numbers stay far
//! below their limit.

/// A count or number as SQLite stores it.
pub(super) fn to_sql(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A count or number as it was stored; a negative one, which only SQL can have written, is 0.
pub(super) fn from_sql(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}
