//! The row of `geo_countries`.

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::json;

use super::audit::Auditor;
use super::rows::{KeyedRow, text};
use crate::store::CountriesRow;

impl KeyedRow for CountriesRow {
    const COLUMNS: &[&str] = &["id", "source", "imported_at", "data"];

    fn read(row: &Row<'_>, from: usize) -> rusqlite::Result<Option<Self>> {
        if text(row, from)?.is_none() {
            return Ok(None);
        }
        let table = match row.get_ref(from + 3)? {
            ValueRef::Blob(bytes) | ValueRef::Text(bytes) => bytes.to_vec(),
            _ => Vec::new(),
        };
        let source = text(row, from + 1)?.unwrap_or_default();
        Ok(Some(Self { source, imported_at: text(row, from + 2)?, table }))
    }
}

/// Replaces the table; returns the number of rows written.
pub(super) fn set(audit: &Auditor<'_>, source: &str, table: &[u8]) -> rusqlite::Result<usize> {
    let conn = audit.conn;
    let was = audited(conn)?;
    let rows = conn
        .prepare_cached(
            "INSERT OR REPLACE INTO geo_countries (id, source, imported_at, data) VALUES (1, ?1, ?2, ?3)",
        )?
        .execute(params![source, audit.now, table])?;
    audit.write("countries", source, was, audited(conn)?)?;
    Ok(rows)
}

/// The country table as the audit has it: without its bytes.
pub(super) fn audited(conn: &Connection) -> rusqlite::Result<Option<String>> {
    conn.prepare_cached("SELECT source, imported_at, length(data) FROM geo_countries")?
        .query_row([], |row| {
            let (source, imported_at) = (text(row, 0)?, text(row, 1)?);
            let bytes: i64 = row.get(2)?;
            Ok(audit_json(source.as_deref(), imported_at.as_deref(), u64::try_from(bytes).ok()))
        })
        .optional()
}

/// A country table as the audit has it.
pub(super) fn audit_json(source: Option<&str>, imported_at: Option<&str>, bytes: Option<u64>) -> String {
    json!({ "source": source, "imported_at": imported_at, "bytes": bytes }).to_string()
}

/// What was imported last.
pub(super) fn source(conn: &Connection) -> rusqlite::Result<Option<String>> {
    let found = conn
        .prepare_cached("SELECT source FROM geo_countries")?
        .query_row([], |row| text(row, 0))
        .optional()?;
    Ok(found.flatten())
}
