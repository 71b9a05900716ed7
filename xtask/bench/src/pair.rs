//! `bench proxy-vs-direct`: the gate against its backend asked directly.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use serde_json::json;
use tidegate_stack::{FlagsAtStart, Programs, Stack};

use crate::measure::{Outcome, Plan};
use crate::rounds::{ensure_not_interrupted, say, spread};
use crate::scene;
use crate::table::Table;

/// One connection shows what a request costs, sixteen what the machine can do.
const CONNECTIONS: [usize; 2] = [1, 16];
const QUANTILES: [f64; 3] = [0.5, 0.95, 0.99];

/// Options of `bench proxy-vs-direct`.
#[derive(clap::Args)]
pub struct PairArgs {
    /// Rounds; each asks both once.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Seconds of load for one measurement.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: u32,
}

/// One side's measurements, one per round.
struct Side {
    name: &'static str,
    address: SocketAddr,
    outcomes: Vec<Outcome>,
}

/// Runs it.
pub fn run(args: &PairArgs, programs: &Programs) -> Result<()> {
    let mut options = scene::options("proxy-vs-direct", programs)?;
    options.flags = FlagsAtStart::AllOn;
    options.plugin = json!({ "performance_headers": null });
    let stack = Stack::start(options)?;
    scene::fill(&stack)?;
    let mut table = Table::new(&["connections", "asked", "P50, ms", "P95, ms", "P99, ms", "requests/s"]);
    for connections in CONNECTIONS {
        let mut sides = [
            Side { name: "backend", address: stack.demo(), outcomes: Vec::new() },
            Side { name: "gate", address: stack.gate(), outcomes: Vec::new() },
        ];
        for round in 1..=args.rounds {
            say(format_args!("connections: {connections}, round {round} of {}", args.rounds));
            let mut order = [0, 1];
            fastrand::shuffle(&mut order);
            for index in order {
                ensure_not_interrupted()?;
                let side = &mut sides[index];
                let plan = Plan {
                    address: side.address,
                    connections,
                    seconds: f64::from(args.seconds),
                    shots: scene::passing(),
                };
                let outcome = plan.run_in(None)?;
                ensure!(outcome.wrong == 0, "{}: {:?}", side.name, outcome.failures);
                side.outcomes.push(outcome);
            }
        }
        rows(&mut table, connections, &sides);
    }
    say(format_args!(
        "\nThe gate (2 workers, all flags on, recorded) against its backend asked directly, {} rounds of {} s, medians;\n\
         the difference is of the two measurements of one round, with its range:\n\n{table}",
        args.rounds, args.seconds
    ));
    Ok(())
}

fn rows(table: &mut Table, connections: usize, sides: &[Side; 2]) {
    for side in sides {
        let median = |figure: &dyn Fn(&Outcome) -> f64| {
            spread(&side.outcomes.iter().map(figure).collect::<Vec<_>>())[0]
        };
        let quantiles = QUANTILES.map(|share| format!("{:.3}", median(&|outcome| outcome.quantile(share))));
        let rate = format!("{:.0}", median(&Outcome::rate));
        table.row([connections.to_string(), side.name.to_owned()].into_iter().chain(quantiles).chain([rate]));
    }
    let [backend, gate] = sides;
    let difference = |share| {
        let pairs = gate.outcomes.iter().zip(&backend.outcomes);
        let values: Vec<_> =
            pairs.map(|(gate, backend)| gate.quantile(share) - backend.quantile(share)).collect();
        let [median, low, high] = spread(&values);
        format!("{median:+.3} ({low:+.3} to {high:+.3})")
    };
    let differences = QUANTILES.map(difference);
    let heading = [connections.to_string(), "difference".to_owned()];
    table.row(heading.into_iter().chain(differences).chain([String::new()]));
}
