//! What sources of bans have, as sorted columns: nine bytes an address of IPv4 that expires, five one that
//! does not. They stay beside the rows of `ip_monitor`, and are merged with them entry by entry: those that
//! deny with banned rows, those in shadow (of a source in shadow all, of others what they only simulate) with
//! watched ones.

use std::iter::Peekable;
use std::sync::Arc;

use imbl::OrdMap;
use tidegate_author::{Source, SourceMode};
use tidegate_policy::UnixSeconds;
use tidegate_policy::address::Prefix;
use tidegate_policy::table::{AddressTable, Entry, EntryState};

use super::documents::Documents;
use super::fingerprint::FingerprintedRow;
use super::ip_monitor::ListedPrefix;
use super::ip_rows::RowStatus;
use super::row_index::RowIndex;
use super::source_set::SourceSet;
use crate::store::{BanMode, SourceSetRow, StoreTable};

/// Until when a prefix is banned; `None`: it does not end.
type End = Option<UnixSeconds>;

/// The later of two ends; the outer `None`: not banned.
pub(super) fn latest(one: Option<End>, other: Option<End>) -> Option<End> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.zip(other).map(|(one, other)| one.max(other))),
        (one, other) => one.or(other),
    }
}

impl FingerprintedRow for SourceSetRow {
    fn key(&self) -> &str {
        &self.name
    }

    fn fields(&self) -> [Option<&[u8]>; 3] {
        [Some(&self.entries), None, None]
    }
}

/// The sets that are stored, by the source's name, whether or not there is such a source.
pub(super) type StoredSets = OrdMap<Arc<str>, SourceSet>;

/// Applies changed sets; `None`: deleted. One that cannot be read leaves the one before it.
pub(super) fn apply(
    held: &mut StoredSets,
    index: &mut RowIndex,
    changes: Vec<(String, Option<SourceSetRow>)>,
) {
    for (name, row) in changes {
        if row.as_ref().is_some_and(|row| index.has(StoreTable::SourceSets, row)) {
            continue;
        }
        index.note(StoreTable::SourceSets, &name, row.as_ref());
        match row.map(|row| SourceSet::from_bytes(row.entries)) {
            None => drop(held.remove(name.as_str())),
            Some(Ok(set)) => drop(held.insert(name.into(), set)),
            Some(Err(error)) => {
                let instead = match held.contains_key(name.as_str()) {
                    true => "the one before it stays in force",
                    false => "none of its addresses is banned until then",
                };
                let why = format!("not a set of addresses ({error}): refresh the source; {instead}");
                index.quarantine(StoreTable::SourceSets, &name, why);
            }
        }
    }
}

/// Replaces all sets by these rows.
pub(super) fn replace(held: &mut StoredSets, index: &mut RowIndex, rows: Vec<SourceSetRow>) {
    let is_there = |name: &str| rows.iter().any(|row| row.name == name);
    let gone: Vec<_> =
        held.keys().filter(|name| !is_there(name)).map(|name| (name.to_string(), None)).collect();
    for key in index.quarantine_of(StoreTable::SourceSets).map(|(key, _)| key.to_string()).collect::<Vec<_>>()
    {
        if !is_there(&key) {
            index.note::<SourceSetRow>(StoreTable::SourceSets, &key, None);
        }
    }
    apply(held, index, gone);
    apply(held, index, rows.into_iter().map(|row| (row.name.clone(), Some(row))).collect());
}

/// What one source bans, or simulates to ban.
#[derive(Clone)]
pub(super) struct ActiveSet {
    name: Arc<str>,
    is_simulated: bool,
    reason: Option<Arc<str>>,
    table: AddressTable,
}

/// What all sources ban that are in force, in the order of their names.
#[derive(Clone, Default)]
pub(super) struct ActiveSets(Arc<[ActiveSet]>);

impl ActiveSets {
    /// The bans in `mode` of the sources that have a document, and that apply everywhere.
    pub fn new(sources: &Documents<Source>, stored: &StoredSets, mode: BanMode) -> Self {
        let everywhere = sources.in_force.iter().filter(|(_, document)| document.parsed.applies_to.is_none());
        let active = everywhere.flat_map(|(name, document)| {
            let reason: Option<Arc<str>> = document.parsed.reason.as_deref().map(Arc::from);
            let is_in_shadow = document.parsed.mode == SourceMode::Shadow;
            let set = stored.get(name).cloned().unwrap_or_default();
            let tables = [(false, is_in_shadow, set.listed), (true, true, set.simulated)];
            let of_mode = tables.into_iter().filter(move |(_, is_in_shadow, table)| {
                *is_in_shadow == (mode == BanMode::Shadow) && !table.is_empty()
            });
            of_mode.map(move |(is_simulated, _, table)| ActiveSet {
                name: Arc::clone(name),
                is_simulated,
                reason: reason.clone(),
                table,
            })
        });
        Self(active.collect())
    }

    fn get(&self, like: &ActiveSet) -> Option<&ActiveSet> {
        self.0.iter().find(|set| set.name == like.name && set.is_simulated == like.is_simulated)
    }

    /// Until when they ban `prefix`; `None`: not.
    pub fn end(&self, prefix: &Prefix) -> Option<End> {
        self.0.iter().map(|set| set.end(prefix)).fold(None, latest)
    }

    /// The prefixes of which `self` and `other` say something else, or may.
    pub fn differences(&self, other: &Self) -> Vec<Prefix> {
        let mut found = Vec::new();
        let empty = AddressTable::empty();
        for set in self.0.iter() {
            differences(&set.table, other.get(set).map_or(&empty, |other| &other.table), &mut found);
        }
        for set in other.0.iter().filter(|set| self.get(set).is_none()) {
            differences(&empty, &set.table, &mut found);
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// `listed`, the rows of `prefix` with `status`, with the sources that have it.
    pub fn add_to(
        &self,
        prefix: &Prefix,
        status: RowStatus,
        listed: Option<ListedPrefix>,
    ) -> Option<ListedPrefix> {
        let having: Vec<(&ActiveSet, End)> =
            self.0.iter().filter_map(|set| Some((set, set.end(prefix)?))).collect();
        let mut sources: Vec<Arc<str>> = having.iter().map(|(set, _)| Arc::clone(&set.name)).collect();
        sources.dedup();
        let Some((first, end)) = having.first() else { return listed };
        let mut all = match listed {
            Some(rows) => ListedPrefix { own: Some((rows.reason.clone(), rows.expires)), ..rows },
            None => ListedPrefix {
                prefix: *prefix,
                status,
                scope: None,
                reason: first.reason.clone(),
                created: None,
                updated: None,
                expires: *end,
                source: Some(sources.iter().map(|name| &**name).collect::<Vec<_>>().join(",").into()),
                sources: Vec::new(),
                own: None,
                keys: Vec::new(),
                left_out: false,
            },
        };
        all.sources = sources;
        for (set, end) in having {
            // The reason is that of what ends last, and of several the first.
            let outlasts = end.is_none_or(|end| all.expires.is_some_and(|expires| end > expires));
            if all.expires.is_some() && outlasts {
                (all.expires, all.reason) = (end, set.reason.clone());
            }
        }
        Some(all)
    }

    /// All prefixes behind `after` of all sets, in order, those of several sets several times.
    pub fn prefixes_behind(
        &self,
        after: Option<Prefix>,
    ) -> Vec<Box<dyn Iterator<Item = Prefix> + Send + '_>> {
        let mut all: Vec<Box<dyn Iterator<Item = Prefix> + Send + '_>> = Vec::new();
        for set in self.0.iter() {
            match after {
                None => all.push(Box::new(set.table.iter().map(|entry| entry.prefix))),
                Some(after) => all.push(Box::new(set.table.iter_behind(&after).map(|entry| entry.prefix))),
            }
        }
        all
    }

    /// Iterators over the entries of each set.
    pub fn all_entries(&self) -> Vec<Peekable<impl Iterator<Item = Entry> + Clone + '_>> {
        self.0.iter().map(|set| set.table.iter().peekable()).collect()
    }
}

impl ActiveSet {
    fn end(&self, prefix: &Prefix) -> Option<End> {
        end_of(self.table.get(prefix)?)
    }
}

/// Until when an entry bans.
pub(super) fn end_of(state: EntryState) -> Option<End> {
    match state {
        EntryState::Present(end) => Some(end),
        EntryState::Absent => None,
    }
}

/// Adds the prefixes in which two tables differ.
fn differences(one: &AddressTable, other: &AddressTable, found: &mut Vec<Prefix>) {
    if std::ptr::eq(one.as_bytes(), other.as_bytes()) {
        return;
    }
    let (mut one, mut other) = (one.iter().peekable(), other.iter().peekable());
    loop {
        let prefix = match (one.peek(), other.peek()) {
            (None, None) => return,
            (Some(entry), None) | (None, Some(entry)) => entry.prefix,
            (Some(one), Some(other)) => one.prefix.min(other.prefix),
        };
        let mine = one.next_if(|entry| entry.prefix == prefix);
        let theirs = other.next_if(|entry| entry.prefix == prefix);
        if mine != theirs {
            found.push(prefix);
        }
    }
}
