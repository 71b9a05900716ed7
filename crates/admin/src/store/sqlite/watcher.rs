//! Looks, twenty times a second, whether somebody else wrote: one read transaction
//! and one `stat`.

use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;

use super::file::connect_reader;
use super::readers::in_transaction;
use super::schema::look;
use super::shared::Shared;

/// Runs until the store is closed.
pub(super) fn run(shared: &Arc<Shared>) {
    let mut open = None;
    while shared.sleep(shared.options.look_every) {
        if let Err(e) = one_look(shared, &mut open) {
            tracing::debug!("cannot look at the database: {e}");
            open = None;
            shared.queue.put_mend();
        }
    }
}

/// A connection, and the count of files when it was opened.
type Open = (Connection, u64);

fn one_look(shared: &Shared, open: &mut Option<Open>) -> rusqlite::Result<()> {
    if !shared.is_in_place() {
        // Only the writer decides what the database is.
        shared.queue.put_mend();
        return Ok(());
    }
    if open.as_ref().is_some_and(|(_, file)| *file != shared.file()) {
        *open = None;
    }
    let (conn, _) = match open {
        Some(open) => open,
        None => {
            let file = shared.file();
            open.insert((connect_reader(&shared.path, Duration::ZERO)?, file))
        }
    };
    let now = in_transaction(conn, look)?;
    if shared.has_moved(now) {
        shared.queue.put_mend();
    } else if now.newest > shared.told() {
        shared.saw(now.newest);
        shared.notify();
    }
    Ok(())
}
