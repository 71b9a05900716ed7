//! `cargo xtask bench`: what the gate costs and what each step of the rollout
//! brings, measured on this machine. `docs/PERFORMANCE.md` says how, and has the
//! figures of one machine. A program of its own, so that who does not measure does not
//! build it.

mod ban;
mod chart;
mod dashboard;
mod gate;
mod ingest;
mod intervals;
mod limits;
mod lists;
mod load;
mod measure;
mod pair;
mod phases;
mod rounds;
mod scene;
mod table;
mod watchers;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use tidegate_stack::{Programs, wait};

/// Measurements of the gate.
#[derive(Parser)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench")]
struct Cli {
    #[command(subcommand)]
    bench: Bench,
}

/// What to measure. All of it runs on this machine and over loopback, is bounded
/// in number and time, and asserts nothing: it prints tables in Markdown.
#[derive(clap::Subcommand)]
enum Bench {
    /// What the gate costs: Envoy's processor time per request without a filter,
    /// with a filter of the proxy-wasm SDK that does nothing, and with ours, all
    /// cached and recorded, without and with a limit. `--wasm NAME=FILE` sets another build of the
    /// filter beside this one. About three minutes.
    Gate(gate::GateArgs),
    /// A ban, until the last worker enforces it, by API and by SQL, with 4 workers: where the milliseconds are.
    /// Then 1,000 bans a second for a minute: whether one is lost, and what requests feel. About three minutes.
    Ban(ban::BanArgs),
    /// A list of a million lines imported, then with a hundredth changed; a source fetched; an automatic ban; bans in
    /// shadow: how long each takes, and what single bans and requests feel meanwhile. About a minute.
    Lists(lists::ListsArgs),
    /// All workers under one limit: requests per second with 1, 2 and 4 of them, and how
    /// often one finds another quicker. About two minutes.
    Limits(limits::LimitsArgs),
    /// How long a worker's requests wait while it loads a million bans, 660,000 ranges of countries and 10,000
    /// routes. About two minutes.
    Load(load::LoadArgs),
    /// The rollout, phase by phase: latency, success, hit ratios and completeness
    /// from all flags off to all on and back, with an admin service made as slow as
    /// the database that the rollout starts from. Under a minute; `--long` for the record.
    Phases(phases::PhasesArgs),
    /// Events per second into SQLite, with statistics and without, and how long answers about a week
    /// take. About a minute.
    Ingest(ingest::IngestArgs),
    /// Each page of the dashboard over a million bans, 10,000 routes and statistics of 10 million requests: its bytes,
    /// and how long it takes. About three minutes.
    Dashboard(dashboard::DashboardArgs),
    /// The gate against its backend asked directly: latency and throughput.
    ProxyVsDirect(pair::PairArgs),
    /// Sends what each line of standard input says, and writes what became of it: the load of all others.
    #[command(hide = true)]
    Send,
}

fn main() -> ExitCode {
    match run(&Cli::parse().bench) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(bench: &Bench) -> Result<()> {
    if let Bench::Send = bench {
        return measure::Sender::serve();
    }
    wait::catch_signals()?;
    if let Bench::Ingest(args) = bench {
        return ingest::run(args);
    }
    // What `cargo xtask bench` has built.
    let programs = Programs::find()?;
    match bench {
        Bench::Ban(args) => ban::run(args, &programs),
        Bench::Dashboard(args) => dashboard::run(args, &programs),
        Bench::Gate(args) => gate::run(args, &programs),
        Bench::Load(args) => load::run(args, &programs),
        Bench::Lists(args) => lists::run(args, &programs),
        Bench::Limits(args) => limits::run(args, &programs),
        Bench::Phases(args) => phases::run(args, &programs),
        Bench::ProxyVsDirect(args) => pair::run(args, &programs),
        Bench::Ingest(_) | Bench::Send => Ok(()),
    }
}
