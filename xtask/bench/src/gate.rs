//! `bench gate`: Envoy's processor time per request, without and with filters.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tidegate_stack::envoy::{Alone, Filter, Setup, cpu_time};
use tidegate_stack::flood::flood;
use tidegate_stack::process::Identity;
use tidegate_stack::{FlagsAtStart, Options, Programs, Stack, Upstream};

use crate::measure::Plan;
use crate::rounds::{ensure_not_interrupted, say, shuffle, spread};
use crate::scene;
use crate::table::Table;

/// The processor of every Envoy, and the one of everything else.
const ENVOY_CPU: u32 = 0;
const OTHER_CPU: u32 = 1;
/// Connections, each sending its next request when the last is answered.
const CONNECTIONS: usize = 16;
/// After a load: what is still to be recorded is part of the cost.
const SETTLE: Duration = Duration::from_millis(300);

/// Options of `bench gate`.
#[derive(clap::Args)]
pub struct GateArgs {
    /// Rounds; each measures every case once.
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Seconds of load for one measurement.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: u32,
    /// Send requests on to the demo backend, instead of having Envoy answer 200
    /// itself: the whole way, and noisier.
    #[arg(long)]
    upstream: bool,
}

/// One Envoy to measure.
struct Case {
    name: &'static str,
    gate: SocketAddr,
    process: Identity,
    /// Processor time per request, microseconds.
    micros: Vec<f64>,
    /// The same over that of the bare Envoy just before and after.
    over: Vec<f64>,
    /// Requests per second.
    rates: Vec<f64>,
}

/// Runs it.
pub fn run(args: &GateArgs, programs: &Programs) -> Result<()> {
    let others = std::env::var_os("TIDEGATE_OTHER_FILTERS").context("run `cargo xtask bench`")?;
    let noop = PathBuf::from(others).join("tidegate_noop_filter.wasm");
    pin_rest()?;
    let dir = scene::dir().join("gate");
    let mut options = scene::options("gate", programs)?;
    options.workers = 1;
    options.envoy_cpu = Some(ENVOY_CPU);
    options.flags = FlagsAtStart::AllOn;
    options.upstream = if args.upstream { Upstream::Chosen } else { Upstream::Nowhere };
    // As it is by default, not as the local stack has it.
    options.plugin = json!({ "performance_headers": null });
    let mut limited = options.clone();
    limited.dir = scene::options("gate-limited", programs)?.dir;
    let stack = Stack::start(options)?;
    scene::fill(&stack)?;
    let before = stack.recording()?;
    let limited = start_limited(limited)?;

    let upstream = if args.upstream { Upstream::Demo } else { Upstream::Nowhere };
    let demo = Some(stack.demo().port());
    let alone = |name, filter| {
        let setup = Setup { filter, upstream, demo, workers: 1, cpu: Some(ENVOY_CPU) };
        Alone::start(name, programs, &dir, &setup)
    };
    let envoys = [
        alone("bare", Filter::None)?,
        alone("second-bare", Filter::None)?,
        alone("noop", Filter::Other(&noop))?,
    ];
    let [bare, second, nothing] = &envoys;
    let mut bare = Case::new("Envoy without a filter", bare.gate(), bare.process());
    let mut cases = [
        Case::new("the same once more (noise)", second.gate(), second.process()),
        Case::new("SDK filter that does nothing", nothing.gate(), nothing.process()),
        Case::new("Tidegate, all flags on", stack.gate(), stack.envoy()?),
        Case::new("the same, one limit by address", limited.gate(), limited.envoy()?),
    ];
    for round in 1..=args.rounds {
        say(format_args!("round {round} of {}", args.rounds));
        measure_round(args, &mut bare, &mut cases)?;
    }
    drop(envoys);
    print(args, &bare, &cases);
    let sent: u64 = stack.recorded(Duration::from_secs(60))?.stored - before.stored;
    say(format_args!("\n{sent} requests went through the gate, each recorded.\n"));
    Ok(())
}

/// A stack with a limit for each address that denies nobody here, and all of the
/// places taken in which the limiter keeps who used what.
fn start_limited(options: Options) -> Result<Stack> {
    let stack = Stack::start(options)?;
    scene::fill(&stack)?;
    // Nobody is replenished meanwhile, nor uses all of it up.
    stack.put_limit("per-client", &json!({ "key": "ip", "rate": 1, "per": "day", "burst": 30_000 }))?;
    let begin = 0x6500_0000;
    flood(stack.gate(), "/svc-00/flood", begin..begin + 150_000, 16)?;
    stack.recorded(Duration::from_secs(60))?;
    Ok(stack)
}

/// Every case once, in another order each time, between two measurements of the
/// bare Envoy: what the machine does meanwhile meets both.
fn measure_round(args: &GateArgs, bare: &mut Case, cases: &mut [Case]) -> Result<()> {
    let mut order: Vec<usize> = (0..cases.len()).collect();
    shuffle(&mut order);
    let mut earlier = bare.measure(args)?;
    for index in order {
        let case = &mut cases[index];
        let micros = case.measure(args)?;
        let later = bare.measure(args)?;
        case.over.push(micros - f64::midpoint(earlier, later));
        earlier = later;
    }
    Ok(())
}

impl Case {
    fn new(name: &'static str, gate: SocketAddr, process: &Identity) -> Self {
        let process = process.clone();
        Self { name, gate, process, micros: Vec::new(), over: Vec::new(), rates: Vec::new() }
    }

    #[expect(clippy::cast_precision_loss, reason = "some ten thousand requests")]
    fn measure(&mut self, args: &GateArgs) -> Result<f64> {
        ensure_not_interrupted()?;
        let plan = Plan {
            address: self.gate,
            connections: CONNECTIONS,
            seconds: f64::from(args.seconds),
            shots: scene::passing(),
        };
        let before = cpu_time(&self.process)?;
        let outcome = plan.run_in(Some(OTHER_CPU))?;
        std::thread::sleep(SETTLE);
        let used = cpu_time(&self.process)?.saturating_sub(before);
        ensure!(outcome.wrong == 0, "{}: {} wrong answers: {:?}", self.name, outcome.wrong, outcome.failures);
        let micros = used.as_secs_f64() * 1e6 / outcome.total() as f64;
        self.micros.push(micros);
        self.rates.push(outcome.rate());
        Ok(micros)
    }
}

fn print(args: &GateArgs, bare: &Case, cases: &[Case]) {
    let mut table =
        Table::new(&["case", "CPU per request, µs", "over bare, µs: median", "range", "requests/s"]);
    let one = |values: &[f64]| format!("{:.1}", spread(values)[0]);
    let rate = |case: &Case| format!("{:.0}", spread(&case.rates)[0]);
    table.row([bare.name.to_owned(), one(&bare.micros), String::new(), String::new(), rate(bare)]);
    for case in cases {
        let [median, low, high] = spread(&case.over);
        let over = format!("{median:+.1}");
        table.row([
            case.name.to_owned(),
            one(&case.micros),
            over,
            format!("{low:+.1} to {high:+.1}"),
            rate(case),
        ]);
    }
    say(format_args!(
        "\nEnvoy's processor time per request ({}), {} rounds of {} s, 1 worker, {CONNECTIONS} connections:\n\n{table}",
        if args.upstream { "sent on to a backend" } else { "answered by Envoy itself" },
        args.rounds,
        args.seconds,
    ));
}

/// This program, and with it all that it starts from now on, on a processor of
/// their own; each Envoy is put on the other one.
fn pin_rest() -> Result<()> {
    let processors = std::thread::available_parallelism()?.get();
    ensure!(processors > 1, "this needs two processors: one for Envoy, one for what asks it");
    let pid = std::process::id().to_string();
    let output = Command::new("taskset")
        .args(["-a", "-c", "-p", &OTHER_CPU.to_string(), &pid])
        .output()
        .context("cannot run taskset (of util-linux)")?;
    ensure!(output.status.success(), "taskset: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
