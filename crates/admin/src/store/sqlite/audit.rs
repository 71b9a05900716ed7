//! The audit: changes through the API and the command line, with author, value before and value
//! after. Changes by SQL are not in it.

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::integers::{from_sql, to_sql};
use super::rows::text;
use crate::store::AuditRow;

/// Rows that are kept; the oldest are removed first.
const MAX_ROWS: i64 = 100_000;
/// Bytes of a value, at most. Longer ones are replaced by their length and SHA-256, which bounds
/// the table.
const MAX_VALUE: usize = 16 << 10;

/// Writes the audit of one change.
pub(super) struct Auditor<'a> {
    pub(super) conn: &'a Connection,
    pub(super) by: &'a str,
    pub(super) now: &'a str,
}

impl<'a> Auditor<'a> {
    /// For changes by `by` at `now`, in the transaction that `conn` is in.
    pub(super) fn new(conn: &'a Connection, by: &'a str, now: &'a str) -> Self {
        Self { conn, by, now }
    }

    /// Adds a row, unless both values are the same. Values are JSON; `None`: not there.
    pub(super) fn write(
        &self,
        what: &str,
        target: &str,
        was: Option<String>,
        became: Option<String>,
    ) -> rusqlite::Result<()> {
        if was == became {
            return Ok(());
        }
        self.conn
            .prepare_cached(
                "INSERT INTO audit (at, who, what, target, was, became) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute(params![self.now, self.by, what, target, was.map(bounded), became.map(bounded)])?;
        self.conn
            .prepare_cached("DELETE FROM audit WHERE id <= ?1")?
            .execute([self.conn.last_insert_rowid().saturating_sub(MAX_ROWS)])?;
        Ok(())
    }
}

/// `value` if it is JSON, else as a JSON string: rows written by SQL may hold any text.
pub(super) fn as_json(value: &str) -> String {
    match serde_json::from_str::<Value>(value) {
        Ok(_) => value.to_owned(),
        Err(_) => Value::from(value).to_string(),
    }
}

fn bounded(value: String) -> String {
    if value.len() <= MAX_VALUE {
        return value;
    }
    json!({ "bytes": value.len(), "sha256": hex::encode(Sha256::digest(&value)) }).to_string()
}

/// Rows with ids below `before`, newest first, at most `limit`.
pub(super) fn read(conn: &Connection, before: Option<u64>, limit: usize) -> rusqlite::Result<Vec<AuditRow>> {
    let before = before.and_then(|id| i64::try_from(id).ok()).unwrap_or(i64::MAX);
    let mut statement = conn.prepare_cached(&format!("{SELECT} WHERE id < ?1 ORDER BY id DESC LIMIT ?2"))?;
    let rows = statement.query_map(params![before, to_sql(limit as u64)], audit_row)?;
    rows.collect()
}

/// The newest row of `what` about `target`.
pub(super) fn newest(conn: &Connection, what: &str, target: &str) -> rusqlite::Result<Option<AuditRow>> {
    conn.prepare_cached(&format!("{SELECT} WHERE what = ?1 AND target = ?2 ORDER BY id DESC LIMIT 1"))?
        .query_row([what, target], audit_row)
        .optional()
}

const SELECT: &str = "SELECT id, at, who, what, target, was, became FROM audit";

fn audit_row(row: &Row<'_>) -> rusqlite::Result<AuditRow> {
    Ok(AuditRow {
        id: from_sql(row.get::<_, i64>(0)?),
        at: text(row, 1)?.unwrap_or_default(),
        by: text(row, 2)?.unwrap_or_default(),
        what: text(row, 3)?.unwrap_or_default(),
        target: text(row, 4)?.unwrap_or_default(),
        from: text(row, 5)?,
        to: text(row, 6)?,
    })
}
