//! The rows of `ip_monitor`: which prefixes are banned, allowed and watched; beside them those of `scoped_bans`. Copies share their
//! common parts (persistent trees): a copy of a million bans costs nothing and a change costs one
//! path of the trees.

use std::net::IpAddr;
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

use imbl::OrdMap;
use jiff::Timestamp;
use tidegate_policy::UnixSeconds;
use tidegate_policy::address::{Prefix, canonical};
use tidegate_policy::digest::SetDigest;
use tidegate_policy::scope::Scope;
use tidegate_policy::table::{Entry, EntryState, entry_bytes};
use tidegate_policy::tables::Table;

use super::ban_sources::{ActiveSets, end_of, latest};
use super::clock::{self, Millis};
use super::ip_rows::{ParsedRow, ParsedRows, PrefixStatus, ReasonInterner, RowStatus};
use super::row_index::{RowIndex, UnreadableRow};
use super::scoped_bans::{ScopeRoom, ScopedSets};
use super::scoped_rows::ScopedRows;
use super::table_room::{Arrival, TableRoom, arrival};
use crate::store::{IpRow, StoreTable};

/// The rows of one prefix with one status, merged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListedPrefix {
    /// The prefix.
    pub prefix: Prefix,
    /// Their status.
    pub status: RowStatus,
    /// Where it applies; `None`: everywhere.
    pub scope: Option<Arc<Scope>>,
    /// The reason of the row that was written last.
    pub reason: Option<Arc<str>>,
    /// When the oldest of the rows was created.
    pub created: Option<Timestamp>,
    /// When the newest of the rows was written.
    pub updated: Option<Timestamp>,
    /// The second at which it expires; `None`: never. It may have passed.
    pub expires: Option<UnixSeconds>,
    /// Whose lists have it, with commas between the names; `None`: it was banned by hand. Where there are
    /// rows, of these.
    pub source: Option<Arc<str>>,
    /// The sources that have it.
    pub sources: Vec<Arc<str>>,
    /// Reason and end of its rows alone, where sources have it as well.
    pub own: Option<(Option<Arc<str>>, Option<UnixSeconds>)>,
    /// Raw keys of the rows.
    pub keys: Vec<String>,
    /// It has no effect: it does not fit into its table.
    pub left_out: bool,
}

impl ListedPrefix {
    /// Whose lists have it: by its rows, and by sources.
    pub fn source_names(&self) -> impl Iterator<Item = &str> {
        let of_rows = self.source.iter().flat_map(|all| all.split(','));
        of_rows.chain(self.sources.iter().map(|name| &**name))
    }
}

/// What a change of rows changed in the tables.
#[derive(Default)]
pub(super) struct ChangedPrefixes {
    /// Prefixes whose ban changed.
    pub bans: Vec<Prefix>,
    /// Whether the allow table changed.
    pub allow: bool,
    /// Whether the table of bans in shadow changed.
    pub watched: bool,
    /// Whether the table of rows with a scope changed.
    pub scoped: bool,
    /// Whether that of sources with a scope changed.
    pub scoped_sources: bool,
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
    /// What sources ban beside the rows.
    pub sources: ActiveSets,
    /// What the rows have in shadow, whether or not there is room.
    watched: OrdMap<Prefix, Option<UnixSeconds>>,
    /// What sources have in shadow beside them.
    pub shadow_sources: ActiveSets,
    watched_room: TableRoom,
    /// The rows of `scoped_bans`.
    pub scoped: OrdMap<Prefix, ScopedRows>,
    /// What sources ban at some hostnames or routes.
    pub scoped_sets: ScopedSets,
    pub scopes: ScopeRoom,
}

impl IpMonitor {
    /// Without rows; the base of bans has `limit` bytes at most, and so have the tables of allowed
    /// and watched addresses, unless those may have fewer.
    pub fn new(limit: usize) -> Self {
        Self {
            entries: OrdMap::new(),
            bans: SetDigest::default(),
            ban_room: TableRoom::new(limit),
            allow: OrdMap::new(),
            allow_room: TableRoom::new(limit.min(Table::Allow.max_bytes())),
            sources: ActiveSets::default(),
            watched: OrdMap::new(),
            shadow_sources: ActiveSets::default(),
            watched_room: TableRoom::new(limit.min(Table::ShadowBans.max_bytes())),
            scoped: OrdMap::new(),
            scoped_sets: ScopedSets::default(),
            scopes: ScopeRoom::default(),
        }
    }

    /// The room of the table that entries with `status` are in.
    pub fn room(&self, status: RowStatus) -> &TableRoom {
        match status {
            RowStatus::Banned => &self.ban_room,
            RowStatus::Allowed => &self.allow_room,
            RowStatus::Watched => &self.watched_room,
        }
    }

    /// The rows of exactly this prefix with `status` that hold everywhere, merged.
    #[must_use]
    pub fn listed(&self, prefix: &Prefix, status: RowStatus) -> Option<ListedPrefix> {
        let listed = self.listed_rows(prefix, status);
        let listed = match status {
            RowStatus::Banned => self.sources.add_to(prefix, status, listed),
            RowStatus::Watched => self.shadow_sources.add_to(prefix, status, listed),
            RowStatus::Allowed => listed,
        }?;
        let left_out = self.room(status).is_left_out(prefix);
        Some(ListedPrefix { left_out, ..listed })
    }

    /// The same of rows alone, whatever sources have.
    pub fn listed_rows(&self, prefix: &Prefix, status: RowStatus) -> Option<ListedPrefix> {
        self.entries.get(prefix).and_then(|rows| list(prefix, rows, status))
    }

    /// The entries of all prefixes that cover `address`: longest prefix first; for one prefix
    /// banned, allowed, watched, then those with a scope.
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
        let rows: Box<dyn Iterator<Item = Prefix> + Send + '_> = match status {
            Some(RowStatus::Allowed) => {
                Box::new(self.allow.range((from, Unbounded)).map(|(prefix, _)| *prefix))
            }
            Some(RowStatus::Watched) => {
                Box::new(self.watched.range((from, Unbounded)).map(|(prefix, _)| *prefix))
            }
            Some(RowStatus::Banned) | None => {
                Box::new(self.entries.range((from, Unbounded)).map(|(prefix, _)| *prefix))
            }
        };
        let mut all = vec![rows];
        for (of, sources) in [(RowStatus::Banned, &self.sources), (RowStatus::Watched, &self.shadow_sources)]
        {
            if status.is_none_or(|status| status == of) {
                all.extend(sources.prefixes_behind(after));
            }
        }
        if status != Some(RowStatus::Allowed) {
            all.push(Box::new(self.scoped_prefixes(after)));
        }
        each_once(all)
            .flat_map(|prefix| self.all_listed(prefix))
            .filter(move |listed| status.is_none_or(|status| listed.status == status))
    }

    /// Number of prefixes with `status`, expired ones included.
    #[must_use]
    pub fn count(&self, status: RowStatus) -> usize {
        match status {
            RowStatus::Banned => usize::try_from(self.bans.count).unwrap_or(usize::MAX),
            RowStatus::Allowed => self.allow.len(),
            RowStatus::Watched => self.watched_room.len(),
        }
    }

    /// All entries of exactly this prefix, with a scope and without.
    pub fn all_listed(&self, prefix: Prefix) -> impl Iterator<Item = ListedPrefix> + '_ {
        [RowStatus::Banned, RowStatus::Allowed, RowStatus::Watched]
            .into_iter()
            .filter_map(move |status| self.listed(&prefix, status))
            .chain(self.scoped_listed(&prefix))
    }

    /// The entry of `prefix` in the ban table.
    pub fn ban(&self, prefix: &Prefix) -> EntryState {
        match self.ban_room.is_left_out(prefix) {
            true => EntryState::Absent,
            false => self.ban_end(prefix).map_or(EntryState::Absent, EntryState::Present),
        }
    }

    /// Until when rows or sources ban `prefix`, whether or not there is room; `None`: they do not.
    fn ban_end(&self, prefix: &Prefix) -> Option<Option<UnixSeconds>> {
        let of_rows = self.entries.get(prefix).and_then(|rows| PrefixStatus::of(rows).banned);
        latest(of_rows, self.sources.end(prefix))
    }

    /// Until when rows or sources have `prefix` in shadow, whether or not there is room; `None`: they have not.
    fn watched_end(&self, prefix: &Prefix) -> Option<Option<UnixSeconds>> {
        latest(self.watched.get(prefix).copied(), self.shadow_sources.end(prefix))
    }

    /// Makes `banned` what sources ban, and `watched` what they have in shadow.
    pub fn set_sources(&mut self, banned: ActiveSets, watched: ActiveSets, changed: &mut ChangedPrefixes) {
        let prefixes = self.sources.differences(&banned);
        let before: Vec<_> = prefixes.iter().map(|prefix| self.ban_end(prefix)).collect();
        self.sources = banned;
        for (prefix, before) in prefixes.into_iter().zip(before) {
            let (after, came) = (self.ban_end(&prefix), self.arrival(&prefix, RowStatus::Banned));
            let (was, is) = self.ban_room.change(prefix, before, after, came);
            self.note_ban(prefix, (was, is), changed);
        }
        let prefixes = self.shadow_sources.differences(&watched);
        let before: Vec<_> = prefixes.iter().map(|prefix| self.watched_end(prefix)).collect();
        self.shadow_sources = watched;
        for (prefix, before) in prefixes.into_iter().zip(before) {
            let (after, came) = (self.watched_end(&prefix), self.arrival(&prefix, RowStatus::Watched));
            let (was, is) = self.watched_room.change(prefix, before, after, came);
            changed.watched |= was != is;
        }
        self.let_in(changed);
    }

    /// When `prefix` came to have `status`; what only sources have comes last.
    fn arrival(&self, prefix: &Prefix, status: RowStatus) -> Arrival {
        let rows = self.entries.get(prefix).filter(|rows| PrefixStatus::of(rows).get(status).is_some());
        rows.map_or(Arrival::MAX, |rows| arrival(rows, status))
    }

    /// Makes `sets` what sources ban at some hostnames or routes.
    pub fn set_scoped_sets(&mut self, sets: ScopedSets, changed: &mut ChangedPrefixes) {
        changed.scoped_sources |= !self.scoped_sets.is_same(&sets);
        self.scoped_sets = sets;
    }

    /// Notes until when `prefix` was banned, and is now.
    fn note_ban(
        &mut self,
        prefix: Prefix,
        (was, is): (Option<Option<UnixSeconds>>, Option<Option<UnixSeconds>>),
        changed: &mut ChangedPrefixes,
    ) {
        if was == is {
            return;
        }
        if let Some(expires) = was {
            self.bans.remove(&entry_bytes(&prefix, expires));
        }
        if let Some(expires) = is {
            self.bans.insert(&entry_bytes(&prefix, expires));
        }
        changed.bans.push(prefix);
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
        [&self.ban_room, &self.allow_room, &self.watched_room].iter().all(|room| room.has_room_for(entries))
    }

    /// Takes entries that were left out into the tables, as far as there is room now.
    pub fn let_in(&mut self, changed: &mut ChangedPrefixes) {
        while let Some(prefix) = self.ban_room.next() {
            if let Some(expires) = self.ban_end(&prefix) {
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
        while self.watched_room.next().is_some() {
            changed.watched = true;
        }
    }

    /// Whether a change of these rows changes the table of bans in shadow, perhaps.
    pub fn may_change_watched(&self, changes: &[(String, Option<IpRow>)]) -> bool {
        changes.iter().any(|(key, row)| {
            let is_watched = row.as_ref().is_some_and(|row| RowStatus::Watched.is(&row.status));
            let was_watched = || key.parse::<Prefix>().is_ok_and(|prefix| self.watched.contains_key(&prefix));
            is_watched || was_watched()
        })
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
        let came = |status| match after.get(status) {
            None => Arrival::MAX,
            Some(_) => arrival(&rows, status),
        };
        let [banned, watched] = [&self.sources, &self.shadow_sources].map(|sources| sources.end(&prefix));
        let [had, has] = [before.banned, after.banned].map(|of_rows| latest(of_rows, banned));
        let (was_banned, is_banned) = self.ban_room.change(prefix, had, has, came(RowStatus::Banned));
        let (was_allowed, is_allowed) =
            self.allow_room.change(prefix, before.allowed, after.allowed, came(RowStatus::Allowed));
        let [had, has] = [before.watched, after.watched].map(|of_rows| latest(of_rows, watched));
        let (was_watched, is_watched) = self.watched_room.change(prefix, had, has, came(RowStatus::Watched));
        if rows.is_empty() {
            self.entries.remove(&prefix);
        } else {
            self.entries.insert(prefix, rows);
        }
        self.note_ban(prefix, (was_banned, is_banned), changed);
        if was_allowed != is_allowed {
            match is_allowed {
                Some(expires) => drop(self.allow.insert(prefix, expires)),
                None => drop(self.allow.remove(&prefix)),
            }
            changed.allow = true;
        }
        if before.watched != after.watched {
            match after.watched {
                Some(expires) => drop(self.watched.insert(prefix, expires)),
                None => drop(self.watched.remove(&prefix)),
            }
        }
        changed.watched |= was_watched != is_watched;
    }

    /// The entries of the ban table, in order.
    pub fn ban_entries(&self) -> impl Iterator<Item = Entry> + Clone + '_ {
        let of_rows = |(prefix, rows): (&Prefix, &ParsedRows)| {
            let end = PrefixStatus::of(rows).banned?;
            Some(Entry { prefix: *prefix, state: EntryState::Present(end) })
        };
        with_sources(self.entries.iter().filter_map(of_rows), &self.sources)
            .filter(|entry| !self.ban_room.is_left_out(&entry.prefix))
    }

    /// The entries of the allow table, in order.
    pub fn allow_entries(&self) -> impl Iterator<Item = Entry> + Clone + '_ {
        self.allow.iter().map(entry)
    }

    /// The entries of the table of bans in shadow, in order.
    pub fn watched_entries(&self) -> impl Iterator<Item = Entry> + Clone + '_ {
        with_sources(self.watched.iter().map(entry), &self.shadow_sources)
            .filter(|entry| !self.watched_room.is_left_out(&entry.prefix))
    }
}

/// The entries of rows with those of sources, in order: of each prefix one, with the latest end.
fn with_sources<'s>(
    rows: impl Iterator<Item = Entry> + Clone + 's,
    sources: &'s ActiveSets,
) -> impl Iterator<Item = Entry> + Clone + 's {
    let (mut rows, mut sources) = (rows.peekable(), sources.all_entries());
    let merged = std::iter::from_fn(move || {
        let of_sources = sources.iter_mut().filter_map(|set| set.peek().map(|entry| entry.prefix)).min();
        let prefix = match (rows.peek().map(|entry| entry.prefix), of_sources) {
            (Some(one), Some(other)) => one.min(other),
            (one, other) => one.or(other)?,
        };
        let mut end = rows.next_if(|entry| entry.prefix == prefix).and_then(|entry| end_of(entry.state));
        for set in &mut sources {
            let of_set = set.next_if(|entry| entry.prefix == prefix);
            end = latest(end, of_set.and_then(|entry| end_of(entry.state)));
        }
        Some(Entry { prefix, state: end.map_or(EntryState::Absent, EntryState::Present) })
    });
    merged.filter(|entry| entry.state != EntryState::Absent)
}

fn entry((prefix, expires): (&Prefix, &Option<UnixSeconds>)) -> Entry {
    Entry { prefix: *prefix, state: EntryState::Present(*expires) }
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

/// What sorted iterators have, in order, each once.
pub(super) fn each_once<'i>(
    all: Vec<Box<dyn Iterator<Item = Prefix> + Send + 'i>>,
) -> impl Iterator<Item = Prefix> + Send + 'i {
    let mut all: Vec<_> = all.into_iter().map(Iterator::peekable).collect();
    std::iter::from_fn(move || {
        let first = all.iter_mut().filter_map(|one| one.peek().copied()).min()?;
        for one in &mut all {
            one.next_if_eq(&first);
        }
        Some(first)
    })
}

fn list(prefix: &Prefix, rows: &[ParsedRow], status: RowStatus) -> Option<ListedPrefix> {
    let mine = || rows.iter().filter(|row| row.status == status);
    let newest = mine().max_by_key(|row| row.updated.or(row.created))?;
    let expires = mine().map(|row| Some(row.expires)).fold(None, latest)?;
    Some(ListedPrefix {
        prefix: *prefix,
        status,
        scope: None,
        reason: newest.reason.clone(),
        created: mine().filter_map(|row| row.created).min().and_then(timestamp),
        updated: mine().filter_map(|row| row.updated).max().and_then(timestamp),
        expires,
        source: mine().find_map(|row| row.source.clone()),
        sources: Vec::new(),
        own: None,
        keys: mine().map(|row| row.key(prefix)).collect(),
        left_out: false,
    })
}

pub(super) fn timestamp(millis: Millis) -> Option<Timestamp> {
    Timestamp::from_millisecond(millis.get()).ok()
}
