//! Searching the events. Rows are filtered here and not by SQL, so that a search knows how far it
//! has come when its time is over: without an index for its filter it may have to read all rows.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use rusqlite::{Connection, Row, params};
use tidegate_policy::wire::event::VmId;

use super::events::{NEWEST, read_mismatches};
use super::integers::{from_sql, to_sql};
use crate::store::{EventFilter, EventPage, EventPosition, EventRow, EventTail};

/// How long one search takes, at most; its answer says where it goes on.
const SEARCH_TIME: Duration = Duration::from_secs(1);
/// Rows between two readings of the clock.
const CHUNK: usize = 256;
/// Rows that are read at a time of those that came after others.
const TAIL_ROWS: i64 = 5_000;
/// Events that a reader of the newest may be behind; beyond that it is told how many it missed.
const MAX_BEHIND: u64 = 20_000;

/// The columns that a filter is about.
const FILTERED: &str =
    "id, timestamp, status, verdict, reason, method, route, country, host, path, client_ip, would_deny,
    would_deny_rule, mismatches, ban_source";

/// The events that `filter` lets pass, newest first, from `from` on, at most `limit`.
pub(super) fn page(
    conn: &Connection,
    filter: &EventFilter,
    from: Option<&EventPosition>,
    limit: usize,
) -> rusqlite::Result<EventPage> {
    // Every timestamp is before `~`, and no id is 0.
    let (newest, id) = match from {
        Some(from) => (from.timestamp.as_str(), to_sql(from.id)),
        None => (filter.until.as_deref().unwrap_or("~"), 0),
    };
    // This is what the index of these rows asks for.
    let mismatched = if filter.mismatch.is_some() { "mismatches IS NOT NULL AND" } else { "" };
    let mut statement = conn.prepare_cached(&format!(
        "SELECT {FILTERED} FROM events
         WHERE {mismatched} timestamp >= ?1 AND timestamp <= ?2 AND (timestamp < ?2 OR id <= ?3)
         ORDER BY timestamp DESC, id DESC"
    ))?;
    let mut rows = statement.query(params![filter.since.as_deref().unwrap_or(""), newest, id])?;
    let (until, mut looked, mut page) = (Instant::now() + SEARCH_TIME, 0, EventPage::default());
    while let Some(row) = rows.next()? {
        let is_late = looked > 0 && looked % CHUNK == 0 && Instant::now() >= until;
        if page.rows.len() == limit || is_late {
            page.next = Some(EventPosition { timestamp: row.get(1)?, id: from_sql(row.get(0)?) });
            break;
        }
        looked += 1;
        if matches(filter, row)? {
            page.rows.push(one(conn, row.get(0)?)?);
        }
    }
    Ok(page)
}

/// The events that `filter` lets pass and that came after the one with the id `after`, at most
/// `limit`; `None`, or an id that there is not yet: none, and where the next begin.
pub(super) fn after(
    conn: &Connection,
    filter: &EventFilter,
    after: Option<u64>,
    limit: usize,
) -> rusqlite::Result<EventTail> {
    let newest =
        conn.prepare_cached(&format!("SELECT {NEWEST}"))?.query_row([], |row| row.get(0)).map(from_sql)?;
    let Some(after) = after.filter(|&after| after <= newest) else {
        return Ok(EventTail { last: newest, ..EventTail::default() });
    };
    let begin = after.max(newest.saturating_sub(MAX_BEHIND)).max(removed_upto(conn, after)?);
    let mut tail = EventTail { last: begin, skipped: begin - after, ..EventTail::default() };
    let mut statement = conn.prepare_cached(&format!(
        "SELECT {FILTERED} FROM events WHERE id > ?1 AND complete = 1 ORDER BY id LIMIT ?2"
    ))?;
    let mut rows = statement.query(params![to_sql(begin), TAIL_ROWS])?;
    let mut looked = 0;
    while tail.rows.len() < limit
        && let Some(row) = rows.next()?
    {
        looked += 1;
        tail.last = from_sql(row.get(0)?);
        if matches(filter, row)? {
            tail.rows.push(one(conn, row.get(0)?)?);
        }
    }
    tail.more = looked == TAIL_ROWS || tail.rows.len() == limit;
    Ok(tail)
}

/// The id up to which retention has removed events, if it has removed the one with the id `after`.
fn removed_upto(conn: &Connection, after: u64) -> rusqlite::Result<u64> {
    if after == 0 || conn.prepare_cached("SELECT 1 FROM events WHERE id = ?1")?.exists([to_sql(after)])? {
        return Ok(0);
    }
    // The oldest is nearly always the first row.
    let mut oldest = conn.prepare_cached("SELECT id FROM events WHERE complete = 1 ORDER BY id LIMIT 1")?;
    oldest.query_row([], |row| row.get(0)).map(|oldest: i64| from_sql(oldest).saturating_sub(1))
}

/// Whether `filter` lets a row of the columns [`FILTERED`] pass, but for its time.
fn matches(filter: &EventFilter, row: &Row<'_>) -> rusqlite::Result<bool> {
    let text = |column: usize| row.get_ref(column).map(|value| value.as_str().unwrap_or_default());
    let is = |column, wanted: &Option<String>| match wanted {
        Some(wanted) => text(column).map(|found| found == wanted),
        None => Ok(true),
    };
    if let Some(wanted) = &filter.status {
        let status: Option<u16> = row.get(2)?;
        if !status.is_some_and(|status| wanted.contains(&status)) {
            return Ok(false);
        }
    }
    if !(is(3, &filter.verdict)?
        && is(4, &filter.reason)?
        && is(6, &filter.route)?
        && is(7, &filter.country)?
        && is(11, &filter.would_deny)?
        && is(12, &filter.would_deny_rule)?
        && has_source(filter.ban_source.as_deref(), text(14)?))
    {
        return Ok(false);
    }
    if let Some(method) = &filter.method
        && !text(5)?.eq_ignore_ascii_case(method)
    {
        return Ok(false);
    }
    if let Some(host) = &filter.host
        && !is_host(text(8)?, host)
    {
        return Ok(false);
    }
    if let Some(prefix) = &filter.path_prefix
        && !text(9)?.starts_with(prefix)
    {
        return Ok(false);
    }
    if let Some(wanted) = &filter.mismatch
        && !read_mismatches(text(13)?).iter().any(|found| wanted.matches(found))
    {
        return Ok(false);
    }
    let Some(block) = &filter.client else { return Ok(true) };
    Ok(text(10)?.parse::<IpAddr>().is_ok_and(|address| block.contains(address)))
}

/// Whether `wanted` is one of the names in `found`, with commas between them.
fn has_source(wanted: Option<&str>, found: &str) -> bool {
    wanted.is_none_or(|wanted| found.split(',').any(|name| name == wanted))
}

/// Whether `found`, as a client sent it, is the host `wanted`: with its port, or without one.
fn is_host(found: &str, wanted: &str) -> bool {
    let Some((front, rest)) = found.split_at_checked(wanted.len()) else { return false };
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    front.eq_ignore_ascii_case(wanted) && (rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port))
}

/// The event with this id.
fn one(conn: &Connection, id: i64) -> rusqlite::Result<EventRow> {
    let mut statement = conn.prepare_cached(
        "SELECT source, number, timestamp, node, method, host, path, route, template, client_ip, country,
           verdict, reason, rule, shadow_limit, would_deny, would_deny_rule, status, duration_us, upstream_us, bytes_in, bytes_out,
           user_agent, tunnel, tables_seq, modes, answered, mismatches, complete, gate_us, ban_source
         FROM events WHERE id = ?1",
    )?;
    statement.query_row([id], |row| {
        let count = |column| row.get::<_, Option<i64>>(column).map(|count| count.map(from_sql));
        let ms = |column| row.get::<_, Option<i64>>(column).map(|us| us.map(|us| us as f64 / 1_000.0));
        Ok(EventRow {
            id: from_sql(id),
            source: VmId(u128::from_be_bytes(row.get(0)?)).to_string(),
            number: count(1)?.unwrap_or_default(),
            timestamp: row.get(2)?,
            node: row.get(3)?,
            method: row.get(4)?,
            host: row.get(5)?,
            path: row.get(6)?,
            route: row.get(7)?,
            template: row.get(8)?,
            client_ip: row.get(9)?,
            country: row.get(10)?,
            verdict: row.get(11)?,
            reason: row.get(12)?,
            rule: row.get(13)?,
            shadow_limit: row.get(14)?,
            would_deny: row.get(15)?,
            would_deny_rule: row.get(16)?,
            ban_source: row.get(30)?,
            status: row.get(17)?,
            duration_ms: ms(18)?,
            upstream_ms: ms(19)?,
            gate_ms: ms(29)?,
            bytes_in: count(20)?,
            bytes_out: count(21)?,
            user_agent: row.get(22)?,
            tunnel: row.get(23)?,
            tables_seq: count(24)?.unwrap_or_default(),
            modes: row.get(25)?,
            answered: row.get(26)?,
            mismatches: row.get(27)?,
            complete: row.get(28)?,
        })
    })
}
