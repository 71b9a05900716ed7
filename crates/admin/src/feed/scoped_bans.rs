//! Bans that apply at some hostnames or routes only: those of rows of `scoped_bans`, and of sources. Each of the two is
//! a table of its own, laid out whole when one of its bans changes: a ban by hand does not send a list again.
//!
//! There may be 255 different scopes. Those that came first are in: one that is in stays in while a ban has it. When
//! all rows are read at once, at the start of the service, "first" goes by their times.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use imbl::OrdSet;
use tidegate_author::{Source, SourceMode};
use tidegate_policy::UnixSeconds;
use tidegate_policy::address::Prefix;
use tidegate_policy::codec::FormatError;
use tidegate_policy::scope::Scope;
use tidegate_policy::scoped_bans::{MAX_SCOPED_PREFIXES, MAX_SCOPES, ScopedBan, ScopedBans, ScopedBansCheck};
use tidegate_policy::table::AddressTable;

use super::ban_sources::{StoredSets, end_of};
use super::clock::Millis;
use super::documents::Documents;
use super::ip_monitor::{ChangedPrefixes, IpMonitor, ListedPrefix, each_once};
use super::ip_rows::RowStatus;
use super::scoped_rows::ScopedRow;
use super::table_room::Arrival;

/// What a source bans at some hostnames or routes.
#[derive(Clone)]
pub(super) struct ScopedSet {
    name: Arc<str>,
    reason: Option<Arc<str>>,
    scope: Arc<Scope>,
    shadow: bool,
    /// When its source was created.
    came: Arrival,
    table: AddressTable,
}

/// What all such sources ban that are in force, in the order of their names.
#[derive(Clone, Default)]
pub(super) struct ScopedSets(Arc<[ScopedSet]>);

impl ScopedSets {
    /// The sets of the sources that have a document with a scope.
    pub fn new(sources: &Documents<Source>, stored: &StoredSets) -> Self {
        let mut sets = Vec::new();
        for (name, document) in &sources.in_force {
            let (Some(scope), Some(set)) = (&document.parsed.applies_to, stored.get(name)) else { continue };
            let (scope, in_shadow) = (Arc::new(scope.clone()), document.parsed.mode == SourceMode::Shadow);
            let reason: Option<Arc<str>> = document.parsed.reason.as_deref().map(Arc::from);
            let came = document.created().map_or(Arrival::MAX, jiff::Timestamp::as_millisecond);
            for (shadow, table) in [(in_shadow, &set.listed), (true, &set.simulated)] {
                let (name, reason, scope) = (Arc::clone(name), reason.clone(), Arc::clone(&scope));
                if !table.is_empty() {
                    sets.push(ScopedSet { name, reason, scope, shadow, came, table: table.clone() });
                }
            }
        }
        Self(sets.into())
    }

    /// Whether both say the same of every prefix.
    pub fn is_same(&self, other: &Self) -> bool {
        let is_same = |(one, other): (&ScopedSet, &ScopedSet)| {
            one.scope == other.scope
                && one.shadow == other.shadow
                && one.name == other.name
                && one.reason == other.reason
                && one.table.as_bytes() == other.table.as_bytes()
        };
        self.0.len() == other.0.len() && self.0.iter().zip(other.0.iter()).all(is_same)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Iterators over the prefixes of each behind `after`, in order.
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

    fn of(&self, prefix: &Prefix) -> impl Iterator<Item = (&ScopedSet, Option<UnixSeconds>)> {
        self.0.iter().filter_map(|set| Some((set, end_of(set.table.get(prefix)?)?)))
    }
}

/// The scopes that the two tables may have, and what each of them has.
#[derive(Clone, Default)]
pub(super) struct ScopeRoom {
    taken_in: OrdSet<Arc<Scope>>,
    /// The table of the rows.
    pub rows: TableFigures,
    /// That of the sources.
    pub sources: TableFigures,
}

/// What there is of one of the two tables.
#[derive(Clone, Copy, Default)]
pub(super) struct TableFigures {
    /// Bans whose scope is not taken in, or that did not fit.
    pub left_out: usize,
    /// Prefixes.
    pub prefixes: usize,
}

impl ScopeRoom {
    /// Whether bans of this scope are in a table.
    pub fn has(&self, scope: &Scope) -> bool {
        self.taken_in.contains(scope)
    }

    /// Takes in what there is of `scopes`, in place of what there no longer is: those that came first. Returns those
    /// that are new.
    fn renew(&mut self, scopes: &BTreeMap<Arc<Scope>, Arrival>) -> Vec<Arc<Scope>> {
        let stay = self.taken_in.iter().filter(|scope| scopes.contains_key(*scope));
        self.taken_in = stay.cloned().collect();
        let new = scopes.iter().filter(|(scope, _)| !self.taken_in.contains(*scope));
        let mut new: Vec<_> = new.map(|(scope, came)| (*came, Arc::clone(scope))).collect();
        new.sort_unstable();
        new.truncate(MAX_SCOPES.saturating_sub(self.taken_in.len()));
        let new: Vec<_> = new.into_iter().map(|(_, scope)| scope).collect();
        self.taken_in.extend(new.iter().cloned());
        new
    }

    /// The scopes that are in.
    pub fn all(&self) -> impl Iterator<Item = &Scope> {
        self.taken_in.iter().map(|scope| &**scope)
    }
}

/// The scopes of one table in their order, which are its numbers for them.
struct Numbered(BTreeMap<Arc<Scope>, u8>);

impl Numbered {
    /// Those of `scopes` that `room` has.
    fn new<'s>(room: &ScopeRoom, scopes: impl Iterator<Item = &'s Arc<Scope>>) -> Self {
        let all: BTreeSet<_> = scopes.filter(|scope| room.has(scope)).collect();
        Self(all.into_iter().cloned().zip(0..).collect())
    }

    fn number(&self, scope: &Scope) -> Option<u8> {
        self.0.get(scope).copied()
    }

    fn to_vec(&self) -> Vec<Scope> {
        self.0.keys().map(|scope| Scope::clone(scope)).collect()
    }
}

/// A table that is being laid out, prefix by prefix.
#[derive(Default)]
struct Layout {
    bans: Vec<ScopedBan<u8>>,
    prefixes: Vec<(Prefix, Range<usize>)>,
    /// Where the bans of the next prefix begin.
    from: usize,
    left_out: usize,
}

impl Layout {
    /// Adds a ban of the next prefix; `scope`: its number, if it has one.
    fn add(&mut self, scope: Option<u8>, of_ban: (bool, Option<UnixSeconds>)) {
        match scope {
            Some(scope) => add_ban(scope, of_ban, self.from, &mut self.bans),
            None => self.left_out = self.left_out.saturating_add(1),
        }
    }

    /// Says which prefix that was.
    fn end(&mut self, prefix: Prefix) {
        let mine = self.from..self.bans.len();
        if self.prefixes.len() >= MAX_SCOPED_PREFIXES {
            self.left_out = self.left_out.saturating_add(mine.len());
            self.bans.truncate(self.from);
        } else if !mine.is_empty() {
            self.bans.get_mut(mine.clone()).unwrap_or_default().sort_unstable();
            self.prefixes.push((prefix, mine));
        }
        self.from = self.bans.len();
    }

    fn finish(self, scopes: &Numbered) -> Result<(Vec<u8>, TableFigures), FormatError> {
        let bans = |range: &Range<usize>| self.bans.get(range.clone()).unwrap_or_default();
        let all = self.prefixes.iter().map(|(prefix, range)| (*prefix, bans(range)));
        let bytes = ScopedBans::encode(scopes.to_vec(), all)?;
        Ok((bytes, TableFigures { left_out: self.left_out, prefixes: self.prefixes.len() }))
    }
}

/// The table of the rows of `ips`, and how many prefixes it has.
pub(super) fn lay_out_rows(ips: &mut IpMonitor) -> Result<(Vec<u8>, usize), FormatError> {
    let all = ips.scoped.values().flat_map(|rows| rows.iter().map(|row| &row.scope));
    let (scopes, mut table) = (Numbered::new(&ips.scopes, all), Layout::default());
    for (prefix, rows) in &ips.scoped {
        for row in rows.iter() {
            table.add(scopes.number(&row.scope), row.in_table());
        }
        table.end(*prefix);
    }
    let (bytes, figures) = table.finish(&scopes)?;
    ips.scopes.rows = figures;
    Ok((bytes, figures.prefixes))
}

/// The table of the sources of `ips`, and how many prefixes it has.
pub(super) fn lay_out_sources(ips: &mut IpMonitor) -> Result<(Vec<u8>, usize), FormatError> {
    let sets = &ips.scoped_sets.0;
    let scopes = Numbered::new(&ips.scopes, sets.iter().map(|set| &set.scope));
    let mut table = Layout::default();
    // They may have a million: they are merged, and nothing is looked up for each.
    let mut sets: Vec<_> =
        sets.iter().map(|set| (scopes.number(&set.scope), set.shadow, set.table.iter().peekable())).collect();
    while let Some(prefix) = sets.iter_mut().filter_map(|(.., entries)| Some(entries.peek()?.prefix)).min() {
        for (scope, shadow, entries) in &mut sets {
            let entry = entries.next_if(|entry| entry.prefix == prefix);
            if let Some(end) = entry.and_then(|entry| end_of(entry.state)) {
                table.add(*scope, (*shadow, end));
            }
        }
        table.end(prefix);
    }
    let (bytes, figures) = table.finish(&scopes)?;
    ips.scopes.sources = figures;
    Ok((bytes, figures.prefixes))
}

/// The scopes of rows and sets, and when the first of each came.
fn scopes_of<'r>(
    rows: impl Iterator<Item = &'r ScopedRow>,
    sets: &ScopedSets,
) -> BTreeMap<Arc<Scope>, Arrival> {
    let mut scopes: BTreeMap<Arc<Scope>, Arrival> = BTreeMap::new();
    let mut note = |scope: &Arc<Scope>, came: Arrival| {
        let first = scopes.entry(Arc::clone(scope)).or_insert(came);
        *first = came.min(*first);
    };
    for row in rows {
        note(&row.scope, row.created.map_or(Arrival::MAX, Millis::get));
    }
    for set in sets.0.iter() {
        note(&set.scope, set.came);
    }
    scopes
}

/// The table of what `rows` and the sets of `ips` say of these prefixes, in their order, without a bound.
pub(super) fn table_of<'r>(
    ips: &IpMonitor,
    rows: impl Iterator<Item = (Prefix, &'r [ScopedRow])>,
) -> Result<Arc<ScopedBans>, FormatError> {
    let rows: Vec<_> = rows.collect();
    let mut room = ScopeRoom::default();
    let scopes = scopes_of(rows.iter().flat_map(|(_, rows)| rows.iter()), &ips.scoped_sets);
    room.renew(&scopes);
    let (scopes, mut table) = (Numbered::new(&room, scopes.keys()), Layout::default());
    for (prefix, rows) in rows {
        for row in rows {
            table.add(scopes.number(&row.scope), row.in_table());
        }
        for (set, end) in ips.scoped_sets.of(&prefix) {
            table.add(scopes.number(&set.scope), (set.shadow, end));
        }
        table.end(prefix);
    }
    let (bytes, _) = table.finish(&scopes)?;
    let table = ScopedBansCheck::new(&bytes)?.step(usize::MAX)?;
    table.ok_or(FormatError::Malformed("table cut short"))
}

/// Adds a ban of the prefix whose bans begin at `from`: of one scope and mode what ends last.
fn add_ban(
    scope: u8,
    (shadow, expires): (bool, Option<UnixSeconds>),
    from: usize,
    to: &mut Vec<ScopedBan<u8>>,
) {
    let mine = to.get_mut(from..).unwrap_or_default();
    match mine.iter_mut().find(|ban| (ban.scope, ban.shadow) == (scope, shadow)) {
        Some(ban) => ban.expires = ban.expires.zip(expires).map(|(one, other)| one.max(other)),
        None => to.push(ScopedBan { scope, shadow, expires }),
    }
}

impl IpMonitor {
    /// Takes in the scopes of what rows and sources have now, if `changed` says that they changed. A scope for which
    /// there had been no room changes the tables that have it as well.
    pub fn renew_scopes(&mut self, changed: &mut ChangedPrefixes) {
        if !changed.scoped && !changed.scoped_sources {
            return;
        }
        let scopes = scopes_of(self.scoped.values().flat_map(|rows| rows.iter()), &self.scoped_sets);
        let new = self.scopes.renew(&scopes);
        changed.scoped |= !new.is_empty();
        changed.scoped_sources |= self.scoped_sets.0.iter().any(|set| new.contains(&set.scope));
    }

    /// The prefixes behind `after` with a scoped ban of a row or a source, in order, each once.
    pub fn scoped_prefixes(&self, after: Option<Prefix>) -> impl Iterator<Item = Prefix> + Send + '_ {
        use std::ops::Bound::{Excluded, Unbounded};
        let rows =
            self.scoped.range((after.map_or(Unbounded, Excluded), Unbounded)).map(|(prefix, _)| *prefix);
        let mut all: Vec<Box<dyn Iterator<Item = Prefix> + Send + '_>> = vec![Box::new(rows)];
        all.extend(self.scoped_sets.prefixes_behind(after));
        each_once(all)
    }

    /// The scoped bans of exactly this prefix: of each row, then of each source.
    pub fn scoped_listed(&self, prefix: &Prefix) -> Vec<ListedPrefix> {
        if self.scoped.is_empty() && self.scoped_sets.is_empty() {
            return Vec::new();
        }
        let mut all = self.scoped_rows(prefix);
        all.extend(self.scoped_sets.of(prefix).map(|(set, expires)| ListedPrefix {
            prefix: *prefix,
            status: if set.shadow { RowStatus::Watched } else { RowStatus::Banned },
            scope: Some(Arc::clone(&set.scope)),
            reason: set.reason.clone(),
            created: None,
            updated: None,
            expires,
            source: Some(Arc::clone(&set.name)),
            sources: vec![Arc::clone(&set.name)],
            own: None,
            keys: Vec::new(),
            left_out: !self.scopes.has(&set.scope),
        }));
        all
    }

    /// The rows of exactly this prefix in `scoped_bans`.
    pub fn scoped_rows(&self, prefix: &Prefix) -> Vec<ListedPrefix> {
        let rows = self.scoped.get(prefix).map_or(&[][..], |rows| rows);
        rows.iter().map(|row| row.listed(prefix, !self.scopes.has(&row.scope))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scopes_that_came_first_are_in_also_after_a_start() {
        let scope =
            |n: usize| Arc::new(Scope { hostnames: vec![format!("h{n}.example")], routes: Vec::new() });
        // The last by name came first.
        let all = |count: usize| -> BTreeMap<_, _> {
            (0..count).map(|n| (scope(n), Arrival::try_from(1_000 - n).unwrap())).collect()
        };
        let names = |room: &ScopeRoom| room.all().cloned().collect::<Vec<_>>();
        let (mut grown, mut started) = (ScopeRoom::default(), ScopeRoom::default());
        started.renew(&all(MAX_SCOPES + 3));
        assert!(!started.has(&scope(0)) && !started.has(&scope(2)) && started.has(&scope(3)));
        let mut known = all(MAX_SCOPES + 3);
        known.retain(|_, came| *came <= 1_000 - 3);
        grown.renew(&known);
        grown.renew(&all(MAX_SCOPES + 3));
        assert_eq!(names(&grown), names(&started));
        // One that leaves makes room for the first that waits.
        let mut fewer = all(MAX_SCOPES + 3);
        fewer.remove(&scope(100));
        started.renew(&fewer);
        assert!(started.has(&scope(2)) && !started.has(&scope(1)));
    }
}
