//! The feed over the real store, while somebody else writes into the file.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use rusqlite::Connection;
use tidegate_policy::UnixSeconds;
use tidegate_policy::address::Prefix;

use super::gateway::SimGateway;
use super::tiny;
use crate::feed::Feed;
use crate::store::sqlite::{Options, SqliteStore};
use crate::store::{Change, Store};

/// What people do with `sqlite3`; `{}` is one of a few keys.
const FOREIGN: [&str; 10] = [
    "INSERT OR REPLACE INTO ip_monitor (ip, status, updated_at) VALUES ('{}', 'banned', datetime('now'))",
    "INSERT OR REPLACE INTO ip_monitor (ip, status) VALUES ('{}', 'allowed')",
    "INSERT OR REPLACE INTO ip_monitor (ip, status, expires_at) VALUES ('{}', 'banned', '2030-01-01 00:00:00.5')",
    "DELETE FROM ip_monitor WHERE ip = '{}'",
    "UPDATE OR REPLACE ip_monitor SET ip = '{}' WHERE status = 'banned' AND ip < '2'",
    "UPDATE ip_monitor SET status = 'watched' WHERE ip = '{}'",
    "DELETE FROM ip_monitor",
    "DROP TRIGGER ip_monitor_inserted; INSERT OR REPLACE INTO ip_monitor (ip) VALUES ('{}')",
    "VACUUM",
    "BEGIN; INSERT OR IGNORE INTO ip_monitor (ip) VALUES ('192.0.2.77'), ('{}'); ROLLBACK",
];
const KEYS: [&str; 8] = [
    "9.9.9.9",
    "9.9.9.9/32",
    "::ffff:9.9.9.9",
    "10.0.0.0/8",
    "10.1.1.1/8",
    "2001:db8::/64",
    "192.0.2.1",
    "999.1.1.1",
];

#[derive(Clone, Debug)]
enum Op {
    Foreign(usize, usize),
    Ban(usize),
    Unban(usize),
    Poll,
    Restart,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        12 => (0..FOREIGN.len(), 0..KEYS.len()).prop_map(|(what, key)| Op::Foreign(what, key)),
        4 => (0..KEYS.len()).prop_map(Op::Ban),
        2 => (0..KEYS.len()).prop_map(Op::Unban),
        4 => Just(Op::Poll),
        1 => Just(Op::Restart),
    ];
    proptest::collection::vec(op, 1..25)
}

fn naive(conn: &Connection) -> BTreeMap<Prefix, Option<UnixSeconds>> {
    let mut statement =
        conn.prepare("SELECT ip, expires_at FROM ip_monitor WHERE status = 'banned'").unwrap();
    let rows =
        statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, Option<String>>(1)?)));
    let mut set: BTreeMap<Prefix, Option<UnixSeconds>> = BTreeMap::new();
    for (ip, expires) in rows.unwrap().map(Result::unwrap) {
        let Ok(prefix) = ip.parse::<Prefix>() else { continue };
        // The only end that is written here, rounded up.
        let end = expires.map(|_| 1_893_456_001);
        let slot = set.entry(prefix).or_insert(end);
        *slot = slot.and(end);
    }
    set
}

async fn ends_right(feed: &Feed, gateway: &mut SimGateway, path: &Path) {
    let conn = Connection::open(path).unwrap();
    conn.busy_timeout(Duration::from_secs(5)).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        feed.current().await;
        if let Some(bytes) = gateway.ask(feed, Duration::from_millis(20)).await {
            gateway.apply(feed, tidegate_policy::wire::sync::SyncAnswer::from_bytes(&bytes).unwrap());
        }
        let (got, want) = (gateway.banned(), naive(&conn));
        if got == want {
            return;
        }
        assert!(Instant::now() < deadline, "got {got:?}, want {want:?}, {:?}", feed.health());
    }
}

async fn run(ops: Vec<Op>) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tidegate.db");
    let options = Options { look_every: Duration::from_millis(5), ..Options::default() };
    let store = Arc::new(SqliteStore::open(&path, options).unwrap());
    let mut feed = Feed::start(store.clone(), tiny()).await.unwrap();
    let mut gateway = SimGateway::new("g");
    let foreign = Connection::open(&path).unwrap();
    foreign.busy_timeout(Duration::from_secs(5)).unwrap();
    for op in ops {
        match op {
            Op::Foreign(what, key) => {
                // A trigger that somebody dropped a moment ago is not there to be dropped.
                let _ = foreign.execute_batch(&FOREIGN[what].replace("{}", KEYS[key]));
            }
            Op::Ban(key) => {
                let ip =
                    KEYS[key].parse::<Prefix>().map_or("192.0.2.9".to_owned(), |prefix| prefix.to_string());
                store.commit(Change::Ban { ip, reason: None, expires_at: None }, "test").await.unwrap();
            }
            Op::Unban(key) => {
                store.commit(Change::Unban { keys: vec![KEYS[key].to_owned()] }, "test").await.unwrap();
            }
            // What is told meanwhile need not be all, but must fit its digest.
            Op::Poll => drop(gateway.poll(&feed).await),
            Op::Restart => feed = Feed::start(store.clone(), tiny()).await.unwrap(),
        }
    }
    ends_right(&feed, &mut gateway, &path).await;
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 100, ..ProptestConfig::with_cases(40) })]
    #[test]
    fn foreign_sql_reaches_every_gateway(ops in ops()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
        runtime.block_on(run(ops));
    }
}
