//! Each gate by itself, over figures of one stage of half of the clients.

use serde_json::{Value, json};
use tidegate_statistics::histogram::Histogram;

use super::*;
use crate::figures::{Block, CLIENT_BLOCKS, Completeness, Group, GroupFigures, Observed, StageFigures};
use crate::plan::{Gate, Plan};

/// A gate in a stage where it may be.
fn gate(gate: &Value) -> Gate {
    let document = json!({"stages": [
        {"name": "half", "hold": "1m", "gates": [gate], "flags": {
            "enableRouteCache": {"percent": 50}, "enableIpBlacklistCache": "shadow"}}]});
    let mut plan = Plan::read("p", &document).expect("it is valid");
    plan.stages.remove(0).gates.remove(0)
}

fn result(of: &Value, figures: &StageFigures) -> GateResult {
    look(&gate(of), figures, &GateState::default(), 0).result.expect("a look has a result")
}

fn verdict(of: &Value, figures: &StageFigures) -> (Verdict, bool) {
    let result = result(of, figures);
    (result.verdict, result.is_met)
}

/// Requests of a group: so many milliseconds each, so many of them answered with 500.
fn requests(ms: impl IntoIterator<Item = u64>, errors: u64) -> GroupFigures {
    let total = Histogram::of(ms.into_iter().map(|ms| ms * 1_000));
    let requests = total.count();
    GroupFigures {
        requests,
        succeeded: requests - errors,
        server_errors: errors,
        gate: Histogram::of(std::iter::repeat_n(300, requests as usize)),
        total,
        ..GroupFigures::default()
    }
}

/// Times of a hundred requests around 20 ms, other ones in each slice and block.
fn times(of: u32) -> Vec<u64> {
    (0..100).map(|number| 15 + (number * 7 + u64::from(of) * 3) % 11).collect()
}

/// So many slices, in each of which a hundred requests of both groups come, those of the treated as `treated` makes them.
fn figures(slices: u32, treated: impl Fn(u32) -> GroupFigures) -> StageFigures {
    let mut figures = StageFigures { slice_ms: 1_000, ..StageFigures::default() };
    for slice in 0..slices {
        let clients = Block::Clients(((slice % u32::from(CLIENT_BLOCKS)) as u8).into());
        for block in [Block::Slice(slice), clients] {
            figures.add(block, Group::Control, &requests(times(slice), 0));
            figures.add(block, Group::Treated, &treated(slice));
        }
    }
    figures
}

fn good(slices: u32) -> StageFigures {
    figures(slices, |slice| requests(times(slice), 0))
}

fn against_control(percentile: u32, times: f64) -> Value {
    json!({"latency": {"of": "total", "percentile": percentile, "at_most_times_control": times}})
}

#[test]
fn a_third_slower_is_found_and_said() {
    let slower = figures(60, |slice| requests(times(slice).into_iter().map(|ms| ms * 13 / 10), 0));
    let found = result(&against_control(95, 1.1), &slower);
    assert_eq!(found.verdict, Verdict::Fails, "{found:?}");
    assert!((1.2..1.4).contains(&found.measured.unwrap()) && found.bounds.unwrap().0 > 1.1, "{found:?}");
    assert_eq!((found.unit, found.room, found.is_met), (Unit::Times, Some(-1.0), false));
    assert!(found.says.starts_with("32.") && found.says.contains(" would be seen"), "{}", found.says);
    assert_eq!(verdict(&against_control(95, 1.1), &good(60)), (Verdict::Holds, true));
}

#[test]
fn a_regression_that_shows_in_the_99th_percentile_only_is_found_there() {
    let slower = figures(60, |slice| {
        let mut times = times(slice);
        times[..2].fill(200);
        requests(times, 0)
    });
    assert_eq!(verdict(&against_control(50, 1.1), &slower), (Verdict::Holds, true));
    assert_eq!(verdict(&against_control(95, 1.1), &slower), (Verdict::Holds, true));
    assert_eq!(verdict(&against_control(99, 1.1), &slower), (Verdict::Fails, false));
}

#[test]
fn too_little_data_says_what_is_missing() {
    for (figures, missing) in [
        (good(0), "0 requests in the smaller group, 200 are needed"),
        (good(1), "100 requests in the smaller group, 200 are needed"),
        (good(7), "requests of both groups in 7 slices of time, 8 are needed"),
    ] {
        let found = result(&against_control(95, 1.1), &figures);
        assert_eq!((found.verdict, found.is_met, found.says.as_str()), (Verdict::Undecided, false, missing));
    }
    // The 99th percentile needs more.
    assert!(result(&against_control(99, 1.1), &good(9)).says.contains("1000 are needed"));
    let mut few_clients = good(60);
    few_clients.clients.retain(|block, _| block.clients < 3);
    for gate in [against_control(95, 1.1), json!({"server_errors": {"over_control_at_most": 0.01}})] {
        let found = result(&gate, &few_clients);
        assert!(found.says.contains("of 3 blocks of clients"), "{found:?}");
        assert_eq!((found.verdict, found.is_met), (Verdict::Undecided, false));
    }
}

#[test]
fn times_under_a_tenth_of_a_millisecond_are_all_alike() {
    let mut figures = good(60);
    for groups in figures.slices.values_mut().chain(figures.clients.values_mut()) {
        groups.control.gate = Histogram::of([10; 100]);
        groups.treated.gate = Histogram::of([90; 100]);
    }
    let gate = json!({"latency": {"of": "gate", "percentile": 95, "at_most_times_control": 1.1}});
    assert_eq!(verdict(&gate, &figures), (Verdict::Holds, true));
}

#[test]
fn a_percentile_over_its_limit_fails_when_that_is_sure() {
    let limit = |ms: u32| json!({"latency": {"of": "total", "percentile": 95, "at_most": format!("{ms}ms")}});
    assert_eq!(verdict(&limit(20), &good(60)), (Verdict::Fails, false));
    assert_eq!(verdict(&limit(30), &good(60)), (Verdict::Holds, true));
    // With a few slices nothing is sure, so it waits.
    assert_eq!(verdict(&limit(20), &good(5)), (Verdict::Undecided, false));
    assert_eq!(verdict(&limit(30), &good(5)), (Verdict::Undecided, false));
    assert_eq!(verdict(&limit(30), &good(0)), (Verdict::Undecided, false));
}

/// So few requests that no gate may say anything of them.
fn few(count: usize) -> StageFigures {
    let mut figures = figures(1, |slice| requests(times(slice).into_iter().take(count), 0));
    for groups in figures.slices.values_mut() {
        groups.treated.checks.route.cached = count as u64;
        groups.treated.checks.ip.direct = count as u64;
        groups.treated.checks.ip.compared = count as u64;
    }
    figures
}

#[test]
fn no_gate_holds_before_it_has_the_data_that_it_needs() {
    for gate in [
        json!({"latency": {"of": "total", "percentile": 99, "at_most": "10s"}}),
        json!({"latency": {"of": "gate", "percentile": 50, "at_most_times_control": 100}}),
        json!({"success": {"at_least": 0.001}}),
        json!({"server_errors": {"at_most": 0.999}}),
        json!({"server_errors": {"over_control_at_most": 0.999}}),
        json!({"denials": {"at_most": 0.999}}),
        json!({"denials": {"over_control_at_most": 0.999}}),
        json!({"hit_ratio": {"check": "route", "at_least": 0.001}}),
        json!({"mismatches": {"at_most_share": 0.999}}),
        json!({"mismatches": {"at_most": 0, "compared_at_least": 50}}),
        json!({"completeness": {"at_least": 0.001}}),
        json!({"health": {"gateways": true}}),
        json!({"health": {"recorder": true}}),
        json!({"health": {"tables_age_at_most": "1h"}}),
    ] {
        for count in [0, 1, 49] {
            let found = result(&gate, &few(count));
            assert_eq!((found.verdict, found.is_met), (Verdict::Undecided, false), "{count}: {found:?}");
            assert!(
                !found.says.is_empty() && !found.says.contains("smaller group")
                    || gate.to_string().contains("control")
            );
        }
    }
}

#[test]
fn an_outburst_of_errors_in_one_slice_is_no_difference_but_it_counts() {
    let burst = |slice| if slice == 30 { 40 } else { 0 };
    let gate = json!({"server_errors": {"over_control_at_most": 0.005}});
    let treated_only = figures(60, |slice| requests(times(slice), burst(slice)));
    let found = result(&gate, &treated_only);
    // 40 of 6,000 are 0.67 %, all of them at once: that may have been chance, but the gate does not hold.
    assert_eq!((found.verdict, found.is_met), (Verdict::Undecided, false), "{found:?}");
    // In both groups it is none at all; of so few requests 0.5 % more cannot be excluded, but the gate is met.
    let mut both = treated_only.clone();
    for groups in both.slices.values_mut().chain(both.clients.values_mut()) {
        groups.control = groups.treated.clone();
    }
    assert_eq!(verdict(&gate, &both), (Verdict::Undecided, true));
    // Whoever says 0.1 % at most has had more.
    assert_eq!(
        verdict(&json!({"server_errors": {"at_most": 0.001}}), &treated_only),
        (Verdict::Fails, false)
    );
    assert_eq!(verdict(&json!({"success": {"at_least": 0.999}}), &treated_only), (Verdict::Fails, false));
    // Errors that go on are a difference.
    let steady = figures(60, |slice| requests(times(slice), 3));
    assert_eq!(verdict(&gate, &steady), (Verdict::Fails, false));
}

#[test]
fn a_window_forgets_what_was_before_it() {
    let bad_at_first = figures(100, |slice| requests(times(slice), if slice < 50 { 10 } else { 0 }));
    let whole = json!({"success": {"at_least": 0.999}});
    let last = json!({"success": {"at_least": 0.999}, "window": "20s"});
    assert_eq!(verdict(&whole, &bad_at_first), (Verdict::Fails, false));
    let found = result(&last, &bad_at_first);
    assert_eq!((found.requests, found.measured, found.is_met), (2_100, Some(1.0), true));
    let bad_at_last = figures(100, |slice| requests(times(slice), if slice < 90 { 0 } else { 10 }));
    assert_eq!(verdict(&last, &bad_at_last), (Verdict::Fails, false));
}

/// Slices of a second of which the last ones are bad, with clients in spans of the window's quarters.
fn outage(slices: u32, bad: u32, make_bad: impl Fn(u32) -> GroupFigures) -> StageFigures {
    let spans = crate::figures::Spans { slices: 2, kept_slices: 8 };
    let mut figures = StageFigures { slice_ms: 1_000, spans, ..StageFigures::default() };
    for slice in 0..slices {
        let treated = if slice + bad < slices { requests(times(slice), 0) } else { make_bad(slice) };
        figures.add(Block::Slice(slice), Group::Control, &requests(times(slice), 0));
        figures.add(Block::Slice(slice), Group::Treated, &treated);
        for clients in 0..10 {
            let clients = Block::Clients(crate::figures::ClientBlock { span: spans.of(slice), clients });
            let tenth = |of: &GroupFigures| {
                let errors = of.server_errors / 10;
                let ms = if of.total.quantile(0.5) > Some(30_000) { 60 } else { 20 };
                GroupFigures { denied: of.denied / 10, ..requests([ms; 10], errors) }
            };
            figures.add(clients, Group::Control, &tenth(&requests(times(slice), 0)));
            figures.add(clients, Group::Treated, &tenth(&treated));
        }
    }
    figures
}

#[test]
fn an_outage_in_a_window_fails_a_comparison_at_once() {
    let errors = |bad| outage(600, bad, |slice| requests(times(slice), 100));
    let denials = |bad| outage(600, bad, |slice| GroupFigures { denied: 100, ..requests(times(slice), 0) });
    let slow = |bad| outage(600, bad, |slice| requests(times(slice).into_iter().map(|ms| ms * 3), 0));
    for (gate, bad) in [
        (json!({"server_errors": {"over_control_at_most": 0.02}}), &errors as &dyn Fn(u32) -> StageFigures),
        (json!({"denials": {"over_control_at_most": 0.02}}), &denials),
        (against_control(50, 1.2), &slow),
    ] {
        let mut windowed = gate.clone();
        windowed["window"] = json!("8s");
        let found = result(&windowed, &bad(9));
        assert_eq!(found.verdict, Verdict::Fails, "{found:?}");
        assert_eq!(verdict(&windowed, &bad(0)), (Verdict::Holds, true));
    }
}

#[test]
fn a_window_as_long_as_the_stage_says_what_the_stage_says() {
    let figures = figures(60, |slice| requests(times(slice).into_iter().map(|ms| ms + 2), 1));
    for gate in [
        against_control(95, 1.1),
        json!({"server_errors": {"over_control_at_most": 0.005}}),
        json!({"latency": {"of": "total", "percentile": 95, "at_most": "20ms"}}),
        json!({"success": {"at_least": 0.999}}),
    ] {
        let mut windowed = gate.clone();
        windowed["window"] = json!("1m");
        let of = |gate: &Value| GateResult { name: String::new(), ..result(gate, &figures) };
        assert_eq!(of(&windowed), of(&gate));
    }
}

#[test]
fn a_window_ends_now_whether_or_not_anything_comes() {
    let mut bad_at_last = figures(100, |slice| requests(times(slice), if slice < 90 { 0 } else { 10 }));
    let gate = json!({"success": {"at_least": 0.999}, "window": "20s"});
    assert_eq!(verdict(&gate, &bad_at_last), (Verdict::Fails, false));
    bad_at_last.present = 121;
    let found = result(&gate, &bad_at_last);
    assert_eq!((found.requests, found.verdict, found.is_met), (0, Verdict::Undecided, false), "{found:?}");
}

#[test]
fn clients_that_leave_are_no_failures_of_the_gate() {
    let mut left = good(10);
    for groups in left.slices.values_mut() {
        groups.treated.succeeded -= 10;
    }
    let found = result(&json!({"success": {"at_least": 0.999}}), &left);
    assert_eq!((found.measured, found.requests, found.is_met), (Some(1.0), 900, true), "{found:?}");
}

#[test]
fn a_test_comes_after_some_time_however_little_has_come() {
    let gate = gate(&against_control(95, 1.1));
    let mut state = look(&gate, &good(40), &GateState::default(), 0);
    let tested = state.clone();
    for _ in 0..4 {
        state = look(&gate, &good(41), &state, 1_000);
        assert_eq!((state.tests, &state.result), (1, &tested.result));
    }
    state = look(&gate, &good(41), &state, 1_000);
    assert_eq!((state.tests, state.untested_ms), (2, 0));
    // Without anything new there is nothing to test, but when something is decided.
    for _ in 0..20 {
        state = look(&gate, &good(41), &state, 1_000);
    }
    assert_eq!(state.tests, 2);
    assert_eq!(look_now(&gate, &good(41), &state).tests, 3);
}

#[test]
fn a_cache_that_denies_more_is_wrong() {
    let gate = json!({"denials": {"over_control_at_most": 0.01}});
    let denies =
        |share: u64| figures(60, move |slice| GroupFigures { denied: share, ..requests(times(slice), 0) });
    assert_eq!(verdict(&gate, &denies(0)), (Verdict::Holds, true));
    assert_eq!(verdict(&gate, &denies(3)), (Verdict::Fails, false));
}

fn with_checks(compared: u64, mismatched: u64) -> StageFigures {
    let mut figures = good(1);
    for groups in figures.slices.values_mut() {
        for group in Group::ALL {
            let checks = &mut groups.get_mut(group).checks;
            checks.ip.direct = compared / 2;
            checks.ip.compared = compared / 2;
            checks.route.cached = 95;
            checks.route.fallback = 5;
        }
        groups.treated.checks.ip.mismatched = mismatched;
    }
    figures
}

#[test]
fn one_mismatch_fails_its_gate_at_once_and_too_few_comparisons_hold_nothing() {
    let gate = json!({"mismatches": {"at_most": 0, "compared_at_least": 1000}});
    assert_eq!(verdict(&gate, &with_checks(1_000, 0)), (Verdict::Holds, true));
    assert_eq!(verdict(&gate, &with_checks(998, 0)), (Verdict::Undecided, false));
    let found = result(&gate, &with_checks(100, 1));
    assert_eq!(found.verdict, Verdict::Fails);
    assert_eq!(found.says, "1 of 100 compared checks differ (1 of ip)");
    let share = json!({"mismatches": {"at_most_share": 0.01}});
    assert_eq!(verdict(&share, &with_checks(10_000, 500)), (Verdict::Fails, false));
    assert_eq!(verdict(&share, &with_checks(10_000, 1)), (Verdict::Holds, true));
}

#[test]
fn the_hit_ratio_is_that_of_the_treated() {
    let hits = |at_least: f64| json!({"hit_ratio": {"check": "route", "at_least": at_least}});
    assert_eq!(verdict(&hits(0.95), &with_checks(0, 0)), (Verdict::Undecided, true));
    assert_eq!(verdict(&hits(0.999), &with_checks(0, 0)), (Verdict::Fails, false));
    assert!(result(&hits(0.95), &with_checks(0, 0)).says.contains("5 from the tables"));
}

fn seen(gate: &Value, observed: &Observed, bad_ms: u64) -> GateResult {
    let figures = StageFigures { observed: observed.clone(), ..StageFigures::default() };
    let before = GateState { bad_ms, ..GateState::default() };
    look(&super::tests::gate(gate), &figures, &before, 250).result.expect("a look has a result")
}

#[test]
fn what_is_seen_at_the_moment_may_be_bad_for_a_while() {
    let well = Observed {
        completeness: Some(Completeness { ratio: 1.0, exact: true }),
        gateways: 2,
        oldest_tables_ms: Some(50),
        ..Observed::default()
    };
    let health = json!({"health": {"gateways": true, "recorder": true, "tables_age_at_most": "30s"}});
    let complete = json!({"completeness": {"at_least": 0.995}});
    let queue = json!({"queue_depth": {"at_most": 1000}});
    for gate in [&health, &complete, &queue] {
        assert_eq!(seen(gate, &well, 0).verdict, Verdict::Holds);
    }
    let incomplete = Some(Completeness { ratio: 0.9, exact: false });
    for (gate, bad, says) in [
        (&health, Observed { gateways: 0, ..well.clone() }, "no gateway is there"),
        (&health, Observed { lost: 1, ..well.clone() }, "1 gateways are lost"),
        (&health, Observed { lagging: 2, ..well.clone() }, "2 gateways lag"),
        (&health, Observed { recorder_absent: true, ..well.clone() }, "a gateway has no recorder"),
        (
            &health,
            Observed { oldest_tables_ms: Some(60_000), ..well.clone() },
            "a gateway's tables are 1m old",
        ),
        (
            &complete,
            Observed { completeness: incomplete, ..well.clone() },
            "90 % of the events are stored at most",
        ),
        (&queue, Observed { queue_depth: 1_001, ..well.clone() }, "1001 events wait"),
    ] {
        let first = seen(gate, &bad, 0);
        assert_eq!((first.verdict, first.is_met), (Verdict::Undecided, false), "{first:?}");
        assert!(first.says.starts_with(says) && first.says.ends_with("if it stays so for 5s"), "{first:?}");
        let last = seen(gate, &bad, GRACE_MS - 250);
        assert_eq!(last.verdict, Verdict::Fails, "{last:?}");
    }
    // What was given up will not come any more.
    let dropped = seen(&json!({"dropped": {"at_most": 0}}), &Observed { dropped: 1, ..well }, 0);
    assert_eq!(dropped.verdict, Verdict::Fails);
    let nothing = seen(&complete, &Observed::default(), 0);
    assert_eq!((nothing.verdict, nothing.is_met), (Verdict::Undecided, false));
}

#[test]
fn a_gate_is_tested_again_only_when_its_data_has_grown() {
    let gate = gate(&against_control(95, 1.1));
    let mut state = GateState::default();
    let mut tests = Vec::new();
    for slices in 1..=40 {
        state = look(&gate, &good(slices), &state, 1_000);
        tests.push(state.tests);
    }
    // Eight slices are enough for the first; 40 have five times as many requests, which is 16 steps of a tenth more.
    assert_eq!((tests[6], tests[7]), (0, 1), "{tests:?}");
    // At first at every look, and in the end after five seconds.
    assert!((12..=17).contains(&tests[39]), "{tests:?}");
    // Figures that are lost are looked at anew.
    let lost = look(&gate, &good(3), &state, 1_000);
    assert_eq!(lost.result.map(|result| (result.verdict, result.is_met)), Some((Verdict::Undecided, false)));
}

#[test]
fn whatever_was_measured_a_result_can_be_written_and_read() {
    for number in [f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 1.0 / 3.0, 1e-300, f64::MAX] {
        let result = GateResult {
            bounds: Some((number, number)),
            measured: Some(number),
            ..result(&against_control(95, 1.1), &good(9))
        };
        let result = GateState::default().with(result).result.unwrap();
        let json = serde_json::to_string(&result).unwrap();
        assert_eq!(serde_json::from_str::<GateResult>(&json).unwrap(), result);
    }
}
