//! A database that other programs write, too, and a consumer that follows it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rusqlite::Connection;

use crate::store::sqlite::{Options, SqliteStore};
use crate::store::tests::support::until;
use crate::store::{
    Changes, CountriesRow, DocumentKind, DocumentRow, FlagRow, IpRow, PerDocumentKind, ScopedBanRow,
    SourceSetRow, Store, StoreTable,
};

/// A store, and where its file is.
pub(super) struct TestStore {
    pub(super) store: SqliteStore,
    pub(super) path: PathBuf,
    pub(super) directory: tempfile::TempDir,
}

pub(super) fn test_store() -> TestStore {
    test_store_with(Options::default())
}

pub(super) fn test_store_with(options: Options) -> TestStore {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tidegate.db");
    TestStore { store: SqliteStore::open(&path, options).unwrap(), path, directory }
}

/// A connection as another program would open it.
pub(super) fn foreign_connection(path: &Path) -> Connection {
    let conn = Connection::open(path).unwrap();
    conn.busy_timeout(Duration::from_secs(5)).unwrap();
    conn
}

/// Runs `sql`, which may contain dot commands, with the `sqlite3` on PATH. Returns whether there
/// is one.
pub(super) fn sqlite3_cli(path: &Path, sql: &[&str]) -> bool {
    let mut command = Command::new("sqlite3");
    command.arg("-bail").args(["-cmd", ".timeout 5000"]).arg(path).args(sql).stdin(Stdio::null());
    match command.output() {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => false,
        Err(e) => panic!("{e}"),
        Ok(output) => {
            assert!(output.status.success(), "{sql:?}: {}", String::from_utf8_lossy(&output.stderr));
            true
        }
    }
}

/// The tables from which gateways' tables are made, by raw key.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct SelectedTables {
    pub(super) ips: BTreeMap<String, IpRow>,
    pub(super) scoped: BTreeMap<String, ScopedBanRow>,
    pub(super) flags: BTreeMap<String, FlagRow>,
    pub(super) countries: Option<CountriesRow>,
    pub(super) source_sets: BTreeMap<String, SourceSetRow>,
    pub(super) documents: PerDocumentKind<BTreeMap<String, DocumentRow>>,
}

/// Rows as a plain SELECT has them now.
pub(super) fn select_tables(path: &Path) -> SelectedTables {
    fn all<R>(
        conn: &Connection,
        sql: &str,
        row: impl Fn(&[Option<Vec<u8>>]) -> (String, R),
    ) -> BTreeMap<String, R> {
        let mut statement = conn.prepare(sql).unwrap();
        let columns = statement.column_count();
        let mut rows = statement.query([]).unwrap();
        let mut found = BTreeMap::new();
        while let Some(raw) = rows.next().unwrap() {
            let bytes = |i| raw.get_ref(i).unwrap().as_bytes_or_null().unwrap().map(<[u8]>::to_vec);
            let (key, value) = row(&(0..columns).map(bytes).collect::<Vec<_>>());
            found.insert(key, value);
        }
        found
    }
    let text = |value: &Option<Vec<u8>>| value.as_ref().map(|b| String::from_utf8_lossy(b).into_owned());
    let conn = foreign_connection(path);
    let mut documents = PerDocumentKind::default();
    for kind in DocumentKind::ALL {
        let table = StoreTable::Documents(kind).name();
        let sql = format!("SELECT name, document, created_at, updated_at FROM {table}");
        documents[kind] = all(&conn, &sql, |c| {
            let (name, document) = (text(&c[0]).unwrap(), text(&c[1]).unwrap());
            let [created_at, updated_at] = [2, 3].map(|i| text(&c[i]));
            (name.clone(), DocumentRow { name, document, created_at, updated_at })
        });
    }
    SelectedTables {
        ips: all(
            &conn,
            "SELECT ip, status, reason, created_at, updated_at, expires_at, source FROM ip_monitor",
            |c| {
                let (ip, status) = (text(&c[0]).unwrap(), text(&c[1]).unwrap());
                let [reason, created_at, updated_at, expires_at, source] =
                    [2, 3, 4, 5, 6].map(|i| text(&c[i]));
                let row = IpRow { ip, status, reason, created_at, updated_at, expires_at, source };
                (row.ip.clone(), row)
            },
        ),
        scoped: all(
            &conn,
            "SELECT ip, applies_to, source, status, reason, created_at, updated_at, expires_at FROM scoped_bans",
            |c| {
                let [ip, applies_to, source, status] = [0, 1, 2, 3].map(|i| text(&c[i]).unwrap());
                let [reason, created_at, updated_at, expires_at] = [4, 5, 6, 7].map(|i| text(&c[i]));
                let row = ScopedBanRow {
                    ip,
                    applies_to,
                    source,
                    status,
                    reason,
                    created_at,
                    updated_at,
                    expires_at,
                };
                (row.key(), row)
            },
        ),
        flags: all(&conn, "SELECT name, value, updated_at FROM flags", |c| {
            let (name, value) = (text(&c[0]).unwrap(), text(&c[1]).unwrap());
            (name.clone(), FlagRow { name, value, updated_at: text(&c[2]) })
        }),
        countries: all(&conn, "SELECT source, imported_at, data FROM geo_countries", |c| {
            let (source, table) = (text(&c[0]).unwrap(), c[2].clone().unwrap());
            (String::new(), CountriesRow { source, imported_at: text(&c[1]), table })
        })
        .remove(""),
        source_sets: all(&conn, "SELECT name, entries FROM ban_source_sets", |c| {
            let name = text(&c[0]).unwrap();
            (name.clone(), SourceSetRow { name, entries: c[1].clone().unwrap() })
        }),
        documents,
    }
}

/// Follows the store as the feed does: a snapshot, then changes, and a snapshot after each
/// reload.
#[derive(Debug)]
pub(super) struct TestFollower {
    pub(super) seq: u64,
    pub(super) has: SelectedTables,
    /// Reloads so far, and whether each needed a new epoch.
    pub(super) reloads: Vec<(bool, &'static str)>,
}

fn put<R>(into: &mut BTreeMap<String, R>, changed: Vec<(String, Option<R>)>) {
    for (key, row) in changed {
        match row {
            Some(row) => into.insert(key, row),
            None => into.remove(&key),
        };
    }
}

impl TestFollower {
    pub(super) async fn new(store: &dyn Store) -> Self {
        let mut follower = Self { seq: 0, has: SelectedTables::default(), reloads: Vec::new() };
        follower.load(store).await;
        follower
    }

    async fn load(&mut self, store: &dyn Store) {
        let all = store.read_tables(&StoreTable::ALL).await.unwrap();
        self.seq = all.seq;
        self.has = SelectedTables {
            ips: all.ips.into_iter().map(|row| (row.ip.clone(), row)).collect(),
            scoped: all.scoped.into_iter().map(|row| (row.key(), row)).collect(),
            flags: all.flags.into_iter().map(|row| (row.name.clone(), row)).collect(),
            countries: all.countries,
            source_sets: all.source_sets.into_iter().map(|row| (row.name.clone(), row)).collect(),
            documents: PerDocumentKind::default(),
        };
        for kind in DocumentKind::ALL {
            let rows = all.documents[kind].iter().map(|row| (row.name.clone(), row.clone()));
            self.has.documents[kind] = rows.collect();
        }
    }

    pub(super) async fn catch_up(&mut self, store: &dyn Store) {
        match store.changes_since(self.seq).await.unwrap() {
            Changes::Rows { seq, mut rows } => {
                assert!(seq >= self.seq);
                self.seq = seq;
                put(&mut self.has.ips, rows.ips);
                put(&mut self.has.scoped, rows.scoped);
                put(&mut self.has.flags, rows.flags);
                put(&mut self.has.source_sets, rows.source_sets);
                for kind in DocumentKind::ALL {
                    let changed = std::mem::take(&mut rows.documents[kind]);
                    put(&mut self.has.documents[kind], changed);
                }
                if let Some(countries) = rows.countries {
                    self.has.countries = countries;
                }
            }
            Changes::Reload { new_epoch, why } => {
                self.reloads.push((new_epoch, why));
                self.load(store).await;
            }
        }
    }

    /// Follows until it has what a SELECT has, once nobody writes any more.
    pub(super) async fn settles(&mut self, home: &TestStore) {
        let what = "the follower has what a SELECT has";
        until(what, async || {
            self.catch_up(&home.store).await;
            (select_tables(&home.path) == self.has).then_some(())
        })
        .await;
    }

    /// Follows until the store demands a reload.
    pub(super) async fn reloads(&mut self, home: &TestStore) -> (bool, &'static str) {
        let before = self.reloads.len();
        until("a reload", async || {
            self.catch_up(&home.store).await;
            (self.reloads.len() > before).then_some(())
        })
        .await;
        self.settles(home).await;
        self.reloads[self.reloads.len() - 1]
    }
}

/// Waits until health reports it.
pub(super) async fn noticed(store: &dyn Store, what: &str) {
    until(what, async || store.health().notices.iter().any(|n| n.contains(what)).then_some(())).await;
}
