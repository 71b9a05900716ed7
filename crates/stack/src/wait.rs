//! Waiting for a state: asked again and again until it holds or time is up.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// Asks `look` until it answers `Some`, at most for `limit`.
///
/// # Errors
/// The error of `look`, at once; or, past the limit, that `what` did not happen.
pub fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = look().with_context(|| format!("while waiting until {what}"))? {
            return Ok(found);
        }
        anyhow::ensure!(Instant::now() < end, "not within {limit:?}: {what}");
        std::thread::sleep(PAUSE);
    }
}
