//! Messages to the follower besides changes of the store.

use std::sync::Arc;

use bytes::Bytes;
use tidegate_policy::codec::FormatError;
use tokio::sync::oneshot;

use super::base::Base;
use super::change_log::ChangedKeys;
use super::direct_tables::TablesReply;
use super::snapshot::Snapshot;
use crate::store::StoreError;

/// A message to the follower.
pub(super) enum FollowerEvent {
    /// A refresh was ordered.
    Refresh {
        id: u64,
        /// Description of what differs from the store, if anything.
        differs: Option<String>,
        /// Receives the snapshot that gateways are to load.
        done: oneshot::Sender<Result<Arc<Snapshot>, StoreError>>,
    },
    /// A base was cut in the background, with the current changes at that moment.
    Cut(Result<(Box<Base>, Bytes), FormatError>, ChangedKeys),
    /// A caller waits until everything committed by now is applied, or cannot be read.
    CatchUp(oneshot::Sender<Result<(), StoreError>>),
    /// A caller waits for the current compiled tables.
    Tables(TablesReply),
    /// The snapshot differs from the store, as described.
    Differs(String),
}
