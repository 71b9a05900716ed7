//! Writes, and `?wait_applied=`: the answer comes once every gateway enforces what was written.

use std::time::Duration;

use serde::Serialize;
use tidegate_policy::version::Version;
use utoipa::ToSchema;

use super::app_state::AppState;
use super::openapi::parameters::WAIT_APPLIED;
use super::query::{MAX_WAIT_APPLIED, QueryParams};
use crate::gateways::{Applied, Goal, Waiter};
use crate::problem::ApiResult;
use crate::store::{Author, Change, Committed};

/// A write that is about to be made.
pub struct PendingWrite<'c> {
    app: &'c AppState,
    wait: Option<(Waiter, Duration)>,
}

/// The part that the answers of all writes have.
#[derive(Serialize, Debug, ToSchema)]
pub struct WriteResult {
    /// The version that includes the write.
    #[serde(serialize_with = "version_as_text")]
    #[schema(value_type = String)]
    pub version: Version,
    /// How many gateways enforce it, if that was requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub applied: Option<Applied>,
}

impl<'c> PendingWrite<'c> {
    /// Announces the write, if its effect will be waited for.
    ///
    /// # Errors
    /// When `wait_applied` is not a duration or over 30 s.
    pub fn prepare(app: &'c AppState, params: &QueryParams) -> ApiResult<Self> {
        let wait = params.duration(WAIT_APPLIED.name, MAX_WAIT_APPLIED)?;
        Ok(Self { app, wait: wait.map(|within| (app.gateways.waiter(), within)) })
    }

    /// Commits `change` by `author`, and waits as long as was requested.
    ///
    /// # Errors
    /// When the store fails: then nothing was changed.
    pub async fn commit(self, change: Change, author: &Author) -> ApiResult<(Committed, WriteResult)> {
        let committed = self.app.store.commit(change, author).await?;
        Ok((committed, self.written(committed).await))
    }

    /// Waits until what was `committed` is enforced, as long as was requested.
    pub async fn written(self, committed: Committed) -> WriteResult {
        let app = self.app;
        let version = Version { epoch: app.feed.version().epoch, seq: committed.seq };
        let applied = match self.wait {
            None => None,
            Some((waiter, within)) => Some(wait_for_goal(app, waiter, version.into(), within).await),
        };
        WriteResult { version, applied }
    }
}

/// Waits for `goal`, at most `within`, and at most until the service stops.
pub async fn wait_for_goal(app: &AppState, waiter: Waiter, goal: Goal, within: Duration) -> Applied {
    tokio::select! {
        applied = waiter.reached(goal, within) => applied,
        () = app.stopping() => app.gateways.waiter().reached(goal, Duration::ZERO).await,
    }
}

/// A version as people write it.
pub fn version_as_text<S: serde::Serializer>(version: &Version, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(version)
}
