//! `GET /metrics`.

use std::collections::{BTreeMap, BTreeSet};

use axum::body::Body;
use axum::http::Method;
use axum::http::Request;

use crate::running::{Running, until};

/// The page as whoever has no token sees it.
async fn page(running: &Running) -> String {
    let request = Request::get(running.people("/metrics")).body(Body::empty()).unwrap();
    let answer = running.send(request).await;
    assert_eq!(answer.status, 200);
    let media = answer.headers["content-type"].to_str().unwrap();
    assert!(media.starts_with("application/openmetrics-text; version=1.0.0"), "{media}");
    let text = String::from_utf8(answer.bytes).unwrap();
    assert!(text.ends_with("# EOF\n"), "{text}");
    text
}

/// A figure by its name with its labels.
fn figure(page: &str, series: &str) -> Option<f64> {
    page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_shows() {
    let running = Running::start().await;
    running.post("/api/admin/ip/ban", r#"{"ip": "1.2.3.4"}"#).await.ok();
    running.get("/api/admin/routes/nothing").await.problem(404, "route_not_found");
    running.get("/nowhere").await.problem(404, "not_found");
    running.sql("INSERT INTO ip_monitor (ip, status) VALUES ('nonsense', 'banned')");
    // A list waits until the feed has caught up.
    running.get("/api/admin/ip-monitor").await.ok();
    let page = page(&running).await;
    for (series, wanted) in [
        (r#"tidegate_admin_table_entries{table="bans"}"#, 1.0),
        (r#"tidegate_admin_quarantined_rows{table="ip_monitor"}"#, 1.0),
        (r#"tidegate_admin_quarantined_rows{table="routes"}"#, 0.0),
        (r#"tidegate_admin_gateways{state="live"}"#, 0.0),
        ("tidegate_admin_completeness_ratio", 1.0),
        ("tidegate_admin_completeness_exact", 1.0),
        ("tidegate_admin_feed_stopped", 0.0),
        ("tidegate_admin_store_readable", 1.0),
        ("tidegate_admin_store_usable", 1.0),
        (
            r#"tidegate_admin_requests_total{listener="people",method="POST",endpoint="/api/admin/ip/ban",class="2xx"}"#,
            1.0,
        ),
        (
            r#"tidegate_admin_requests_total{listener="people",method="GET",endpoint="/api/admin/routes/{name}",class="4xx"}"#,
            1.0,
        ),
        (r#"tidegate_admin_requests_total{listener="people",method="GET",endpoint="none",class="4xx"}"#, 1.0),
    ] {
        assert_eq!(figure(&page, series), Some(wanted), "{series}\n{page}");
    }
    assert!(figure(&page, r#"tidegate_admin_store_bytes{file="database"}"#).unwrap() > 0.0);
    assert!(!page.contains("nowhere") && !page.contains("1.2.3.4") && !page.contains("nonsense"), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_a_write_waits_for_is_counted() {
    let running = Running::start().await;
    let other = rusqlite::Connection::open(crate::running::db(&running.dir)).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    running.post("/api/admin/ip/ban", r#"{"ip": "1.2.3.4"}"#).await.problem(503, "store_busy");
    until("the lock is told of", async || {
        figure(&page(&running).await, "tidegate_admin_store_locked_seconds").filter(|seconds| *seconds > 1.0)
    })
    .await;
    other.execute_batch("ROLLBACK").unwrap();
    assert!(figure(&page(&running).await, "tidegate_admin_store_lock_waits_total").unwrap() >= 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_misspelt_is_refused() {
    let running = Running::start().await;
    running.get("/metrics?name=x").await.problem(400, "invalid_parameter");
    running.ask(Method::POST, "/metrics", Body::empty()).await.problem(405, "method_not_allowed");
}

/// Names as they are in `# TYPE`, with their type and their labels.
fn exported(page: &str) -> BTreeMap<String, (String, BTreeSet<String>)> {
    let mut all = BTreeMap::new();
    for line in page.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        all.insert(name.to_owned(), (kind.to_owned(), BTreeSet::new()));
    }
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let (series, _) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let family = ["", "_total", "_info", "_bucket", "_sum", "_count"];
        let mut family = family.into_iter().filter_map(|suffix| name.strip_suffix(suffix));
        let name = family.rfind(|name| all.contains_key(*name)).unwrap().to_owned();
        let keys = labels.split("\",").filter_map(|label| Some(label.split_once('=')?.0.to_owned()));
        all.get_mut(&name).unwrap().1.extend(keys.filter(|key| key != "le"));
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documentation_lists_every_metric_with_its_labels_and_no_other() {
    let running = Running::start().await;
    running.get("/api/health").await;
    let docs =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/METRICS.md")).unwrap();
    let mut listed = BTreeMap::new();
    for line in docs.lines().filter(|line| line.starts_with("| `tidegate_")) {
        let mut cells = line.split(" | ");
        let series = cells.next().unwrap().trim_start_matches("| ").trim_matches('`');
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let labels: BTreeSet<String> = labels
            .trim_end_matches('}')
            .split(',')
            .filter(|label| !label.is_empty())
            .map(Into::into)
            .collect();
        let kind = cells.next().unwrap().to_owned();
        let name = match kind.as_str() {
            "counter" => name.strip_suffix("_total").unwrap(),
            "info" => name.strip_suffix("_info").unwrap(),
            _ => name,
        };
        listed.insert(name.to_owned(), (kind, labels));
    }
    let mut exported = exported(&page(&running).await);
    // There are none of these here: nothing was dropped.
    let reason = BTreeSet::from(["reason".to_owned()]);
    exported.entry("tidegate_admin_events_dropped".to_owned()).or_insert(("counter".to_owned(), reason));
    assert_eq!(exported, listed);
}
