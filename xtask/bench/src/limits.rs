//! `bench limits`: what it costs when all workers count under one limit.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tidegate_stack::{FlagsAtStart, Programs, Stack, Upstream};

use crate::measure::Plan;
use crate::rounds::{ensure_not_interrupted, say, spread};
use crate::scene;
use crate::table::Table;

/// Workers of an Envoy; each has as many connections as the others.
const WORKERS: [u32; 3] = [1, 2, 4];
const CONNECTIONS: usize = 32;
/// One key for all requests, which never has nothing left: each of them reads and
/// writes the same bucket.
const HOT: &str = "hot";

/// Options of `bench limits`.
#[derive(clap::Args)]
pub struct LimitsArgs {
    /// Rounds; each measures every case once.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Seconds of load for one measurement.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: u32,
}

/// What was measured with a number of workers.
struct Case {
    limited: bool,
    rates: Vec<f64>,
    /// Looks at the limit, and those that were made again.
    looks: u64,
    again: u64,
}

/// Runs it.
pub fn run(args: &LimitsArgs, programs: &Programs) -> Result<()> {
    let mut table = Table::new(&["workers, limit", "requests/s", "range", "looked again, per request"]);
    let mut gave_up = 0;
    for workers in WORKERS {
        say(format_args!("{workers} workers"));
        let mut options = scene::options(&format!("limits-{workers}"), programs)?;
        options.workers = workers;
        options.flags = FlagsAtStart::AllOn;
        options.upstream = Upstream::Nowhere;
        options.plugin = json!({ "performance_headers": null });
        let stack = Stack::start(options)?;
        scene::fill(&stack)?;
        let mut cases = [false, true].map(Case::new);
        for _ in 0..args.rounds {
            fastrand::shuffle(&mut cases);
            for case in &mut cases {
                case.measure(args, &stack)?;
            }
        }
        cases.sort_by_key(|case| case.limited);
        for case in &cases {
            case.row(workers, &mut table);
        }
        gave_up += figure(&stack, "given_up")?;
    }
    say(format_args!(
        "\nAll workers under one limit, {CONNECTIONS} connections, answered by Envoy itself, {} rounds of {} s, medians:\n\n\
         {table}\n{gave_up} looks were given up.\n",
        args.rounds, args.seconds
    ));
    Ok(())
}

impl Case {
    fn new(limited: bool) -> Self {
        Self { limited, rates: Vec::new(), looks: 0, again: 0 }
    }

    fn measure(&mut self, args: &LimitsArgs, stack: &Stack) -> Result<()> {
        ensure_not_interrupted()?;
        if self.limited {
            stack.put_limit(HOT, &json!({ "key": "global", "rate": 1_000_000_000, "per": "second" }))?;
        }
        let counted = || Ok::<_, anyhow::Error>((figure(stack, "passed")?, figure(stack, "retries")?));
        let before = counted()?;
        let plan = Plan {
            address: stack.gate(),
            connections: CONNECTIONS,
            seconds: f64::from(args.seconds),
            shots: scene::passing(),
        };
        let outcome = plan.run_in(None)?;
        ensure!(outcome.wrong == 0, "{} wrong answers: {:?}", outcome.wrong, outcome.failures);
        // Workers count for themselves, and tell Envoy with their events.
        stack.recorded(tidegate_stack::http::PATIENCE)?;
        let after = counted()?;
        self.rates.push(outcome.rate());
        self.looks += after.0 - before.0;
        self.again += after.1 - before.1;
        if self.limited {
            ensure!(after.0 - before.0 >= outcome.right, "not every request was counted");
            stack.delete_limit(HOT)?;
        }
        Ok(())
    }

    #[expect(clippy::cast_precision_loss, reason = "some ten thousand requests")]
    fn row(&self, workers: u32, table: &mut Table) {
        let [median, low, high] = spread(&self.rates);
        let again = format!("{:.3}", self.again as f64 / self.looks.max(1) as f64);
        table.row([
            format!("{workers}, {}", if self.limited { "one for all" } else { "none" }),
            format!("{median:.0}"),
            format!("{low:.0} to {high:.0}"),
            if self.limited { again } else { String::new() },
        ]);
    }
}

fn figure(stack: &Stack, name: &str) -> Result<u64> {
    let name = format!("wasmcustom.tidegate.limits.{name}");
    stack.stats()?.get(&name).with_context(|| format!("Envoy has no {name}"))
}
