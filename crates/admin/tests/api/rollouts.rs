//! Rollouts that run: stages that pass, gates that fail, what people ask of a run, restarts and kills in the middle of
//! anything, webhooks, and the report.

mod kills;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use reqwest::Method;
use serde_json::{Value, json};
use tidegate_admin::api::app_state::AppState;
use tidegate_policy::check::{Answered as By, Check, PerCheck};
use tidegate_policy::flags::{Flags, Mode, Modes};
use tidegate_policy::wire::event::{Mismatch, SourceState, TrafficEvent, VerdictCode};

use crate::test_gateway::{EVENTS, batch, post as post_of};
use crate::test_process::{Process, printed, tidegate};
use crate::test_service::{Answered, TestService, client, each, has, until};

const ROLLOUT: &str = "/api/admin/rollouts/routes";
const FLAGS: &str = "/api/admin/optimization/flags";
const ROUTE_CACHE: &str = "enableRouteCache";

/// A stage of the flag of routes.
fn stage(name: &str, state: Value, more: Value) -> Value {
    let mut stage = json!({"name": name, "flags": {ROUTE_CACHE: state}, "hold": "400ms", "min_requests": 300,
        "gates": [{"success": {"at_least": 0.9}}]});
    for (field, value) in more.as_object().unwrap() {
        stage[field] = value.clone();
    }
    stage
}

/// From shadow over a half to all.
fn plan() -> Value {
    json!({"stages": [
        stage("shadow", json!("shadow"), json!({"gates": [{"mismatches": {"at_most": 0, "compared_at_least": 100}}]})),
        stage("half", json!({"percent": 50}), json!({})),
        stage("all", json!(true), json!({})),
    ]})
}

/// Traffic of a gateway that goes by the flags, until it is dropped.
struct Traffic(tokio::task::JoinHandle<()>);

impl Drop for Traffic {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What a gateway knows.
type Known = (Flags, u64);

/// 40 requests of other clients, as they end with these tables.
fn requests(first: u64, (flags, seq): Known, adjust: &dyn Fn(&mut TrafficEvent)) -> Vec<TrafficEvent> {
    let time_ms = jiff::Timestamp::now().as_millisecond().unsigned_abs();
    let one = |number: u64| {
        let client = IpAddr::from(Ipv4Addr::from_bits(
            0x0b00_0000 + (number as u32).wrapping_mul(2_654_435_761) % 5_000,
        ));
        let modes: Modes = flags.modes(Some(client));
        let route = if modes.route == Mode::Cached { By::Cache } else { By::Direct };
        let mut event = TrafficEvent {
            number,
            time_ms,
            client: Some(client),
            status: Some(200),
            verdict: VerdictCode::Allow,
            duration_us: Some(5_000 + number % 7 * 100),
            gate_us: Some(200 + number % 5 * 10),
            tables_seq: seq,
            modes: Some(modes),
            answered: PerCheck { route, ip: By::Direct, ..PerCheck::default() },
            ..TrafficEvent::default()
        };
        adjust(&mut event);
        event
    };
    (first..first + 40).map(one).collect()
}

/// What the service's gateways know.
fn known(app: &AppState) -> Known {
    let snapshot = app.feed.snapshot();
    (snapshot.flags.clone(), snapshot.version.seq)
}

/// Traffic of a gateway of `service`; `adjust` may change each event.
fn traffic(service: &TestService, adjust: impl Fn(&mut TrafficEvent) + Send + 'static) -> Traffic {
    let (app, numbers) = (service.running.app_state().clone(), AtomicU64::new(1));
    let url = service.gateways(EVENTS);
    let (client, token) = (client(), service.gateway.clone());
    Traffic(tokio::spawn(async move {
        loop {
            let first = numbers.fetch_add(40, Ordering::Relaxed);
            let bytes = {
                let events = requests(first, known(&app), &adjust);
                post_of([batch(first, events)], first + 39, SourceState::Alive)
            };
            let request =
                client.post(&url).bearer_auth(&token).header("x-tidegate-gateway", "node-1;00000000000000aa");
            if request.body(bytes).send().await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }))
}

async fn start(service: &TestService, plan: &Value) {
    service.put_json(ROLLOUT, plan).await.ok();
    let started = service.post(&format!("{ROLLOUT}/start"), "").await.ok();
    has(&started["status"], json!({"run": 1, "phase": "running", "started_by": "admin", "stage_number": 1}));
}

async fn status(service: &TestService) -> Value {
    service.get(ROLLOUT).await.ok()["status"].clone()
}

/// Waits until the run is in this phase, and in this stage.
async fn reaches(service: &TestService, phase: &str, stage: &str) -> Value {
    until(&format!("{phase} in {stage}"), async || {
        let status = status(service).await;
        (status["phase"] == phase && status["stage"] == stage).then_some(status)
    })
    .await
}

async fn flag(service: &TestService) -> Value {
    service.get(FLAGS).await.ok()[ROUTE_CACHE].clone()
}

/// The steps of rollouts in the audit, oldest first: who, and what it says.
async fn steps(service: &TestService) -> Vec<(String, String)> {
    let audit = service.get("/api/admin/audit?kind=rollout-step").await.ok();
    let step = |entry: &Value| {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (text(&entry["actor"]), text(&entry["after"]["says"]))
    };
    let mut steps = each(&audit["items"], step);
    steps.reverse();
    steps
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_goes_from_off_to_on_without_a_hand_on_it_and_reports_every_stage() {
    let service = TestService::start().await;
    let _traffic = traffic(&service, |_| {});
    start(&service, &plan()).await;
    service.delete(ROLLOUT).await.problem(409, "rollout_active");
    service.post(&format!("{ROLLOUT}/start"), "").await.problem(409, "rollout_active");
    let other = "/api/admin/rollouts/other";
    service.put_json(other, &plan()).await.ok();
    let refused = service.post(&format!("{other}/start"), "").await.problem(409, "rollout_active");
    assert!(refused["detail"].as_str().unwrap().contains("`routes`"), "{refused}");
    let changed = service.put_json(ROLLOUT, &plan()).await.ok();
    assert!(changed["warnings"].to_string().contains("next"), "{changed}");
    let curves = until("both groups are measured", async || {
        let curves = service.get(&format!("{ROLLOUT}/figures")).await.ok();
        let is_both = |point: &Value| point["control"]["requests"] != 0 && point["treated"]["requests"] != 0;
        each(&curves["slices"], is_both).contains(&true).then_some(curves)
    })
    .await;
    assert_eq!(curves["stage"], "half", "{curves}");
    let end = reaches(&service, "completed", "all").await;
    has(&end, json!({"reason": null, "stages": 3}));
    assert_eq!(flag(&service).await, true);
    let report = service.get(&format!("{ROLLOUT}/report")).await.ok();
    assert_eq!(each(&report["stages"], |stage| stage["decision"].clone()), ["passed"; 3], "{report}");
    let half = &report["stages"][1]["groups"];
    for group in ["control", "treated"] {
        assert!(half[group]["requests"].as_u64().unwrap() > 20, "{report}");
        assert!(half[group]["total"]["p95"].as_u64().unwrap() > 4_900, "{report}");
    }
    let all = &report["stages"][2]["groups"];
    assert_eq!(
        (&all["control"]["requests"], &all["treated"]["checks"]["route"]["direct"]),
        (&json!(0), &json!(0))
    );
    let asked =
        service.as_operator(Method::GET, &format!("{ROLLOUT}/report")).header("accept", "text/markdown");
    let page = Answered::to(asked).await;
    let page = String::from_utf8(page.bytes).unwrap();
    assert!(page.contains("half") && page.contains("completed"), "{page}");
    assert_eq!(service.get(&format!("{ROLLOUT}/report?format=markdown")).await.status, 200);
    let steps = steps(&service).await;
    assert!(steps.iter().skip(1).all(|(who, _)| who == "rollouts/routes"), "{steps:?}");
    assert_eq!(steps[0].0, "admin");
    let metrics = crate::metrics::page(&service).await;
    let figure = |series: &str| crate::metrics::figure(&metrics, series);
    assert_eq!(figure(r#"tidegate_admin_rollout_steps_total{kind="stage_entered"}"#), Some(3.0));
    assert_eq!(figure(r#"tidegate_admin_rollout_phase{phase="running"}"#), Some(0.0));
    // The next run begins where this one ended, and the document may go once it has.
    let again = service.post(&format!("{ROLLOUT}/start"), "").await.ok();
    assert_eq!(again["status"]["run"], 2);
    service.post(&format!("{ROLLOUT}/abort"), "").await.ok();
    assert_eq!(flag(&service).await, true);
    service.delete(ROLLOUT).await.ok();
    service.get(&format!("{ROLLOUT}/report")).await.problem(404, "rollout_not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_fails_takes_all_back_and_says_why() {
    let service = TestService::start().await;
    service.put_json(FLAGS, &json!({ROUTE_CACHE: "shadow"})).await.ok();
    // The cache is wrong for those who are answered from it.
    let _traffic = traffic(&service, |event| {
        if event.modes.is_some_and(|modes| modes.route == Mode::Cached) {
            event.status = Some(503);
        }
    });
    start(&service, &json!({"stages": [stage("half", json!({"percent": 50}), json!({"hold": "1h"}))]})).await;
    let end = reaches(&service, "rolled_back", "half").await;
    has(&end, json!({"cause": "gate_failed", "by": null}));
    assert!(end["reason"].as_str().unwrap().contains("success"), "{end}");
    // To what it was before.
    assert_eq!(flag(&service).await, "shadow");
    let audit = service.get(&format!("/api/admin/audit?kind=flag&name={ROUTE_CACHE}")).await.ok();
    has(&audit["items"][0], json!({"actor": "rollouts/routes", "after": "shadow"}));
    let steps = steps(&service).await;
    assert!(steps.iter().any(|(_, says)| says.contains("rolled back")), "{steps:?}");
    let report = service.get(&format!("{ROLLOUT}/report")).await.ok();
    has(&report["stages"][0], json!({"decision": "rolled_back"}));
    service.post(&format!("{ROLLOUT}/approve"), "").await.problem(409, "wrong_phase");
}

#[tokio::test(flavor = "multi_thread")]
async fn mismatches_in_shadow_are_a_failure_and_lagging_ones_are_none() {
    let service = TestService::start().await;
    let wrong = Arc::new(AtomicU64::new(u64::MAX));
    let from = Arc::clone(&wrong);
    let _traffic = traffic(&service, move |event| {
        let (direct_seq, cached_seq) = match event.number {
            number if number >= from.load(Ordering::Relaxed) => (5, 5),
            number if number.is_multiple_of(9) => (5, 4),
            _ => return,
        };
        let [direct, cached] = ["a", "b"].map(str::to_owned);
        event.mismatches.push(Mismatch { check: Check::Route, direct, cached, direct_seq, cached_seq });
    });
    let gates = json!({"gates": [{"mismatches": {"at_most": 0, "compared_at_least": 200}}], "hold": "1h",
        "on_failure": "pause"});
    start(&service, &json!({"stages": [stage("shadow", json!("shadow"), gates)]})).await;
    until("lagging ones are compared", async || {
        let status = status(&service).await;
        (status["gates"][0]["verdict"] == "holds").then_some(())
    })
    .await;
    wrong.store(0, Ordering::Relaxed);
    let paused = reaches(&service, "paused", "shadow").await;
    has(&paused, json!({"cause": "gate_failed"}));
    assert_eq!(flag(&service).await, "shadow");
    assert_eq!(service.health_codes("reasons").await, ["rollout_paused", "shadow_mismatch"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sets_a_flag_by_hand_pauses_the_run_and_is_named() {
    let service = TestService::start().await;
    let _traffic = traffic(&service, |_| {});
    start(&service, &json!({"stages": [stage("half", json!({"percent": 50}), json!({"hold": "1h"}))]})).await;
    service.put_json(FLAGS, &json!({ROUTE_CACHE: false})).await.ok();
    let paused = reaches(&service, "paused", "half").await;
    has(&paused, json!({"cause": "flags_changed", "by": "admin"}));
    assert!(paused["reason"].as_str().unwrap().contains(ROUTE_CACHE), "{paused}");
    assert_eq!(flag(&service).await, false);
    service.post(&format!("{ROLLOUT}/pause"), "").await.problem(409, "wrong_phase");
    let resumed = service.post(&format!("{ROLLOUT}/resume?wait_applied=1s"), "").await.ok();
    has(&resumed, json!({"status": {"phase": "running", "requests": 0}, "applied": {"of": 1}}));
    assert_eq!(flag(&service).await, json!({"percent": 50}));
    // By SQL, too.
    service.sql("UPDATE flags SET value = 'true'");
    let paused = reaches(&service, "paused", "half").await;
    has(&paused, json!({"cause": "flags_changed", "by": "sql"}));
    let aborted = service.post(&format!("{ROLLOUT}/abort"), "").await.ok();
    has(&aborted["status"], json!({"phase": "aborted", "by": "admin"}));
    assert_eq!(flag(&service).await, true, "what somebody has set stays");
    // Setting what is set already is somebody's will, too.
    service.post(&format!("{ROLLOUT}/start"), "").await.ok();
    let set = service.put_json(FLAGS, &json!({ROUTE_CACHE: {"percent": 50}})).await.ok();
    assert!(set["warnings"].to_string().contains("`routes` is active: it pauses"), "{set}");
    has(&reaches(&service, "paused", "half").await, json!({"cause": "flags_changed", "by": "admin"}));
    let set = service.put_json(FLAGS, &json!({ROUTE_CACHE: false})).await.ok();
    assert!(set["warnings"].to_string().contains("`routes` is paused"), "{set}");
    service.post(&format!("{ROLLOUT}/abort"), "").await.ok();
    assert_eq!(flag(&service).await, false, "it was on before the run, and was switched off since");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_cannot_be_read_is_said_to_be_and_can_be_ended() {
    let service = TestService::start().await;
    start(&service, &json!({"stages": [stage("half", json!({"percent": 50}), json!({"hold": "1h"}))]})).await;
    // Of a later version.
    service.sql("UPDATE rollout_runs SET state = json_set(state, '$.version', 2), revision = revision + 1");
    has(&reaches(&service, "paused", "unknown").await, json!({"cause": "unreadable", "run": 1}));
    until("health says so", async || {
        service.health_codes("reasons").await.contains(&"rollout_unreadable".to_owned()).then_some(())
    })
    .await;
    service.post(&format!("{ROLLOUT}/resume"), "").await.problem(409, "run_unreadable");
    let refused = service.delete(ROLLOUT).await.problem(409, "rollout_active");
    assert!(refused["detail"].as_str().unwrap().contains("abort"), "{refused}");
    service.post(&format!("{ROLLOUT}/abort"), "").await.ok();
    assert_eq!(flag(&service).await, false);
    let again = service.post(&format!("{ROLLOUT}/start"), "").await.ok();
    has(&again["status"], json!({"run": 2, "phase": "running"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_without_a_document_is_shown_and_can_be_aborted() {
    let service = TestService::start().await;
    start(&service, &json!({"stages": [stage("half", json!({"percent": 50}), json!({"hold": "1h"}))]})).await;
    service.sql("DELETE FROM rollouts");
    until("health says so", async || {
        service.health_codes("reasons").await.contains(&"rollout_removed".to_owned()).then_some(())
    })
    .await;
    let shown = service.get(ROLLOUT).await.ok();
    has(&shown, json!({"removed": true, "status": {"phase": "running"}}));
    let list = service.get("/api/admin/rollouts").await.ok();
    has(&list["items"][0], json!({"name": "routes", "removed": true, "status": {"phase": "running"}}));
    // It may be put back as it was shown.
    service.put_json(ROLLOUT, &shown).await.ok();
    assert_eq!(service.get(ROLLOUT).await.ok().get("removed"), None);
    service.sql("DELETE FROM rollouts");
    service.post(&format!("{ROLLOUT}/abort"), "").await.ok();
    assert_eq!(flag(&service).await, false);
    service.get(ROLLOUT).await.problem(404, "rollout_not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stage_waits_for_approval_and_for_requests() {
    let service = TestService::start().await;
    service.post(&format!("{ROLLOUT}/start"), "").await.problem(404, "rollout_not_found");
    service.post(&format!("{ROLLOUT}/pause"), "").await.problem(404, "rollout_not_found");
    let approved = stage("half", json!({"percent": 50}), json!({"approve": true}));
    start(&service, &json!({"stages": [approved, stage("all", json!(true), json!({"timeout": "3s"}))]}))
        .await;
    service.post(&format!("{ROLLOUT}/approve"), "").await.problem(409, "wrong_phase");
    {
        let _traffic = traffic(&service, |_| {});
        reaches(&service, "waiting_for_approval", "half").await;
        assert_eq!(service.health_codes("notes").await, ["rollout_waits"]);
        let approve = async |body: &'static str| service.post(&format!("{ROLLOUT}/approve"), body).await;
        let moved = approve(r#"{"stage": 2}"#).await.problem(409, "run_moved_on");
        assert!(moved["detail"].as_str().unwrap().contains("stage 1 (half)"), "{moved}");
        approve(r#"{"run": 2}"#).await.problem(409, "run_moved_on");
        approve(r#"{"stages": 1}"#).await.problem(422, "invalid_field");
        assert_eq!(status(&service).await["waits_for"], json!(["somebody who approves"]));
        approve(r#"{"run": 1, "stage": 1}"#).await.ok();
        // Who repeats it does not approve the next one.
        approve(r#"{"run": 1, "stage": 1}"#).await.problem(409, "run_moved_on");
    }
    // Nobody comes any more: it neither passes nor fails.
    let paused = reaches(&service, "paused", "all").await;
    has(&paused, json!({"cause": "timed_out"}));
    assert_eq!(flag(&service).await, true);
    let steps = steps(&service).await;
    assert!(steps.iter().any(|(who, _)| who == "admin"), "{steps:?}");
}

/// Traffic of a gateway that posts to a process, which may be away.
fn traffic_to(
    urls: (String, String),
    tokens: (String, String),
    numbers: Arc<AtomicU64>,
    adjust: impl Fn(&mut TrafficEvent) + Send + Sync + 'static,
) -> Traffic {
    Traffic(tokio::spawn(async move {
        let client = client();
        let get = async |path: &str| -> Option<Value> {
            let request = client.get(format!("{}{path}", urls.0)).bearer_auth(&tokens.0);
            request.send().await.ok()?.json().await.ok()
        };
        loop {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let (Some(before), Some(flags), Some(after)) =
                (get("/api/admin/gateways").await, get(FLAGS).await, get("/api/admin/gateways").await)
            else {
                continue;
            };
            let seq = before["version"].as_str().and_then(|version| version.rsplit('.').next()?.parse().ok());
            let (Some(seq), true) = (seq, before["version"] == after["version"]) else { continue };
            let Ok(states) = tidegate_author::read_flags(&flags) else { continue };
            let flags =
                states.into_iter().fold(Flags::default(), |flags, (flag, state)| flags.with(flag, state));
            let first = numbers.load(Ordering::Relaxed);
            let events = requests(first, (flags, seq), &adjust);
            let bytes = post_of([batch(first, events)], first + 39, SourceState::Alive);
            let request = client.post(format!("{}{EVENTS}", urls.1)).bearer_auth(&tokens.1);
            let posted =
                request.header("x-tidegate-gateway", "node-1;00000000000000aa").body(bytes).send().await;
            if posted.is_ok_and(|answer| answer.status().is_success()) {
                numbers.fetch_add(40, Ordering::Relaxed);
            }
        }
    }))
}

/// The state of the run in a database that nobody has open.
fn stored(dir: &Path) -> (String, u32, BTreeMap<String, Value>) {
    let conn = rusqlite::Connection::open(dir.join("tidegate.db")).unwrap();
    let (phase, stage): (String, u32) = conn
        .query_row(
            "SELECT json_extract(state, '$.phase.name'), json_extract(state, '$.stage') FROM rollout_runs",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .unwrap();
    let mut flags = conn.prepare("SELECT name, value FROM flags").unwrap();
    let flags = flags.query_map([], |row| Ok((row.get(0)?, row.get::<_, String>(1)?))).unwrap();
    let flags = flags.map(Result::unwrap).map(|(name, value)| (name, serde_json::from_str(&value).unwrap()));
    (phase, stage, flags.collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_a_run_goes_on_and_flags_are_those_of_its_stage() {
    let dir = tempfile::tempdir().unwrap();
    let made =
        tidegate(dir.path(), &["token", "create", "--name", "edge", "--scope", "gateway"]).output().unwrap();
    let gateway = printed(&made).trim().to_owned();
    let numbers = Arc::new(AtomicU64::new(1));
    let wanted = [json!("shadow"), json!({"percent": 50}), json!(true)];
    let mut has_started = false;
    let mut kills = 0_u64;
    loop {
        let mut process = Process::start(dir.path()).await;
        let ask = async |method: Method, path: &str, body: String| {
            let request =
                client().request(method, format!("{}{path}", process.people)).bearer_auth(&process.token);
            Answered::to(request.body(body)).await
        };
        if !std::mem::replace(&mut has_started, true) {
            ask(Method::PUT, ROLLOUT, plan().to_string()).await.ok();
            ask(Method::POST, &format!("{ROLLOUT}/start"), String::new()).await.ok();
        }
        let urls = (process.people.clone(), process.gateways.clone());
        let traffic =
            traffic_to(urls, (process.token.clone(), gateway.clone()), Arc::clone(&numbers), |_| {});
        // Any moments will do: they are spread over those of all phases.
        let moment = Duration::from_millis(150 + kills * 137 % 1_100);
        let phase = async || ask(Method::GET, ROLLOUT, String::new()).await.ok()["status"]["phase"].clone();
        let ended = tokio::time::timeout(moment, async {
            until("it has completed", async || (phase().await == "completed").then_some(())).await;
        });
        let is_done = ended.await.is_ok();
        drop(traffic);
        process.signal("-KILL");
        process.end().await;
        let (phase, stage, flags) = stored(dir.path());
        assert_eq!(
            flags.get(ROUTE_CACHE),
            wanted.get(usize::try_from(stage).unwrap()),
            "{phase} after {kills}"
        );
        // It may have completed since it was last asked.
        if is_done || phase == "completed" {
            assert_eq!((phase.as_str(), stage), ("completed", 2));
            break;
        }
        assert_eq!(phase, "running");
        kills += 1;
        assert!(kills < 100, "it does not come to its end");
    }
    assert!(kills > 2, "killed {kills} times only");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_it_goes_back_a_run_has_gone_back_or_does() {
    let dir = tempfile::tempdir().unwrap();
    let long = json!({"stages": [stage("half", json!({"percent": 50}), json!({"hold": "1h"}))]});
    for (kill, asked) in ["pause", "abort", "abort", "abort"].iter().enumerate() {
        let mut process = Process::start(dir.path()).await;
        let request = |method: Method, path: &str| {
            client().request(method, format!("{}{path}", process.people)).bearer_auth(&process.token)
        };
        Answered::to(request(Method::PUT, ROLLOUT).body(long.to_string())).await.ok();
        let started = Answered::to(request(Method::POST, &format!("{ROLLOUT}/start"))).await;
        assert!(started.status == 200 || started.status == 409, "{}", started.json());
        let asks = tokio::spawn(request(Method::POST, &format!("{ROLLOUT}/{asked}")).send());
        tokio::time::sleep(Duration::from_micros(kill as u64 * 1_300)).await;
        process.signal("-KILL");
        process.end().await;
        let _ = asks.await;
        let (phase, _, flags) = stored(dir.path());
        let state = flags.get(ROUTE_CACHE).cloned().unwrap_or_default();
        match phase.as_str() {
            "aborted" => assert_eq!(state, false),
            "running" | "paused" => assert_eq!(state, json!({"percent": 50})),
            other => panic!("{other}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_database_is_locked_nothing_is_done_and_then_it_goes_on() {
    let service = TestService::start().await;
    let failing = Arc::new(AtomicU64::new(0));
    let fails = Arc::clone(&failing);
    let _traffic = traffic(&service, move |event| {
        let is_cached = event.modes.is_some_and(|modes| modes.route == Mode::Cached);
        if is_cached && fails.load(Ordering::Relaxed) > 0 {
            event.status = Some(503);
        }
    });
    start(&service, &json!({"stages": [stage("half", json!({"percent": 50}), json!({"hold": "1h"}))]})).await;
    until("it measures", async || (status(&service).await["requests"].as_u64()? > 300).then_some(())).await;
    let other = service.connect();
    failing.store(1, Ordering::Relaxed);
    // Longer than a write waits.
    for _ in 0..2 {
        if other.execute_batch("BEGIN IMMEDIATE").is_ok() {
            tokio::time::sleep(Duration::from_millis(2_500)).await;
            other.execute_batch("ROLLBACK").unwrap();
        }
    }
    reaches(&service, "rolled_back", "half").await;
    assert_eq!(flag(&service).await, false);
}

/// A receiver of webhooks.
#[derive(Clone, Default)]
struct Receiver {
    got: Arc<std::sync::Mutex<Vec<(HeaderMap, String)>>>,
    /// Posts that are refused before one is taken.
    refuses: Arc<AtomicU64>,
}

impl Receiver {
    async fn listen(self) -> String {
        let take = async |State(receiver): State<Self>, headers: HeaderMap, body: String| {
            receiver.got.lock().unwrap().push((headers, body));
            let left = receiver.refuses.load(Ordering::Relaxed);
            receiver.refuses.store(left.saturating_sub(1), Ordering::Relaxed);
            if left > 0 { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::NO_CONTENT }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let router = Router::new().route("/hook", post(take)).with_state(self);
        tokio::spawn(async move { axum::serve(listener, router).await });
        url
    }

    /// Types of notices with their ids, in the order in which they came.
    fn notices(&self) -> Vec<(String, String)> {
        let got = self.got.lock().unwrap();
        let one = |(headers, body): &(HeaderMap, String)| {
            let body: Value = serde_json::from_str(body).unwrap();
            (body["type"].as_str().unwrap().to_owned(), headers["webhook-id"].to_str().unwrap().to_owned())
        };
        got.iter().map(one).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_are_told_signed_and_again_until_they_take_it() {
    let files = tempfile::tempdir().unwrap();
    let secret = b"0123456789abcdef01234567";
    std::fs::write(files.path().join("hook"), format!("whsec_{}\n", BASE64_STANDARD.encode(secret))).unwrap();
    let service = TestService::start_with_files(files.path()).await;
    let receiver = Receiver::default();
    receiver.refuses.store(1, Ordering::Relaxed);
    let url = receiver.clone().listen().await;
    // It never answers, which holds up nobody else.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let webhooks = json!([
        {"url": url, "secret_file": "hook", "allow_private": true},
        {"url": "http://127.0.0.1:1/hook", "allow_private": true},
        {"url": format!("http://{}/hook", silent.local_addr().unwrap()), "allow_private": true},
    ]);
    let mut plan = plan();
    plan["webhooks"] = webhooks;
    service.put_json(ROLLOUT, &plan).await.ok();
    service.post(&format!("{ROLLOUT}/start"), "").await.ok();
    service.post(&format!("{ROLLOUT}/abort"), "").await.ok();
    until("all are told, and one twice", async || (receiver.notices().len() >= 4).then_some(())).await;
    let notices = receiver.notices();
    let told: Vec<&str> = notices.iter().map(|(kind, _)| kind.as_str()).collect();
    // In the order in which they happened, also the one that was refused.
    assert_eq!(told, ["rollout.started", "rollout.started", "rollout.stage_entered", "rollout.aborted"]);
    let refused = &notices[0];
    assert_eq!(notices.iter().filter(|one| *one == refused).count(), 2, "with the same id: {notices:?}");
    let (headers, body) = receiver.got.lock().unwrap()[0].clone();
    let text = |name: &str| headers[name].to_str().unwrap().to_owned();
    let signed = format!("{}.{}.{body}", text("webhook-id"), text("webhook-timestamp"));
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
    let signature = text("webhook-signature");
    let signature = BASE64_STANDARD.decode(signature.strip_prefix("v1,").unwrap()).unwrap();
    ring::hmac::verify(&key, signed.as_bytes(), &signature).unwrap();
    assert_eq!(headers["content-type"], "application/json");
    until("health names the other one", async || {
        let health = service.health().await;
        let detail = each(&health["reasons"], |reason| reason["detail"].to_string()).concat();
        detail.contains("http://127.0.0.1:1/hook").then_some(())
    })
    .await;
    let metrics = crate::metrics::page(&service).await;
    let sent = crate::metrics::figure(&metrics, r#"tidegate_admin_rollout_notices_total{outcome="sent"}"#);
    assert_eq!(sent, Some(3.0), "{metrics}");
    let unsigned = json!({"stages": plan["stages"], "webhooks": [{"url": "https://example.com/", "secret_file": "none"}]});
    let written = service.put_json(ROLLOUT, &unsigned).await.ok();
    assert!(written["warnings"].to_string().contains("cannot be signed"), "{written}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_starts_watches_and_ends_runs() {
    let service = TestService::start().await;
    let _traffic = traffic(&service, |_| {});
    let run = async |args: &[&str]| {
        let mut command = tokio::process::Command::new(crate::test_service::binary());
        let people = service.people("");
        command.args(args).env("TIDEGATE_SERVER", people).env("TIDEGATE_TOKEN", &service.admin);
        let output = command.output().await.unwrap();
        let printed = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.code(), printed)
    };
    let file = service.dir.path().join("routes.yaml");
    let document = json!({"apiVersion": "tidegate.dev/v1", "kind": "Rollout", "metadata": {"name": "routes"}, "spec": plan()});
    std::fs::write(&file, document.to_string()).unwrap();
    let file = file.to_str().unwrap();
    let (code, printed) = run(&["rollout", "start", file, "--wait", "0s"]).await;
    assert!(code == Some(0) && printed.contains("run 1 running, stage 1 of 3 (shadow)"), "{printed}");
    let (code, printed) = run(&["rollout", "status", "routes", "--watch"]).await;
    assert!(
        code == Some(0) && printed.contains("stage 2 of 3") && printed.contains("completed"),
        "{printed}"
    );
    let (code, printed) = run(&["rollout", "report", "routes"]).await;
    assert!(code == Some(0) && printed.starts_with("# "), "{printed}");
    let (code, printed) = run(&["rollout", "start", "routes", "--wait", "0s"]).await;
    assert!(code == Some(0) && printed.contains("run 2"), "{printed}");
    let (code, printed) = run(&["rollout", "start", file]).await;
    assert!(code == Some(1) && printed.contains("is running: abort it first"), "{printed}");
    for (asked, phase) in [("pause", "paused"), ("resume", "running"), ("abort", "aborted")] {
        let (code, printed) = run(&["rollout", asked, "routes", "--wait", "0s"]).await;
        assert!(code == Some(0) && printed.contains(&format!("run 2 {phase}")), "{printed}");
    }
    let (code, printed) = run(&["rollout", "approve", "routes"]).await;
    assert!(code == Some(1) && printed.contains("wrong_phase"), "{printed}");
    let (code, printed) = run(&["rollout", "status"]).await;
    assert!(code == Some(0) && printed.contains("aborted"), "{printed}");
    assert_eq!(run(&["rollout", "status", "routes", "--watch"]).await.0, Some(3));
    let (code, printed) = run(&["rollout", "template", "guide", "--speed", "10000"]).await;
    assert!(code == Some(0) && printed.contains("kind: Rollout"), "{printed}");
    std::fs::write(file, printed).unwrap();
    let (code, printed) = run(&["rollout", "apply", "-f", file]).await;
    assert!(code == Some(0), "{printed}");
}
