//! The rows of `ip_monitor`: which prefixes are banned, allowed and watched. Copies share their
//! common parts (persistent trees): a copy of a million bans costs nothing and a change costs one
//! path of the trees.

use std::net::IpAddr;
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use jiff::Timestamp;
use tidegate_policy::UnixSeconds;
use tidegate_policy::address::{Prefix, canonical};
use tidegate_policy::digest::SetDigest;
use tidegate_policy::table::{Entry, EntryState, entry_bytes};
use tidegate_policy::tables::Table;

use super::clock::{self, Millis};
use super::ip_rows::{ParsedRow, ParsedRows, PrefixStatus, ReasonInterner, RowStatus};
use super::row_index::{RowIndex, UnreadableRow};
use super::table_room::{Arrival, TableRoom, arrival};
use crate::store::{IpRow, StoreTable};

/// The rows of one prefix with one status, merged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListedPrefix {
    /// The prefix.
    pub prefix: Prefix,
    /// Their status.
    pub status: RowStatus,
    /// The reason of the row that was written last.
    pub reason: Option<Arc<str>>,
    /// When the oldest of the rows was created.
    pub created: Option<Timestamp>,
    /// When the newest of the rows was written.
    pub updated: Option<Timestamp>,
    /// The second at which it expires; `None`: never. It may have passed.
    pub expires: Option<UnixSeconds>,
    /// Whose lists have it, with commas between the names; `None`: it was banned by hand.
    pub source: Option<Arc<str>>,
    /// Raw keys of the rows.
    pub keys: Vec<String>,
    /// It has no effect: it does not fit into its table.
    pub left_out: bool,
}

/// What a change of rows changed in the tables.
#[derive(Default)]
pub(super) struct ChangedPrefixes {
    /// Prefixes whose ban changed.
    pub bans: Vec<Prefix>,
    /// Whether the allow table changed.
    pub allow: bool,
}

/// All valid rows, by prefix.
#[derive(Clone)]
pub(super) struct IpMonitor {
    pub entries: OrdMap<Prefix, ParsedRows>,
    /// Digest of all bans in the table, expired ones included.
    pub bans: SetDigest,
    ban_room: TableRoom,
    allow: OrdMap<Prefix, Option<UnixSeconds>>,
    allow_room: TableRoom,
    watched: OrdSet<Prefix>,
}

impl IpMonitor {
    /// Without rows; the base of bans has `limit` bytes at most, and so has the table of allowed
    /// addresses, unless that may have fewer.
    pub fn new(limit: usize) -> Self {
        Self {
            entries: OrdMap::new(),
            bans: SetDigest::default(),
            ban_room: TableRoom::new(limit),
            allow: OrdMap::new(),
            allow_room: TableRoom::new(limit.min(Table::Allow.max_bytes())),
            watched: OrdSet::new(),
        }
    }

    /// The room of the table that entries with `status` are in; `None`: they are in none.
    pub fn room(&self, status: RowStatus) -> Option<&TableRoom> {
        match status {
            RowStatus::Banned => Some(&self.ban_room),
            RowStatus::Allowed => Some(&self.allow_room),
            RowStatus::Watched => None,
        }
    }

    /// The rows of exactly this prefix with `status`, merged.
    #[must_use]
    pub fn listed(&self, prefix: &Prefix, status: RowStatus) -> Option<ListedPrefix> {
        let listed = list(prefix, self.entries.get(prefix)?, status)?;
        let left_out = self.room(status).is_some_and(|room| room.is_left_out(prefix));
        Some(ListedPrefix { left_out, ..listed })
    }

    /// The entries of all prefixes that cover `address`: longest prefix first; for one prefix
    /// banned, allowed, watched.
    pub fn covering(&self, address: IpAddr) -> impl Iterator<Item = ListedPrefix> + '_ {
        prefixes_around(address).flat_map(move |prefix| self.all_listed(prefix))
    }

    /// The entries in the order of their prefixes, from the first prefix after `after`, with one
    /// status or all.
    pub fn list(
        &self,
        status: Option<RowStatus>,
        after: Option<Prefix>,
    ) -> impl Iterator<Item = ListedPrefix> + '_ {
        let from = after.map_or(Unbounded, Excluded);
        // Allowed and watched prefixes have indexes of their own, so that they need not be
        // searched for among a million bans.
        let few: Box<dyn Iterator<Item = Prefix> + Send + '_> = match status {
            Some(RowStatus::Allowed) => {
                Box::new(self.allow.range((from, Unbounded)).map(|(prefix, _)| *prefix))
            }
            Some(RowStatus::Watched) => Box::new(self.watched.range((from, Unbounded)).copied()),
            Some(RowStatus::Banned) | None => {
                Box::new(self.entries.range((from, Unbounded)).map(|(prefix, _)| *prefix))
            }
        };
        few.flat_map(|prefix| self.all_listed(prefix))
            .filter(move |listed| status.is_none_or(|status| listed.status == status))
    }

    /// Number of prefixes with `status`, expired ones included.
    #[must_use]
    pub fn count(&self, status: RowStatus) -> usize {
        match status {
            RowStatus::Banned => usize::try_from(self.bans.count).unwrap_or(usize::MAX),
            RowStatus::Allowed => self.allow.len(),
            RowStatus::Watched => self.watched.len(),
        }
    }

    fn all_listed(&self, prefix: Prefix) -> impl Iterator<Item = ListedPrefix> + '_ {
        [RowStatus::Banned, RowStatus::Allowed, RowStatus::Watched]
            .into_iter()
            .filter_map(move |status| self.listed(&prefix, status))
    }

    /// The entry of `prefix` in the ban table.
    pub fn ban(&self, prefix: &Prefix) -> EntryState {
        match self.ban_room.is_left_out(prefix) {
            true => EntryState::Absent,
            false => ban_state(self.entries.get(prefix).map_or(&[], |rows| &rows[..])),
        }
    }

    /// The row of `prefix` with the raw key `key`.
    pub fn row(&self, prefix: &Prefix, key: &str) -> Option<&ParsedRow> {
        let canonical = prefix.to_string();
        self.entries.get(prefix)?.iter().find(|row| row.has_key(key, &canonical))
    }

    /// Reads a row. One that cannot be read keeps the meaning that it had: a mistake must not let
    /// anybody in. `index` has the rows that could not be read before.
    #[expect(clippy::result_large_err, reason = "a row that is read is as large")]
    pub fn read(
        &self,
        index: &RowIndex,
        row: &IpRow,
        reasons: &mut ReasonInterner,
    ) -> Result<(Prefix, ParsedRow), UnreadableRow<(Prefix, ParsedRow)>> {
        let read = match row.ip.parse::<Prefix>() {
            Ok(prefix) => ParsedRow::read(&prefix, row, reasons)
                .map(|row| (prefix, row))
                .map_err(|bad| UnreadableRow { why: bad.why, kept: bad.kept.map(|row| (prefix, row)) }),
            Err(error) => Err(UnreadableRow { why: error.to_string(), kept: None }),
        };
        read.map_err(|UnreadableRow { why, kept }| {
            let key = index.origin(StoreTable::Ip, &row.ip);
            let held = key.parse().ok().and_then(|prefix| Some((prefix, self.row(&prefix, &key)?.clone())));
            let instead = match (&held, &kept) {
                (Some(_), _) => "what it said before stays in force",
                (None, Some(_)) => "until it has one that can be read it is a ban without end",
                (None, None) => "it has no effect",
            };
            // Read once more, it is held as what it was taken for the first time.
            let before = index.why(StoreTable::Ip, &row.ip).filter(|before| before.starts_with(&why));
            let why = before.map_or_else(|| format!("{why}; {instead}"), |before| before.to_string());
            UnreadableRow { why, kept: held.or(kept) }
        })
    }

    /// Applies changed rows; `None`: deleted.
    pub fn apply(
        &mut self,
        index: &mut RowIndex,
        mut changes: Vec<(String, Option<IpRow>)>,
    ) -> ChangedPrefixes {
        let (mut changed, mut reasons) = (ChangedPrefixes::default(), ReasonInterner::default());
        // A row is still held under a key that it had when its new one is read.
        match self.has_room_for(changes.len()) {
            true => changes.sort_by_key(|(_, row)| row.is_none()),
            // Those that came first are to be in.
            false => changes.sort_by_cached_key(|(_, row)| {
                let created = row.as_ref().and_then(|row| clock::millis(row.created_at.as_deref()?));
                (row.is_none(), created.map_or(Arrival::MAX, clock::Millis::get))
            }),
        }
        for (key, row) in changes {
            if row.is_some() {
                index.replace_origin(StoreTable::Ip, &key);
            }
            #[expect(clippy::result_large_err, reason = "a row that is read is as large")]
            let read = row.map(|row| self.read(index, &row, &mut reasons));
            let why = match &read {
                Some(Err(bad)) => Some(bad.why.clone()),
                _ => None,
            };
            set_quarantine(index, &key, why);
            match read {
                None if index.is_origin(StoreTable::Ip, &key) => {}
                Some(Err(UnreadableRow { kept, .. })) => {
                    let own = kept.filter(|(prefix, row)| row.has_key(&key, &prefix.to_string()));
                    self.set_row(&key, own.map(|(_, row)| row), &mut changed);
                    continue;
                }
                Some(Ok((_, row))) => self.set_row(&key, Some(row), &mut changed),
                None => self.set_row(&key, None, &mut changed),
            }
            if let Some(origin) = index.take_origin(StoreTable::Ip, &key) {
                self.set_row(&origin, None, &mut changed);
            }
        }
        self.let_in(&mut changed);
        changed
    }

    /// Whether that many more entries fit into any of the tables.
    pub fn has_room_for(&self, entries: usize) -> bool {
        self.ban_room.has_room_for(entries) && self.allow_room.has_room_for(entries)
    }

    /// Takes entries that were left out into the tables, as far as there is room now.
    pub fn let_in(&mut self, changed: &mut ChangedPrefixes) {
        while let Some(prefix) = self.ban_room.next() {
            let status = self.entries.get(&prefix).map(|rows| PrefixStatus::of(rows));
            if let Some(expires) = status.and_then(|status| status.banned) {
                self.bans.insert(&entry_bytes(&prefix, expires));
                changed.bans.push(prefix);
            }
        }
        while let Some(prefix) = self.allow_room.next() {
            let status = self.entries.get(&prefix).map(|rows| PrefixStatus::of(rows));
            if let Some(expires) = status.and_then(|status| status.allowed) {
                self.allow.insert(prefix, expires);
                changed.allow = true;
            }
        }
    }

    /// Makes `row` the row with the raw key `key`.
    fn set_row(&mut self, key: &str, row: Option<ParsedRow>, changed: &mut ChangedPrefixes) {
        let Ok(prefix) = key.parse::<Prefix>() else { return };
        let canonical = prefix.to_string();
        let held = self.entries.get(&prefix).map_or(&[][..], |rows| rows);
        let mut rows: Vec<ParsedRow> =
            held.iter().filter(|held| !held.has_key(key, &canonical)).cloned().collect();
        rows.extend(row);
        rows.sort_by(ParsedRow::cmp_key);
        self.replace_rows(prefix, rows.into(), changed);
    }

    /// Makes `rows` the rows of `prefix`. Entries that others made room for come in by
    /// [`Self::let_in`].
    pub fn replace_rows(&mut self, prefix: Prefix, rows: ParsedRows, changed: &mut ChangedPrefixes) {
        let before = self.entries.get(&prefix).map_or(PrefixStatus::default(), |rows| PrefixStatus::of(rows));
        let after = PrefixStatus::of(&rows);
        let came = |status| arrival(&rows, status);
        let (was_banned, is_banned) =
            self.ban_room.change(prefix, before.banned, after.banned, came(RowStatus::Banned));
        let (was_allowed, is_allowed) =
            self.allow_room.change(prefix, before.allowed, after.allowed, came(RowStatus::Allowed));
        if rows.is_empty() {
            self.entries.remove(&prefix);
        } else {
            self.entries.insert(prefix, rows);
        }
        if was_banned != is_banned {
            if let Some(expires) = was_banned {
                self.bans.remove(&entry_bytes(&prefix, expires));
            }
            if let Some(expires) = is_banned {
                self.bans.insert(&entry_bytes(&prefix, expires));
            }
            changed.bans.push(prefix);
        }
        if was_allowed != is_allowed {
            match is_allowed {
                Some(expires) => drop(self.allow.insert(prefix, expires)),
                None => drop(self.allow.remove(&prefix)),
            }
            changed.allow = true;
        }
        match after.watched {
            Some(_) => drop(self.watched.insert(prefix)),
            None => drop(self.watched.remove(&prefix)),
        }
    }

    /// The entries of the ban table, in order.
    pub fn ban_entries(&self) -> impl Iterator<Item = Entry> + Clone + '_ {
        self.entries.iter().filter_map(|(prefix, rows)| match ban_state(rows) {
            EntryState::Absent => None,
            _ if self.ban_room.is_left_out(prefix) => None,
            state => Some(Entry { prefix: *prefix, state }),
        })
    }

    /// The entries of the allow table, in order.
    pub fn allow_entries(&self) -> impl Iterator<Item = Entry> + Clone + '_ {
        let entry = |(prefix, expires): (&Prefix, &Option<UnixSeconds>)| Entry {
            prefix: *prefix,
            state: EntryState::Present(*expires),
        };
        self.allow.iter().map(entry)
    }
}

/// All prefixes that cover `address`, longest first.
pub(super) fn prefixes_around(address: IpAddr) -> impl Iterator<Item = Prefix> {
    let (bits, is_v4) = match canonical(address) {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()), true),
        IpAddr::V6(v6) => (v6.to_bits(), false),
    };
    let around = move |len: u8| match is_v4 {
        true => Prefix::v4(u32::try_from(bits).ok()?, len),
        false => Prefix::v6(bits, len),
    };
    let longest = if is_v4 { 32 } else { 128 };
    (0..=longest).rev().filter_map(around)
}

fn set_quarantine(index: &mut RowIndex, key: &str, why: Option<String>) {
    match why {
        Some(why) => index.quarantine(StoreTable::Ip, key, why),
        None => index.unquarantine(StoreTable::Ip, key),
    }
}

fn ban_state(rows: &[ParsedRow]) -> EntryState {
    PrefixStatus::of(rows).banned.map_or(EntryState::Absent, EntryState::Present)
}

fn list(prefix: &Prefix, rows: &[ParsedRow], status: RowStatus) -> Option<ListedPrefix> {
    let expires = PrefixStatus::of(rows).get(status)?;
    let mine = || rows.iter().filter(|row| row.status == status);
    let newest = mine().max_by_key(|row| row.updated.or(row.created))?;
    Some(ListedPrefix {
        prefix: *prefix,
        status,
        reason: newest.reason.clone(),
        created: mine().filter_map(|row| row.created).min().and_then(timestamp),
        updated: mine().filter_map(|row| row.updated).max().and_then(timestamp),
        expires,
        source: mine().find_map(|row| row.source.clone()),
        keys: mine().map(|row| row.key(prefix)).collect(),
        left_out: false,
    })
}

fn timestamp(millis: Millis) -> Option<Timestamp> {
    Timestamp::from_millisecond(millis.get()).ok()
}
