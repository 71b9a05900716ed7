//! `bench import`: a list of a million lines, the same list with a hundredth changed, and what single
//! bans and requests feel of it.

use std::fmt::Write;
use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::{Value, json};
use tidegate_stack::http::{Connection, Method, Request};
use tidegate_stack::{FlagsAtStart, Programs, Stack, Upstream};

use crate::rounds::{millis, quantiles, say};
use crate::scene;
use crate::table::Table;

/// Pause between two single bans, and between two requests.
const PACE: Duration = Duration::from_millis(5);
/// How long a list may take, seconds.
const GOAL: f64 = 15.0;

/// Options of `bench import`.
#[derive(clap::Args)]
pub struct ImportArgs {
    /// Lines of the list.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1_000..=2_000_000))]
    lines: u32,
}

/// What was felt while a list was imported, milliseconds.
#[derive(Default)]
struct Felt {
    bans: Vec<f64>,
    requests: Vec<f64>,
}

/// Runs it.
pub fn run(args: &ImportArgs, programs: &Programs) -> Result<()> {
    let mut options = scene::options("import", programs)?;
    options.flags = FlagsAtStart::AllOn;
    options.upstream = Upstream::Nowhere;
    options.plugin = json!({ "performance_headers": null });
    let stack = Stack::start(options)?;
    scene::fill(&stack)?;
    let lines = args.lines;
    let hundredth = lines / 100;
    let before = service_memory(&stack)?;
    say(format_args!("The admin service has {before} MB before.\n"));
    let mut table = Table::new(&[
        "list",
        "answered after, s",
        "service's peak, MB",
        "a ban meanwhile, ms: p50",
        "p99",
        "longest",
        "a request meanwhile, ms: p50",
        "p99",
        "longest",
        "added",
        "removed",
    ]);
    let mut begin = 0;
    for (what, first) in [
        (format!("{lines} new lines"), 0),
        (format!("the same, {hundredth} others"), hundredth),
        ("the same once more".to_owned(), hundredth),
    ] {
        let list = list(first, lines);
        let (answer, took, felt) = measure(&stack, &list, begin)?;
        begin += u32::try_from(felt.bans.len())?;
        let three = |times: &[f64]| quantiles(times, [0.5, 0.99, 1.0]).map(|time| format!("{time:.1}"));
        let counts = ["added", "removed"].map(|name| answer[name].to_string());
        let row = [what, format!("{took:.1}"), service_memory(&stack)?.to_string()];
        table.row(row.into_iter().chain(three(&felt.bans)).chain(three(&felt.requests)).chain(counts));
        let mark = if took < GOAL { "✓" } else { "✗" };
        say(format_args!("{mark} enforced by every worker after {took:.1} s, the goal is under {GOAL} s"));
    }
    say(format_args!("\n{table}"));
    Ok(())
}

fn list(first: u32, lines: u32) -> String {
    (first..first + lines).fold(String::new(), |mut list, n| {
        // A `String` takes everything.
        let _ = writeln!(list, "{}", Ipv4Addr::from_bits((20 << 24) + n * 3));
        list
    })
}

/// Imports a list, with single bans and requests beside it. `begin`: single bans so far.
fn measure(stack: &Stack, list: &str, begin: u32) -> Result<(Value, f64, Felt)> {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let bans = scope.spawn(|| {
            let mut api = Connection::open(stack.people())?;
            let mut next = begin;
            paced(&is_over, || {
                let ip = Ipv4Addr::from_bits((198 << 24 | 17 << 16) + next);
                let request = Request::new(Method::POST, "/api/admin/ip/ban").bearer(stack.token());
                let answer = api.send(&request.json(&json!({ "ip": ip })))?;
                next += 1;
                ensure!(answer.status == 200, "a ban: {} {}", answer.status, answer.text());
                Ok(())
            })
        });
        let requests = scope.spawn(|| {
            let mut gate = Connection::open(stack.gate())?;
            let request = Request::get("/svc-01/items/1").from("10.1.0.1");
            paced(&is_over, || {
                let answer = gate.send(&request)?;
                ensure!(answer.status != 403, "a request was denied");
                Ok(())
            })
        });
        let began = Instant::now();
        let answer = import(stack, list);
        let took = began.elapsed().as_secs_f64();
        is_over.store(true, Ordering::Relaxed);
        let join = |felt: std::thread::ScopedJoinHandle<'_, Result<Vec<f64>>>| {
            felt.join().map_err(|_| anyhow!("a thread panicked"))?
        };
        let felt = Felt { bans: join(bans)?, requests: join(requests)? };
        let answer = answer?;
        ensure!(answer["applied"]["gateways"] == 1, "the gate does not enforce it in time: {answer}");
        Ok((answer, took, felt))
    })
}

/// What the command line says of an import, once every gateway enforces it.
fn import(stack: &Stack, list: &str) -> Result<Value> {
    let file = stack.options().dir.join("list.txt");
    std::fs::write(&file, list)?;
    let done = Command::new(&stack.options().programs.admin)
        .args(["bans", "import", "--source", "bench", "--replace", "--wait", "30s", "-o", "json"])
        .args(["--server", &format!("http://{}", stack.people())])
        .arg(&file)
        .env("TIDEGATE_TOKEN", stack.token())
        .output()?;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    Ok(serde_json::from_slice(&done.stdout)?)
}

/// How long each call takes, until it is over.
fn paced(is_over: &AtomicBool, mut call: impl FnMut() -> Result<()>) -> Result<Vec<f64>> {
    let mut took = Vec::new();
    while !is_over.load(Ordering::Relaxed) {
        let begin = Instant::now();
        call()?;
        took.push(millis(begin.elapsed()));
        std::thread::sleep(PACE);
    }
    Ok(took)
}

/// The most memory that the admin service has held, MB.
fn service_memory(stack: &Stack) -> Result<u64> {
    let path = format!("/proc/{}/status", stack.service()?.pid);
    let status = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kb = peak.and_then(|peak| peak.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    Ok(kb.context("no VmHWM")? / 1_024)
}
