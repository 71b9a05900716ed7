//! Rows of `scoped_bans`: bans that apply at some hostnames or routes only. Each has a row of its own for each place
//! and each origin, so that none hides, widens or ends another one: an address is banned while one of them says so.

use rusqlite::{Connection, Row, params};
use serde_json::json;
use tidegate_author::{read_scope_text, write_scope};

use super::audit::Auditor;
use super::ban_import;
use super::ip_monitor::NewEntry;
use super::rows::{self, KeyedRow, text};
use crate::store::{BanMode, ScopedBanKey, ScopedBanRow, StoreTable};

const TABLE: StoreTable = StoreTable::ScopedBans;

impl KeyedRow for ScopedBanRow {
    const COLUMNS: &[&str] =
        &["ip", "applies_to", "source", "status", "reason", "created_at", "updated_at", "expires_at"];

    fn read(row: &Row<'_>, from: usize) -> rusqlite::Result<Option<Self>> {
        let Some(ip) = text(row, from)? else { return Ok(None) };
        Ok(Some(Self {
            ip,
            applies_to: text(row, from + 1)?.unwrap_or_default(),
            source: text(row, from + 2)?.unwrap_or_default(),
            status: text(row, from + 3)?.unwrap_or_default(),
            reason: text(row, from + 4)?,
            created_at: text(row, from + 5)?,
            updated_at: text(row, from + 6)?,
            expires_at: text(row, from + 7)?,
        }))
    }
}

/// Adds the rows whose `ip` is `key`.
pub(super) fn of_address(
    conn: &Connection,
    key: &str,
    found: &mut Vec<ScopedBanRow>,
) -> rusqlite::Result<()> {
    let sql = format!("SELECT {} FROM scoped_bans t WHERE t.ip = ?1", ScopedBanRow::columns());
    let mut statement = conn.prepare_cached(&sql)?;
    let mut rows = statement.query([key])?;
    while let Some(row) = rows.next()? {
        found.extend(ScopedBanRow::read(row, 0)?);
    }
    Ok(())
}

/// The rows of this address and origin that apply at `scope`, as we write it: other programs may write the same in
/// another way.
pub(super) fn of_place(
    conn: &Connection,
    ip: &str,
    source: &str,
    scope: &str,
) -> rusqlite::Result<Vec<ScopedBanRow>> {
    let mut all = Vec::new();
    of_address(conn, ip, &mut all)?;
    all.retain(|row| row.source == source && canonical_scope(&row.applies_to) == scope);
    Ok(all)
}

/// A scope of a row in the form in which we write it, or as it is if it cannot be read.
fn canonical_scope(text: &str) -> String {
    read_scope_text(text).map_or_else(|_| text.to_owned(), |scope| write_scope(&scope).to_string())
}

/// A row as the audit has it.
pub(super) fn audit_json(row: &ScopedBanRow) -> String {
    let ScopedBanRow { ip, applies_to, source, status, reason, expires_at, .. } = row;
    // As the row has it, where it is no JSON.
    let scope: serde_json::Value =
        serde_json::from_str(applies_to).unwrap_or_else(|_| applies_to.as_str().into());
    let mut told = json!({ "ip": ip, "status": status, "reason": reason, "expires_at": expires_at,
        "applies_to": scope });
    if !source.is_empty() {
        told["source"] = source.as_str().into();
    }
    told.to_string()
}

/// Writes one row, whose `created_at` stays if it is there. Returns the number of rows.
pub(super) fn write(conn: &Connection, row: &ScopedBanRow) -> rusqlite::Result<usize> {
    conn.prepare_cached(
        "INSERT INTO scoped_bans (ip, applies_to, source, status, reason, created_at, updated_at, expires_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
         ON CONFLICT (ip, source, applies_to) DO UPDATE SET status = excluded.status, reason = excluded.reason,
           updated_at = excluded.updated_at, expires_at = excluded.expires_at",
    )?
    .execute(params![
        row.ip,
        row.applies_to,
        row.source,
        row.status,
        row.reason,
        row.created_at,
        row.updated_at,
        row.expires_at
    ])
}

/// Removes one row. Returns the number of rows.
pub(super) fn delete(conn: &Connection, key: ScopedBanKey<'_>) -> rusqlite::Result<usize> {
    let ScopedBanKey { ip, source, applies_to } = key;
    conn.prepare_cached("DELETE FROM scoped_bans WHERE ip = ?1 AND source = ?2 AND applies_to = ?3")?
        .execute([ip, source, applies_to])
}

/// Bans by hand at `scope`, as we write it, in the place of what was banned there by hand. Returns the number of rows
/// written or removed.
pub(super) fn put(
    audit: &Auditor<'_>,
    mode: BanMode,
    entry: &NewEntry<'_>,
    scope: &str,
) -> rusqlite::Result<usize> {
    let (conn, now) = (audit.conn, audit.now);
    let held = of_place(conn, entry.ip, "", scope)?;
    // In all formats that we write ourselves, text order is time order.
    let since = held.iter().filter_map(|row| row.created_at.clone()).min();
    let mut rows = 0;
    for row in held.iter().filter(|row| row.applies_to != scope) {
        rows += delete(conn, ScopedBanKey { ip: &row.ip, source: &row.source, applies_to: &row.applies_to })?;
    }
    let row = ScopedBanRow {
        ip: entry.ip.to_owned(),
        applies_to: scope.to_owned(),
        source: String::new(),
        status: mode.status().to_owned(),
        reason: entry.reason.map(str::to_owned),
        created_at: Some(since.unwrap_or_else(|| now.to_owned())),
        updated_at: Some(now.to_owned()),
        expires_at: entry.expires_at.map(str::to_owned),
    };
    rows += write(conn, &row)?;
    audit.write("ban", entry.ip, held.first().map(audit_json), Some(audit_json(&row)))?;
    Ok(rows)
}

/// Removes the row of `key`.
pub(super) fn remove(audit: &Auditor<'_>, key: ScopedBanKey<'_>) -> rusqlite::Result<usize> {
    let Some(was) = rows::row::<ScopedBanRow>(audit.conn, TABLE, &key.to_string())? else { return Ok(0) };
    let gone = delete(audit.conn, key)?;
    audit.write("unban", key.ip, Some(audit_json(&was)), None)?;
    Ok(gone)
}

/// Makes the row of `key` deny, if it is in shadow.
pub(super) fn enforce(audit: &Auditor<'_>, key: ScopedBanKey<'_>) -> rusqlite::Result<usize> {
    let Some(was) = rows::row::<ScopedBanRow>(audit.conn, TABLE, &key.to_string())? else { return Ok(0) };
    if BanMode::of_status(&was.status) != Some(BanMode::Shadow) {
        return Ok(0);
    }
    let is = ScopedBanRow {
        status: BanMode::Enforce.status().to_owned(),
        updated_at: Some(audit.now.to_owned()),
        ..was.clone()
    };
    let rows = write(audit.conn, &is)?;
    audit.write("ban", key.ip, Some(audit_json(&was)), Some(audit_json(&is)))?;
    Ok(rows)
}

/// Makes deny what the list `name` has in shadow. It is not audited.
pub(super) fn enforce_source(audit: &Auditor<'_>, name: &str) -> rusqlite::Result<usize> {
    let (conn, [shadow, enforced]) = (audit.conn, [BanMode::Shadow, BanMode::Enforce].map(BanMode::status));
    let is_meant = "source = ?1 AND status = ?2 COLLATE NOCASE";
    let count = format!("SELECT count(*) FROM scoped_bans WHERE {is_meant}");
    let count: i64 = conn.prepare_cached(&count)?.query_row([name, shadow], |row| row.get(0))?;
    let update = format!("UPDATE scoped_bans SET status = ?3, updated_at = ?4 WHERE {is_meant}");
    ban_import::logged_at_once(conn, usize::try_from(count).unwrap_or(usize::MAX), || {
        conn.execute(&update, params![name, shadow, enforced, audit.now])
    })
}
