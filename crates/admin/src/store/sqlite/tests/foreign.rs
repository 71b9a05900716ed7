//! SQL of other programs: it is seen, reported where it must be, and the tables are right
//! afterwards.

use proptest::prelude::*;
use tidegate_policy::flags::Modes;

use super::support::{
    TestFollower, TestStore, foreign_connection, noticed, select_tables, sqlite3_cli, test_store,
};
use crate::store::tests::support::{
    ban, batch_of, block_on, checked_event, keys, post_of, row, unban, until,
};
use crate::store::{Change, Store, TableStore};

/// How another program runs SQL.
type Program = fn(&TestStore, &str) -> bool;

const PROGRAMS: [(&str, Program); 2] = [
    ("a connection", |home, sql| {
        foreign_connection(&home.path).execute_batch(sql).unwrap();
        true
    }),
    ("sqlite3", |home, sql| sqlite3_cli(&home.path, &[sql])),
];

/// What people do with SQL: the rows before, and the statements.
const STATEMENTS: [(&str, &str); 13] = [
    ("", "INSERT INTO ip_monitor (ip, status, updated_at) VALUES ('5.6.7.8','banned',datetime('now'))"),
    (
        "INSERT INTO ip_monitor (ip, reason) VALUES ('1.1.1.1', 'old'), ('2.2.2.2', 'old')",
        "REPLACE INTO ip_monitor (ip, reason) VALUES ('1.1.1.1', 'new'), ('3.3.3.3', 'new')",
    ),
    (FLAGS_AND_RULES, "DELETE FROM flags; DELETE FROM geo_rules WHERE name = 'y'"),
    (
        FLAGS_AND_RULES,
        "INSERT OR REPLACE INTO flags VALUES ('a', 'false', datetime('now'));
         INSERT OR REPLACE INTO flags (name) VALUES ('b');
         UPDATE flags SET name = 'd', value = '\"shadow\"' WHERE name = 'c';
         UPDATE OR REPLACE geo_rules SET name = 'y' WHERE name = 'x';
         REPLACE INTO geo_rules (name, document) VALUES ('z', '{}')",
    ),
    (COUNTRIES, "REPLACE INTO geo_countries (id, source, data) VALUES (1, 'new', x'02')"),
    (COUNTRIES, "UPDATE geo_countries SET data = x'0303'"),
    (COUNTRIES, "DELETE FROM geo_countries"),
    ("", COUNTRIES),
    (
        "INSERT INTO ip_monitor (ip) VALUES ('1.1.1.1'), ('2.2.2.2');
         INSERT INTO routes (name, document) VALUES ('a', '1'), ('b', '2')",
        "UPDATE ip_monitor SET ip = '9.9.9.9' WHERE ip = '1.1.1.1';
         UPDATE OR REPLACE routes SET name = 'b' WHERE name = 'a'",
    ),
    (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)
         INSERT INTO ip_monitor (ip) SELECT '10.0.' || (i / 256) || '.' || (i % 256) FROM n;
         INSERT INTO routes (name, document) VALUES ('a', '1')",
        "DELETE FROM ip_monitor; DELETE FROM routes",
    ),
    (
        "",
        "BEGIN; INSERT INTO ip_monitor (ip) VALUES ('1.1.1.1'); ROLLBACK;
         INSERT INTO ip_monitor (ip) VALUES ('2.2.2.2')",
    ),
    (
        "INSERT INTO scoped_bans (ip, applies_to) VALUES ('1.1.1.1', '{}'), ('1.1.1.1', 'a'), ('2.2.2.2', 'a b')",
        "UPDATE OR REPLACE scoped_bans SET applies_to = '{}' WHERE applies_to = 'a';
         UPDATE scoped_bans SET source = 's', status = 'watched' WHERE ip = '2.2.2.2';
         REPLACE INTO scoped_bans (ip, applies_to, reason) VALUES ('1.1.1.1', '{}', 'x'), ('', '', 'y');
         INSERT INTO scoped_bans (ip, applies_to, source) VALUES ('1.1.1.1', '{}', 't'); DELETE FROM scoped_bans WHERE source = 't'",
    ),
    // Invalid rows are passed on as they are.
    (
        "",
        "INSERT INTO ip_monitor (ip, status, reason, expires_at) VALUES
           ('not an address', 'banned', NULL, NULL), ('', 'x', NULL, NULL),
           (CAST(x'ff31' AS TEXT), 'banned', CAST(x'fe' AS TEXT), 'tomorrow'),
           ('1.2.3.4/99', 7, x'00ff', 17), (12, 'banned', NULL, NULL);
         INSERT INTO routes (name, document) VALUES ('a', x'80'), ('b', '{')",
    ),
];
const FLAGS_AND_RULES: &str =
    "INSERT INTO flags (name, value) VALUES ('a', 'true'), ('b', 'true'), ('c', 'true');
    INSERT INTO geo_rules (name, document) VALUES ('x', '1'), ('y', '2')";
const COUNTRIES: &str = "INSERT INTO geo_countries (source, data) VALUES ('old', x'01')";

#[tokio::test(flavor = "multi_thread")]
async fn what_people_write_is_heard_of_and_read_as_a_select_has_it() {
    for (program, run) in PROGRAMS {
        for (before, sql) in STATEMENTS {
            let home = test_store();
            foreign_connection(&home.path).execute_batch(before).unwrap();
            let mut follower = TestFollower::new(&home.store).await;
            let mut watch = home.store.watch();
            watch.mark_unchanged();
            if !run(&home, sql) {
                eprintln!("no {program} here");
                return;
            }
            watch.changed().await.unwrap();
            follower.settles(&home).await;
            assert_eq!(follower.reloads, [], "{program}: {sql}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn values_that_make_no_sense_are_read_as_text() {
    let home = test_store();
    foreign_connection(&home.path).execute_batch(STATEMENTS[12].1).unwrap();
    let has = TestFollower::new(&home.store).await.has;
    let keys: Vec<&str> = has.ips.keys().map(String::as_str).collect();
    assert_eq!(keys, ["", "1.2.3.4/99", "12", "not an address", "\u{fffd}1"]);
    let row = &has.ips["1.2.3.4/99"];
    assert_eq!((row.status.as_str(), row.expires_at.as_deref()), ("7", Some("17")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_trigger_of_flags_is_put_back_and_what_it_missed_is_read() {
    let home = test_store();
    let mut follower = TestFollower::new(&home.store).await;
    foreign_connection(&home.path)
        .execute_batch("DROP TRIGGER flags_inserted; INSERT INTO flags (name, value) VALUES ('a', 'true')")
        .unwrap();
    noticed(&home.store, "put back: trigger flags_inserted").await;
    follower.settles(&home).await;
    assert_eq!(follower.has.flags["a"].value, "true");
    foreign_connection(&home.path).execute_batch("DROP TABLE flags; DROP TABLE geo_countries").unwrap();
    noticed(&home.store, "put back: flags, geo_countries").await;
    follower.settles(&home).await;
    assert!(follower.has.flags.is_empty());
}

#[test]
fn keys_that_no_trigger_could_tell_are_refused() {
    let home = test_store();
    for sql in [
        "INSERT INTO ip_monitor (ip) VALUES (NULL)",
        "INSERT INTO ip_monitor (ip) VALUES (x'31')",
        "INSERT INTO routes (name, document) VALUES (NULL, '1')",
        "REPLACE INTO ip_monitor (rowid, ip) VALUES (1, '1.1.1.1')",
        "INSERT INTO flags (name) VALUES (NULL)",
        "REPLACE INTO flags (rowid, name) VALUES (1, 'a')",
        "INSERT INTO geo_countries (id, data) VALUES (2, x'00')",
    ] {
        assert!(foreign_connection(&home.path).execute_batch(sql).is_err(), "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ban_replaces_every_spelling_and_keeps_the_oldest_date() {
    let home = test_store();
    let insert = "INSERT OR REPLACE INTO ip_monitor (ip, status, created_at) VALUES
         ('9.9.9.9/32', 'allowed', '2021-01-01 00:00:00'), ('::ffff:9.9.9.9', 'banned', '2020-01-01 00:00:00'),
         ('::ffff:909:909/128', 'banned', '2022-01-01 00:00:00'), ('9.9.9.9/31', 'banned', NULL)";
    foreign_connection(&home.path).execute_batch(insert).unwrap();
    let done = home.store.commit(ban("9.9.9.9"), &"test".into()).await.unwrap();
    assert_eq!(done.rows, 4);
    assert_eq!(keys(&home.store).await, ["9.9.9.9", "9.9.9.9/31"]);
    let row = row(&home.store, "9.9.9.9").await.unwrap();
    assert_eq!(row.created_at.as_deref(), Some("2020-01-01 00:00:00"));

    // A spelling that comes back later is found again.
    foreign_connection(&home.path).execute_batch(insert).unwrap();
    home.store.commit(ban("9.9.9.8/31"), &"test".into()).await.unwrap();
    home.store.commit(ban("9.9.9.9"), &"test".into()).await.unwrap();
    assert_eq!(keys(&home.store).await, ["9.9.9.8/31", "9.9.9.9"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unban_removes_every_spelling_that_says_banned() {
    let home = test_store();
    home.store.commit(ban("9.9.9.9"), &"test".into()).await.unwrap();
    foreign_connection(&home.path)
        .execute_batch(
            "INSERT INTO ip_monitor (ip, status) VALUES ('9.9.9.9/32', 'allowed'), ('::ffff:9.9.9.9', 'Banned')",
        )
        .unwrap();
    let done = home.store.commit(unban("9.9.9.9"), &"test".into()).await.unwrap();
    assert_eq!((done.rows, keys(&home.store).await), (2, vec!["9.9.9.9/32".to_owned()]));
    let raw = Change::Unban { keys: vec!["not an address".to_owned()] };
    assert_eq!(home.store.commit(raw, &"test".into()).await.unwrap().rows, 0);
}

#[test]
fn a_dropped_trigger_is_put_back_and_what_it_missed_is_read() {
    for (program, run) in PROGRAMS {
        block_on(async {
            let home = test_store();
            let mut follower = TestFollower::new(&home.store).await;
            let sql = "DROP TRIGGER ip_monitor_inserted; INSERT INTO ip_monitor (ip) VALUES ('1.1.1.1')";
            if !run(&home, sql) {
                return;
            }
            noticed(&home.store, "put back: trigger ip_monitor_inserted").await;
            follower.settles(&home).await;
            assert!(!follower.reloads.is_empty() && follower.reloads.iter().all(|r| !r.0), "{program}");
            assert_eq!(follower.has.ips.keys().collect::<Vec<_>>(), ["1.1.1.1"]);
            let reloads = follower.reloads.len();
            run(&home, "INSERT INTO ip_monitor (ip) VALUES ('2.2.2.2')");
            follower.settles(&home).await;
            assert_eq!(follower.reloads.len(), reloads, "{program}");
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_dropped_and_left_between_two_commits_of_ours_is_seen_by_the_second() {
    let home = test_store();
    let mut follower = TestFollower::new(&home.store).await;
    for i in 0..20 {
        foreign_connection(&home.path)
            .execute_batch(&format!(
                "DROP TRIGGER ip_monitor_updated;
                 INSERT INTO ip_monitor (ip, reason) VALUES ('1.1.1.1', '{i}')
                 ON CONFLICT (ip) DO UPDATE SET reason = excluded.reason"
            ))
            .unwrap();
        let seq = home.store.commit(ban("2.2.2.2"), &"test".into()).await.unwrap().seq;
        // No look in between is needed: the commit itself has repaired it.
        until("caught up", async || {
            follower.catch_up(&home.store).await;
            (follower.seq >= seq).then_some(())
        })
        .await;
        assert_eq!(follower.has.ips["1.1.1.1"].reason, Some(i.to_string()));
        follower.settles(&home).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_counts_of_addresses_are_counted_again_from_the_events() {
    let home = test_store();
    let events = (1..=3).map(|n| checked_event(n, "192.0.2.1", Modes::default()));
    home.store.append(post_of(vec![batch_of(7, events.collect())])).await.unwrap();
    foreign_connection(&home.path).execute_batch("DROP TABLE seen_addresses").unwrap();
    noticed(&home.store, "put back: seen_addresses").await;
    let seen = home.store.address_count("192.0.2.1").await.unwrap().unwrap();
    assert_eq!((seen.count, seen.last_seen.as_str()), (3, "2026-11-23 18:00:01.003"));
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_tables_come_back_empty() {
    let home = test_store();
    home.store.commit(ban("1.1.1.1"), &"test".into()).await.unwrap();
    let mut follower = TestFollower::new(&home.store).await;
    foreign_connection(&home.path)
        .execute_batch("BEGIN; DROP TABLE ip_monitor; DROP TABLE change_log; COMMIT")
        .unwrap();
    noticed(&home.store, "put back: ip_monitor, change_log").await;
    follower.settles(&home).await;
    assert!(follower.has.ips.is_empty());
    home.store.commit(ban("2.2.2.2"), &"test".into()).await.unwrap();
    follower.settles(&home).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emptied_log_is_another_world() {
    let home = test_store();
    home.store.commit(ban("1.1.1.1"), &"test".into()).await.unwrap();
    let mut follower = TestFollower::new(&home.store).await;
    foreign_connection(&home.path).execute_batch("DELETE FROM change_log").unwrap();
    assert!(follower.reloads(&home).await.0);
    let before = follower.seq;
    assert!(home.store.commit(ban("2.2.2.2"), &"test".into()).await.unwrap().seq > before);
}

#[test]
fn vacuum() {
    for (_, run) in PROGRAMS {
        block_on(async {
            let home = test_store();
            home.store.commit(ban("1.1.1.1"), &"test".into()).await.unwrap();
            let mut follower = TestFollower::new(&home.store).await;
            if !run(&home, "VACUUM") {
                return;
            }
            assert!(!follower.reloads(&home).await.0);
            home.store.commit(ban("2.2.2.2"), &"test".into()).await.unwrap();
            follower.settles(&home).await;
            assert_eq!(follower.has.ips.keys().collect::<Vec<_>>(), ["1.1.1.1", "2.2.2.2"]);
        });
    }
}

/// One statement of another program, over a small set of keys.
fn statement() -> impl Strategy<Value = String> {
    let key = prop::sample::select(vec!["1.1.1.1", "1.1.1.1/32", "::ffff:1.1.1.1", "2.2.2.2", "x"]);
    let status = prop::sample::select(vec!["banned", "allowed"]);
    (0..13, key.clone(), key, status).prop_map(|(kind, a, b, status)| match kind {
        0 => format!("INSERT OR REPLACE INTO ip_monitor (ip, status) VALUES ('{a}', '{status}')"),
        1 => format!("UPDATE OR REPLACE ip_monitor SET ip = '{a}' WHERE ip = '{b}'"),
        2 => format!("DELETE FROM ip_monitor WHERE ip = '{a}'"),
        3 => format!("UPDATE ip_monitor SET status = '{status}'"),
        4 => format!("UPDATE OR REPLACE routes SET name = '{a}' WHERE name = '{b}'"),
        5 => format!("REPLACE INTO routes (name, document) VALUES ('{a}', '{status}')"),
        7 => format!("REPLACE INTO flags (name, value) VALUES ('{a}', '{status}')"),
        8 => format!("UPDATE OR REPLACE geo_rules SET name = '{a}', document = name WHERE name <> '{b}'"),
        9 => format!("REPLACE INTO geo_rules (name, document) VALUES ('{a}', '{status}')"),
        10 => format!("REPLACE INTO geo_countries (id, source, data) VALUES (1, '{a}', x'00')"),
        11 => "DELETE FROM geo_countries".to_owned(),
        12 => format!("DELETE FROM flags WHERE name = '{a}'"),
        _ => format!("INSERT OR IGNORE INTO ip_monitor (ip) VALUES ('{a}')"),
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn whoever_writes_the_follower_has_what_a_select_has(
        steps in prop::collection::vec((statement(), any::<bool>(), any::<bool>()), 1..25)
    ) {
        block_on(async {
            let home = test_store();
            let mut follower = TestFollower::new(&home.store).await;
            for (sql, own_ban, look) in steps {
                foreign_connection(&home.path).execute_batch(&sql).unwrap();
                if own_ban {
                    home.store.commit(ban("1.1.1.1"), &"test".into()).await.unwrap();
                    let spelled: Vec<String> = select_tables(&home.path).ips.into_keys()
                        .filter(|key| key.contains("1.1.1.1")).collect();
                    assert_eq!(spelled, ["1.1.1.1"]);
                }
                if look {
                    // At a quiet moment one look is enough: nothing depends on timing.
                    follower.catch_up(&home.store).await;
                    assert_eq!(follower.has, select_tables(&home.path));
                }
            }
            follower.settles(&home).await;
            assert_eq!(follower.reloads, []);
        });
    }
}
