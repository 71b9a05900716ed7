//! `cargo xtask`: what a developer, CI and the curious run.

mod bench;
mod build;
mod command;
mod dist;
mod filter;
mod harness;
mod install;
mod pictures;
mod remap;
mod report;
mod test;
mod up;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tidegate_stack::compose;

/// Tidegate's own commands.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Sub,
}

#[derive(Subcommand)]
enum Sub {
    /// Build what is missing, start everything on this machine, wait until the
    /// gate answers, and say what to try.
    Up(up::UpArgs),
    /// End what `up --detach` started.
    Down,
    /// Formatting, lints, and every test, the ones on a real Envoy included.
    Test(test::TestArgs),
    /// Build what scenarios on a real Envoy start: filter, admin service, demo backend.
    Parts,
    /// Build the filter alone, as it ships, and copy it there: what the Dockerfile does.
    Filter {
        /// Where to.
        out: std::path::PathBuf,
    },
    /// Take pictures of the dashboard's pages, light and dark, on a desk and on a telephone, into target/ui.
    Pictures(pictures::PicturesArgs),
    /// Make envoy/compose.yaml anew from envoy/envoy.yaml.
    ComposeConfig,
    /// Measure what the gate costs, and what the rollout brings.
    #[command(disable_help_flag = true)]
    Bench {
        /// Which, and its options: `--help` says.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<std::ffi::OsString>,
    },
    /// Build all that ships into dist/: filter, admin service, OCI layouts, checksums.
    Dist,
}

/// Writes Envoy's configuration for containers.
fn compose_config() -> anyhow::Result<()> {
    let root = tidegate_stack::programs::repository();
    let source = std::fs::read_to_string(root.join("envoy/envoy.yaml"))?;
    std::fs::write(root.join(compose::FILE), compose::render(&source)?)?;
    println!("{} is what envoy/envoy.yaml makes now", compose::FILE);
    Ok(())
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Sub::Up(args) => up::up(&args),
        Sub::Down => up::down(),
        Sub::Test(args) => test::run(&args),
        Sub::Parts => build::parts(build::Profile::Dev).map(drop),
        Sub::Filter { out } => build::filter(&out),
        Sub::Pictures(args) => pictures::run(&args),
        Sub::ComposeConfig => compose_config(),
        Sub::Bench { arguments } => bench::run(&arguments),
        Sub::Dist => dist::run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
    }
}
