//! Looks, twenty times a second, whether somebody else wrote: one read transaction
//! and one `stat`.

use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;

use super::file::{FileId, connect_reader};
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

/// A connection, the file that it has open, and the count of files at that time.
type Open = (Connection, FileId, u64);

fn one_look(shared: &Shared, open: &mut Option<Open>) -> rusqlite::Result<()> {
    let here = FileId::of(&shared.path).ok();
    if open.as_ref().is_some_and(|(_, _, count)| *count != shared.file()) {
        *open = None;
    }
    let (conn, file, _) = match open {
        Some(open) => open,
        None => {
            let count = shared.file();
            let conn = connect_reader(&shared.path, Duration::ZERO)?;
            let Some(file) = here else { return Ok(()) };
            open.insert((conn, file, count))
        }
    };
    if here != Some(*file) {
        // Only the writer decides what the database is.
        shared.queue.put_mend();
        return Ok(());
    }
    let now = in_transaction(conn, look)?;
    if shared.has_moved(now) {
        shared.queue.put_mend();
    } else if now.newest > shared.told() {
        shared.saw(now.newest);
        shared.notify();
    }
    Ok(())
}
