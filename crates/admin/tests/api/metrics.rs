//! `GET /metrics`.

use reqwest::Method;
use tidegate_admin::metrics::{ALL, EVENTS_DROPPED};

use crate::test_service::{Answered, TestService, until};

/// The page, requested without a token.
pub async fn page(service: &TestService) -> String {
    let answer = Answered::to(service.as_nobody(Method::GET, service.people("/metrics"))).await;
    assert_eq!(answer.status, 200);
    let media = answer.headers["content-type"].to_str().unwrap();
    assert!(media.starts_with("application/openmetrics-text; version=1.0.0"), "{media}");
    let text = String::from_utf8(answer.bytes).unwrap();
    assert!(text.ends_with("# EOF\n"), "{text}");
    text
}

/// A value by its name with its labels.
pub fn figure(page: &str, series: &str) -> Option<f64> {
    page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_shows() {
    let service = TestService::start().await;
    service.post("/api/admin/ip/ban", r#"{"ip": "1.2.3.4"}"#).await.ok();
    service.get("/api/admin/routes/nothing").await.problem(404, "route_not_found");
    service.get("/nowhere").await.problem(404, "not_found");
    service.sql("INSERT INTO ip_monitor (ip, status) VALUES ('nonsense', 'banned')");
    // A list waits until the feed has caught up.
    service.get("/api/admin/ip-monitor").await.ok();
    let page = page(&service).await;
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
    let service = TestService::start().await;
    let other = service.connect();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    service.post("/api/admin/ip/ban", r#"{"ip": "1.2.3.4"}"#).await.problem(503, "store_busy");
    until("the lock is told of", async || {
        figure(&page(&service).await, "tidegate_admin_store_locked_seconds").filter(|seconds| *seconds > 1.0)
    })
    .await;
    other.execute_batch("ROLLBACK").unwrap();
    assert!(figure(&page(&service).await, "tidegate_admin_store_lock_waits_total").unwrap() >= 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_slowed_down_by_address_and_operators_are_not() {
    let service = TestService::start().await;
    let mut flood = tokio::task::JoinSet::new();
    for at in 0..280 {
        let path = if at % 2 == 0 { "/metrics" } else { "/api/admin/routes" };
        flood.spawn(Answered::to(service.as_nobody(Method::GET, service.people(path))));
    }
    // At the same time, from the same address.
    service.post("/api/admin/ip/ban", r#"{"ip": "1.2.3.4"}"#).await.ok();
    let (mut answered, mut refused) = (0, 0);
    while let Some(answer) = flood.join_next().await {
        let answer = answer.unwrap();
        match answer.status.as_u16() {
            200 | 401 => answered += 1,
            _ => {
                answer.problem(429, "too_many_requests");
                refused += 1;
            }
        }
    }
    assert!(answered >= 200 && refused > 0, "{answered} {refused}");
    let page = until("the page says so", async || {
        let page = page(&service).await;
        figure(&page, r#"tidegate_admin_requests_limited_total{how="refused"}"#)
            .filter(|count| *count > 0.0)
            .map(|_| page)
    })
    .await;
    assert!(
        figure(&page, r#"tidegate_admin_requests_limited_total{how="delayed"}"#).unwrap() >= 100.0,
        "{page}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_is_made_once_a_second_at_most() {
    let service = TestService::start().await;
    let first = page(&service).await;
    let mut pages = tokio::task::JoinSet::new();
    for _ in 0..40 {
        pages.spawn(Answered::to(service.as_nobody(Method::GET, service.people("/metrics"))));
    }
    let pages: std::collections::HashSet<_> =
        pages.join_all().await.into_iter().map(|answer| String::from_utf8(answer.bytes).unwrap()).collect();
    assert!(pages.len() <= 2, "{} different pages beside {first}", pages.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_has_every_metric_that_is_declared() {
    let (service, _) = TestService::start_with_tls(|_, _| ()).await;
    service.get("/api/health").await.ok();
    let page = page(&service).await;
    // Absent here: nothing was dropped.
    for metric in ALL.iter().filter(|metric| metric.name != EVENTS_DROPPED.name) {
        let kind = format!("{:?}", metric.kind).to_lowercase();
        assert!(page.contains(&format!("# TYPE {} {kind}\n", metric.name)), "{}\n{page}", metric.name);
    }
    service.get("/metrics?name=x").await.problem(400, "invalid_parameter");
    service.post("/metrics", "").await.problem(405, "method_not_allowed");
}
