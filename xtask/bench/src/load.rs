//! `bench load`: how long requests wait while a worker loads large tables.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::{Value, json};
use tidegate_stack::envoy::thread_time;
use tidegate_stack::http::{Connection, Method, Request};
use tidegate_stack::process::Identity;
use tidegate_stack::{FlagsAtStart, Programs, Stack, Upstream};

use crate::gate::pin_rest;
use crate::rounds::{ensure_not_interrupted, millis, quantiles, say};
use crate::scene::{self, large};
use crate::table::Table;
use crate::watchers::come_first;

/// The processor of the worker's thread, which nothing else of this runs on.
const WORKER_CPU: u32 = 0;
/// How often the worker is asked: what holds it for longer is seen, less this at most.
const PACE: Duration = Duration::from_micros(200);
/// A while without a change before each one, to compare with.
const QUIET: Duration = Duration::from_secs(5);
const ROUTES: usize = 10_000;
/// How long the thread is to be at work at a time, at most, milliseconds.
const GOAL: f64 = 5.0;

/// Options of `bench load`.
#[derive(clap::Args)]
pub struct LoadArgs {
    /// How often everything is loaded once more in the end.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=50))]
    refreshes: u32,
}

/// Requests to the worker, one after the other.
#[derive(Default)]
struct Probed {
    /// How long each took, milliseconds.
    took: Vec<f64>,
    /// How long the worker's thread worked meanwhile, milliseconds of its processor.
    worked: Vec<f64>,
}

/// A change, and what requests felt before it and from its beginning until the gate had it.
struct Loaded {
    what: String,
    quiet: Probed,
    meanwhile: Probed,
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
    let worker = pin_worker(stack.envoy()?)?;
    let loaded = [
        measure(&stack, &worker, "1,000,000 bans", || large::put_bans(&stack))?,
        measure(&stack, &worker, "660,000 ranges of countries", || large::put_countries(&stack))?,
        measure(&stack, &worker, "10,000 routes, templates", || large::put_routes(&stack, &templates()))?,
        measure(&stack, &worker, &format!("all of it, {} times", args.refreshes), || {
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

fn measure(stack: &Stack, worker: &Path, what: &str, change: impl FnOnce() -> Result<()>) -> Result<Loaded> {
    ensure_not_interrupted()?;
    say(format_args!("loading {what}"));
    let quiet = probe_while(stack, worker, || {
        std::thread::sleep(QUIET);
        Ok(())
    })?;
    let meanwhile = probe_while(stack, worker, change).with_context(|| what.to_owned())?;
    Ok(Loaded { what: what.to_owned(), quiet, meanwhile })
}

/// Asks the worker again and again as long as `act` takes.
fn probe_while(stack: &Stack, worker: &Path, act: impl FnOnce() -> Result<()>) -> Result<Probed> {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let prober = scope.spawn(|| probe(stack, worker, &over));
        let acted = act();
        over.store(true, Ordering::Relaxed);
        let probed = prober.join().map_err(|_| anyhow!("the prober panicked"))?;
        acted.and(probed)
    })
}

fn probe(stack: &Stack, worker: &Path, over: &AtomicBool) -> Result<Probed> {
    come_first();
    let mut connection = Connection::open(stack.gate())?;
    let request = Request::get("/svc-00/probed").from("10.1.0.1");
    let mut probed = Probed::default();
    while !over.load(Ordering::Relaxed) {
        let (begin, before) = (Instant::now(), thread_time(worker)?);
        let status = connection.send(&request)?.status;
        ensure!(status == 200, "a request got {status}");
        probed.took.push(millis(begin.elapsed()));
        probed.worked.push(millis(thread_time(worker)?.saturating_sub(before)));
        std::thread::sleep(PACE);
    }
    Ok(probed)
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

/// Ties the worker's thread to its processor; Envoy's others stay where everything else is. Its folder in `/proc`.
fn pin_worker(envoy: &Identity) -> Result<PathBuf> {
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
            return Ok(task.path());
        }
    }
    anyhow::bail!("{tasks} has no worker's thread")
}

fn report(loaded: &[Loaded]) {
    let headings = ["ms", "requests", "p50", "p99.9", "longest", "thread at work: p99.9", "**longest**"];
    let mut table = Table::new(&headings);
    let mut row = |what: String, probed: &Probed| {
        let took = quantiles(&probed.took, [0.5, 0.999, 1.0]);
        let worked = quantiles(&probed.worked, [0.999, 1.0]);
        let figures = took.into_iter().chain(worked).map(|time| format!("{time:.2}"));
        table.row([what, probed.took.len().to_string()].into_iter().chain(figures));
    };
    for load in loaded {
        row(format!("{} s before", QUIET.as_secs()), &load.quiet);
        row(load.what.clone(), &load.meanwhile);
    }
    say(format_args!(
        "\nRequests to one worker on a processor of its own, one every {:.1} ms, from the beginning of a change until the gate \
         enforces it; and how long the worker's thread was at work meanwhile:\n\n{table}",
        millis(PACE),
    ));
    let longest = loaded.iter().map(|load| quantiles(&load.meanwhile.worked, [1.0])[0]).fold(0.0, f64::max);
    let mark = if longest < GOAL { "✓" } else { "✗" };
    say(format_args!("{mark} the longest at a time: {longest:.2} ms, the goal is under {GOAL} ms\n"));
}
