//! Rows of `events`. Text columns hold valid UTF-8: invalid bytes that clients sent are replaced.

use std::borrow::Cow;
use std::fmt::Write;

use rusqlite::{CachedStatement, Connection, OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};
use tidegate_policy::check::{Answered, Check, PerCheck};
use tidegate_policy::flags::{Flag, FlagSet, Mode, Modes};
use tidegate_policy::wire::event::{Mismatch, TrafficEvent, VmId};

use super::integers::{from_sql, to_sql};
use super::recording_stats;
use crate::store::time_text;

fn lossy(bytes: Option<&Vec<u8>>) -> Option<Cow<'_, str>> {
    bytes.map(|b| String::from_utf8_lossy(b))
}

/// Whether an event's request has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum EventStage {
    /// The request has ended.
    Ended,
    /// The response waits until the event is stored.
    Open,
}

const COLUMNS_AND_VALUES: &str = "(source, number, timestamp, node, method, host, path, route, client_ip,
   verdict, reason, rule, status, duration_us, upstream_us, bytes_in, bytes_out, user_agent, tunnel,
   tables_seq, country, modes, answered, mismatches, complete, template, shadow_limit, would_deny,
   would_deny_rule, gate_us, ban_source)
 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21,
   ?22, ?23, ?24, ?25, ?26, ?27, ?28, ?29, ?30, ?31)";

/// Text of the last value: most events of a transaction have the same one.
struct CachedText<K> {
    value: Option<K>,
    text: String,
}

impl<K: PartialEq> CachedText<K> {
    fn text_of(&mut self, value: K, write: impl FnOnce(&K, &mut String)) -> &str {
        if self.value.as_ref() != Some(&value) {
            self.text.clear();
            write(&value, &mut self.text);
            self.value = Some(value);
        }
        &self.text
    }
}

/// Writes events in one write transaction.
pub(super) struct EventWriter<'a> {
    ended: CachedStatement<'a>,
    open: CachedStatement<'a>,
    modes: CachedText<Modes>,
    answered: CachedText<PerCheck<Answered>>,
}

impl<'a> EventWriter<'a> {
    pub(super) fn new(conn: &'a Connection) -> rusqlite::Result<Self> {
        // Prepared once: looking a statement up by such a long text costs as much as binding its
        // values.
        Ok(Self {
            ended: conn.prepare_cached(&format!("INSERT INTO events {COLUMNS_AND_VALUES}"))?,
            open: conn.prepare_cached(&format!("INSERT OR IGNORE INTO events {COLUMNS_AND_VALUES}"))?,
            modes: CachedText { value: None, text: String::new() },
            answered: CachedText { value: None, text: String::new() },
        })
    }

    /// Writes one event. The ledger ensures that no number is stored twice; an open event that is
    /// stored already stays as it is.
    pub(super) fn insert(
        &mut self,
        stage: EventStage,
        node: &str,
        (source, event): (VmId, &TrafficEvent),
        ban_source: Option<&str>,
    ) -> rusqlite::Result<()> {
        let statement = match stage {
            EventStage::Ended => &mut self.ended,
            EventStage::Open => &mut self.open,
        };
        // A request that Envoy refused before the filter was not checked.
        let modes = event.modes.map(|modes| self.modes.text_of(modes, write_modes));
        let answered = event.modes.map(|_| self.answered.text_of(event.answered, write_answered));
        statement.execute(params![
            source.0.to_be_bytes(),
            to_sql(event.number),
            time_text::from_ms(to_sql(event.time_ms)),
            node,
            lossy(event.method.as_ref()),
            lossy(event.host.as_ref()),
            lossy(event.path.as_ref()),
            event.route,
            event.client.map(|ip| ip.to_string()),
            event.verdict.name(),
            event.reason,
            event.rule,
            event.status,
            event.duration_us.map(to_sql),
            event.upstream_us.map(to_sql),
            event.bytes_in.map(to_sql),
            event.bytes_out.map(to_sql),
            lossy(event.user_agent.as_ref()),
            event.tunnel,
            to_sql(event.tables_seq),
            event.country.map(|country| country.to_string()),
            modes,
            answered,
            write_mismatches(&event.mismatches),
            stage == EventStage::Ended,
            event.template,
            event.shadow_limit,
            event.would_deny,
            event.would_deny_rule,
            event.gate_us.map(to_sql),
            ban_source,
        ])?;
        Ok(())
    }
}

/// The parts of a row's `modes`, by the flag that each is of.
const MODE_NAMES: [(Flag, &str); 5] = [
    (Flag::IpBlacklistCache, "ip"),
    (Flag::GeoRulesCache, "geo"),
    (Flag::RouteCache, "route"),
    (Flag::ParallelExecution, "parallel"),
    (Flag::AsyncRecording, "async"),
];

/// `ip=cached,geo=direct,route=shadow,parallel=off,async=on`, and `,outside=route+async` if flags are limited to other
/// requests.
fn write_modes(modes: &Modes, text: &mut String) {
    let on = |on| if on { "on" } else { "off" };
    // Writing to a string cannot fail.
    let _ = write!(
        text,
        "ip={},geo={},route={},parallel={},async={}",
        modes.ip.name(),
        modes.geo.name(),
        modes.route.name(),
        on(modes.parallel),
        on(modes.async_recording)
    );
    let outside = MODE_NAMES.into_iter().filter(|(flag, _)| modes.outside.has(*flag));
    for (number, (_, name)) in outside.enumerate() {
        let _ = write!(text, "{}{name}", if number == 0 { ",outside=" } else { "+" });
    }
}

/// `ip=hit,geo=unneeded,route=direct`.
fn write_answered(answered: &PerCheck<Answered>, text: &mut String) {
    for check in Check::ALL {
        let comma = if text.is_empty() { "" } else { "," };
        let _ = write!(text, "{comma}{}={}", check.name(), answered.get(check).name());
    }
}

/// What [`write_answered`] wrote.
fn read_answered(text: &str) -> PerCheck<Answered> {
    PerCheck::from_fn(|check| {
        let said = text.split(',').find_map(|part| part.strip_prefix(check.name())?.strip_prefix('='));
        Answered::ALL.into_iter().find(|a| Some(a.name()) == said).unwrap_or_default()
    })
}

/// What [`write_modes`] wrote.
fn read_modes(text: &str) -> Modes {
    let said = |name: &str| text.split(',').find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
    let mode = |name| {
        let modes = [Mode::Direct, Mode::Shadow, Mode::Cached];
        modes.into_iter().find(|mode| Some(mode.name()) == said(name)).unwrap_or_default()
    };
    let on = |name| said(name) == Some("on");
    let outside = said("outside").unwrap_or_default().split('+');
    let outside = outside.filter_map(|name| MODE_NAMES.into_iter().find(|(_, known)| *known == name));
    Modes {
        ip: mode("ip"),
        geo: mode("geo"),
        route: mode("route"),
        parallel: on("parallel"),
        async_recording: on("async"),
        outside: outside.fold(FlagSet::default(), |set, (flag, _)| set.with(flag)),
    }
}

/// A mismatch in the column `mismatches`.
#[derive(Serialize, Deserialize)]
struct MismatchJson<'a> {
    check: Cow<'a, str>,
    direct: Cow<'a, str>,
    cached: Cow<'a, str>,
    direct_seq: u64,
    cached_seq: u64,
}

/// A JSON array with an object for each mismatch; `None` without any.
fn write_mismatches(found: &[Mismatch]) -> Option<String> {
    if found.is_empty() {
        return None;
    }
    let said = |m: &Mismatch| MismatchJson {
        check: m.check.name().into(),
        direct: m.direct.clone().into(),
        cached: m.cached.clone().into(),
        direct_seq: m.direct_seq,
        cached_seq: m.cached_seq,
    };
    serde_json::to_string(&found.iter().map(said).collect::<Vec<_>>()).ok()
}

/// What [`write_mismatches`] wrote.
pub(super) fn read_mismatches(text: &str) -> Vec<Mismatch> {
    let said: Vec<MismatchJson<'_>> = serde_json::from_str(text).unwrap_or_default();
    let read = |said: MismatchJson<'_>| {
        Some(Mismatch {
            check: Check::ALL.into_iter().find(|check| check.name() == said.check)?,
            direct: said.direct.into_owned(),
            cached: said.cached.into_owned(),
            direct_seq: said.direct_seq,
            cached_seq: said.cached_seq,
        })
    };
    said.into_iter().filter_map(read).collect()
}

/// The fields of an event that are counted, from the columns
/// `client_ip, timestamp, modes, answered, mismatches`.
pub(super) fn counted(row: &Row<'_>) -> rusqlite::Result<TrafficEvent> {
    let text = |column| row.get::<_, Option<String>>(column);
    let time_ms = text(1)?.and_then(|text| time_text::to_ms(&text));
    Ok(TrafficEvent {
        client: text(0)?.and_then(|text| text.parse().ok()),
        time_ms: time_ms.and_then(|ms| u64::try_from(ms).ok()).unwrap_or_default(),
        modes: text(2)?.map(|text| read_modes(&text)),
        answered: text(3)?.map(|text| read_answered(&text)).unwrap_or_default(),
        mismatches: text(4)?.map(|text| read_mismatches(&text)).unwrap_or_default(),
        ..TrafficEvent::default()
    })
}

/// SQL for the id of the newest event that has ended; 0: none. Later rows have higher ids as long
/// as that row stays; the row of an open event may be removed and its id used again.
pub(super) const NEWEST: &str =
    "coalesce((SELECT id FROM events WHERE complete = 1 ORDER BY id DESC LIMIT 1), 0)";

/// Removes the oldest `count` events, but never the newest; returns how many were removed. Open
/// events are removed only when nothing else is left, and are not counted as stored.
pub(super) fn trim(conn: &Connection, count: usize) -> rusqlite::Result<u64> {
    let limit = i64::try_from(count).unwrap_or(i64::MAX);
    let ended = format!("complete = 1 AND id < {NEWEST} OR given_up_at IS NOT NULL");
    for (which, was_stored) in [(ended.as_str(), true), ("complete = 0", false)] {
        let gone = conn
            .prepare_cached(&format!(
                "DELETE FROM events WHERE id IN (SELECT id FROM events WHERE {which} ORDER BY id LIMIT ?1)"
            ))?
            .execute([limit])?;
        if gone > 0 {
            if was_stored {
                recording_stats::add_removed(conn, gone as u64)?;
            }
            return Ok(gone as u64);
        }
    }
    Ok(0)
}

/// The table of events and its indexes.
const OBJECTS: [&str; 4] = ["events", "events_timestamp", "events_open", "events_mismatched"];

/// Bytes of the pages in use that are not the events'. Reads all of these pages.
pub(super) fn other_bytes(conn: &Connection) -> rusqlite::Result<u64> {
    let mut objects = conn.prepare_cached("SELECT name FROM sqlite_master WHERE rootpage > 0")?;
    // One by one: the sum over all of them would read the events, too.
    let mut size = conn.prepare_cached("SELECT pgsize FROM dbstat WHERE aggregate = TRUE AND name = ?1")?;
    let mut bytes = 0u64;
    let mut names = objects.query([])?;
    while let Some(row) = names.next()? {
        let name: String = row.get(0)?;
        if !OBJECTS.contains(&name.as_str()) {
            let of_it: Option<i64> = size.query_row([&name], |row| row.get(0)).optional()?.flatten();
            bytes = bytes.saturating_add(from_sql(of_it.unwrap_or(0)));
        }
    }
    Ok(bytes)
}

/// Bytes of the pages in use. Pages of removed events are used again before the file grows.
pub(super) fn bytes_in_use(conn: &Connection) -> rusqlite::Result<u64> {
    let pragma = |name: &str| conn.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i64>(0));
    let pages = pragma("page_count")? - pragma("freelist_count")?;
    Ok(from_sql(pages.saturating_mul(pragma("page_size")?)))
}
