//! Ledger of stored event numbers per source: turns at-least-once delivery into exactly-once
//! storage, and gives the counts of `recording/stats`.
//! `docs/ARCHITECTURE.md`, "An event".
//!
//! Per source: disjoint merged ranges of stored numbers, disjoint ranges of
//! numbers given up, and sums of both. Every number up to `numbered_hi` is stored,
//! dropped, or missing; a missing one is pending until its source has ended or
//! [`Options::pending_for`](super::Options::pending_for) has passed, then lost.

use std::collections::HashMap;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Row, params};
use tidegate_policy::wire::event::{DroppedRange, SourceReport, SourceState, VmId};
use tidegate_policy::wire::sync::Gateway;

use super::integers::{from_sql, to_sql};
use super::ranges::{MAX_NUMBER, NumberRange, RangeTable, add_to_dropped, add_to_ledger, take_from_dropped};
use crate::store::RefusedClaim;

/// `heard_at` is updated at most this often, milliseconds.
const HEARD_EVERY_MS: i64 = 10 * 60 * 1000;
/// A source that was not heard of for this long is dead, as far as is known: recorders stop
/// retrying after this time.
pub(super) const SILENT_FOR: Duration = Duration::from_secs(24 * 3600);
/// Requests that one thread of Envoy ends in a second, at most: some 20,000 were measured, without
/// anything to do for each.
const MOST_PER_SECOND: u64 = 100_000;
/// So many a source may have numbered without being heard of, in 30 days at that rate: the service may
/// have been away, or its clock wrong.
const MOST_UNHEARD: u64 = 30 * 86_400 * MOST_PER_SECOND;
/// Beyond that its numbers grow with the clock: claims that it can repeat must not add up. So much,
/// milliseconds, may two posts be nearer to each other than their numbers.
const NEAR_MS: i64 = 1_000;
/// Parts of a dropped range that are entered at a time.
pub(super) const MAX_PARTS: usize = 64;
/// Marks of a source's progress per `pending_for`. A gap is counted as lost at most
/// `pending_for / MARKS` late.
const MARKS: u32 = 15;

/// The counts of one source, as in its row of `sources`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct SourceSums {
    gateway: String,
    numbered_hi: u64,
    stored: u64,
    dropped: u64,
    duplicates: u64,
    heard_at: i64,
    closed_at: Option<i64>,
    dead_at: Option<i64>,
}

impl SourceSums {
    fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        let count = |column| row.get(column).map(from_sql);
        Ok(Self {
            gateway: row.get(0)?,
            numbered_hi: count(1)?,
            stored: count(2)?,
            dropped: count(3)?,
            duplicates: count(4)?,
            heard_at: row.get(5)?,
            closed_at: row.get(6)?,
            dead_at: row.get(7)?,
        })
    }

    /// The highest number that the source can have reached at `now`.
    fn possible(&self, now: i64) -> u64 {
        if self.heard_at == 0 {
            return MOST_UNHEARD;
        }
        // Heard of in the future: by a clock that was wrong.
        let since = if self.heard_at > now { HEARD_EVERY_MS } else { now.saturating_sub(self.heard_at) };
        let more = from_sql(since.saturating_add(NEAR_MS)).saturating_mul(MOST_PER_SECOND / 1000);
        self.numbered_hi.max(MOST_UNHEARD).saturating_add(more).min(MAX_NUMBER)
    }

    /// Whether it is to be noted that it was heard of at `now`.
    fn is_heard_anew(&self, now: i64) -> bool {
        self.numbered_hi >= MOST_UNHEARD || !(0..HEARD_EVERY_MS).contains(&(now - self.heard_at))
    }

    /// Whether it is dead only because it was not heard of for [`SILENT_FOR`].
    fn is_buried(&self) -> bool {
        self.dead_at.is_some_and(|dead_at| dead_at.saturating_sub(self.heard_at) >= millis(SILENT_FOR))
    }

    /// Numbers that are neither stored nor dropped.
    fn missing(&self) -> u64 {
        self.numbered_hi.saturating_sub(self.stored).saturating_sub(self.dropped)
    }
}

/// The ledger within one write transaction. Counts are kept here until [`Ledger::write`].
pub(super) struct Ledger<'a> {
    conn: &'a Connection,
    now: i64,
    pending_for: Duration,
    /// Counts as they are now, and as they were read; `None`: the source is new.
    sources: HashMap<VmId, (SourceSums, Option<SourceSums>)>,
    refused: RefusedClaims,
}

/// Claims that were refused because no source can have numbered so many events.
#[derive(Debug, Default)]
pub(super) struct RefusedClaims {
    /// How many.
    pub(super) count: u64,
    /// The last of them.
    pub(super) last: Option<RefusedClaim>,
}

impl<'a> Ledger<'a> {
    /// For the transaction that `conn` is in, at `now` (milliseconds since the Unix epoch).
    pub(super) fn new(conn: &'a Connection, now: i64, pending_for: Duration) -> Self {
        Self { conn, now, pending_for, sources: HashMap::new(), refused: RefusedClaims::default() }
    }

    /// The counts of `source`, as now and as read.
    fn load(&mut self, source: VmId) -> rusqlite::Result<&mut (SourceSums, Option<SourceSums>)> {
        if !self.sources.contains_key(&source) {
            let known = self
                .conn
                .prepare_cached(
                    "SELECT gateway, numbered_hi, stored, dropped, duplicates, heard_at, closed_at, dead_at
                     FROM sources WHERE source = ?1",
                )?
                .query_row([source.0.to_be_bytes()], SourceSums::from_row)
                .optional()?;
            let sums = known.clone().unwrap_or_default();
            self.sources.insert(source, (sums, known));
        }
        Ok(self.sources.entry(source).or_default())
    }

    /// The counts of `source`, which was heard of now.
    fn sums(&mut self, source: VmId, gateway: &str) -> rusqlite::Result<&mut SourceSums> {
        let now = self.now;
        let (sums, _) = self.load(source)?;
        if sums.gateway.is_empty() {
            gateway.clone_into(&mut sums.gateway);
        }
        if sums.is_buried() {
            sums.dead_at = None;
        }
        if sums.is_heard_anew(now) {
            sums.heard_at = now;
        }
        Ok(sums)
    }

    /// Whether `source` can have reached `number`. If not, the claim is counted, and the source is
    /// not heard of by it.
    pub(super) fn is_possible(&mut self, source: VmId, gateway: &str, number: u64) -> rusqlite::Result<bool> {
        let now = self.now;
        // By what was stored before this transaction: claims in it cannot build on each other.
        let (_, known) = self.load(source)?;
        let possible =
            known.as_ref().map_or_else(|| SourceSums::default().possible(now), |sums| sums.possible(now));
        if number > possible {
            let claim = RefusedClaim { source, gateway: gateway.to_owned(), number, at_ms: now };
            self.refused = RefusedClaims { count: self.refused.count.saturating_add(1), last: Some(claim) };
        }
        Ok(number <= possible)
    }

    /// Claims that were refused so far.
    pub(super) fn refused(&self) -> u64 {
        self.refused.count
    }

    /// Enters `range` and returns the parts that were not in the ledger: their rows must be
    /// stored in this transaction. Numbers of those parts that were counted as dropped no longer
    /// are. The source is not heard of by that: what it sent is noted by [`Self::reached`].
    pub(super) fn enter(&mut self, source: VmId, range: NumberRange) -> rusqlite::Result<Vec<NumberRange>> {
        let conn = self.conn;
        let new = range.without(&RangeTable::Ledger.overlapping(conn, source, range, usize::MAX)?);
        let (sums, _) = self.load(source)?;
        sums.numbered_hi = sums.numbered_hi.max(range.last);
        for part in &new {
            add_to_ledger(conn, source, *part)?;
            sums.stored += part.len();
            if sums.dropped > 0 {
                sums.dropped = sums.dropped.saturating_sub(take_from_dropped(conn, source, *part)?);
            }
        }
        let stored: u64 = new.iter().map(|part| part.len()).sum();
        sums.duplicates += range.len() - stored;
        Ok(new)
    }

    /// The completing event of a number that had been given up has arrived. [`Self::enter`]
    /// counted it as a duplicate, which it is not.
    pub(super) fn completed(&mut self, source: VmId, gateway: &str) -> rusqlite::Result<()> {
        let sums = self.sums(source, gateway)?;
        sums.duplicates = sums.duplicates.saturating_sub(1);
        Ok(())
    }

    /// Notes that a batch closes `source`: there will be no higher number.
    pub(super) fn closed(&mut self, source: VmId, gateway: &str) -> rusqlite::Result<()> {
        let now = self.now;
        self.sums(source, gateway)?.closed_at.get_or_insert(now);
        Ok(())
    }

    /// Raises the highest number of `source` to `numbered_hi`. Returns false if that is not
    /// possible; then nothing is changed.
    pub(super) fn reached(
        &mut self,
        source: VmId,
        gateway: &str,
        numbered_hi: u64,
    ) -> rusqlite::Result<bool> {
        if !self.is_possible(source, gateway, numbered_hi)? {
            return Ok(false);
        }
        let sums = self.sums(source, gateway)?;
        sums.numbered_hi = sums.numbered_hi.max(numbered_hi);
        Ok(true)
    }

    /// Enters a range that was given up, from its number `from` on. Numbers that are stored or
    /// dropped already are left as they are, so the first reason stays and the same range again
    /// changes nothing. Returns the number from which on it must be called again, if the range
    /// overlaps so many others that it is not yet entered to its end.
    pub(super) fn dropped(
        &mut self,
        dropped: &DroppedRange,
        from: u64,
        gateway: &str,
    ) -> rusqlite::Result<Option<u64>> {
        let (conn, source) = (self.conn, dropped.source);
        let Some(mut range) = NumberRange::checked(dropped.first.max(from), dropped.last) else {
            // Numbers past what a ledger can hold are counted as refused.
            let _ = self.is_possible(source, gateway, dropped.last)?;
            return Ok(None);
        };
        if !self.reached(source, gateway, range.last)? {
            return Ok(None);
        }
        let mut taken = Vec::new();
        let mut rest = None;
        for table in [RangeTable::Ledger, RangeTable::Dropped] {
            let found = table.overlapping(conn, source, range, MAX_PARTS)?;
            // Beyond the last of so many it is not known what the table has.
            if let Some(last) = found.get(MAX_PARTS - 1).map(|part| part.last)
                && last < range.last
            {
                (range.last, rest) = (last, Some(last + 1));
            }
            taken.extend(found);
        }
        taken.sort_unstable();
        let sums = self.sums(source, gateway)?;
        for part in range.without(&taken) {
            add_to_dropped(conn, source, part, dropped.reason.name())?;
            sums.dropped += part.len();
        }
        Ok(rest)
    }

    /// Applies a recorder's report about a source. A dead source that is reported alive is alive
    /// again.
    pub(super) fn report(&mut self, report: &SourceReport, gateway: &str) -> rusqlite::Result<()> {
        if !self.reached(report.source, gateway, report.numbered_hi)? {
            return Ok(());
        }
        let now = self.now;
        let sums = self.sums(report.source, gateway)?;
        match report.state {
            SourceState::Alive => sums.dead_at = None,
            SourceState::Dead => sums.dead_at = sums.dead_at.or(Some(now)),
        }
        Ok(())
    }

    /// Writes the counts; must be called before the transaction is committed. Returns the claims that
    /// were refused, which are not written.
    pub(super) fn write(self) -> rusqlite::Result<RefusedClaims> {
        for (source, (sums, before)) in &self.sources {
            if before.as_ref().unwrap_or(&SourceSums::default()) != sums {
                self.write_sums(*source, sums)?;
            }
            if sums.missing() > 0 && sums.dead_at.is_none() && sums.closed_at.is_none() {
                self.mark(*source, sums.numbered_hi)?;
            }
        }
        Ok(self.refused)
    }

    fn write_sums(&self, source: VmId, sums: &SourceSums) -> rusqlite::Result<()> {
        self.conn
            .prepare_cached(
                "INSERT OR REPLACE INTO sources
                   (source, gateway, numbered_hi, stored, dropped, duplicates, heard_at, closed_at, dead_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            )?
            .execute(params![
                source.0.to_be_bytes(),
                sums.gateway,
                to_sql(sums.numbered_hi),
                to_sql(sums.stored),
                to_sql(sums.dropped),
                to_sql(sums.duplicates),
                sums.heard_at,
                sums.closed_at,
                sums.dead_at,
            ])?;
        Ok(())
    }

    /// Stores a mark in `source_marks`: numbers up to `numbered_hi` were assigned by now. A
    /// number that is missing `pending_for` after its mark is lost.
    fn mark(&self, source: VmId, numbered_hi: u64) -> rusqlite::Result<()> {
        let key = source.0.to_be_bytes();
        let newest: Option<(i64, i64)> = self
            .conn
            .prepare_cached(
                "SELECT at, numbered_hi FROM source_marks WHERE source = ?1 ORDER BY at DESC LIMIT 1",
            )?
            .query_row([key], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let hi = to_sql(numbered_hi);
        let every = millis(self.pending_for / MARKS);
        // A mark of the future was made by a clock that was wrong.
        if newest.is_some_and(|(at, marked)| marked >= hi || (0..every).contains(&(self.now - at))) {
            return Ok(());
        }
        self.conn
            .prepare_cached("DELETE FROM source_marks WHERE source = ?1 AND at > ?2")?
            .execute(params![key, self.now])?;
        self.conn
            .prepare_cached(
                "INSERT OR REPLACE INTO source_marks (source, at, numbered_hi) VALUES (?1, ?2, ?3)",
            )?
            .execute(params![key, self.now, hi])?;
        // Of the marks older than `pending_for` only the newest is used.
        self.conn
            .prepare_cached(
                "DELETE FROM source_marks WHERE source = ?1 AND at <
                   (SELECT max(at) FROM source_marks WHERE source = ?1 AND at <= ?2)",
            )?
            .execute(params![key, self.now - millis(self.pending_for)])?;
        Ok(())
    }
}

/// `span` in whole milliseconds.
pub(super) fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

/// Marks sources of `gateway` as dead from `now` on, at most `most`; returns how many. Of their end
/// the service has heard: they are not [buried](SourceSums::is_buried).
pub(super) fn close_sources(
    conn: &Connection,
    gateway: &str,
    now: i64,
    most: usize,
) -> rusqlite::Result<usize> {
    conn.prepare_cached(
        "UPDATE sources SET dead_at = ?2, heard_at = max(heard_at, ?2) WHERE source IN
           (SELECT source FROM sources WHERE gateway = ?1 AND dead_at IS NULL LIMIT ?3)",
    )?
    .execute(params![gateway, now, to_sql(most as u64)])
}

/// Gateways with sources that are neither closed nor dead.
pub(super) fn gateways_with_open_sources(conn: &Connection) -> rusqlite::Result<Vec<Gateway>> {
    let mut statement = conn
        .prepare_cached("SELECT DISTINCT gateway FROM sources WHERE closed_at IS NULL AND dead_at IS NULL")?;
    let names = statement.query_map([], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>()?;
    // Names written by SQL may be invalid; they are left out.
    Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
}

/// Sources that were not heard of since `before`, with their gateways: those that are not dead, and
/// those that are only [buried](SourceSums::is_buried).
pub(super) fn silent(conn: &Connection, before: i64) -> rusqlite::Result<Vec<(VmId, String)>> {
    let mut statement = conn.prepare_cached(
        "SELECT source, gateway FROM sources
         WHERE heard_at < ?1 AND closed_at IS NULL AND (dead_at IS NULL OR dead_at - heard_at >= ?2)",
    )?;
    let rows = statement.query_map(params![before, millis(SILENT_FOR)], |row| {
        Ok((VmId(u128::from_be_bytes(row.get(0)?)), row.get(1)?))
    })?;
    rows.collect()
}

/// SQL condition: the source closed, or died after that, before ?1; or it died without closing
/// before ?2.
pub(super) const HAS_ENDED: &str = "CASE WHEN closed_at IS NULL THEN dead_at < ?2
  ELSE max(closed_at, coalesce(dead_at, closed_at)) < ?1 END";

/// Sources that closed before `closed_by`, or died without that before `dead_by`.
pub(super) fn ended(conn: &Connection, closed_by: i64, dead_by: i64) -> rusqlite::Result<Vec<VmId>> {
    let mut statement = conn.prepare_cached(&format!("SELECT source FROM sources WHERE {HAS_ENDED}"))?;
    let rows = statement.query_map([closed_by, dead_by], |row| Ok(VmId(u128::from_be_bytes(row.get(0)?))))?;
    rows.collect()
}

/// Notes that `source`, which said nothing, is still there: its gateway was heard of. Returns
/// whether that changed anything.
pub(super) fn still_there(conn: &Connection, source: VmId, now: i64) -> rusqlite::Result<bool> {
    let changed = conn
        .prepare_cached(
            "UPDATE sources SET dead_at = NULL, heard_at = ?2
             WHERE source = ?1 AND closed_at IS NULL AND (dead_at IS NULL OR dead_at - heard_at >= ?3)",
        )?
        .execute(params![source.0.to_be_bytes(), now, millis(SILENT_FOR)])?;
    Ok(changed > 0)
}

/// Marks `source` as dead from `now` on, unless it was heard of since `before`. Returns whether
/// it did.
pub(super) fn mark_dead(conn: &Connection, source: VmId, before: i64, now: i64) -> rusqlite::Result<bool> {
    let marked = conn
        .prepare_cached(
            "UPDATE sources SET dead_at = ?3 WHERE source = ?1 AND heard_at < ?2 AND dead_at IS NULL",
        )?
        .execute(params![source.0.to_be_bytes(), before, now])?;
    Ok(marked > 0)
}

/// Whether the ledger has the event `number` of `source`.
pub(super) fn covers(conn: &Connection, source: VmId, number: u64) -> rusqlite::Result<bool> {
    let Some(range) = NumberRange::checked(number, number) else { return Ok(false) };
    Ok(!RangeTable::Ledger.overlapping(conn, source, range, 1)?.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open() -> Connection {
        let conn = Connection::open_in_memory().unwrap();
        super::super::schema::ensure(&conn, super::super::schema::Upgrade::Allowed).unwrap();
        conn
    }

    fn ranges(conn: &Connection, table: &str) -> Vec<(i64, i64)> {
        conn.prepare(&format!("SELECT first, last FROM {table} ORDER BY first"))
            .unwrap()
            .query_map([], |r| Ok((r.get(0)?, r.get(1)?)))
            .unwrap()
            .map(Result::unwrap)
            .collect()
    }

    fn enter(ledger: &mut Ledger<'_>, first: u64, last: u64) -> Vec<(u64, u64)> {
        let new = ledger.enter(VmId(5), NumberRange { first, last }).unwrap();
        new.iter().map(|r| (r.first, r.last)).collect()
    }

    #[test]
    fn beyond_what_may_be_unheard_a_source_grows_with_the_clock() {
        let heard_at = 1_795_456_800_000;
        let with = |numbered_hi| SourceSums { numbered_hi, heard_at, ..SourceSums::default() };
        let minute = 60_000;
        for numbered in [0, 5_000, MOST_UNHEARD] {
            let possible = with(numbered).possible(heard_at + minute);
            assert_eq!(possible, MOST_UNHEARD + 61 * MOST_PER_SECOND, "{numbered}");
        }
        let long_lived = with(2 * MOST_UNHEARD);
        assert_eq!(long_lived.possible(heard_at) - 2 * MOST_UNHEARD, MOST_PER_SECOND);
        assert!(long_lived.possible(heard_at - minute) > 2 * MOST_UNHEARD + 500 * MOST_PER_SECOND);
        assert!(long_lived.is_heard_anew(heard_at + 1) && !with(5).is_heard_anew(heard_at + 1));
        assert_eq!(SourceSums::default().possible(heard_at), MOST_UNHEARD);
    }

    #[test]
    fn ranges_merge_and_parts_are_told() {
        let conn = open();
        let mut ledger = Ledger::new(&conn, 0, Duration::ZERO);
        assert_eq!(enter(&mut ledger, 1, 3), [(1, 3)]);
        assert_eq!(enter(&mut ledger, 7, 9), [(7, 9)]);
        assert_eq!(ranges(&conn, "ledger"), [(1, 3), (7, 9)]);
        assert_eq!(enter(&mut ledger, 2, 8), [(4, 6)]);
        assert_eq!(ranges(&conn, "ledger"), [(1, 9)]);
        assert_eq!(enter(&mut ledger, 1, 9), []);
        ledger.write().unwrap();
        assert!(covers(&conn, VmId(5), 9).unwrap());
        assert!(!covers(&conn, VmId(5), 10).unwrap());
        assert!(!covers(&conn, VmId(6), 9).unwrap());
    }

    #[test]
    fn what_was_dropped_and_comes_after_all_is_dropped_no_longer() {
        use tidegate_policy::wire::event::DropReason;
        let conn = open();
        let mut ledger = Ledger::new(&conn, 0, Duration::ZERO);
        let drop = |first, last, reason| DroppedRange { source: VmId(5), first, last, reason };
        ledger.dropped(&drop(5, 20, DropReason::BufferFull), 0, "g").unwrap();
        ledger.dropped(&drop(1, 30, DropReason::RecorderFull), 0, "g").unwrap();
        assert_eq!(ranges(&conn, "dropped"), [(1, 4), (5, 20), (21, 30)]);
        enter(&mut ledger, 8, 22);
        assert_eq!(ranges(&conn, "dropped"), [(1, 4), (5, 7), (23, 30)]);
        ledger.dropped(&drop(1, 30, DropReason::BufferFull), 0, "g").unwrap();
        assert_eq!(ranges(&conn, "dropped"), [(1, 4), (5, 7), (23, 30)]);
        let (sums, _) = &ledger.sources[&VmId(5)];
        assert_eq!((sums.numbered_hi, sums.stored, sums.dropped, sums.missing()), (30, 15, 15, 0));
    }
}
