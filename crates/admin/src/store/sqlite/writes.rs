//! Our own writes to the tables that people write, too. Each is audited in its own
//! transaction.

use rusqlite::{Connection, params};
use serde_json::{Value, json};
use tidegate_policy::address::Prefix;

use super::aliases::AddressAliases;
use super::audit::{self, Auditor, as_json};
use super::schema::read_state;
use super::tables;
use crate::store::{Change, Committed, DocumentKind, DocumentRow, FlagRow, IpRow, StoreTable, time_text};

/// Carries out `change`, of `by`, in the write transaction that `conn` is in.
pub(super) fn apply(
    conn: &Connection,
    aliases: &mut AddressAliases,
    change: &Change,
    by: &str,
) -> rusqlite::Result<Committed> {
    let now = time_text::from_ms(time_text::now_ms());
    let audit = Auditor::new(conn, by, &now);
    let rows = match change {
        Change::Ban { ip, reason, expires_at } => {
            aliases.follow(conn, usize::MAX)?;
            ban(&audit, aliases, ip, reason.as_deref(), expires_at.as_deref())?
        }
        Change::Unban { keys } => {
            aliases.follow(conn, usize::MAX)?;
            unban(&audit, aliases, keys)?
        }
        Change::SetFlags { flags } => set_flags(&audit, flags)?,
        Change::PutDocument { only_if: Some(only_if), .. }
        | Change::DeleteDocument { only_if: Some(only_if), .. }
            if !tables::is_unchanged(conn, *only_if)? =>
        {
            0
        }
        Change::PutDocument { kind, name, document, .. } => put_document(&audit, *kind, name, document)?,
        Change::DeleteDocument { kind, name, .. } => delete_document(&audit, *kind, name)?,
        Change::SetCountries { source, table } => set_countries(&audit, source, table)?,
    };
    Ok(Committed { seq: read_state(conn)?.newest, rows: rows as u64 })
}

/// What the audit says of a row of `ip_monitor`.
fn said(row: &IpRow) -> String {
    let IpRow { ip, status, reason, expires_at, .. } = row;
    json!({ "ip": ip, "status": status, "reason": reason, "expires_at": expires_at }).to_string()
}

fn ban(
    audit: &Auditor<'_>,
    aliases: &AddressAliases,
    ip: &str,
    reason: Option<&str>,
    expires_at: Option<&str>,
) -> rusqlite::Result<usize> {
    let (conn, now) = (audit.conn, audit.now);
    let mut was: Option<IpRow> = tables::row(conn, StoreTable::Ip, ip)?;
    let mut since: Option<String> = None;
    let mut rows = 0;
    for key in aliases.of(ip.parse().ok()).iter().filter(|key| *key != ip) {
        let other: Option<IpRow> = tables::row(conn, StoreTable::Ip, key)?;
        // Text order is time order in all forms that we write ourselves.
        since = since.into_iter().chain(other.as_ref().and_then(|row| row.created_at.clone())).min();
        rows += conn.prepare_cached("DELETE FROM ip_monitor WHERE ip = ?1")?.execute([key])?;
        match was {
            None => was = other,
            // What else said something of it goes under its own name.
            Some(_) => audit.write("ban", key, other.as_ref().map(said), None)?,
        }
    }
    rows += conn
        .prepare_cached(
            "INSERT INTO ip_monitor (ip, status, reason, created_at, updated_at, expires_at)
             VALUES (?1, 'banned', ?2, ?3, ?4, ?5)
             ON CONFLICT (ip) DO UPDATE SET status = 'banned', reason = excluded.reason,
               updated_at = excluded.updated_at, expires_at = excluded.expires_at",
        )?
        .execute(params![ip, reason, since.as_deref().unwrap_or(now), now, expires_at])?;
    let is: Option<IpRow> = tables::row(conn, StoreTable::Ip, ip)?;
    audit.write("ban", ip, was.as_ref().map(said), is.as_ref().map(said))?;
    Ok(rows)
}

/// Removes the rows of `keys`, and of other spellings that came meanwhile, unless
/// they say something else than a ban.
fn unban(audit: &Auditor<'_>, aliases: &AddressAliases, keys: &[String]) -> rusqlite::Result<usize> {
    let mut rows = 0;
    for key in keys {
        rows += unban_row(audit, key)?;
        let Ok(prefix) = key.parse::<Prefix>() else { continue };
        rows += unban_row(audit, &prefix.to_string())?;
        for other in aliases.of(Some(prefix)) {
            rows += unban_row(audit, &other)?;
        }
    }
    Ok(rows)
}

fn unban_row(audit: &Auditor<'_>, key: &str) -> rusqlite::Result<usize> {
    let was: Option<IpRow> = tables::row(audit.conn, StoreTable::Ip, key)?;
    let gone = audit
        .conn
        .prepare_cached("DELETE FROM ip_monitor WHERE ip = ?1 AND status = 'banned' COLLATE NOCASE")?
        .execute([key])?;
    if gone > 0 {
        audit.write("unban", key, was.as_ref().map(said), None)?;
    }
    Ok(gone)
}

/// What the audit says of the document `name` of `kind`, as it stands.
fn document(conn: &Connection, kind: DocumentKind, name: &str) -> rusqlite::Result<Option<String>> {
    let row: Option<DocumentRow> = tables::row(conn, StoreTable::Documents(kind), name)?;
    Ok(row.map(|row| as_json(&row.document)))
}

fn put_document(
    audit: &Auditor<'_>,
    kind: DocumentKind,
    name: &str,
    document: &str,
) -> rusqlite::Result<usize> {
    let was = self::document(audit.conn, kind, name)?;
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

fn delete_document(audit: &Auditor<'_>, kind: DocumentKind, name: &str) -> rusqlite::Result<usize> {
    let was = document(audit.conn, kind, name)?;
    let delete = format!("DELETE FROM {} WHERE name = ?1", StoreTable::Documents(kind).name());
    let rows = audit.conn.prepare_cached(&delete)?.execute([name])?;
    if rows > 0 {
        audit.write(kind.name(), name, was, None)?;
    }
    Ok(rows)
}

/// Sets flags. One that is set to what it is already stays untouched; one without
/// a row is off.
fn set_flags(audit: &Auditor<'_>, flags: &[(String, String)]) -> rusqlite::Result<usize> {
    let mut rows = 0;
    for (name, value) in flags {
        let was = tables::row::<FlagRow>(audit.conn, StoreTable::Flags, name)?.map(|row| row.value);
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

fn set_countries(audit: &Auditor<'_>, source: &str, table: &[u8]) -> rusqlite::Result<usize> {
    let conn = audit.conn;
    let was = audit::countries(conn)?;
    let rows = conn
        .prepare_cached(
            "INSERT OR REPLACE INTO geo_countries (id, source, imported_at, data) VALUES (1, ?1, ?2, ?3)",
        )?
        .execute(params![source, audit.now, table])?;
    audit.write("countries", source, was, audit::countries(conn)?)?;
    Ok(rows)
}
