//! `check_counts`: per check, how often it was answered from the gateway's tables, by the
//! service, and from the tables as fallback. An event is counted when the ledger takes its
//! number.

use rusqlite::{Connection, params};
use tidegate_policy::check::{Answered, Check, PerCheck};
use tidegate_policy::flags::{Mode, Modes};
use tidegate_policy::wire::event::TrafficEvent;

use super::integers::{from_sql, to_sql};
use crate::store::CheckCounts;

/// Counts of one transaction.
#[derive(Default)]
pub(super) struct CheckTotals(PerCheck<CheckCounts>);

impl CheckTotals {
    /// Counts the checks of an event. Requests that Envoy refused before the filter were not
    /// checked.
    pub(super) fn add(&mut self, event: &TrafficEvent) {
        let Some(modes) = event.modes else { return };
        for check in Check::ALL {
            let counts = self.0.get_mut(check);
            let answered = *event.answered.get(check);
            match answered {
                Answered::Unneeded => {}
                Answered::Cache => counts.cache += 1,
                Answered::Direct => counts.direct += 1,
                Answered::Fallback => counts.fallback += 1,
                Answered::Nobody => counts.unavailable += 1,
            }
            if answered == Answered::Direct && mode(&modes, check) == Mode::Shadow {
                counts.compared += 1;
            }
            if let Some(mismatch) = event.mismatches.iter().find(|m| m.check == check) {
                counts.mismatched += 1;
                counts.lagging += u64::from(mismatch.is_lagging());
            }
        }
    }

    /// Adds the counts to the stored ones.
    pub(super) fn write(&self, conn: &Connection) -> rusqlite::Result<()> {
        for check in Check::ALL {
            let counts = self.0.get(check);
            if *counts == CheckCounts::default() {
                continue;
            }
            conn.prepare_cached(
                "INSERT INTO check_counts
                   (name, cache, direct, fallback, unavailable, compared, mismatched, lagging)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
                 ON CONFLICT (name) DO UPDATE SET cache = cache + excluded.cache,
                   direct = direct + excluded.direct, fallback = fallback + excluded.fallback,
                   unavailable = unavailable + excluded.unavailable, compared = compared + excluded.compared,
                   mismatched = mismatched + excluded.mismatched, lagging = lagging + excluded.lagging",
            )?
            .execute(params![
                check.name(),
                to_sql(counts.cache),
                to_sql(counts.direct),
                to_sql(counts.fallback),
                to_sql(counts.unavailable),
                to_sql(counts.compared),
                to_sql(counts.mismatched),
                to_sql(counts.lagging),
            ])?;
        }
        Ok(())
    }
}

fn mode(modes: &Modes, check: Check) -> Mode {
    match check {
        Check::Ip => modes.ip,
        Check::Geo => modes.geo,
        Check::Route => modes.route,
    }
}

/// The stored counts.
pub(super) fn read(conn: &Connection) -> rusqlite::Result<PerCheck<CheckCounts>> {
    let mut all = PerCheck::<CheckCounts>::default();
    let mut statement = conn.prepare_cached(
        "SELECT name, cache, direct, fallback, unavailable, compared, mismatched, lagging FROM check_counts",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let name: String = row.get(0)?;
        let Some(check) = Check::ALL.into_iter().find(|check| check.name() == name) else { continue };
        let count = |column| row.get(column).map(from_sql);
        *all.get_mut(check) = CheckCounts {
            cache: count(1)?,
            direct: count(2)?,
            fallback: count(3)?,
            unavailable: count(4)?,
            compared: count(5)?,
            mismatched: count(6)?,
            lagging: count(7)?,
        };
    }
    Ok(all)
}
