//! From earlier schema versions to the next.

use rusqlite::Connection;

use crate::store::sqlite::{audit, meta};

/// The oldest version that can be upgraded.
pub(super) const OLDEST: i64 = 3;

/// What makes the next version of each, from [`OLDEST`] on.
const STEPS: [fn(&Connection) -> rusqlite::Result<()>; 12] =
    [from_3, from_4, from_5, from_6, from_7, from_8, from_9, from_10, from_11, from_12, from_13, from_14];

/// Upgrades a database of version `found`, in the write transaction that `conn` is in.
pub(super) fn run(conn: &Connection, found: i64) -> rusqlite::Result<()> {
    let done = usize::try_from(found - OLDEST).unwrap_or(STEPS.len());
    STEPS.iter().skip(done).try_for_each(|step| step(conn))
}

/// Tokens have roles in the place of scopes, which had the same names, and more columns.
fn from_3(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute_batch(
        "ALTER TABLE tokens RENAME TO tokens_3;
         CREATE TABLE tokens (
           hash TEXT PRIMARY KEY NOT NULL,
           name TEXT NOT NULL,
           role TEXT NOT NULL,
           node TEXT,
           expires_at TEXT,
           created_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
           created_by TEXT,
           last_used_at TEXT
         ) WITHOUT ROWID;
         INSERT INTO tokens (hash, name, role, created_at) SELECT hash, name, scope, created_at FROM tokens_3;
         DROP TABLE tokens_3;",
    )
}

/// The audit has more columns and is a chain; the change log has what rows said before. What other
/// programs changed before this is not known.
fn from_4(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute_batch(
        "ALTER TABLE change_log ADD COLUMN was TEXT;
         ALTER TABLE audit ADD COLUMN address TEXT;
         ALTER TABLE audit ADD COLUMN request_id TEXT;
         ALTER TABLE audit ADD COLUMN changes INTEGER;
         ALTER TABLE audit ADD COLUMN hash TEXT;",
    )?;
    audit::link_all(conn)?;
    let newest = conn.query_row("SELECT coalesce(max(seq), 0) FROM change_log", [], |row| row.get(0))?;
    meta::set(conn, meta::AUDITED, newest)
}

/// There are keys of requests, in a table of their own, which is created as every missing one.
fn from_5(_: &Connection) -> rusqlite::Result<()> {
    Ok(())
}

/// Statistics have tables, which are created with all that is missing: they begin now.
fn from_6(_: &Connection) -> rusqlite::Result<()> {
    Ok(())
}

/// Bans say whose list has them.
fn from_7(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute_batch("ALTER TABLE ip_monitor ADD COLUMN source TEXT")
}

/// Automatic bans have tables, which are created with all that is missing.
fn from_8(_: &Connection) -> rusqlite::Result<()> {
    Ok(())
}

/// There are sources of bans, in tables of their own; the change log has whose a ban was.
fn from_9(_: &Connection) -> rusqlite::Result<()> {
    Ok(())
}

/// Events say what entries in shadow would have denied. The view is created with all that is missing.
fn from_10(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute_batch(
        "DROP VIEW IF EXISTS traffic_events;
         ALTER TABLE events ADD COLUMN would_deny TEXT;
         ALTER TABLE events ADD COLUMN would_deny_rule TEXT;",
    )
}

/// Events and statistics have the gate's own time; what is stored already has none. The index of events of
/// which a check in shadow differed is created with all that is missing.
fn from_11(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute_batch(
        "DROP VIEW IF EXISTS traffic_events;
         ALTER TABLE events ADD COLUMN gate_us INTEGER;",
    )?;
    // Before version 7 there were no statistics.
    match conn.prepare("SELECT 1 FROM rollups") {
        Ok(_) => conn.execute_batch("ALTER TABLE rollups ADD COLUMN gate BLOB NOT NULL DEFAULT x''"),
        Err(_) => Ok(()),
    }
}

/// Events say whose lists have the ban that denied a request, or would have. The view is created with all that is missing.
fn from_12(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute_batch(
        "DROP VIEW IF EXISTS traffic_events;
         ALTER TABLE events ADD COLUMN ban_source TEXT;",
    )
}

/// Bans may apply at some hostnames or routes only: they have a table of their own, which is created with all that
/// is missing.
fn from_13(_: &Connection) -> rusqlite::Result<()> {
    Ok(())
}

/// There are rollouts, in tables that are created with all that is missing.
fn from_14(_: &Connection) -> rusqlite::Result<()> {
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    /// Makes a database of version 3 with a token, a change and its audit of one of this version.
    pub(in super::super) const BACK_TO_3: &str = "
DROP VIEW traffic_events;
DROP INDEX events_mismatched;
ALTER TABLE events DROP COLUMN ban_source;
ALTER TABLE events DROP COLUMN would_deny;
ALTER TABLE events DROP COLUMN would_deny_rule;
ALTER TABLE events DROP COLUMN gate_us;
DROP TRIGGER ip_monitor_updated;
DROP TRIGGER ip_monitor_deleted;
DROP TABLE scoped_bans;
DROP TABLE idempotency_keys;
DROP TABLE ban_sources;
DROP TABLE ban_source_sets;
DROP TABLE ban_source_status;
DROP TABLE rollups;
DROP TABLE rollup_keys;
DROP TABLE top_values;
DROP TABLE listeners;
DROP TABLE auto_bans;
DROP TABLE rollouts;
DROP TABLE rollout_runs;
DROP TABLE rollout_figures;
DROP TABLE rollout_notices;
DROP TABLE auto_ban_history;
DROP TRIGGER audit_changed;
DROP TRIGGER audit_removed;
ALTER TABLE ip_monitor DROP COLUMN source;
DROP TABLE tokens;
CREATE TABLE tokens (
  hash TEXT PRIMARY KEY NOT NULL,
  name TEXT NOT NULL,
  scope TEXT NOT NULL,
  created_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now'))
) WITHOUT ROWID;
INSERT INTO tokens VALUES ('h', 'alice', 'admin', '2026-01-02');
DROP TABLE audit;
CREATE TABLE audit (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  at TEXT NOT NULL,
  who TEXT NOT NULL,
  what TEXT NOT NULL,
  target TEXT NOT NULL,
  was TEXT,
  became TEXT
);
CREATE INDEX audit_target ON audit (what, target);
INSERT INTO audit VALUES (7, '2026-01-02', 'alice', 'flag', 'f', NULL, 'true'), (8, '2026-01-02', 'alice', 'flag', 'f', 'true', NULL);
DROP TABLE change_log;
CREATE TABLE change_log (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  tbl TEXT NOT NULL,
  key NOT NULL
);
INSERT INTO change_log (tbl, key) VALUES ('flags', 'f');
PRAGMA user_version = 3;
";
}
