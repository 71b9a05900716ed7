//! Housekeeping, a small step at a time.

use std::time::Instant;

use rusqlite::{Connection, params};
use tidegate_policy::wire::event::Source;

use super::{TransactionEnd, Writer};
use crate::store::sqlite::counts::EventCounts;
use crate::store::sqlite::events;
use crate::store::sqlite::ledger::{self, Ledger};
use crate::store::sqlite::open_events;
use crate::store::sqlite::queue::{HousekeepingStep, MAX_ROWS};
use crate::store::sqlite::recording_stats;
use crate::store::sqlite::sql_error;
use crate::store::{StoreError, time_text};

impl Writer {
    /// Chores do not wait for the lock: they are tried again.
    pub(super) fn housekeeping_step(&mut self, step: &HousekeepingStep) -> Result<u64, StoreError> {
        self.begin(Instant::now())?;
        let before = self.conn.total_changes();
        let done = self.run_step(step).map_err(|e| sql_error(&e));
        let ended = done.and_then(|rows| self.end(before).map(|ended| (rows, ended)));
        if !matches!(ended, Ok((_, TransactionEnd::Durable))) {
            self.rollback();
            self.forget();
        }
        ended.map(|(rows, _)| rows)
    }

    fn run_step(&self, step: &HousekeepingStep) -> rusqlite::Result<u64> {
        let (conn, now) = (&self.conn, time_text::now_ms());
        match step {
            HousekeepingStep::DropExpired(rows) => drop_expired(conn, rows),
            HousekeepingStep::TrimEvents => events::trim(conn, MAX_ROWS / 2),
            HousekeepingStep::TrimLog(below) => trim_log(conn, *below),
            HousekeepingStep::GiveUp(opens) => self.give_up(opens, now),
            HousekeepingStep::MarkDead(sources, before) => {
                count_true(sources, |&s| ledger::mark_dead(conn, s, *before, now))
            }
            HousekeepingStep::AggregateSources(sources, before) => {
                count_true(sources, |&s| recording_stats::aggregate_source(conn, s, *before))
            }
        }
    }

    /// Enters open events into the ledger whose end will not come.
    fn give_up(&self, opens: &[(Source, u64)], now: i64) -> rusqlite::Result<u64> {
        self.database.top_addresses.with(&self.conn, |top| {
            let mut ledger = Ledger::new(&self.conn, now, self.database.options.pending_for);
            let mut counts = EventCounts::default();
            let mut given_up = 0;
            for &open in opens {
                if let Some(event) = open_events::give_up(&self.conn, &mut ledger, open, now)? {
                    counts.add_incomplete(&event);
                    given_up += 1;
                }
            }
            ledger.write()?;
            counts.write(&self.conn, top)?;
            Ok(given_up)
        })
    }
}

fn drop_expired(conn: &Connection, rows: &[(String, String)]) -> rusqlite::Result<u64> {
    let mut delete = conn.prepare_cached("DELETE FROM ip_monitor WHERE ip = ?1 AND expires_at = ?2")?;
    let mut gone = 0;
    for (ip, expires_at) in rows {
        gone += delete.execute([ip, expires_at])? as u64;
    }
    Ok(gone)
}

fn trim_log(conn: &Connection, below: u64) -> rusqlite::Result<u64> {
    let below = i64::try_from(below).unwrap_or(i64::MAX);
    let limit = i64::try_from(MAX_ROWS).unwrap_or(i64::MAX);
    // Never the newest row: it says where the log is.
    let gone = conn
        .prepare_cached(
            "DELETE FROM change_log WHERE seq IN (SELECT seq FROM change_log WHERE seq < ?1
               AND seq < (SELECT max(seq) FROM change_log) ORDER BY seq LIMIT ?2)",
        )?
        .execute(params![below, limit])?;
    Ok(gone as u64)
}

fn count_true<T>(items: &[T], each: impl Fn(&T) -> rusqlite::Result<bool>) -> rusqlite::Result<u64> {
    items.iter().try_fold(0, |sum, item| Ok(sum + u64::from(each(item)?)))
}
