//! Writes down when tokens were last used.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::auth::Tokens;

/// How often. Gateways use theirs all the time, and each time that is written costs a commit.
const EVERY: Duration = Duration::from_secs(60);

/// Writes the uses of `tokens` until the service stops, and once more then.
pub async fn follow(tokens: Arc<Tokens>, mut stop: watch::Receiver<bool>) {
    let mut written = HashMap::new();
    loop {
        // An error means that the sender is gone, and with it the service.
        let stops = tokio::time::timeout(EVERY, stop.wait_for(|stop| *stop)).await.is_ok();
        if let Err(error) = tokens.write_uses(&mut written).await {
            tracing::debug!(%error, "the uses of tokens could not be written");
        }
        if stops {
            return;
        }
    }
}
