//! Backups of a running service, and what is put back from them.

use std::os::unix::fs::PermissionsExt;
use std::process::Output;

use reqwest::{Body, Method};
use serde_json::{Value, json};
use tidegate_admin::api::streamed_body::StreamedBody;
use tidegate_admin::store::sqlite::SqliteStore;

use crate::command_line::Desk;
use crate::test_process::{printed, tidegate};
use crate::test_service::{Answered, TestService, db, each, has, until};

const BAN: &str = "/api/admin/ip/ban";
const ROUTE: &str = r#"{"spec": {"rules": [{"backendRefs": [{"name": "demo"}]}]}}"#;

/// `tidegate restore FILE` beside the service.
fn restore(service: &TestService, args: &[&str]) -> Output {
    tidegate(service.dir.path(), &[&["restore"], args].concat()).output().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_people_wrote_is_put_back_and_nothing_else() {
    let service = TestService::start().await;
    let desk = Desk::new(&service);
    service.post(BAN, r#"{"ip": "9.9.9.9", "reason": "before"}"#).await.ok();
    service.put("/api/admin/allow-list/8.8.8.8", "{}").await.ok();
    service.put("/api/admin/routes/shop", ROUTE).await.ok();
    let file = desk.file("backup.db", "");
    let said = desk.tidegate("backup", &["backup.db"]).await.failed();
    assert!(said.contains("--force"), "{said}");
    desk.tidegate("backup", &["backup.db", "--force"]).await.done();
    let file = file.to_str().unwrap();

    service.post(BAN, r#"{"ip": "9.9.9.9", "reason": "after"}"#).await.ok();
    service.post(BAN, r#"{"ip": "7.7.7.7"}"#).await.ok();
    service.ask(Method::DELETE, "/api/admin/routes/shop", "").await.ok();
    service.put("/api/admin/optimization/flags", r#"{"enableRouteCache": true}"#).await.ok();
    let changed = service.tables().await;
    let dry = restore(&service, &[file, "--dry-run", "-o", "json"]);
    let answer: Value = serde_json::from_slice(&dry.stdout).unwrap();
    has(&answer["tables"][0], json!({"table": "ip_monitor", "added": 0, "changed": 1, "removed": 1}));
    has(&answer["tables"][1], json!({"table": "routes", "added": 1, "changed": 0, "removed": 0}));
    assert_eq!(service.tables().await, changed, "a dry run changes nothing");

    let done = restore(&service, &[file]);
    assert!(done.status.success(), "{}", printed(&done));
    until("the service follows", async || {
        (service.get("/api/admin/ip-monitor/7.7.7.7").await.ok()["status"] == "none").then_some(())
    })
    .await;
    assert_eq!(service.get("/api/admin/ip-monitor/9.9.9.9").await.ok()["reason"], "before");
    assert_eq!(service.get("/api/admin/optimization/flags").await.ok()["enableRouteCache"], false);
    service.get("/api/admin/routes/shop").await.ok();
    let audit = service.get("/api/admin/audit?limit=3").await.ok();
    assert_eq!(each(&audit["items"], |row| row["kind"].as_str().unwrap()), ["restore", "flag", "route"]);
    has(&audit["items"][0]["after"][0], json!({"table": "ip_monitor", "changed": 1, "removed": 1}));
    let again = restore(&service, &[file, "-o", "json"]);
    let answer: Value = serde_json::from_slice(&again.stdout).unwrap();
    assert!(
        each(&answer["tables"], |row| (
            row["added"].as_u64(),
            row["changed"].as_u64(),
            row["removed"].as_u64()
        ))
        .iter()
        .all(|row| *row == (Some(0), Some(0), Some(0))),
        "{answer}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_restored_through_the_service() {
    let service = TestService::start().await;
    let desk = Desk::new(&service);
    service.post(BAN, r#"{"ip": "9.9.9.9"}"#).await.ok();
    service.put("/api/admin/routes/shop", ROUTE).await.ok();
    desk.tidegate("backup", &["backup.db"]).await.done();
    let copied = service.get("/api/admin/audit?kind=backup").await.ok()["items"].clone();
    has(&copied[0], json!({"actor": "admin", "address": "127.0.0.1", "name": "database"}));
    service.post("/api/admin/ip/unban", r#"{"ip": "9.9.9.9"}"#).await.ok();
    service.delete("/api/admin/routes/shop").await.ok();
    let changed = service.tables().await;
    let dry = desk.tidegate("restore", &["backup.db", "--dry-run", "-o", "json"]).await.done();
    let dry: Value = serde_json::from_str(&dry).unwrap();
    has(&dry, json!({"dry_run": true}));
    has(&dry["tables"][0], json!({"table": "ip_monitor", "added": 1, "changed": 0, "removed": 0}));
    assert_eq!(service.tables().await, changed);
    let said = desk.tidegate("restore", &["backup.db"]).await.done();
    assert!(said.contains("ip_monitor") && said.starts_with("TABLE"), "{said}");
    assert_eq!(service.get("/api/admin/ip-monitor/9.9.9.9").await.ok()["status"], "banned");
    service.get("/api/admin/routes/shop").await.ok();
    let last = service.get("/api/admin/audit?limit=1").await.ok()["items"][0].clone();
    has(&last, json!({"kind": "restore", "actor": "admin", "address": "127.0.0.1"}));
    assert_eq!(service.get("/api/admin/audit/verify").await.ok()["faults"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_are_written_while_a_backup_comes_slowly() {
    let service = TestService::start().await;
    service.put("/api/admin/routes/kept", ROUTE).await.ok();
    let backup = service.post("/api/admin/backup", "").await.bytes;
    let (chunks, body) = StreamedBody::new();
    let request = service.as_operator(Method::POST, "/api/admin/restore").body(Body::wrap(body));
    let restoring = tokio::spawn(request.send());
    let (first, rest) = backup.split_at(backup.len() / 2);
    assert!(chunks.send(Ok(first.to_vec().into())).await);
    let upload = service.dir.path().join("tidegate.db.upload");
    until("the backup comes", async || upload.exists().then_some(())).await;
    service.put("/api/admin/routes/new", ROUTE).await.ok();
    assert!(chunks.send(Ok(rest.to_vec().into())).await);
    drop(chunks);
    let restored: Value = restoring.await.unwrap().unwrap().json().await.unwrap();
    let routes = &restored["tables"].as_array().unwrap().iter().find(|one| one["table"] == "routes");
    has(routes.unwrap(), json!({"added": 0, "changed": 0, "removed": 1}));
    service.get("/api/admin/routes/new").await.problem(404, "route_not_found");
    service.get("/api/admin/routes/kept").await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_becomes_the_database_where_there_is_none() {
    let service = TestService::start().await;
    let desk = Desk::new(&service);
    service.post(BAN, r#"{"ip": "9.9.9.9"}"#).await.ok();
    desk.tidegate("backup", &["backup.db"]).await.done();
    let backup = desk.dir.path().join("backup.db");
    let elsewhere = tempfile::tempdir().unwrap();
    std::fs::set_permissions(&backup, std::fs::Permissions::from_mode(0o644)).unwrap();
    for (dry, there) in [(Some("--dry-run"), false), (None, true)] {
        let args: Vec<&str> = ["restore", backup.to_str().unwrap()].into_iter().chain(dry).collect();
        let done = tidegate(elsewhere.path(), &args).output().unwrap();
        assert!(done.status.success() && printed(&done).contains("the whole backup"), "{}", printed(&done));
        assert_eq!(db(&elsewhere).exists(), there);
    }
    let mode = std::fs::metadata(db(&elsewhere)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "of the database, whatever the backup's");
    let tokens = tidegate(elsewhere.path(), &["token", "list"]).output().unwrap();
    assert!(printed(&tokens).contains("admin"), "{}", printed(&tokens));
    let bans = rusqlite::Connection::open(db(&elsewhere)).unwrap();
    let bans: i64 = bans.query_row("SELECT count(*) FROM ip_monitor", [], |row| row.get(0)).unwrap();
    assert_eq!(bans, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_backup_changes_nothing() {
    let service = TestService::start().await;
    let desk = Desk::new(&service);
    for i in 0..200 {
        service.sql(&format!(
            "INSERT INTO ip_monitor (ip, reason) VALUES ('10.0.0.{i}', '{}')",
            "x".repeat(300)
        ));
    }
    desk.tidegate("backup", &["whole.db"]).await.done();
    let before = service.tables().await;
    let whole = std::fs::read(desk.dir.path().join("whole.db")).unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = desk.file(name, "");
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let strange = desk.dir.path().join("strange.db");
    rusqlite::Connection::open(&strange).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
    let later = desk.dir.path().join("later.db");
    std::fs::copy(desk.dir.path().join("whole.db"), &later).unwrap();
    rusqlite::Connection::open(&later).unwrap().execute_batch("PRAGMA user_version = 99").unwrap();
    let narrow = desk.dir.path().join("narrow.db");
    std::fs::copy(desk.dir.path().join("whole.db"), &narrow).unwrap();
    let narrowed = "DROP TABLE flags; CREATE TABLE flags (name, updated_at)";
    rusqlite::Connection::open(&narrow).unwrap().execute_batch(narrowed).unwrap();
    let endless = desk.dir.path().join("endless.db");
    std::fs::copy(desk.dir.path().join("whole.db"), &endless).unwrap();
    let rows = "ALTER TABLE limits RENAME TO former; CREATE VIEW limits AS WITH RECURSIVE n (i) AS \
        (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i AS name, '' AS document, NULL AS created_at, \
        NULL AS updated_at FROM n";
    rusqlite::Connection::open(&endless).unwrap().execute_batch(rows).unwrap();
    for (backup, why) in [
        (file("cut.db", &whole[..whole.len() / 2]), ""),
        (file("cut-within-a-page.db", &whole[..whole.len() - 1]), "cut-within-a-page.db is no backup"),
        (narrow.to_str().unwrap().to_owned(), "it has no flags.value"),
        (endless.to_str().unwrap().to_owned(), "its limits is no table"),
        (file("text.db", b"INSERT INTO ip_monitor"), ""),
        (strange.to_str().unwrap().to_owned(), "no database of the admin service"),
        (later.to_str().unwrap().to_owned(), "schema version 99"),
        ("missing.db".to_owned(), "missing.db"),
    ] {
        let refused = restore(&service, &[&backup]);
        let said = printed(&refused);
        assert!(
            !refused.status.success() && said.contains(why) && said.contains("nothing was changed"),
            "{said}"
        );
    }
    // Another restore is under way.
    let lock = service.dir.path().join("tidegate.db.restore");
    let lock = std::fs::File::create(lock).unwrap();
    lock.lock().unwrap();
    let refused = printed(&restore(&service, &[desk.dir.path().join("whole.db").to_str().unwrap()]));
    assert!(refused.contains("tidegate.db.restore is in use"), "{refused}");
    drop(lock);
    std::fs::remove_file(service.dir.path().join("tidegate.db.restore")).unwrap();
    let sent = async |bytes: &[u8]| {
        let restore = service.as_operator(Method::POST, "/api/admin/restore").body(bytes.to_vec());
        Answered::to(restore).await.problem(422, "invalid_backup")["detail"].to_string()
    };
    for (bytes, why) in [
        (&whole[..whole.len() / 2], "malformed"),
        (&b"INSERT INTO ip_monitor"[..], "not a database"),
        (&std::fs::read(&strange).unwrap()[..], "no database of the admin service"),
        (&std::fs::read(&later).unwrap()[..], "schema version 99"),
        (&[][..], "no database of the admin service"),
    ] {
        let said = sent(bytes).await;
        assert!(said.contains(why) && said.contains("what was sent is no backup"), "{said}");
    }
    assert_eq!(service.tables().await, before);
    let left: Vec<_> =
        std::fs::read_dir(service.dir.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
    let is_left = |name: &std::ffi::OsString| {
        let name = name.to_string_lossy();
        name.contains("restore") || name.contains("upload")
    };
    assert!(!left.iter().any(is_left), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_file_is_replaced_by_a_backup() {
    let service = TestService::start().await;
    let refused = Desk::new(&service).tidegate("backup", &[".", "--force"]).await.failed();
    assert!(refused.contains("no file that could be replaced"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_under_writes_is_of_one_moment() {
    let service = TestService::start().await;
    let stop = std::sync::atomic::AtomicBool::new(false);
    let ban = async |writer: usize| {
        let mut banned = 0;
        while !stop.load(std::sync::atomic::Ordering::Relaxed) {
            let ip = format!("10.{writer}.{}.{}", banned / 250, banned % 250);
            service.post(BAN, json!({ "ip": ip }).to_string()).await.ok();
            banned += 1;
        }
    };
    let copy = async || {
        let mut copies = Vec::new();
        for _ in 0..3 {
            let request = service.as_operator(Method::POST, "/api/admin/backup");
            copies.push(Answered::to(request).await);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        copies
    };
    // As many at once as a commit takes together: over a thousand a second where nothing else runs.
    let (.., copies) = tokio::join!(ban(0), ban(1), ban(2), ban(3), ban(4), ban(5), copy());
    let dir = tempfile::tempdir().unwrap();
    for (number, copy) in copies.iter().enumerate() {
        assert_eq!(copy.headers["content-type"], "application/vnd.sqlite3");
        let path = dir.path().join(number.to_string());
        std::fs::write(&path, &copy.bytes).unwrap();
        SqliteStore::check_backup(&path).unwrap();
        let conn = rusqlite::Connection::open(&path).unwrap();
        let count = |table: &str| -> i64 {
            conn.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
        };
        assert_eq!(
            count("ip_monitor"),
            count("audit WHERE what = 'ban'"),
            "each ban with its entry of the audit"
        );
        drop(conn);
        let restored = dir.path().join(format!("{number}.restored"));
        let by = "test".into();
        assert_eq!(SqliteStore::restore_beside(&restored, &path, &by, false).unwrap(), None);
        let check = SqliteStore::check_audit_beside(&restored, None).unwrap();
        assert_eq!(check.faults, [""; 0]);
    }
}
