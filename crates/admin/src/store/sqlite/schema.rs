//! What the database looks like. Old `sqlite3` programs write it too, so nothing
//! here, and nothing that runs in their connections, is newer than SQLite 3.31.

mod ddl;

use rusqlite::Connection;

use super::top_addresses;
pub(super) use ddl::{EVENT_COLUMNS_V2, EVENTS_OPEN, TABLES_V2};
use ddl::{EVENT_COLUMNS_V3, OBJECTS, TABLES_V1, TABLES_V3, TRIGGERS, VIEW};

/// A step that may be taken again: what is there already stays as it is.
type Step = fn(&Connection) -> rusqlite::Result<()>;

/// The steps from an empty file to now; `PRAGMA user_version` counts those done.
const MIGRATIONS: [Step; 3] = [v1, v2, v3];

fn v1(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute_batch(TABLES_V1)
}

fn v2(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute_batch(TABLES_V2)?;
    add_event_columns(conn, &EVENT_COLUMNS_V2)?;
    conn.execute_batch(EVENTS_OPEN)?;
    top_addresses::count_anew(conn)
}

fn v3(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute_batch(TABLES_V3)?;
    add_event_columns(conn, &EVENT_COLUMNS_V3)?;
    conn.execute_batch(VIEW)
}

/// Adds those columns to `events` that are not there.
fn add_event_columns(conn: &Connection, columns: &[(&str, &str)]) -> rusqlite::Result<()> {
    let mut has = conn.prepare("SELECT 1 FROM pragma_table_info('events') WHERE name = ?1")?;
    for (column, kind) in columns {
        if !has.exists([column])? {
            conn.execute_batch(&format!("ALTER TABLE events ADD COLUMN {column} {kind}"))?;
        }
    }
    Ok(())
}

/// `change_log.tbl` of a row that says: what came before must be read anew.
pub(super) const RELOAD: &str = "!reload";
/// `change_log.tbl` of a row that says: nor do the numbers before it count.
pub(super) const EPOCH: &str = "!epoch";

/// Two numbers that say whether anything moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct DatabaseState {
    /// SQLite's schema cookie: moves with every change of the schema, and with
    /// `.restore` and `VACUUM`.
    pub(super) schema: i64,
    /// The newest `seq`; 0 when the log is empty.
    pub(super) newest: u64,
}

/// Looks, in the transaction that `conn` is in.
pub(super) fn read_state(conn: &Connection) -> rusqlite::Result<DatabaseState> {
    let schema = conn.prepare_cached("PRAGMA schema_version")?.query_row([], |row| row.get(0))?;
    let newest = conn
        .prepare_cached("SELECT coalesce(max(seq), 0) FROM change_log")
        .and_then(|mut statement| statement.query_row([], |row| row.get::<_, i64>(0)));
    let newest = match newest {
        Ok(newest) => newest,
        // Somebody dropped it: the schema has moved, which will be seen to.
        Err(e) if e.to_string().contains("no such table") => 0,
        Err(e) => return Err(e),
    };
    Ok(DatabaseState { schema, newest: u64::try_from(newest).unwrap_or(0) })
}

/// Why the schema could not be brought up to date.
#[derive(Debug, thiserror::Error)]
pub(super) enum SchemaError {
    /// A newer program wrote it.
    #[error("the database has schema version {found}, this program knows {known}: start the newer program")]
    Newer {
        /// `PRAGMA user_version`.
        found: i64,
        /// What we have.
        known: usize,
    },
    /// SQLite said no.
    #[error(transparent)]
    Sql(#[from] rusqlite::Error),
}

/// Brings the schema up to date and puts the triggers right, in the write
/// transaction that `conn` is in. Answers what had to be mended: nothing, on a
/// database that is as we left it.
pub(super) fn ensure(conn: &Connection) -> Result<Vec<String>, SchemaError> {
    let version: i64 = conn.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let done = usize::try_from(version).unwrap_or(0);
    let steps =
        MIGRATIONS.get(done..).ok_or(SchemaError::Newer { found: version, known: MIGRATIONS.len() })?;
    let (fresh, moved) = (done == 0, !steps.is_empty());
    if moved {
        // From the first on: something may have been dropped before the upgrade.
        MIGRATIONS.iter().try_for_each(|step| step(conn))?;
        conn.execute_batch(&format!("PRAGMA user_version = {}", MIGRATIONS.len()))?;
    }
    let mut mended = if fresh { Vec::new() } else { missing_objects(conn)? };
    if !mended.is_empty() {
        MIGRATIONS.iter().try_for_each(|step| step(conn))?;
    }
    for trigger in wrong_triggers(conn)? {
        conn.execute_batch(&format!("DROP TRIGGER IF EXISTS {}; {}", trigger.0, trigger.1))?;
        if !moved {
            mended.push(format!("trigger {}", trigger.0));
        }
    }
    Ok(mended)
}

/// Objects of ours that somebody dropped.
fn missing_objects(conn: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut statement = conn.prepare("SELECT 1 FROM sqlite_master WHERE name = ?1")?;
    let mut missing = Vec::new();
    for name in OBJECTS {
        if !statement.exists([name])? {
            missing.push(name.to_owned());
        }
    }
    Ok(missing)
}

/// Triggers that are not there, or not as they should be.
fn wrong_triggers(conn: &Connection) -> rusqlite::Result<Vec<(&'static str, &'static str)>> {
    let mut statement =
        conn.prepare("SELECT 1 FROM sqlite_master WHERE type = 'trigger' AND name = ?1 AND sql = ?2")?;
    let mut wrong = Vec::new();
    for (name, text) in TRIGGERS.into_iter().flatten() {
        if !statement.exists([name, text])? {
            wrong.push((name, text));
        }
    }
    Ok(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twice_is_once_and_what_is_dropped_comes_back() {
        let conn = Connection::open_in_memory().unwrap();
        assert!(ensure(&conn).unwrap().is_empty());
        let before = read_state(&conn).unwrap();
        assert!(ensure(&conn).unwrap().is_empty());
        assert_eq!(read_state(&conn).unwrap(), before);
        conn.execute_batch("DROP TABLE change_log").unwrap();
        assert_eq!(read_state(&conn).unwrap().newest, 0);
        conn.execute_batch("DROP TRIGGER routes_updated; DROP VIEW traffic_events; DROP TABLE ip_monitor")
            .unwrap();
        let mended = ensure(&conn).unwrap().join(",");
        assert!(
            mended.contains("ip_monitor,change_log,traffic_events,trigger ip_monitor_inserted"),
            "{mended}"
        );
        assert!(mended.contains("trigger routes_updated"), "{mended}");
        assert!(ensure(&conn).unwrap().is_empty());
    }

    #[test]
    fn a_newer_schema_is_refused_by_name() {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch("PRAGMA user_version = 99").unwrap();
        assert!(ensure(&conn).unwrap_err().to_string().contains("schema version 99"));
    }
}
