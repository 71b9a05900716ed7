//! A store in memory, with what a database can do to its readers: rows that change without a
//! trigger, a log that is trimmed, a restore.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};

use async_trait::async_trait;
use tidegate_policy::geo::{CountryRange, CountryTable};
use tokio::sync::watch;

use crate::store::{
    AddressRows, ChangedRows, Changes, CountriesRow, DocumentKind, DocumentRow, FlagRow, FormerRows, IpRow,
    PerDocumentKind, ScopedBanRow, SourceSetRow, StoreError, StoreTable, StoredRows, TableStore,
};

#[derive(Clone, Default)]
pub struct Rows {
    pub seq: u64,
    pub ips: BTreeMap<String, IpRow>,
    /// By their keys.
    pub scoped: BTreeMap<String, ScopedBanRow>,
    pub flags: BTreeMap<String, FlagRow>,
    pub countries: Option<CountriesRow>,
    pub source_sets: BTreeMap<String, SourceSetRow>,
    pub documents: PerDocumentKind<BTreeMap<String, DocumentRow>>,
    pub former: FormerRows,
    log: Vec<(u64, StoreTable, String)>,
    moves: Vec<(u64, (StoreTable, String, String))>,
    /// The log reaches back to this `seq`.
    floor: u64,
    /// The `seq` of restores.
    restored: u64,
}

#[derive(Default)]
pub struct Memory {
    rows: Mutex<Rows>,
    broken: Mutex<bool>,
    /// Every read finds a new change.
    restless: AtomicBool,
    /// Reading whole tables does not end while this is true.
    slow: watch::Sender<bool>,
    /// Number of reads of changes.
    reads: AtomicUsize,
    hint: watch::Sender<u64>,
}

pub fn row(ip: &str, status: &str, expires_at: Option<&str>) -> IpRow {
    IpRow {
        ip: ip.to_owned(),
        status: status.to_owned(),
        reason: Some("because".to_owned()),
        created_at: Some("2026-11-23 18:00:00".to_owned()),
        updated_at: None,
        expires_at: expires_at.map(str::to_owned),
        source: None,
    }
}

pub fn named(name: &str, document: impl Into<String>) -> DocumentRow {
    let created_at = Some("2026-11-23 18:00:00.000".to_owned());
    DocumentRow { name: name.to_owned(), document: document.into(), created_at, updated_at: None }
}

pub fn document(name: &str, backend: &str) -> String {
    format!(
        r#"{{"apiVersion":"gateway.networking.k8s.io/v1","kind":"HTTPRoute","metadata":{{"name":"{name}"}},
            "spec":{{"rules":[{{"backendRefs":[{{"name":"{backend}","port":80}}]}}]}}}}"#
    )
}

pub fn flag(name: &str, value: &str) -> FlagRow {
    FlagRow { name: name.to_owned(), value: value.to_owned(), updated_at: None }
}

pub fn countries(source: &str, table: Vec<u8>) -> CountriesRow {
    CountriesRow { source: source.to_owned(), imported_at: Some("2026-11-23 18:00:00".to_owned()), table }
}

/// A table with one run of addresses, `10.0.0.0` to `10.0.0.<last>`, in `code`.
pub fn one_run(code: &str, last: u8) -> Vec<u8> {
    let run = CountryRange {
        first: [10, 0, 0, 0].into(),
        last: [10, 0, 0, last].into(),
        country: code.parse().unwrap(),
    };
    CountryTable::encode([run].into_iter()).unwrap()
}

impl Memory {
    pub fn reads(&self) -> usize {
        self.reads.load(Ordering::Relaxed)
    }

    pub fn rows(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap()
    }

    /// One transaction; each row gets a number.
    pub fn put(&self, ips: impl IntoIterator<Item = IpRow>) -> u64 {
        self.change(|rows| ips.into_iter().for_each(|row| rows.put(row)))
    }

    pub fn ban(&self, ip: &str) -> u64 {
        self.put([row(ip, "banned", None)])
    }

    pub fn put_scoped(&self, row: ScopedBanRow) -> u64 {
        self.change(|rows| {
            rows.note(StoreTable::ScopedBans, &row.key());
            rows.scoped.insert(row.key(), row);
        })
    }

    pub fn delete_scoped(&self, key: &str) -> u64 {
        self.change(|rows| {
            rows.scoped.remove(key);
            rows.note(StoreTable::ScopedBans, key);
        })
    }

    pub fn delete(&self, ip: &str) -> u64 {
        self.change(|rows| {
            rows.ips.remove(ip);
            rows.note(StoreTable::Ip, ip);
        })
    }

    pub fn put_document(&self, kind: DocumentKind, name: &str, document: impl Into<String>) -> u64 {
        self.put_row(kind, named(name, document))
    }

    pub fn put_row(&self, kind: DocumentKind, row: DocumentRow) -> u64 {
        self.change(|rows| {
            rows.note(StoreTable::Documents(kind), &row.name.clone());
            rows.documents[kind].insert(row.name.clone(), row);
        })
    }

    pub fn delete_document(&self, kind: DocumentKind, name: &str) -> u64 {
        self.change(|rows| {
            rows.documents[kind].remove(name);
            rows.note(StoreTable::Documents(kind), name);
        })
    }

    /// Changes the key of a row.
    pub fn rename(&self, table: StoreTable, from: &str, to: &str) {
        self.change(|rows| {
            match table {
                StoreTable::Documents(kind) => {
                    let row = rows.documents[kind].remove(from).unwrap();
                    rows.documents[kind].insert(to.to_owned(), DocumentRow { name: to.to_owned(), ..row });
                }
                _ => {
                    let row = rows.ips.remove(from).unwrap();
                    rows.ips.insert(to.to_owned(), IpRow { ip: to.to_owned(), ..row });
                }
            }
            rows.note(table, from);
            rows.note(table, to);
            let seq = rows.seq;
            rows.moves.push((seq, (table, from.to_owned(), to.to_owned())));
        });
    }

    pub fn put_flag(&self, name: &str, value: &str) -> u64 {
        self.change(|rows| {
            rows.note(StoreTable::Flags, name);
            rows.flags.insert(name.to_owned(), flag(name, value));
        })
    }

    pub fn delete_flag(&self, name: &str) -> u64 {
        self.change(|rows| {
            rows.note(StoreTable::Flags, name);
            rows.flags.remove(name);
        })
    }

    pub fn set_countries(&self, row: Option<CountriesRow>) -> u64 {
        self.change(|rows| {
            rows.note(StoreTable::Countries, "");
            rows.countries = row;
        })
    }

    /// Makes `entries` what the source `name` has; `None`: nothing.
    pub fn set_source(&self, name: &str, entries: Option<Vec<u8>>) -> u64 {
        self.change(|rows| {
            rows.note(StoreTable::SourceSets, name);
            match entries {
                Some(entries) => {
                    let row = SourceSetRow { name: name.to_owned(), entries };
                    drop(rows.source_sets.insert(name.to_owned(), row));
                }
                None => drop(rows.source_sets.remove(name)),
            }
        })
    }

    /// A change that no trigger logs.
    pub fn change_unseen(&self, change: impl FnOnce(&mut Rows)) {
        change(&mut self.rows());
    }

    /// Restores an earlier state; the next reader has to reload.
    pub fn restore(&self, to: Rows) {
        let mut rows = self.rows();
        let newest = rows.seq.max(to.seq) + 1;
        *rows = Rows { seq: newest, restored: newest, ..to };
        drop(rows);
        self.hint.send_modify(|n| *n += 1);
    }

    /// Removes all rows of the log.
    pub fn cut_log(&self) {
        let mut rows = self.rows();
        rows.floor = rows.seq;
        rows.log.clear();
    }

    pub fn set_broken(&self, broken: bool) {
        *self.broken.lock().unwrap() = broken;
    }

    pub fn set_slow(&self, slow: bool) {
        self.slow.send_replace(slow);
    }

    pub fn set_restless(&self, restless: bool) {
        self.restless.store(restless, Ordering::Relaxed);
    }

    fn change(&self, change: impl FnOnce(&mut Rows)) -> u64 {
        let mut rows = self.rows();
        change(&mut rows);
        let seq = rows.seq;
        drop(rows);
        self.hint.send_modify(|n| *n += 1);
        seq
    }

    fn check(&self) -> Result<(), StoreError> {
        if *self.broken.lock().unwrap() { Err(StoreError::Failed("disk I/O error".into())) } else { Ok(()) }
    }
}

impl Rows {
    pub fn put(&mut self, row: IpRow) {
        self.note(StoreTable::Ip, &row.ip.clone());
        self.ips.insert(row.ip.clone(), row);
    }

    fn note(&mut self, table: StoreTable, key: &str) {
        self.seq += 1;
        self.log.push((self.seq, table, key.to_owned()));
    }
}

#[async_trait]
impl TableStore for Memory {
    async fn read_tables(&self, tables: &[StoreTable]) -> Result<StoredRows, StoreError> {
        self.check()?;
        // An error would mean that the sender is gone, which `self` has.
        let _ = self.slow.subscribe().wait_for(|slow| !slow).await;
        let rows = self.rows();
        let former = rows.former.clone();
        let mut snapshot = StoredRows { seq: rows.seq, former, ..StoredRows::default() };
        if tables.contains(&StoreTable::Ip) {
            snapshot.ips = rows.ips.values().cloned().collect();
        }
        if tables.contains(&StoreTable::ScopedBans) {
            snapshot.scoped = rows.scoped.values().cloned().collect();
        }
        if tables.contains(&StoreTable::Flags) {
            snapshot.flags = rows.flags.values().cloned().collect();
        }
        for kind in
            DocumentKind::ALL.into_iter().filter(|kind| tables.contains(&StoreTable::Documents(*kind)))
        {
            snapshot.documents[kind] = rows.documents[kind].values().cloned().collect();
        }
        if tables.contains(&StoreTable::Countries) {
            snapshot.countries = rows.countries.clone();
        }
        if tables.contains(&StoreTable::SourceSets) {
            snapshot.source_sets = rows.source_sets.values().cloned().collect();
        }
        Ok(snapshot)
    }

    async fn changes_since(&self, seq: u64) -> Result<Changes, StoreError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.check()?;
        if self.restless.load(Ordering::Relaxed) {
            tokio::task::yield_now().await;
            self.rows().note(StoreTable::Flags, "enableRouteCache");
        }
        let rows = self.rows();
        if seq < rows.restored || seq > rows.seq {
            return Ok(Changes::Reload { new_epoch: true, why: "restored" });
        }
        if seq < rows.floor {
            return Ok(Changes::Reload { new_epoch: false, why: "the log was cut" });
        }
        let keys: BTreeSet<_> =
            rows.log.iter().filter(|(at, ..)| *at > seq).map(|(_, table, key)| (*table, key)).collect();
        let of = |wanted: StoreTable| {
            keys.iter().filter(move |(table, _)| *table == wanted).map(|(_, key)| (*key).clone())
        };
        let mut documents = PerDocumentKind::default();
        for kind in DocumentKind::ALL {
            let row = |key: String| (key.clone(), rows.documents[kind].get(&key).cloned());
            documents[kind] = of(StoreTable::Documents(kind)).map(row).collect();
        }
        let changed = ChangedRows {
            ips: of(StoreTable::Ip).map(|key| (key.clone(), rows.ips.get(&key).cloned())).collect(),
            scoped: of(StoreTable::ScopedBans)
                .map(|key| (key.clone(), rows.scoped.get(&key).cloned()))
                .collect(),
            flags: of(StoreTable::Flags).map(|key| (key.clone(), rows.flags.get(&key).cloned())).collect(),
            countries: of(StoreTable::Countries).next().map(|_| rows.countries.clone()),
            source_sets: of(StoreTable::SourceSets)
                .map(|key| (key.clone(), rows.source_sets.get(&key).cloned()))
                .collect(),
            documents,
            moves: rows.moves.iter().filter(|(at, _)| *at > seq).map(|(_, moved)| moved.clone()).collect(),
        };
        Ok(Changes::Rows { seq: rows.seq, rows: Box::new(changed) })
    }

    async fn ip_rows(&self, keys: Vec<String>) -> Result<AddressRows, StoreError> {
        self.check()?;
        let rows = self.rows();
        Ok(AddressRows {
            seq: rows.seq,
            ips: keys.iter().filter_map(|key| rows.ips.get(key).cloned()).collect(),
            scoped: rows.scoped.values().filter(|row| keys.contains(&row.ip)).cloned().collect(),
        })
    }

    async fn keep_former(&self, former: FormerRows) -> Result<(), StoreError> {
        self.check()?;
        self.rows().former = former;
        Ok(())
    }

    fn watch(&self) -> watch::Receiver<u64> {
        self.hint.subscribe()
    }
}
