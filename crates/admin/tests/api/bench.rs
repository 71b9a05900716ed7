//! `tidegate bench` and `tidegate watch`, by the program itself on a running service.

use std::process::Stdio;

use serde_json::{Value, json};
use tidegate_policy::wire::event::{TrafficEvent, VerdictCode};

use crate::command_line::{Desk, program, run};
use crate::test_gateway::{event, record};
use crate::test_process::Process;
use crate::test_service::{TestService, has, until};

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(json_of).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_is_measured_saved_and_compared() {
    let (service, authority) = TestService::start_with_tls(|_, _| ()).await;
    let desk = Desk::new(&service);
    let bench = async |args: &[&str]| {
        let mut command = program(desk.dir.path());
        command.arg("bench").args(args);
        run(command, "").await
    };
    let url = service.people("/api/health");
    let ca = authority.file().display().to_string();
    let load = ["-n", "60", "-c", "3", "--ca", &ca];
    let saved = bench(&[&[url.as_str(), "--save", "a.json", "-o", "json"][..], &load].concat()).await.done();
    has(
        &json_of(&saved),
        json!({"format": "tidegate-bench/1", "loop": "closed", "requests": 60, "connections": 3, "errors": {},
            "status": {"200": 60}, "success_percent": 100.0, "latency": {"count": 60}, "targets": null}),
    );
    let again = bench(&[&[url.as_str(), "--save", "a.json"][..], &load].concat()).await.failed();
    assert!(again.contains("add --force"), "{again}");
    let text = bench(&[&[url.as_str(), "--save", "b.json"][..], &load].concat()).await.done();
    assert!(text.contains("60 over 3 connections") && text.contains("60 times 200"), "{text}");
    let compared = json_of(&bench(&["compare", "a.json", "b.json", "-o", "json"]).await.done());
    has(&compared, json!({"confidence": 0.95, "measured_differently": []}));
    assert_eq!(compared["figures"][0]["figure"], "P50");
    let page = bench(&["compare", "a.json", "b.json", "-o", "markdown"]).await.done();
    assert!(page.contains("| P99, ms") && page.contains("nothing can be said with under 1000"), "{page}");
    desk.file("c.json", &saved.replace("\"bytes\"", "\"octets\""));
    let refused = bench(&["compare", "a.json", "c.json"]).await.failed();
    assert!(refused.contains("c.json") && refused.contains("`octets`"), "{refused}");

    // What nobody may expect to hold is missed, and the exit status says so.
    let missed = bench(&[&[url.as_str(), "--targets", "--p99", "0.000001"][..], &load].concat()).await;
    assert!(missed.code == Some(1) && missed.out.contains("< 0.000001 ms"), "{missed:?}");
    let held = ["--targets", "--p50", "60000", "--p95", "60000", "--p99", "60000"];
    bench(&[&[url.as_str()][..], &held, &load].concat()).await.done();
    let untrusted = bench(&[&url, "-n", "1", "-o", "json"]).await;
    assert_eq!(untrusted.code, Some(1), "{untrusted:?}");
    has(&json_of(&untrusted.out), json!({"errors": {"tls": {"count": 1}}, "success_percent": 0.0}));
    let other = bench(&["http://192.0.2.1/"]).await;
    assert!(other.code == Some(2) && other.err.contains("--i-own-this"), "{other:?}");

    let pair = ["proxy-vs-direct", &url, &url, "--rounds", "6", "-n", "5", "--ca", &ca];
    let page = bench(&[&pair[..], &["-o", "markdown"]].concat()).await.done();
    assert!(page.contains("| the gate adds") && page.contains("6 rounds of 5 requests"), "{page}");
    let missing = service.people("/api/nothing");
    let unlike =
        bench(&["proxy-vs-direct", &missing, &url, "--rounds", "1", "-n", "5", "--ca", &ca]).await.failed();
    assert!(unlike.contains("[401]") && unlike.contains("[200]"), "{unlike}");
}

/// Ten requests of this minute and ten of the next, of which each took a millisecond.
async fn record_requests(service: &TestService) {
    let now = u64::try_from(tidegate_admin::store::time_text::now_ms()).unwrap();
    let request = |number| TrafficEvent {
        time_ms: now + if number > 10 { 60_000 } else { 0 },
        verdict: VerdictCode::Allow,
        status: Some(200),
        duration_us: Some(1_000),
        ..event(number)
    };
    record(service, 1, (1..=20).map(request).collect()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_says_whether_all_was_well() {
    let service = TestService::start().await;
    record_requests(&service).await;
    let desk = Desk::new(&service);
    let probe = service.people("/api/health");
    let args = ["--every", "200ms", "--for", "400ms", "--save", "w.jsonl", "--probe", &probe];
    let slow = ["--p50", "60000", "--p95", "60000", "--p99", "60000"];
    let watch = [&args[..], &slow].concat();
    let said = desk.tidegate("watch", &[&watch[..], &["-o", "json"]].concat()).await.done();
    let said = lines(&said);
    let (verdict, looks) = said.split_last().unwrap();
    has(verdict, json!({"stable": true, "failed": 0, "because": []}));
    assert!(!looks.is_empty() && verdict["looks"] == looks.len(), "{said:?}");
    has(
        &looks[0],
        json!({"number": 0, "failed": null, "health": {"status": "ok"},
        "recording": {"numbered": 20, "stored": 20}, "probe": {"requests": 10, "successes": 10}}),
    );
    let requests = looks[0]["traffic"]["requests"].as_u64().unwrap();
    assert!(
        requests == 20 || requests == 10,
        "{requests}: of this minute and the next, or of the next alone"
    );
    let file = lines(&std::fs::read_to_string(desk.dir.path().join("w.jsonl")).unwrap());
    assert_eq!((&file[0]["format"], &file[1..]), (&json!("tidegate-watch/1"), looks));

    // Over: only its verdict, in the form that is asked for.
    let page = desk.tidegate("watch", &[&watch[..], &["-o", "markdown"]].concat()).await.done();
    assert!(page.contains("stable: ") && page.contains("| probe's P50"), "{page}");

    service.sql("INSERT INTO ip_monitor (ip) VALUES ('1.2.3.4/99')");
    until("health says so", async || (!service.health_codes("reasons").await.is_empty()).then_some(())).await;
    let unwell = ["--every", "100ms", "--for", "100ms", "--save", "u.jsonl"];
    let said = desk.tidegate("watch", &[&unwell[..], &slow].concat()).await;
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.out.contains("NOT WELL health: degraded rows_quarantined"), "{said:?}");
    assert!(said.out.contains("health missed its target") && said.out.contains("not stable: "), "{said:?}");
    let others = desk.tidegate("watch", &["--every", "1s", "--for", "5s", "--save", "u.jsonl"]).await;
    assert!(others.code == Some(2) && others.err.contains("--every was 100 ms"), "{others:?}");
    let mut nobody = program(desk.dir.path());
    nobody
        .args(["watch", "--save", "n.jsonl", "--server", &service.people("")])
        .env("TIDEGATE_TOKEN", "tg_wrong");
    let nobody = run(nobody, "").await;
    assert!(nobody.code == Some(2) && nobody.err.contains("does not take the token"), "{nobody:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_survives_the_service_and_itself() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = Process::start(dir.path()).await;
    std::fs::write(dir.path().join("token"), &process.token).unwrap();
    let people = process.people.clone();
    let watch = |output: Stdio| {
        let mut command = program(dir.path());
        command.args(["watch", "--every", "100ms", "--for", "1h", "--save", "w.jsonl", "--server", &people]);
        command.args(["--token-file", "token"]).stdout(output).stderr(Stdio::inherit()).kill_on_drop(true);
        command.spawn().unwrap()
    };
    let looks = || {
        let text = std::fs::read_to_string(dir.path().join("w.jsonl")).unwrap_or_default();
        // The last line may be about to be written.
        lines(text.rsplit_once('\n').map_or("", |(whole, _)| whole))
    };
    let mut first = watch(Stdio::null());
    until("looks are taken", async || (looks().len() > 2).then_some(())).await;
    first.kill().await.unwrap();
    let before = looks();
    process.signal("-TERM");
    process.end().await;
    let mut second = watch(Stdio::null());
    until("the service is away", async || {
        looks().iter().any(|look| look["failed"].is_string()).then_some(())
    })
    .await;
    second.kill().await.unwrap();
    let after = looks();
    assert_eq!(after[..before.len()], before, "it goes on in the same file");
    let failed: Vec<&Value> = after.iter().filter(|look| look["failed"].is_string()).collect();
    assert!(failed[0]["failed"].as_str().unwrap().contains("nobody answers at"), "{failed:?}");
}
