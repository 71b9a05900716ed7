//! Work that takes too long for the async threads.

use tidegate_policy::codec::FormatError;
use tokio::task::spawn_blocking;

use crate::store::StoreError;

/// Runs `work` on a thread for blocking work.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, StoreError> {
    spawn_blocking(work).await.map_err(|error| StoreError::Failed(error.to_string()))
}

/// A table that is too large to be laid out, as an error of the store.
pub(super) fn laid_out(error: FormatError) -> StoreError {
    StoreError::Failed(format!("the tables cannot be laid out: {error}"))
}
