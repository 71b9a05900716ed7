//! A gateway that behaves like the filter: it keeps what it gets, and refuses what does not match
//! its digest.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use tidegate_policy::UnixSeconds;
use tidegate_policy::address::Prefix;
use tidegate_policy::bans::{self, BanTable, FoldBase};
use tidegate_policy::digest::BlobHash;
use tidegate_policy::flags::Flags;
use tidegate_policy::geo::{CountryTable, GeoRules};
use tidegate_policy::limit::Limits;
use tidegate_policy::table::{AddressTable, EntryState};
use tidegate_policy::tables::{PerTable, Table};
use tidegate_policy::version::Version;
use tidegate_policy::wire::formats::Formats;
use tidegate_policy::wire::sync::{BansUpdate, BlobRef, Gateway, Held, OverlayUpdate, SyncAnswer};

use crate::feed::Feed;

pub struct SimGateway {
    pub name: Gateway,
    pub since: Option<Version>,
    pub whole: BTreeMap<Table, (BlobHash, Vec<u8>)>,
    pub bans: Option<(BlobHash, BanTable)>,
    pub refresh: Option<u64>,
    pub formats: Formats,
    /// Bases that it fetched, and bases that it folded by itself.
    pub fetched: usize,
    pub folded: usize,
    /// Bases that it folded without success.
    pub misfolded: usize,
}

impl SimGateway {
    pub fn new(node: &str) -> Self {
        Self {
            name: Gateway::new(node.as_bytes(), 1),
            since: None,
            whole: BTreeMap::new(),
            bans: None,
            refresh: None,
            formats: Formats::default(),
            fetched: 0,
            folded: 0,
            misfolded: 0,
        }
    }

    pub fn held(&self) -> Held {
        let mut hashes = PerTable::from_fn(|table| self.whole.get(&table).map(|(hash, _)| *hash));
        hashes[Table::BanBase] = self.bans.as_ref().map(|(hash, _)| *hash);
        let bans = self.bans.as_ref().map(|(_, table)| table.digest());
        Held { hashes, bans, refresh: self.refresh }
    }

    pub async fn ask(&self, feed: &Feed, wait: Duration) -> Option<Bytes> {
        feed.sync(&self.name, self.since, &self.held(), &self.formats, wait).await
    }

    /// Polls once without waiting; returns what it got, if anything.
    pub async fn poll(&mut self, feed: &Feed) -> Option<SyncAnswer> {
        let bytes = self.ask(feed, Duration::ZERO).await?;
        let answer = SyncAnswer::from_bytes(&bytes).unwrap();
        self.apply(feed, answer.clone());
        Some(answer)
    }

    pub fn apply(&mut self, feed: &Feed, answer: SyncAnswer) {
        for update in answer.whole {
            let bytes = update.bytes.unwrap_or_else(|| fetch(feed, update.blob));
            assert_eq!((BlobHash::of(&bytes), bytes.len() as u64), (update.blob.hash, update.blob.len));
            self.whole.insert(update.table, (update.blob.hash, bytes));
        }
        if let Some(update) = answer.bans {
            self.apply_bans(feed, update);
        }
        self.since = Some(answer.version);
        self.refresh = Some(answer.refresh);
    }

    fn apply_bans(&mut self, feed: &Feed, update: BansUpdate) {
        let (base, held) = match self.bans.take() {
            Some((hash, table)) if hash == update.base.hash => {
                (table.base().clone(), table.overlay().clone())
            }
            Some((_, table)) => (self.other_base(feed, &table, &update), AddressTable::empty()),
            None => (self.fetched_base(feed, update.base), AddressTable::empty()),
        };
        let overlay = match &update.overlay {
            OverlayUpdate::Delta(changes) => bans::apply(&held, changes),
            OverlayUpdate::Whole(changes) => bans::apply(&AddressTable::empty(), changes),
        };
        let table = BanTable::new(base, AddressTable::from_bytes(overlay.unwrap()).unwrap());
        assert_eq!(table.digest(), update.digest, "what was told does not make what was promised");
        self.bans = Some((update.base.hash, table));
    }

    fn other_base(&mut self, feed: &Feed, table: &BanTable, update: &BansUpdate) -> AddressTable {
        assert!(matches!(update.overlay, OverlayUpdate::Whole(_)), "a delta on a base that is not held");
        let Some(fold) = &update.fold else { return self.fetched_base(feed, update.base) };
        let overlay = AddressTable::from_bytes(bans::apply(table.overlay(), fold).unwrap()).unwrap();
        let folded = BanTable::new(table.base().clone(), overlay);
        let mut fold = FoldBase::new(folded.base(), folded.overlay());
        let (bytes, hash) = loop {
            if let Some(done) = fold.step(1_000_000).unwrap() {
                break done;
            }
        };
        if hash != update.base.hash {
            self.misfolded += 1;
            return self.fetched_base(feed, update.base);
        }
        self.folded += 1;
        AddressTable::from_bytes(bytes).unwrap()
    }

    fn fetched_base(&mut self, feed: &Feed, blob: BlobRef) -> AddressTable {
        self.fetched += 1;
        AddressTable::from_bytes(fetch(feed, blob)).unwrap()
    }

    pub fn banned(&self) -> BTreeMap<Prefix, Option<UnixSeconds>> {
        let (_, table) = self.bans.as_ref().unwrap();
        banned(table)
    }

    /// The entries of a table of addresses that is sent whole.
    pub fn of(&self, table: Table) -> BTreeMap<Prefix, Option<UnixSeconds>> {
        let table = AddressTable::from_bytes(self.whole[&table].1.clone()).unwrap();
        present(table.iter())
    }
}

impl SimGateway {
    pub fn flags(&self) -> Flags {
        Flags::from_bytes(&self.whole[&Table::Flags].1).unwrap()
    }

    pub fn geo(&self) -> GeoRules {
        GeoRules::from_bytes(&self.whole[&Table::Geo].1).unwrap()
    }

    pub fn limits(&self) -> Limits {
        Limits::from_bytes(&self.whole[&Table::Limits].1).unwrap()
    }

    pub fn countries(&self) -> CountryTable {
        CountryTable::from_bytes(self.whole[&Table::Countries].1.clone()).unwrap()
    }
}

/// Entries that exist, expired or not.
pub fn present(
    entries: impl Iterator<Item = tidegate_policy::table::Entry>,
) -> BTreeMap<Prefix, Option<UnixSeconds>> {
    let state = |entry: tidegate_policy::table::Entry| match entry.state {
        EntryState::Present(expires) => Some((entry.prefix, expires)),
        EntryState::Absent => None,
    };
    entries.filter_map(state).collect()
}

/// The bans of a table, expired or not.
pub fn banned(table: &BanTable) -> BTreeMap<Prefix, Option<UnixSeconds>> {
    let levels = [table.base(), table.overlay(), table.recent()];
    let entries = levels.into_iter().flat_map(AddressTable::iter);
    let last: BTreeMap<_, _> = entries.map(|entry| (entry.prefix, entry)).collect();
    present(last.into_values())
}

/// All pages of a blob.
pub fn fetch(feed: &Feed, blob: BlobRef) -> Vec<u8> {
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < blob.len {
        let page = feed.blob(blob.hash, bytes.len() as u64).expect("a blob that an answer names is there");
        assert!(!page.is_empty(), "a page has something");
        bytes.extend_from_slice(&page);
    }
    assert_eq!(BlobHash::of(&bytes), blob.hash);
    bytes
}
