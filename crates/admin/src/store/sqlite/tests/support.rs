//! A database that others write, too, and a consumer that follows it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rusqlite::Connection;

use crate::store::sqlite::{Options, SqliteStore};
use crate::store::tests::support::until;
use crate::store::{Changes, IpRow, RouteRow, Store, Table};

/// A store, and where its file is.
pub(super) struct Home {
    pub(super) store: SqliteStore,
    pub(super) path: PathBuf,
    pub(super) directory: tempfile::TempDir,
}

pub(super) fn home() -> Home {
    home_with(Options::default())
}

pub(super) fn home_with(options: Options) -> Home {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tidegate.db");
    Home { store: SqliteStore::open(&path, options).unwrap(), path, directory }
}

/// A connection as another program would have it.
pub(super) fn stranger(path: &Path) -> Connection {
    let conn = Connection::open(path).unwrap();
    conn.busy_timeout(Duration::from_secs(5)).unwrap();
    conn
}

/// Runs `sql`, in which dot commands may be, with the `sqlite3` on PATH. Answers
/// whether there is one.
pub(super) fn cli(path: &Path, sql: &[&str]) -> bool {
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

/// Rows as a plain SELECT has them now.
pub(super) fn selected(path: &Path) -> (BTreeMap<String, IpRow>, BTreeMap<String, RouteRow>) {
    let conn = stranger(path);
    let text = |row: &rusqlite::Row<'_>, i| {
        row.get_ref(i).unwrap().as_bytes_or_null().unwrap().map(|b| String::from_utf8_lossy(b).into_owned())
    };
    let mut ips = BTreeMap::new();
    let mut statement = conn
        .prepare("SELECT ip, status, reason, created_at, updated_at, expires_at FROM ip_monitor")
        .unwrap();
    let mut rows = statement.query([]).unwrap();
    while let Some(row) = rows.next().unwrap() {
        let ip = text(row, 0).unwrap();
        let status = text(row, 1).unwrap();
        let [reason, created_at, updated_at, expires_at] = [2, 3, 4, 5].map(|i| text(row, i));
        ips.insert(ip.clone(), IpRow { ip, status, reason, created_at, updated_at, expires_at });
    }
    let mut routes = BTreeMap::new();
    let mut statement = conn.prepare("SELECT name, document, created_at, updated_at FROM routes").unwrap();
    let mut rows = statement.query([]).unwrap();
    while let Some(row) = rows.next().unwrap() {
        let name = text(row, 0).unwrap();
        let document = text(row, 1).unwrap();
        let [created_at, updated_at] = [2, 3].map(|i| text(row, i));
        routes.insert(name.clone(), RouteRow { name, document, created_at, updated_at });
    }
    (ips, routes)
}

/// What the feed does: a snapshot, then changes, and a snapshot whenever it is told.
#[derive(Debug)]
pub(super) struct Follower {
    pub(super) seq: u64,
    pub(super) ips: BTreeMap<String, IpRow>,
    pub(super) routes: BTreeMap<String, RouteRow>,
    /// Reloads so far, and whether each needed a new epoch.
    pub(super) reloads: Vec<(bool, &'static str)>,
}

impl Follower {
    pub(super) async fn new(store: &dyn Store) -> Self {
        let mut follower =
            Self { seq: 0, ips: BTreeMap::new(), routes: BTreeMap::new(), reloads: Vec::new() };
        follower.load(store).await;
        follower
    }

    async fn load(&mut self, store: &dyn Store) {
        let all = store.snapshot(&[Table::Ip, Table::Routes]).await.unwrap();
        self.seq = all.seq;
        self.ips = all.ips.into_iter().map(|row| (row.ip.clone(), row)).collect();
        self.routes = all.routes.into_iter().map(|row| (row.name.clone(), row)).collect();
    }

    pub(super) async fn catch_up(&mut self, store: &dyn Store) {
        match store.changes_since(self.seq).await.unwrap() {
            Changes::Rows { seq, ips, routes } => {
                assert!(seq >= self.seq);
                self.seq = seq;
                for (key, row) in ips {
                    match row {
                        Some(row) => self.ips.insert(key, row),
                        None => self.ips.remove(&key),
                    };
                }
                for (key, row) in routes {
                    match row {
                        Some(row) => self.routes.insert(key, row),
                        None => self.routes.remove(&key),
                    };
                }
            }
            Changes::Reload { new_epoch, why } => {
                self.reloads.push((new_epoch, why));
                self.load(store).await;
            }
        }
    }

    /// Follows until it has what a SELECT has, once nobody writes any more.
    pub(super) async fn settles(&mut self, home: &Home) {
        let what = "the follower has what a SELECT has";
        until(what, async || {
            self.catch_up(&home.store).await;
            let (ips, routes) = selected(&home.path);
            (ips == self.ips && routes == self.routes).then_some(())
        })
        .await;
    }

    /// Follows until it was told to reload.
    pub(super) async fn reloads(&mut self, home: &Home) -> (bool, &'static str) {
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

/// Waits until health tells of it.
pub(super) async fn noticed(store: &dyn Store, what: &str) {
    until(what, async || store.health().notices.iter().any(|n| n.contains(what)).then_some(())).await;
}
