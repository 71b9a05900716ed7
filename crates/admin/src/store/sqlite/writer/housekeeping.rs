//! Housekeeping steps, each in a transaction of its own.

use std::sync::Arc;
use std::time::Instant;

use tidegate_policy::wire::event::VmId;

use super::{TransactionEnd, Writer};
use crate::auto_bans::NewHits;
use crate::store::sqlite::append::MAX_ROWS;
use crate::store::sqlite::auto_bans;
use crate::store::sqlite::change_log;
use crate::store::sqlite::counts::EventCounts;
use crate::store::sqlite::error::sql_error;
use crate::store::sqlite::events;
use crate::store::sqlite::former_rows;
use crate::store::sqlite::ip_monitor;
use crate::store::sqlite::ledger::{self, Ledger};
use crate::store::sqlite::open_events;
use crate::store::sqlite::queue::HousekeepingStep;
use crate::store::sqlite::recording_stats;
use crate::store::sqlite::rollout_figures::StageCounts;
use crate::store::sqlite::rollups::fold;
use crate::store::sqlite::tokens;
use crate::store::sqlite::top_counts;
use crate::store::{StoreError, time_text};

impl Writer {
    /// Does one step; returns how many rows it changed. It does not wait for the write lock: the
    /// step is tried again later.
    pub(super) fn housekeeping_step(&mut self, step: &HousekeepingStep) -> Result<u64, StoreError> {
        self.begin(Instant::now())?;
        let before = self.conn.total_changes();
        let done = self.run_step(step).map_err(|e| sql_error(&e));
        let ended = done.and_then(|rows| self.end(before).map(|ended| (rows, ended)));
        if !matches!(ended, Ok((_, TransactionEnd::Durable))) {
            self.rollback();
            self.forget();
        }
        self.note_failure(&ended);
        ended.map(|(rows, _)| rows)
    }

    fn run_step(&self, step: &HousekeepingStep) -> rusqlite::Result<u64> {
        let (conn, now) = (&self.conn, time_text::now_ms());
        match step {
            HousekeepingStep::DropExpired(table, rows) => ip_monitor::drop_expired(conn, *table, rows),
            HousekeepingStep::KeepFormer(changes) => former_rows::write(conn, changes),
            HousekeepingStep::TokensUsed(uses) => tokens::note_used(conn, uses),
            HousekeepingStep::TrimAutoBans => auto_bans::trim(conn, now, MAX_ROWS / 2),
            HousekeepingStep::TrimEvents => events::trim(conn, MAX_ROWS / 2),
            HousekeepingStep::TrimLog(below) => change_log::trim(conn, *below, MAX_ROWS),
            HousekeepingStep::GiveUp(opens) => self.give_up(opens, now),
            HousekeepingStep::MarkDead(sources, before) => {
                count_true(sources, |&s| ledger::mark_dead(conn, s, *before, now))
            }
            HousekeepingStep::StillThere(sources) => {
                count_true(sources, |&s| ledger::still_there(conn, s, now))
            }
            HousekeepingStep::FoldRollups(shorter, before) => {
                fold::fold(conn, &self.database.rollups, *shorter, *before)
            }
            HousekeepingStep::TrimRollups(before) => fold::trim(conn, &self.database.rollups, *before),
            HousekeepingStep::RemoveRollupKeys(ids) => fold::remove_keys(conn, &self.database.rollups, ids),
            HousekeepingStep::TrimTopValues(day) => top_counts::trim(conn, *day, fold::STEP),
            HousekeepingStep::AggregateSources(sources, closed_by, dead_by) => {
                recording_stats::aggregate(conn, sources, *closed_by, *dead_by, MAX_ROWS)
            }
        }
    }

    /// Enters open events whose end will not come into the ledger.
    fn give_up(&self, opens: &[(VmId, u64)], now: i64) -> rusqlite::Result<u64> {
        // Loaded before: events that are given up are not counted again then.
        self.database.top_counts.with(&self.conn, |_| Ok(()))?;
        let mut ledger = Ledger::new(&self.conn, now, self.database.options.pending_for);
        let no_hits = NewHits::new(Arc::default());
        let mut counts = EventCounts::new(self.database.options.statistics, no_hits, StageCounts::default());
        let mut given_up = 0;
        for &open in opens {
            if let Some(event) = open_events::give_up(&self.conn, &mut ledger, open, now)? {
                counts.add_incomplete(&event);
                given_up += 1;
            }
        }
        ledger.write()?;
        counts.write(&self.conn, &self.database, now)?;
        Ok(given_up)
    }
}

fn count_true<T>(items: &[T], each: impl Fn(&T) -> rusqlite::Result<bool>) -> rusqlite::Result<u64> {
    items.iter().try_fold(0, |sum, item| Ok(sum + u64::from(each(item)?)))
}
