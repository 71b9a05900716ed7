//! Pacing of poll answers. The first change after a pause is released at once. Later ones are released together, once as
//! much time has passed as the answers need and most gateways have polled again: who then polls gets everything up to
//! that moment in one answer.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::inner::FeedInner;

/// How long gateways have to poll again, in times of the least time between two releases.
const BACK_WITHIN: u32 = 4;
/// How often it is looked whether they have.
const LOOKS: u32 = 16;

/// Releases each new state to the polls. Never returns.
pub(super) async fn release(shared: Arc<FeedInner>) {
    let mut applied = shared.applied.subscribe();
    // Includes states that were applied before this task began.
    applied.mark_changed();
    let mut crowd = 0_usize;
    // An error would mean that the sender is gone, which `shared` holds.
    while applied.changed().await.is_ok() {
        // Gateways that are slow to come back are remembered for some releases, and then are gone.
        crowd = shared.waiting.load(Ordering::Acquire).max(crowd / 8 * 7);
        let state = applied.borrow_and_update().clone();
        shared.released.send_replace(state);
        let polls = u32::try_from(crowd).unwrap_or(u32::MAX);
        let pace = shared.options.pace_min.max(shared.options.pace_each.saturating_mul(polls));
        sleep(pace).await;
        until_back(&shared, crowd, pace.saturating_mul(BACK_WITHIN)).await;
    }
}

/// Waits until nine of ten of `crowd` polls are open again, at most `within`: answers that come faster than gateways
/// take them only pile up, and a few slow gateways hold up nobody for long.
async fn until_back(shared: &FeedInner, crowd: usize, within: Duration) {
    let end = Instant::now() + within;
    let most = crowd - crowd / 10;
    while shared.waiting.load(Ordering::Acquire) < most && Instant::now() < end {
        sleep(within / LOOKS).await;
    }
}
