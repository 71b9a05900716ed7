//! Rows of events. Text columns hold UTF-8 only: what clients send need not be.

use std::borrow::Cow;

use rusqlite::{Connection, params};
use tidegate_policy::wire::event::{Source, TrafficEvent};

use crate::store::time_text;

/// SQLite's integers are signed; nothing real comes near their end.
fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn lossy(bytes: Option<&Vec<u8>>) -> Option<Cow<'_, str>> {
    bytes.map(|b| String::from_utf8_lossy(b))
}

/// Writes one event; that it is the only one with its number is the ledger's care.
pub(super) fn insert(
    conn: &Connection,
    node: &str,
    source: Source,
    event: &TrafficEvent,
) -> rusqlite::Result<()> {
    let mut statement = conn.prepare_cached(
        "INSERT INTO events (source, number, timestamp, node, method, host, path, route, client_ip,
           verdict, reason, rule, status, duration_us, upstream_us, bytes_in, bytes_out, user_agent,
           tunnel, tables_seq)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20)",
    )?;
    statement.execute(params![
        source.0.to_be_bytes(),
        int(event.number),
        time_text::from_ms(int(event.time_ms)),
        node,
        lossy(event.method.as_ref()),
        lossy(event.host.as_ref()),
        lossy(event.path.as_ref()),
        event.route,
        event.client.map(|ip| ip.to_string()),
        event.verdict.name(),
        event.reason,
        event.rule,
        event.status,
        event.duration_us.map(int),
        event.upstream_us.map(int),
        event.bytes_in.map(int),
        event.bytes_out.map(int),
        lossy(event.user_agent.as_ref()),
        event.tunnel,
        int(event.tables_seq),
    ])?;
    Ok(())
}

/// Removes the oldest `count` events; answers how many there were.
pub(super) fn trim(conn: &Connection, count: usize) -> rusqlite::Result<u64> {
    let gone = conn
        .prepare_cached("DELETE FROM events WHERE id IN (SELECT id FROM events ORDER BY id LIMIT ?1)")?
        .execute([i64::try_from(count).unwrap_or(i64::MAX)])?;
    Ok(gone as u64)
}

/// Bytes of the pages in use: what retention goes by. Pages of removed events are
/// used again before the file grows.
pub(super) fn bytes_in_use(conn: &Connection) -> rusqlite::Result<u64> {
    let pragma = |name: &str| conn.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i64>(0));
    let pages = pragma("page_count")? - pragma("freelist_count")?;
    Ok(u64::try_from(pages.saturating_mul(pragma("page_size")?)).unwrap_or(0))
}
