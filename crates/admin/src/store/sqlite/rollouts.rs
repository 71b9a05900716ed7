//! Runs of rollouts and their notices: a step writes state, flags, audit and notices in one transaction.

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::Value;
use tidegate_author as author;
use tidegate_policy::flags::{Flag, FlagState};

use super::audit::Auditor;
use super::integers::{from_sql, to_sql};
use super::rows::{self, text};
use super::schema::read_state;
use super::{flags, rollout_figures};
use crate::store::{
    FlagRow, Measuring, NewNotice, NoticeTry, RolloutRow, RolloutRows, RolloutStep, StoreTable, WaitingNotice,
};
use tidegate_rollout::run::{note_set_by_hand as note_in_state, read_stored, restored};

/// The kind of steps in the audit.
const AUDITED_AS: &str = "rollout-step";

/// Writes a step at `now` (milliseconds); returns the number of rows written. `None`: it is not what the step follows,
/// and nothing was written.
pub(super) fn step(audit: &Auditor<'_>, step: &RolloutStep, now: i64) -> rusqlite::Result<Option<usize>> {
    let conn = audit.conn;
    if !holds(conn, step)? {
        return Ok(None);
    }
    let mut written = flags::set(audit, &step.set_flags)?;
    if let Some(summary) = &step.summary {
        audit.write(AUDITED_AS, &step.name, None, Some(summary.clone()))?;
    }
    written += conn
        .prepare_cached(
            "INSERT INTO rollout_runs (name, revision, state, active) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (name) DO UPDATE SET revision = excluded.revision, state = excluded.state,
               active = excluded.active",
        )?
        .execute(params![step.name, to_sql(step.follows.saturating_add(1)), step.state, step.is_active])?;
    measure(conn, step)?;
    for NewNotice { id, webhook, body } in &step.notices {
        // Those before it go first: that there is something new is a reason to try them now.
        conn.prepare_cached(
            "UPDATE rollout_notices SET next_try_ms = ?3 WHERE name = ?1 AND webhook = ?2 AND next_try_ms > ?3",
        )?
        .execute(params![step.name, webhook, now])?;
        written += conn
            .prepare_cached(
                "INSERT OR IGNORE INTO rollout_notices (id, name, webhook, body, made_ms, next_try_ms)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?5)",
            )?
            .execute(params![id, step.name, webhook, body, now])?;
    }
    Ok(Some(written))
}

/// Whether all is as the step takes it to be.
fn holds(conn: &Connection, step: &RolloutStep) -> rusqlite::Result<bool> {
    let revision: Option<i64> = conn
        .prepare_cached("SELECT revision FROM rollout_runs WHERE name = ?1")?
        .query_row([&step.name], |row| row.get(0))
        .optional()?;
    if revision.map_or(0, from_sql) != step.follows {
        return Ok(false);
    }
    let others = "SELECT 1 FROM rollout_runs WHERE active AND name <> ?1";
    if step.is_active && conn.prepare_cached(others)?.exists([&step.name])? {
        return Ok(false);
    }
    for (name, expected) in &step.expected_flags {
        let row = rows::row::<FlagRow>(conn, StoreTable::Flags, name)?;
        let is = row.map_or(FlagState::Off, |row| state_of(name, &row.value));
        if is != state_of(name, expected) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The state of a flag by its row; one that cannot be read is off, as for gateways.
fn state_of(name: &str, value: &str) -> FlagState {
    let value: Option<Value> = serde_json::from_str(value).ok();
    let read = Flag::named(name).zip(value).and_then(|(flag, value)| author::read_flag(flag, &value).ok());
    read.unwrap_or_default()
}

fn measure(conn: &Connection, step: &RolloutStep) -> rusqlite::Result<()> {
    let measured = match &step.measuring {
        Measuring::Keep => return Ok(()),
        Measuring::Begin(stage) => {
            rollout_figures::remove_others(conn, &step.name, stage.run, stage.number)?;
            // A structure of numbers and texts is always JSON.
            serde_json::to_string(stage).ok()
        }
        Measuring::End => None,
    };
    let seq = to_sql(read_state(conn)?.newest);
    conn.prepare_cached(
        "UPDATE rollout_runs SET measured = ?2, entered_seq = CASE WHEN ?2 IS NULL THEN entered_seq ELSE ?3 END
         WHERE name = ?1",
    )?
    .execute(params![step.name, measured, seq])?;
    Ok(())
}

/// Whether the run of this rollout has not ended.
pub(super) fn is_active(conn: &Connection, name: &str) -> rusqlite::Result<bool> {
    conn.prepare_cached("SELECT 1 FROM rollout_runs WHERE active AND name = ?1")?.exists([name])
}

/// Notes, in the transaction of a change by `by` that sets these flags, whether or not it changes any, that a run which goes on
/// did not set them. The run's next revision makes that a step which was decided before is refused. Returns the number of rows.
pub(super) fn note_set_by_hand(
    conn: &Connection,
    by: &str,
    flags: &[(String, String)],
) -> rusqlite::Result<usize> {
    let names: Vec<&str> = flags.iter().map(|(name, _)| name.as_str()).collect();
    if names.is_empty() {
        return Ok(0);
    }
    let active: Option<(String, String)> = conn
        .prepare_cached("SELECT name, state FROM rollout_runs WHERE active LIMIT 1")?
        .query_row([], |row| Ok((row.get(0)?, text(row, 1)?.unwrap_or_default())))
        .optional()?;
    let noted = active.and_then(|(name, state)| Some((name, note_in_state(&state, by, &names)?)));
    let Some((name, state)) = noted else { return Ok(0) };
    conn.prepare_cached("UPDATE rollout_runs SET state = ?2, revision = revision + 1 WHERE name = ?1")?
        .execute([name, state])
}

/// Makes of a whole backup, which becomes a database, one whose runs wait for a person, and that tells nobody what had happened
/// before it was taken.
pub(super) fn pause_restored(conn: &Connection, now: i64) -> rusqlite::Result<()> {
    let now_ms = now.max(0).unsigned_abs();
    for row in rows(conn)?.runs.into_iter().filter(|row| row.is_active) {
        let run = read_stored(&row.name, &row.state, row.is_active, row.revision);
        let state = restored(&run, now_ms).and_then(|step| serde_json::to_string(&step.run).ok());
        conn.prepare_cached(
            "UPDATE rollout_runs SET state = coalesce(?2, state), measured = NULL, revision = revision + 1
             WHERE name = ?1",
        )?
        .execute(params![row.name, state])?;
    }
    conn.execute("DELETE FROM rollout_notices", []).map(|_| ())
}

/// Forgets the runs of a rollout, whose document is removed. What is still to be told of them is told.
pub(super) fn remove(conn: &Connection, name: &str) -> rusqlite::Result<()> {
    for table in ["rollout_runs", "rollout_figures"] {
        conn.prepare_cached(&format!("DELETE FROM {table} WHERE name = ?1"))?.execute([name])?;
    }
    Ok(())
}

/// All runs, and the flags.
pub(super) fn rows(conn: &Connection) -> rusqlite::Result<RolloutRows> {
    rows_where(conn, "true")
}

/// The run that goes on, if there is one, and the flags.
pub(super) fn active_row(conn: &Connection) -> rusqlite::Result<RolloutRows> {
    rows_where(conn, "active")
}

fn rows_where(conn: &Connection, which: &str) -> rusqlite::Result<RolloutRows> {
    let mut statement = conn.prepare_cached(&format!(
        "SELECT name, revision, state, active, entered_seq, measured FROM rollout_runs WHERE {which} ORDER BY name"
    ))?;
    let runs = statement.query_map([], run)?.collect::<rusqlite::Result<_>>()?;
    let flags = rows::all::<FlagRow>(conn, StoreTable::Flags)?;
    Ok(RolloutRows { runs, flags: flags.into_iter().map(|row| (row.name, row.value)).collect() })
}

fn run(row: &Row<'_>) -> rusqlite::Result<RolloutRow> {
    Ok(RolloutRow {
        name: text(row, 0)?.unwrap_or_default(),
        revision: from_sql(row.get(1)?),
        state: text(row, 2)?.unwrap_or_default(),
        is_active: row.get(3)?,
        entered_seq: from_sql(row.get(4)?),
        measured: text(row, 5)?.and_then(|stage| serde_json::from_str(&stage).ok()),
    })
}

/// Of each webhook of a rollout the notice that it is to get next, and how many wait: their ids are in the order in which things
/// happened.
pub(super) fn next_notices(conn: &Connection) -> rusqlite::Result<Vec<WaitingNotice>> {
    // With min() the other columns are of the row that has it (https://www.sqlite.org/lang_select.html#bareagg).
    let mut statement = conn.prepare_cached(
        "SELECT min(id), name, webhook, body, made_ms, next_try_ms, tries, count(*) FROM rollout_notices
         GROUP BY name, webhook",
    )?;
    let rows = statement.query_map([], |row| {
        Ok(WaitingNotice {
            waiting: from_sql(row.get(7)?),
            notice: NewNotice { id: row.get(0)?, webhook: row.get(2)?, body: row.get(3)? },
            rollout: row.get(1)?,
            made_ms: row.get(4)?,
            next_try_ms: row.get(5)?,
            tries: u32::try_from(from_sql(row.get(6)?)).unwrap_or(u32::MAX),
        })
    })?;
    rows.collect()
}

/// Notes what became of a try to send a notice.
pub(super) fn note_try(conn: &Connection, id: &str, tried: NoticeTry) -> rusqlite::Result<usize> {
    match tried {
        NoticeTry::Done => conn.prepare_cached("DELETE FROM rollout_notices WHERE id = ?1")?.execute([id]),
        NoticeTry::Failed { next_try_ms } => conn
            .prepare_cached("UPDATE rollout_notices SET tries = tries + 1, next_try_ms = ?2 WHERE id = ?1")?
            .execute(params![id, next_try_ms]),
    }
}
