//! Numbers of refreshes. Each is one higher than those before, also than those that gateways know
//! from before a restart of the service, by their own word.

use crate::store::time_text;

/// A hundred years in milliseconds: by so much a clock may have been put back since.
const CLOCK_ERROR_MS: u64 = 100 * 366 * 86_400 * 1_000;

/// The highest number that a gateway is believed: there was less than one refresh a millisecond. It
/// grows faster than the numbers do, so whatever is claimed, the next number is believed in its
/// turn, and no claim can use the numbers up.
pub fn highest_believed() -> u64 {
    u64::try_from(time_text::now_ms()).unwrap_or(0).saturating_add(CLOCK_ERROR_MS)
}
