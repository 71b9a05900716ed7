//! Reading the tables that gateways get, and their log.

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row, params};

use super::schema::{EPOCH, RELOAD, look};
use super::shared::Shared;
use crate::store::{Changes, IpRow, RouteRow, Snapshot, Table};

/// Why consumers read everything anew: a mark in the log holds one of these.
pub(super) const WHYS: [&str; 3] = [REPLACED, RESTORED, TAMPERED];
/// Another file was moved to the database's place.
pub(super) const REPLACED: &str = "the database file was replaced";
/// The log is shorter than it was.
pub(super) const RESTORED: &str = "the database went back to an earlier state";
/// The schema cookie moved.
pub(super) const TAMPERED: &str = "another program changed the schema, or restored or vacuumed the database";

const IP_COLUMNS: &str = "i.ip, i.status, i.reason, i.created_at, i.updated_at, i.expires_at";
const ROUTE_COLUMNS: &str = "r.name, r.document, r.created_at, r.updated_at";

/// A value as text, whatever type somebody gave it. What is no UTF-8 loses the
/// bytes that are none.
pub(super) fn text(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<String>> {
    Ok(match row.get_ref(column)? {
        ValueRef::Null => None,
        ValueRef::Integer(n) => Some(n.to_string()),
        ValueRef::Real(x) => Some(x.to_string()),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
    })
}

fn ip_row(row: &Row<'_>, from: usize) -> rusqlite::Result<Option<IpRow>> {
    let Some(ip) = text(row, from)? else { return Ok(None) };
    Ok(Some(IpRow {
        ip,
        status: text(row, from + 1)?.unwrap_or_default(),
        reason: text(row, from + 2)?,
        created_at: text(row, from + 3)?,
        updated_at: text(row, from + 4)?,
        expires_at: text(row, from + 5)?,
    }))
}

fn route_row(row: &Row<'_>, from: usize) -> rusqlite::Result<Option<RouteRow>> {
    let Some(name) = text(row, from)? else { return Ok(None) };
    Ok(Some(RouteRow {
        name,
        document: text(row, from + 1)?.unwrap_or_default(),
        created_at: text(row, from + 2)?,
        updated_at: text(row, from + 3)?,
    }))
}

/// All rows of `tables`, in the read transaction that `conn` is in.
pub(super) fn snapshot(conn: &Connection, shared: &Shared, tables: &[Table]) -> rusqlite::Result<Snapshot> {
    let mut snapshot = Snapshot { seq: look(conn)?.newest, ..Snapshot::default() };
    shared.saw(snapshot.seq);
    if tables.contains(&Table::Ip) {
        let mut statement = conn.prepare_cached(&format!("SELECT {IP_COLUMNS} FROM ip_monitor i"))?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            snapshot.ips.extend(ip_row(row, 0)?);
        }
    }
    if tables.contains(&Table::Routes) {
        let mut statement = conn.prepare_cached(&format!("SELECT {ROUTE_COLUMNS} FROM routes r"))?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            snapshot.routes.extend(route_row(row, 0)?);
        }
    }
    Ok(snapshot)
}

/// What happened after `since`, in the read transaction that `conn` is in.
pub(super) fn changes(conn: &Connection, shared: &Shared, since: u64) -> rusqlite::Result<Changes> {
    let now = look(conn)?;
    let went_back = now.newest < since;
    if went_back {
        return Ok(Changes::Reload { new_epoch: true, why: RESTORED });
    }
    if now.schema != shared.schema() {
        return Ok(Changes::Reload { new_epoch: false, why: TAMPERED });
    }
    shared.saw(now.newest);
    let (ips, routes) = (Vec::new(), Vec::new());
    if now.newest == since {
        return Ok(Changes::Rows { seq: since, ips, routes });
    }
    if let Some(reload) = reason_to_reload(conn, since)? {
        return Ok(reload);
    }
    Ok(Changes::Rows {
        seq: now.newest,
        ips: changed_ips(conn, since)?,
        routes: changed_routes(conn, since)?,
    })
}

/// A mark after `since`, or a log that does not reach back so far.
fn reason_to_reload(conn: &Connection, since: u64) -> rusqlite::Result<Option<Changes>> {
    let since = i64::try_from(since).unwrap_or(i64::MAX);
    let oldest: i64 = conn
        .prepare_cached("SELECT coalesce(min(seq), 0) FROM change_log")?
        .query_row([], |row| row.get(0))?;
    let mut marks = conn.prepare_cached(
        "SELECT tbl, key FROM change_log WHERE seq > ?1 AND tbl IN (?2, ?3) ORDER BY tbl, seq LIMIT 1",
    )?;
    let mut marks = marks.query(params![since, EPOCH, RELOAD])?;
    if let Some(mark) = marks.next()? {
        let new_epoch = text(mark, 0)?.as_deref() == Some(EPOCH);
        let said = text(mark, 1)?;
        let why = WHYS.into_iter().find(|&why| said.as_deref() == Some(why)).unwrap_or(TAMPERED);
        return Ok(Some(Changes::Reload { new_epoch, why }));
    }
    let reaches = oldest <= since.saturating_add(1);
    Ok((!reaches)
        .then_some(Changes::Reload { new_epoch: false, why: "the log does not reach back that far" }))
}

/// The join is in SQL because a raw key need not be UTF-8.
fn changed_ips(conn: &Connection, since: u64) -> rusqlite::Result<Vec<(String, Option<IpRow>)>> {
    let mut statement = conn.prepare_cached(&format!(
        "SELECT l.key, {IP_COLUMNS} FROM
           (SELECT DISTINCT key FROM change_log WHERE seq > ?1 AND tbl = 'ip_monitor') l
         LEFT JOIN ip_monitor i ON i.ip = l.key"
    ))?;
    let rows = statement.query_map([i64::try_from(since).unwrap_or(i64::MAX)], |row| {
        Ok((text(row, 0)?.unwrap_or_default(), ip_row(row, 1)?))
    })?;
    rows.collect()
}

fn changed_routes(conn: &Connection, since: u64) -> rusqlite::Result<Vec<(String, Option<RouteRow>)>> {
    let mut statement = conn.prepare_cached(&format!(
        "SELECT l.key, {ROUTE_COLUMNS} FROM
           (SELECT DISTINCT key FROM change_log WHERE seq > ?1 AND tbl = 'routes') l
         LEFT JOIN routes r ON r.name = l.key"
    ))?;
    let rows = statement.query_map([i64::try_from(since).unwrap_or(i64::MAX)], |row| {
        Ok((text(row, 0)?.unwrap_or_default(), route_row(row, 1)?))
    })?;
    rows.collect()
}
