//! The `tidegate` binary: see `tidegate --help`.

use std::process::ExitCode;

use clap::Parser;
use tidegate_admin::cli::Cli;

fn main() -> ExitCode {
    Cli::parse().run()
}
