//! Writes, and `?wait_applied=`: an answer that comes once every gateway enforces
//! what was written.

use std::time::Duration;

use serde::Serialize;
use tidegate_policy::wire::sync::Version;

use super::app_state::Context;
use super::query::{MAX_WAIT_APPLIED, Params};
use crate::auth::Caller;
use crate::gateways::{Applied, Goal, Waiter};
use crate::problem::Answer;
use crate::store::{Change, Committed};

/// The parameter.
pub const WAIT_APPLIED: &str = "wait_applied";

/// A write about to be made.
pub struct Write<'c> {
    context: &'c Context,
    wait: Option<(Waiter, Duration)>,
}

/// What every write answers.
#[derive(Serialize, Debug)]
pub struct Written {
    /// The version that has it; gateways enforce it once they are there.
    #[serde(serialize_with = "as_text")]
    pub version: Version,
    /// How far it has come, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub applied: Option<Applied>,
}

impl<'c> Write<'c> {
    /// Announces the write, if its effect will be waited for.
    ///
    /// # Errors
    /// When `wait_applied` is no span or over 30 s.
    pub fn announce(context: &'c Context, params: &Params) -> Answer<Self> {
        let wait = params.span(WAIT_APPLIED, MAX_WAIT_APPLIED)?;
        Ok(Self { context, wait: wait.map(|within| (context.gateways.waiter(), within)) })
    }

    /// Commits `change` in the caller's name, and waits as long as was asked for.
    ///
    /// # Errors
    /// When the store cannot: then nothing was changed.
    pub async fn commit(self, change: Change, caller: &Caller) -> Answer<(Committed, Written)> {
        let committed = self.context.store.commit(change, &caller.name).await?;
        Ok((committed, self.written(committed).await))
    }

    /// Waits as long as was asked for until what was `committed` is enforced.
    pub async fn written(self, committed: Committed) -> Written {
        let context = self.context;
        let version = Version { epoch: context.feed.version().epoch, seq: committed.seq };
        let applied = match self.wait {
            None => None,
            Some((waiter, within)) => Some(reached(context, waiter, version.into(), within).await),
        };
        Written { version, applied }
    }
}

/// Waits for `goal`, at most `within`, and no longer than the service runs.
pub async fn reached(context: &Context, waiter: Waiter, goal: Goal, within: Duration) -> Applied {
    tokio::select! {
        applied = waiter.reached(goal, within) => applied,
        () = context.stopping() => context.gateways.waiter().reached(goal, Duration::ZERO).await,
    }
}

/// A version as people write it.
///
/// # Errors
/// When the serializer fails.
pub fn as_text<S: serde::Serializer>(version: &Version, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(version)
}
