//! Bans that apply at some hostnames or routes only: those of rows of `scoped_bans`, and of sources. They are a
//! table of their own, laid out whole when one of them changes.
//!
//! There may be 255 different scopes. Those that came first are in: one that is in stays in while a ban has it. When
//! all rows are read at once, at the start of the service, "first" goes by their times.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use imbl::OrdSet;
use tidegate_author::{Source, SourceMode};
use tidegate_policy::UnixSeconds;
use tidegate_policy::address::Prefix;
use tidegate_policy::codec::FormatError;
use tidegate_policy::scope::Scope;
use tidegate_policy::scoped_bans::{MAX_SCOPED_PREFIXES, MAX_SCOPES, ScopedBan, ScopedBans};
use tidegate_policy::table::AddressTable;

use super::ban_sources::{StoredSets, end_of};
use super::clock::Millis;
use super::documents::Documents;
use super::ip_monitor::{IpMonitor, ListedPrefix, each_once};
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

/// The scopes that the table has, and what has no effect.
#[derive(Clone, Default)]
pub(super) struct ScopeRoom {
    numbered: OrdSet<Arc<Scope>>,
    /// The place of each among them.
    numbers: HashMap<Arc<Scope>, u8>,
    /// Bans whose scope is not among them, or that did not fit.
    pub left_out: usize,
    /// Prefixes of the table.
    pub prefixes: usize,
}

impl ScopeRoom {
    /// Whether bans of this scope are in the table.
    pub fn has(&self, scope: &Scope) -> bool {
        self.numbered.contains(scope)
    }

    /// Takes in what there is of `scopes`, in place of what there no longer is: those that came first.
    fn renew(&mut self, scopes: &BTreeMap<Arc<Scope>, Arrival>) {
        let stay = self.numbered.iter().filter(|scope| scopes.contains_key(*scope));
        self.numbered = stay.cloned().collect();
        let new = scopes.iter().filter(|(scope, _)| !self.numbered.contains(*scope));
        let mut new: Vec<_> = new.map(|(scope, came)| (*came, Arc::clone(scope))).collect();
        new.sort_unstable();
        let room = MAX_SCOPES.saturating_sub(self.numbered.len());
        self.numbered.extend(new.into_iter().take(room).map(|(_, scope)| scope));
        self.numbers = self.numbered.iter().cloned().zip(0..).collect();
    }

    fn number(&self, scope: &Scope) -> Option<u8> {
        self.numbers.get(scope).copied()
    }

    /// The scopes that are in.
    pub fn all(&self) -> impl Iterator<Item = &Scope> {
        self.numbered.iter().map(|scope| &**scope)
    }

    fn scopes(&self) -> Vec<Scope> {
        self.numbered.iter().map(|scope| Scope::clone(scope)).collect()
    }
}

/// The table of the bans with a scope of `ips`, and how many prefixes it has.
pub(super) fn lay_out(ips: &mut IpMonitor) -> Result<(Vec<u8>, usize), FormatError> {
    let scopes = scopes_of(ips.scoped.values().flat_map(|rows| rows.iter()), &ips.scoped_sets);
    ips.scopes.renew(&scopes);
    let (mut bans, mut prefixes, mut left_out) = (Vec::new(), Vec::new(), 0_usize);
    // Sources may have a million: they are merged, and nothing is looked up for each.
    let mut rows = ips.scoped.iter().peekable();
    let of_set = |set: &'_ ScopedSet| (ips.scopes.number(&set.scope), set.shadow);
    let mut sets: Vec<_> =
        ips.scoped_sets.0.iter().map(|set| (of_set(set), set.table.iter().peekable())).collect();
    loop {
        let of_sets =
            sets.iter_mut().filter_map(|(_, entries)| entries.peek().map(|entry| entry.prefix)).min();
        let prefix = match (rows.peek().map(|(prefix, _)| **prefix), of_sets) {
            (Some(one), Some(other)) => one.min(other),
            (one, other) => match one.or(other) {
                Some(prefix) => prefix,
                None => break,
            },
        };
        let (from, mut out) = (bans.len(), 0_usize);
        let of_prefix = rows.next_if(|(next, _)| **next == prefix).map_or(&[][..], |(_, rows)| rows);
        for row in of_prefix {
            out = out.saturating_add(add_ban(ips.scopes.number(&row.scope), row.in_table(), from, &mut bans));
        }
        for ((scope, shadow), entries) in &mut sets {
            let entry = entries.next_if(|entry| entry.prefix == prefix);
            if let Some(end) = entry.and_then(|entry| end_of(entry.state)) {
                out = out.saturating_add(add_ban(*scope, (*shadow, end), from, &mut bans));
            }
        }
        bans.get_mut(from..).unwrap_or_default().sort_unstable();
        if prefixes.len() >= MAX_SCOPED_PREFIXES {
            left_out = left_out.saturating_add(out).saturating_add(bans.len() - from);
            bans.truncate(from);
            continue;
        }
        left_out = left_out.saturating_add(out);
        if bans.len() > from {
            prefixes.push((prefix, from..bans.len()));
        }
    }
    let all = prefixes.iter().map(|(prefix, range)| (*prefix, bans.get(range.clone()).unwrap_or_default()));
    let bytes = ScopedBans::encode(ips.scopes.scopes(), all)?;
    (ips.scopes.left_out, ips.scopes.prefixes) = (left_out, prefixes.len());
    Ok((bytes, prefixes.len()))
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
    let mut all = Vec::new();
    let mut room = ScopeRoom::default();
    let rows: Vec<_> = rows.collect();
    room.renew(&scopes_of(rows.iter().flat_map(|(_, rows)| rows.iter()), &ips.scoped_sets));
    for (prefix, rows) in rows {
        let bans = bans_of(rows, &prefix, &ips.scoped_sets, &room);
        if !bans.is_empty() {
            all.push((prefix, bans));
        }
    }
    let bytes = ScopedBans::encode(room.scopes(), all.iter().map(|(prefix, bans)| (*prefix, &bans[..])))?;
    let mut check = tidegate_policy::scoped_bans::ScopedBansCheck::new(&bytes)?;
    let table = check.step(usize::MAX)?;
    table.ok_or(FormatError::Malformed("table cut short"))
}

/// What rows and sets say of a prefix.
fn bans_of(rows: &[ScopedRow], prefix: &Prefix, sets: &ScopedSets, room: &ScopeRoom) -> Vec<ScopedBan<u8>> {
    let mut bans = Vec::new();
    for row in rows {
        add_ban(room.number(&row.scope), row.in_table(), 0, &mut bans);
    }
    for (set, end) in sets.of(prefix) {
        add_ban(room.number(&set.scope), (set.shadow, end), 0, &mut bans);
    }
    bans.sort_unstable();
    bans
}

/// Adds a ban of the prefix whose bans begin at `from`: of one scope and mode what ends last. Returns 1 if its scope has
/// no number, so that it is left out.
fn add_ban(
    scope: Option<u8>,
    (shadow, expires): (bool, Option<UnixSeconds>),
    from: usize,
    to: &mut Vec<ScopedBan<u8>>,
) -> usize {
    let Some(scope) = scope else { return 1 };
    let mine = to.get_mut(from..).unwrap_or_default();
    match mine.iter_mut().find(|ban| (ban.scope, ban.shadow) == (scope, shadow)) {
        Some(ban) => ban.expires = ban.expires.zip(expires).map(|(one, other)| one.max(other)),
        None => to.push(ScopedBan { scope, shadow, expires }),
    }
    0
}

impl IpMonitor {
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
