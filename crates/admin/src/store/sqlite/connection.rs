//! Connections to the database.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

/// A connection that writes. It does not checkpoint: housekeeping has a connection for that.
pub(super) fn connect(path: &Path, wait: Duration) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    conn.busy_timeout(wait)?;
    conn.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
    conn.execute_batch("PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0;")?;
    conn.set_prepared_statement_cache_capacity(64);
    Ok(conn)
}

/// A connection that reads.
pub(super) fn connect_reader(path: &Path, wait: Duration) -> rusqlite::Result<Connection> {
    let conn = connect(path, wait)?;
    conn.execute_batch("PRAGMA query_only = ON; PRAGMA cache_size = -4096;")?;
    Ok(conn)
}

/// Runs `read` in one read transaction: what it sees was true at one moment.
pub(super) fn in_transaction<T>(
    conn: &mut Connection,
    read: impl Fn(&Connection) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    let transaction = conn.transaction()?;
    let value = read(&transaction)?;
    transaction.finish()?;
    Ok(value)
}
