//! What the requests of a rollout's stage measured, by block and group. It is written in the transaction of the events,
//! so that nothing is lost or counted twice, whenever the service ends.
//!
//! What is measured is read in the same transaction, from `rollout_runs`: a step of a run is one transaction, and events
//! are counted as it was before it or as it is after it.

use std::time::Instant;

use rusqlite::{Connection, OptionalExtension, Row, params};
use tidegate_policy::check::PerCheck;
use tidegate_policy::wire::event::TrafficEvent;
use tidegate_rollout::figures::{
    Block, CLIENT_BLOCKS, CheckFigures, ClientBlock, Group, GroupFigures, Measurement, NewFigures,
    StageFigures,
};
use tidegate_statistics::histogram::Histogram;

use super::integers::{from_sql, to_sql};
use super::rows::text;
use super::slice_clock::SliceClock;
use crate::store::MeasuredStage;

/// Counts of one transaction for the run that is measured.
#[derive(Default)]
pub(super) struct StageCounts(Option<Counting>);

struct Counting {
    /// The rollout's name.
    name: String,
    measurement: Measurement,
    /// The one in which the transaction began: its events come in it.
    slice: u32,
    new: NewFigures,
}

impl StageCounts {
    /// For the run that is measured, in the transaction that `conn` is in; without one nothing is counted.
    pub(super) fn load(conn: &Connection, clock: &SliceClock) -> rusqlite::Result<Self> {
        let measured = conn
            .prepare_cached(
                "SELECT name, entered_seq, measured FROM rollout_runs WHERE active AND measured IS NOT NULL LIMIT 1",
            )?
            .query_row([], |row| Ok((row.get::<_, String>(0)?, row.get(1).map(from_sql)?, text(row, 2)?)))
            .optional()?;
        let found = measured.and_then(|(name, entered_seq, measured)| {
            let stage: MeasuredStage = serde_json::from_str(&measured?).ok()?;
            Some((name, stage.measurement(entered_seq)))
        });
        let Some((name, measurement)) = found else { return Ok(Self(None)) };
        let slice = clock.at(Instant::now(), conn, (&name, &measurement))?.slice;
        Ok(Self(Some(Counting { name, measurement, slice, new: NewFigures::default() })))
    }

    /// Counts a request that has ended.
    pub(super) fn add(&mut self, event: &TrafficEvent) {
        if let Some(Counting { measurement, slice, new, .. }) = &mut self.0 {
            new.add(measurement, *slice, event);
        }
    }

    /// Writes the counts, in the transaction of their events.
    pub(super) fn write(self, conn: &Connection, clock: &SliceClock) -> rusqlite::Result<()> {
        let Some(Counting { name, measurement, slice, new }) = self.0 else { return Ok(()) };
        if clock.is_to_join(&measurement, slice) {
            join_old(conn, (&name, &measurement), slice)?;
        }
        for ((block, group), figures) in new.into_figures() {
            add(conn, (&name, &measurement), (block, group), figures)?;
        }
        Ok(())
    }
}

/// Columns of [`GroupFigures`].
const COLUMNS: &str = "requests, succeeded, server_errors, denied, checks, gate, total";

fn read(row: &Row<'_>, from: usize) -> rusqlite::Result<GroupFigures> {
    let count = |column: usize| row.get(from + column).map(from_sql);
    Ok(GroupFigures {
        requests: count(0)?,
        succeeded: count(1)?,
        server_errors: count(2)?,
        denied: count(3)?,
        checks: read_checks(&text(row, from + 4)?.unwrap_or_default()),
        gate: Histogram::from_bytes(row.get(from + 5)?),
        total: Histogram::from_bytes(row.get(from + 6)?),
    })
}

/// Checks as they are stored: of each its counts, in the order of their fields.
fn write_checks(checks: &PerCheck<CheckFigures>) -> String {
    let counts = |of: CheckFigures| {
        let CheckFigures { cached, direct, fallback, unavailable, compared, mismatched } = of;
        [cached, direct, fallback, unavailable, compared, mismatched]
    };
    serde_json::to_string(&[checks.ip, checks.geo, checks.route].map(counts)).unwrap_or_default()
}

fn read_checks(stored: &str) -> PerCheck<CheckFigures> {
    let counts: [[u64; 6]; 3] = serde_json::from_str(stored).unwrap_or_default();
    let [ip, geo, route] = counts.map(|[cached, direct, fallback, unavailable, compared, mismatched]| {
        CheckFigures { cached, direct, fallback, unavailable, compared, mismatched }
    });
    PerCheck { ip, geo, route }
}

/// A block as it is stored: its kind (`of_clients`), and its number.
fn stored_block(block: Block) -> (u8, u32) {
    match block {
        Block::Slice(slice) => (0, slice),
        Block::Clients(ClientBlock { span, clients }) => {
            (1, span.saturating_mul(CLIENT_BLOCKS.into()).saturating_add(clients.into()))
        }
        Block::SliceAhead(slice) => (2, slice),
        Block::ClientsAhead(clients) => (3, clients.into()),
    }
}

/// What [`stored_block`] made.
fn read_block(kind: u8, stored: u32) -> Block {
    let blocks = u32::from(CLIENT_BLOCKS);
    // Under 64.
    let clients = (stored % blocks) as u8;
    match kind {
        0 => Block::Slice(stored),
        1 => Block::Clients(ClientBlock { span: stored / blocks, clients }),
        2 => Block::SliceAhead(stored),
        _ => Block::ClientsAhead(clients),
    }
}

/// Joins blocks that are old when the slice `present` has begun.
pub(super) fn join_old(
    conn: &Connection,
    (name, measurement): (&str, &Measurement),
    present: u32,
) -> rusqlite::Result<()> {
    let of = (name, to_sql(measurement.run), measurement.number);
    let blocks: Vec<(u8, u32, bool)> = conn
        .prepare_cached(
            "SELECT of_clients, block, treated FROM rollout_figures WHERE name = ?1 AND run = ?2 AND measurement = ?3",
        )?
        .query_map(of, |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<rusqlite::Result<_>>()?;
    for (kind, stored, is_treated) in blocks {
        let block = read_block(kind, stored);
        let kept = measurement.kept_in(block, present);
        if kept == block {
            continue;
        }
        let figures = conn
            .prepare_cached(&format!(
                "DELETE FROM rollout_figures WHERE name = ?1 AND run = ?2 AND measurement = ?3
                   AND of_clients = ?4 AND block = ?5 AND treated = ?6 RETURNING {COLUMNS}"
            ))?
            .query_row((name, of.1, of.2, kind, stored, is_treated), |row| read(row, 0))?;
        add(conn, (name, measurement), (kept, group_of(is_treated)), figures)?;
    }
    Ok(())
}

fn group_of(is_treated: bool) -> Group {
    if is_treated { Group::Treated } else { Group::Control }
}

/// Adds figures to those of a block and group.
pub(super) fn add(
    conn: &Connection,
    (name, measurement): (&str, &Measurement),
    (block, group): (Block, Group),
    mut figures: GroupFigures,
) -> rusqlite::Result<()> {
    let (run, number) = (to_sql(measurement.run), measurement.number);
    let ((kind, block), is_treated) = (stored_block(block), group == Group::Treated);
    let stored = conn
        .prepare_cached(&format!(
            "SELECT {COLUMNS} FROM rollout_figures WHERE name = ?1 AND run = ?2 AND measurement = ?3
               AND of_clients = ?4 AND block = ?5 AND treated = ?6"
        ))?
        .query_row(params![name, run, number, kind, block, is_treated], |row| read(row, 0))
        .optional()?;
    if let Some(stored) = &stored {
        figures.add(stored);
    }
    conn.prepare_cached(&format!(
        "INSERT OR REPLACE INTO rollout_figures
           (name, run, measurement, of_clients, block, treated, {COLUMNS})
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)"
    ))?
    .execute(params![
        name,
        run,
        number,
        kind,
        block,
        is_treated,
        to_sql(figures.requests),
        to_sql(figures.succeeded),
        to_sql(figures.server_errors),
        to_sql(figures.denied),
        write_checks(&figures.checks),
        figures.gate.as_bytes(),
        figures.total.as_bytes()
    ])?;
    Ok(())
}

/// Removes what was counted of other measurements of this rollout: their stages' records have what came of them.
pub(super) fn remove_others(conn: &Connection, name: &str, run: u64, number: u32) -> rusqlite::Result<()> {
    conn.prepare_cached("DELETE FROM rollout_figures WHERE name = ?1 AND (run, measurement) <> (?2, ?3)")?
        .execute(params![name, to_sql(run), number])
        .map(|_| ())
}

/// What was counted of a measurement; what is observed is left empty. The length of its slices and the present one are known
/// while it goes on.
pub(super) fn figures(
    conn: &Connection,
    clock: &SliceClock,
    name: &str,
    (run, number): (u64, u32),
) -> rusqlite::Result<StageFigures> {
    let mut statement = conn.prepare_cached(&format!(
        "SELECT of_clients, block, treated, {COLUMNS} FROM rollout_figures
         WHERE name = ?1 AND run = ?2 AND measurement = ?3"
    ))?;
    let mut found = StageFigures::default();
    let mut rows = statement.query(params![name, to_sql(run), number])?;
    while let Some(row) = rows.next()? {
        found.add(read_block(row.get(0)?, row.get(1)?), group_of(row.get(2)?), &read(row, 3)?);
    }
    let measured: Option<MeasuredStage> = conn
        .prepare_cached("SELECT measured FROM rollout_runs WHERE name = ?1 AND measured IS NOT NULL")?
        .query_row([name], |row| text(row, 0))
        .optional()?
        .flatten()
        .and_then(|measured| serde_json::from_str(&measured).ok());
    if let Some(measured) = measured.filter(|measured| (measured.run, measured.number) == (run, number)) {
        let time = clock.at(Instant::now(), conn, (name, &measured.measurement(0)))?;
        found.present = found.present.max(time.slice);
        found.measured_ms = u64::try_from(time.measured.as_millis()).unwrap_or(u64::MAX);
        (found.slice_ms, found.spans) = (measured.slice_ms, measured.spans);
    }
    Ok(found)
}
