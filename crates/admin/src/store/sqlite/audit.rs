//! The audit: every change with its author, value before and value after, as a chain of hashes that
//! is only appended to.

mod chain;

use rusqlite::{Connection, Row, params};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::integers::{from_sql, to_sql};
use super::rows::text;
use crate::store::{AUDIT_KINDS, AuditFilter, AuditRow, Author};

pub(super) use chain::{check, link_all};

/// Rows that are kept; the oldest are removed first.
pub(super) const MAX_ROWS: i64 = 100_000;
/// Bytes of a value, at most. Longer ones are replaced by their length and SHA-256, which bounds
/// the table.
const MAX_VALUE: usize = 16 << 10;

/// Bytes of a name, at most: a row written by SQL may have a key of any length.
const MAX_NAME: usize = 1_024;
/// Bytes of a longer name that are kept.
const KEPT_OF_NAME: usize = 100;

/// Writes the audit of one change.
pub(super) struct Auditor<'a> {
    pub(super) conn: &'a Connection,
    pub(super) by: &'a Author,
    pub(super) now: &'a str,
}

impl<'a> Auditor<'a> {
    /// For changes by `by` at `now`, in the transaction that `conn` is in.
    pub(super) fn new(conn: &'a Connection, by: &'a Author, now: &'a str) -> Self {
        Self { conn, by, now }
    }

    /// Adds a row, unless both values are the same. Values are JSON; `None`: not there.
    pub(super) fn write(
        &self,
        kind: &str,
        name: &str,
        before: Option<String>,
        after: Option<String>,
    ) -> rusqlite::Result<()> {
        self.write_several(kind, name, before, after, None)
    }

    /// The same of several changes that are told as one.
    pub(super) fn write_several(
        &self,
        kind: &str,
        name: &str,
        before: Option<String>,
        after: Option<String>,
        changes: Option<u64>,
    ) -> rusqlite::Result<()> {
        debug_assert!(AUDIT_KINDS.contains(&kind), "AUDIT_KINDS lacks {kind}");
        if before == after {
            return Ok(());
        }
        let row = AuditRow {
            id: 0,
            at: self.now.to_owned(),
            actor: self.by.name.to_string(),
            address: self.by.address.map(|address| address.to_string()),
            request_id: self.by.request_id.as_deref().map(str::to_owned),
            kind: kind.to_owned(),
            name: bounded_name(name),
            before: before.map(bounded),
            after: after.map(bounded),
            changes,
            hash: String::new(),
        };
        chain::append(self.conn, row)
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

fn bounded_name(name: &str) -> String {
    if name.len() <= MAX_NAME {
        return name.to_owned();
    }
    let kept = (0..=KEPT_OF_NAME).rev().find(|&at| name.is_char_boundary(at)).unwrap_or(0);
    let (begin, _) = name.split_at(kept);
    format!("{begin}... ({} bytes, SHA-256 {})", name.len(), hex::encode(Sha256::digest(name)))
}

/// The rows that `filter` lets pass, newest first, at most `limit`.
pub(super) fn read(conn: &Connection, filter: &AuditFilter, limit: usize) -> rusqlite::Result<Vec<AuditRow>> {
    let AuditFilter { before, actor, kinds, name, since, until } = filter;
    let before = before.and_then(|id| i64::try_from(id).ok()).unwrap_or(i64::MAX);
    // Those of some kinds in a span are found by an index: charts ask for them again and again.
    let of_kinds = "what IN (SELECT value FROM json_each(?3)) AND at >= coalesce(?5, '')";
    let of_any = "?3 = '[]' AND (?5 IS NULL OR at >= ?5)";
    let which = if kinds.is_empty() { of_any } else { of_kinds };
    let mut statement = conn.prepare_cached(&format!(
        "{SELECT} WHERE {which} AND id < ?1 AND (?2 IS NULL OR who = ?2)
           AND (?4 IS NULL OR target = ?4) AND (?6 IS NULL OR at < ?6)
         ORDER BY id DESC LIMIT ?7"
    ))?;
    let (kinds, limit) = (json!(kinds).to_string(), to_sql(limit as u64));
    let rows = statement.query_map(params![before, actor, kinds, name, since, until, limit], audit_row)?;
    rows.collect()
}

/// The newest row of one of `kinds` about `name`.
pub(super) fn newest(conn: &Connection, kinds: &[&str], name: &str) -> rusqlite::Result<Option<AuditRow>> {
    newest_of(conn, kinds, name, |_| true)
}

/// The newest of these rows for which `is_meant` holds.
pub(super) fn newest_of(
    conn: &Connection,
    kinds: &[&str],
    name: &str,
    is_meant: impl Fn(&AuditRow) -> bool,
) -> rusqlite::Result<Option<AuditRow>> {
    let mut statement =
        conn.prepare_cached(&format!("{SELECT} WHERE what = ?1 AND target = ?2 ORDER BY id DESC"))?;
    let mut found: Option<AuditRow> = None;
    let name = bounded_name(name);
    for kind in kinds {
        for row in statement.query_map([*kind, name.as_str()], audit_row)? {
            let row = row?;
            if is_meant(&row) {
                found = found.into_iter().chain([row]).max_by_key(|row| row.id);
                break;
            }
        }
    }
    Ok(found)
}

const SELECT: &str =
    "SELECT id, at, who, what, target, was, became, address, request_id, changes, hash FROM audit";

fn audit_row(row: &Row<'_>) -> rusqlite::Result<AuditRow> {
    Ok(AuditRow {
        id: from_sql(row.get::<_, i64>(0)?),
        at: text(row, 1)?.unwrap_or_default(),
        actor: text(row, 2)?.unwrap_or_default(),
        kind: text(row, 3)?.unwrap_or_default(),
        name: text(row, 4)?.unwrap_or_default(),
        before: text(row, 5)?,
        after: text(row, 6)?,
        address: text(row, 7)?,
        request_id: text(row, 8)?,
        // What is no number was not written here: as another number than was, it shows.
        changes: text(row, 9)?.map(|changes| changes.parse().unwrap_or(u64::MAX)),
        hash: text(row, 10)?.unwrap_or_default(),
    })
}
