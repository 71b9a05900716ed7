//! Named values in the table `meta`.

use rusqlite::{Connection, OptionalExtension, params};

/// When the writer last tried to write, milliseconds since the Unix epoch.
pub(super) const WRITTEN_AT: &str = "health.written_at";

/// The newest `seq` whose change is in the audit.
pub(super) const AUDITED: &str = "audit.seq";

/// The value of `name`; 0 if there is none.
pub(super) fn get(conn: &Connection, name: &str) -> rusqlite::Result<i64> {
    conn.prepare_cached("SELECT coalesce((SELECT value FROM meta WHERE name = ?1), 0)")?
        .query_row([name], |row| row.get(0))
}

/// Sets `name`.
pub(super) fn set(conn: &Connection, name: &str, value: i64) -> rusqlite::Result<()> {
    conn.prepare_cached("INSERT OR REPLACE INTO meta (name, value) VALUES (?1, ?2)")?
        .execute(params![name, value])?;
    Ok(())
}

/// Adds `more`, which may be negative. The sum stays within SQLite's integers: an overflow would
/// make it a floating-point number, which no reader expects.
pub(super) fn add(conn: &Connection, name: &str, more: i64) -> rusqlite::Result<()> {
    match more {
        0 => Ok(()),
        _ => set(conn, name, get(conn, name)?.saturating_add(more)),
    }
}

/// The text of `name`; `None`: there is none.
pub(super) fn get_text(conn: &Connection, name: &str) -> rusqlite::Result<Option<String>> {
    conn.prepare_cached("SELECT CAST(value AS TEXT) FROM meta WHERE name = ?1")?
        .query_row([name], |row| row.get(0))
        .optional()
}

/// Sets `name` to a text.
pub(super) fn set_text(conn: &Connection, name: &str, value: &str) -> rusqlite::Result<()> {
    conn.prepare_cached("INSERT OR REPLACE INTO meta (name, value) VALUES (?1, ?2)")?
        .execute(params![name, value])?;
    Ok(())
}
