//! Watches for writes of other programs: every 50 ms one read transaction (schema cookie,
//! newest `seq`) and one `stat`.

use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;

use super::connection::{connect_reader, in_transaction};
use super::database::Database;
use super::error::sql_error;
use super::faults::Work;
use super::schema::read_state;

/// Runs until the store is closed.
pub(super) fn run(database: &Arc<Database>) {
    let mut open = None;
    while database.sleep(database.options.look_every) {
        let looked = one_look(database, &mut open);
        database.faults.note(Work::Read("watching"), &looked.as_ref().map_err(sql_error));
        if let Err(e) = looked {
            tracing::debug!("cannot look at the database: {e}");
            open = None;
            database.queue.put_repair();
        }
    }
}

/// A connection, and [`Database::file()`] when it was opened.
type WatchConnection = (Connection, u64);

fn one_look(database: &Database, open: &mut Option<WatchConnection>) -> rusqlite::Result<()> {
    if !database.is_in_place() {
        // Only the writer opens another file as the database.
        database.queue.put_repair();
        return Ok(());
    }
    if open.as_ref().is_some_and(|(_, file)| *file != database.file()) {
        *open = None;
    }
    let (conn, _) = match open {
        Some(open) => open,
        None => {
            let file = database.file();
            open.insert((connect_reader(&database.path, Duration::ZERO)?, file))
        }
    };
    let now = in_transaction(conn, read_state)?;
    if database.has_moved(now) {
        database.queue.put_repair();
    } else if now.newest > database.told() {
        database.saw(now.newest);
        database.notify();
        // For the audit.
        database.queue.put_repair();
    }
    Ok(())
}
