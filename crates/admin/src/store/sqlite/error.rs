//! Errors of the database as [`StoreError`].

use std::fmt::Display;

use rusqlite::ErrorCode;

use crate::store::StoreError;

/// Any error as [`StoreError::Failed`].
pub(super) fn failed(error: impl Display) -> StoreError {
    StoreError::Failed(error.to_string())
}

/// SQLite's error as [`StoreError`]: a lock that another program holds is [`StoreError::Busy`].
pub(super) fn sql_error(error: &rusqlite::Error) -> StoreError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreError::Busy,
        _ => failed(error),
    }
}
