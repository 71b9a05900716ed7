//! Drives the run of a rollout: looks at it several times a second while there is one.

use std::time::{Duration, Instant};

use tidegate_rollout::run::Phase;

use crate::rollouts::Rollouts;

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Looks take this part of the driver's time at most, one to so many: a stage of a day has thousands of figures.
const IDLE_TIMES: u32 = 9;
/// Pause after a look that failed.
const RETRY: Duration = Duration::from_millis(500);

/// Drives runs, and sends their notices, until the task is aborted.
pub async fn follow(rollouts: Rollouts) {
    tokio::join!(drive(&rollouts), rollouts.send_notices());
}

async fn drive(rollouts: &Rollouts) {
    let mut has_failed = false;
    loop {
        let begun = Instant::now();
        let looked = rollouts.look().await;
        match &looked {
            Ok(_) => has_failed = false,
            Err(error) => {
                if !std::mem::replace(&mut has_failed, true) {
                    tracing::warn!(%error, "the run of a rollout cannot be looked at: it is tried again");
                }
                tokio::time::sleep(RETRY).await;
                continue;
            }
        }
        let is_decided = |phase: &Phase| matches!(phase, Phase::Running | Phase::WaitingForApproval);
        match looked.ok().flatten().filter(is_decided) {
            Some(_) => {
                let pause = LOOK_EVERY.max(begun.elapsed().saturating_mul(IDLE_TIMES));
                // What a person asks for is seen at once.
                let _ = tokio::time::timeout(pause, rollouts.begun()).await;
            }
            None => rollouts.begun().await,
        }
    }
}
