//! The counts of `recording/stats`, from the rows of the known sources and the totals of those
//! whose rows were removed after they ended.

use rusqlite::{Connection, Row, params};
use tidegate_policy::wire::event::{DropReason, VmId};

use super::check_counts;
use super::integers::{from_sql, to_sql};
use super::meta;
use super::open_events;
use super::ranges::RangeTable;
use crate::store::RecordingCounts;

/// Reasons to give events up, as in column `dropped.reason`.
const REASONS: [DropReason; 4] =
    [DropReason::BufferFull, DropReason::RecorderFull, DropReason::Unencodable, DropReason::Expired];

/// Names in `meta`.
const MALFORMED: &str = "recording.malformed";
const INCOMPLETE: &str = "recording.incomplete";
const FOLDED: &str = "recording.folded.";
const FOLDED_DROPPED: &str = "recording.folded.dropped.";

/// Names of the sums over sources: in this order in [`SUM_COLUMNS`], and in `meta` after
/// [`FOLDED`].
const SUMS: [&str; 5] = ["numbered", "stored", "duplicates", "lost", "unclosed"];
const SUM_COLUMNS: &str =
    "coalesce(sum(numbered_hi), 0), coalesce(sum(stored), 0), coalesce(sum(duplicates), 0),
  coalesce(sum(CASE WHEN dead_at IS NULL AND closed_at IS NULL THEN 0
               ELSE numbered_hi - stored - dropped END), 0),
  coalesce(sum(dead_at IS NOT NULL AND closed_at IS NULL), 0)";

fn sums_of(row: &Row<'_>) -> rusqlite::Result<[i64; 5]> {
    Ok([row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?])
}

/// Counts batches that could not be read.
pub(super) fn add_malformed(conn: &Connection, batches: u64) -> rusqlite::Result<()> {
    meta::add(conn, MALFORMED, to_sql(batches))
}

/// Adds to the count of events that the ledger has without their end; `more` is negative when
/// ends have come.
pub(super) fn add_incomplete(conn: &Connection, more: i64) -> rusqlite::Result<()> {
    meta::add(conn, INCOMPLETE, more)
}

/// The counts at the moment of the read transaction that `conn` is in. Gaps that existed before
/// `lost_before` (milliseconds) are lost. `alive` and `recorder` are left empty: they are in
/// memory only.
pub(super) fn recording(conn: &Connection, lost_before: i64) -> rusqlite::Result<RecordingCounts> {
    let mut sums =
        conn.prepare_cached(&format!("SELECT {SUM_COLUMNS} FROM sources"))?.query_row([], sums_of)?;
    for (sum, name) in sums.iter_mut().zip(SUMS) {
        *sum = sum.saturating_add(meta::get(conn, &format!("{FOLDED}{name}"))?);
    }
    let [numbered, stored, duplicates, lost_with_source, unclosed] = sums.map(from_sql);
    let (missing, too_old) = gaps_of_the_living(conn, lost_before)?;
    let (open, open_of_the_ended) = open_events::count(conn)?;
    Ok(RecordingCounts {
        numbered,
        stored,
        duplicates,
        unclosed,
        pending: missing.saturating_sub(too_old) + open_of_the_ended,
        lost: lost_with_source.saturating_sub(open_of_the_ended) + too_old,
        dropped: dropped(conn)?,
        malformed: from_sql(meta::get(conn, MALFORMED)?),
        open,
        incomplete: from_sql(meta::get(conn, INCOMPLETE)?),
        checks: check_counts::read(conn)?,
        ..RecordingCounts::default()
    })
}

/// How many numbers are missing of sources that have not ended, and how many of those were
/// assigned before `lost_before`.
fn gaps_of_the_living(conn: &Connection, lost_before: i64) -> rusqlite::Result<(u64, u64)> {
    let mut statement = conn.prepare_cached(
        "SELECT source, numbered_hi - stored - dropped, coalesce((SELECT max(m.numbered_hi) FROM source_marks m
           WHERE m.source = s.source AND m.at <= ?1), 0)
         FROM sources s
         WHERE dead_at IS NULL AND closed_at IS NULL AND numbered_hi > stored + dropped",
    )?;
    let mut rows = statement.query([lost_before])?;
    let (mut missing, mut too_old) = (0u64, 0u64);
    while let Some(row) = rows.next()? {
        let source = VmId(u128::from_be_bytes(row.get(0)?));
        missing += from_sql(row.get(1)?);
        let marked = from_sql(row.get(2)?);
        if marked > 0 {
            let stored = RangeTable::Ledger.count_upto(conn, source, marked)?;
            let dropped = RangeTable::Dropped.count_upto(conn, source, marked)?;
            let open = open_events::count_upto(conn, source, marked)?;
            too_old += marked.saturating_sub(stored).saturating_sub(dropped).saturating_sub(open);
        }
    }
    Ok((missing, too_old))
}

fn dropped(conn: &Connection) -> rusqlite::Result<Vec<(&'static str, u64)>> {
    let mut by_reason = Vec::new();
    for reason in REASONS {
        let name = reason.name();
        let known: i64 = conn
            .prepare_cached("SELECT coalesce(sum(last - first + 1), 0) FROM dropped WHERE reason = ?1")?
            .query_row([name], |row| row.get(0))?;
        let total = known.saturating_add(meta::get(conn, &format!("{FOLDED_DROPPED}{name}"))?);
        if total > 0 {
            by_reason.push((name, from_sql(total)));
        }
    }
    Ok(by_reason)
}

/// Adds `source` to the totals and removes its rows, if it had ended before `before`
/// (milliseconds) and has no open events. Returns whether it did.
pub(super) fn aggregate_source(conn: &Connection, source: VmId, before: i64) -> rusqlite::Result<bool> {
    let key = source.0.to_be_bytes();
    let ended = "source = ?1 AND coalesce(dead_at, closed_at) < ?2";
    if !conn.prepare_cached(&format!("SELECT 1 FROM sources WHERE {ended}"))?.exists(params![key, before])?
        || open_events::any_of(conn, source)?
    {
        return Ok(false);
    }
    let sums = conn
        .prepare_cached(&format!("SELECT {SUM_COLUMNS} FROM sources WHERE {ended}"))?
        .query_row(params![key, before], sums_of)?;
    for (sum, name) in sums.into_iter().zip(SUMS) {
        meta::add(conn, &format!("{FOLDED}{name}"), sum)?;
    }
    let mut by_reason = conn.prepare_cached(
        "SELECT reason, sum(last - first + 1) FROM dropped WHERE source = ?1 GROUP BY reason",
    )?;
    let mut rows = by_reason.query([key])?;
    while let Some(row) = rows.next()? {
        meta::add(conn, &format!("{FOLDED_DROPPED}{}", row.get::<_, String>(0)?), row.get(1)?)?;
    }
    for table in ["ledger", "dropped", "source_marks", "sources"] {
        conn.prepare_cached(&format!("DELETE FROM {table} WHERE source = ?1"))?.execute([key])?;
    }
    Ok(true)
}
