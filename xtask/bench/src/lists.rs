//! `bench lists`: a list of a million bans, a source that is fetched, an automatic ban and bans in shadow, and
//! what single bans and requests feel of each.

use std::fmt::Write;
use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::{Value, json};
use tidegate_stack::http::{Connection, Method, PATIENCE, Request};
use tidegate_stack::list_server::ListServer;
use tidegate_stack::{FlagsAtStart, Programs, Stack, Upstream};

use crate::rounds::{ensure_not_interrupted, millis, quantiles, say};
use crate::scene;
use crate::table::Table;

/// Pause between two single bans, and between two requests of a connection.
const PACE: Duration = Duration::from_millis(5);
/// Connections that requests come over.
const CLIENTS: u8 = 4;
/// Addresses of the source.
const SOURCE: u32 = 120_000;
/// Requests that an automatic ban takes.
const THRESHOLD: usize = 10;
/// Requests that bans in shadow would deny.
const HITS: usize = 1_000;
/// How long the million lines may take, seconds.
const GOAL: f64 = 15.0;

/// Options of `bench lists`.
#[derive(clap::Args)]
pub struct ListsArgs {
    /// Lines of the list.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1_000..=2_000_000))]
    lines: u32,
}

/// What was felt during a step, milliseconds.
#[derive(Default)]
struct Felt {
    bans: Vec<f64>,
    requests: Vec<f64>,
}

/// The steps, and what they have come to so far.
struct Bench<'s> {
    stack: &'s Stack,
    table: Table,
    /// Single bans so far: each is of another address.
    bans: u32,
}

/// Runs it.
pub fn run(args: &ListsArgs, programs: &Programs) -> Result<()> {
    let mut options = scene::options("lists", programs)?;
    options.flags = FlagsAtStart::AllOn;
    options.upstream = Upstream::Nowhere;
    options.plugin = json!({ "performance_headers": null });
    let stack = Stack::start(options)?;
    scene::fill(&stack)?;
    say(format_args!("The admin service has {} MB before.\n", service_memory(&stack)?));
    let header = [
        "step",
        "took, s",
        "service's peak, MB",
        "a ban meanwhile, ms: p50",
        "p99",
        "longest",
        "a request meanwhile, ms: p50",
        "p99",
        "longest",
    ];
    let mut bench = Bench { stack: &stack, table: Table::new(&header), bans: 0 };
    imports(&mut bench, args.lines)?;
    source(&mut bench)?;
    automatic_ban(&mut bench)?;
    shadow(&mut bench)?;
    say(format_args!("\n{}", bench.table));
    let whole = stack.recorded(PATIENCE)?;
    ensure!(whole.is_whole(), "events are missing: {whole:?}");
    say(format_args!("No request failed, and each of {} has its event.", whole.stored));
    Ok(())
}

/// A list, the same with a hundredth of it others, and once more.
fn imports(bench: &mut Bench<'_>, lines: u32) -> Result<()> {
    let hundredth = lines / 100;
    for (what, first) in [
        (format!("import of {lines} lines"), 0),
        (format!("the same, {hundredth} others"), hundredth),
        ("the same once more".to_owned(), hundredth),
    ] {
        let list = list(20, first, lines);
        let took = bench.step(&what, |stack| import(stack, &list))?;
        let mark = if took < GOAL { "✓" } else { "✗" };
        say(format_args!("{mark} {what}: enforced by every worker after {took:.1} s, the goal is {GOAL} s"));
    }
    Ok(())
}

/// A source, fetched and then with a hundredth of its addresses others.
fn source(bench: &mut Bench<'_>) -> Result<()> {
    let server = ListServer::start()?;
    // Empty until it is asked for: the fetch that is measured is the first that brings something.
    let document = json!({ "url": server.url(), "allow_private": true, "interval": "30d" });
    bench.stack.api_ok(Method::PUT, "/api/admin/sources/bench?wait_applied=5s", Some(&document))?;
    for (what, first) in [
        (format!("source of {SOURCE} addresses"), 0),
        (format!("the same, {} others", SOURCE / 100), SOURCE / 100),
    ] {
        server.serve(list(30, first, SOURCE));
        bench.step(&what, |stack| {
            let target = "/api/admin/sources/bench/refresh?wait_applied=30s";
            let done = stack.api_ok(Method::POST, target, None)?;
            ensure!(done["applied"]["gateways"] == 1, "the gate does not enforce it in time: {done}");
            Ok(())
        })?;
    }
    Ok(())
}

/// From the first bad request of a client until it is banned.
fn automatic_ban(bench: &mut Bench<'_>) -> Result<()> {
    let rule =
        json!({ "match": { "status": 404 }, "threshold": THRESHOLD, "window": "1m", "ban": { "ttl": "1h" } });
    bench.stack.api_ok(Method::PUT, "/api/admin/auto-bans/bench?wait_applied=5s", Some(&rule))?;
    bench.step(&format!("an automatic ban after {THRESHOLD} requests"), |stack| {
        let mut gate = Connection::open(stack.gate())?;
        let request = Request::get("/nothing/here").from("203.0.113.7");
        let end = Instant::now() + PATIENCE;
        for sent in 0.. {
            match gate.send(&request)?.status {
                403 if sent >= THRESHOLD => return Ok(()),
                404 => ensure!(Instant::now() < end, "not banned after {sent} requests"),
                status => return Err(anyhow!("request {sent} got {status}")),
            }
            if sent >= THRESHOLD {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    })?;
    Ok(())
}

/// Requests that a ban in shadow would deny.
fn shadow(bench: &mut Bench<'_>) -> Result<()> {
    bench.stack.ban_with(&json!({ "ip": "198.51.100.0/24", "mode": "shadow" }))?;
    bench.step(&format!("{HITS} requests that a ban in shadow would deny"), |stack| {
        let mut gate = Connection::open(stack.gate())?;
        for hit in 0..HITS {
            let client = format!("198.51.100.{}", hit % 250);
            let status = gate.send(&Request::get("/svc-01/items/1").from(&client))?.status;
            ensure!(status == 200, "{client} got {status}");
        }
        Ok(())
    })?;
    let top = bench.stack.api_ok(Method::GET, "/api/admin/ip-monitor?status=watched", None)?;
    say(format_args!("bans in shadow: {}", top["items"]));
    Ok(())
}

impl Bench<'_> {
    /// Does `step` with single bans and requests beside it; returns how long it took, in seconds.
    fn step(&mut self, what: &str, step: impl FnOnce(&Stack) -> Result<()>) -> Result<f64> {
        ensure_not_interrupted()?;
        say(format_args!("{what} ..."));
        let (took, felt) = beside(self.stack, self.bans, step).with_context(|| what.to_owned())?;
        self.bans += u32::try_from(felt.bans.len())?;
        let three = |times: &[f64]| quantiles(times, [0.5, 0.99, 1.0]).map(|time| format!("{time:.1}"));
        let row = [what.to_owned(), format!("{took:.2}"), service_memory(self.stack)?.to_string()];
        self.table.row(row.into_iter().chain(three(&felt.bans)).chain(three(&felt.requests)));
        Ok(took)
    }
}

/// Each third address of a block, `lines` from the one at `first` on.
fn list(block: u32, first: u32, lines: u32) -> String {
    (first..first + lines).fold(String::new(), |mut list, n| {
        // A `String` takes everything.
        let _ = writeln!(list, "{}", Ipv4Addr::from_bits((block << 24) + n * 3));
        list
    })
}

/// How long `step` took, in seconds, and what was felt of it. `first`: the first address of the single bans.
fn beside(stack: &Stack, first: u32, step: impl FnOnce(&Stack) -> Result<()>) -> Result<(f64, Felt)> {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let bans = scope.spawn(|| bans(stack, first, &is_over));
        let clients: Vec<_> = (1..=CLIENTS)
            .map(|client| {
                let is_over = &is_over;
                scope.spawn(move || requests(stack, client, is_over))
            })
            .collect();
        let began = Instant::now();
        let done = step(stack);
        let took = began.elapsed().as_secs_f64();
        is_over.store(true, Ordering::Relaxed);
        let join = |felt: std::thread::ScopedJoinHandle<'_, Result<Vec<f64>>>| {
            felt.join().map_err(|_| anyhow!("a thread panicked"))?
        };
        let felt = Felt {
            bans: join(bans)?,
            requests: clients.into_iter().map(join).collect::<Result<Vec<_>>>()?.concat(),
        };
        done?;
        Ok((took, felt))
    })
}

/// Single bans, from the address at `first` on.
fn bans(stack: &Stack, first: u32, is_over: &AtomicBool) -> Result<Vec<f64>> {
    let mut api = Connection::open(stack.people())?;
    let mut next = first;
    paced(is_over, || {
        let ip = Ipv4Addr::from_bits((40 << 24) + next);
        let request = Request::new(Method::POST, "/api/admin/optimization/ip/ban").bearer(stack.token());
        let answer = api.send(&request.json(&json!({ "ip": ip })))?;
        next += 1;
        ensure!(answer.status == 200, "a ban: {} {}", answer.status, answer.text());
        Ok(())
    })
}

fn requests(stack: &Stack, client: u8, is_over: &AtomicBool) -> Result<Vec<f64>> {
    let mut gate = Connection::open(stack.gate())?;
    let request = Request::get("/svc-01/items/1").from(&format!("10.1.0.{client}"));
    paced(is_over, || {
        let status = gate.send(&request)?.status;
        ensure!(status == 200, "a request got {status}");
        Ok(())
    })
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

/// Has the command line import the list, until every gateway enforces it.
fn import(stack: &Stack, list: &str) -> Result<()> {
    let file = stack.options().dir.join("list.txt");
    std::fs::write(&file, list)?;
    let done = Command::new(&stack.options().programs.admin)
        .args(["bans", "import", "--source", "bench", "--replace", "--wait", "30s", "-o", "json"])
        .args(["--server", &format!("http://{}", stack.people())])
        .arg(&file)
        .env("TIDEGATE_TOKEN", stack.token())
        .output()?;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let answer: Value = serde_json::from_slice(&done.stdout)?;
    ensure!(answer["applied"]["gateways"] == 1, "the gate does not enforce it in time: {answer}");
    Ok(())
}

/// The most memory that the admin service has held, MB.
fn service_memory(stack: &Stack) -> Result<u64> {
    let path = format!("/proc/{}/status", stack.service()?.pid);
    let status = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kb = peak.and_then(|peak| peak.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    Ok(kb.context("no VmHWM")? / 1_024)
}
