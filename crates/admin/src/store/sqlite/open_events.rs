//! Open events: stored before their request has ended, because its response waits for that
//! (`enableAsyncRecording` off).
//!
//! An open event is a row of `events` with `complete = 0`; the ledger does not have its number.
//! In one transaction the completing event replaces the row and enters the ledger. An open event
//! whose end will not come (its source has ended, or gave the number up) is given up: its number
//! enters the ledger and the row stays as it is. So completeness says how many requests are in
//! the database, and `incomplete` of how many of them the end is not known. If the end comes
//! after all, it replaces the row and is no duplicate.

use rusqlite::{Connection, OptionalExtension, params};
use tidegate_policy::wire::event::{OpenEvent, TrafficEvent, VmId};

use super::events::{self, EventStage, EventWriter};
use super::integers::{from_sql, to_sql};
use super::ledger::{self, Ledger};
use super::ranges::NumberRange;
use crate::store::time_text;

/// An open event whose row was removed because its end has come.
pub(super) struct Closed {
    /// Its number.
    pub(super) number: u64,
    /// Its number was in the ledger already, without its end.
    pub(super) was_given_up: bool,
}

/// Stores an open event, unless it is stored or its number is in the ledger. Returns false if its
/// source cannot have that number.
pub(super) fn insert(
    conn: &Connection,
    ledger: &mut Ledger<'_>,
    writer: &mut EventWriter<'_>,
    gateway: (&str, &str),
    open: &OpenEvent,
) -> rusqlite::Result<bool> {
    let number = open.event.number;
    if ledger::covers(conn, open.source, number)? {
        return Ok(true);
    }
    let (name, node) = gateway;
    let possible = number > 0 && ledger.reached(open.source, name, number)?;
    if possible {
        writer.insert(EventStage::Open, node, (open.source, &open.event), None)?;
    }
    Ok(possible)
}

/// Removes the open events of these numbers, whose ends have come, and returns them.
pub(super) fn close(conn: &Connection, source: VmId, range: NumberRange) -> rusqlite::Result<Vec<Closed>> {
    let mut statement = conn.prepare_cached(
        "DELETE FROM events WHERE source = ?1 AND number BETWEEN ?2 AND ?3 AND complete = 0
         RETURNING number, given_up_at IS NOT NULL",
    )?;
    let rows = statement.query_map(
        params![source.0.to_be_bytes(), to_sql(range.first), to_sql(range.last)],
        |row| {
            let number = from_sql(row.get::<_, i64>(0)?);
            Ok(Closed { number, was_given_up: row.get(1)? })
        },
    )?;
    rows.collect()
}

/// SQL condition: the source gave up the number of row `o` of `events`.
const IS_DROPPED: &str = "EXISTS (SELECT 1 FROM dropped d WHERE d.source = o.source AND d.last >= o.number
  AND d.first = (SELECT max(first) FROM dropped WHERE source = o.source AND first <= o.number))";
/// SQL condition: the source of row `o` of `events` has not ended.
const HAS_NOT_ENDED: &str = "EXISTS (SELECT 1 FROM sources s WHERE s.source = o.source
  AND s.dead_at IS NULL AND s.closed_at IS NULL)";

/// Open events whose end will not come.
pub(super) fn abandoned(conn: &Connection) -> rusqlite::Result<Vec<(VmId, u64)>> {
    let mut statement = conn.prepare_cached(&format!(
        "SELECT o.source, o.number FROM events o INDEXED BY events_open
         WHERE o.complete = 0 AND o.given_up_at IS NULL AND (NOT {HAS_NOT_ENDED} OR {IS_DROPPED})"
    ))?;
    let rows = statement.query_map([], |row| {
        let number = from_sql(row.get::<_, i64>(1)?);
        Ok((VmId(u128::from_be_bytes(row.get(0)?)), number))
    })?;
    rows.collect()
}

/// Enters an open event into the ledger without its end, if it is still certain that this will
/// not come. Returns the fields of the event that are counted.
pub(super) fn give_up(
    conn: &Connection,
    ledger: &mut Ledger<'_>,
    (source, number): (VmId, u64),
    now: i64,
) -> rusqlite::Result<Option<TrafficEvent>> {
    let event = conn
        .prepare_cached(&format!(
            "UPDATE events AS o SET given_up_at = ?3
             WHERE o.complete = 0 AND o.source = ?1 AND o.number = ?2 AND o.given_up_at IS NULL
               AND (NOT {HAS_NOT_ENDED} OR {IS_DROPPED})
             RETURNING client_ip, timestamp, modes, answered, mismatches"
        ))?
        .query_row(params![source.0.to_be_bytes(), to_sql(number), time_text::from_ms(now)], events::counted)
        .optional()?;
    if event.is_some()
        && let Some(range) = NumberRange::checked(number, number)
    {
        ledger.enter(source, range)?;
    }
    Ok(event)
}

/// How many events are open, and how many of those belong to sources that have ended and have not
/// given them up. The second ones would count as lost, but are not.
pub(super) fn count(conn: &Connection) -> rusqlite::Result<(u64, u64)> {
    let counts: (i64, i64) = conn
        .prepare_cached(&format!(
            "SELECT count(*), coalesce(sum(NOT {HAS_NOT_ENDED} AND NOT {IS_DROPPED}), 0)
             FROM events o INDEXED BY events_open WHERE o.complete = 0 AND o.given_up_at IS NULL"
        ))?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok((from_sql(counts.0), from_sql(counts.1)))
}

/// How many events of `source` with numbers up to `upto` are open and not given up by the source.
pub(super) fn count_upto(conn: &Connection, source: VmId, upto: u64) -> rusqlite::Result<u64> {
    let count: i64 = conn
        .prepare_cached(&format!(
            "SELECT count(*) FROM events o INDEXED BY events_open
             WHERE o.complete = 0 AND o.source = ?1 AND o.number <= ?2 AND o.given_up_at IS NULL AND NOT {IS_DROPPED}"
        ))?
        .query_row(params![source.0.to_be_bytes(), to_sql(upto)], |row| row.get(0))?;
    Ok(from_sql(count))
}

/// Whether `source` has open events.
pub(super) fn any_of(conn: &Connection, source: VmId) -> rusqlite::Result<bool> {
    conn.prepare_cached("SELECT 1 FROM events WHERE source = ?1 AND complete = 0 AND given_up_at IS NULL")?
        .exists([source.0.to_be_bytes()])
}
