//! Which slice of time it is in the measurement of a rollout's stage, by this process's monotonic clock: a time of day that
//! is set, here or at a gateway, moves no request out of a window. What another process has counted before is the past, so
//! the first slice here comes after its last one; time in which no process ran is none.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use rusqlite::{Connection, params};
use tidegate_rollout::figures::Measurement;

use super::integers::to_sql;
use crate::lock::locked;

/// The clock of the measurement that was asked for last.
#[derive(Default)]
pub(super) struct SliceClock(Mutex<Option<Running>>);

struct Running {
    name: String,
    run: u64,
    number: u32,
    began: Instant,
    /// The slice in which it began.
    first: u32,
    /// The present slice when blocks were last joined.
    joined: u32,
}

/// A moment of a measurement.
#[derive(Clone, Copy, Debug)]
pub(super) struct SliceTime {
    /// The present slice.
    pub(super) slice: u32,
    /// For how long this process has measured.
    pub(super) measured: Duration,
}

impl SliceClock {
    /// The moment `now` of a measurement of the rollout `name`, which begins in this process when it is asked for first.
    pub(super) fn at(
        &self,
        now: Instant,
        conn: &Connection,
        (name, measurement): (&str, &Measurement),
    ) -> rusqlite::Result<SliceTime> {
        let mut running = locked(&self.0);
        let known = running.as_ref().filter(|of| {
            (of.name.as_str(), of.run, of.number) == (name, measurement.run, measurement.number)
        });
        let (began, first) = match known {
            Some(of) => (of.began, of.first),
            None => {
                let first = next_slice(conn, (name, measurement))?;
                let (run, number) = (measurement.run, measurement.number);
                *running =
                    Some(Running { name: name.to_owned(), run, number, began: now, first, joined: first });
                (now, first)
            }
        };
        let measured = now.saturating_duration_since(began);
        let passed = measured.as_millis() / u128::from(measurement.slice_ms.max(1));
        Ok(SliceTime { slice: first.saturating_add(u32::try_from(passed).unwrap_or(u32::MAX)), measured })
    }

    /// Whether older blocks are to be joined, now that the slice `present` has begun; once for each such slice.
    pub(super) fn is_to_join(&self, measurement: &Measurement, present: u32) -> bool {
        let mut running = locked(&self.0);
        let Some(of) = &mut *running else { return false };
        let before = std::mem::replace(&mut of.joined, present);
        measurement.is_to_join(before, present)
    }
}

/// The slice after the last one that has figures.
fn next_slice(conn: &Connection, (name, measurement): (&str, &Measurement)) -> rusqlite::Result<u32> {
    let last: Option<u32> = conn
        .prepare_cached(
            "SELECT max(block) FROM rollout_figures WHERE name = ?1 AND run = ?2 AND measurement = ?3 AND NOT of_clients",
        )?
        .query_row(params![name, to_sql(measurement.run), measurement.number], |row| row.get(0))?;
    Ok(last.map_or(0, |last| last.saturating_add(1)))
}
