//! Addresses that requests came from: the most frequent ones, by the space-saving algorithm
//! (Metwally, Agrawal, El Abbadi 2005).
//!
//! The counts live in memory and are written every few seconds, together with the number of the
//! newest row of `events` that they include. Loading adds the rows after that one, so a crash
//! loses nothing, and a transaction of events costs a look-up per event instead of a write.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rusqlite::{Connection, params};

use super::events::NEWEST;
use super::integers::{from_sql, to_sql};
use crate::lock::locked;
use crate::store::{AddressCount, time_text};

/// Addresses that are kept. An address with more than 1/10,000 of all requests is always among
/// them.
pub(super) const MAX_ADDRESSES: usize = 10_000;
/// Counts are written this often, if they changed.
const WRITE_EVERY: Duration = Duration::from_secs(5);
/// Name in `meta` of the id of the newest row of `events` that the table includes.
const UPTO: &str = "seen.upto";

/// Counts per address.
pub(super) struct TopAddresses {
    /// Addresses that are kept at most.
    limit: usize,
    places: Vec<TrackedAddress>,
    by_address: HashMap<IpAddr, usize>,
    /// Heap of one (count, place) per place, lowest count first. Counts in it may be out of date,
    /// too low: the first one is corrected when the lowest is looked for.
    by_count: BinaryHeap<Reverse<(u64, usize)>>,
    /// Places that differ from their rows in the table.
    changed: Vec<usize>,
    written: Instant,
}

struct TrackedAddress {
    address: IpAddr,
    count: u64,
    over: u64,
    last_ms: i64,
    is_changed: bool,
}

impl TrackedAddress {
    fn row(&self) -> AddressCount {
        AddressCount {
            ip: self.address.to_string(),
            count: self.count,
            over: self.over,
            last_seen: time_text::from_ms(self.last_ms),
        }
    }
}

impl TopAddresses {
    fn empty(limit: usize) -> Self {
        Self {
            limit,
            places: Vec::new(),
            by_address: HashMap::new(),
            by_count: BinaryHeap::new(),
            changed: Vec::new(),
            written: Instant::now(),
        }
    }

    /// The stored counts, and the events that were stored after them.
    pub(super) fn load(conn: &Connection) -> rusqlite::Result<Self> {
        let mut top = Self::empty(MAX_ADDRESSES);
        let mut table =
            conn.prepare("SELECT ip, count, over, last_seen FROM seen_addresses ORDER BY place")?;
        let mut rows = table.query([])?;
        while let Some(row) = rows.next()? {
            let Ok(address) = row.get::<_, String>(0)?.parse::<IpAddr>() else { continue };
            let count = |column| row.get(column).map(from_sql);
            let last_ms = time_text::to_ms(&row.get::<_, String>(3)?).unwrap_or_default();
            top.put(address.to_canonical(), count(1)?, count(2)?, last_ms);
        }
        let mut after = conn.prepare(
            "SELECT client_ip, timestamp FROM events
             WHERE id > coalesce((SELECT value FROM meta WHERE name = ?1), 0) AND client_ip IS NOT NULL
               AND complete = 1
             ORDER BY id",
        )?;
        let mut rows = after.query([UPTO])?;
        while let Some(row) = rows.next()? {
            let (Ok(address), Ok(time)) = (row.get_ref(0)?.as_str(), row.get_ref(1)?.as_str()) else {
                continue;
            };
            let Ok(address) = address.parse() else { continue };
            top.note(address, time_text::to_ms(time).unwrap_or_default());
        }
        Ok(top)
    }

    fn put(&mut self, address: IpAddr, count: u64, over: u64, last_ms: i64) {
        let place = self.places.len();
        // Another program may have written too many rows, or an address twice.
        if place >= self.limit || self.by_address.contains_key(&address) {
            return;
        }
        self.by_address.insert(address, place);
        self.by_count.push(Reverse((count, place)));
        self.places.push(TrackedAddress { address, count, over, last_ms, is_changed: false });
    }

    /// Counts a request.
    pub(super) fn note(&mut self, address: IpAddr, time_ms: i64) {
        let address = address.to_canonical();
        let place = match self.by_address.get(&address) {
            Some(&place) => place,
            None if self.places.len() < self.limit => {
                self.put(address, 0, 0, time_ms);
                self.places.len() - 1
            }
            None => self.replace_rarest(address, time_ms),
        };
        let found = &mut self.places[place];
        found.count += 1;
        found.last_ms = found.last_ms.max(time_ms);
        if !found.is_changed {
            found.is_changed = true;
            self.changed.push(place);
        }
    }

    /// Replaces the address with the lowest count by `address`, which takes over that count.
    /// Returns its place.
    fn replace_rarest(&mut self, address: IpAddr, time_ms: i64) -> usize {
        while let Some(mut top) = self.by_count.peek_mut() {
            let Reverse((known, place)) = *top;
            let of = &mut self.places[place];
            if known < of.count {
                *top = Reverse((of.count, place));
                continue;
            }
            // The caller adds 1 to the count.
            *top = Reverse((of.count + 1, place));
            drop(top);
            self.by_address.remove(&of.address);
            self.by_address.insert(address, place);
            (of.address, of.over, of.last_ms) = (address, of.count, time_ms);
            return place;
        }
        0
    }

    /// The most frequent addresses, at most `limit`.
    pub(super) fn top(&self, limit: usize) -> Vec<AddressCount> {
        let mut places: Vec<&TrackedAddress> = self.places.iter().collect();
        places.sort_unstable_by(|a, b| b.count.cmp(&a.count).then_with(|| a.address.cmp(&b.address)));
        places.into_iter().take(limit).map(TrackedAddress::row).collect()
    }

    /// One address.
    pub(super) fn one(&self, address: IpAddr) -> Option<AddressCount> {
        self.by_address.get(&address.to_canonical()).map(|&place| self.places[place].row())
    }

    /// Whether there is something to write and `WRITE_EVERY` has passed.
    pub(super) fn is_due(&self) -> bool {
        !self.changed.is_empty() && self.written.elapsed() >= WRITE_EVERY
    }

    /// Writes the changed places, in the transaction of the newest events that they include. If
    /// that is not committed, the counts must be loaded again.
    pub(super) fn write(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        let mut put = conn.prepare_cached(
            "INSERT OR REPLACE INTO seen_addresses (place, ip, count, over, last_seen)
             VALUES (?1, ?2, ?3, ?4, ?5)",
        )?;
        self.changed.sort_unstable();
        for place in std::mem::take(&mut self.changed) {
            let of = &mut self.places[place];
            of.is_changed = false;
            let row = of.row();
            put.execute(params![
                to_sql(place as u64),
                row.ip,
                to_sql(row.count),
                to_sql(row.over),
                row.last_seen
            ])?;
        }
        conn.prepare_cached(&format!("INSERT OR REPLACE INTO meta (name, value) VALUES (?1, {NEWEST})"))?
            .execute([UPTO])?;
        self.written = Instant::now();
        Ok(())
    }
}

/// The counts, shared by the writer and readers; `None` until they are loaded.
#[derive(Default)]
pub(super) struct SharedTopAddresses(Mutex<Option<TopAddresses>>);

impl SharedTopAddresses {
    /// Runs `act` on the counts. If they are not loaded, they are read first, in the transaction
    /// that `conn` is in.
    pub(super) fn with<T>(
        &self,
        conn: &Connection,
        act: impl FnOnce(&mut TopAddresses) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        let mut top = locked(&self.0);
        let top = match &mut *top {
            Some(top) => top,
            none => none.insert(TopAddresses::load(conn)?),
        };
        act(top)
    }

    /// Runs `look` on the counts, if they are loaded.
    pub(super) fn look<T>(&self, look: impl FnOnce(&TopAddresses) -> T) -> Option<T> {
        locked(&self.0).as_ref().map(look)
    }

    /// Drops the counts: they no longer match the database.
    pub(super) fn forget(&self) {
        *locked(&self.0) = None;
    }

    /// Whether there is something to write.
    pub(super) fn is_changed(&self) -> bool {
        self.look(|top| !top.changed.is_empty()).unwrap_or(false)
    }

    /// Whether there is something to write and `WRITE_EVERY` has passed.
    pub(super) fn is_due(&self) -> bool {
        self.look(TopAddresses::is_due).unwrap_or(false)
    }
}

/// Fills the table from the stored events if it is empty because another program dropped or
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

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    fn address(n: u32) -> IpAddr {
        Ipv4Addr::from_bits(n).into()
    }

    proptest! {
        #[test]
        fn a_count_is_never_too_low_nor_further_off_than_it_says(
            requests in prop::collection::vec(prop_oneof![0u32..6, 0u32..60], 0..600), limit in 1usize..12,
        ) {
            let mut top = TopAddresses::empty(limit);
            let mut exact: HashMap<IpAddr, u64> = HashMap::new();
            for &n in &requests {
                top.note(address(n), 0);
                *exact.entry(address(n)).or_default() += 1;
            }
            let kept = top.top(usize::MAX);
            prop_assert!(kept.len() <= limit && kept.is_sorted_by(|a, b| a.count >= b.count));
            prop_assert_eq!(kept.iter().map(|row| row.count).sum::<u64>(), requests.len() as u64);
            let rarest = kept.last().map_or(0, |row| row.count);
            for (address, count) in exact {
                match top.one(address) {
                    Some(row) => prop_assert!(row.count >= count && row.count - row.over <= count, "{row:?} {count}"),
                    None => prop_assert!(count <= rarest, "{address} {count} {rarest}"),
                }
            }
        }
    }
}
