//! Events on a real Envoy: one row per request, no more and no fewer.

use std::time::Duration;

use anyhow::Result;
use tidegate_stack::http::{Method, Request};
use tidegate_stack::load::Load;
use tidegate_stack::{Options, Stack};

fn exactly_one_row_per_request(name: &str, recorder: bool) -> Result<()> {
    let mut options = Options::for_test(name)?;
    options.recorder = recorder;
    let stack = Stack::start_serving(options)?;
    let before = stack.recorded(Duration::from_secs(20))?;

    let tally = Load::start(stack.gate(), 50, Some(1_000), |number| {
        let client = if number % 10 == 0 { "192.0.2.13" } else { "192.0.2.14" };
        Request::get(&format!("/events/{number}?secret=1")).from(client).header("user-agent", "events-test")
    })
    .finish();
    assert_eq!((tally.status(200), tally.status(403), tally.failed), (900, 100, 0), "{tally:?}");

    let after = stack.recorded(Duration::from_secs(20))?;
    assert!(after.is_whole(), "{after:?}");
    assert_eq!(after.stored, before.stored + 1_000);

    let mut sql = stack.sql()?;
    assert_eq!(sql.number("SELECT count(*) FROM traffic_events WHERE path LIKE '/events/%'")?, 1_000);
    assert_eq!(
        sql.number("SELECT count(DISTINCT path) FROM traffic_events WHERE path LIKE '/events/%'")?,
        1_000
    );
    let guide = "SELECT count(*) FROM traffic_events \
                 WHERE timestamp > datetime('now', '-5 minutes') AND path LIKE '/events/%'";
    assert_eq!(sql.number(guide)?, 1_000);
    let kinds = sql.run(
        "SELECT client_ip, verdict, coalesce(reason, ''), status, coalesce(route, ''), count(*) \
         FROM traffic_events WHERE path LIKE '/events/%' GROUP BY 1, 2, 3, 4, 5 ORDER BY 1",
    )?;
    assert_eq!(kinds.len(), 2, "{kinds:?}");
    assert!(
        kinds[0].starts_with("192.0.2.13|deny|ip_banned|403|") && kinds[0].ends_with("|100"),
        "{kinds:?}"
    );
    assert!(kinds[1].starts_with("192.0.2.14|allow||200|") && kinds[1].ends_with("|900"), "{kinds:?}");
    let odd = sql.number(
        "SELECT count(*) FROM traffic_events WHERE path LIKE '/events/%' AND NOT \
         (method = 'GET' AND user_agent = 'events-test' AND duration_ms > 0 AND bytes_out > 0)",
    )?;
    assert_eq!(odd, 0, "every row has what is known of its request");
    the_api_says_the_same(&stack)
}

/// The events, their statistics by path and by time.
fn the_api_says_the_same(stack: &Stack) -> Result<()> {
    let get = |target: &str| stack.api_ok(Method::GET, target, None);
    let denied =
        get("/api/admin/events?path=/events/&reason=ip_banned&ip=192.0.2.12/31&status=403&limit=1000")?;
    assert_eq!(denied["items"].as_array().map(Vec::len), Some(100));
    let all = get("/api/admin/events?since=10m&path=/events/&method=GET&limit=1000")?;
    assert_eq!(all["items"].as_array().map(Vec::len), Some(1_000));
    assert_eq!(all["items"][0]["user_agent"], "events-test");

    let mut sql = stack.sql()?;
    let counts =
        "SELECT count(*), sum(verdict = 'deny'), sum(bytes_out) FROM traffic_events WHERE complete = 1";
    let paths = get("/api/admin/stats/paths")?;
    let total = &paths["total"];
    let said = format!("{}|{}|{}", total["requests"], total["denied"], total["bytes_out"]);
    assert_eq!(sql.run(counts)?, [said], "{paths:#}");
    let served = paths["items"].as_array().into_iter().flatten().find(|item| !item["route"].is_null());
    assert!(served.is_some_and(|item| item["duration_ms"]["p95"].as_f64() > Some(0.0)), "{paths:#}");
    let timeline = get("/api/admin/stats/timeline")?;
    let points = timeline["items"].as_array().into_iter().flatten();
    let requests: u64 = points.filter_map(|point| point["requests"].as_u64()).sum();
    assert_eq!(Some(requests), total["requests"].as_u64(), "{timeline:#}");
    let top = get("/api/admin/stats/top?by=reason")?;
    // Requests that waited for the gate to be ready were denied for another reason.
    let banned = top["items"].as_array().into_iter().flatten().find(|item| item["value"] == "ip_banned");
    assert_eq!(banned.and_then(|item| item["requests"].as_u64()), Some(100), "{top:#}");
    Ok(())
}

#[test]
fn a_thousand_requests_are_a_thousand_rows() {
    exactly_one_row_per_request("events", true).unwrap();
}

#[test]
fn a_thousand_requests_are_a_thousand_rows_without_the_recorder() {
    exactly_one_row_per_request("events-bare", false).unwrap();
}
