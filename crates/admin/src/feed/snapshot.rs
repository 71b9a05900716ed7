//! What all rows together mean, at one version. A copy of a snapshot shares what it
//! has in common with the original, so a view of a million bans costs nothing
//! and a change costs one path of the trees.

use std::net::IpAddr;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use jiff::Timestamp;
use tidegate_author as author;
use tidegate_policy::UnixSeconds;
use tidegate_policy::address::{Prefix, canonical};
use tidegate_policy::digest::{BlobHash, SetDigest};
use tidegate_policy::flags::Flags;
use tidegate_policy::geo::GeoRule;
use tidegate_policy::limit::Limit;
use tidegate_policy::route::Target;
use tidegate_policy::table::{Entry, EntryState, entry_bytes};
use tidegate_policy::version::Version;
use tidegate_policy::wire::sync::BlobRef;

use super::clock::Millis;
use super::countries::CountriesInfo;
use super::documents::Documents;
use super::ip_rows::{ParsedRow, ParsedRows, PrefixStatus, ReasonInterner, RowStatus};
use crate::store::{IpRow, StoreTable};

/// The canonical view of all tables at one version.
#[derive(Clone)]
pub struct Snapshot {
    /// Which version this is.
    pub version: Version,
    /// The flags; one whose row cannot be understood is off.
    pub flags: Flags,
    /// The routes.
    pub routes: Documents<author::Route>,
    /// The geo rules.
    pub geo_rules: Documents<GeoRule>,
    /// What references of routes can mean besides clusters of Envoy's.
    pub backends: Documents<Target>,
    /// The limits.
    pub limits: Documents<Limit>,
    /// The country table that is in force, if one was imported.
    pub countries: Option<Arc<CountriesInfo>>,
    /// What gateways are told of each table.
    pub tables: TableDigests,
    pub(super) entries: OrdMap<Prefix, ParsedRows>,
    pub(super) bans: SetDigest,
    pub(super) allow: OrdMap<Prefix, Option<UnixSeconds>>,
    watched: OrdSet<Prefix>,
    pub(super) quarantine: OrdMap<(StoreTable, Arc<str>), Arc<str>>,
    /// Fingerprints of all rows of all tables but `ip_monitor`, malformed ones
    /// included.
    pub(super) small_rows: OrdMap<(StoreTable, Arc<str>), BlobHash>,
}

/// Counts and names of what gateways hold when they are up to date.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TableDigests {
    /// Name of the flags.
    pub flags: BlobHash,
    /// All bans, expired ones included.
    pub bans: SetDigest,
    /// The base that the ban table stands on.
    pub base: BlobRef,
    /// Keys that changed since the base was cut.
    pub overlay: usize,
    /// Entries of the allow table, expired ones included.
    pub allow_entries: usize,
    /// Name of the allow table.
    pub allow: BlobHash,
    /// Geo rules in force.
    pub geo_entries: usize,
    /// Name of the geo rules.
    pub geo: BlobHash,
    /// Runs of IPv4 addresses in the country table.
    pub countries_v4: usize,
    /// Runs of IPv6 addresses in the country table.
    pub countries_v6: usize,
    /// Name of the country table.
    pub countries: BlobHash,
    /// Routes in the route table.
    pub routes_entries: usize,
    /// Name of the route table.
    pub routes: BlobHash,
    /// Limits in force.
    pub limits_entries: usize,
    /// Name of the limits.
    pub limits: BlobHash,
}

/// A row that could not be understood, or has no effect for another reason.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Quarantined {
    /// Where it stands.
    pub table: StoreTable,
    /// Its raw key.
    pub key: Arc<str>,
    /// What is wrong, and what would be right.
    pub why: Arc<str>,
}

/// What rows of one status say of one prefix.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListedPrefix {
    /// Which prefix.
    pub prefix: Prefix,
    /// What they say.
    pub status: RowStatus,
    /// The reason of the row that was written last.
    pub reason: Option<Arc<str>>,
    /// When the oldest of the rows was made.
    pub created: Option<Timestamp>,
    /// When the newest of the rows was written.
    pub updated: Option<Timestamp>,
    /// The second at which it ends; `None`: never. It may have passed.
    pub expires: Option<UnixSeconds>,
    /// Raw keys of the rows.
    pub keys: Vec<String>,
}

/// What a change moved.
#[derive(Default)]
pub(super) struct ChangedPrefixes {
    /// Prefixes whose ban changed.
    pub bans: Vec<Prefix>,
    /// Whether the allow table changed.
    pub allow: bool,
}

impl Snapshot {
    pub(super) fn empty() -> Self {
        let none = BlobHash::of(&[]);
        Self {
            version: Version::default(),
            flags: Flags::default(),
            routes: Documents::default(),
            geo_rules: Documents::default(),
            backends: Documents::default(),
            limits: Documents::default(),
            countries: None,
            tables: TableDigests {
                flags: none,
                bans: SetDigest::default(),
                base: BlobRef { hash: none, len: 0 },
                overlay: 0,
                allow_entries: 0,
                allow: none,
                geo_entries: 0,
                geo: none,
                countries_v4: 0,
                countries_v6: 0,
                countries: none,
                routes_entries: 0,
                routes: none,
                limits_entries: 0,
                limits: none,
            },
            entries: OrdMap::new(),
            bans: SetDigest::default(),
            allow: OrdMap::new(),
            watched: OrdSet::new(),
            quarantine: OrdMap::new(),
            small_rows: OrdMap::new(),
        }
    }

    /// What rows with `status` say of exactly this prefix.
    #[must_use]
    pub fn listed(&self, prefix: &Prefix, status: RowStatus) -> Option<ListedPrefix> {
        list(prefix, self.entries.get(prefix)?, status)
    }

    /// Everything that rows say of prefixes that cover `address`: longest prefix
    /// first; for one prefix, bans before allowances before what is watched.
    pub fn covering(&self, address: IpAddr) -> impl Iterator<Item = ListedPrefix> + '_ {
        let (bits, is_v4) = match canonical(address) {
            IpAddr::V4(v4) => (u128::from(v4.to_bits()), true),
            IpAddr::V6(v6) => (v6.to_bits(), false),
        };
        let around = move |len: u8| match is_v4 {
            true => Prefix::v4(u32::try_from(bits).ok()?, len),
            false => Prefix::v6(bits, len),
        };
        let longest = if is_v4 { 32 } else { 128 };
        (0..=longest).rev().filter_map(around).flat_map(move |prefix| self.all_listed(prefix))
    }

    /// What rows say, in the order of the prefixes, from the first one after
    /// `after`. With one status, or all.
    pub fn list(
        &self,
        status: Option<RowStatus>,
        after: Option<Prefix>,
    ) -> impl Iterator<Item = ListedPrefix> + '_ {
        let from = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        // The few keep a list of their own: they are not looked for among the many.
        let few: Box<dyn Iterator<Item = Prefix> + Send + '_> = match status {
            Some(RowStatus::Allowed) => {
                Box::new(self.allow.range((from, std::ops::Bound::Unbounded)).map(|(prefix, _)| *prefix))
            }
            Some(RowStatus::Watched) => {
                Box::new(self.watched.range((from, std::ops::Bound::Unbounded)).copied())
            }
            Some(RowStatus::Banned) | None => {
                Box::new(self.entries.range((from, std::ops::Bound::Unbounded)).map(|(prefix, _)| *prefix))
            }
        };
        few.flat_map(|prefix| self.all_listed(prefix))
            .filter(move |listed| status.is_none_or(|status| listed.status == status))
    }

    /// Rows that could not be understood.
    pub fn quarantine(&self) -> impl ExactSizeIterator<Item = Quarantined> + '_ {
        self.quarantine.iter().map(|((table, key), why)| Quarantined {
            table: *table,
            key: key.clone(),
            why: why.clone(),
        })
    }

    /// How many rows of a table are in quarantine.
    #[must_use]
    pub fn quarantined(&self, table: StoreTable) -> usize {
        self.quarantine.keys().filter(|(of, _)| *of == table).count()
    }

    /// Prefixes with a status, expired ones included.
    #[must_use]
    pub fn count(&self, status: RowStatus) -> usize {
        match status {
            RowStatus::Banned => usize::try_from(self.bans.count).unwrap_or(usize::MAX),
            RowStatus::Allowed => self.allow.len(),
            RowStatus::Watched => self.watched.len(),
        }
    }

    fn all_listed(&self, prefix: Prefix) -> impl Iterator<Item = ListedPrefix> + use<> {
        let rows = self.entries.get(&prefix).cloned();
        [RowStatus::Banned, RowStatus::Allowed, RowStatus::Watched]
            .into_iter()
            .filter_map(move |status| list(&prefix, rows.as_ref()?, status))
    }

    /// What the ban table says of `prefix`.
    pub(super) fn ban(&self, prefix: &Prefix) -> EntryState {
        ban_state(self.entries.get(prefix).map_or(&[], |rows| &rows[..]))
    }

    /// Takes rows as they now stand; `None`: deleted.
    pub(super) fn apply_ips(&mut self, changes: Vec<(String, Option<IpRow>)>) -> ChangedPrefixes {
        let (mut changed, mut reasons) = (ChangedPrefixes::default(), ReasonInterner::default());
        for (key, row) in changes {
            self.apply_ip(&key, row, &mut reasons, &mut changed);
        }
        changed
    }

    fn apply_ip(
        &mut self,
        key: &str,
        row: Option<IpRow>,
        reasons: &mut ReasonInterner,
        changed: &mut ChangedPrefixes,
    ) {
        let prefix = match key.parse::<Prefix>() {
            Ok(prefix) => prefix,
            Err(error) => {
                self.set_quarantine(key, row.map(|_| error.to_string()));
                return;
            }
        };
        let (row, why) = match row.map(|row| ParsedRow::read(&prefix, &row, reasons)) {
            None => (None, None),
            Some(Ok(row)) => (Some(row), None),
            Some(Err(why)) => (None, Some(why)),
        };
        self.set_quarantine(key, why);
        let canonical = prefix.to_string();
        let held = self.entries.get(&prefix).map_or(&[][..], |rows| rows);
        let mut rows: Vec<ParsedRow> =
            held.iter().filter(|held| !held.has_key(key, &canonical)).cloned().collect();
        rows.extend(row);
        rows.sort_by(ParsedRow::cmp_key);
        self.replace_rows(prefix, rows.into(), changed);
    }

    pub(super) fn forget_quarantine(&mut self, table: StoreTable) {
        let others = self.quarantine.iter().filter(|((of, _), _)| *of != table);
        self.quarantine = others.map(|(key, why)| (key.clone(), why.clone())).collect();
    }

    fn set_quarantine(&mut self, key: &str, why: Option<String>) {
        let key = (StoreTable::Ip, Arc::from(key));
        match why {
            Some(why) => drop(self.quarantine.insert(key, why.into())),
            None => drop(self.quarantine.remove(&key)),
        }
    }

    pub(super) fn replace_rows(&mut self, prefix: Prefix, rows: ParsedRows, changed: &mut ChangedPrefixes) {
        let before = self.entries.get(&prefix).map_or(PrefixStatus::default(), |rows| PrefixStatus::of(rows));
        let after = PrefixStatus::of(&rows);
        if rows.is_empty() {
            self.entries.remove(&prefix);
        } else {
            self.entries.insert(prefix, rows);
        }
        if before.banned != after.banned {
            if let Some(expires) = before.banned {
                self.bans.remove(&entry_bytes(&prefix, expires));
            }
            if let Some(expires) = after.banned {
                self.bans.insert(&entry_bytes(&prefix, expires));
            }
            changed.bans.push(prefix);
        }
        if before.allowed != after.allowed {
            match after.allowed {
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
    pub(super) fn ban_entries(&self) -> impl Iterator<Item = Entry> + Clone + '_ {
        self.entries.iter().filter_map(|(prefix, rows)| match ban_state(rows) {
            EntryState::Absent => None,
            state => Some(Entry { prefix: *prefix, state }),
        })
    }

    /// The entries of the allow table, in order.
    pub(super) fn allow_entries(&self) -> impl Iterator<Item = Entry> + Clone + '_ {
        let entry = |(prefix, expires): (&Prefix, &Option<UnixSeconds>)| Entry {
            prefix: *prefix,
            state: EntryState::Present(*expires),
        };
        self.allow.iter().map(entry)
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
        keys: mine().map(|row| row.key(prefix)).collect(),
    })
}

fn timestamp(millis: Millis) -> Option<Timestamp> {
    Timestamp::from_millisecond(millis.get()).ok()
}
