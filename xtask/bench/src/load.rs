//! `bench load`: how long requests wait while a worker loads large tables.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tidegate_stack::http::Method;
use tidegate_stack::process::Identity;
use tidegate_stack::{FlagsAtStart, Programs, Stack, Upstream};

use crate::gate::pin_rest;
use crate::rounds::{ensure_not_interrupted, quantiles, say};
use crate::scene::{self, large};
use crate::table::Table;
use crate::watchers::Watchers;

/// The processor of the worker's thread, which nothing else of this runs on.
const WORKER_CPU: u32 = 0;
/// How often the worker is asked: what holds it for longer is seen, less this at most.
const PACE: Duration = Duration::from_micros(200);
/// A while without a change before each one, to compare with.
const QUIET: Duration = Duration::from_secs(5);
const ROUTES: usize = 10_000;
/// What the longest wait is to be, milliseconds.
const GOAL: f64 = 5.0;

/// Options of `bench load`.
#[derive(clap::Args)]
pub struct LoadArgs {
    /// How often everything is loaded once more in the end.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=50))]
    refreshes: u32,
}

/// A change, and the waits of requests before it and from its beginning until the gate had it, milliseconds.
struct Loaded {
    what: String,
    quiet: Vec<f64>,
    meanwhile: Vec<f64>,
}

/// Runs it.
pub fn run(args: &LoadArgs, programs: &Programs) -> Result<()> {
    pin_rest()?;
    let mut options = scene::options("load", programs)?;
    options.workers = 1;
    options.flags = FlagsAtStart::AllOn;
    options.upstream = Upstream::Nowhere;
    options.plugin = json!({ "performance_headers": null });
    let stack = Stack::start(options)?;
    scene::fill(&stack)?;
    pin_worker(stack.envoy()?)?;
    let loaded = [
        measure(&stack, "1,000,000 bans", || large::put_bans(&stack))?,
        measure(&stack, "660,000 ranges of countries", || large::put_countries(&stack))?,
        measure(&stack, "10,000 routes, templates", || large::put_routes(&stack, &templates()))?,
        measure(&stack, &format!("all of it, {} times", args.refreshes), || {
            (0..args.refreshes).try_for_each(|_| refresh(&stack))
        })?,
    ];
    report(&loaded);
    Ok(())
}

/// Has the gate load all tables anew.
fn refresh(stack: &Stack) -> Result<()> {
    let done = stack.api_ok(Method::POST, "/api/admin/optimization/cache/refresh?wait=30s", None)?;
    ensure!(done["applied"]["gateways"] == 1, "not loaded within 30 s: {done}");
    Ok(())
}

fn measure(stack: &Stack, what: &str, change: impl FnOnce() -> Result<()>) -> Result<Loaded> {
    ensure_not_interrupted()?;
    say(format_args!("loading {what}"));
    let watchers = Watchers::start(stack, PACE)?;
    std::thread::sleep(QUIET);
    let (_, quiet) = watchers.finish()?;
    let watchers = Watchers::start(stack, PACE)?;
    change().with_context(|| what.to_owned())?;
    let (_, meanwhile) = watchers.finish()?;
    Ok(Loaded { what: what.to_owned(), quiet, meanwhile })
}

/// Templates on one host, as the matcher's own benchmark has them.
fn templates() -> Vec<Value> {
    let template = |n: usize| {
        let path = format!("/api/team-{}/{{tenant}}/service-{n}/{{id}}", n % 100);
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "metadata": { "name": format!("large-{n}") },
            "spec": { "hostnames": ["large.example.com"], "rules": [{
                "matches": [{ "path": { "type": "Template", "value": path } }],
                "backendRefs": [{ "name": "demo" }],
            }] },
        })
    };
    (0..ROUTES).map(template).collect()
}

/// Ties the worker's thread to its processor; Envoy's others stay where everything else is.
fn pin_worker(envoy: &Identity) -> Result<()> {
    let tasks = format!("/proc/{}/task", envoy.pid);
    for task in std::fs::read_dir(&tasks).with_context(|| format!("cannot read {tasks}"))? {
        let task = task?;
        if std::fs::read_to_string(task.path().join("comm"))?.starts_with("wrk:worker_0") {
            let thread = task.file_name();
            let output = Command::new("taskset")
                .args(["-c", "-p", &WORKER_CPU.to_string()])
                .arg(&thread)
                .output()
                .context("cannot run taskset (of util-linux)")?;
            ensure!(output.status.success(), "taskset: {}", String::from_utf8_lossy(&output.stderr));
            return Ok(());
        }
    }
    anyhow::bail!("{tasks} has no worker's thread")
}

fn report(loaded: &[Loaded]) {
    let mut table = Table::new(&[
        "ms that a request took",
        "requests",
        "p50",
        "p99.9",
        "longest",
        "p99.9 before",
        "longest before",
    ]);
    for load in loaded {
        let [half, most, longest] = quantiles(&load.meanwhile, [0.5, 0.999, 1.0]);
        let [most_before, longest_before] = quantiles(&load.quiet, [0.999, 1.0]);
        let figures = [half, most, longest, most_before, longest_before].map(|time| format!("{time:.2}"));
        table.row([load.what.clone(), load.meanwhile.len().to_string()].into_iter().chain(figures));
    }
    say(format_args!(
        "\nOne worker on a processor of its own, asked every {:.1} ms, from the beginning of a change until the gate enforces it; \
         and in the {} s before:\n\n{table}",
        PACE.as_secs_f64() * 1_000.0,
        QUIET.as_secs()
    ));
    let longest = loaded.iter().map(|load| quantiles(&load.meanwhile, [1.0])[0]).fold(0.0, f64::max);
    let mark = if longest < GOAL { "✓" } else { "✗" };
    say(format_args!("{mark} the longest: {longest:.2} ms, the goal is under {GOAL} ms\n"));
}
