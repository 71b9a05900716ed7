//! What the database looks like. Old `sqlite3` programs write it too, so nothing
//! here, and nothing that runs in their connections, is newer than SQLite 3.31.

use rusqlite::Connection;

/// The steps from an empty file to now; `PRAGMA user_version` counts those done.
const MIGRATIONS: [&str; 1] = [V1];

/// Tables that people write have exactly one unique key and no rowid: a REPLACE
/// by rowid, or by a second key, would delete a row that no trigger sees. The log
/// holds the raw key; `tbl` is a table's name or one of [`RELOAD`] and [`EPOCH`].
const V1: &str = "
CREATE TABLE IF NOT EXISTS ip_monitor (
  ip TEXT PRIMARY KEY NOT NULL CHECK (typeof(ip) = 'text'),
  status TEXT NOT NULL DEFAULT 'banned',
  reason TEXT,
  created_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
  updated_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
  expires_at TEXT
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS routes (
  name TEXT PRIMARY KEY NOT NULL CHECK (typeof(name) = 'text'),
  document TEXT NOT NULL,
  created_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
  updated_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now'))
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS change_log (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  tbl TEXT NOT NULL,
  key NOT NULL
);
CREATE TABLE IF NOT EXISTS tokens (
  hash TEXT PRIMARY KEY NOT NULL,
  name TEXT NOT NULL,
  scope TEXT NOT NULL,
  created_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now'))
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS meta (
  name TEXT PRIMARY KEY NOT NULL,
  value NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sources (
  source BLOB PRIMARY KEY NOT NULL,
  gateway TEXT NOT NULL,
  numbered_hi INTEGER NOT NULL DEFAULT 0,
  stored INTEGER NOT NULL DEFAULT 0,
  dropped INTEGER NOT NULL DEFAULT 0,
  duplicates INTEGER NOT NULL DEFAULT 0,
  heard_at INTEGER NOT NULL,
  closed_at INTEGER,
  dead_at INTEGER
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS source_marks (
  source BLOB NOT NULL,
  at INTEGER NOT NULL,
  numbered_hi INTEGER NOT NULL,
  PRIMARY KEY (source, at)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS ledger (
  source BLOB NOT NULL,
  first INTEGER NOT NULL,
  last INTEGER NOT NULL,
  PRIMARY KEY (source, first)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS dropped (
  source BLOB NOT NULL,
  first INTEGER NOT NULL,
  last INTEGER NOT NULL,
  reason TEXT NOT NULL,
  PRIMARY KEY (source, first)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS events (
  id INTEGER PRIMARY KEY,
  source BLOB NOT NULL,
  number INTEGER NOT NULL,
  timestamp TEXT NOT NULL,
  node TEXT NOT NULL,
  method TEXT,
  host TEXT,
  path TEXT,
  route TEXT,
  client_ip TEXT,
  verdict TEXT NOT NULL,
  reason TEXT,
  rule TEXT,
  status INTEGER,
  duration_us INTEGER,
  upstream_us INTEGER,
  bytes_in INTEGER,
  bytes_out INTEGER,
  user_agent TEXT,
  tunnel INTEGER NOT NULL,
  tables_seq INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS events_timestamp ON events (timestamp);
DROP VIEW IF EXISTS traffic_events;
CREATE VIEW traffic_events AS SELECT
  lower(hex(source)) AS source, number, timestamp, node, method, host, path, route,
  client_ip, NULL AS country, verdict, reason, rule, status,
  duration_us / 1000.0 AS duration_ms, upstream_us / 1000.0 AS upstream_ms,
  bytes_in, bytes_out, user_agent, tunnel, tables_seq, 1 AS complete
FROM events;
";

/// `change_log.tbl` of a row that says: what came before must be read anew.
pub(super) const RELOAD: &str = "!reload";
/// `change_log.tbl` of a row that says: nor do the numbers before it count.
pub(super) const EPOCH: &str = "!epoch";

/// The triggers that fill the log, as (name, text). They run in the connection of
/// whoever writes, so they use built-in SQL only.
const TRIGGERS: [(&str, &str); 6] = [
    (
        "ip_monitor_inserted",
        "CREATE TRIGGER ip_monitor_inserted AFTER INSERT ON ip_monitor BEGIN \
         INSERT INTO change_log (tbl, key) VALUES ('ip_monitor', NEW.ip); END",
    ),
    (
        "ip_monitor_updated",
        "CREATE TRIGGER ip_monitor_updated AFTER UPDATE ON ip_monitor BEGIN \
         INSERT INTO change_log (tbl, key) SELECT 'ip_monitor', OLD.ip WHERE OLD.ip IS NOT NEW.ip; \
         INSERT INTO change_log (tbl, key) VALUES ('ip_monitor', NEW.ip); END",
    ),
    (
        "ip_monitor_deleted",
        "CREATE TRIGGER ip_monitor_deleted AFTER DELETE ON ip_monitor BEGIN \
         INSERT INTO change_log (tbl, key) VALUES ('ip_monitor', OLD.ip); END",
    ),
    (
        "routes_inserted",
        "CREATE TRIGGER routes_inserted AFTER INSERT ON routes BEGIN \
         INSERT INTO change_log (tbl, key) VALUES ('routes', NEW.name); END",
    ),
    (
        "routes_updated",
        "CREATE TRIGGER routes_updated AFTER UPDATE ON routes BEGIN \
         INSERT INTO change_log (tbl, key) SELECT 'routes', OLD.name WHERE OLD.name IS NOT NEW.name; \
         INSERT INTO change_log (tbl, key) VALUES ('routes', NEW.name); END",
    ),
    (
        "routes_deleted",
        "CREATE TRIGGER routes_deleted AFTER DELETE ON routes BEGIN \
         INSERT INTO change_log (tbl, key) VALUES ('routes', OLD.name); END",
    ),
];

/// Two numbers that say whether anything moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Look {
    /// SQLite's schema cookie: moves with every change of the schema, and with
    /// `.restore` and `VACUUM`.
    pub(super) schema: i64,
    /// The newest `seq`; 0 when the log is empty.
    pub(super) newest: u64,
}

/// Looks, in the transaction that `conn` is in.
pub(super) fn look(conn: &Connection) -> rusqlite::Result<Look> {
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
    Ok(Look { schema, newest: u64::try_from(newest).unwrap_or(0) })
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
    let fresh = done == 0;
    for step in steps {
        conn.execute_batch(step)?;
    }
    if !steps.is_empty() {
        conn.execute_batch(&format!("PRAGMA user_version = {}", MIGRATIONS.len()))?;
    }
    let mut mended = if fresh { Vec::new() } else { missing_objects(conn)? };
    if !mended.is_empty() {
        conn.execute_batch(V1)?;
    }
    for trigger in wrong_triggers(conn)? {
        conn.execute_batch(&format!("DROP TRIGGER IF EXISTS {}; {}", trigger.0, trigger.1))?;
        if !fresh {
            mended.push(format!("trigger {}", trigger.0));
        }
    }
    Ok(mended)
}

/// Tables and views of ours that somebody dropped.
fn missing_objects(conn: &Connection) -> rusqlite::Result<Vec<String>> {
    const OURS: [&str; 12] = [
        "ip_monitor",
        "routes",
        "change_log",
        "tokens",
        "meta",
        "sources",
        "source_marks",
        "ledger",
        "dropped",
        "events",
        "events_timestamp",
        "traffic_events",
    ];
    let mut statement = conn.prepare("SELECT 1 FROM sqlite_master WHERE name = ?1")?;
    let mut missing = Vec::new();
    for name in OURS {
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
    for (name, text) in TRIGGERS {
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
        let before = look(&conn).unwrap();
        assert!(ensure(&conn).unwrap().is_empty());
        assert_eq!(look(&conn).unwrap(), before);
        conn.execute_batch("DROP TABLE change_log").unwrap();
        assert_eq!(look(&conn).unwrap().newest, 0);
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
