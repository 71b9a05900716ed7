//! From earlier schema versions to the next.

use rusqlite::Connection;

/// The oldest version that can be upgraded.
pub(super) const OLDEST: i64 = 3;

/// What makes the next version of each, from [`OLDEST`] on.
const STEPS: [&str; 1] = [FROM_3];

/// Tokens have roles in the place of scopes, which had the same names, and more columns.
const FROM_3: &str = "
ALTER TABLE tokens RENAME TO tokens_3;
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
DROP TABLE tokens_3;
";

/// Upgrades a database of version `found`, in the write transaction that `conn` is in.
pub(super) fn run(conn: &Connection, found: i64) -> rusqlite::Result<()> {
    let done = usize::try_from(found - OLDEST).unwrap_or(STEPS.len());
    STEPS.iter().skip(done).try_for_each(|step| conn.execute_batch(step))
}

#[cfg(test)]
pub(super) mod tests {
    /// Makes a database of version 3 with a token of one of this version.
    pub(in super::super) const BACK_TO_3: &str = "
DROP TABLE tokens;
CREATE TABLE tokens (
  hash TEXT PRIMARY KEY NOT NULL,
  name TEXT NOT NULL,
  scope TEXT NOT NULL,
  created_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now'))
) WITHOUT ROWID;
INSERT INTO tokens VALUES ('h', 'alice', 'admin', '2026-01-02');
PRAGMA user_version = 3;
";
}
