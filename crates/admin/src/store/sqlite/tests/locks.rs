//! Locks: another program's transaction left open, and ours in the way of other programs.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use tidegate_policy::wire::event::{DropReason, DroppedRange, VmId};
use tokio::sync::mpsc;

use super::support::{foreign_connection, test_store, test_store_with};
use crate::store::sqlite::Options;
use crate::store::tests::support::{ban, batch, keys, post, post_of, until};
use crate::store::{
    Append, Author, DocumentKind, DocumentRow, FormerRow, FormerRows, Store, StoreError, StoreTable,
    TableStore,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_left_open_is_waited_for_then_said() {
    let home = test_store_with(Options { busy_for: Duration::from_millis(300), ..Options::default() });
    let held = foreign_connection(&home.path);
    held.execute_batch("BEGIN IMMEDIATE; INSERT INTO ip_monitor (ip) VALUES ('1.1.1.1')").unwrap();
    let author = "test".into();
    let (a, b, c) = tokio::join!(
        home.store.commit(ban("2.2.2.2"), &author),
        home.store.append(post_of(vec![batch(1, 1, 3)])),
        home.store.note_malformed(1)
    );
    assert_eq!(
        (a.err(), b.err(), c.err()),
        (Some(StoreError::Busy), Some(StoreError::Busy), Some(StoreError::Busy))
    );
    // Reads go on.
    assert_eq!(keys(&home.store).await, [] as [String; 0]);
    // Health reports it although nobody writes.
    until("health names the lock", async || home.store.health().locked_for).await;
    held.execute_batch("COMMIT").unwrap();
    until("health is well again", async || home.store.health().locked_for.is_none().then_some(())).await;
    home.store.commit(ban("2.2.2.2"), &"test".into()).await.unwrap();
    assert_eq!(keys(&home.store).await, ["1.1.1.1", "2.2.2.2"]);
    let counts = home.store.recording().await.unwrap();
    assert_eq!((counts.numbered, counts.stored, counts.malformed), (0, 0, 0));
}

/// Another program takes the write lock now, and gives it back a while after this is first awaited.
fn locked_for_a_while(path: &Path) -> impl Future<Output = ()> {
    let held = foreign_connection(path);
    held.execute_batch("BEGIN IMMEDIATE").unwrap();
    async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        held.execute_batch("ROLLBACK").unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_foreign_transaction_only_delays() {
    let home = test_store();
    let released = locked_for_a_while(&home.path);
    let author = "test".into();
    let (done, ()) = tokio::join!(home.store.commit(ban("1.1.1.1"), &author), released);
    done.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_row_said_is_kept_though_its_writer_goes_on_writing() {
    let home = test_store();
    let row = DocumentRow { name: "r".into(), document: "{}".into(), created_at: None, updated_at: None };
    let key = (StoreTable::Documents(DocumentKind::Route), "r".to_owned());
    let rows = FormerRows::from([(key, FormerRow::Document(row))]);
    let released = locked_for_a_while(&home.path);
    let (done, ()) = tokio::join!(home.store.keep_former(rows.clone()), released);
    done.unwrap();
    assert_eq!(home.store.read_tables(&[]).await.unwrap().former, rows);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ban_goes_before_a_heap_of_events() {
    let home = test_store();
    let lane = async |lane: u128| {
        let mut stored = 0;
        for source in lane * 2..(lane + 1) * 2 {
            stored += home.store.append(post_of(vec![batch(source, 1, 4_000)])).await.unwrap().stored;
        }
        stored
    };
    let posts = async {
        let (a, b, c, d) = tokio::join!(lane(0), lane(1), lane(2), lane(3));
        a + b + c + d
    };
    let bans = async {
        for i in 0..20 {
            home.store.commit(ban(&format!("10.0.0.{i}")), &"test".into()).await.unwrap();
        }
    };
    let (stored, ()) = tokio::join!(posts, bans);
    assert_eq!(stored, 32_000);
    let counts = home.store.recording().await.unwrap();
    assert_eq!((counts.stored, counts.numbered, counts.duplicates), (32_000, 32_000, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ban_goes_before_a_heap_of_ranges() {
    let home = test_store();
    let range = |at: u64| DroppedRange {
        source: VmId(1),
        first: at * 2 + 1,
        last: at * 2 + 1,
        reason: DropReason::Expired,
    };
    let heap = Append { dropped: (0..2_000).map(range).collect(), ..post() };
    let posted = home.store.append(heap);
    let bans = async {
        let mut took = Vec::new();
        for i in 0..50 {
            let begun = std::time::Instant::now();
            home.store.commit(ban(&format!("10.0.0.{i}")), &"test".into()).await.unwrap();
            took.push(begun.elapsed());
        }
        took
    };
    let (posted, mut took) = tokio::join!(posted, bans);
    posted.unwrap();
    took.sort_unstable();
    println!("50 bans beside a post of 2,000 dropped ranges: p50 {:?}, longest {:?}", took[25], took[49]);
    assert_eq!(home.store.recording().await.unwrap().dropped, [("expired", 2_000)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_that_changes_nothing_writes_nothing() {
    let home = test_store();
    home.store.append(post_of(vec![batch(1, 1, 3)])).await.unwrap();
    let conn = foreign_connection(&home.path);
    let version = || conn.query_row("PRAGMA data_version", [], |row| row.get::<_, i64>(0)).unwrap();
    let before = version();
    home.store.append(post()).await.unwrap();
    assert_eq!(version(), before);
    home.store.append(post_of(vec![batch(1, 4, 4)])).await.unwrap();
    assert_ne!(version(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_when_the_store_ends_is_told() {
    let home = test_store();
    let held = foreign_connection(&home.path);
    held.execute_batch("BEGIN IMMEDIATE").unwrap();
    let author = "test".into();
    let waiting = home.store.commit(ban("1.1.1.1"), &author);
    let stop = async {
        tokio::task::yield_now().await;
        home.store.database.stop();
    };
    let (answer, ()) = tokio::join!(waiting, stop);
    assert!(matches!(answer, Err(StoreError::Closed | StoreError::Busy)), "{answer:?}");
    assert_eq!(home.store.commit(ban("1.1.1.1"), &"test".into()).await, Err(StoreError::Closed));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_of_a_restore_only_reads() {
    let home = test_store_with(Options { busy_for: Duration::from_millis(100), ..Options::default() });
    let by = "test".into();
    let mut backup = Vec::new();
    home.store.backup(&by).await.unwrap().read_to_end(&mut backup).unwrap();
    home.store.commit(ban("2.2.2.2"), &by).await.unwrap();
    let restore = async |dry_run| {
        let (pieces, received) = mpsc::channel(2);
        pieces.send(Some(backup.clone().into())).await.unwrap();
        pieces.send(None).await.unwrap();
        home.store.restore(received, &by, dry_run).await
    };
    let held = foreign_connection(&home.path);
    held.execute_batch("BEGIN IMMEDIATE").unwrap();
    let dry = restore(true).await.unwrap();
    assert_eq!((dry.tables[0].table, dry.tables[0].removed), ("ip_monitor", 1));
    assert_eq!(restore(false).await.err(), Some(StoreError::Busy));
    held.execute_batch("ROLLBACK").unwrap();
    assert_eq!(keys(&home.store).await, ["2.2.2.2"]);
    assert_eq!(restore(false).await.unwrap().tables, dry.tables);
    assert_eq!(keys(&home.store).await, [] as [String; 0]);
    // The writer's connection sees no backup any more, and goes on.
    home.store.commit(ban("1.1.1.1"), &by).await.unwrap();
    assert_eq!(restore(false).await.unwrap().tables, dry.tables);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_writes_during_a_restore_waits_and_is_not_refused() {
    // Far less than the restore takes.
    let home = test_store_with(Options { busy_for: Duration::from_millis(20), ..Options::default() });
    foreign_connection(&home.path)
        .execute_batch(
            "WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 29999)
             INSERT INTO ip_monitor (ip) SELECT '10.1.' || (i / 250) || '.' || (i % 250) FROM n",
        )
        .unwrap();
    let by: Author = "test".into();
    let mut backup = Vec::new();
    home.store.backup(&by).await.unwrap().read_to_end(&mut backup).unwrap();
    foreign_connection(&home.path).execute_batch("DELETE FROM ip_monitor").unwrap();
    let (pieces, received) = mpsc::channel(2);
    pieces.send(Some(backup.into())).await.unwrap();
    pieces.send(None).await.unwrap();
    let ban_often = async {
        loop {
            home.store.commit(ban("9.9.9.9"), &by).await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    let restored = tokio::select! {
        restored = home.store.restore(received, &by, false) => restored.unwrap(),
        () = ban_often => unreachable!(),
    };
    assert_eq!(restored.tables[0].added, 30_000);
}
