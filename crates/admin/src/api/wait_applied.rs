//! Writes; `?wait_applied=`: the answer comes once every gateway enforces what was written;
//! `?dry_run=true`: nothing is written.

use std::time::Duration;

use serde::Serialize;
use tidegate_policy::version::Version;
use utoipa::ToSchema;

use super::app_state::AppState;
use super::conditions::Conditions;
use super::openapi::parameters::{DRY_RUN, WAIT_APPLIED};
use super::query::{MAX_WAIT_APPLIED, QueryParams};
use crate::feed::Snapshot;
use crate::gateways::{Applied, Goal, Waiter};
use crate::problem::ApiResult;
use crate::store::{Author, Change, CommitOptions, Committed, StoreError, StoreTable, UnchangedRows};

/// Attempts to commit a write when other writes come between its check and its commit.
pub const TRIES: usize = 5;

/// A write that is about to be made.
pub struct PendingWrite<'c> {
    app: &'c AppState,
    wait: Option<(Waiter, Duration)>,
    is_dry_run: bool,
}

/// The part that the answers of all writes have.
#[derive(Serialize, Debug, ToSchema)]
pub struct WriteResult {
    /// The version that includes the write.
    #[serde(serialize_with = "version_as_text")]
    #[schema(value_type = String)]
    pub version: Version,
    /// True: nothing was written.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// How many gateways enforce it, if that was requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub applied: Option<Applied>,
}

impl<'c> PendingWrite<'c> {
    /// Announces the write, if its effect will be waited for.
    ///
    /// # Errors
    /// When `wait_applied` is not a duration or over 30 s, or `dry_run` is neither true nor false.
    pub fn prepare(app: &'c AppState, params: &QueryParams) -> ApiResult<Self> {
        let wait = params.duration(WAIT_APPLIED.name, MAX_WAIT_APPLIED)?;
        let is_dry_run = params.boolean(DRY_RUN.name)?;
        let wait = wait.filter(|_| !is_dry_run).map(|within| (app.gateways.waiter(), within));
        Ok(Self { app, wait, is_dry_run })
    }

    /// Whether nothing is to be written.
    #[must_use]
    pub fn is_dry_run(&self) -> bool {
        self.is_dry_run
    }

    /// Commits `change` by `author`, and waits as long as was requested.
    ///
    /// # Errors
    /// When the store fails: then nothing was changed.
    pub async fn commit(self, change: Change, author: &Author) -> ApiResult<(Committed, WriteResult)> {
        let committed = self.commit_if(change, author, None).await?;
        Ok((committed, self.written(committed).await))
    }

    /// Commits `change` by `author` if all of `only_if` holds.
    ///
    /// # Errors
    /// When the store fails: then nothing was changed.
    pub async fn commit_if(
        &self,
        change: Change,
        author: &Author,
        only_if: impl IntoIterator<Item = UnchangedRows>,
    ) -> ApiResult<Committed> {
        let options = CommitOptions { only_if: only_if.into_iter().collect(), dry_run: self.is_dry_run };
        Ok(self.app.store.commit_with(change, author, options).await?)
    }

    /// Commits `change` by `author`, if `conditions` hold for the `ETag` that `tag` says of a snapshot, and no
    /// row of the table (with keys: with one of these) is changed between that look and the commit.
    ///
    /// # Errors
    /// 412 when they do not hold; 503 when others keep changing it.
    pub async fn commit_on(
        &self,
        change: Change,
        author: &Author,
        conditions: &Conditions,
        (table, keys): (StoreTable, Option<Vec<String>>),
        tag: impl Fn(&Snapshot) -> Option<String>,
    ) -> ApiResult<Committed> {
        if !conditions.are_given() {
            return self.commit_if(change, author, None).await;
        }
        for _ in 0..TRIES {
            let snapshot = self.app.current().await;
            conditions.check(tag(&snapshot).as_deref())?;
            let only_if = Some(UnchangedRows { table, keys: keys.clone(), since: snapshot.version.seq });
            let committed = self.commit_if(change.clone(), author, only_if).await?;
            if !committed.is_stale {
                return Ok(committed);
            }
        }
        Err(StoreError::Busy.into())
    }

    /// Waits until what was `committed` is enforced, as long as was requested.
    pub async fn written(self, committed: Committed) -> WriteResult {
        let app = self.app;
        let version = Version { epoch: app.feed.version().epoch, seq: committed.seq };
        let applied = match self.wait {
            None => None,
            Some((waiter, within)) => Some(wait_for_goal(app, waiter, version.into(), within).await),
        };
        WriteResult { version, dry_run: self.is_dry_run, applied }
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
