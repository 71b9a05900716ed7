use serde_json::json;
use tidegate_policy::flags::{Flag, FlagState};

use super::*;

fn refused(document: &Value) -> Vec<(String, &'static str)> {
    let errors = Plan::read("p", document).expect_err("must be refused");
    errors.into_iter().map(|error| (error.pointer, error.code)).collect()
}

/// A stage that is right.
fn stage() -> Value {
    json!({"name": "a tenth", "flags": {"enableRouteCache": {"percent": 10}}, "hold": "1h",
           "gates": [{"success": {"at_least": 0.999}}]})
}

fn with(field: &str, value: Value) -> Value {
    let mut stage = stage();
    stage[field] = value;
    json!({"stages": [stage]})
}

fn with_gate(gate: Value) -> Value {
    with("gates", json!([gate]))
}

#[test]
fn what_is_left_out_is_what_most_want() {
    let plan = Plan::read("p", &json!({"stages": [stage()]})).unwrap();
    let wanted = Stage {
        name: "a tenth".into(),
        flags: vec![(Flag::RouteCache, FlagState::Share(10))],
        hold_ms: 3_600_000,
        min_requests: 1,
        timeout_ms: 3 * 3_600_000,
        approve: false,
        on_failure: None,
        gates: vec![Gate { name: None, window_ms: None, condition: Condition::Success { at_least: 0.999 } }],
    };
    assert_eq!(plan.stages, [wanted]);
    assert_eq!((plan.on_failure, plan.webhooks.len(), plan.name.as_str()), (OnFailure::Rollback, 0, "p"));
    let no_gates = Plan::read(
        "p",
        &json!({"stages": [
            {"name": "a", "flags": {"enableRouteCache": true}, "hold": "0s"}]}),
    )
    .unwrap();
    assert_eq!((no_gates.stages[0].min_requests, no_gates.stages[0].timeout_ms), (0, 60_000));
}

/// Every kind of gate, and every field.
fn full() -> Value {
    json!({
        "name": "p", "description": "all of it", "on_failure": "pause",
        "webhooks": [
            {"url": "https://hooks.example.com/x", "secret_file": "hook.key"},
            {"url": "http://10.0.0.1/x", "allow_insecure": true, "allow_private": true}],
        "stages": [
            {"name": "shadow", "flags": {"enableRouteCache": "shadow"}, "hold": "1h30m", "gates": [
                {"mismatches": {"at_most": 0, "compared_at_least": 1000}}, {"mismatches": {"at_most_share": 0.25}}]},
            {"name": "half", "flags": {"enableRouteCache": {"percent": 50}}, "hold": "8s640ms", "min_requests": 1000,
             "timeout": "2h", "approve": true, "on_failure": "rollback_stage", "gates": [
                {"latency": {"of": "gate", "percentile": 95, "at_most": "130ms"}},
                {"latency": {"of": "total", "percentile": 99.9, "at_most_times_control": 1.25, "confidence": 0.99}},
                {"name": "mine", "window": "5s", "success": {"at_least": 0.999}},
                {"server_errors": {"at_most": 0.001}},
                {"server_errors": {"over_control_at_most": 0.005}},
                {"denials": {"at_most": 0.5, "confidence": 0.9}},
                {"denials": {"over_control_at_most": 0.01}},
                {"completeness": {"at_least": 0.995}},
                {"queue_depth": {"at_most": 1000}},
                {"dropped": {"at_most": 0}},
                {"hit_ratio": {"check": "route", "at_least": 0.95}},
                {"health": {"gateways": true, "recorder": true, "tables_age_at_most": "30s"}},
                {"latency": {"of": "gate", "percentile": 50, "at_most_times_control": 0.5}}]}],
    })
}

#[test]
fn what_is_written_is_read_and_the_canonical_form_is_the_document() {
    let plan = Plan::read("p", &full()).unwrap();
    assert_eq!(plan.to_document(), full());
    assert_eq!(serde_json::from_value::<Plan>(serde_json::to_value(&plan).unwrap()).unwrap(), plan);
    // What is there by default is not written.
    let mut wordy = full();
    wordy["status"] = json!({"phase": "running"});
    wordy["stages"][0]["min_requests"] = json!(1);
    wordy["stages"][0]["timeout"] = json!("270m");
    wordy["stages"][0]["approve"] = json!(false);
    wordy["stages"][1]["gates"][3]["server_errors"]["confidence"] = json!(0.999);
    wordy["stages"][1]["hold"] = json!("8640ms");
    assert_eq!(Plan::read("p", &wordy).unwrap(), plan);
    assert!(serde_json::from_value::<Plan>(json!({"name": "p"})).is_err());
}

#[test]
fn each_bad_field_is_named() {
    let cases = [
        (json!([]), "", "wrong_type"),
        (json!({}), "/stages", "required"),
        (json!({"stages": []}), "/stages", "required"),
        (json!({"stages": {}}), "/stages", "wrong_type"),
        (stages(&vec![json!({"enableRouteCache": true}); 65]), "/stages", "too_many"),
        (with("name", json!("")), "/stages/0/name", "invalid"),
        (with("name", json!(" a")), "/stages/0/name", "invalid"),
        (with("name", json!("a\nb")), "/stages/0/name", "invalid"),
        (with("flags", json!({})), "/stages/0/flags", "required"),
        (with("flags", json!({"enableRoutes": true})), "/stages/0/flags/enableRoutes", "unknown_field"),
        (
            with("flags", json!({"enableParallelExecution": "shadow"})),
            "/stages/0/flags/enableParallelExecution",
            "invalid",
        ),
        (
            with("flags", json!({"enableRouteCache": {"percent": 101}})),
            "/stages/0/flags/enableRouteCache/percent",
            "out_of_range",
        ),
        (with("hold", json!("a day")), "/stages/0/hold", "invalid"),
        (with("hold", json!(24)), "/stages/0/hold", "wrong_type"),
        (with("hold", json!("31d")), "/stages/0/hold", "out_of_range"),
        (with("hold", json!("1500us")), "/stages/0/hold", "out_of_range"),
        (with("hold", json!(null)), "/stages/0/hold", "required"),
        (with("min_requests", json!(-1)), "/stages/0/min_requests", "out_of_range"),
        (with("timeout", json!("0s")), "/stages/0/timeout", "out_of_range"),
        (with("approve", json!("yes")), "/stages/0/approve", "wrong_type"),
        (with("on_failure", json!("stop")), "/stages/0/on_failure", "invalid"),
        (with("when", json!("now")), "/stages/0/when", "unknown_field"),
        (with("gates", json!({})), "/stages/0/gates", "wrong_type"),
        (with_gate(json!({})), "/stages/0/gates/0", "required"),
        (
            with_gate(json!({"dropped": {"at_most": 0}, "speed": {}})),
            "/stages/0/gates/0/speed",
            "unknown_field",
        ),
        (
            with_gate(json!({"success": {"at_least": 1}, "dropped": {"at_most": 0}})),
            "/stages/0/gates/0/dropped",
            "conflict",
        ),
        (with_gate(json!({"success": {}})), "/stages/0/gates/0/success/at_least", "required"),
        (
            with_gate(json!({"success": {"at_least": 99.9}})),
            "/stages/0/gates/0/success/at_least",
            "out_of_range",
        ),
        (with_gate(json!({"server_errors": {}})), "/stages/0/gates/0/server_errors", "required"),
        (
            with_gate(json!({"server_errors": {"at_most": 0, "over_control_at_most": 0}})),
            "/stages/0/gates/0/server_errors/over_control_at_most",
            "conflict",
        ),
        (
            with_gate(json!({"denials": {"at_most": 0, "confidence": 1}})),
            "/stages/0/gates/0/denials/confidence",
            "out_of_range",
        ),
        (
            with_gate(json!({"latency": {"of": "backend", "percentile": 95, "at_most": "1s"}})),
            "/stages/0/gates/0/latency/of",
            "invalid",
        ),
        (
            with_gate(json!({"latency": {"of": "total", "percentile": 100, "at_most": "1s"}})),
            "/stages/0/gates/0/latency/percentile",
            "out_of_range",
        ),
        (
            with_gate(json!({"latency": {"of": "total", "percentile": 95, "at_most": "0s"}})),
            "/stages/0/gates/0/latency/at_most",
            "out_of_range",
        ),
        (
            with_gate(json!({"latency": {"of": "total", "percentile": 95, "at_most_times_control": 0.001}})),
            "/stages/0/gates/0/latency/at_most_times_control",
            "out_of_range",
        ),
        (
            with_gate(json!({"hit_ratio": {"check": "routes", "at_least": 0.9}})),
            "/stages/0/gates/0/hit_ratio/check",
            "invalid",
        ),
        (with_gate(json!({"health": {}})), "/stages/0/gates/0/health", "required"),
        (
            with_gate(json!({"health": {"gateways": true, "tables_age_at_most": "0s"}})),
            "/stages/0/gates/0/health/tables_age_at_most",
            "out_of_range",
        ),
        (
            with_gate(json!({"queue_depth": {"at_most": 0.5}})),
            "/stages/0/gates/0/queue_depth/at_most",
            "wrong_type",
        ),
        (with_gate(json!({"dropped": {"at_most": -1}})), "/stages/0/gates/0/dropped/at_most", "out_of_range"),
        (
            with_gate(json!({"success": {"at_least": 1}, "window": "100ms"})),
            "/stages/0/gates/0/window",
            "out_of_range",
        ),
    ];
    for (document, pointer, code) in cases {
        assert_eq!(refused(&document), [(pointer.to_owned(), code)], "{document}");
    }
}

#[test]
fn what_is_around_the_stages_is_read_as_strictly() {
    let with = |field: &str, value: Value| {
        let mut document = json!({"stages": [stage()]});
        document[field] = value;
        document
    };
    for (document, pointer, code) in [
        (with("name", json!("other")), "/name", "invalid"),
        (with("description", json!(5)), "/description", "wrong_type"),
        (with("on_failure", json!("ignore")), "/on_failure", "invalid"),
        (with("stage", json!([])), "/stage", "unknown_field"),
        (with("webhooks", json!([{}])), "/webhooks/0/url", "required"),
        (with("webhooks", json!([{"url": "ftp://x.example.com"}])), "/webhooks/0/url", "invalid"),
        (with("webhooks", json!([{"url": "http://x.example.com"}])), "/webhooks/0/url", "invalid"),
        (with("webhooks", json!([{"url": "https://10.0.0.1"}])), "/webhooks/0/url", "private_address"),
        (
            with("webhooks", json!([{"url": "https://x.example.com", "secret_file": "/etc/key"}])),
            "/webhooks/0/secret_file",
            "invalid",
        ),
        (with("webhooks", json!(vec![json!({"url": "https://x.example.com"}); 9])), "/webhooks", "too_many"),
    ] {
        assert_eq!(refused(&document), [(pointer.to_owned(), code)], "{document}");
    }
    for name in ["", "A", "a b", "..", ".a", &"a".repeat(64)] {
        let found = Plan::read(name, &json!({"stages": [stage()]})).unwrap_err();
        assert_eq!((found[0].pointer.as_str(), found.len()), ("/name", 1), "{name}");
    }
}

/// Stages with these flags, each measured.
fn stages(flags: &[Value]) -> Value {
    let stages = flags.iter().enumerate().map(|(index, flags)| {
        json!({"name": index.to_string(), "flags": flags, "hold": "1h", "gates": [{"success": {"at_least": 0.9}}]})
    });
    json!({"stages": stages.collect::<Vec<_>>()})
}

#[test]
fn flags_only_go_up() {
    let route = |state: Value| json!({"enableRouteCache": state});
    let percent = |percent: u8| json!({"percent": percent});
    let up = [json!(false), json!("shadow"), percent(1), percent(1), percent(50), percent(100), json!(true)];
    assert!(Plan::read("p", &stages(&up.map(route))).is_ok());
    for (first, second) in [
        (percent(50), percent(49)),
        (json!(true), percent(100)),
        (percent(1), json!("shadow")),
        (json!("shadow"), json!(false)),
        (json!(true), json!(false)),
    ] {
        // Another stage in between changes nothing.
        let document = stages(&[route(first), json!({"enableGeoRulesCache": true}), route(second)]);
        assert_eq!(refused(&document), [("/stages/2/flags/enableRouteCache".to_owned(), "conflict")]);
    }
    let message =
        &Plan::read("p", &stages(&[route(json!(true)), route(json!(false))])).unwrap_err()[0].message;
    assert!(message.contains("stage \"0\" has set it to true"), "{message}");
}

#[test]
fn what_a_flag_is_limited_to_only_grows_and_its_share_within_that() {
    let geo = |state: Value| json!({"enableGeoRulesCache": state});
    let of = |percent: u8, field: &str, names: &[&str]| json!({"percent": percent, field: names});
    let a = |percent| of(percent, "hostnames", &["a.example"]);
    let both = |percent| of(percent, "hostnames", &["b.example", "a.example"]);
    let edge = json!({"percent": 25, "gateways": ["edge-1"], "hostnames": ["a.example"]});
    // A wider scope may begin with a smaller share; so may all.
    let up = [
        json!("shadow"),
        edge,
        a(25),
        a(100),
        both(10),
        of(10, "hostnames", &["*.example"]),
        json!({"percent": 1}),
        json!(true),
    ];
    assert!(Plan::read("p", &stages(&up.map(geo))).is_ok());
    for (first, second) in [
        (a(25), a(24)),
        (both(25), a(25)),
        (a(25), of(100, "hostnames", &["b.example"])),
        (a(25), of(100, "gateways", &["edge-1"])),
        (json!({"percent": 1}), a(100)),
        (json!(true), a(100)),
        (a(25), json!(false)),
        (a(25), json!("shadow")),
        (a(25), json!({"percent": 0})),
    ] {
        let document = stages(&[geo(first), geo(second)]);
        assert_eq!(
            refused(&document),
            [("/stages/1/flags/enableGeoRulesCache".to_owned(), "conflict")],
            "{document}"
        );
    }
}

#[test]
fn a_stage_has_groups_that_can_be_compared() {
    let two =
        |one: Value, other: Value| stages(&[json!({"enableRouteCache": one, "enableGeoRulesCache": other})]);
    let percent = |percent: u8| json!({"percent": percent});
    let at = |percent: u8, host: &str| json!({"percent": percent, "hostnames": [host]});
    for right in [
        two(percent(50), percent(50)),
        two(percent(33), percent(33)),
        two(percent(10), json!(true)),
        two(at(50, "a.example"), at(50, "a.example")),
        // One is everywhere: requests within what the other is limited to count.
        two(at(100, "a.example"), percent(10)),
    ] {
        assert!(Plan::read("p", &right).is_ok(), "{right}");
    }
    for wrong in [
        two(percent(10), percent(10)),
        two(percent(90), percent(90)),
        two(percent(10), percent(90)),
        two(at(50, "a.example"), at(50, "b.example")),
        two(at(100, "a.example"), json!({"percent": 100, "gateways": ["edge-1"]})),
    ] {
        let pointer = "/stages/0/flags/enableGeoRulesCache".to_owned();
        assert_eq!(refused(&wrong), [(pointer, "conflict")], "{wrong}");
    }
    let by_route = stages(&[json!({"enableRouteCache": {"percent": 1, "routes": ["shop"]}})]);
    let pointer = "/stages/0/flags/enableRouteCache/routes".to_owned();
    assert_eq!(refused(&by_route), [(pointer, "not_supported")]);
    let plan = Plan::read("p", &two(at(100, "a.example"), percent(10))).unwrap();
    let of = |flags: &mut dyn Iterator<Item = Flag>| flags.collect::<Vec<_>>();
    assert_eq!(of(&mut plan.stages[0].shared_flags()), [Flag::GeoRulesCache]);
    assert_eq!(of(&mut plan.stages[0].scoped_flags()), [Flag::RouteCache]);
    assert_eq!(Plan::read("p", &plan.to_document()), Ok(plan));
}

#[test]
fn parts_that_contradict_each_other_are_named() {
    let control = json!({"latency": {"of": "total", "percentile": 95, "at_most_times_control": 1.2}});
    let mut on = stage();
    on["flags"] = json!({"enableRouteCache": true});
    let with = |field: &str, value: Value| {
        let mut stage = on.clone();
        stage[field] = value;
        json!({"stages": [stage]})
    };
    for (document, pointer, code) in [
        (with("gates", json!([control])), "/stages/0/gates/0/latency", "conflict"),
        (
            with("gates", json!([{"denials": {"over_control_at_most": 0.01}}])),
            "/stages/0/gates/0/denials",
            "conflict",
        ),
        (
            with("gates", json!([{"server_errors": {"over_control_at_most": 0.01}}])),
            "/stages/0/gates/0/server_errors",
            "conflict",
        ),
        (with("gates", json!([{"mismatches": {"at_most": 0}}])), "/stages/0/gates/0/mismatches", "conflict"),
        (
            with("gates", json!([{"hit_ratio": {"check": "ip", "at_least": 0.9}}])),
            "/stages/0/gates/0/hit_ratio/check",
            "conflict",
        ),
        (with("hold", json!("0s")), "/stages/0/hold", "conflict"),
        (with("min_requests", json!(0)), "/stages/0/min_requests", "conflict"),
        (with("timeout", json!("1h")), "/stages/0/timeout", "conflict"),
        (
            with("gates", json!([{"window": "2h", "success": {"at_least": 0.9}}])),
            "/stages/0/gates/0/window",
            "conflict",
        ),
        (
            with("gates", json!([{"window": "1s", "success": {"at_least": 0.9}}])),
            "/stages/0/gates/0/window",
            "out_of_range",
        ),
        // Slices of 5.4 s: one is enough for a share, and a percentile needs eight.
        (
            with(
                "gates",
                json!([{"window": "43s", "latency": {"of": "total", "percentile": 95, "at_most": "1s"}}]),
            ),
            "/stages/0/gates/0/window",
            "out_of_range",
        ),
        (with("hold", json!("100ms")), "/stages/0/hold", "conflict"),
        (
            json!({"stages": [{"name": "a", "flags": {"enableRouteCache": true}, "hold": "300ms", "timeout": "1s",
                "gates": [{"latency": {"of": "total", "percentile": 95, "at_most": "1s"}}]}]}),
            "/stages/0/timeout",
            "conflict",
        ),
        (
            with("gates", json!([{"window": "10m", "dropped": {"at_most": 0}}])),
            "/stages/0/gates/0/window",
            "conflict",
        ),
        (
            with("flags", json!({"enableAsyncRecording": true})),
            "/stages/0/flags/enableAsyncRecording",
            "conflict",
        ),
        (json!({"stages": [stage(), stage()]}), "/stages/1/name", "conflict"),
    ] {
        assert_eq!(refused(&document), [(pointer.to_owned(), code)], "{document}");
    }
    // A stage of 0 and 100 percent has no control group either.
    for percent in [0, 100] {
        let mut document = with("gates", json!([control]));
        document["stages"][0]["flags"] = json!({"enableRouteCache": {"percent": percent}});
        assert_eq!(refused(&document), [("/stages/0/gates/0/latency".to_owned(), "conflict")]);
    }
    // A flag in shadow, or on, since an earlier stage is so in a later one.
    let mut later = stages(&[
        json!({"enableRouteCache": "shadow", "enableIpBlacklistCache": true}),
        json!({"enableAsyncRecording": true}),
    ]);
    later["stages"][1]["gates"] =
        json!([{"mismatches": {"at_most": 0}}, {"hit_ratio": {"check": "ip", "at_least": 0.9}}]);
    assert!(Plan::read("p", &later).is_ok());
}

#[test]
fn all_that_is_wrong_is_said_at_once() {
    let document = json!({"on_failure": 1, "stages": [
        {"name": "a", "flags": {"enableRouteCache": 5}, "hold": "x", "gates": [{"success": {"at_least": 2}}, {}]}]});
    let pointers: Vec<_> = refused(&document).into_iter().map(|(pointer, _)| pointer).collect();
    assert_eq!(
        pointers,
        [
            "/on_failure",
            "/stages/0/flags/enableRouteCache",
            "/stages/0/hold",
            "/stages/0/gates/0/success/at_least",
            "/stages/0/gates/1",
        ]
    );
}

#[test]
fn spans_are_written_as_they_are_read() {
    for (ms, text) in [(0, "0s"), (1, "1ms"), (8_640, "8s640ms"), (5_400_000, "1h30m"), (86_400_000, "24h")] {
        assert_eq!(span(ms), text);
        assert_eq!(tidegate_policy::duration::parse(text).unwrap().as_millis(), ms.into());
    }
    for (us, text) in [(130_000, "130ms"), (2_000_000, "2s"), (1_500, "1500us")] {
        assert_eq!(micros(us), text);
    }
}
