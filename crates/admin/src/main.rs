//! The `tidegate` binary: see `tidegate --help`.

use std::process::ExitCode;

use clap::Parser;
use tidegate_admin::cli::Cli;

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tidegate: {error:#}");
            ExitCode::FAILURE
        }
    }
}
