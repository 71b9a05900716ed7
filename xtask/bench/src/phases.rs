//! `bench phases`: the rollout, one flag after the other, and back.

mod delays;
pub mod result;

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};
use tidegate_stack::faults::Faults;
use tidegate_stack::{Programs, Stack};

use self::result::{Measured, Targets};
use crate::measure::Plan;
use crate::rounds::{ensure_not_interrupted, say};
use crate::{chart, scene};

/// Seconds of load per phase, short and long.
const SHORT: u32 = 6;
const LONG: u32 = 60;
/// How long events may take to arrive after a phase. What is missing then counts
/// as missing.
const RECORDED: Duration = Duration::from_secs(30);

/// Options of `bench phases`.
#[derive(clap::Args)]
pub struct PhasesArgs {
    /// A minute of load per phase instead of six seconds.
    #[arg(long)]
    long: bool,
    /// Connections, each sending its next request when the last is answered.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1000))]
    connections: u32,
}

/// A phase: what is switched at its start, and which targets hold from there.
struct Phase {
    name: &'static str,
    flags: Value,
    targets: Targets,
}

fn phases() -> Vec<Phase> {
    let none = Targets::default();
    let route = Targets { route: true, ..none };
    let ip = Targets { ip: true, ..route };
    vec![
        Phase { name: "all off", flags: off(), targets: none },
        Phase { name: "+ route cache", flags: json!({ "enableRouteCache": true }), targets: route },
        Phase { name: "+ IP cache", flags: json!({ "enableIpBlacklistCache": true }), targets: ip },
        Phase {
            name: "+ geo cache, parallel",
            flags: json!({ "enableGeoRulesCache": true, "enableParallelExecution": true }),
            targets: ip,
        },
        Phase {
            name: "+ async recording",
            flags: json!({ "enableAsyncRecording": true }),
            targets: Targets { latency: true, ..ip },
        },
        Phase { name: "all off again", flags: off(), targets: none },
        // In the rollout's order nothing is left to ask at once by the time that
        // this is switched on.
        Phase { name: "parallel alone", flags: json!({ "enableParallelExecution": true }), targets: none },
    ]
}

fn off() -> Value {
    json!({
        "enableRouteCache": false,
        "enableIpBlacklistCache": false,
        "enableGeoRulesCache": false,
        "enableParallelExecution": false,
        "enableAsyncRecording": false,
    })
}

/// Runs it.
pub fn run(args: &PhasesArgs, programs: &Programs) -> Result<()> {
    let seconds = if args.long { LONG } else { SHORT };
    let mut options = scene::options("phases", programs)?;
    options.faults = Some(Faults { delays: delays::all(), ..Faults::default() });
    let stack = Stack::start(options)?;
    scene::fill(&stack)?;
    let plan = Plan {
        address: stack.gate(),
        connections: args.connections as usize,
        seconds: f64::from(seconds),
        shots: scene::mixed(),
    };
    let mut measured = Vec::new();
    for phase in phases() {
        ensure_not_interrupted()?;
        say(format_args!("{}: {seconds} s", phase.name));
        measured.push(measure(&stack, &plan, phase)?);
    }
    let dir = scene::dir();
    let table = result::table(&measured);
    let told = format!(
        "Rollout, {seconds} s per phase, {} connections, 2 workers. {}\n\n{table}\n{}",
        args.connections,
        delays::told(),
        result::summary(&measured)
    );
    say(format_args!("\n{told}"));
    std::fs::write(dir.join("phases.md"), told)?;
    std::fs::write(dir.join("phases.csv"), result::csv(&measured))?;
    chart::draw(&dir.join("phases.svg"), &measured)?;
    say("Also in target/bench: phases.md, phases.csv, phases.svg");
    Ok(())
}

fn measure(stack: &Stack, plan: &Plan, phase: Phase) -> Result<Measured> {
    stack.flags(&phase.flags)?;
    let before = stack.recording()?;
    let outcome = plan.run_in(None)?;
    // Not in time: then that is the result.
    let after = stack.recorded(RECORDED).or_else(|_| stack.recording())?;
    for failure in &outcome.failures {
        say(format_args!("  {failure}"));
    }
    Ok(Measured::new(phase.name, phase.targets, &outcome, &before, &after))
}
