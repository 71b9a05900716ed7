//! How long what gateways send waits until this service reads it.

use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use crate::gateways::Gateways;

/// How often it is measured.
const MEASURED_EVERY: Duration = Duration::from_millis(100);

/// Measures it. Runs until the task is aborted.
pub async fn follow(gateways: Gateways) {
    loop {
        sleep(MEASURED_EVERY).await;
        let began = Instant::now();
        // Another thread wakes this task, so that it waits behind all others that are due.
        let _ = spawn_blocking(|| ()).await;
        gateways.note_delay(began.elapsed());
    }
}
