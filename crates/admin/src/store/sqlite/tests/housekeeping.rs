//! What housekeeping removes, and what it keeps.

use std::time::Duration;

use tidegate_policy::wire::event::{DropReason, DroppedRange, SourceReport, SourceState, VmId};

use super::support::{TestFollower, TestStore, foreign_connection, test_store, test_store_with};
use crate::store::sqlite::Options;
use crate::store::sqlite::events::{bytes_in_use, other_bytes};
use crate::store::tests::support::{ban, batch, gateway, open, post, post_of, report, until};
use crate::store::time_text::{from_ms, now_ms};
use crate::store::{Append, Changes, RecordingCounts, Store, TableStore};

const OFTEN: Duration = Duration::from_millis(20);

fn number(home: &TestStore, sql: &str) -> i64 {
    foreign_connection(&home.path).query_row(sql, [], |row| row.get(0)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn bans_go_an_hour_after_they_ended_as_ordinary_changes() {
    let home = test_store_with(Options { housekeeping_every: OFTEN, ..Options::default() });
    let ago = |minutes: i64| from_ms(now_ms() - minutes * 60_000);
    let iso = ago(61).replacen(' ', "T", 1) + "Z";
    let conn = foreign_connection(&home.path);
    for i in 0..1_200 {
        conn.execute(
            "INSERT INTO ip_monitor (ip, expires_at) VALUES (?1, ?2)",
            (format!("10.{}.{}.0", i / 250, i % 250), ago(61)),
        )
        .unwrap();
    }
    let mut follower = TestFollower::new(&home.store).await;
    let keep = [
        ("2.0.0.1", Some(ago(59))),
        ("2.0.0.2", Some(ago(-10))),
        ("2.0.0.3", None),
        ("2.0.0.4", Some("2001-01".to_owned())),
        ("2.0.0.5", Some(String::new())),
    ];
    for (ip, expires_at) in &keep {
        conn.execute("INSERT INTO ip_monitor (ip, expires_at) VALUES (?1, ?2)", (ip, expires_at)).unwrap();
    }
    let over = "INSERT INTO ip_monitor (ip, expires_at) VALUES ('3.0.0.1', ?1), ('3.0.0.2', '2001-01-01'),
                ('3.0.0.3', 999999999), ('3.0.0.4', 1700000000.5)";
    conn.execute(over, (iso,)).unwrap();
    until("only what must stay is there", async || {
        follower.catch_up(&home.store).await;
        (follower.has.ips.len() <= keep.len()).then_some(())
    })
    .await;
    assert!(keep.iter().all(|(ip, _)| follower.has.ips.contains_key(*ip)), "{follower:?}");
    assert_eq!(follower.reloads, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_events_go_and_the_counts_stay() {
    let home = test_store_with(Options {
        housekeeping_every: OFTEN,
        events_max_bytes: 1_000_000,
        ..Options::default()
    });
    for i in 0..20 {
        home.store.append(post_of(vec![batch(1, i * 2_000 + 1, (i + 1) * 2_000)])).await.unwrap();
    }
    let conn = foreign_connection(&home.path);
    let taken = || bytes_in_use(&conn).unwrap() - other_bytes(&conn).unwrap();
    until("retention", async || (taken() <= 1_000_000).then_some(())).await;
    let (oldest, newest, rows): (i64, i64, i64) = conn
        .query_row("SELECT min(number), max(number), count(*) FROM traffic_events", [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
        .unwrap();
    assert!(oldest > 1 && newest == 40_000 && rows == newest - oldest + 1, "{oldest} {newest} {rows}");
    let counts = home.store.recording().await.unwrap();
    assert_eq!((counts.stored, counts.numbered, counts.lost), (40_000, 40_000, 0));
    assert_eq!(counts.removed, 40_000 - rows as u64);
    let again = home.store.append(post_of(vec![batch(1, 1, 2_000)])).await.unwrap();
    assert_eq!((again.stored, again.duplicates), (0, 2_000));
}

/// A database with this many rows that are not events: bans, and the log of them.
fn full_of_bans(home: &TestStore, bans: u32) {
    let sql = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < ?1)
               INSERT INTO ip_monitor (ip) SELECT printf('10.%d.%d.%d', i / 65536, i / 256 % 256, i % 256) FROM n";
    foreign_connection(&home.path).execute(sql, [bans]).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_counts_only_what_it_can_remove() {
    let home = test_store_with(Options {
        housekeeping_every: OFTEN,
        events_max_bytes: 1_000_000,
        ..Options::default()
    });
    full_of_bans(&home, 20_000);
    let conn = foreign_connection(&home.path);
    assert!(other_bytes(&conn).unwrap() > 1_500_000, "{}", other_bytes(&conn).unwrap());
    home.store.append(post_of(vec![batch(1, 1, 2_000)])).await.unwrap();
    // A chore that comes after retention has looked, twice.
    for ip in ["2.0.0.1", "2.0.0.2"] {
        let sql = "INSERT INTO ip_monitor (ip, expires_at) VALUES (?1, '2001-01-01')";
        conn.execute(sql, [ip]).unwrap();
        let gone = format!("SELECT count(*) FROM ip_monitor WHERE ip = '{ip}'");
        until("a chore is done", async || (number(&home, &gone) == 0).then_some(())).await;
    }
    assert_eq!(number(&home, "SELECT count(*) FROM events"), 2_000);
    assert_eq!((counts(&home).await.removed, home.store.health().events_over_limit), (0, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_cannot_be_kept_is_said() {
    let home = test_store_with(Options {
        housekeeping_every: OFTEN,
        events_max_bytes: 100_000,
        over_limit_for: Duration::from_millis(50),
        ..Options::default()
    });
    // The newest event stays, whatever its size.
    let mut post = post_of(vec![batch(1, 1, 1)]);
    post.batches[0].events[0].path = Some(vec![b'/'; 2_000_000]);
    home.store.append(post).await.unwrap();
    let health = || Some(home.store.health());
    let said = until("it is said", async || health().filter(|health| health.events_over_limit)).await;
    assert!(said.event_bytes > 2_000_000 && said.event_limit == 100_000, "{said:?}");
    home.store.append(post_of(vec![batch(1, 2, 3)])).await.unwrap();
    until("it is over", async || health().filter(|health| !health.events_over_limit)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_write_ahead_log_stays_small_while_many_events_are_removed() {
    let home = test_store_with(Options {
        housekeeping_every: OFTEN,
        events_max_bytes: 2_000_000,
        ..Options::default()
    });
    let conn = foreign_connection(&home.path);
    // 90 MB, of which the service hears at once.
    conn.execute_batch(
        "PRAGMA wal_autocheckpoint = 0; BEGIN IMMEDIATE;
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 70000)
         INSERT INTO events (source, number, timestamp, node, path, verdict, tunnel, tables_seq)
           SELECT zeroblob(16), i, strftime('%Y-%m-%d %H:%M:%f', 1795456800 + i / 100.0, 'unixepoch'), 'node-1',
             printf('%.*c', 1100, '/'), 'allow', 0, 0 FROM n;
         COMMIT",
    )
    .unwrap();
    let wal = home.path.with_extension("db-wal");
    let size = || std::fs::metadata(&wal).map_or(0, |file| file.len());
    until("what was written is in the database", async || (size() < 8 << 20).then_some(())).await;
    let (mut largest, mut bans) = (0, Vec::new());
    let left = "SELECT count(*) FROM events WHERE id > (SELECT max(id) FROM events) - 6000";
    until("the events are removed", async || {
        let begun = std::time::Instant::now();
        home.store
            .commit(ban(&format!("10.1.{}.{}", bans.len() / 250, bans.len() % 250)), &"test".into())
            .await
            .unwrap();
        bans.push(begun.elapsed());
        largest = largest.max(size());
        (number(&home, left) < 6_000).then_some(())
    })
    .await;
    bans.sort_unstable();
    println!(
        "70,000 events of 1 KB removed: write-ahead log {:.1} MB at most; {} bans meanwhile, p50 {:?}, p99 {:?}",
        largest as f64 / 1e6,
        bans.len(),
        bans[bans.len() / 2],
        bans[bans.len() * 99 / 100]
    );
    // It is truncated at 32 MiB. Without write-backs between the steps it has 51 MB in the end.
    assert!(largest < 40 << 20, "{largest}");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_may_still_end_are_kept_and_those_that_may_not_go_with_their_age() {
    let home = test_store_with(Options {
        housekeeping_every: OFTEN,
        events_max_bytes: 1_000_000,
        ..Options::default()
    });
    home.store.open_event(gateway(1), open(1, 1)).await.unwrap();
    home.store.open_event(gateway(1), open(2, 1)).await.unwrap();
    home.store.append(report(2, 1, SourceState::Dead)).await.unwrap();
    let rows = "SELECT count(*) FROM traffic_events WHERE NOT complete";
    until("given up", async || (counts(&home).await.incomplete == 1).then_some(())).await;
    assert_eq!(number(&home, rows), 2);
    for i in 0..20 {
        home.store.append(post_of(vec![batch(3, i * 2_000 + 1, (i + 1) * 2_000)])).await.unwrap();
    }
    let conn = foreign_connection(&home.path);
    let taken = || bytes_in_use(&conn).unwrap() - other_bytes(&conn).unwrap();
    until("retention", async || (taken() <= 1_000_000).then_some(())).await;
    assert_eq!(number(&home, rows), 1);
    let now = counts(&home).await;
    assert_eq!((now.open, now.incomplete, now.pending, now.lost), (1, 1, 1, 0));
    assert_eq!((now.stored, now.numbered), (40_001, 40_002));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_keeps_its_newest_row_and_its_numbers() {
    let options = Options {
        housekeeping_every: OFTEN,
        log_keep_rows: 10,
        log_keep_for: Duration::ZERO,
        ..Options::default()
    };
    let home = test_store_with(options);
    let mut newest = 0;
    for i in 0..60 {
        newest = home.store.commit(ban(&format!("10.0.0.{i}")), &"test".into()).await.unwrap().seq;
    }
    let rows = "SELECT count(*) FROM change_log";
    until("the log is short", async || (number(&home, rows) <= 11).then_some(())).await;
    let answer = home.store.changes_since(newest - 30).await.unwrap();
    assert!(matches!(answer, Changes::Reload { new_epoch: false, .. }), "{answer:?}");
    let answer = home.store.changes_since(newest - 5).await.unwrap();
    assert!(matches!(answer, Changes::Rows { ref rows, .. } if rows.ips.len() == 5), "{answer:?}");
    assert_eq!(home.store.commit(ban("1.1.1.1"), &"test".into()).await.unwrap().seq, newest + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_keeps_what_is_young() {
    let home = test_store_with(Options { housekeeping_every: OFTEN, log_keep_rows: 1, ..Options::default() });
    for i in 0..20 {
        home.store.commit(ban(&format!("10.0.0.{i}")), &"test".into()).await.unwrap();
    }
    // Two expired bans are added and removed one after the other, so housekeeping has run.
    for (ip, expires_at) in [("2.0.0.1", from_ms(0)), ("2.0.0.2", from_ms(0))] {
        let sql = "INSERT INTO ip_monitor (ip, expires_at) VALUES (?1, ?2)";
        foreign_connection(&home.path).execute(sql, (ip, expires_at)).unwrap();
        let gone = format!("SELECT count(*) FROM ip_monitor WHERE ip = '{ip}'");
        until("a step", async || (number(&home, &gone) == 0).then_some(())).await;
    }
    assert_eq!(number(&home, "SELECT min(seq) FROM change_log"), 1);
}

/// Counts from the database, without those in memory and those of single sources.
async fn counts(home: &TestStore) -> RecordingCounts {
    RecordingCounts { alive: 0, gaps: Vec::new(), ..home.store.recording().await.unwrap() }
}

fn said(source: u128, numbered_hi: u64, state: SourceState) -> SourceReport {
    SourceReport { source: VmId(source), numbered_hi, state }
}

#[tokio::test(flavor = "multi_thread")]
async fn sources_that_ended_are_folded_and_the_counts_stay() {
    let home = test_store();
    let dropped = DroppedRange { source: VmId(1), first: 4, last: 5, reason: DropReason::BufferFull };
    let mut closing = batch(2, 1, 3);
    closing.closing = true;
    let posts = Append {
        sources: vec![said(1, 9, SourceState::Dead), said(3, 2, SourceState::Alive)],
        dropped: vec![dropped],
        batches: vec![batch(1, 1, 3), closing, batch(3, 1, 1), batch(1, 2, 3)],
        ..post()
    };
    home.store.append(posts).await.unwrap();
    home.store.note_malformed(4).await.unwrap();
    let before = counts(&home).await;
    assert_eq!((before.numbered, before.stored, before.pending, before.lost), (14, 7, 1, 4));
    assert_eq!((before.unclosed, before.duplicates, before.malformed), (1, 2, 4));
    assert_eq!(before.dropped, [("buffer_full", 2)]);
    let path = home.path.clone();
    drop(home.store);
    let options = Options {
        housekeeping_every: OFTEN,
        fold_after: Duration::ZERO,
        fold_unclosed_after: Duration::ZERO,
        ..Options::default()
    };
    let store = crate::store::sqlite::SqliteStore::open(&path, options).unwrap();
    let home = TestStore { store, path, directory: home.directory };
    until("folded", async || (number(&home, "SELECT count(*) FROM sources") == 1).then_some(())).await;
    assert_eq!(counts(&home).await, before);
    assert_eq!(number(&home, "SELECT count(*) FROM ledger"), 1);
    home.store.append(post_of(vec![batch(3, 2, 2)])).await.unwrap();
    assert_eq!(counts(&home).await.pending, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_of_a_living_source_is_lost_once_it_is_old() {
    let home = test_store();
    let alive = |hi| report(1, hi, SourceState::Alive);
    home.store.append(post_of(vec![batch(1, 5, 6)])).await.unwrap();
    home.store.append(alive(8)).await.unwrap();
    let now = counts(&home).await;
    assert_eq!((now.pending, now.lost), (6, 0));
    let older = "UPDATE source_marks SET at = at - 16 * 60 * 1000";
    foreign_connection(&home.path).execute_batch(older).unwrap();
    // What had been numbered by then is lost; what came later is not.
    home.store.append(alive(10)).await.unwrap();
    let now = counts(&home).await;
    assert_eq!((now.pending, now.lost), (4, 4));
    foreign_connection(&home.path).execute_batch(older).unwrap();
    let now = counts(&home).await;
    assert_eq!((now.pending, now.lost), (0, 8));
    home.store.append(post_of(vec![batch(1, 1, 4)])).await.unwrap();
    let now = counts(&home).await;
    assert_eq!((now.stored, now.pending, now.lost), (6, 0, 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_nobody_speaks_of_is_dead_in_the_end() {
    let home = test_store_with(Options { housekeeping_every: OFTEN, ..Options::default() });
    home.store.append(post_of(vec![batch(1, 1, 2), batch(2, 1, 2)])).await.unwrap();
    // One that still posts is only quiet.
    home.store.database.gateway_reports.forget_gateway(&gateway(1));
    let aged = "UPDATE sources SET heard_at = heard_at - 25 * 3600 * 1000 WHERE source = (SELECT min(source) FROM sources)";
    foreign_connection(&home.path).execute_batch(aged).unwrap();
    until("one of two is dead", async || (counts(&home).await.unclosed == 1).then_some(())).await;
}

/// What was heard of sources is a day and an hour old.
fn quiet_for_a_day(home: &TestStore) {
    foreign_connection(&home.path)
        .execute_batch(
            "UPDATE sources SET heard_at = heard_at - 25 * 3600 * 1000, dead_at = dead_at - 25 * 3600 * 1000",
        )
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_back_after_a_day_brings_its_figures_along() {
    let home = test_store_with(Options {
        housekeeping_every: OFTEN,
        fold_after: Duration::ZERO,
        ..Options::default()
    });
    home.store.append(post_of(vec![batch(1, 1, 1_000)])).await.unwrap();
    // Another process of its node has taken over, as far as is known.
    home.store.close_sources_of(gateway(1)).await.unwrap();
    foreign_connection(&home.path).execute_batch("UPDATE sources SET dead_at = NULL").unwrap();
    quiet_for_a_day(&home);
    until("it is taken for dead", async || (counts(&home).await.unclosed == 1).then_some(())).await;
    home.store.append(post_of(vec![batch(1, 1_001, 2_000)])).await.unwrap();
    let now = counts(&home).await;
    assert_eq!((now.numbered, now.stored, now.pending, now.lost, now.unclosed), (2_000, 2_000, 0, 0, 0));
    // What it has numbered and not yet sent is on its way, not lost.
    home.store.append(post_of(vec![batch(1, 2_011, 2_020)])).await.unwrap();
    assert_eq!((counts(&home).await.pending, counts(&home).await.lost), (10, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_an_open_event_does_not_bring_its_source_back() {
    let home = test_store_with(Options { housekeeping_every: OFTEN, ..Options::default() });
    home.store.open_event(gateway(1), open(1, 1)).await.unwrap();
    quiet_for_a_day(&home);
    until("given up", async || (counts(&home).await.incomplete == 1).then_some(())).await;
    assert_eq!((counts(&home).await.unclosed, counts(&home).await.stored), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn quiet_is_not_dead_while_the_gateway_polls() {
    let home = test_store_with(Options { housekeeping_every: OFTEN, ..Options::default() });
    home.store.append(post_of(vec![batch(1, 1, 2)])).await.unwrap();
    home.store.close_sources_of(gateway(1)).await.unwrap();
    let buried = "UPDATE sources SET dead_at = heard_at + 24 * 3600 * 1000";
    foreign_connection(&home.path).execute_batch(buried).unwrap();
    quiet_for_a_day(&home);
    home.store.note_gateways(&[gateway(1)]);
    let heard = "SELECT count(*) FROM sources WHERE dead_at IS NULL AND heard_at > ?1";
    let day_ago = (now_ms() - 3_600_000).to_string();
    let heard = heard.replace("?1", &day_ago);
    until("it is there again", async || (number(&home, &heard) == 1).then_some(())).await;
    assert_eq!(counts(&home).await.unclosed, 0);
    // One that was said to be dead stays so.
    home.store.append(report(1, 2, SourceState::Dead)).await.unwrap();
    quiet_for_a_day(&home);
    let chore = "INSERT INTO ip_monitor (ip, expires_at) VALUES ('2.0.0.1', '2001-01-01')";
    foreign_connection(&home.path).execute_batch(chore).unwrap();
    until("a chore is done", async || (number(&home, "SELECT count(*) FROM ip_monitor") == 0).then_some(()))
        .await;
    assert_eq!(counts(&home).await.unclosed, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn recorders_figures_are_the_last_that_they_said() {
    let home = test_store();
    let said = |process, waiting_bytes, oldest_ms, retries| Append {
        gateway: crate::store::tests::support::gateway(process),
        recorder: crate::store::RecorderFigures { waiting_bytes, oldest_ms, retries },
        ..post()
    };
    home.store.append(said(1, 900, 900, 1)).await.unwrap();
    home.store.append(said(1, 10, 20, 3)).await.unwrap();
    home.store.append(said(2, 5, 50, 2)).await.unwrap();
    let recorder = home.store.recording().await.unwrap().recorder;
    assert_eq!((recorder.waiting_bytes, recorder.oldest_ms, recorder.retries), (15, 50, 5));
    home.store.close_sources_of(crate::store::tests::support::gateway(2)).await.unwrap();
    let recorder = home.store.recording().await.unwrap().recorder;
    assert_eq!((recorder.waiting_bytes, recorder.oldest_ms, recorder.retries), (10, 20, 5));
}
