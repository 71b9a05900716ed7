//! Many bans at once: import and export.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::command_line::Desk;
use crate::test_process::Process;
use crate::test_service::{Answered, TestService, client, each, has, until};

const IMPORT: &str = "/api/admin/bans/import";
const EXPORT: &str = "/api/admin/bans/export";

async fn import(service: &TestService, query: &str, list: impl Into<reqwest::Body>) -> Answered {
    service.post(&format!("{IMPORT}?{query}"), list).await
}

/// What is banned, and whose list has it.
fn bans(service: &TestService) -> Vec<String> {
    service.column(
        "SELECT ip || coalesce(' ' || source, '') FROM ip_monitor WHERE status = 'banned' ORDER BY ip",
    )
}

/// `count` addresses from 11.x on.
fn addresses(x: u32, count: u32) -> String {
    (0..count).fold(String::new(), |mut list, n| {
        let _ = writeln!(list, "{}", std::net::Ipv4Addr::from_bits((11 << 24 | x << 16) + n));
        list
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_added_kept_and_replaced_by_its_source_alone() {
    let service = TestService::start().await;
    service.post("/api/admin/ip/ban", r#"{"ip": "192.0.2.1", "reason": "by hand"}"#).await.ok();
    let list = "# mine\n192.0.2.1\n192.0.2.2 # two\n192.0.2.2\n203.0.113.0/24\n";
    let first = import(&service, "source=drop&reason=listed&wait_applied=1s", list).await.ok();
    has(
        &first,
        json!({"format": "plain", "added": 2, "kept": 1, "removed": 0, "duplicates": 1, "refused": {}}),
    );
    has(&first, json!({"dry_run": false, "mode": "add", "applied": {"of": 0}}));
    assert_eq!(bans(&service), ["192.0.2.1", "192.0.2.2 drop", "203.0.113.0/24 drop"]);
    let seen = service.get("/api/admin/ip-monitor/192.0.2.2").await.ok();
    has(&seen, json!({"status": "banned", "source": "drop", "reason": "listed"}));

    // Nothing differs, nothing is written.
    let before = service.tables().await;
    has(&import(&service, "source=drop&reason=listed", list).await.ok(), json!({"added": 0, "kept": 3}));
    assert_eq!(service.tables().await, before);

    // Another source has one of them too.
    let other = import(&service, "source=other", "192.0.2.2\n192.0.2.3\n").await.ok();
    has(&other, json!({"added": 1, "kept": 1}));
    let query = "source=drop&mode=replace";
    let wanted = json!({"added": 1, "kept": 0, "removed": 1, "released": 1});
    has(&import(&service, &format!("{query}&dry_run=true"), "192.0.2.4\n").await.ok(), wanted.clone());
    assert_eq!(bans(&service)[1], "192.0.2.2 drop,other", "a dry run changes nothing");
    has(&import(&service, query, "192.0.2.4\n").await.ok(), wanted);
    assert_eq!(bans(&service), ["192.0.2.1", "192.0.2.2 other", "192.0.2.3 other", "192.0.2.4 drop"]);

    // A ban by hand takes it over; a list that holds longer takes over a ban by hand.
    service.post("/api/admin/ip/ban", r#"{"ip": "192.0.2.4", "ttl": "1h"}"#).await.ok();
    assert_eq!(bans(&service)[3], "192.0.2.4");
    has(&import(&service, "source=drop&ttl=30m", "192.0.2.4").await.ok(), json!({"kept": 1}));
    assert_eq!(bans(&service)[3], "192.0.2.4");
    has(&import(&service, "source=drop", "192.0.2.4").await.ok(), json!({"kept": 1}));
    assert_eq!(bans(&service)[3], "192.0.2.4 drop");

    let audit = service.get("/api/admin/audit?kind=import").await.ok();
    let names = each(&audit["items"], |entry| entry["name"].as_str().unwrap());
    assert_eq!(names, ["drop", "drop", "other", "drop"], "{audit}");
    has(&audit["items"][1], json!({"after": {"replaced": true, "counts": {"added": 1, "removed": 1}}}));
    service.get("/api/admin/audit/verify").await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_should_ban_is_refused_and_counted() {
    let service = TestService::start().await;
    service.put("/api/admin/allow-list/203.0.113.0/24", "{}").await.ok();
    let list =
        "192.0.2.1\n127.0.0.1\n198.51.100.3\n203.0.113.9\n203.0.112.0/23\n0.0.0.0/0\n10.0.0.0/7\nnonsense\n";
    let done = import(&service, "", list).await.ok();
    has(
        &done,
        json!({"added": 2, "refused": {
        "protected_network": 2, "address_allowed": 1, "too_wide": 2, "not_an_address": 1}}),
    );
    let lines = each(&done["refusals"], |one| one["line"].as_u64().unwrap());
    assert_eq!(lines, [2, 3, 4, 6, 7, 8]);
    has(&done["refusals"][5], json!({"code": "not_an_address", "text": "nonsense"}));
    assert_eq!(bans(&service), ["192.0.2.1", "203.0.112.0/23"]);
    let forced = import(&service, "force=true", list).await.ok();
    has(&forced, json!({"added": 3, "kept": 2, "refused": {"too_wide": 2, "not_an_address": 1}}));

    // What others say of private networks is of theirs.
    let of_others = import(&service, "source=others&dry_run=true", "10.1.2.3\n192.0.2.77\n").await.ok();
    has(&of_others, json!({"added": 1, "refused": {"protected_network": 1}}));
    let own = import(&service, "dry_run=true", "10.1.2.3\n192.0.2.77\n").await.ok();
    has(&own, json!({"added": 2, "refused": {}}));

    let rows = "ip,score,until\n192.0.2.7,90,2099-01-01\n192.0.2.8,90,2020-01-01\n192.0.2.9,90,soon\n192.0.2.10,10,\n";
    let scored = import(&service, "min_score=50&ttl=1h", rows).await.ok();
    has(
        &scored,
        json!({"format": "csv", "added": 1, "skipped": {"below_min_score": 1},
        "refused": {"expired": 1, "bad_time": 1}}),
    );
    let ends: Vec<String> = service.column("SELECT expires_at FROM ip_monitor WHERE ip = '192.0.2.7'");
    assert_eq!(ends, ["2099-01-01 00:00:00.000"]);
    let many = import(&service, "", format!("192.0.2.1\n{}", "x\n".repeat(500))).await.ok();
    assert_eq!(
        (many["refusals"].as_array().unwrap().len(), &many["refused"]["not_an_address"]),
        (100, &json!(500))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_list_changes_nothing_and_says_why() {
    let service = TestService::start().await;
    import(&service, "source=drop", "192.0.2.1\n").await.ok();
    let before = service.tables().await;
    let utf16: Vec<u8> = "192.0.2.2\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    for (query, list, status, code) in [
        ("", b"<!DOCTYPE html><html></html>".to_vec(), 422, "not_a_list"),
        ("", utf16, 422, "not_a_list"),
        ("", b"[\"192.0.2.2\",".to_vec(), 422, "not_a_list"),
        ("min_score=3", b"192.0.2.2\n".to_vec(), 422, "not_a_list"),
        ("strict=true", b"192.0.2.2\nnonsense\n".to_vec(), 422, "list_refused"),
        ("", b"nonsense\n".to_vec(), 422, "list_refused"),
        ("mode=replace&source=drop", b"# nothing\n".to_vec(), 422, "list_refused"),
        ("mode=replace", b"192.0.2.2\n".to_vec(), 400, "invalid_parameter"),
        ("source=A%20b", b"192.0.2.2\n".to_vec(), 400, "invalid_parameter"),
        ("mode=merge", b"192.0.2.2\n".to_vec(), 400, "invalid_parameter"),
        ("format=xml", b"192.0.2.2\n".to_vec(), 400, "invalid_parameter"),
        ("min_score=x", b"192.0.2.2\n".to_vec(), 400, "invalid_parameter"),
        ("ttl=0s", b"192.0.2.2\n".to_vec(), 400, "invalid_parameter"),
        ("sourc=x", b"192.0.2.2\n".to_vec(), 400, "invalid_parameter"),
    ] {
        import(&service, query, list).await.problem(status, code);
    }
    let strict =
        import(&service, "strict=true", "192.0.2.2\n192.0.2.300\n").await.problem(422, "list_refused");
    has(&strict["errors"][0], json!({"code": "not_an_address"}));
    assert!(strict["errors"][0]["detail"].as_str().unwrap().starts_with("line 2: "), "{strict}");
    let brotli = service.as_operator(Method::POST, IMPORT).header("content-encoding", "br").body("x");
    Answered::to(brotli).await.problem(415, "unsupported_media_type");

    // A body of 500 MB is refused before it is sent, and one that breaks off is not taken for its beginning.
    for (length, wanted) in [(500_000_000, "413"), (1_000, "")] {
        let mut stream = std::net::TcpStream::connect(service.running.people()).unwrap();
        let token = &service.admin;
        write!(
            stream,
            "POST {IMPORT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-length: {length}\r\n\r\n192.0.2.2\n"
        )
        .unwrap();
        if wanted.is_empty() {
            stream.shutdown(std::net::Shutdown::Write).unwrap();
        }
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut answer = [0; 400];
        let read = stream.read(&mut answer).unwrap();
        let answer = String::from_utf8_lossy(&answer[..read]).into_owned();
        assert!(answer.starts_with("HTTP/1.1 413") != wanted.is_empty(), "{answer}");
    }
    assert_eq!(service.tables().await, before);
    has(&import(&service, "mode=replace&source=drop&force=true", "").await.ok(), json!({"removed": 1}));
    assert_eq!(bans(&service), Vec::<String>::new());
}

/// Who sends a list without end sees why it is refused, if it looks for an answer while it sends.
#[tokio::test(flavor = "multi_thread")]
async fn a_list_without_end_is_answered_while_it_is_sent() {
    let service = TestService::start().await;
    let mut stream = std::net::TcpStream::connect(service.running.people()).unwrap();
    let token = &service.admin;
    let head = format!(
        "POST {IMPORT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    let mut chunk = b"10000\r\n<html>".to_vec();
    chunk.resize(b"10000\r\n".len() + 0x10000, b'\n');
    chunk.extend_from_slice(b"\r\n");
    let answer = tokio::task::spawn_blocking(move || {
        stream.write_all(head.as_bytes()).unwrap();
        loop {
            stream.set_nonblocking(true).unwrap();
            let has_answer = stream.peek(&mut [0; 1]).is_ok();
            stream.set_nonblocking(false).unwrap();
            if has_answer {
                let mut answer = [0; 4_000];
                let read = stream.read(&mut answer).unwrap();
                return String::from_utf8_lossy(&answer[..read]).into_owned();
            }
            stream.write_all(&chunk).expect("the connection stays open until the answer is there");
        }
    });
    let answer = answer.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 422"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_export_can_be_imported_again() {
    let service = TestService::start().await;
    let list = "ip,reason,until\n192.0.2.1,\"it's, \"\"quoted\"\"\",2099-01-01T00:00:00Z\n2001:db8::/32,,\n198.51.100.99,x,\n";
    import(&service, "source=mine", list).await.ok();
    service.post("/api/admin/ip/ban", r#"{"ip": "192.0.2.5", "reason": "a\nb"}"#).await.ok();
    service.sql(
        "INSERT INTO ip_monitor (ip, expires_at) VALUES ('192.0.2.6', '2020-01-01'), ('192.0.2.7', NULL);
         UPDATE ip_monitor SET status = 'watched' WHERE ip = '192.0.2.7'",
    );
    let columns =
        "SELECT ip || ',' || coalesce(expires_at, '') FROM ip_monitor WHERE status = 'banned' ORDER BY ip";
    for format in ["plain", "csv", "json", "jsonl"] {
        let exported = service.get(&format!("{EXPORT}?format={format}")).await;
        assert_eq!(exported.status, 200);
        let other = TestService::start().await;
        let taken = import(&other, "strict=true", exported.bytes.clone()).await.ok();
        has(&taken, json!({"format": format, "added": 4, "skipped": {}, "refused": {}}));
        if format != "plain" {
            let mut wanted: Vec<String> = service.column(columns);
            wanted.retain(|row| !row.starts_with("192.0.2.6"));
            assert_eq!(other.column::<String>(columns), wanted, "{format}");
        }
    }
    let sql = service.get(&format!("{EXPORT}?format=sql")).await;
    let other = TestService::start().await;
    other.sql(std::str::from_utf8(&sql.bytes).unwrap());
    assert_eq!(bans(&other), ["192.0.2.1 mine", "192.0.2.5", "198.51.100.99 mine", "2001:db8::/32 mine"]);
    let reason = json!({"ip": "192.0.2.8", "reason": "one;\r\n.quit\u{0}'two'\n"});
    service.post("/api/admin/ip/ban", reason.to_string()).await.ok();
    let sql = service.get(&format!("{EXPORT}?format=sql")).await;
    other.sql(std::str::from_utf8(&sql.bytes).unwrap());
    let text = "SELECT hex(reason) FROM ip_monitor WHERE ip = '192.0.2.8'";
    assert_eq!(other.column::<String>(text), [hex::encode_upper(reason["reason"].as_str().unwrap())]);
    service.post("/api/admin/ip/unban", r#"{"ip": "192.0.2.8"}"#).await.ok();
    let mine = service.get(&format!("{EXPORT}?source=mine")).await;
    assert_eq!(mine.bytes, b"192.0.2.1\n198.51.100.99\n2001:db8::/32\n");
    assert_eq!(service.get(&format!("{EXPORT}?source=no&format=json")).await.ok(), json!([]));
    service.get(&format!("{EXPORT}?format=xml")).await.problem(400, "invalid_parameter");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_list_is_one_change() {
    let service = TestService::start().await;
    service.post("/api/admin/ip/ban", r#"{"ip": "192.0.2.1"}"#).await.ok();
    let done = import(&service, "source=large", addresses(1, 100_001)).await.ok();
    has(&done, json!({"added": 100_001}));
    for (ip, wanted) in [
        ("11.1.0.0", "banned"),
        ("11.2.134.160", "banned"),
        ("11.2.134.161", "none"),
        ("192.0.2.1", "banned"),
    ] {
        until(ip, async || {
            let seen = service.get(&format!("/api/admin/ip-monitor/{ip}")).await.ok();
            (seen["status"] == wanted).then_some(())
        })
        .await;
    }
    // Not row by row, and nothing that health would have to tell.
    assert!(service.column::<i64>("SELECT count(*) FROM change_log")[0] < 100);
    let health = service.health().await;
    assert_eq!(health["feed"]["notices"], json!([]), "{health}");
    // The triggers are at work again.
    service.sql("DELETE FROM ip_monitor WHERE ip = '11.1.0.0'");
    until("the row is gone", async || {
        (service.get("/api/admin/ip-monitor/11.1.0.0").await.ok()["status"] == "none").then_some(())
    })
    .await;
    let one = import(&service, "source=large&mode=replace", "11.1.0.5\n").await.ok();
    has(&one, json!({"added": 0, "kept": 1, "removed": 99_999}));
    assert_eq!(bans(&service), ["11.1.0.5 large", "192.0.2.1"]);
    until("what the list no longer has is let in", async || {
        (service.get("/api/admin/ip-monitor/11.1.0.6").await.ok()["status"] == "none").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_killed_in_the_middle_has_the_old_bans() {
    let dir = tempfile::tempdir().unwrap();
    let old: Vec<String> = vec!["192.0.2.1".to_owned()];
    let count = 60_000;
    for round in 0..3u64 {
        let mut process = Process::start(dir.path()).await;
        let url = format!("{}{IMPORT}?source=s&mode=replace", process.people);
        let request = |list: String| client().post(&url).bearer_auth(&process.token).body(list);
        Answered::to(request("192.0.2.1\n".to_owned())).await.ok();
        let sent = tokio::spawn(request(addresses(1, count)).send());
        // Rows that are not committed are in this file.
        let wal = dir.path().join("tidegate.db-wal");
        let begun = std::fs::metadata(&wal).map_or(0, |file| file.len());
        until("rows are written", async || {
            let now = std::fs::metadata(&wal).map_or(0, |file| file.len());
            (now > begun + (round + 1) * 500_000 || sent.is_finished()).then_some(())
        })
        .await;
        process.signal("-KILL");
        process.end().await;
        let database = rusqlite::Connection::open(dir.path().join("tidegate.db")).unwrap();
        let mut rows = database.prepare("SELECT ip FROM ip_monitor").unwrap();
        let rows: Vec<String> = rows.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        // All or nothing: the kill may have come when all was done.
        assert!(rows == old || rows.len() == count as usize, "{} rows in round {round}", rows.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_imports_and_exports() {
    let service = TestService::start().await;
    let desk = Desk::new(&service);
    desk.file("list.txt", "192.0.2.1\n192.0.2.2\n");
    let said =
        desk.tidegate("bans", &["import", "list.txt", "--source", "mine", "--wait", "0s"]).await.done();
    assert!(said.starts_with("2 added, 0 kept, 0 removed; 0 duplicates, 0 skipped, 0 refused; "), "{said}");
    let some =
        desk.fed("bans", &["import", "-", "--source", "mine", "--replace"], "192.0.2.1\nnonsense\n").await;
    assert_eq!(some.code, Some(3), "{some:?}");
    assert!(some.out.starts_with("0 added, 1 kept, 1 removed"), "{some:?}");
    assert!(some.err.starts_with("line 2: nonsense: "), "{some:?}");
    let strict = desk.fed("bans", &["import", "-", "--strict"], "192.0.2.9\nnonsense\n").await;
    assert!(strict.failed().contains("line 2: "));
    let dry = desk.fed("bans", &["import", "-", "--dry-run", "-o", "json"], "192.0.2.9\n").await.done();
    has(&serde_json::from_str::<Value>(&dry).unwrap(), json!({"dry_run": true, "added": 1}));
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packed.write_all(b"192.0.2.7\n").unwrap();
    std::fs::write(desk.dir.path().join("list.gz"), packed.finish().unwrap()).unwrap();
    assert!(desk.tidegate("bans", &["import", "list.gz"]).await.done().starts_with("1 added"));
    assert_eq!(desk.tidegate("bans", &["export"]).await.done(), "192.0.2.1\n192.0.2.7\n");
    let csv = desk.tidegate("bans", &["export", "--format", "csv", "--source", "mine"]).await.done();
    assert!(csv.starts_with("ip,reason,source,since,until,applies_to\n192.0.2.1,,mine,20"), "{csv}");
    assert!(desk.tidegate("bans", &["import", "nowhere.txt"]).await.failed().contains("nowhere.txt"));
}
