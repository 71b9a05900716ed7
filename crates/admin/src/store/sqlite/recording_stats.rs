//! The counts of `recording/stats`, from the rows of the known sources and the totals of those
//! whose rows were removed after they ended.

use rusqlite::{Connection, Row, params};
use tidegate_policy::wire::event::{DropReason, VmId};

use super::check_counts;
use super::integers::{from_sql, to_sql};
use super::ledger::HAS_ENDED;
use super::meta;
use super::open_events;
use super::ranges::RangeTable;
use crate::store::{RecordingCounts, SourceGap};

/// Sources with missing events that are named.
const SHOWN_GAPS: i64 = 5;
/// Reasons to give events up, as in column `dropped.reason`.
const REASONS: [DropReason; 4] =
    [DropReason::BufferFull, DropReason::RecorderFull, DropReason::Unencodable, DropReason::Expired];

/// Names in `meta`.
const MALFORMED: &str = "recording.malformed";
const REFUSED: &str = "recording.refused";
const REMOVED: &str = "recording.removed";
const UNTOLD: &str = "recording.untold";
const INCOMPLETE: &str = "recording.incomplete";
const FOLDED: &str = "recording.folded.";
const FOLDED_DROPPED: &str = "recording.folded.dropped.";

/// Names of the sums over sources: in this order in [`SUMMANDS`], and in `meta` after
/// [`FOLDED`].
const SUMS: [&str; 5] = ["numbered", "stored", "duplicates", "lost", "unclosed"];
const SUMMANDS: [&str; 5] = [
    "numbered_hi",
    "stored",
    "duplicates",
    "CASE WHEN dead_at IS NULL AND closed_at IS NULL THEN 0 ELSE numbered_hi - stored - dropped END",
    "dead_at IS NOT NULL AND closed_at IS NULL",
];

/// SQL for a sum that cannot overflow, whatever gateways claim: that of the upper and that of the
/// lower 32 bits. [`wide_sum`] reads both.
fn halves_of(summand: &str) -> String {
    format!("coalesce(sum(({summand}) >> 32), 0), coalesce(sum(({summand}) & 4294967295), 0)")
}

/// A sum of which `row` has the halves from `column` on, at most `i64::MAX`.
fn wide_sum(row: &Row<'_>, column: usize) -> rusqlite::Result<i64> {
    let (upper, lower): (i64, i64) = (row.get(column)?, row.get(column + 1)?);
    let sum = i128::from(upper) * (1 << 32) + i128::from(lower);
    Ok(i64::try_from(sum).unwrap_or(if sum < 0 { i64::MIN } else { i64::MAX }))
}

/// SQL for the sums over the sources of a query, and how to read them.
fn sum_columns() -> String {
    SUMMANDS.map(halves_of).join(", ")
}

fn sums_of(row: &Row<'_>) -> rusqlite::Result<[i64; 5]> {
    let mut sums = [0; 5];
    for (at, sum) in sums.iter_mut().enumerate() {
        *sum = wide_sum(row, 2 * at)?;
    }
    Ok(sums)
}

/// Counts claims that were refused because they are not possible.
pub(super) fn add_refused(conn: &Connection, claims: u64) -> rusqlite::Result<()> {
    meta::add(conn, REFUSED, to_sql(claims))
}

/// Counts stored events that retention removed.
pub(super) fn add_removed(conn: &Connection, events: u64) -> rusqlite::Result<()> {
    meta::add(conn, REMOVED, to_sql(events))
}

/// Counts batches that could not be read.
pub(super) fn add_malformed(conn: &Connection, batches: u64) -> rusqlite::Result<()> {
    meta::add(conn, MALFORMED, to_sql(batches))
}

/// Notes that a gateway is not told of all requests. That holds of all counts from then on.
pub(super) fn note_untold(conn: &Connection) -> rusqlite::Result<()> {
    if meta::get(conn, UNTOLD)? == 0 { meta::set(conn, UNTOLD, 1) } else { Ok(()) }
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
        conn.prepare_cached(&format!("SELECT {} FROM sources", sum_columns()))?.query_row([], sums_of)?;
    for (sum, name) in sums.iter_mut().zip(SUMS) {
        *sum = sum.saturating_add(meta::get(conn, &format!("{FOLDED}{name}"))?);
    }
    let [numbered, stored, duplicates, lost_with_source, unclosed] = sums.map(from_sql);
    let Gaps { missing, too_old, late } = gaps_of_the_living(conn, lost_before)?;
    let (open, open_of_the_ended) = open_events::count(conn)?;
    let lost_with_source = lost_with_source.saturating_sub(open_of_the_ended);
    Ok(RecordingCounts {
        numbered,
        stored,
        duplicates,
        unclosed,
        pending: missing.saturating_sub(too_old).saturating_add(open_of_the_ended),
        lost: lost_with_source.saturating_add(too_old),
        missing: lost_with_source.saturating_add(late),
        dropped: dropped(conn)?,
        malformed: from_sql(meta::get(conn, MALFORMED)?),
        refused: from_sql(meta::get(conn, REFUSED)?),
        removed: from_sql(meta::get(conn, REMOVED)?),
        untold: meta::get(conn, UNTOLD)? != 0,
        gaps: largest_gaps(conn)?,
        open,
        incomplete: from_sql(meta::get(conn, INCOMPLETE)?),
        checks: check_counts::read(conn)?,
        ..RecordingCounts::default()
    })
}

/// Numbers that are missing of sources that have not ended.
#[derive(Default)]
struct Gaps {
    /// All of them.
    missing: u64,
    /// Those that were assigned so long ago that they are lost.
    too_old: u64,
    /// Those, and others that were overtaken: of their source a higher number is stored or dropped.
    late: u64,
}

fn gaps_of_the_living(conn: &Connection, lost_before: i64) -> rusqlite::Result<Gaps> {
    let mut statement = conn.prepare_cached(
        "SELECT source, numbered_hi - stored - dropped,
           coalesce((SELECT max(m.numbered_hi) FROM source_marks m WHERE m.source = s.source AND m.at <= ?1), 0),
           max(coalesce((SELECT last FROM ledger l WHERE l.source = s.source ORDER BY first DESC LIMIT 1), 0),
               coalesce((SELECT last FROM dropped d WHERE d.source = s.source ORDER BY first DESC LIMIT 1), 0))
         FROM sources s
         WHERE dead_at IS NULL AND closed_at IS NULL AND numbered_hi > stored + dropped",
    )?;
    let mut rows = statement.query([lost_before])?;
    let mut gaps = Gaps::default();
    while let Some(row) = rows.next()? {
        let source = VmId(u128::from_be_bytes(row.get(0)?));
        let (marked, highest) = (from_sql(row.get(2)?), from_sql(row.get(3)?));
        gaps.missing = gaps.missing.saturating_add(from_sql(row.get(1)?));
        gaps.too_old = gaps.too_old.saturating_add(missing_upto(conn, source, marked)?);
        gaps.late = gaps.late.saturating_add(missing_upto(conn, source, marked.max(highest))?);
    }
    Ok(gaps)
}

/// How many numbers of a source up to `upto` are neither stored nor dropped nor of open events.
fn missing_upto(conn: &Connection, source: VmId, upto: u64) -> rusqlite::Result<u64> {
    if upto == 0 {
        return Ok(0);
    }
    let stored = RangeTable::Ledger.count_upto(conn, source, upto)?;
    let dropped = RangeTable::Dropped.count_upto(conn, source, upto)?;
    let open = open_events::count_upto(conn, source, upto)?;
    Ok(upto.saturating_sub(stored).saturating_sub(dropped).saturating_sub(open))
}

/// The sources of which most numbers are neither stored nor dropped, if of any.
fn largest_gaps(conn: &Connection) -> rusqlite::Result<Vec<SourceGap>> {
    let mut statement = conn.prepare_cached(
        "SELECT source, gateway, numbered_hi, stored, dropped FROM sources
         WHERE numbered_hi > stored + dropped ORDER BY numbered_hi - stored - dropped DESC LIMIT ?1",
    )?;
    let rows = statement.query_map([SHOWN_GAPS], |row| {
        let count = |column| row.get(column).map(from_sql);
        Ok(SourceGap {
            source: VmId(u128::from_be_bytes(row.get(0)?)),
            gateway: row.get(1)?,
            numbered: count(2)?,
            stored: count(3)?,
            dropped: count(4)?,
        })
    })?;
    rows.collect()
}

fn dropped(conn: &Connection) -> rusqlite::Result<Vec<(&'static str, u64)>> {
    let mut by_reason = Vec::new();
    for reason in REASONS {
        let name = reason.name();
        let known: i64 = conn
            .prepare_cached(&format!(
                "SELECT {} FROM dropped WHERE reason = ?1",
                halves_of("last - first + 1")
            ))?
            .query_row([name], |row| wide_sum(row, 0))?;
        let total = known.saturating_add(meta::get(conn, &format!("{FOLDED_DROPPED}{name}"))?);
        if total > 0 {
            by_reason.push((name, from_sql(total)));
        }
    }
    Ok(by_reason)
}

/// Adds `sources` to the totals and removes their rows, if they closed before `closed_by` or died
/// without that before `dead_by` (milliseconds), and have no open events. Stops after `most` rows;
/// a source of which rows are left counts as before. Returns how many rows were removed.
pub(super) fn aggregate(
    conn: &Connection,
    sources: &[VmId],
    closed_by: i64,
    dead_by: i64,
    most: usize,
) -> rusqlite::Result<u64> {
    let mut removed = 0;
    for &source in sources {
        let left = to_sql(most as u64) - removed;
        if left <= 0 {
            break;
        }
        let key = source.0.to_be_bytes();
        let ended = format!("source = ?3 AND ({HAS_ENDED})");
        let bounds = params![closed_by, dead_by, key];
        if !conn.prepare_cached(&format!("SELECT 1 FROM sources WHERE {ended}"))?.exists(bounds)?
            || open_events::any_of(conn, source)?
        {
            continue;
        }
        removed += remove_ranges(conn, source, left)?;
        if removed >= to_sql(most as u64) {
            break;
        }
        let sums = conn
            .prepare_cached(&format!("SELECT {} FROM sources WHERE {ended}", sum_columns()))?
            .query_row(params![closed_by, dead_by, key], sums_of)?;
        for (sum, name) in sums.into_iter().zip(SUMS) {
            meta::add(conn, &format!("{FOLDED}{name}"), sum)?;
        }
        for table in ["source_marks", "sources"] {
            conn.prepare_cached(&format!("DELETE FROM {table} WHERE source = ?1"))?.execute([key])?;
        }
        removed += 1;
    }
    Ok(from_sql(removed))
}

/// Removes up to `most` ranges of `source`, and adds those that were dropped to the totals. What
/// is in `sources` counts as before.
fn remove_ranges(conn: &Connection, source: VmId, most: i64) -> rusqlite::Result<i64> {
    let key = source.0.to_be_bytes();
    let stored = conn
        .prepare_cached(
            "DELETE FROM ledger WHERE source = ?1 AND first IN
               (SELECT first FROM ledger WHERE source = ?1 LIMIT ?2)",
        )?
        .execute(params![key, most])?;
    let mut dropped = conn.prepare_cached(
        "DELETE FROM dropped WHERE source = ?1 AND first IN
           (SELECT first FROM dropped WHERE source = ?1 LIMIT ?2) RETURNING reason, last - first + 1",
    )?;
    let left = most - to_sql(stored as u64);
    let mut rows = dropped.query(params![key, left])?;
    let mut removed = to_sql(stored as u64);
    while let Some(row) = rows.next()? {
        meta::add(conn, &format!("{FOLDED_DROPPED}{}", row.get::<_, String>(0)?), row.get(1)?)?;
        removed += 1;
    }
    Ok(removed)
}
