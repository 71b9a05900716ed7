//! Errors of the database as [`StoreError`].

use std::fmt::Display;

use rusqlite::{ErrorCode, ffi};

use crate::store::StoreError;

/// Any error as [`StoreError::Failed`].
pub(super) fn failed(error: impl Display) -> StoreError {
    StoreError::Failed(error.to_string())
}

/// SQLite's error as [`StoreError`]: a lock that another program holds is [`StoreError::Busy`].
pub(super) fn sql_error(error: &rusqlite::Error) -> StoreError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreError::Busy,
        Some(ErrorCode::DatabaseCorrupt) => StoreError::Damaged(error.to_string()),
        Some(ErrorCode::SystemIoFailure) if is_read(error) => StoreError::Damaged(error.to_string()),
        _ => failed(error),
    }
}

/// Whether a page could not be read.
fn is_read(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error().map(|error| error.extended_code);
    matches!(code, Some(ffi::SQLITE_IOERR_READ | ffi::SQLITE_IOERR_SHORT_READ | ffi::SQLITE_IOERR_CORRUPTFS))
}
