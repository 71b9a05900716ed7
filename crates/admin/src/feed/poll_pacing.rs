//! Pacing of poll answers: the first change after a pause is released at once, later ones
//! together after max(2 ms, 20 us per waiting poll).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::sleep;

use super::inner::FeedInner;

/// Releases each new state to the polls. Never returns.
pub(super) async fn release(shared: Arc<FeedInner>) {
    let mut applied = shared.applied.subscribe();
    // Includes states that were applied before this task began.
    applied.mark_changed();
    // An error would mean that the sender is gone, which `shared` holds.
    while applied.changed().await.is_ok() {
        let polls = u32::try_from(shared.waiting.load(Ordering::Acquire)).unwrap_or(u32::MAX);
        let state = applied.borrow_and_update().clone();
        shared.released.send_replace(state);
        let options = &shared.options;
        sleep(options.pace_min.max(options.pace_each.saturating_mul(polls))).await;
    }
}
