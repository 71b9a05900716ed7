//! Minutes into hours, hours into days, and the removal of what is no longer kept, all in small
//! steps.

use std::collections::HashSet;

use rusqlite::{Connection, params};

use super::{FIGURE_COLUMNS, Figures, KEY_COLUMNS, MAX_ALL_KEYS, RollupKey, RollupState, SPANS, add};
use crate::lock::locked;

/// Rows that one step merges or removes.
pub(in super::super) const STEP: usize = 200;

/// Merges the oldest rows of spans of `SPANS[shorter]` seconds that began before `before` (Unix seconds) into
/// the next longer spans; returns how many, at most [`STEP`].
pub(in super::super) fn fold(
    conn: &Connection,
    state: &RollupState,
    shorter: usize,
    before: i64,
) -> rusqlite::Result<u64> {
    let (Some(span), Some(longer)) = (SPANS.get(shorter), SPANS.get(shorter + 1)) else { return Ok(0) };
    let mut statement = conn.prepare_cached(&format!(
        "SELECT r.at, r.key, {FIGURE_COLUMNS}, k.id IS NOT NULL, {KEY_COLUMNS}
         FROM rollups r LEFT JOIN rollup_keys k ON k.id = r.key
         WHERE r.span = ?1 AND r.at < ?2 ORDER BY r.at, r.key LIMIT ?3"
    ))?;
    let rows = statement.query_map(params![span, before, STEP as i64], |row| {
        let key = if row.get(10)? { RollupKey::read(row, 11)? } else { RollupKey::default().other() };
        Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, key, Figures::read(row, 2)?))
    })?;
    let rows: Vec<_> = rows.collect::<Result<_, _>>()?;
    let mut known = locked(&state.0);
    let mut remove = conn.prepare_cached("DELETE FROM rollups WHERE span = ?1 AND at = ?2 AND key = ?3")?;
    let folded = rows.len() as u64;
    for (at, id, key, figures) in rows {
        let whole = at.div_euclid(*longer) * longer;
        let key = known.place(conn, (*longer, whole), key)?;
        add(conn, (*longer, whole, key), &figures)?;
        remove.execute([*span, at, id])?;
        known.spans.remove(&(*span, at));
    }
    Ok(folded)
}

/// Removes the oldest rows: those of days before this (Unix seconds), or, if `None`, whatever is the oldest;
/// returns how many, at most [`STEP`].
pub(in super::super) fn trim(
    conn: &Connection,
    state: &RollupState,
    before: Option<i64>,
) -> rusqlite::Result<u64> {
    let mut remove = conn.prepare_cached(
        "DELETE FROM rollups WHERE span = ?1 AND (at, key) IN (
           SELECT at, key FROM rollups WHERE span = ?1 AND at < ?2 ORDER BY at, key LIMIT ?3)",
    )?;
    // The longest spans have what is the oldest.
    let spans = SPANS.iter().rev().take(if before.is_some() { 1 } else { SPANS.len() });
    for span in spans {
        let removed = remove.execute(params![span, before.unwrap_or(i64::MAX), STEP as i64])?;
        if removed > 0 {
            state.forget();
            return Ok(removed as u64);
        }
    }
    Ok(0)
}

/// Keys that no row has, if there are so many that they are worth removing; found on a connection that reads.
pub(in super::super) fn unused_keys(conn: &Connection) -> rusqlite::Result<Vec<i64>> {
    let all: i64 = conn.query_row("SELECT count(*) FROM rollup_keys", [], |row| row.get(0))?;
    if all < MAX_ALL_KEYS / 2 {
        return Ok(Vec::new());
    }
    let mut statement =
        conn.prepare("SELECT id FROM rollup_keys WHERE id NOT IN (SELECT key FROM rollups)")?;
    let ids = statement.query_map([], |row| row.get(0))?;
    ids.collect()
}

/// Removes these keys, but for those that a row has by now and the newest; returns how many. A row of a key that is
/// gone all the same, of an event that came late meanwhile, is counted as [`OTHER`](super::OTHER).
pub(in super::super) fn remove_keys(
    conn: &Connection,
    state: &RollupState,
    ids: &[i64],
) -> rusqlite::Result<u64> {
    let mut minutes = conn.prepare_cached("SELECT DISTINCT key FROM rollups WHERE span = ?1")?;
    let used: HashSet<i64> =
        minutes.query_map([SPANS[0]], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    // The next key would have the id of the newest again, which others take for unused.
    let mut remove = conn
        .prepare_cached("DELETE FROM rollup_keys WHERE id = ?1 AND id < (SELECT max(id) FROM rollup_keys)")?;
    let mut removed = 0;
    for id in ids.iter().filter(|id| !used.contains(id)) {
        removed += remove.execute([id])? as u64;
    }
    state.forget();
    Ok(removed)
}

/// Rows that there are. Reads all of them.
pub(in super::super) fn count(conn: &Connection) -> rusqlite::Result<u64> {
    conn.query_row("SELECT count(*) FROM rollups", [], |row| row.get(0)).map(super::from_sql)
}
