//! Rows of the tables of documents: routes, geo rules, backends, limits, pages.

use rusqlite::{Connection, Row, params};

use super::audit::{Auditor, as_json};
use super::ban_sources;
use super::rollouts;
use super::rows::{self, KeyedRow, text};
use crate::store::{DocumentKind, DocumentRow, StoreTable};

impl KeyedRow for DocumentRow {
    const COLUMNS: &[&str] = &["name", "document", "created_at", "updated_at"];

    fn read(row: &Row<'_>, from: usize) -> rusqlite::Result<Option<Self>> {
        let Some(name) = text(row, from)? else { return Ok(None) };
        Ok(Some(Self {
            name,
            document: text(row, from + 1)?.unwrap_or_default(),
            created_at: text(row, from + 2)?,
            updated_at: text(row, from + 3)?,
        }))
    }
}

/// The document `name` of `kind` as the audit has it: its present JSON.
fn audited(conn: &Connection, kind: DocumentKind, name: &str) -> rusqlite::Result<Option<String>> {
    let row: Option<DocumentRow> = rows::row(conn, StoreTable::Documents(kind), name)?;
    Ok(row.map(|row| as_json(&row.document)))
}

/// Inserts or replaces a document; returns the number of rows written.
pub(super) fn put(
    audit: &Auditor<'_>,
    kind: DocumentKind,
    name: &str,
    document: &str,
) -> rusqlite::Result<usize> {
    let was = audited(audit.conn, kind, name)?;
    let rows = audit
        .conn
        .prepare_cached(&format!(
            "INSERT INTO {} (name, document, created_at, updated_at) VALUES (?1, ?2, ?3, ?3)
             ON CONFLICT (name) DO UPDATE SET document = excluded.document, updated_at = excluded.updated_at",
            StoreTable::Documents(kind).name()
        ))?
        .execute(params![name, document, audit.now])?;
    audit.write(kind.name(), name, was, Some(as_json(document)))?;
    Ok(rows)
}

/// Removes a document; returns the number of rows removed.
pub(super) fn delete(audit: &Auditor<'_>, kind: DocumentKind, name: &str) -> rusqlite::Result<usize> {
    let was = audited(audit.conn, kind, name)?;
    let sql = format!("DELETE FROM {} WHERE name = ?1", StoreTable::Documents(kind).name());
    let rows = audit.conn.prepare_cached(&sql)?.execute([name])?;
    if rows > 0 {
        if kind == DocumentKind::Source {
            ban_sources::remove(audit, name)?;
        }
        if kind == DocumentKind::Rollout {
            rollouts::remove(audit.conn, name)?;
        }
        audit.write(kind.name(), name, was, None)?;
    }
    Ok(rows)
}
