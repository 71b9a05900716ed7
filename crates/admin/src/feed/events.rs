//! What happens to the follower besides changes of the store.

use std::sync::Arc;

use bytes::Bytes;
use tidegate_policy::codec::FormatError;
use tokio::sync::oneshot;

use super::base::Base;
use super::change_log::ChangedKeys;
use super::direct_tables::TablesReply;
use super::snapshot::Snapshot;
use crate::store::StoreError;

/// See the module.
pub(super) enum FollowerEvent {
    /// A refresh was ordered.
    Refresh {
        id: u64,
        /// What is not as the store says.
        differs: Option<String>,
        /// Gets the tables that gateways are to load.
        done: oneshot::Sender<Result<Arc<Snapshot>, StoreError>>,
    },
    /// A base was cut in the background, when the log was as given.
    Cut(Result<(Box<Base>, Bytes), FormatError>, ChangedKeys),
    /// Somebody waits for what is committed by now.
    CatchUp(oneshot::Sender<()>),
    /// Somebody waits for the tables as they are by now.
    Tables(TablesReply),
    /// The snapshot is not what the store says.
    Differs(String),
}
