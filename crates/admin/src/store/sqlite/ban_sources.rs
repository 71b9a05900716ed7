//! What sources of bans had when they were fetched, and how their fetches go.

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::{Value, json};

use super::audit::Auditor;
use super::integers::{from_sql, to_sql};
use super::rows::{self, KeyedRow, text};
use crate::store::{
    DocumentKind, DocumentRow, FetchedSource, SetOrigin, SourceSetRow, SourceState, SourceStatus, StoreTable,
};

/// The kind of their changes in the audit.
pub(super) const AUDITED_AS: &str = "source-set";

impl KeyedRow for SourceSetRow {
    const COLUMNS: &[&str] = &["name", "entries"];

    fn read(row: &Row<'_>, from: usize) -> rusqlite::Result<Option<Self>> {
        let Some(name) = text(row, from)? else { return Ok(None) };
        let entries = match row.get_ref(from + 1)? {
            ValueRef::Blob(bytes) | ValueRef::Text(bytes) => bytes.to_vec(),
            _ => Vec::new(),
        };
        Ok(Some(Self { name, entries }))
    }
}

/// Stores what came of a fetch; `None`: the document is another one now. Otherwise the number of rows that
/// gateways follow.
pub(super) fn put(audit: &Auditor<'_>, fetched: &FetchedSource) -> rusqlite::Result<Option<usize>> {
    let conn = audit.conn;
    let table = StoreTable::Documents(DocumentKind::Source);
    let document: Option<DocumentRow> = rows::row(conn, table, &fetched.name)?;
    if document.is_none_or(|row| row.document != fetched.document) {
        return Ok(None);
    }
    put_status(conn, &fetched.name, &fetched.status)?;
    let Some(set) = &fetched.set else { return Ok(Some(0)) };
    let SetOrigin { fetched_at, document, etag, last_modified, counts } = &set.origin;
    let origin = params![fetched.name, fetched_at, document, etag, last_modified, counts];
    let Some(entries) = &set.entries else {
        // Without its bytes, so that no trigger says that gateways have to follow it.
        conn.prepare_cached(
            "UPDATE ban_source_sets SET fetched_at = ?2, document = ?3, etag = ?4, last_modified = ?5, counts = ?6
             WHERE name = ?1",
        )?
        .execute(origin)?;
        return Ok(Some(0));
    };
    let was = audited(conn, &fetched.name)?;
    let rows = conn
        .prepare_cached(
            "INSERT INTO ban_source_sets (name, fetched_at, document, etag, last_modified, counts, entries)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
             ON CONFLICT (name) DO UPDATE SET fetched_at = excluded.fetched_at, document = excluded.document,
               etag = excluded.etag, last_modified = excluded.last_modified, counts = excluded.counts,
               entries = excluded.entries",
        )?
        .execute(params![
            fetched.name,
            fetched_at,
            document,
            etag,
            last_modified,
            counts,
            entries.as_slice()
        ])?;
    audit.write(AUDITED_AS, &fetched.name, was, audited(conn, &fetched.name)?)?;
    Ok(Some(rows))
}

fn put_status(conn: &Connection, name: &str, status: &SourceStatus) -> rusqlite::Result<()> {
    let SourceStatus { checked_at, tried_at, failures, error, held_back, next_try_at } = status;
    conn.prepare_cached(
        "INSERT OR REPLACE INTO ban_source_status
           (name, checked_at, tried_at, failures, error, held_back, next_try_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute(params![name, checked_at, tried_at, to_sql(*failures), error, held_back, next_try_at])
    .map(|_| ())
}

/// Forgets what a source had, whose document is removed. Returns the number of sets.
pub(super) fn remove(audit: &Auditor<'_>, name: &str) -> rusqlite::Result<usize> {
    let was = audited(audit.conn, name)?;
    audit.conn.prepare_cached("DELETE FROM ban_source_status WHERE name = ?1")?.execute([name])?;
    let rows = audit.conn.prepare_cached("DELETE FROM ban_source_sets WHERE name = ?1")?.execute([name])?;
    if rows > 0 {
        audit.write(AUDITED_AS, name, was, None)?;
    }
    Ok(rows)
}

/// Forgets what sources had that have no document. Returns the number of sets.
pub(super) fn remove_without_document(audit: &Auditor<'_>) -> rusqlite::Result<usize> {
    let mut statement = audit.conn.prepare_cached(
        "SELECT name FROM ban_source_sets UNION SELECT name FROM ban_source_status
         EXCEPT SELECT name FROM ban_sources",
    )?;
    let names: Vec<String> = statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    names.iter().map(|name| remove(audit, name)).sum()
}

/// A set as the audit has it: without its entries.
pub(super) fn audited(conn: &Connection, name: &str) -> rusqlite::Result<Option<String>> {
    conn.prepare_cached("SELECT fetched_at, length(entries), counts FROM ban_source_sets WHERE name = ?1")?
        .query_row([name], |row| {
            let (fetched_at, bytes) = (text(row, 0)?, row.get::<_, Option<i64>>(1)?.map(from_sql));
            Ok(audit_json(fetched_at.as_deref(), bytes, text(row, 2)?.as_deref()))
        })
        .optional()
}

/// The same of these values.
pub(super) fn audit_json(fetched_at: Option<&str>, bytes: Option<u64>, counts: Option<&str>) -> String {
    let counts: Option<Value> = counts.and_then(|counts| serde_json::from_str(counts).ok());
    json!({ "fetched_at": fetched_at, "bytes": bytes, "counts": counts }).to_string()
}

/// What is stored of all sources, without their entries.
pub(super) fn states(conn: &Connection) -> rusqlite::Result<Vec<SourceState>> {
    let mut statement = conn.prepare_cached(
        "SELECT n.name, s.name, s.fetched_at, s.document, s.etag, s.last_modified, s.counts,
           t.checked_at, t.tried_at, t.failures, t.error, t.held_back, t.next_try_at
         FROM (SELECT name FROM ban_source_sets UNION SELECT name FROM ban_source_status) n
         LEFT JOIN ban_source_sets s ON s.name = n.name LEFT JOIN ban_source_status t ON t.name = n.name
         ORDER BY n.name",
    )?;
    let read = statement.query_map([], |row| {
        let origin = SetOrigin {
            fetched_at: text(row, 2)?,
            document: text(row, 3)?.unwrap_or_default(),
            etag: text(row, 4)?,
            last_modified: text(row, 5)?,
            counts: text(row, 6)?.unwrap_or_default(),
        };
        Ok(SourceState {
            name: text(row, 0)?.unwrap_or_default(),
            set: text(row, 1)?.map(|_| origin),
            status: SourceStatus {
                checked_at: text(row, 7)?,
                tried_at: text(row, 8)?,
                failures: text(row, 9)?.and_then(|count| count.parse().ok()).unwrap_or(0),
                error: text(row, 10)?,
                held_back: text(row, 11)?,
                next_try_at: text(row, 12)?,
            },
        })
    })?;
    read.collect()
}
