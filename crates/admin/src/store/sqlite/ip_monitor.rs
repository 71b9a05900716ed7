//! Rows of `ip_monitor`: reading, and the bans and allowed addresses that the API writes and removes.

use rusqlite::{Connection, Row, params};
use serde_json::json;
use tidegate_policy::address::Prefix;

use super::aliases::AddressAliases;
use super::audit::Auditor;
use super::ban_import;
use super::rows::{self, KeyedRow, text};
use super::schema::read_state;
use super::scoped_bans;
use crate::store::{AddressRows, BanMode, IpRow, ScopedBanKey, ShadowBans, StoreTable, time_text};

impl KeyedRow for IpRow {
    const COLUMNS: &[&str] = &["ip", "status", "reason", "created_at", "updated_at", "expires_at", "source"];

    fn read(row: &Row<'_>, from: usize) -> rusqlite::Result<Option<Self>> {
        let Some(ip) = text(row, from)? else { return Ok(None) };
        Ok(Some(Self {
            ip,
            status: text(row, from + 1)?.unwrap_or_default(),
            reason: text(row, from + 2)?,
            created_at: text(row, from + 3)?,
            updated_at: text(row, from + 4)?,
            expires_at: text(row, from + 5)?,
            source: text(row, from + 6)?,
        }))
    }
}

/// The rows with these keys, and the bans of these addresses that apply at some hostnames or routes, in the read
/// transaction that `conn` is in.
pub(super) fn rows(conn: &Connection, keys: &[String]) -> rusqlite::Result<AddressRows> {
    let mut found = AddressRows { seq: read_state(conn)?.newest, ..AddressRows::default() };
    for key in keys {
        found.ips.extend(rows::row(conn, StoreTable::Ip, key)?);
        scoped_bans::of_address(conn, key, &mut found.scoped)?;
    }
    Ok(found)
}

/// A row of `ip_monitor` as the audit has it.
pub(super) fn audit_json(row: &IpRow) -> String {
    let IpRow { ip, status, reason, expires_at, source, .. } = row;
    let mut told = json!({ "ip": ip, "status": status, "reason": reason, "expires_at": expires_at });
    if let Some(source) = source {
        told["source"] = source.as_str().into();
    }
    told.to_string()
}

/// The lists of addresses that the API writes.
#[derive(Clone, Copy)]
pub(super) enum List {
    Bans(BanMode),
    Allowed,
}

impl List {
    /// The status of its rows.
    fn status(self) -> &'static str {
        match self {
            Self::Bans(mode) => mode.status(),
            Self::Allowed => "allowed",
        }
    }

    /// Statuses of rows that are certainly not on it.
    fn others(self) -> &'static [&'static str] {
        match self {
            Self::Bans(_) => &["allowed"],
            Self::Allowed => &["banned", "watched"],
        }
    }

    /// What the audit calls an entry that was written, and one that was removed.
    fn audit_kinds(self) -> [&'static str; 2] {
        match self {
            Self::Bans(_) => ["ban", "unban"],
            Self::Allowed => ["allow", "disallow"],
        }
    }
}

/// Whether a row that means `ip`, in whatever spelling, allows it at `now`.
pub(super) fn is_allowed(
    conn: &Connection,
    aliases: &AddressAliases,
    ip: &str,
    now: i64,
) -> rusqlite::Result<bool> {
    for key in [ip.to_owned()].into_iter().chain(aliases.of(ip.parse().ok())) {
        let Some(row) = rows::row::<IpRow>(conn, StoreTable::Ip, &key)? else { continue };
        let end = row.expires_at.as_deref().and_then(time_text::to_ms);
        if row.status.eq_ignore_ascii_case(List::Allowed.status()) && end.is_none_or(|end| now < end) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// An entry of a list, as it is to be written.
pub(super) struct NewEntry<'e> {
    /// In canonical form.
    pub ip: &'e str,
    pub reason: Option<&'e str>,
    pub expires_at: Option<&'e str>,
}

/// Puts `entry` on `list`, and removes every other row that means the same
/// prefix. Returns the number of rows written or removed.
pub(super) fn put(
    audit: &Auditor<'_>,
    aliases: &AddressAliases,
    list: List,
    entry: &NewEntry<'_>,
) -> rusqlite::Result<usize> {
    let NewEntry { ip, reason, expires_at } = *entry;
    let (conn, now, [kind, _]) = (audit.conn, audit.now, list.audit_kinds());
    let mut was: Option<IpRow> = rows::row(conn, StoreTable::Ip, ip)?;
    let mut since: Option<String> = None;
    let mut rows = 0;
    for key in aliases.of(ip.parse().ok()).iter().filter(|key| *key != ip) {
        let other: Option<IpRow> = rows::row(conn, StoreTable::Ip, key)?;
        // In all formats that we write ourselves, text order is time order.
        since = since.into_iter().chain(other.as_ref().and_then(|row| row.created_at.clone())).min();
        rows += conn.prepare_cached("DELETE FROM ip_monitor WHERE ip = ?1")?.execute([key])?;
        match was {
            None => was = other,
            // Further spellings are audited under their own keys.
            Some(_) => audit.write(kind, key, other.as_ref().map(audit_json), None)?,
        }
    }
    rows += conn
        .prepare_cached(
            "INSERT INTO ip_monitor (ip, status, reason, created_at, updated_at, expires_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (ip) DO UPDATE SET status = excluded.status, reason = excluded.reason,
               updated_at = excluded.updated_at, expires_at = excluded.expires_at, source = NULL",
        )?
        .execute(params![ip, list.status(), reason, since.as_deref().unwrap_or(now), now, expires_at])?;
    let is: Option<IpRow> = rows::row(conn, StoreTable::Ip, ip)?;
    audit.write(kind, ip, was.as_ref().map(audit_json), is.as_ref().map(audit_json))?;
    Ok(rows)
}

/// Removes the rows of `keys`, and of other spellings of the same prefixes, if they are on `list`, or
/// cannot be read: those may be entries that stay in force.
pub(super) fn remove(
    audit: &Auditor<'_>,
    aliases: &AddressAliases,
    list: List,
    keys: &[String],
) -> rusqlite::Result<usize> {
    let mut rows = 0;
    for key in keys {
        if let Some(scoped) = ScopedBanKey::read(key) {
            rows += scoped_bans::remove(audit, scoped)?;
            continue;
        }
        rows += remove_row(audit, list, key)?;
        let Ok(prefix) = key.parse::<Prefix>() else { continue };
        rows += remove_row(audit, list, &prefix.to_string())?;
        for other in aliases.of(Some(prefix)) {
            rows += remove_row(audit, list, &other)?;
        }
    }
    Ok(rows)
}

fn remove_row(audit: &Auditor<'_>, list: List, key: &str) -> rusqlite::Result<usize> {
    let Some(was) = rows::row::<IpRow>(audit.conn, StoreTable::Ip, key)? else { return Ok(0) };
    let has_end =
        was.expires_at.as_deref().is_none_or(|end| end.is_empty() || time_text::to_ms(end).is_some());
    if has_end && list.others().iter().any(|other| was.status.eq_ignore_ascii_case(other)) {
        return Ok(0);
    }
    let gone = audit.conn.prepare_cached("DELETE FROM ip_monitor WHERE ip = ?1")?.execute([key])?;
    let [_, kind] = list.audit_kinds();
    audit.write(kind, key, Some(audit_json(&was)), None)?;
    Ok(gone)
}

/// Makes bans in shadow deny. Returns the number of rows.
pub(super) fn enforce(
    audit: &Auditor<'_>,
    aliases: &AddressAliases,
    which: &ShadowBans,
) -> rusqlite::Result<usize> {
    let keys = match which {
        ShadowBans::Source(name) => return enforce_source(audit, name),
        ShadowBans::Keys(keys) => keys,
    };
    let mut rows = 0;
    for key in keys {
        if let Some(scoped) = ScopedBanKey::read(key) {
            rows += scoped_bans::enforce(audit, scoped)?;
            continue;
        }
        rows += enforce_row(audit, key)?;
        let Ok(prefix) = key.parse::<Prefix>() else { continue };
        rows += enforce_row(audit, &prefix.to_string())?;
        for other in aliases.of(Some(prefix)) {
            rows += enforce_row(audit, &other)?;
        }
    }
    Ok(rows)
}

fn enforce_row(audit: &Auditor<'_>, key: &str) -> rusqlite::Result<usize> {
    let Some(was) = rows::row::<IpRow>(audit.conn, StoreTable::Ip, key)? else { return Ok(0) };
    if BanMode::of_status(&was.status) != Some(BanMode::Shadow) {
        return Ok(0);
    }
    let [enforced, kind] = [BanMode::Enforce.status(), "ban"];
    let rows = audit
        .conn
        .prepare_cached("UPDATE ip_monitor SET status = ?2, updated_at = ?3 WHERE ip = ?1")?
        .execute(params![key, enforced, audit.now])?;
    let is = IpRow { status: enforced.to_owned(), ..was.clone() };
    audit.write(kind, key, Some(audit_json(&was)), Some(audit_json(&is)))?;
    Ok(rows)
}

fn enforce_source(audit: &Auditor<'_>, name: &str) -> rusqlite::Result<usize> {
    let conn = audit.conn;
    let is_meant = "status = ?1 COLLATE NOCASE AND instr(',' || source || ',', ',' || ?2 || ',') > 0";
    let shadow = BanMode::Shadow.status();
    let count = format!("SELECT count(*) FROM ip_monitor WHERE {is_meant}");
    let count: i64 = conn.prepare_cached(&count)?.query_row([shadow, name], |row| row.get(0))?;
    let update = format!("UPDATE ip_monitor SET status = ?3, updated_at = ?4, source = ?2 WHERE {is_meant}");
    let rows = ban_import::logged_at_once(conn, usize::try_from(count).unwrap_or(usize::MAX), || {
        conn.execute(&update, params![shadow, name, BanMode::Enforce.status(), audit.now])
    })?;
    let rows = rows.saturating_add(scoped_bans::enforce_source(audit, name)?);
    if rows > 0 {
        let said = |mode: BanMode| Some(json!({ "status": mode.status() }).to_string());
        let (before, after) = (said(BanMode::Shadow), said(BanMode::Enforce));
        audit.write_several("enforce", name, before, after, Some(rows as u64))?;
    }
    Ok(rows)
}

/// Keys and expiry of the rows of `table` that ended before `before`.
pub(super) fn expired(
    conn: &Connection,
    table: StoreTable,
    before: i64,
) -> rusqlite::Result<Vec<(String, String)>> {
    // All formats but Unix seconds begin with the date, so text order finds most of them; an offset
    // from UTC shifts the date by a day at most.
    let day_after = time_text::from_ms(before.saturating_add(2 * 86_400_000));
    let (name, key) = (table.name(), table.key_of("t"));
    let mut statement = conn.prepare_cached(&format!(
        "SELECT {key}, expires_at FROM {name} t
         WHERE typeof(expires_at) = 'text' AND (expires_at < ?1 OR expires_at NOT GLOB '*-*')"
    ))?;
    let mut rows = statement.query([day_after])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let (Ok(ip), Ok(text)) = (row.get_ref(0)?.as_str(), row.get_ref(1)?.as_str()) else { continue };
        if time_text::to_ms(text).is_some_and(|end| end <= before) {
            found.push((ip.to_owned(), text.to_owned()));
        }
    }
    Ok(found)
}

/// Removes those of `rows` (key and expiry) of `table` that still expire at that time; returns how many were
/// removed.
pub(super) fn drop_expired(
    conn: &Connection,
    table: StoreTable,
    rows: &[(String, String)],
) -> rusqlite::Result<u64> {
    let (name, has_key) = (table.name(), table.has_key(table.name(), "?1"));
    let mut delete =
        conn.prepare_cached(&format!("DELETE FROM {name} WHERE {has_key} AND expires_at = ?2"))?;
    let mut gone = 0;
    for (ip, expires_at) in rows {
        gone += delete.execute([ip, expires_at])? as u64;
    }
    Ok(gone)
}
