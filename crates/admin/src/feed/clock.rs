//! Times of the database, in the units of the tables.

use std::num::NonZeroI64;
use std::time::{SystemTime, UNIX_EPOCH};

use tidegate_policy::UnixSeconds;

use crate::store::time_text;

/// Milliseconds since the Unix epoch; 0 is kept as 1.
pub(super) type Millis = NonZeroI64;

/// Reads a time as the database has it.
pub(super) fn millis(text: &str) -> Option<Millis> {
    NonZeroI64::new(time_text::to_ms(text)?).or(NonZeroI64::new(1))
}

/// A time as the database has it.
pub(super) fn text(moment: Millis) -> String {
    time_text::from_ms(moment.get())
}

/// A column with a time that may be left out: NULL and an empty text are none. The error says what
/// is wrong with another text.
pub(super) fn optional(text: Option<&str>) -> Result<Option<Millis>, String> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    millis(text).map(Some).ok_or_else(|| {
        let shown: String = text.chars().take(60).collect();
        format!("`{shown}` is not a time: {}, or NULL", time_text::FORM)
    })
}

/// The second at which an entry expires, rounded up. A time before 1970 becomes second 1; one
/// that a table cannot hold (2106 and later) becomes `None`, never.
pub(super) fn expiry(moment: Millis) -> Option<UnixSeconds> {
    let seconds = moment.get().div_euclid(1_000) + i64::from(moment.get().rem_euclid(1_000) > 0);
    UnixSeconds::try_from(seconds.max(1)).ok()
}

/// Now, milliseconds since the Unix epoch.
pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expiry_rounds_up_and_fits() {
        let cases = [
            (1_795_456_800_000, Some(1_795_456_800)),
            (1_795_456_800_001, Some(1_795_456_801)),
            (-5, Some(1)),
            (1, Some(1)),
            (i64::from(u32::MAX) * 1_000, Some(u32::MAX)),
            (i64::from(u32::MAX) * 1_000 + 1, None),
        ];
        for (millis, want) in cases {
            assert_eq!(NonZeroI64::new(millis).map(expiry), Some(want), "{millis}");
        }
    }
}
