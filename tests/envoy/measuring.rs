//! `tidegate bench` and `tidegate watch` against a real gate: what they say is what the gate did. How long anything took is
//! asserted nowhere.

use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tidegate_stack::http::PATIENCE;
use tidegate_stack::{Options, Stack};

/// Targets that the slowest machine meets.
const SLOW: [&str; 6] = ["--p50", "60000", "--p95", "60000", "--p99", "60000"];

/// Runs the program, with the stack's service and token.
fn tidegate(stack: &Stack, args: &[&str]) -> Result<Output> {
    Command::new(&stack.options().programs.admin)
        .args(args)
        .env("TIDEGATE_SERVER", format!("http://{}", stack.admin_api()))
        .env("TIDEGATE_TOKEN", stack.token())
        .output()
        .context("cannot run the program")
}

/// What it printed with exit status 0.
fn done(output: Output) -> Result<String> {
    let [out, err] =
        [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    ensure!(output.status.success(), "{:?}: {out}{err}", output.status);
    Ok(out)
}

fn json_of(output: Output) -> Result<Value> {
    let out = done(output)?;
    serde_json::from_str(&out).with_context(|| out.clone())
}

#[test]
fn a_gate_can_be_measured_compared_and_watched() -> Result<()> {
    let stack = Stack::start_serving(Options::for_test("measuring")?)?;
    let [gate, backend] = [stack.gate(), stack.demo()].map(|address| format!("http://{address}/hello"));
    let before = stack.recorded(PATIENCE)?;
    let load = ["-n", "100", "-c", "4", "-o", "json"];
    let result = json_of(tidegate(&stack, &[&["bench", &gate], &load[..], &["--targets"], &SLOW].concat())?)?;
    assert_eq!((&result["status"], &result["errors"]), (&json!({"200": 100}), &json!({})), "{result}");
    for part in ["own", "route", "ip", "geo", "recording", "total"] {
        assert_eq!(result["gate"][part]["count"], 100, "the gate says its own times: {result}");
    }
    let after = stack.recorded(PATIENCE)?;
    assert_eq!(after.stored - before.stored, 100, "each request is one of the gate's");
    // A denial is no success, and misses the target.
    let denied =
        [&["bench", &gate], &load[..], &["-H", "X-Forwarded-For: 192.0.2.13", "--targets"], &SLOW].concat();
    let denied = tidegate(&stack, &denied)?;
    assert_eq!(denied.status.code(), Some(1), "{denied:?}");
    let denied: Value = serde_json::from_slice(&denied.stdout)?;
    assert_eq!(
        (&denied["status"], &denied["success_percent"]),
        (&json!({"403": 100}), &json!(0.0)),
        "{denied}"
    );

    let pair = ["bench", "proxy-vs-direct", &gate, &backend, "--rounds", "6", "-n", "20", "-o", "json"];
    let pair = json_of(tidegate(&stack, &pair)?)?;
    assert_eq!(
        (&pair["gate"]["status"], &pair["backend"]["status"]),
        (&json!({"200": 120}), &json!({"200": 120}))
    );
    assert_eq!(
        (&pair["added_ms"][0]["quantile"], &pair["added_ms"][0]["interval"]),
        (&json!("p50"), &json!(true))
    );

    stack.recorded(PATIENCE)?;
    let file = stack.options().dir.join("watch.jsonl");
    let file = file.to_str().context("the directory's name")?;
    let watch =
        ["watch", "--every", "300ms", "--for", "900ms", "--save", file, "--probe", &gate, "-o", "json"];
    let said = done(tidegate(&stack, &[&watch[..], &SLOW].concat())?)?;
    let said: Vec<Value> = said.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let (verdict, looks) = said.split_last().context("nothing was printed")?;
    assert_eq!((&verdict["stable"], &verdict["failed"]), (&json!(true), &json!(0)), "{verdict}");
    let figure = |name: &str| verdict["figures"].as_array()?.iter().find(|one| one["figure"] == name);
    for name in ["service", "health", "probe_success", "probe_p50"] {
        let one = figure(name).context("no such figure")?;
        assert_eq!((&one["measured"], &one["met"]), (&json!(looks.len()), &json!(looks.len())), "{verdict}");
    }
    assert!(looks[0]["recording"]["stored"].as_u64() >= Some(after.stored), "{looks:?}");
    Ok(())
}
