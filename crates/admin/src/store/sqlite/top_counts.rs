//! The most frequent addresses since the database was made, and the most frequent values of each day
//! ([`TopOf`]): by when they were stored, not by the gateways' clocks.
//!
//! The counts live in memory and are written every few seconds, together with the number of the
//! newest row of `events` that they include. Loading adds the rows after that one, so a crash
//! loses nothing, and a transaction of events costs a look-up per value instead of a write.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rusqlite::{Connection, Row, params};
use tidegate_policy::decide::Reason;
use tidegate_policy::wire::event::{TrafficEvent, VerdictCode};

use super::events::NEWEST;
use super::integers::{from_sql, to_sql};
use super::space_saving::{SpaceSaving, Tracked};
use crate::lock::locked;
use crate::store::{AddressCount, TopOf, TopValue, time_text, would_deny_value};

/// Addresses that are kept. An address with more than 1/10,000 of all requests is always among
/// them.
pub(super) const MAX_ADDRESSES: usize = 10_000;
/// Values that are kept of each kind and day.
const MAX_VALUES: usize = 1_000;
/// Days that one answer looks at.
const MAX_DAYS: i64 = 366;
/// Counts are written this often, if they changed.
const WRITE_EVERY: Duration = Duration::from_secs(5);
/// Name in `meta` of the id of the newest row of `events` that the tables include.
const UPTO: &str = "seen.upto";
/// Milliseconds of a day.
const DAY_MS: i64 = 86_400_000;
/// Columns of an event that are counted here.
const COLUMNS: &str =
    "client_ip, timestamp, country, path, reason, user_agent, rule, shadow_limit, would_deny,
    would_deny_rule, verdict = 'deny', ban_source";

/// Number of the day of a time in milliseconds, in UTC.
pub(super) fn day_of(ms: i64) -> i64 {
    ms.div_euclid(DAY_MS)
}

/// How often values came in one transaction, not yet counted.
#[derive(Default)]
pub(super) struct NewCounts {
    addresses: HashMap<IpAddr, (u64, i64)>,
    /// In the order of [`TopOf::ALL`].
    values: [HashMap<String, (u64, i64)>; TopOf::ALL.len()],
}

impl NewCounts {
    /// Counts the address of an event.
    pub(super) fn add_address(&mut self, address: IpAddr, time_ms: i64) {
        let of = self.addresses.entry(address.to_canonical()).or_insert((0, time_ms));
        *of = (of.0 + 1, of.1.max(time_ms));
    }

    /// Counts the values of an event.
    pub(super) fn add_values(&mut self, event: &TrafficEvent, ban_source: Option<&str>) {
        let time_ms = to_sql(event.time_ms);
        let ip = event.client.map(|ip| ip.to_canonical().to_string());
        let country = event.country.map(|country| country.to_string());
        let [path, user_agent] =
            [&event.path, &event.user_agent].map(|bytes| bytes.as_deref().map(String::from_utf8_lossy));
        self.add_texts(&EventTexts {
            time_ms,
            ip: ip.as_deref(),
            country: country.as_deref(),
            path: path.as_deref(),
            reason: event.reason.as_deref(),
            user_agent: user_agent.as_deref(),
            rule: event.rule.as_deref(),
            shadow_limit: event.shadow_limit.as_deref(),
            would_deny: event.would_deny.as_deref().zip(event.would_deny_rule.as_deref()),
            is_denied: event.verdict == VerdictCode::Deny,
            ban_source,
        });
    }

    fn add_texts(&mut self, event: &EventTexts<'_>) {
        let limit = event.rule.filter(|_| event.reason == Some(Reason::RateLimited.code()));
        let would_deny = event.would_deny.map(|(reason, entry)| would_deny_value(reason, entry));
        let limited = limit.zip(event.ip).map(|(limit, ip)| format!("{limit} {ip}"));
        let denied = event.country.zip(event.reason).filter(|_| event.is_denied);
        let denied = denied.map(|(country, reason)| format!("{country} {reason}"));
        for (of, value) in [
            (TopOf::Ip, event.ip),
            (TopOf::Country, event.country),
            (TopOf::Path, event.path),
            (TopOf::Reason, event.reason),
            (TopOf::UserAgent, event.user_agent),
            (TopOf::Rule, event.rule),
            (TopOf::Limit, limit),
            (TopOf::ShadowLimit, event.shadow_limit),
            (TopOf::LimitedClient, limited.as_deref()),
            (TopOf::WouldDeny, would_deny.as_deref()),
            (TopOf::DeniedCountry, denied.as_deref()),
        ] {
            if let Some(value) = value {
                self.add_value(of, value, event.time_ms);
            }
        }
        for source in event.ban_source.filter(|_| would_deny.is_some()).iter().flat_map(|all| all.split(','))
        {
            self.add_value(TopOf::ShadowSource, source, event.time_ms);
        }
    }

    fn add_value(&mut self, of: TopOf, value: &str, time_ms: i64) {
        let values = &mut self.values[of as usize];
        match values.get_mut(value) {
            Some(known) => *known = (known.0 + 1, known.1.max(time_ms)),
            None => drop(values.insert(value.to_owned(), (1, time_ms))),
        }
    }
}

/// The texts of an event that are counted.
struct EventTexts<'e> {
    time_ms: i64,
    ip: Option<&'e str>,
    country: Option<&'e str>,
    path: Option<&'e str>,
    reason: Option<&'e str>,
    user_agent: Option<&'e str>,
    rule: Option<&'e str>,
    shadow_limit: Option<&'e str>,
    /// Reason and entry.
    would_deny: Option<(&'e str, &'e str)>,
    is_denied: bool,
    /// Whose lists have the ban that denied, or would have.
    ban_source: Option<&'e str>,
}

impl<'e> EventTexts<'e> {
    /// From the columns [`COLUMNS`].
    fn read(row: &'e Row<'_>) -> rusqlite::Result<Self> {
        let text = |column| row.get_ref(column).map(|value| value.as_str().ok());
        Ok(Self {
            ip: text(0)?,
            time_ms: text(1)?.and_then(time_text::to_ms).unwrap_or_default(),
            country: text(2)?,
            path: text(3)?,
            reason: text(4)?,
            user_agent: text(5)?,
            rule: text(6)?,
            shadow_limit: text(7)?,
            would_deny: text(8)?.zip(text(9)?),
            is_denied: row.get(10)?,
            ban_source: text(11)?,
        })
    }
}

/// The counts.
pub(super) struct TopCounts {
    addresses: SpaceSaving<IpAddr>,
    /// The day of `values`.
    day: i64,
    values: DayValues,
    /// Values of days before that are not written yet.
    former: Vec<(i64, DayValues)>,
    written: Instant,
}

/// The frequent values of one day, in the order of [`TopOf::ALL`].
type DayValues = [SpaceSaving<String>; TopOf::ALL.len()];

impl TopCounts {
    /// The stored counts, and the events that were stored after them.
    pub(super) fn load(conn: &Connection) -> rusqlite::Result<Self> {
        Self::load_at(conn, time_text::now_ms())
    }

    /// The same at `now` (milliseconds).
    fn load_at(conn: &Connection, now: i64) -> rusqlite::Result<Self> {
        let day = day_of(now);
        let mut top = Self {
            addresses: SpaceSaving::new(MAX_ADDRESSES),
            day,
            values: stored_values(conn, day)?,
            former: Vec::new(),
            written: Instant::now(),
        };
        let mut table =
            conn.prepare("SELECT ip, count, over, last_seen FROM seen_addresses ORDER BY place")?;
        let mut rows = table.query([])?;
        while let Some(row) = rows.next()? {
            let Ok(address) = row.get::<_, String>(0)?.parse::<IpAddr>() else { continue };
            let count = |column| row.get(column).map(from_sql);
            let last_ms = time_text::to_ms(&row.get::<_, String>(3)?).unwrap_or_default();
            top.addresses.put(address.to_canonical(), count(1)?, count(2)?, last_ms);
        }
        top.count_uncounted(conn)?;
        Ok(top)
    }

    /// Counts the events that were stored after the counts were written.
    fn count_uncounted(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        // A crash may have been before midnight. When such an event was stored is not known, but not before the counts
        // were written: then its own time tells the day.
        let written = "SELECT max(day) FROM top_values WHERE day <= ?1";
        let written: Option<i64> = conn.query_row(written, [self.day], |row| row.get(0))?;
        let days = written.unwrap_or(self.day)..=self.day;
        let mut after = conn.prepare(&format!(
            "SELECT {COLUMNS} FROM events
             WHERE id > coalesce((SELECT value FROM meta WHERE name = ?1), 0) AND complete = 1 ORDER BY id"
        ))?;
        let mut rows = after.query([UPTO])?;
        let mut by_day: BTreeMap<i64, NewCounts> = BTreeMap::new();
        while let Some(row) = rows.next()? {
            let event = EventTexts::read(row)?;
            let new = by_day.entry(day_of(event.time_ms).clamp(*days.start(), *days.end())).or_default();
            if let Some(address) = event.ip.and_then(|ip| ip.parse().ok()) {
                new.add_address(address, event.time_ms);
            }
            new.add_texts(&event);
        }
        for (day, new) in by_day {
            if day == self.day {
                self.count(&new);
                continue;
            }
            self.count_addresses(&new);
            let mut values = stored_values(conn, day)?;
            count_values(&mut values, &new);
            self.former.push((day, values));
        }
        Ok(())
    }

    fn count(&mut self, new: &NewCounts) {
        self.count_addresses(new);
        count_values(&mut self.values, new);
    }

    fn count_addresses(&mut self, new: &NewCounts) {
        for (address, (many, last_ms)) in &new.addresses {
            self.addresses.note(address, *many, *last_ms);
        }
    }

    /// Counts what is new, at `now` (milliseconds), before the transaction is committed.
    pub(super) fn add(&mut self, conn: &Connection, new: &NewCounts, now: i64) -> rusqlite::Result<()> {
        if day_of(now) == self.day {
            self.count(new);
            return Ok(());
        }
        // Of the day before, as it ended.
        self.write(conn)?;
        // Another day has values already if the clock was set back.
        (self.day, self.values) = (day_of(now), stored_values(conn, day_of(now))?);
        self.count(new);
        // What was written says that it includes the events of this transaction.
        self.write(conn)
    }

    /// The most frequent addresses, at most `limit`.
    pub(super) fn top_addresses(&self, limit: usize) -> Vec<AddressCount> {
        self.addresses.top(limit).into_iter().map(address_row).collect()
    }

    /// One address.
    pub(super) fn address(&self, address: IpAddr) -> Option<AddressCount> {
        self.addresses.one(&address.to_canonical()).map(address_row)
    }

    /// The values of the day that goes on, and which that is.
    pub(super) fn today(&self, of: TopOf) -> (i64, Vec<TopValue>) {
        let values = self.values[of as usize].top(usize::MAX);
        let row = |one: &Tracked<String>| TopValue {
            value: one.key.clone(),
            count: one.count,
            over: one.over,
            under: 0,
            last_ms: one.last_ms,
        };
        (self.day, values.into_iter().map(row).collect())
    }

    fn is_changed(&self) -> bool {
        self.addresses.is_changed()
            || !self.former.is_empty()
            || self.values.iter().any(SpaceSaving::is_changed)
    }

    /// Whether there is something to write and `WRITE_EVERY` has passed.
    pub(super) fn is_due(&self) -> bool {
        self.written.elapsed() >= WRITE_EVERY && self.is_changed()
    }

    /// Writes the changed places, in the transaction of the newest events that they include. If
    /// that is not committed, the counts must be loaded again.
    pub(super) fn write(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        let mut put = conn.prepare_cached(
            "INSERT OR REPLACE INTO seen_addresses (place, ip, count, over, last_seen)
             VALUES (?1, ?2, ?3, ?4, ?5)",
        )?;
        for (place, of) in self.addresses.take_changed() {
            let row = address_row(&of);
            put.execute(params![to_sql(place), row.ip, to_sql(row.count), to_sql(row.over), row.last_seen])?;
        }
        let mut put = conn.prepare_cached(
            "INSERT OR REPLACE INTO top_values (day, kind, place, value, count, over, last_ms)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?;
        let mut former = std::mem::take(&mut self.former);
        let days =
            former.iter_mut().map(|(day, values)| (*day, values)).chain([(self.day, &mut self.values)]);
        for (day, values) in days {
            for (kind, values) in TopOf::ALL.into_iter().zip(values) {
                for (place, of) in values.take_changed() {
                    let (count, over) = (to_sql(of.count), to_sql(of.over));
                    put.execute(params![day, kind.name(), to_sql(place), of.key, count, over, of.last_ms])?;
                }
            }
        }
        conn.prepare_cached(&format!("INSERT OR REPLACE INTO meta (name, value) VALUES (?1, {NEWEST})"))?
            .execute([UPTO])?;
        self.written = Instant::now();
        Ok(())
    }
}

/// The values of a day as they are stored.
fn stored_values(conn: &Connection, day: i64) -> rusqlite::Result<DayValues> {
    let mut values: DayValues = std::array::from_fn(|_| SpaceSaving::new(MAX_VALUES));
    for (of, values) in TopOf::ALL.into_iter().zip(&mut values) {
        for row in stored(conn, of, day..=day)? {
            values.put(row.value, row.count, row.over, row.last_ms);
        }
    }
    Ok(values)
}

fn count_values(values: &mut DayValues, new: &NewCounts) {
    for (kept, values) in values.iter_mut().zip(&new.values) {
        values.iter().for_each(|(value, (many, last_ms))| kept.note(value.as_str(), *many, *last_ms));
    }
}

fn address_row(of: &Tracked<IpAddr>) -> AddressCount {
    AddressCount {
        ip: of.key.to_string(),
        count: of.count,
        over: of.over,
        last_seen: time_text::from_ms(of.last_ms),
    }
}

/// The stored values of these days, those of a day together.
fn stored(
    conn: &Connection,
    of: TopOf,
    days: std::ops::RangeInclusive<i64>,
) -> rusqlite::Result<Vec<TopValue>> {
    let mut statement = conn.prepare_cached(
        "SELECT value, count, over, last_ms FROM top_values WHERE day BETWEEN ?1 AND ?2 AND kind = ?3
         ORDER BY day, place",
    )?;
    let rows = statement.query_map(params![days.start(), days.end(), of.name()], |row| {
        let count = |column| row.get(column).map(from_sql);
        Ok(TopValue { value: row.get(0)?, count: count(1)?, over: count(2)?, under: 0, last_ms: row.get(3)? })
    })?;
    rows.collect()
}

/// The most frequent values of `days`, at most `limit`; `today`: those of the day that goes on.
pub(super) fn values(
    conn: &Connection,
    of: TopOf,
    days: std::ops::RangeInclusive<i64>,
    limit: usize,
    today: &(i64, Vec<TopValue>),
) -> rusqlite::Result<Vec<TopValue>> {
    let mut sums: HashMap<String, TopValue> = HashMap::new();
    // What a value that is not kept of a day may have had there.
    let mut unkept = 0u64;
    // Far more than are kept.
    for day in (*days.start()).max(days.end() - MAX_DAYS)..=*days.end() {
        let of_day = if day == today.0 { today.1.clone() } else { stored(conn, of, day..=day)? };
        let lowest = of_day.iter().map(|row| row.count).min().filter(|_| of_day.len() >= MAX_VALUES);
        let lowest = lowest.unwrap_or_default();
        sums.values_mut().for_each(|sum| sum.under += lowest);
        for row in of_day {
            let new = || TopValue { value: row.value.clone(), under: unkept + lowest, ..TopValue::default() };
            let sum = sums.entry(row.value.clone()).or_insert_with(new);
            sum.count = sum.count.saturating_add(row.count);
            sum.over = sum.over.saturating_add(row.over);
            // Another program may have written a value twice.
            sum.under = sum.under.saturating_sub(lowest);
            sum.last_ms = sum.last_ms.max(row.last_ms);
        }
        unkept += lowest;
    }
    let mut sums: Vec<TopValue> = sums.into_values().collect();
    sums.sort_unstable_by(|one, other| other.count.cmp(&one.count).then_with(|| one.value.cmp(&other.value)));
    sums.truncate(limit);
    Ok(sums)
}

/// Removes values of days before `day`; returns how many, at most `most`.
pub(super) fn trim(conn: &Connection, day: i64, most: usize) -> rusqlite::Result<u64> {
    let removed = conn
        .prepare_cached(
            "DELETE FROM top_values WHERE (day, kind, place) IN (
               SELECT day, kind, place FROM top_values WHERE day < ?1 ORDER BY day LIMIT ?2)",
        )?
        .execute(params![day, most as i64])?;
    Ok(removed as u64)
}

/// The counts, shared by the writer and readers; `None` until they are loaded.
#[derive(Default)]
pub(super) struct SharedTopCounts(Mutex<Option<TopCounts>>);

impl SharedTopCounts {
    /// Runs `act` on the counts. If they are not loaded, they are read first, in the transaction
    /// that `conn` is in.
    pub(super) fn with<T>(
        &self,
        conn: &Connection,
        act: impl FnOnce(&mut TopCounts) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        let mut top = locked(&self.0);
        let top = match &mut *top {
            Some(top) => top,
            none => none.insert(TopCounts::load(conn)?),
        };
        act(top)
    }

    /// Runs `look` on the counts, if they are loaded.
    pub(super) fn look<T>(&self, look: impl FnOnce(&TopCounts) -> T) -> Option<T> {
        locked(&self.0).as_ref().map(look)
    }

    /// Drops the counts: they no longer match the database.
    pub(super) fn forget(&self) {
        *locked(&self.0) = None;
    }

    /// Whether there is something to write.
    pub(super) fn is_changed(&self) -> bool {
        self.look(TopCounts::is_changed).unwrap_or(false)
    }

    /// Whether there is something to write and `WRITE_EVERY` has passed.
    pub(super) fn is_due(&self) -> bool {
        self.look(TopCounts::is_due).unwrap_or(false)
    }
}

/// Fills the table of addresses from the stored events if it is empty because another program dropped or
/// emptied it.
pub(super) fn fill_if_empty(conn: &Connection) -> rusqlite::Result<()> {
    if conn.prepare("SELECT 1 FROM seen_addresses")?.exists([])? {
        return Ok(());
    }
    conn.execute(
        "INSERT INTO seen_addresses (place, ip, count, over, last_seen)
         SELECT row_number() OVER () - 1, * FROM (
           SELECT client_ip, count(*) AS n, 0, max(timestamp) FROM events
           WHERE client_ip IS NOT NULL AND (complete = 1 OR given_up_at IS NOT NULL) GROUP BY client_ip ORDER BY n DESC LIMIT ?1)",
        params![to_sql(MAX_ADDRESSES as u64)],
    )?;
    conn.execute(&format!("INSERT OR REPLACE INTO meta (name, value) VALUES (?1, {NEWEST})"), [UPTO])?;
    Ok(())
}
