//! Keeps in the store what rows that cannot be read said before, so that it is in force after a
//! restart of the service as well.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::blocking::blocking;
use super::inner::FeedInner;
use super::snapshot::Snapshot;

/// Pause after a failure.
const RETRY: Duration = Duration::from_secs(1);
/// Pause after they were kept, for each of them: there may be as many as rows.
const PACE_EACH: Duration = Duration::from_micros(20);

/// Keeps those of each new state. Returns only with the feed.
pub(super) async fn run(shared: Arc<FeedInner>) {
    let mut applied = shared.applied.subscribe();
    let mut kept = None;
    loop {
        let snapshot = applied.borrow_and_update().snapshot.clone();
        if kept.as_ref().is_none_or(|kept| !snapshot.index.has_same_quarantine(kept)) {
            let index = snapshot.index.clone();
            let rows = blocking(move || Snapshot::clone(&snapshot).former_rows()).await;
            let many = rows.as_ref().map_or(0, |rows| u32::try_from(rows.len()).unwrap_or(u32::MAX));
            let done = match rows {
                Ok(rows) => shared.store.keep_former(rows).await,
                Err(error) => Err(error),
            };
            if let Err(error) = done {
                tracing::warn!("what unreadable rows said before could not be kept: {error}");
                sleep(RETRY).await;
                continue;
            }
            kept = Some(index);
            sleep(PACE_EACH.saturating_mul(many)).await;
        }
        if applied.changed().await.is_err() {
            return;
        }
    }
}
