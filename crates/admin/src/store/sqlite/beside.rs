//! A connection of a command to a database that a service may have open.

use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;

use super::aliases::AddressAliases;
use super::error::{failed, sql_error};
use super::file::{self, ServiceLock};
use super::integers::to_sql;
use super::schema::{Upgrade, read_state};
use super::writer::Writer;
use super::{foreign_changes, meta, writes};
use crate::store::{Author, Change, Committed, StoreError};

/// How long a command waits for another program's lock.
const WAIT: Duration = Duration::from_secs(5);

/// Opens the database at `path`, creating it if there is none. One of an earlier schema version is
/// upgraded if no service has it: a service of that version could not go on with it.
///
/// # Errors
/// When it cannot be created, read or written, or is of another schema version.
pub(super) fn open(path: &Path) -> Result<Connection, StoreError> {
    let path = file::create(path).map_err(failed)?;
    let opened = match Writer::open(&path, WAIT, Upgrade::Refused) {
        Err(refused) => match ServiceLock::take(&path) {
            Ok(_lock) => Writer::open(&path, WAIT, Upgrade::Allowed),
            Err(_) => Err(refused),
        },
        opened => opened,
    };
    let (conn, ..) = opened?;
    conn.busy_timeout(WAIT).map_err(|e| sql_error(&e))?;
    Ok(conn)
}

/// Applies `change`, by the author `by`, in one transaction.
pub(super) fn commit(conn: &Connection, change: &Change, by: &Author) -> rusqlite::Result<Committed> {
    // A connection that is closed within a transaction rolls it back.
    conn.execute_batch("BEGIN IMMEDIATE")?;
    foreign_changes::audit(conn, read_state(conn)?.newest)?;
    let committed = writes::apply(conn, &mut AddressAliases::default(), change, None, by, &[])?;
    meta::set(conn, meta::AUDITED, to_sql(committed.seq))?;
    conn.execute_batch("COMMIT")?;
    Ok(committed)
}
