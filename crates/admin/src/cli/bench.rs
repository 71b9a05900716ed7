//! `tidegate bench`: what requests to a gate take, as its clients see it.

pub mod compare;
pub mod connect;
pub mod gate_times;
pub mod load;
pub mod pair;
pub mod report;
pub mod result;
pub mod times;
pub mod url_under_load;

use std::path::PathBuf;

use anyhow::{Context, ensure};
use reqwest::Url;

use super::documents::CommandResult;
use super::output::ReportArgs;
use super::targets::RequestTargets;
use load::{Load, LoadArgs};
use url_under_load::{ReachArgs, UrlUnderLoad, http_url};

/// Options of `tidegate bench`.
#[derive(clap::Args, Debug)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct BenchArgs {
    #[command(subcommand)]
    command: Option<BenchCommand>,
    /// What is asked, as http://127.0.0.1:10000/hello, with GET.
    #[arg(required = true, value_parser = http_url)]
    url: Option<Url>,
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    reach: ReachArgs,
    /// Say which of the targets are met, the rollout guide's unless others are given, and exit with 1 if
    /// one is missed.
    #[arg(long)]
    targets: bool,
    #[command(flatten)]
    of: RequestTargets,
    /// Write the result, with all times, to this file, for `bench compare`.
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// Replace the file if it exists.
    #[arg(long, requires = "save")]
    force: bool,
    #[command(flatten)]
    output: ReportArgs,
}

/// Commands beside the measurement itself.
#[derive(clap::Subcommand, Debug)]
enum BenchCommand {
    /// Say how the second of two saved results differs from the first, and which differences they could tell.
    Compare(compare::CompareArgs),
    /// Measure a gate and its backend in turn, and say what the gate adds.
    ProxyVsDirect(Box<pair::PairArgs>),
}

/// Runs `tidegate bench`.
///
/// # Errors
/// When the URL is another machine's and nobody said whose, or the result cannot be saved or printed.
pub async fn run(args: BenchArgs) -> anyhow::Result<CommandResult> {
    match &args.command {
        Some(BenchCommand::Compare(args)) => compare::run(args),
        Some(BenchCommand::ProxyVsDirect(args)) => pair::run(args).await,
        None => measure(&args).await,
    }
}

async fn measure(args: &BenchArgs) -> anyhow::Result<CommandResult> {
    // `required` says that there is one.
    let url = args.url.as_ref().context("there is no URL")?;
    if let Some(file) = &args.save {
        ensure!(args.force || !file.exists(), "{} exists: add --force to replace it", file.display());
    }
    let load = Load::new(UrlUnderLoad::new(url, &args.reach).await?, args.load);
    let mut result = load.run().await?;
    if args.targets {
        result.judge(&args.of);
    }
    if let Some(file) = &args.save {
        result.save(file)?;
    }
    args.output.print(&result, || report::text(&result), || report::markdown(&result))?;
    let is_missed = result.targets.iter().flatten().any(|judged| !judged.met);
    Ok(if is_missed || result.answers() == 0 { CommandResult::Different } else { CommandResult::Done })
}
