//! The audit of what other programs wrote, from the change log: what a row said before its first
//! change, and what it says now.
//!
//! Every transaction of this service begins with it, so that what is in the change log beyond
//! [`meta::AUDITED`] at that moment is another program's, also what was written while no service
//! ran; and ends by raising that number over its own changes.

use std::collections::BTreeMap;

use rusqlite::{Connection, params};
use serde_json::{Value, json};

use super::audit::{self, Auditor, as_json};
use super::change_log::text_of_quoted;
use super::integers::to_sql;
use super::rows::{self, text};
use super::schema::ddl::TOKENS;
use super::schema::{EPOCH, MOVED, RELOAD};
use super::{ban_sources, countries, ip_monitor, meta, scoped_bans, tokens};
use crate::store::{
    AuditRow, Author, DocumentKind, DocumentRow, FlagRow, IpRow, SQL, ScopedBanKey, ScopedBanRow, StoreTable,
    time_text,
};

/// Rows of one table that are told one by one; of a table with more only the number of changes is
/// told, so that an import of a million rows does not push all else out of the audit. It hides
/// nothing of other tables.
const MAX_TOLD: usize = 1_000;

/// Changes of one row that were found together.
#[derive(Default)]
struct RowChanges {
    count: u64,
    /// What it said before the first of them, as `change_log.was`; `None`: it was inserted, or
    /// replaced.
    was: Option<String>,
}

/// Changes of one table that were found together.
#[derive(Default)]
struct TableChanges {
    count: u64,
    /// By key; not all of them once there are more than [`MAX_TOLD`].
    rows: BTreeMap<String, RowChanges>,
}

/// Writes the audit of all changes up to `newest` that are not in it, in the write transaction that
/// `conn` is in. Returns whether there were any.
pub(super) fn audit(conn: &Connection, newest: u64) -> rusqlite::Result<bool> {
    let audited = u64::try_from(meta::get(conn, meta::AUDITED)?).unwrap_or(0);
    if newest == audited {
        return Ok(false);
    }
    meta::set(conn, meta::AUDITED, to_sql(newest))?;
    if newest < audited {
        // An earlier state of the database; the mark of that has a higher number.
        return Ok(true);
    }
    let now = time_text::from_ms(time_text::now_ms());
    let by = Author::from(SQL);
    let audit = Auditor::new(conn, &by, &now);
    for (table, changes) in changed_tables(conn, audited)? {
        tell(&audit, &table, changes)?;
    }
    Ok(true)
}

/// The changes after `since`, by `change_log.tbl`. They are counted, for their numbers may have gaps.
fn changed_tables(conn: &Connection, since: u64) -> rusqlite::Result<BTreeMap<String, TableChanges>> {
    let mut changed: BTreeMap<_, TableChanges> = BTreeMap::new();
    let mut statement =
        conn.prepare_cached("SELECT tbl, key, was FROM change_log WHERE seq > ?1 ORDER BY seq")?;
    let mut rows = statement.query(params![to_sql(since)])?;
    while let Some(row) = rows.next()? {
        let table = text(row, 0)?.unwrap_or_default();
        if table.starts_with(MOVED) {
            continue;
        }
        let of_table = changed.entry(table).or_default();
        of_table.count += 1;
        if of_table.rows.len() > MAX_TOLD {
            continue;
        }
        let (key, was) = (text(row, 1)?.unwrap_or_default(), text(row, 2)?);
        let of_row = of_table.rows.entry(key).or_default();
        if of_row.count == 0 {
            of_row.was = was;
        }
        of_row.count += 1;
    }
    Ok(changed)
}

fn tell(audit: &Auditor<'_>, table: &str, changes: TableChanges) -> rusqlite::Result<()> {
    if changes.rows.len() > MAX_TOLD {
        let after = json!({ "changes": changes.count }).to_string();
        return audit.write_several("tables", table, None, Some(after), Some(changes.count));
    }
    for (key, changes) in changes.rows {
        match table {
            EPOCH | RELOAD => audit.write("database", &key, None, Some("true".to_owned()))?,
            TOKENS => told(audit, token(audit.conn, &key, &changes)?, changes.count)?,
            name => {
                if let Some(table) = StoreTable::ALL.into_iter().find(|table| table.name() == name) {
                    told(audit, row(audit.conn, table, key, &changes)?, changes.count)?;
                }
            }
        }
    }
    Ok(())
}

/// Kind, name, before and after.
struct Told(&'static str, String, Option<String>, Option<String>);

fn told(audit: &Auditor<'_>, Told(kind, name, before, after): Told, count: u64) -> rusqlite::Result<()> {
    audit.write_several(kind, &name, before, after, (count > 1).then_some(count))
}

fn row(conn: &Connection, table: StoreTable, key: String, changes: &RowChanges) -> rusqlite::Result<Told> {
    let was = changes.was.as_deref().map(text_of_quoted);
    let column = |n: usize| was.as_ref().and_then(|columns| columns.get(n).cloned().flatten());
    Ok(match table {
        StoreTable::Ip => {
            let before = was.as_ref().map(|_| IpRow {
                ip: key.clone(),
                status: column(0).unwrap_or_default(),
                reason: column(1),
                expires_at: column(2),
                source: column(3),
                ..IpRow::default()
            });
            let before = before.as_ref().map(ip_monitor::audit_json);
            let before = match before {
                Some(before) => Some(before),
                None => newest_unscoped(conn, &key)?,
            };
            let after: Option<IpRow> = rows::row(conn, table, &key)?;
            let kind = match &after {
                Some(row) if row.status.eq_ignore_ascii_case("banned") => "ban",
                None if before.as_deref().is_some_and(says_banned) => "unban",
                _ => "ip-monitor",
            };
            Told(kind, key, before, after.as_ref().map(ip_monitor::audit_json))
        }
        StoreTable::ScopedBans => scoped_ban(conn, key, was.is_some().then(|| [0, 1, 2].map(column)))?,
        StoreTable::Flags => {
            let before = or_newest(conn, column(0).as_deref().map(as_json), &["flag"], &key)?;
            let after: Option<FlagRow> = rows::row(conn, table, &key)?;
            Told("flag", key, before, after.map(|row| as_json(&row.value)))
        }
        StoreTable::Documents(kind) => document(conn, kind, key, column(0))?,
        StoreTable::Countries => {
            let before = was.as_ref().map(|_| {
                let bytes = column(2).and_then(|bytes| bytes.parse::<u64>().ok());
                countries::audit_json(column(0).as_deref(), column(1).as_deref(), bytes)
            });
            let after = countries::audited(conn)?;
            let name = countries::source(conn)?.or_else(|| column(0)).unwrap_or_default();
            Told("countries", name, before, after)
        }
        StoreTable::SourceSets => {
            let before = was.as_ref().map(|_| {
                let bytes = column(1).and_then(|bytes| bytes.parse::<u64>().ok());
                ban_sources::audit_json(column(0).as_deref(), bytes, column(2).as_deref())
            });
            let before = or_newest(conn, before, &[ban_sources::AUDITED_AS], &key)?;
            let after = ban_sources::audited(conn, &key)?;
            Told(ban_sources::AUDITED_AS, key, before, after)
        }
    })
}

/// `was`: status, reason and end.
fn scoped_ban(conn: &Connection, key: String, was: Option<[Option<String>; 3]>) -> rusqlite::Result<Told> {
    let ScopedBanKey { ip, source, applies_to } =
        ScopedBanKey::read(&key).unwrap_or(ScopedBanKey { ip: &key, source: "", applies_to: "" });
    let of_key = ScopedBanRow {
        ip: ip.to_owned(),
        applies_to: applies_to.to_owned(),
        source: source.to_owned(),
        ..ScopedBanRow::default()
    };
    let before = match was {
        Some([status, reason, expires_at]) => {
            let status = status.unwrap_or_default();
            Some(scoped_bans::audit_json(&ScopedBanRow { status, reason, expires_at, ..of_key }))
        }
        None => newest_scoped(conn, &of_key)?,
    };
    let after: Option<ScopedBanRow> = rows::row(conn, StoreTable::ScopedBans, &key)?;
    let kind = if after.is_none() { "unban" } else { "ban" };
    Ok(Told(kind, ip.to_owned(), before, after.as_ref().map(scoped_bans::audit_json)))
}

/// What the audit last said of this row of `ip_monitor`; see [`or_newest`].
fn newest_unscoped(conn: &Connection, key: &str) -> rusqlite::Result<Option<String>> {
    let kinds = ["ban", "unban", "allow", "disallow", "ip-monitor"];
    let is_meant = |told: &AuditRow| place(told).is_none_or(|[applies_to, _]| applies_to.is_null());
    Ok(audit::newest_of(conn, &kinds, key, is_meant)?.and_then(|told| told.after))
}

/// The same of the row of `scoped_bans` with the key of `row`.
fn newest_scoped(conn: &Connection, row: &ScopedBanRow) -> rusqlite::Result<Option<String>> {
    let wanted = place_in(&scoped_bans::audit_json(row));
    let is_meant = |told: &AuditRow| place(told) == wanted;
    Ok(audit::newest_of(conn, &["ban", "unban"], &row.ip, is_meant)?.and_then(|told| told.after))
}

/// Where the ban of an entry of the audit applies, and whose it is.
fn place(told: &AuditRow) -> Option<[Value; 2]> {
    told.after.as_deref().or(told.before.as_deref()).and_then(place_in)
}

fn place_in(told: &str) -> Option<[Value; 2]> {
    let mut told: Value = serde_json::from_str(told).ok()?;
    Some(["applies_to", "source"].map(|name| told.get_mut(name).map(Value::take).unwrap_or_default()))
}

fn document(
    conn: &Connection,
    kind: DocumentKind,
    name: String,
    was: Option<String>,
) -> rusqlite::Result<Told> {
    let before = or_newest(conn, was.as_deref().map(as_json), &[kind.name()], &name)?;
    let after: Option<DocumentRow> = rows::row(conn, StoreTable::Documents(kind), &name)?;
    Ok(Told(kind.name(), name, before, after.map(|row| as_json(&row.document))))
}

fn token(conn: &Connection, hash: &str, changes: &RowChanges) -> rusqlite::Result<Told> {
    let after = tokens::of_hash(conn, hash)?;
    let before = changes.was.as_deref().map(text_of_quoted).map(|was| {
        let column = |n: usize| was.get(n).cloned().flatten();
        crate::store::TokenRow {
            hash: hash.to_owned(),
            name: column(0).unwrap_or_default(),
            role: column(1).unwrap_or_default(),
            node: column(2),
            expires_at: column(3),
            ..crate::store::TokenRow::default()
        }
    });
    let name = [&after, &before].into_iter().flatten().map(|token| token.name.clone()).next();
    let json = |token: &Option<crate::store::TokenRow>| token.as_ref().map(tokens::audit_json);
    Ok(Told("token", name.unwrap_or_default(), json(&before), json(&after)))
}

/// `before`, or what the audit last said of it: a REPLACE runs no trigger for the row that it removes.
fn or_newest(
    conn: &Connection,
    before: Option<String>,
    kinds: &[&str],
    name: &str,
) -> rusqlite::Result<Option<String>> {
    match before {
        Some(before) => Ok(Some(before)),
        None => Ok(audit::newest(conn, kinds, name)?.and_then(|row| row.after)),
    }
}

fn says_banned(json: &str) -> bool {
    let row: Option<serde_json::Value> = serde_json::from_str(json).ok();
    row.is_some_and(|row| row["status"].as_str().is_some_and(|status| status.eq_ignore_ascii_case("banned")))
}
