//! Direct mode while the admin service is gone, slow, or answers nonsense: the
//! cache answers in its place, and without a cache `on_unavailable` decides, within
//! the limits that the plugin's configuration sets.

use std::thread;
use std::time::Duration;

use crate::asked_again::asked_again;
use crate::uploads;
use anyhow::Result;
use serde_json::{Value, json};
use tidegate_stack::faults::{Call, Delay, Faults};
use tidegate_stack::http::{self, Method, PATIENCE, Request};
use tidegate_stack::load::Load;
use tidegate_stack::operator::Checks;
use tidegate_stack::{FlagsAtStart, Options, Stack, Upstream, wait};

const ALL: [&str; 3] = ["ip=direct", "geo=direct", "route=direct"];
const CHECKS: [Call; 3] = [Call::Ip, Call::Geo, Call::Route];
/// Longer than a client waits: whoever is answered was not answered by that.
const NEVER: Duration = Duration::from_secs(120);

fn options(name: &str) -> Result<Options> {
    let mut options = Options::for_test(name)?;
    options.flags = FlagsAtStart::Off;
    Ok(options)
}

/// Requests of a banned client and of another: the first is denied for the ban,
/// the other passes.
fn decided_as_always(stack: &Stack, path: &'static str, requests: u64) -> Result<()> {
    let tally = Load::start(stack.gate(), 4, Some(requests), move |number| {
        Request::get(path).from(if number % 2 == 0 { "192.0.2.13" } else { "192.0.2.14" })
    })
    .finish();
    let half = requests / 2;
    assert_eq!((tally.status(403), tally.status(200), tally.failed), (half, half, 0), "{path}: {tally:?}");
    Ok(())
}

/// How the checks of the requests for `path` were answered, each way with how many.
fn answered(stack: &Stack, path: &str) -> Result<Vec<String>> {
    stack.sql()?.run(&format!(
        "SELECT client_ip, answered, complete, count(*) FROM traffic_events WHERE path = '{path}' \
         GROUP BY 1, 2, 3 ORDER BY 1"
    ))
}

fn failed_questions(stack: &Stack) -> Result<u64> {
    let is_failed = |name: &str| name.contains("tidegate.direct.") && name.ends_with(".failed");
    Ok(stack.stats()?.sum(is_failed))
}

fn fallbacks(checks: &Checks) -> u64 {
    checks.ip.fallback + checks.geo.fallback + checks.route.fallback
}

fn the_cache_stands_in(name: &str, recorder: bool) -> Result<()> {
    let mut options = options(name)?;
    options.recorder = recorder;
    let mut stack = Stack::start_serving(options)?;
    let before = stack.recorded(PATIENCE)?;
    stack.kill_admin();
    decided_as_always(&stack, "/alone", 100)?;
    // A few found out that Envoy answers itself, and the others did without a question.
    let refused = stack.stats()?.get("cluster.tidegate-admin.upstream_rq_503").unwrap_or_default();
    assert!(refused < 100, "{refused} of 200 questions");
    stack.start_admin()?;
    stack.wait_gateway(PATIENCE)?;
    let away = stack.recorded(PATIENCE)?;
    asked_again(&stack, &ALL)?;
    decided_as_always(&stack, "/again", 100)?;
    let whole = stack.recorded(PATIENCE)?;
    assert!(whole.is_whole(), "{whole:?}");
    assert_eq!(away.stored, before.stored + 100);
    let sent = "SELECT count(*) FROM traffic_events WHERE path IN ('/alone', '/again')";
    assert_eq!(stack.sql()?.number(sent)?, 200);
    assert_eq!(
        answered(&stack, "/alone")?,
        [
            "192.0.2.13|ip=fallback,geo=unneeded,route=unneeded|1|50",
            "192.0.2.14|ip=fallback,geo=fallback,route=fallback|1|50",
        ]
    );
    assert_eq!(fallbacks(&away.checks) - fallbacks(&before.checks), 50 + 150);
    let again = answered(&stack, "/again")?;
    assert_eq!(again.len(), 2, "{again:?}");
    assert!(
        again[0].contains("ip=direct") && again[1].contains("ip=direct,geo=direct,route=direct"),
        "{again:?}"
    );
    Ok(())
}

#[test]
fn with_tables_the_cache_answers_for_an_admin_service_that_is_gone() {
    the_cache_stands_in("unavailable", true).unwrap();
}

#[test]
fn with_tables_the_cache_answers_without_the_recorder() {
    the_cache_stands_in("unavailable-bare", false).unwrap();
}

/// An Envoy that has never heard of the admin service, and what it makes of a
/// request.
fn without_tables(name: &str, on_unavailable: &Value, parallel: bool) -> Result<(u16, Value)> {
    let mut options = options(name)?;
    options.plugin = json!({ "on_unavailable": on_unavailable });
    // Where nobody names a cluster, Envoy's own route does.
    options.upstream = Upstream::Demo;
    let mut stack = Stack::start_serving(options)?;
    // What a fresh Envoy does not know cannot matter.
    stack.flags(&json!({ "enableParallelExecution": parallel }))?;
    stack.kill_envoy();
    stack.kill_admin();
    stack.start_envoy()?;
    let first = wait::until("Envoy answers", Duration::from_secs(60), || {
        Ok(http::send(stack.gate(), &Request::get("/fresh").from("192.0.2.13")).ok())
    })?;
    for _ in 0..20 {
        let answer = http::send(stack.gate(), &Request::get("/fresh").from("192.0.2.14"))?;
        assert_eq!(answer.status, first.status, "{}", answer.text());
    }
    let code = first.json()?["code"].clone();
    if first.status == 503 {
        assert!(first.header("retry-after").is_some());
    }
    // Every one of them is recorded once the service is there.
    stack.start_admin()?;
    stack.wait_gate_ready()?;
    let mut sql = stack.sql()?;
    let rows = wait::until("the events are stored", PATIENCE, || {
        let rows = sql.run(
            "SELECT status, coalesce(reason, ''), coalesce(rule, ''), answered, count(*) FROM traffic_events \
             WHERE path = '/fresh' GROUP BY 1, 2, 3, 4",
        )?;
        let count: u64 = rows.iter().filter_map(|row| row.rsplit('|').next()?.parse::<u64>().ok()).sum();
        Ok((count >= 21).then_some(rows))
    })?;
    assert_eq!(rows.len(), 1, "{rows:?}");
    Ok((first.status, json!([code, rows[0]])))
}

#[test]
fn without_tables_nobody_passes_unless_the_operator_says_so() {
    let (status, said) = without_tables("unavailable-deny", &json!({}), false).unwrap();
    assert_eq!(status, 503);
    let row = "503|check_unavailable|ip|ip=unavailable,geo=unneeded,route=unneeded|21";
    assert_eq!(said, json!(["check_unavailable", row]));
}

#[test]
fn each_check_has_its_own_say() {
    let some = json!({ "ip": "allow", "geo": "allow" });
    let (status, said) = without_tables("unavailable-some", &some, true).unwrap();
    assert_eq!(status, 503);
    let row = "503|check_unavailable|route|ip=unavailable,geo=unavailable,route=unavailable|21";
    assert_eq!(said, json!(["check_unavailable", row]));
}

#[test]
fn without_tables_everybody_passes_if_the_operator_says_so() {
    let all = json!({ "ip": "allow", "geo": "allow", "route": "allow" });
    let (status, said) = without_tables("unavailable-allow", &all, false).unwrap();
    assert_eq!(status, 200);
    assert_eq!(said[1], "200|||ip=unavailable,geo=unavailable,route=unavailable|21");
}

#[test]
fn an_admin_service_that_does_not_answer_is_not_waited_for() {
    let mut options = options("unavailable-slow").unwrap();
    options.faults = Some(Faults::default());
    options.plugin = json!({
        "direct": { "timeout": "50ms", "budget": "100ms" },
        "events": { "sync_timeout": "50ms" },
    });
    let stack = Stack::start_serving(options).unwrap();
    for call in CHECKS.into_iter().chain([Call::OpenEvent]) {
        stack.delay_calls(call, NEVER).unwrap();
    }
    for (parallel, path) in [(false, "/slow/turn"), (true, "/slow/parallel")] {
        stack.flags(&json!({ "enableParallelExecution": parallel })).unwrap();
        let before = failed_questions(&stack).unwrap();
        decided_as_always(&stack, path, 40).unwrap();
        let whole = stack.recorded(PATIENCE).unwrap();
        assert!(whole.is_whole(), "{whole:?}");
        let rows = answered(&stack, path).unwrap();
        assert_eq!(
            rows,
            [
                "192.0.2.13|ip=fallback,geo=unneeded,route=unneeded|1|20",
                "192.0.2.14|ip=fallback,geo=fallback,route=fallback|1|20",
            ],
            "{path}"
        );
        wait::until("the failed questions are counted", PATIENCE, || {
            Ok((failed_questions(&stack)? >= before + 20 + 60).then_some(()))
        })
        .unwrap();
    }
    // Responses went on without their events having been stored.
    stack.counted("tidegate.recording.sync.failed", 80).unwrap();
    for call in CHECKS.into_iter().chain([Call::OpenEvent]) {
        stack.delay_calls(call, Duration::ZERO).unwrap();
    }
}

#[test]
fn nonsense_is_no_answer() {
    let mut options = options("unavailable-nonsense").unwrap();
    options.faults = Some(Faults::default());
    options.plugin = json!({ "direct": { "timeout": "30s", "budget": "60s" } });
    let stack = Stack::start_serving(options).unwrap();
    stack.delay_calls(Call::Ip, NEVER).unwrap();
    uploads::take_little(&stack).unwrap();
    stack.delay_calls(Call::Ip, Duration::ZERO).unwrap();
    for (at, status) in [200, 204, 302, 404, 503].into_iter().enumerate() {
        for parallel in [false, true] {
            stack.flags(&json!({ "enableParallelExecution": parallel })).unwrap();
            for call in CHECKS {
                stack.abort_calls(call, 100, status).unwrap();
            }
            let before = stack.recorded(PATIENCE).unwrap();
            decided_as_always(&stack, ["/a", "/b", "/c", "/d", "/e"][at], 20).unwrap();
            let after = stack.recorded(PATIENCE).unwrap();
            assert!(after.is_whole(), "{after:?}");
            assert_eq!(
                fallbacks(&after.checks) - fallbacks(&before.checks),
                10 + 30,
                "status {status}: {after:?}"
            );
        }
    }
    // Some of them only: what was answered counts, the cache says the rest.
    for call in CHECKS {
        stack.abort_calls(call, if call == Call::Geo { 100 } else { 0 }, 500).unwrap();
    }
    asked_again(&stack, &["ip=direct", "route=direct"]).unwrap();
    decided_as_always(&stack, "/some", 20).unwrap();
    stack.recorded(PATIENCE).unwrap();
    let rows = answered(&stack, "/some").unwrap();
    assert_eq!(rows[1], "192.0.2.14|ip=direct,geo=fallback,route=direct|1|10", "{rows:?}");
    let replaced = stack.stats().unwrap().sum(|name| name.contains("vm_reload"));
    assert_eq!(replaced, 0, "a VM trapped");
}

#[test]
fn an_admin_service_that_dies_before_it_answers_fails_nobody() {
    let mut options = options("unavailable-dies").unwrap();
    // Held before the service for this long; a killed one refuses them then.
    let held = |call| Delay { call, per_10_000: 10_000, by: Duration::from_secs(3) };
    options.faults = Some(Faults { delays: vec![held(Call::Geo)], ..Faults::default() });
    options.plugin = json!({ "direct": { "timeout": "20s", "budget": "25s" } });
    let mut stack = Stack::start_serving(options).unwrap();
    stack.flags(&json!({ "enableAsyncRecording": true })).unwrap();
    let gate = stack.gate();
    let clients: Vec<_> = (0..20)
        .map(|_| thread::spawn(move || http::send(gate, &Request::get("/dies").from("192.0.2.14"))))
        .collect();
    wait::until("all are asked about", PATIENCE, || {
        let active = stack.stats()?.get("http.admin_faults.fault.active_faults").unwrap_or(0);
        Ok((active >= 20).then_some(()))
    })
    .unwrap();
    stack.kill_admin();
    for client in clients {
        let answer = client.join().expect("a client does not panic").unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    stack.start_admin().unwrap();
    stack.wait_gateway(PATIENCE).unwrap();
    let whole = stack.recorded(PATIENCE).unwrap();
    assert!(whole.is_whole(), "{whole:?}");
    let rows = answered(&stack, "/dies").unwrap();
    assert_eq!(rows, ["192.0.2.14|ip=direct,geo=fallback,route=fallback|1|20"]);
    asked_again(&stack, &ALL).unwrap();
    assert_eq!(http::send(gate, &Request::get("/back").from("192.0.2.14")).unwrap().status, 200);
    let rows = wait::until("it is asked again", PATIENCE, || {
        let rows = answered(&stack, "/back")?;
        Ok((!rows.is_empty()).then_some(rows))
    });
    assert!(rows.unwrap()[0].contains("ip=direct,geo=direct,route=direct"));
    let health = stack.api_ok(Method::GET, "/api/admin/optimization/health", None).unwrap();
    assert_eq!(health["status"], "ok", "{health}");
}
