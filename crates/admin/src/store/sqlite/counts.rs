//! Counters of one write transaction over the events whose numbers the ledger takes in it:
//! checks, client addresses, and events without their end. Each event counts once. What is counted of
//! requests that have ended (rollups, frequent values) counts when their end is stored.

use rusqlite::Connection;
use tidegate_policy::wire::event::TrafficEvent;

use super::check_counts::CheckTotals;
use super::database::Database;
use super::integers::to_sql;
use super::recording_stats;
use super::rollout_figures::StageCounts;
use super::rollups::RollupCounts;
use super::top_counts::NewCounts;
use crate::auto_bans::NewHits;

/// Counts of one transaction, not yet written.
pub(super) struct EventCounts {
    checks: CheckTotals,
    top: NewCounts,
    /// `None`: no statistics are kept.
    rollups: Option<RollupCounts>,
    /// What automatic bans count.
    auto_bans: NewHits,
    /// Of the stage of a rollout that is measured.
    stage: StageCounts,
    /// How many more (or, negative, fewer) events the ledger has without their end.
    incomplete: i64,
}

impl EventCounts {
    /// Without any; `statistics`: whether requests that have ended are counted by kind; `auto_bans`: by which rules;
    /// `stage`: the stage that is measured.
    pub(super) fn new(statistics: bool, auto_bans: NewHits, stage: StageCounts) -> Self {
        Self {
            checks: CheckTotals::default(),
            top: NewCounts::default(),
            rollups: statistics.then(RollupCounts::default),
            auto_bans,
            stage,
            incomplete: 0,
        }
    }

    /// Counts an event that entered the ledger.
    pub(super) fn add(&mut self, event: &TrafficEvent, ban_source: Option<&str>) {
        self.entered(event);
        self.ended(event, ban_source);
    }

    /// Counts an event that entered the ledger without its end.
    pub(super) fn add_incomplete(&mut self, event: &TrafficEvent) {
        self.entered(event);
        self.incomplete += 1;
    }

    /// Counts the end of an event that was counted without it.
    pub(super) fn completed(&mut self, event: &TrafficEvent, ban_source: Option<&str>) {
        self.ended(event, ban_source);
        self.incomplete -= 1;
    }

    fn entered(&mut self, event: &TrafficEvent) {
        self.checks.add(event);
        if let Some(address) = event.client {
            self.top.add_address(address, to_sql(event.time_ms));
        }
    }

    fn ended(&mut self, event: &TrafficEvent, ban_source: Option<&str>) {
        self.auto_bans.note(event);
        self.stage.add(event);
        if let Some(rollups) = &mut self.rollups {
            rollups.add(event);
            self.top.add_values(event, ban_source);
        }
    }

    /// Writes the counts at `now` (milliseconds), before the transaction is committed. If it is not
    /// committed, what `database` has cached must be forgotten. Returns what automatic bans count once it is.
    pub(super) fn write(self, conn: &Connection, database: &Database, now: i64) -> rusqlite::Result<NewHits> {
        self.checks.write(conn)?;
        recording_stats::add_incomplete(conn, self.incomplete)?;
        database.top_counts.with(conn, |top| {
            top.add(conn, &self.top, now)?;
            // The rows of `events` do not show whether an event without its end was counted, so such
            // counts of addresses are written at once.
            if top.is_due() || self.incomplete != 0 { top.write(conn) } else { Ok(()) }
        })?;
        self.stage.write(conn, &database.slice_clock)?;
        let ages = database.options.rollup_ages();
        self.rollups.map_or(Ok(()), |rollups| rollups.write(conn, &database.rollups, ages, now))?;
        Ok(self.auto_bans)
    }
}
