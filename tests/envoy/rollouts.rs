//! Rollouts on a real Envoy: the guide's plan runs by itself; faults of every kind are caught by the gate that looks
//! for them, and taken back on every worker; what is killed goes on; people and silence pause it.

mod between;
mod false_alarms;
mod runs;

use std::net::IpAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tidegate_policy::flags::Flag;
use tidegate_stack::http::{Method, PATIENCE};
use tidegate_stack::load::Load;
use tidegate_stack::sql::Shell;
use tidegate_stack::{Stack, wait};

use between::Between;
use runs::{
    ALL_OFF, ByGroup, NAME, is_treated, load, load_by_group, load_of, modes_everywhere, options, reaches,
    reaches_seeing, reaches_stage, stage, usual,
};

const ALL_BUT_PARALLEL: &str = "ip=cached,geo=cached,route=cached,parallel=off,async=on";
const ALL_ON: &str = "ip=cached,geo=cached,route=cached,parallel=on,async=on";
/// Divides the guide's day to little over two seconds.
const SPEED: &str = "40000";

/// The guide's plan as the program prints it. A percentile's limit in milliseconds is for a machine that does nothing else.
fn guide(stack: &Stack) -> Result<Value> {
    let mut command = Command::new(&stack.options().programs.admin);
    let output = command.args(["rollout", "template", "guide", "--speed", SPEED]).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut plan = yaml_serde::from_slice::<Value>(&output.stdout)?["spec"].take();
    let stages = plan["stages"].as_array_mut().context("no stages")?;
    let gates = stages.iter_mut().filter_map(|stage| stage["gates"].as_array_mut()).flatten();
    for gate in gates.filter(|gate| gate["latency"]["at_most"].is_string()) {
        gate["latency"]["at_most"] = "10s".into();
    }
    Ok(plan)
}

#[test]
fn the_guide_runs_from_all_off_to_all_on_without_a_hand_on_it() {
    let stack = Stack::start_serving(options("rollout-guide").unwrap()).unwrap();
    let plan = guide(&stack).unwrap();
    let clients = ByGroup::of(&plan).unwrap();
    let load = load_by_group(&stack, clients.clone());
    runs::start(&stack, &plan).unwrap();
    reaches_seeing(&stack, "completed", |status| clients.follow(status)).unwrap();
    let tally = load.stop();
    assert_eq!(tally.status(200), tally.total(), "{tally:?}");
    let flags = stack.flags_status().unwrap();
    assert!(Flag::ALL.iter().all(|flag| flags[flag.name()] == true), "{flags}");
    assert_eq!(modes_everywhere(&stack, "/at-the-end").unwrap(), [ALL_ON; 2]);

    let (report, page) = (runs::report(&stack).unwrap(), runs::page(&stack).unwrap());
    let stages = report["stages"].as_array().unwrap();
    assert_eq!(stages.len(), 17, "{report}");
    for (stage, planned) in stages.iter().zip(plan["stages"].as_array().unwrap()) {
        let name = planned["name"].as_str().unwrap();
        let at_ms = |field: &str| stage[field].as_u64().unwrap_or_default();
        println!("{name}: {} ms", at_ms("left_ms").saturating_sub(at_ms("entered_ms")));
        assert_eq!((&stage["name"], &stage["decision"]), (&json!(name), &json!("passed")));
        assert!(page.contains(&format!("## {name}: passed")), "{name} is not in {page}");
        let has_control = planned["flags"].as_object().unwrap().values().any(Value::is_object);
        for (group, is_there) in [("control", has_control), ("treated", true)] {
            let figures = &stage["groups"][group];
            assert_eq!(figures["requests"] != 0, is_there, "{group} of {stage}");
            assert_eq!(figures["total"]["p95"].is_u64(), is_there, "{group} of {stage}");
        }
    }
    assert_eq!(page.matches("| | control | treated |").count(), 9, "{page}");
    let whole = stack.recorded(PATIENCE).unwrap();
    assert!(whole.is_whole(), "{whole:?}");
}

/// The gate of kind `gate`, and no other, takes the run back, and says why wherever it is looked for; then every worker
/// decides by the modes of before. Prints how long that took.
fn is_taken_back(stack: &Stack, load: Load, (what, gate): (&str, &str), before: &str) -> Result<()> {
    let status = reaches(stack, "rolled_back")?;
    let sent = load.sent();
    wait::until("requests come afterwards", PATIENCE, || Ok((load.sent() > sent + 200).then_some(())))?;
    let tally = load.stop();
    ensure!(tally.failed == 0, "{:?}", tally.failures);
    let report = runs::report(stack)?;
    let last = report["stages"].as_array().and_then(|stages| stages.last()).context("no stage")?;
    ensure!(last["decision"] == "rolled_back", "{last}");
    let gates = last["gates"].as_array().context("no gates")?;
    let failed: Vec<&Value> = gates.iter().filter(|gate| gate["verdict"] == "fails").collect();
    ensure!(failed.len() == 1 && failed[0]["kind"] == gate, "{what}: {failed:?} of {gates:?}");
    let says = failed[0]["says"].as_str().context("it does not say why")?;
    for place in [&status["reason"], &report["phase"]["reason"]["says"], &last["says"]] {
        ensure!(place.as_str().is_some_and(|place| place.contains(says)), "{place} does not say {says}");
    }
    ensure!(runs::page(stack)?.contains(says), "the page does not say {says}");
    is_audited(stack, says)?;
    let modes = modes_everywhere(stack, &format!("/after-{what}"))?;
    ensure!(modes == [before; 2], "{modes:?}");
    println!("{what}: {says}");
    print_time_to_go_back(stack, &report, what, before)
}

/// The audit has the step, and each flag.
fn is_audited(stack: &Stack, says: &str) -> Result<()> {
    let by = format!("rollouts/{NAME}");
    let newest = |kind: &str| -> Result<Value> {
        let found = stack.api_ok(Method::GET, &format!("/api/admin/audit?kind={kind}&actor={by}"), None)?;
        found["items"].get(0).cloned().with_context(|| format!("no {kind} by {by}: {found}"))
    };
    let (step, flag) = (newest("rollout-step")?, newest("flag")?);
    let said = step["after"]["says"].as_str().unwrap_or_default();
    ensure!(step["after"]["phase"] == "rolled_back" && said.contains(says), "{step}");
    ensure!(flag["after"] == false, "{flag}");
    Ok(())
}

/// Until when requests were decided by flags that were taken back.
fn print_time_to_go_back(stack: &Stack, report: &Value, what: &str, before: &str) -> Result<()> {
    let notes = report["notes"].as_array().context("no notes")?;
    let note = notes.iter().find(|note| note["kind"] == "rolled_back").context("no note of it")?;
    let decided_ms = note["at_ms"].as_i64().context("no time")?;
    let of_source = format!(
        "SELECT source, CAST(max(julianday(timestamp) - 2440587.5) * 86400000 AS INTEGER) - {decided_ms} \
         FROM traffic_events WHERE modes NOT IN ('{ALL_OFF}', '{before}') GROUP BY 1"
    );
    let rows = stack.sql()?.run(&of_source)?;
    let last = rows.iter().filter_map(|row| row.rsplit('|').next()?.parse::<i64>().ok()).max();
    let last = last.with_context(|| format!("no worker ever went by the stage's flags: {rows:?}"))?;
    println!(
        "{what}: {last} ms after the decision the last request came that the old flags decided (goal: 1,000)"
    );
    Ok(())
}

/// Half of the clients have the cache of routes.
fn half(gates: Value) -> Value {
    json!({ "stages": [stage("half", json!({ "enableRouteCache": { "percent": 50 } }), "60s", gates)] })
}

fn has_cached_routes(client: IpAddr) -> bool {
    is_treated(Flag::RouteCache, 50, client)
}

/// What every stage of these has, beside the gate that must fail.
fn with_others(gate: Value) -> Value {
    json!([{ "success": { "at_least": 0.5 } }, { "dropped": { "at_most": 0 } }, gate,
        { "health": { "gateways": true, "recorder": true } }])
}

#[test]
fn requests_that_are_slower_for_the_treated_are_taken_back() {
    let stack = Stack::start_serving(options("rollout-slower").unwrap()).unwrap();
    // Nobody asks the database: on a busy machine that takes the control group as long as the delay of the treated.
    stack.all_flags(true).unwrap();
    let flag = Flag::ParallelExecution;
    stack.flags(&json!({ flag.name(): false })).unwrap();
    let load = load_of(&stack, 40, move |_, client| {
        format!("/slow?ms={}", if is_treated(flag, 50, client) { 520 } else { 400 })
    });
    let limit = json!({ "latency": { "of": "total", "percentile": 95, "at_most_times_control": 1.1 } });
    let half = stage("half", json!({ flag.name(): { "percent": 50 } }), "60s", with_others(limit));
    runs::start(&stack, &json!({ "stages": [half] })).unwrap();
    is_taken_back(&stack, load, ("slower", "latency"), ALL_BUT_PARALLEL).unwrap();
}

#[test]
fn errors_of_the_treated_alone_are_taken_back() {
    let stack = Stack::start_serving(options("rollout-errors").unwrap()).unwrap();
    let load = load(&stack, |number, client| {
        let fails = has_cached_routes(client) && number.is_multiple_of(8);
        if fails { "/status/503".to_owned() } else { usual(number, client) }
    });
    let limit = json!({ "server_errors": { "over_control_at_most": 0.005 } });
    runs::start(&stack, &half(with_others(limit))).unwrap();
    is_taken_back(&stack, load, ("errors", "server_errors"), ALL_OFF).unwrap();
}

#[test]
fn one_route_that_the_database_has_otherwise_is_taken_back() {
    let mut options = options("rollout-mismatch").unwrap();
    options.control = Some(Arc::new(Between::start(Some("/moved")).unwrap()));
    let stack = Stack::start_serving(options).unwrap();
    let load =
        load(
            &stack,
            |number, client| {
                if number.is_multiple_of(50) { "/moved".to_owned() } else { usual(number, client) }
            },
        );
    let limit = json!({ "mismatches": { "at_most": 0, "compared_at_least": 1000 } });
    let shadow = stage("shadow", json!({ "enableRouteCache": "shadow" }), "60s", with_others(limit));
    runs::start(&stack, &json!({ "stages": [shadow] })).unwrap();
    is_taken_back(&stack, load, ("mismatch", "mismatches"), ALL_OFF).unwrap();
}

#[test]
fn events_that_are_lost_are_taken_back() {
    let mut options = options("rollout-losing").unwrap();
    let between = Between::start(None).unwrap();
    options.control = Some(Arc::new(between.clone()));
    let stack = Stack::start_serving(options).unwrap();
    let load = load(&stack, usual);
    let limit = json!({ "completeness": { "at_least": 0.995 } });
    let flags = |state: Value| json!({ "enableAsyncRecording": state });
    let before = stage("waited for", flags(false.into()), "1s", json!([{ "success": { "at_least": 0.5 } }]));
    let queued = stage("queued", flags(json!({ "percent": 50 })), "60s", with_others(limit));
    runs::start(&stack, &json!({ "stages": [before, queued] })).unwrap();
    reaches_stage(&stack, "queued").unwrap();
    between.lose_events();
    is_taken_back(&stack, load, ("losing", "completeness"), ALL_OFF).unwrap();
}

/// What the database says of the run and of the flag of routes.
fn stored(sql: &mut Shell) -> Result<(String, String)> {
    let phase = sql.run(&format!(
        "SELECT json_extract(state, '$.phase.name') FROM rollout_runs WHERE name = '{NAME}'"
    ))?;
    let flag = sql.run("SELECT value FROM flags WHERE name = 'enableRouteCache'")?;
    Ok((phase.concat(), flag.concat()))
}

#[test]
fn a_service_that_is_killed_goes_on_with_its_run_and_with_its_way_back() {
    let mut stack = Stack::start_serving(options("rollout-killed").unwrap()).unwrap();
    let fails = Arc::new(AtomicBool::new(false));
    let load = load(&stack, {
        let fails = Arc::clone(&fails);
        move |number, client| {
            let fails = fails.load(Ordering::Relaxed) && has_cached_routes(client);
            if fails { "/status/503".to_owned() } else { usual(number, client) }
        }
    });
    let gates = with_others(json!({ "server_errors": { "over_control_at_most": 0.005 } }));
    let flags = |percent: u8| json!({ "enableRouteCache": { "percent": percent } });
    let plan = json!({ "stages": [
        stage("few", flags(25), "3s", gates.clone()), stage("half", flags(50), "60s", gates) ] });
    runs::start(&stack, &plan).unwrap();
    reaches_stage(&stack, "few").unwrap();
    let mut sql = stack.sql().unwrap();
    stack.kill_admin();
    assert_eq!(stored(&mut sql).unwrap().0, "running");
    stack.start_admin().unwrap();
    reaches_stage(&stack, "half").unwrap();
    // Killed as soon as the way back is in the database, which the gates may not have heard of.
    fails.store(true, Ordering::Relaxed);
    wait::until("the run is taken back", runs::LIMIT, || {
        Ok((stored(&mut sql)?.0 == "rolled_back").then_some(()))
    })
    .unwrap();
    stack.kill_admin();
    assert_eq!(stored(&mut sql).unwrap(), ("rolled_back".to_owned(), "false".to_owned()));
    stack.start_admin().unwrap();
    stack.wait_gateway(PATIENCE).unwrap();
    stack.wait_enforced().unwrap();
    let tally = load.stop();
    assert_eq!(tally.failed, 0, "{:?}", tally.failures);
    assert_eq!(modes_everywhere(&stack, "/after-kills").unwrap(), [ALL_OFF; 2]);
    let report = runs::report(&stack).unwrap();
    assert_eq!(report["stages"][1]["decision"], "rolled_back", "{report}");
    let whole = stack.recorded(Duration::from_secs(60)).unwrap();
    assert!(whole.is_whole(), "{whole:?}");
}

#[test]
fn silence_and_people_pause_it_and_are_named() {
    let stack = Stack::start_serving(options("rollout-paused").unwrap()).unwrap();
    let gates = with_others(json!({ "server_errors": { "over_control_at_most": 0.005 } }));
    let mut plan = half(gates);
    plan["stages"][0]["timeout"] = "10s".into();
    plan["stages"][0]["hold"] = "9s".into();
    plan["stages"][0]["min_requests"] = 100_000.into();
    let load_before = load(&stack, usual);
    runs::start(&stack, &plan).unwrap();
    wait::until("some requests are there", PATIENCE, || {
        let current = runs::report(&stack)?["current"]["groups"]["treated"]["requests"].as_u64();
        Ok((current > Some(5)).then_some(()))
    })
    .unwrap();
    let _ = load_before.stop();
    let paused = reaches(&stack, "paused").unwrap();
    assert_eq!(paused["cause"], "timed_out", "{paused}");
    let reason = paused["reason"].as_str().unwrap();
    assert!(reason.contains("no request for") && reason.contains("100000 requests"), "{reason}");
    assert_eq!(stack.flags_status().unwrap()["enableRouteCache"], json!({ "percent": 50 }));

    let load_after = load(&stack, usual);
    runs::ask(&stack, "resume").unwrap();
    stack.flags(&json!({ "enableRouteCache": { "percent": 60 } })).unwrap();
    let paused = reaches(&stack, "paused").unwrap();
    let reason = paused["reason"].as_str().unwrap();
    assert_eq!(paused["cause"], "flags_changed", "{paused}");
    assert!(reason.contains("flags were set by stack-admin"), "{reason}");
    assert!(runs::page(&stack).unwrap().contains("flags were set by stack-admin"));
    // What a person has set since stays.
    runs::ask(&stack, "abort").unwrap();
    assert_eq!(stack.flags_status().unwrap()["enableRouteCache"], json!({ "percent": 60 }));
    assert_eq!(load_after.stop().failed, 0);
}
