//! How often a run without a fault is taken back: measured and printed, of as many runs as `ROLLOUTS` says (100).
//! Of the 99th percentile a run would have to wait for a thousand requests of each group.

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};
use tidegate_stack::{Stack, wait};

use super::runs::{self, load, options, stage, usual};

/// Gates that the guide has, those against the control too, in stages that are as short as can be.
fn plan() -> Value {
    let gates = json!([
        { "success": { "at_least": 0.999 } },
        { "completeness": { "at_least": 0.995 } },
        { "dropped": { "at_most": 0 } },
        { "health": { "gateways": true, "recorder": true } },
        { "latency": { "of": "total", "percentile": 95, "at_most_times_control": 1.1 } },
        { "server_errors": { "over_control_at_most": 0.005 } },
        { "denials": { "over_control_at_most": 0.01 } },
    ]);
    let mut shadow = stage("shadow", json!({ "enableRouteCache": "shadow" }), "1s", Value::Null);
    shadow["gates"] = json!([{ "mismatches": { "at_most": 0, "compared_at_least": 50 } }]);
    let half = json!({ "enableRouteCache": { "percent": 50 } });
    json!({ "stages": [shadow, stage("half", half, "3s", gates)] })
}

/// The phase that a run ends in, and why.
fn ended(stack: &Stack) -> Result<(String, String)> {
    let status = wait::until("the run has ended", Duration::from_secs(180), || {
        let status = runs::status(stack)?;
        Ok((status["phase"] != "running").then_some(status))
    })?;
    let text = |field: &str| status[field].as_str().unwrap_or_default().to_owned();
    Ok((text("phase"), text("reason")))
}

#[test]
#[ignore = "measures: run it by itself"]
fn runs_without_a_fault() {
    let runs: u32 = std::env::var("ROLLOUTS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(100);
    let stack = Stack::start_serving(options("rollout-false-alarms").unwrap()).unwrap();
    let load = load(&stack, usual);
    let (mut alarms, mut paused) = (0, 0);
    for run in 1..=runs {
        stack.all_flags(false).unwrap();
        runs::start(&stack, &plan()).unwrap();
        let (phase, reason) = ended(&stack).unwrap();
        match phase.as_str() {
            "completed" => {}
            "rolled_back" => alarms += 1,
            _ => {
                paused += 1;
                runs::ask(&stack, "abort").unwrap();
            }
        }
        if phase != "completed" {
            println!("run {run}: {phase}: {reason}");
        }
    }
    let tally = load.stop();
    assert_eq!(tally.failed, 0, "{:?}", tally.failures);
    println!("{runs} runs without a fault: {alarms} taken back, {paused} paused; {} requests", tally.total());
}
