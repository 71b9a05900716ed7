//! Databases that former versions wrote.

use std::path::Path;

use super::files::restore_by_connection;
use super::support::{TestFollower, TestStore, foreign_connection};
use crate::store::sqlite::Options;
use crate::store::sqlite::SqliteStore;
use crate::store::sqlite::schema::{EVENT_COLUMNS_V2, EVENTS_OPEN, TABLES_V2};
use crate::store::tests::support::{ban, batch, block_on, post_of, put, until};
use crate::store::{Change, DocumentKind, Store, StoreTable};

/// What the first version left, with three events of one address.
fn written_by_the_first_version(path: &Path) {
    let conn = foreign_connection(path);
    conn.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())).unwrap();
    conn.execute_batch(include_str!("upgrade/v1.sql")).unwrap();
}

/// The same as the second version left it, with a geo rule.
fn written_by_the_second_version(path: &Path) {
    written_by_the_first_version(path);
    let conn = foreign_connection(path);
    conn.execute_batch(TABLES_V2).unwrap();
    for (column, kind) in EVENT_COLUMNS_V2 {
        conn.execute_batch(&format!("ALTER TABLE events ADD COLUMN {column} {kind}")).unwrap();
    }
    conn.execute_batch(EVENTS_OPEN).unwrap();
    conn.execute_batch(
        "DROP VIEW traffic_events;
         CREATE VIEW traffic_events AS SELECT number, timestamp, country, complete FROM events;
         INSERT INTO seen_addresses VALUES (0, '192.0.2.1', 3, 0, '2026-11-23 18:00:03.000');
         INSERT INTO meta (name, value) VALUES ('seen.upto', 3);
         INSERT INTO geo_rules (name, document) VALUES ('g', '{}');
         PRAGMA user_version = 2",
    )
    .unwrap();
}

#[test]
fn they_are_brought_up_to_date_in_place() {
    is_brought_up_to_date(written_by_the_first_version);
    is_brought_up_to_date(written_by_the_second_version);
}

fn is_brought_up_to_date(write: fn(&Path)) {
    block_on(async {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tidegate.db");
        write(&path);
        let store = SqliteStore::open(&path, Options::default()).unwrap();
        let home = TestStore { store, path, directory };
        let mut follower = TestFollower::new(&home.store).await;
        assert_eq!((follower.has.ips.len(), follower.has.documents.routes.len()), (1, 1));
        assert_eq!(home.store.health().notices, [] as [String; 0]);

        let counts = home.store.recording().await.unwrap();
        assert_eq!((counts.numbered, counts.stored, counts.open), (3, 3, 0));
        let seen = home.store.top_addresses(9).await.unwrap();
        assert_eq!((seen.len(), seen[0].ip.as_str(), seen[0].count), (1, "192.0.2.1", 3));
        assert_eq!(seen[0].last_seen, "2026-11-23 18:00:03.000");
        let rows = "SELECT count(*) FROM traffic_events WHERE complete AND modes IS NULL AND country IS NULL
                    AND template IS NULL AND shadow_limit IS NULL";
        let ask = |sql: &str| {
            foreign_connection(&home.path).query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap()
        };
        assert_eq!(ask(rows), 3);

        // It goes on as any other.
        let appended = home.store.append(post_of(vec![batch(7, 2, 4)])).await.unwrap();
        assert_eq!((appended.stored, appended.duplicates), (1, 2));
        home.store.commit(ban("2.2.2.2"), "test").await.unwrap();
        let flags = vec![("enableRouteCache".to_owned(), "true".to_owned())];
        home.store.commit(Change::SetFlags { flags }, "test").await.unwrap();
        let foreign = "INSERT INTO flags (name, value) VALUES ('x', 'true');
                       INSERT INTO limits (name, document) VALUES ('l', '{}')";
        foreign_connection(&home.path).execute_batch(foreign).unwrap();
        home.store.commit(put(DocumentKind::Backend, "b", "{}"), "test").await.unwrap();
        follower.settles(&home).await;
        let documents = &follower.has.documents;
        assert_eq!((documents.backends.len(), documents.limits.len()), (1, 1));
        assert_eq!((follower.has.flags.len(), follower.has.ips.len()), (2, 2));
        assert_eq!(follower.reloads, []);
    });
}

#[test]
fn an_old_database_may_take_the_place_of_another() {
    let moved = |old: &Path, home: &TestStore| std::fs::rename(old, &home.path).unwrap();
    let restored = |old: &Path, home: &TestStore| assert!(restore_by_connection(home, old));
    takes_the_place(moved);
    takes_the_place(restored);
}

fn takes_the_place(take: impl Fn(&Path, &TestStore)) {
    block_on(async {
        let home = super::support::test_store();
        let mut follower = TestFollower::new(&home.store).await;
        let old = home.directory.path().join("old.db");
        written_by_the_first_version(&old);
        // More changes than the old one has.
        for ip in ["3.3.3.1", "3.3.3.2", "3.3.3.3", "3.3.3.4"] {
            home.store.commit(ban(ip), "test").await.unwrap();
        }
        follower.settles(&home).await;
        take(&old, &home);
        until("another epoch", async || {
            // Until it is brought up to date there is no answer rather than half of one.
            home.store.read_tables(&StoreTable::ALL).await.ok()?;
            follower.catch_up(&home.store).await;
            follower.reloads.iter().any(|r| r.0).then_some(())
        })
        .await;
        follower.settles(&home).await;
        assert_eq!((follower.has.ips.len(), follower.has.documents.routes.len()), (1, 1));
        until("the counts of the other", async || {
            let seen = home.store.address_count("192.0.2.1").await.unwrap();
            seen.filter(|seen| seen.count == 3)
        })
        .await;
    });
}

#[test]
fn what_the_second_version_left_is_all_there() {
    block_on(async {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tidegate.db");
        foreign_connection(&path).execute_batch(include_str!("upgrade/v2.sql")).unwrap();
        let store = SqliteStore::open(&path, Options::default()).unwrap();
        let home = TestStore { store, path, directory };
        assert_eq!(home.store.health().notices, [] as [String; 0]);
        let has = TestFollower::new(&home.store).await.has;
        let ban: Vec<&str> = has.ips.keys().map(String::as_str).collect();
        assert_eq!(
            (ban, has.documents.routes.len(), has.documents.geo_rules.len()),
            (vec!["192.0.2.1"], 1, 1)
        );
        assert_eq!(has.flags.get("enableRouteCache").map(|flag| flag.value.as_str()), Some("true"));
        let counts = home.store.recording().await.unwrap();
        assert_eq!((counts.numbered, counts.stored, counts.open), (9, 3, 1));

        let ask = |sql: &str| -> String {
            foreign_connection(&home.path).query_row(sql, [], |row| row.get(0)).unwrap()
        };
        for (sql, expected) in [
            ("SELECT group_concat(name || ' ' || scope) FROM tokens", "a admin,g gateway"),
            (
                "SELECT group_concat(what) FROM (SELECT what FROM audit ORDER BY id)",
                "ban,route,geo-rule,flag",
            ),
            (
                "SELECT group_concat(number || ' ' || verdict || ' ' || complete, ', ') FROM
                   (SELECT * FROM traffic_events ORDER BY number)",
                "3 deny 1, 4 allow 1, 5 unseen 1, 6 deny 0",
            ),
            (
                "SELECT country || ' ' || rule || ' ' || (template IS NULL) || ' ' || (shadow_limit IS NULL)
                   FROM traffic_events WHERE number = 3",
                "DE 2001:db8::/32 1 1",
            ),
            ("SELECT first || '-' || last || ' ' || reason FROM dropped", "1-2 buffer_full"),
        ] {
            assert_eq!(ask(sql), expected, "{sql}");
        }
        // The open event ends: it is completed, not stored anew.
        let appended = home.store.append(post_of(vec![batch(7, 6, 6)])).await.unwrap();
        assert_eq!(appended.stored, 1);
        assert_eq!(ask("SELECT count(*) || '' FROM traffic_events WHERE complete"), "4");
    });
}

#[test]
fn one_of_a_later_version_is_refused_by_its_number() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tidegate.db");
    drop(SqliteStore::open(&path, Options::default()).unwrap());
    foreign_connection(&path).execute_batch("PRAGMA user_version = 99").unwrap();
    let refused = SqliteStore::open(&path, Options::default()).err().unwrap().to_string();
    assert!(
        refused.contains("schema version 99") && refused.contains("start the newer program"),
        "{refused}"
    );
    let version: i64 =
        foreign_connection(&path).query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
    assert_eq!(version, 99, "it is as it was");
}
