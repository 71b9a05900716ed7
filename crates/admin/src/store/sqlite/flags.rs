//! Rows of `flags`.

use rusqlite::{Row, params};
use serde_json::Value;

use super::audit::{Auditor, as_json};
use super::rows::{self, KeyedRow, text};
use crate::store::{FlagRow, StoreTable};

impl KeyedRow for FlagRow {
    const COLUMNS: &[&str] = &["name", "value", "updated_at"];

    fn read(row: &Row<'_>, from: usize) -> rusqlite::Result<Option<Self>> {
        let Some(name) = text(row, from)? else { return Ok(None) };
        let value = text(row, from + 1)?.unwrap_or_default();
        Ok(Some(Self { name, value, updated_at: text(row, from + 2)? }))
    }
}

/// Sets flags; returns the number of rows written. A flag that has the value already is not
/// written; a flag without a row is off.
pub(super) fn set(audit: &Auditor<'_>, flags: &[(String, String)]) -> rusqlite::Result<usize> {
    let mut rows = 0;
    for (name, value) in flags {
        let was = rows::row::<FlagRow>(audit.conn, StoreTable::Flags, name)?.map(|row| row.value);
        let stands: Option<Value> = serde_json::from_str(was.as_deref().unwrap_or("false")).ok();
        if stands.is_some() && stands == serde_json::from_str(value).ok() {
            continue;
        }
        rows += audit
            .conn
            .prepare_cached(
                "INSERT INTO flags (name, value, updated_at) VALUES (?1, ?2, ?3)
                 ON CONFLICT (name) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at",
            )?
            .execute(params![name, value, audit.now])?;
        audit.write("flag", name, was.as_deref().map(as_json), Some(as_json(value)))?;
    }
    Ok(rows)
}
