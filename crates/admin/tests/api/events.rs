//! Recorded requests: found, downloaded, and followed.

use axum::http::HeaderMap;
use axum::response::IntoResponse;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tidegate_policy::check::Check;
use tidegate_policy::wire::event::{Mismatch, TrafficEvent, VerdictCode};

use crate::command_line::{program, run};
use crate::test_gateway::{event, record};
use crate::test_process::printed;
use crate::test_service::{TestService, binary, each, has};

const EVENTS: &str = "/api/admin/events";

/// Requests 1 to `count`: every third was denied, and each has a path of its own.
fn requests(numbers: std::ops::RangeInclusive<u64>) -> Vec<TrafficEvent> {
    let request = |number| TrafficEvent {
        time_ms: 1_795_456_800_000 + number,
        path: Some(format!("/shop/{number}").into_bytes()),
        method: Some(b"GET".to_vec()),
        client: Some([192, 0, 2, (number % 7) as u8].into()),
        duration_us: Some(1_500),
        user_agent: Some(b"=1+1".to_vec()),
        ..match number % 3 {
            0 => TrafficEvent {
                verdict: VerdictCode::Deny,
                reason: Some("ip_banned".to_owned()),
                status: Some(403),
                ..event(number)
            },
            _ => TrafficEvent { verdict: VerdictCode::Allow, status: Some(200), ..event(number) },
        }
    };
    numbers.map(request).collect()
}

fn numbers(items: &Value) -> Vec<u64> {
    each(items, |event| event["number"].as_u64().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn they_are_filtered_and_come_in_pages_newest_first() {
    let service = TestService::start().await;
    record(&service, 1, requests(1..=40)).await;
    let all: Vec<u64> = (1..=40).rev().collect();
    assert_eq!(numbers(&json!(service.pages(EVENTS, 7).await)), all);
    let first = service.get(&format!("{EVENTS}?limit=1")).await.ok()["items"][0].clone();
    has(
        &first,
        json!({"timestamp": "2026-11-23T18:00:00.04Z", "path": "/shop/40", "duration_ms": 1.5, "complete": true}),
    );
    for (query, wanted) in [
        ("reason=ip_banned", all.iter().copied().filter(|n| n % 3 == 0).collect()),
        ("status=4xx&verdict=deny", all.iter().copied().filter(|n| n % 3 == 0).collect()),
        ("status=200&ip=192.0.2.0", all.iter().copied().filter(|n| n % 7 == 0 && n % 3 != 0).collect()),
        ("path=/shop/4&method=get", vec![40, 4]),
        ("since=2026-11-23T18:00:00.039Z", vec![40, 39]),
        ("until=2026-11-23T18:00:00.002Z&host=a.example", vec![]),
    ] {
        assert_eq!(
            numbers(&service.get(&format!("{EVENTS}?{query}")).await.ok()["items"]),
            wanted,
            "{query}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_match_is_refused_with_its_parameter() {
    let service = TestService::start().await;
    record(&service, 1, requests(1..=9)).await;
    let page = service.get(&format!("{EVENTS}?limit=2&verdict=allow")).await.ok();
    let cursor = page["next"].as_str().unwrap().to_owned();
    let wrong = [
        ("since", "since=2999-01-01".to_owned()),
        ("until", "until=2999-01-01".to_owned()),
        ("until", "since=1h&until=2h".to_owned()),
        ("ip", "ip=1.2.3".to_owned()),
        ("country", "country=Germany".to_owned()),
        ("path", "path=shop".to_owned()),
        ("path", "path=/shop?secret=1".to_owned()),
        ("status", "status=600".to_owned()),
        ("status", "status=6xx".to_owned()),
        ("verdict", "verdict=maybe".to_owned()),
        ("reason", "reason=banned".to_owned()),
        ("reason", "reason=ip_banned&verdict=allow".to_owned()),
        ("method", "method=".to_owned()),
        ("limit", "limit=1001".to_owned()),
        ("limit", "limit=1000001&format=csv".to_owned()),
        ("format", "format=xml".to_owned()),
        ("cursor", format!("cursor={cursor}")),
        ("cursor", format!("verdict=deny&cursor={cursor}")),
        ("cursor", "cursor=61".to_owned()),
        ("colour", "colour=red".to_owned()),
    ];
    for (parameter, query) in wrong {
        let problem = service.get(&format!("{EVENTS}?{query}")).await.problem(400, "invalid_parameter");
        assert_eq!(problem["errors"][0]["parameter"], parameter, "{query}: {problem}");
    }
    let next = service.get(&format!("{EVENTS}?limit=9&verdict=allow&cursor={cursor}")).await.ok();
    assert_eq!(numbers(&next["items"]), [5, 4, 2, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn downloads_have_all_of_them() {
    let service = TestService::start().await;
    let empty = service.get(&format!("{EVENTS}?format=csv")).await;
    assert_eq!(String::from_utf8(empty.bytes).unwrap().lines().count(), 1);
    record(&service, 1, requests(1..=1_200)).await;
    let csv = service.get(&format!("{EVENTS}?format=csv")).await;
    assert!(csv.headers["content-type"].to_str().unwrap().starts_with("text/csv"));
    let csv = String::from_utf8(csv.bytes).unwrap();
    assert_eq!(csv.lines().count(), 1_201);
    assert!(
        csv.starts_with("timestamp,node,source,number,method,host,path,"),
        "{}",
        csv.lines().next().unwrap()
    );
    assert!(csv.contains("'=1+1"), "a spreadsheet would take it for a formula");
    let lines = service.get(&format!("{EVENTS}?format=jsonl&limit=700&path=/shop/")).await;
    let lines = String::from_utf8(lines.bytes).unwrap();
    let found: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(numbers(&json!(found)), (501..=1_200).rev().collect::<Vec<_>>());
    assert_eq!(found[0]["user_agent"], "=1+1");
}

/// A service whose streams of events end: the first after one event, the second, which must go on behind it, after
/// another, and the third is refused.
async fn ending_streams() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let answer = async |headers: HeaderMap| match headers.get("last-event-id").map(|id| id.to_str().unwrap())
    {
        None => "id: 7\ndata: {\"path\":\"/first\"}\n\n".into_response(),
        Some("7") => "id: 8\ndata: {\"path\":\"/second\"}\n\n".into_response(),
        Some(other) => {
            let problem =
                json!({"status": 401, "code": "unauthorized", "detail": format!("revoked after {other}")});
            (StatusCode::UNAUTHORIZED, axum::Json(problem)).into_response()
        }
    };
    let app = axum::Router::new().route(EVENTS, axum::routing::get(answer));
    tokio::spawn(async move { axum::serve(listener, app).await });
    url
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_follows_on_where_a_stream_ended_until_its_token_is_revoked() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = program(dir.path());
    command.args(["events", "--follow", "-o", "json", "--server", &ending_streams().await]);
    command.env("TIDEGATE_TOKEN", "t");
    let said = run(command, "").await;
    assert_eq!((said.code, said.out.as_str()), (Some(1), "{\"path\":\"/first\"}\n{\"path\":\"/second\"}\n"));
    assert!(said.err.lines().count() == 1 && said.err.contains("revoked after 8"), "{said:?}");
}

/// Reads server-sent events until `count` of them have data; returns these, and the last id.
async fn read(answer: &mut reqwest::Response, count: usize) -> (Vec<Value>, String) {
    let (mut text, mut found, mut id) = (String::new(), Vec::new(), String::new());
    while found.len() < count {
        let chunk = answer.chunk().await.unwrap().expect("the stream goes on");
        text.push_str(str::from_utf8(&chunk).unwrap());
        while let Some((line, rest)) = text.split_once('\n') {
            match line.split_once(": ") {
                Some(("data", data)) => found.push(serde_json::from_str(data).unwrap()),
                Some(("id", next)) => next.clone_into(&mut id),
                _ => {}
            }
            text = rest.to_owned();
        }
    }
    (found, id)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_follows_gets_what_comes_and_goes_on_where_it_was() {
    let service = TestService::start().await;
    record(&service, 1, requests(1..=9)).await;
    let follow = async |id: Option<&str>| {
        let mut request = service.as_operator(Method::GET, &format!("{EVENTS}?verdict=deny"));
        if let Some(id) = id {
            request = request.header("last-event-id", id);
        }
        let answer = request.header("accept", "text/event-stream").send().await.unwrap();
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        answer
    };
    let mut first = follow(None).await;
    // Its first words say that it is there.
    assert!(first.chunk().await.unwrap().unwrap().starts_with(b": "));
    record(&service, 10, requests(10..=15)).await;
    let (found, id) = read(&mut first, 2).await;
    assert_eq!(numbers(&json!(found)), [12, 15]);
    drop(first);
    record(&service, 16, requests(16..=21)).await;
    let (found, _) = read(&mut follow(Some(&id)).await, 2).await;
    assert_eq!(numbers(&json!(found)), [18, 21]);
    for (wrong, status) in [("limit=5", 400), ("cursor=00", 400)] {
        let request = service.as_operator(Method::GET, &format!("{EVENTS}?{wrong}"));
        let answer = request.header("accept", "text/event-stream").send().await.unwrap();
        assert_eq!(answer.status(), status, "{wrong}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_lists_them() {
    let service = TestService::start().await;
    record(&service, 1, requests(1..=9)).await;
    let run = async |args: &[&str]| {
        let mut command = tokio::process::Command::new(binary());
        command.arg("events").args(args).args(["--server", &service.people("")]);
        printed(&command.env("TIDEGATE_TOKEN", &service.admin).output().await.unwrap())
    };
    let said = run(&["--reason", "ip_banned"]).await;
    assert!(said.contains("/shop/9") && said.lines().count() == 4, "{said}");
    let said: Value = serde_json::from_str(&run(&["--limit", "2", "-o", "json"]).await).unwrap();
    assert_eq!(numbers(&said["items"]), [9, 8]);
    assert_eq!(run(&["--format", "csv", "--limit", "3"]).await.lines().count(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_database_and_gateway_answered_differently_is_shown_with_both_answers() {
    let service = TestService::start().await;
    let mut events = requests(1..=4);
    for (event, (check, cached_seq)) in events.iter_mut().zip([(Check::Route, 7), (Check::Ip, 9)]) {
        let [direct, cached] =
            ["shop rule 0 to a:80, geo eu", "shop rule 0 to b:80, geo eu"].map(str::to_owned);
        event.mismatches = vec![Mismatch { check, direct, cached, direct_seq: 9, cached_seq }];
    }
    record(&service, 1, events).await;
    let path = "/api/admin/optimization/shadow/mismatches";
    let items = service.pages(path, 1).await;
    assert_eq!(numbers(&json!(items)), [2, 1]);
    has(
        &items[1],
        json!({"path": "/shop/1", "method": "GET", "client_ip": "192.0.2.1", "verdict": "allow", "mismatches": [{
            "check": "route", "direct": "shop rule 0 to a:80, geo eu", "cached": "shop rule 0 to b:80, geo eu",
            "difference": {"direct": "a:80,", "cached": "b:80,"}, "direct_seq": 9, "cached_seq": 7, "lagging": true}]}),
    );
    for (query, wanted) in
        [("check=ip", vec![2]), ("lagging=true", vec![1]), ("check=ip&lagging=true", vec![])]
    {
        assert_eq!(numbers(&service.get(&format!("{path}?{query}")).await.ok()["items"]), wanted, "{query}");
    }
    assert_eq!(numbers(&service.get(&format!("{EVENTS}?mismatch=any")).await.ok()["items"]), [2, 1]);
    for query in ["check=limit", "lagging=yes", "cursor=00"] {
        assert_eq!(service.get(&format!("{path}?{query}")).await.status, 400, "{query}");
    }
    let mut command = tokio::process::Command::new(binary());
    command.args(["flags", "mismatches", "--check", "route", "--server", &service.people("")]);
    let printed = printed(&command.env("TIDEGATE_TOKEN", &service.admin).output().await.unwrap());
    assert!(printed.contains("/shop/1") && printed.contains("to b:80"), "{printed}");
}
