//! Times of day as text.

/// Milliseconds since the Unix epoch as RFC 3339 in UTC; what no calendar has is the epoch.
pub(crate) fn rfc3339(ms: u64) -> String {
    let time = i64::try_from(ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    time.unwrap_or_default().to_string()
}
