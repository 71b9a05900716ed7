//! A database file that is damaged while the service runs.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;

use super::support::{TestStore, foreign_connection, test_store};
use crate::store::tests::support::{ban, batch, post_of};
use crate::store::{Store, StoreError, StoreOperation};

const PAGE: u64 = 4096;

/// Replaces the first page of a table in the database's file; returns what was there.
fn replace_page(file: &File, home: &TestStore, table: &str, page: &[u8]) -> Vec<u8> {
    let conn = foreign_connection(&home.path);
    conn.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    let sql = "SELECT rootpage FROM sqlite_master WHERE name = ?1";
    let root: i64 = conn.query_row(sql, [table], |row| row.get(0)).unwrap();
    let at = (root as u64 - 1) * PAGE;
    let mut before = vec![0; PAGE as usize];
    file.read_exact_at(&mut before, at).unwrap();
    file.write_all_at(page, at).unwrap();
    // A commit makes every connection forget the pages that it has.
    conn.execute_batch("INSERT OR REPLACE INTO meta (name, value) VALUES ('test', random())").unwrap();
    before
}

fn faults(home: &TestStore) -> Vec<(StoreOperation, &'static str)> {
    home.store.health().faults.iter().map(|fault| (fault.operation, fault.what)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_table_is_said_until_it_can_be_read_whatever_else_works() {
    let home = test_store();
    home.store.append(post_of(vec![batch(1, 1, 3)])).await.unwrap();
    // Never closed: that would release the locks that SQLite has on the file in this process.
    let file = OpenOptions::new().read(true).write(true).open(&home.path).unwrap();
    let file: &'static File = Box::leak(Box::new(file));
    let whole = replace_page(file, &home, "sources", &[0xa5; PAGE as usize]);

    let stored = home.store.append(post_of(vec![batch(1, 4, 6)])).await;
    assert!(matches!(stored, Err(StoreError::Damaged(_))), "{stored:?}");
    assert!(matches!(home.store.recording().await, Err(StoreError::Damaged(_))));
    home.store.commit(ban("1.2.3.4"), &"test".into()).await.unwrap();
    let said = [(StoreOperation::Write, "events"), (StoreOperation::Read, "counts of events")];
    assert_eq!(faults(&home), said);

    replace_page(file, &home, "sources", &whole);
    home.store.append(post_of(vec![batch(1, 4, 6)])).await.unwrap();
    assert_eq!(home.store.recording().await.unwrap().stored, 6);
    assert_eq!(faults(&home), []);
}
