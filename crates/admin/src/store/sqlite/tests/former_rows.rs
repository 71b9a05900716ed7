//! What is kept of rows that cannot be read, and keys that people change.

use super::support::{foreign_connection, test_store};
use crate::store::sqlite::{Options, SqliteStore};
use crate::store::{
    Changes, CountriesRow, DocumentKind, DocumentRow, FormerRow, FormerRows, IpRow, ScopedBanRow, StoreTable,
    TableStore,
};

async fn kept(store: &SqliteStore) -> FormerRows {
    store.read_tables(&[]).await.unwrap().former
}

#[tokio::test(flavor = "multi_thread")]
async fn former_rows_are_kept_as_they_were_until_others_are() {
    let home = test_store();
    let ip = IpRow {
        ip: "9.9.9.9".into(),
        status: "banned".into(),
        reason: Some("a \"quote\"".into()),
        created_at: None,
        updated_at: Some("2026-11-23 18:00:00.000".into()),
        expires_at: None,
        source: Some("drop".into()),
    };
    let scoped = ScopedBanRow {
        ip: "9.9.9.9".into(),
        applies_to: r#"{"routes":["r"]}"#.into(),
        status: "banned".into(),
        ..ScopedBanRow::default()
    };
    let [created_at, updated_at] = [ip.updated_at.clone(), None];
    let route = DocumentRow { name: "r".into(), document: "{}".into(), created_at, updated_at };
    let countries = CountriesRow { source: "s".into(), imported_at: None, table: vec![0, 255, 7] };
    let mut rows = FormerRows::from([
        ((StoreTable::Ip, "9.9.9.9/32".into()), FormerRow::Ip(ip.clone())),
        ((StoreTable::ScopedBans, scoped.key()), FormerRow::Scoped(scoped)),
        ((StoreTable::Documents(DocumentKind::Route), "r".into()), FormerRow::Document(route)),
        ((StoreTable::Countries, "countries".into()), FormerRow::Countries(countries)),
    ]);
    rows.extend((0..1_200).map(|n| ((StoreTable::Ip, format!("no {n}")), FormerRow::Ip(ip.clone()))));
    home.store.keep_former(rows.clone()).await.unwrap();
    assert_eq!(kept(&home.store).await, rows);
    assert_eq!(home.store.read_tables(&[]).await.unwrap().seq, 0, "no change of a table");
    // What others write there is passed over.
    let sql =
        "INSERT INTO former_rows VALUES ('ip_monitor', 'x', '{'), ('nothing', 'x', 'x'), ('', '', x'00')";
    foreign_connection(&home.path).execute_batch(sql).unwrap();
    rows.retain(|(_, key), _| !key.starts_with("no "));
    home.store.keep_former(rows.clone()).await.unwrap();
    drop(home.store);
    let store = SqliteStore::open(&home.path, Options::default()).unwrap();
    assert_eq!(kept(&store).await, rows);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_changed_is_told_with_the_one_before() {
    let home = test_store();
    let conn = foreign_connection(&home.path);
    conn.execute_batch(
        "INSERT INTO ip_monitor (ip) VALUES ('1.1.1.1'); INSERT INTO flags (name) VALUES ('a')",
    )
    .unwrap();
    let moves = async |since| match home.store.changes_since(since).await.unwrap() {
        Changes::Rows { rows, .. } => rows.moves,
        Changes::Reload { why, .. } => panic!("{why}"),
    };
    let sql = "UPDATE ip_monitor SET ip = 'x'; UPDATE ip_monitor SET ip = 'x', status = 'y';
               DELETE FROM ip_monitor; INSERT INTO ip_monitor (ip) VALUES ('z'); UPDATE flags SET name = 'b'";
    conn.execute_batch(sql).unwrap();
    let told = [(StoreTable::Ip, "1.1.1.1", "x"), (StoreTable::Flags, "a", "b")];
    let told = told.map(|(table, from, to)| (table, from.to_owned(), to.to_owned()));
    assert_eq!(moves(0).await, told);
    assert_eq!(moves(5).await, told[1..]);
}
