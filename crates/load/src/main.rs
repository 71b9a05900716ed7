//! `tidegate-load`: see the library.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use tidegate_load::GatewaysArgs;
use tidegate_stack::wait;

/// Load for an admin service.
#[derive(Parser)]
#[command(name = "tidegate-load")]
struct Cli {
    #[command(subcommand)]
    load: Load,
}

/// What to simulate.
#[derive(clap::Subcommand)]
enum Load {
    /// Gateways: an admin service of its own is started, and as many gateways follow it. Prints how long a ban takes to
    /// the last ack, and what the service needs: at rest, at several bans a second, when it is started again, and when
    /// all gateways need a new table of bans. Takes about three minutes.
    Gateways(GatewaysArgs),
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let Load::Gateways(args) = Cli::parse().load;
    wait::catch_signals()?;
    tidegate_load::run(&args).map(drop)
}
