//! The file itself: restored, replaced, moved away, held by another service.

use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::backup::Backup;
use tidegate_policy::check::{Answered, Check};
use tidegate_policy::flags::{Mode, Modes};
use tidegate_policy::geo::Country;
use tidegate_policy::wire::event::Mismatch;

use super::support::{
    TestFollower, TestStore, foreign_connection, noticed, select_tables, sqlite3_cli, test_store,
};
use crate::store::Append;
use crate::store::sqlite::file::beside;
use crate::store::sqlite::{Options, SqliteStore};
use crate::store::tests::support::{ban, batch, block_on, keys, post_of, until};
use crate::store::{Change, Store, StoreError, TokenRow};

fn copy(from: &Path, to: &Path) {
    let source = Connection::open(from).unwrap();
    let mut target = foreign_connection(to);
    let backup = Backup::new(&source, &mut target).unwrap();
    backup.run_to_completion(1000, Duration::from_millis(20), None).unwrap();
}

fn restore_by_connection(home: &TestStore, from: &Path) -> bool {
    copy(from, &home.path);
    true
}

fn restore_by_cli(home: &TestStore, from: &Path) -> bool {
    sqlite3_cli(&home.path, &[&format!(".restore {}", from.display())])
}

#[test]
fn a_restore_is_another_world_whose_numbers_go_on() {
    for restore in [restore_by_connection, restore_by_cli] {
        block_on(async {
            let home = test_store();
            home.store.commit(ban("1.1.1.1"), &"test".into()).await.unwrap();
            let saved = home.directory.path().join("saved.db");
            copy(&home.path, &saved);
            for i in 0..10 {
                home.store.commit(ban(&format!("10.0.0.{i}")), &"test".into()).await.unwrap();
            }
            let mut follower = TestFollower::new(&home.store).await;
            let before = follower.seq;
            if !restore(&home, &saved) {
                return;
            }
            until("another epoch", async || {
                follower.catch_up(&home.store).await;
                follower.reloads.iter().any(|r| r.0).then_some(())
            })
            .await;
            follower.settles(&home).await;
            assert_eq!(follower.has.ips.keys().collect::<Vec<_>>(), ["1.1.1.1"]);
            noticed(&home.store, "earlier state").await;
            // Numbers of now were not used before.
            assert!(home.store.commit(ban("2.2.2.2"), &"test".into()).await.unwrap().seq > before);
            follower.settles(&home).await;
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_with_as_many_changes_behind_it_is_seen_too() {
    let home = test_store();
    home.store.commit(ban("1.1.1.1"), &"test".into()).await.unwrap();
    let saved = home.directory.path().join("saved.db");
    copy(&home.path, &saved);
    home.store.commit(ban("2.2.2.2"), &"test".into()).await.unwrap();
    let mut follower = TestFollower::new(&home.store).await;
    restore_by_connection(&home, &saved);
    // The log is as long as before, maybe before the first look.
    foreign_connection(&home.path).execute_batch("INSERT INTO ip_monitor (ip) VALUES ('3.3.3.3')").unwrap();
    follower.reloads(&home).await;
    assert_eq!(follower.has.ips.keys().collect::<Vec<_>>(), ["1.1.1.1", "3.3.3.3"]);
}

/// Makes a separate database at `path`, closed, with one ban in it.
fn other_database(path: &Path, ip: &str) {
    block_on(async {
        let store = SqliteStore::open(path, Options::default()).unwrap();
        store.commit(ban(ip), &"test".into()).await.unwrap();
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_file_is_opened_and_the_old_one_left_alone() {
    let home = test_store();
    for i in 0..10 {
        home.store.commit(ban(&format!("10.0.0.{i}")), &"test".into()).await.unwrap();
    }
    let mut follower = TestFollower::new(&home.store).await;
    let new = home.directory.path().join("new.db");
    tokio::task::block_in_place(|| {
        std::thread::scope(|s| s.spawn(|| other_database(&new, "7.7.7.7")).join()).unwrap();
    });
    let old = home.directory.path().join("old.db");
    std::fs::rename(&home.path, &old).unwrap();
    std::fs::rename(&new, &home.path).unwrap();
    let old_bytes = std::fs::read(&old).unwrap();

    // The first thing that happens may be a write of ours.
    let seq = home.store.commit(ban("8.8.8.8"), &"test".into()).await.unwrap().seq;
    assert!(seq > follower.seq);
    let (new_epoch, why) = follower.reloads(&home).await;
    assert!(new_epoch, "{why}");
    assert_eq!(follower.has.ips.keys().collect::<Vec<_>>(), ["7.7.7.7", "8.8.8.8"]);
    noticed(&home.store, "the database file was replaced").await;
    assert_eq!(std::fs::read(&old).unwrap(), old_bytes);
    let check: String =
        foreign_connection(&home.path).query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
    // Its changes are followed as those of the first one were.
    foreign_connection(&home.path).execute_batch("INSERT INTO ip_monitor (ip) VALUES ('9.9.9.9')").unwrap();
    let reloads = follower.reloads.len();
    follower.settles(&home).await;
    assert_eq!((follower.has.ips.len(), follower.reloads.len()), (3, reloads));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_old_log_held_goes_with_the_old_file() {
    let home = test_store();
    let (path, directory) = (home.path.clone(), home.directory);
    drop(home.store);
    // This service never writes, but the write-ahead log grows all the same.
    let store = SqliteStore::open(&path, Options::default()).unwrap();
    let home = TestStore { store, path, directory };
    foreign_connection(&home.path).execute_batch("INSERT INTO ip_monitor (ip) VALUES ('6.6.6.6')").unwrap();
    let mut follower = TestFollower::new(&home.store).await;
    let (new, old) = (home.directory.path().join("new.db"), home.directory.path().join("old.db"));
    foreign_connection(&new).execute_batch("PRAGMA user_version = 0").unwrap();
    std::fs::rename(&home.path, &old).unwrap();
    std::fs::rename(&new, &home.path).unwrap();
    follower.reloads(&home).await;
    assert!(follower.has.ips.is_empty());
    noticed(&home.store, "the last changes of the database that was replaced").await;
    std::fs::rename(beside(&home.path, ".replaced-wal"), beside(&old, "-wal")).unwrap();
    assert_eq!(select_tables(&old).ips.into_keys().collect::<Vec<_>>(), ["6.6.6.6"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_file_is_noticed_without_a_write() {
    let home = test_store();
    home.store.commit(ban("1.1.1.1"), &"test".into()).await.unwrap();
    let mut follower = TestFollower::new(&home.store).await;
    let new = home.directory.path().join("new.db");
    foreign_connection(&new).execute_batch("PRAGMA user_version = 0").unwrap();
    std::fs::rename(&new, &home.path).unwrap();
    assert!(follower.reloads(&home).await.0);
    assert!(follower.has.ips.is_empty());
    foreign_connection(&home.path).execute_batch("INSERT INTO ip_monitor (ip) VALUES ('9.9.9.9')").unwrap();
    follower.settles(&home).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_came_with_the_new_file_is_kept() {
    let home = test_store();
    home.store.commit(ban("1.1.1.1"), &"test".into()).await.unwrap();
    let mut follower = TestFollower::new(&home.store).await;
    let new = home.directory.path().join("new.db");
    let writer = foreign_connection(&new);
    writer.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())).unwrap();
    super::super::schema::ensure(&writer, super::super::schema::Upgrade::Allowed).unwrap();
    writer.execute_batch("INSERT INTO ip_monitor (ip) VALUES ('7.7.7.7')").unwrap();
    std::fs::rename(beside(&new, "-wal"), beside(&home.path, "-wal")).unwrap();
    let _ = std::fs::remove_file(beside(&home.path, "-shm"));
    std::fs::rename(&new, &home.path).unwrap();
    follower.reloads(&home).await;
    assert_eq!(follower.has.ips.keys().collect::<Vec<_>>(), ["7.7.7.7"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_file_nothing_is_written_until_it_is_back() {
    let home = test_store();
    home.store.commit(ban("1.1.1.1"), &"test".into()).await.unwrap();
    let away = home.directory.path().join("away.db");
    std::fs::rename(&home.path, &away).unwrap();
    let refused = home.store.commit(ban("2.2.2.2"), &"test".into()).await.unwrap_err();
    assert!(matches!(&refused, StoreError::Failed(why) if why.contains("tidegate.db")), "{refused:?}");
    noticed(&home.store, "nothing can be written").await;
    assert!(!home.path.exists());
    std::fs::rename(&away, &home.path).unwrap();
    home.store.commit(ban("3.3.3.3"), &"test".into()).await.unwrap();
    assert_eq!(keys(&home.store).await, ["1.1.1.1", "3.3.3.3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_database_is_refused_and_a_good_one_taken_again() {
    let home = test_store();
    home.store.commit(ban("1.1.1.1"), &"test".into()).await.unwrap();
    let mut follower = TestFollower::new(&home.store).await;
    let (good, bad) = (home.directory.path().join("good.db"), home.directory.path().join("bad.db"));
    copy(&home.path, &good);
    std::fs::write(&bad, "this is not a database, however long it may be".repeat(100)).unwrap();
    std::fs::rename(&bad, &home.path).unwrap();
    noticed(&home.store, "cannot be used").await;
    assert!(home.store.commit(ban("2.2.2.2"), &"test".into()).await.is_err());
    std::fs::rename(&good, &home.path).unwrap();
    follower.reloads(&home).await;
    assert_eq!(follower.has.ips.keys().collect::<Vec<_>>(), ["1.1.1.1"]);
}

#[test]
fn a_database_of_another_schema_version_is_refused_and_left_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tidegate.db");
    drop(SqliteStore::open(&path, Options::default()).unwrap());
    foreign_connection(&path).execute_batch("PRAGMA user_version = 2").unwrap();
    let refused = SqliteStore::open(&path, Options::default()).err().unwrap().to_string();
    assert!(refused.contains("schema version 2") && refused.contains("start the program"), "{refused}");
    let version: i64 =
        foreign_connection(&path).query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
    assert_eq!(version, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_service_is_refused_and_may_follow_the_first() {
    let home = test_store();
    home.store.commit(ban("1.1.1.1"), &"test".into()).await.unwrap();
    home.store.append(post_of(vec![batch(1, 1, 3)])).await.unwrap();
    let refused = SqliteStore::open(&home.path, Options::default()).err().unwrap().to_string();
    assert!(refused.contains("another admin service"), "{refused}");
    let (path, directory) = (home.path, home.directory);
    drop(home.store);
    let second = SqliteStore::open(&path, Options::default()).unwrap();
    assert_eq!(keys(&second).await, ["1.1.1.1"]);
    assert_eq!(second.recording().await.unwrap().stored, 3);
    assert_eq!(second.health().notices, [] as [String; 0]);
    drop((second, directory));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_added_beside_a_service_and_without_one() {
    let add = |path: &std::path::Path, hash: &str| {
        let token = TokenRow { hash: hash.to_owned(), name: hash.to_owned(), ..TokenRow::default() };
        let change = Change::AddToken { token, only_new_name: true };
        SqliteStore::commit_beside(path, &change, &"test".into()).unwrap();
    };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("new/tidegate.db");
    add(&path, "a");
    let store = SqliteStore::open(&path, Options::default()).unwrap();
    add(&path, "b");
    let hashes: Vec<_> = store.tokens().await.unwrap().into_iter().map(|token| token.hash).collect();
    assert_eq!(hashes, ["a", "b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_view_is_as_people_ask_it() {
    let home = test_store();
    let now = u64::try_from(crate::store::time_text::now_ms()).unwrap();
    let mut events = batch(0xab, 1, 2);
    events.events[0].time_ms = now;
    events.events[0].path = Some(b"/\xff".to_vec());
    events.events[0].duration_us = Some(1500);
    events.events[0].client = Some("2001:db8::1".parse().unwrap());
    events.events[0].country = Country::new(b"de");
    events.events[0].modes = Some(Modes { geo: Mode::Shadow, parallel: true, ..Modes::default() });
    events.events[0].template = Some("/repos/{owner}".to_owned());
    events.events[0].shadow_limit = Some("logins".to_owned());
    events.events[0].would_deny = Some("ip_banned".to_owned());
    events.events[0].would_deny_rule = Some("192.0.2.0/24".to_owned());
    events.events[0].answered.geo = Answered::Direct;
    let (direct, cached) = ("DE".to_owned(), "none".to_owned());
    events.events[0].mismatches =
        vec![Mismatch { check: Check::Geo, direct, cached, direct_seq: 3, cached_seq: 2 }];
    events.events[1].time_ms = u64::MAX;
    let ban_sources = [((events.source, 1), "drop,own".into())].into();
    home.store.append(Append { ban_sources, ..post_of(vec![events]) }).await.unwrap();
    let conn = foreign_connection(&home.path);
    let ask = |sql: &str| conn.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(ask("SELECT count(*) FROM traffic_events WHERE timestamp > datetime('now', '-5 minutes')"), 2);
    assert_eq!(ask("SELECT count(*) FROM traffic_events WHERE timestamp <= datetime('now', '+1 minute')"), 1);
    let row =
        "source = '000000000000000000000000000000ab' AND number = 1 AND node = 'node-1' AND host IS NULL
               AND path = '/\u{fffd}' AND duration_ms = 1.5 AND client_ip = '2001:db8::1' AND country = 'DE'
               AND template = '/repos/{owner}' AND shadow_limit = 'logins'
               AND would_deny = 'ip_banned' AND would_deny_rule = '192.0.2.0/24'
               AND ban_source = 'drop,own'
               AND modes = 'ip=direct,geo=shadow,route=direct,parallel=on,async=off'
               AND answered = 'ip=unneeded,geo=direct,route=unneeded'
               AND mismatches ->> '$[0].check' = 'geo' AND mismatches ->> '$[0].direct' = 'DE'
               AND mismatches ->> '$[0].cached' = 'none' AND mismatches ->> '$[0].cached_seq' = 2
               AND verdict = 'unseen' AND tunnel = 0 AND complete = 1 AND upstream_ms IS NULL";
    assert_eq!(ask(&format!("SELECT count(*) FROM traffic_events WHERE {row}")), 1);
    assert_eq!(ask("SELECT count(*) FROM traffic_events WHERE modes IS NULL AND mismatches IS NULL"), 1);
    let plan = |sql: &str| {
        conn.query_row(&format!("EXPLAIN QUERY PLAN {sql}"), [], |row| row.get::<_, String>(3)).unwrap()
    };
    let guide = plan("SELECT count(*) FROM traffic_events WHERE timestamp > datetime('now', '-5 minutes')");
    assert!(guide.contains("COVERING INDEX events_timestamp"), "{guide}");
    let last = plan("SELECT path FROM traffic_events ORDER BY timestamp DESC LIMIT 5");
    assert!(last.contains("INDEX events_timestamp"), "{last}");
    assert_eq!(select_tables(&home.path).ips.len(), 0);
}
