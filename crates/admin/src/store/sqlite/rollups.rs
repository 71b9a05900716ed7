//! Rollups: requests that have ended, by minute and by what they are counted by ([`RollupKey`]), with
//! histograms of their times. They are written in the transaction of the events, so what one has the
//! other has.
//!
//! Housekeeping merges minutes into hours and hours into days ([`fold`]); an event that comes so late
//! goes into the hour or day at once. A span holds [`MAX_KEYS`] keys, [`MAX_HOSTS`] hosts among them: what
//! comes beyond that is counted as [`OTHER`].

pub(super) mod fold;
#[cfg(any(test, feature = "made-statistics"))]
pub(super) mod made;
pub(super) mod read;

use std::collections::{HashMap, HashSet};
use std::fmt::Write;
use std::sync::Mutex;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Row, params};
use tidegate_policy::check::{Answered, Check};
use tidegate_policy::wire::event::TrafficEvent;

use super::integers::{from_sql, to_sql};
use super::ledger::millis;
use crate::lock::locked;
use tidegate_statistics::histogram;

/// Lengths of spans, seconds: minute, hour, day.
pub(super) const SPANS: [i64; 3] = [60, 3_600, 86_400];
/// Keys of a span, at most, besides those of [`OTHER`].
const MAX_KEYS: usize = 1_000;
/// Hosts of a span, at most.
const MAX_HOSTS: usize = 50;
/// Keys that there are at all, at most, besides those of [`OTHER`].
const MAX_ALL_KEYS: i64 = 50_000;
/// Keys, and spans, that are known without a look into the database.
const CACHED_KEYS: usize = 20_000;
const CACHED_SPANS: usize = 16;
/// What is counted without a name.
pub(super) const OTHER: &str = "other";
/// Methods that are counted by name (RFC 9110, RFC 5789).
const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

/// How long minutes and hours stay what they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Ages {
    /// Milliseconds.
    minutes: i64,
    hours: i64,
}

impl Ages {
    pub(super) fn new(minutes_for: Duration, hours_for: Duration) -> Self {
        Self { minutes: millis(minutes_for), hours: millis(hours_for) }
    }

    /// The length of the spans into which an event of `time_ms` goes at `now`.
    fn span(self, time_ms: i64, now: i64) -> i64 {
        match now.saturating_sub(time_ms) {
            age if age <= self.minutes => SPANS[0],
            age if age <= self.hours => SPANS[1],
            _ => SPANS[2],
        }
    }
}

/// What requests are counted by. Empty: there is none.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct RollupKey {
    pub(super) route: String,
    pub(super) template: String,
    /// Without its port; only of requests that a route matched, for the others can name any.
    pub(super) host: String,
    pub(super) method: String,
    /// First digit of the status; 0: there was none.
    pub(super) class: i64,
    pub(super) verdict: String,
    pub(super) reason: String,
}

impl RollupKey {
    fn of(event: &TrafficEvent) -> Self {
        let host = || {
            let host =
                String::from_utf8_lossy(event.host.as_deref().unwrap_or_default()).to_ascii_lowercase();
            let end = host.rfind(':').filter(|at| host[at + 1..].bytes().all(|byte| byte.is_ascii_digit()));
            host[..end.unwrap_or(host.len())].to_owned()
        };
        let method = event
            .method
            .as_deref()
            .map(|method| METHODS.into_iter().find(|known| known.as_bytes() == method).unwrap_or(OTHER));
        Self {
            route: event.route.clone().unwrap_or_default(),
            template: event.template.clone().unwrap_or_default(),
            host: event.route.as_ref().map(|_| host()).unwrap_or_default(),
            method: method.unwrap_or_default().to_owned(),
            class: event
                .status
                .map(|status| i64::from(status / 100))
                .filter(|class| *class <= 5)
                .unwrap_or(0),
            verdict: event.verdict.name().to_owned(),
            reason: event.reason.clone().unwrap_or_default(),
        }
    }

    fn read(row: &Row<'_>, from: usize) -> rusqlite::Result<Self> {
        Ok(Self {
            route: row.get(from)?,
            template: row.get(from + 1)?,
            host: row.get(from + 2)?,
            method: row.get(from + 3)?,
            class: row.get(from + 4)?,
            verdict: row.get(from + 5)?,
            reason: row.get(from + 6)?,
        })
    }

    /// What it is counted as where there is no room for it.
    fn other(self) -> Self {
        let other = || OTHER.to_owned();
        Self { route: other(), template: String::new(), host: String::new(), method: other(), ..self }
    }
}

/// Columns of a key.
const KEY_COLUMNS: &str = "route, template, host, method, class, verdict, reason";

/// What is counted of a key in a span.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Figures {
    requests: u64,
    bytes_in: u64,
    bytes_out: u64,
    checked: u64,
    cached: u64,
    /// Histograms, as they are stored.
    duration: Vec<u8>,
    upstream: Vec<u8>,
    gate: Vec<u8>,
}

/// Columns of [`Figures`].
const FIGURE_COLUMNS: &str = "requests, bytes_in, bytes_out, checked, cached, duration, upstream, gate";

impl Figures {
    fn read(row: &Row<'_>, from: usize) -> rusqlite::Result<Self> {
        let count = |column: usize| row.get(from + column).map(from_sql);
        Ok(Self {
            requests: count(0)?,
            bytes_in: count(1)?,
            bytes_out: count(2)?,
            checked: count(3)?,
            cached: count(4)?,
            duration: row.get(from + 5)?,
            upstream: row.get(from + 6)?,
            gate: row.get(from + 7)?,
        })
    }

    fn plus(self, other: &Self) -> Self {
        Self {
            requests: self.requests.saturating_add(other.requests),
            bytes_in: self.bytes_in.saturating_add(other.bytes_in),
            bytes_out: self.bytes_out.saturating_add(other.bytes_out),
            checked: self.checked.saturating_add(other.checked),
            cached: self.cached.saturating_add(other.cached),
            duration: histogram::merged(&self.duration, &other.duration),
            upstream: histogram::merged(&self.upstream, &other.upstream),
            gate: histogram::merged(&self.gate, &other.gate),
        }
    }
}

/// Adds `figures` to a row.
fn add(conn: &Connection, (span, at, key): (i64, i64, i64), figures: &Figures) -> rusqlite::Result<()> {
    let stored = conn
        .prepare_cached(&format!(
            "SELECT {FIGURE_COLUMNS} FROM rollups WHERE span = ?1 AND at = ?2 AND key = ?3"
        ))?
        .query_row([span, at, key], |row| Figures::read(row, 0))
        .optional()?;
    let sum = stored.map(|stored| stored.plus(figures));
    let sum = sum.as_ref().unwrap_or(figures);
    conn.prepare_cached(&format!(
        "INSERT OR REPLACE INTO rollups (span, at, key, {FIGURE_COLUMNS})
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)"
    ))?
    .execute(params![
        span,
        at,
        key,
        to_sql(sum.requests),
        to_sql(sum.bytes_in),
        to_sql(sum.bytes_out),
        to_sql(sum.checked),
        to_sql(sum.cached),
        sum.duration,
        sum.upstream,
        sum.gate
    ])?;
    Ok(())
}

/// Requests of one transaction by minute and key.
#[derive(Default)]
pub(super) struct RollupCounts {
    /// By all that makes the minute and the key, as one text: most events of a transaction have one
    /// that is known already, and cost no allocation then.
    by_text: HashMap<String, Delta>,
    text: String,
}

struct Delta {
    /// When its first event came, milliseconds.
    time_ms: i64,
    key: RollupKey,
    figures: Figures,
    /// Buckets of its events' times.
    duration: Vec<u16>,
    upstream: Vec<u16>,
    gate: Vec<u16>,
}

impl RollupCounts {
    /// Counts a request that has ended.
    pub(super) fn add(&mut self, event: &TrafficEvent) {
        let time_ms = to_sql(event.time_ms);
        self.text.clear();
        // Writing to a string cannot fail.
        let _ = write!(
            self.text,
            "{}\0{}\0{}\0{}",
            time_ms / 60_000,
            event.status.map_or(0, |status| status / 100),
            event.verdict.name(),
            event.route.as_deref().unwrap_or_default()
        );
        for part in [&event.template, &event.reason] {
            self.text.push('\0');
            self.text.push_str(part.as_deref().unwrap_or_default());
        }
        let host = event.route.as_ref().and(event.host.as_ref());
        for part in [event.method.as_ref(), host].into_iter() {
            self.text.push('\0');
            self.text.push_str(&String::from_utf8_lossy(part.map(Vec::as_slice).unwrap_or_default()));
        }
        let delta = match self.by_text.get_mut(&self.text) {
            Some(delta) => delta,
            None => self.by_text.entry(self.text.clone()).or_insert_with(|| Delta {
                time_ms,
                key: RollupKey::of(event),
                figures: Figures::default(),
                duration: Vec::new(),
                upstream: Vec::new(),
                gate: Vec::new(),
            }),
        };
        delta.add(event);
    }

    /// Writes the counts, at `now` (milliseconds).
    pub(super) fn write(
        self,
        conn: &Connection,
        state: &RollupState,
        ages: Ages,
        now: i64,
    ) -> rusqlite::Result<()> {
        let mut known = locked(&state.0);
        for delta in self.by_text.into_values() {
            // A gateway's clock may be ahead: nobody asks for what is to come.
            let time_ms = delta.time_ms.min(now);
            let span = ages.span(time_ms, now);
            let at = (time_ms / 1_000).div_euclid(span) * span;
            let key = known.place(conn, (span, at), delta.key)?;
            let figures = Figures {
                duration: histogram::of_buckets(delta.duration),
                upstream: histogram::of_buckets(delta.upstream),
                gate: histogram::of_buckets(delta.gate),
                ..delta.figures
            };
            add(conn, (span, at, key), &figures)?;
        }
        Ok(())
    }
}

impl Delta {
    fn add(&mut self, event: &TrafficEvent) {
        let figures = &mut self.figures;
        figures.requests += 1;
        figures.bytes_in = figures.bytes_in.saturating_add(event.bytes_in.unwrap_or_default());
        figures.bytes_out = figures.bytes_out.saturating_add(event.bytes_out.unwrap_or_default());
        if event.modes.is_some() {
            let answered = Check::ALL.map(|check| *event.answered.get(check));
            let is_needed = |answered: &Answered| *answered != Answered::Unneeded;
            let is_checked = answered.iter().any(is_needed);
            figures.checked += u64::from(is_checked);
            let is_cached = answered.iter().filter(|a| is_needed(a)).all(|a| *a == Answered::Cache);
            figures.cached += u64::from(is_checked && is_cached);
        }
        // A tunnel's duration is no measure of latency.
        let duration = event.duration_us.filter(|_| !event.tunnel);
        self.duration.extend(duration.map(histogram::bucket));
        self.upstream.extend(event.upstream_us.map(histogram::bucket));
        self.gate.extend(event.gate_us.map(histogram::bucket));
    }
}

/// What the writer knows of keys and spans without a look into the database.
#[derive(Default)]
pub(super) struct RollupState(Mutex<KnownKeys>);

#[derive(Default)]
struct KnownKeys {
    ids: HashMap<RollupKey, i64>,
    spans: HashMap<(i64, i64), SpanKeys>,
    /// How many keys there are at all; `None`: not counted yet.
    total: Option<i64>,
}

/// The keys of one span.
#[derive(Default)]
struct SpanKeys {
    ids: HashSet<i64>,
    hosts: HashSet<String>,
}

impl RollupState {
    /// Forgets it: it may no longer be what the database has.
    pub(super) fn forget(&self) {
        *locked(&self.0) = KnownKeys::default();
    }
}

impl KnownKeys {
    /// The id under which `key` is counted in a span: its own, or that of [`OTHER`].
    fn place(&mut self, conn: &Connection, span: (i64, i64), key: RollupKey) -> rusqlite::Result<i64> {
        if !self.spans.contains_key(&span) {
            if self.spans.len() >= CACHED_SPANS {
                self.spans.clear();
            }
            self.spans.insert(span, SpanKeys::load(conn, span)?);
        }
        let id = self.find(conn, &key)?;
        let of_span = self.spans.entry(span).or_default();
        if let Some(id) = id.filter(|id| of_span.ids.contains(id)) {
            return Ok(id);
        }
        let mut key = key;
        if !key.host.is_empty() && !of_span.hosts.contains(&key.host) && of_span.hosts.len() >= MAX_HOSTS {
            OTHER.clone_into(&mut key.host);
        }
        if of_span.ids.len() >= MAX_KEYS {
            key = key.other();
        }
        of_span.hosts.insert(key.host.clone());
        let id = self.intern(conn, key)?;
        self.spans.entry(span).or_default().ids.insert(id);
        Ok(id)
    }

    fn find(&mut self, conn: &Connection, key: &RollupKey) -> rusqlite::Result<Option<i64>> {
        if let Some(id) = self.ids.get(key) {
            return Ok(Some(*id));
        }
        let found: Option<i64> = conn
            .prepare_cached(
                "SELECT id FROM rollup_keys WHERE route = ?1 AND template = ?2 AND host = ?3 AND method = ?4
                   AND class = ?5 AND verdict = ?6 AND reason = ?7",
            )?
            .query_row(
                params![key.route, key.template, key.host, key.method, key.class, key.verdict, key.reason],
                |row| row.get(0),
            )
            .optional()?;
        if let Some(id) = found {
            if self.ids.len() >= CACHED_KEYS {
                self.ids.clear();
            }
            self.ids.insert(key.clone(), id);
        }
        Ok(found)
    }

    fn intern(&mut self, conn: &Connection, key: RollupKey) -> rusqlite::Result<i64> {
        if let Some(id) = self.find(conn, &key)? {
            return Ok(id);
        }
        let total = match self.total {
            Some(total) => total,
            None => conn.query_row("SELECT count(*) FROM rollup_keys", [], |row| row.get(0))?,
        };
        let key = if total >= MAX_ALL_KEYS { key.other() } else { key };
        let added = conn
            .prepare_cached(&format!(
                "INSERT OR IGNORE INTO rollup_keys ({KEY_COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)"
            ))?
            .execute(params![
                key.route,
                key.template,
                key.host,
                key.method,
                key.class,
                key.verdict,
                key.reason
            ])?;
        self.total = Some(total + added as i64);
        Ok(self.find(conn, &key)?.unwrap_or_default())
    }
}

impl SpanKeys {
    fn load(conn: &Connection, (span, at): (i64, i64)) -> rusqlite::Result<Self> {
        let mut keys = Self::default();
        let mut statement = conn.prepare_cached(
            "SELECT k.id, k.host FROM rollups r JOIN rollup_keys k ON k.id = r.key WHERE r.span = ?1 AND r.at = ?2",
        )?;
        let mut rows = statement.query([span, at])?;
        while let Some(row) = rows.next()? {
            keys.ids.insert(row.get(0)?);
            keys.hosts.insert(row.get(1)?);
        }
        Ok(keys)
    }
}
