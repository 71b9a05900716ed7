//! SQLite's integers are signed 64-bit; ours are counts and numbers, which come nowhere
//! near their end.

/// A count or number as SQLite stores it.
pub(super) fn to_sql(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A count or number as it was stored; somebody may have written a negative one.
pub(super) fn from_sql(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}
