//! The audit of what other programs write.

use std::path::Path;

use serde_json::{Value, json};

use super::support::{foreign_connection, test_store};
use crate::store::sqlite::{Options, SqliteStore};
use crate::store::tests::support::{ban, until};
use crate::store::{AuditFilter, AuditRow, Store};

/// What is compared of an entry.
fn told(row: &AuditRow) -> (&str, &str, Value, Value, Option<u64>) {
    let json = |text: &Option<String>| {
        text.as_deref().map_or(Value::Null, |text| serde_json::from_str(text).unwrap())
    };
    (row.kind.as_str(), row.name.as_str(), json(&row.before), json(&row.after), row.changes)
}

/// All entries by SQL once there are `count`, the oldest first.
async fn by_sql(store: &SqliteStore, count: usize) -> Vec<AuditRow> {
    let filter = AuditFilter { actor: Some("sql".to_owned()), ..AuditFilter::default() };
    let found = until("the changes are in the audit", async || {
        Some(store.audit(filter.clone(), 100).await.unwrap()).filter(|rows| rows.len() >= count)
    });
    let mut rows = found.await;
    rows.reverse();
    assert_eq!(store.check_audit(None).await.unwrap().faults, [] as [&str; 0]);
    rows
}

fn banned(ip: &str, reason: Value) -> Value {
    json!({ "ip": ip, "status": "banned", "reason": reason, "expires_at": null })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_program_writes_is_told_with_what_was_before() {
    let home = test_store();
    home.store.commit(ban("1.1.1.1"), &"alice".into()).await.unwrap();
    let sql = foreign_connection(&home.path);
    let mut count = 0;
    let mut after = async |statements: &str| {
        sql.execute_batch(statements).unwrap();
        count += 1;
        by_sql(&home.store, count).await.pop().unwrap()
    };
    let row = after("INSERT INTO ip_monitor (ip, reason) VALUES ('2.2.2.2', 'it''s')").await;
    assert_eq!(told(&row), ("ban", "2.2.2.2", Value::Null, banned("2.2.2.2", json!("it's")), None));
    let row = after("UPDATE ip_monitor SET reason = NULL WHERE ip = '2.2.2.2'").await;
    let was = banned("2.2.2.2", json!("it's"));
    assert_eq!(told(&row), ("ban", "2.2.2.2", was, banned("2.2.2.2", Value::Null), None));
    let row = after("INSERT INTO ip_monitor (ip, source) VALUES ('3.3.3.3', 'drop')").await;
    let of_drop = |source| json!({ "ip": "3.3.3.3", "status": "banned", "reason": null, "expires_at": null, "source": source });
    assert_eq!(told(&row).3, of_drop("drop"));
    let row = after("UPDATE ip_monitor SET source = 'other' WHERE ip = '3.3.3.3'").await;
    assert_eq!(told(&row), ("ban", "3.3.3.3", of_drop("drop"), of_drop("other"), None));
    let row = after("DELETE FROM ip_monitor WHERE ip = '1.1.1.1'").await;
    assert_eq!(told(&row), ("unban", "1.1.1.1", banned("1.1.1.1", Value::Null), Value::Null, None));
    let row = after("REPLACE INTO ip_monitor (ip, status) VALUES ('2.2.2.2', 'allowed')").await;
    assert_eq!((row.kind.as_str(), told(&row).2), ("ip-monitor", banned("2.2.2.2", Value::Null)));
    // Of one address there are several rows with a scope beside that of ip_monitor.
    let at = |scope: &str, reason| {
        let mut row = banned("2.2.2.2", reason);
        row["applies_to"] = serde_json::from_str(scope).unwrap();
        row
    };
    for (scope, reason) in [(r#"{"routes":["a"]}"#, "one"), (r#"{"routes":["b"]}"#, "two")] {
        let insert = format!(
            "INSERT INTO scoped_bans (ip, applies_to, reason) VALUES ('2.2.2.2', '{scope}', '{reason}')"
        );
        let row = after(&insert).await;
        assert_eq!(told(&row), ("ban", "2.2.2.2", Value::Null, at(scope, json!(reason)), None));
    }
    let a = r#"{"routes":["a"]}"#;
    let row = after(&format!("REPLACE INTO scoped_bans (ip, applies_to) VALUES ('2.2.2.2', '{a}')")).await;
    assert_eq!(told(&row), ("ban", "2.2.2.2", at(a, json!("one")), at(a, Value::Null), None));
    let row = after("REPLACE INTO ip_monitor (ip) VALUES ('2.2.2.2')").await;
    let allowed = json!({ "ip": "2.2.2.2", "status": "allowed", "reason": null, "expires_at": null });
    assert_eq!(told(&row), ("ban", "2.2.2.2", allowed, banned("2.2.2.2", Value::Null), None));
    let row = after("INSERT INTO flags (name, value) VALUES ('f', 'true')").await;
    assert_eq!(told(&row), ("flag", "f", Value::Null, json!(true), None));
    let row = after("INSERT INTO routes (name, document) VALUES ('r', '{}')").await;
    assert_eq!(told(&row), ("route", "r", Value::Null, json!({}), None));
    let row = after("UPDATE routes SET document = 'no JSON' WHERE name = 'r'").await;
    assert_eq!(told(&row), ("route", "r", json!({}), json!("no JSON"), None));
    let row = after("INSERT INTO tokens (hash, name, role) VALUES ('abcdefgh12', 'mine', 'admin')").await;
    let token = json!({ "id": "abcdefgh", "role": "admin", "node": null, "expires_at": null });
    assert_eq!(told(&row), ("token", "mine", Value::Null, token, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn several_changes_of_one_row_are_one_entry_that_says_so() {
    let home = test_store();
    let sql = foreign_connection(&home.path);
    sql.execute_batch(
        "BEGIN; INSERT INTO flags (name, value) VALUES ('f', '1'); UPDATE flags SET value = '2'; UPDATE flags SET value = '3';
         INSERT INTO flags (name, value) VALUES ('gone', '1'); DELETE FROM flags WHERE name = 'gone'; COMMIT",
    )
    .unwrap();
    let rows = by_sql(&home.store, 1).await;
    assert_eq!(rows.iter().map(told).collect::<Vec<_>>(), [("flag", "f", Value::Null, json!(3), Some(3))]);
}

/// 1,001 bans.
const MANY: &str =
    "INSERT INTO ip_monitor (ip) WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 1001)
     SELECT '10.1.' || (x / 250) || '.' || (x % 250) FROM n;";

#[tokio::test(flavor = "multi_thread")]
async fn very_many_changes_of_a_table_are_told_by_their_number_and_hide_no_others() {
    let home = test_store();
    let sql = foreign_connection(&home.path);
    sql.execute_batch(&format!(
        "BEGIN; {MANY} INSERT INTO tokens (hash, name, role) VALUES ('abcdefgh12', 'mine', 'admin'); COMMIT"
    ))
    .unwrap();
    let rows = by_sql(&home.store, 2).await;
    let token = json!({ "id": "abcdefgh", "role": "admin", "node": null, "expires_at": null });
    assert_eq!(
        rows.iter().map(told).collect::<Vec<_>>(),
        [
            ("tables", "ip_monitor", Value::Null, json!({ "changes": 1001 }), Some(1001)),
            ("token", "mine", Value::Null, token, None)
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn many_changes_of_one_row_are_one_entry() {
    let home = test_store();
    let sql = foreign_connection(&home.path);
    let sets: String =
        (0..1_001).map(|n| format!("REPLACE INTO flags (name, value) VALUES ('f', '{n}');")).collect();
    sql.execute_batch(&format!("BEGIN; {sets} COMMIT")).unwrap();
    let rows = by_sql(&home.store, 1).await;
    assert_eq!(
        rows.iter().map(told).collect::<Vec<_>>(),
        [("flag", "f", Value::Null, json!(1_000), Some(1_001))]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn that_the_database_went_far_back_is_told() {
    let home = test_store();
    let mut sql = foreign_connection(&home.path);
    let earlier = home.directory.path().join("earlier.db");
    sql.execute("VACUUM INTO ?1", [earlier.to_str().unwrap()]).unwrap();
    sql.execute_batch(MANY).unwrap();
    by_sql(&home.store, 1).await;
    let from = rusqlite::Connection::open(&earlier).unwrap();
    let restore = rusqlite::backup::Backup::new(&from, &mut sql).unwrap();
    restore.run_to_completion(1_000, std::time::Duration::ZERO, None).unwrap();
    let rows = by_sql(&home.store, 1).await;
    assert_eq!(rows.iter().map(|row| row.kind.as_str()).collect::<Vec<_>>(), ["database"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_key_is_bounded() {
    let home = test_store();
    let sql = foreign_connection(&home.path);
    sql.execute_batch("INSERT INTO ip_monitor (ip) VALUES (printf('%.*c', 100000, 'k'))").unwrap();
    let name = by_sql(&home.store, 1).await.remove(0).name;
    assert!(name.len() < 300 && name.starts_with("kkk") && name.contains("100000 bytes"), "{name}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_that_was_dropped_while_no_service_ran_is_told_at_the_start() {
    let home = test_store();
    let (path, directory) = (home.path, home.directory);
    drop(home.store);
    let sql = foreign_connection(Path::new(&path));
    sql.execute_batch("DROP TRIGGER ip_monitor_inserted; INSERT INTO ip_monitor (ip) VALUES ('1.1.1.1')")
        .unwrap();
    let store = SqliteStore::open(&path, Options::default()).unwrap();
    let rows = by_sql(&store, 1).await;
    assert_eq!(rows.iter().map(|row| row.kind.as_str()).collect::<Vec<_>>(), ["database"]);
    drop((store, directory));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_while_no_service_ran_is_found_at_the_start() {
    let home = test_store();
    home.store.commit(ban("1.1.1.1"), &"alice".into()).await.unwrap();
    let (path, directory) = (home.path, home.directory);
    drop(home.store);
    foreign_connection(Path::new(&path)).execute_batch("DELETE FROM ip_monitor").unwrap();
    let store = SqliteStore::open(&path, Options::default()).unwrap();
    let rows = by_sql(&store, 1).await;
    assert_eq!(told(&rows[0]), ("unban", "1.1.1.1", banned("1.1.1.1", Value::Null), Value::Null, None));
    drop((store, directory));
}
