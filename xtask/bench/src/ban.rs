//! `bench ban`: how long after a ban the last worker enforces it, and what happens when bans come by the
//! thousand.

mod feed_poll;
mod one_by_one;
mod rush;

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use anyhow::{Result, ensure};
use serde_json::json;
use tidegate_stack::{FlagsAtStart, Programs, Stack, Upstream};

use crate::rounds::{millis, quantiles, say};
use crate::scene;
use crate::table::Table;

/// Worker threads of Envoy.
const WORKERS: u32 = 4;
/// Most bans in a rush: each has an address of its own.
const MAX_BANS: u32 = 120_000;
/// Shares of the times that are shown; 1: the longest.
const QUANTILES: [f64; 3] = [0.5, 0.99, 1.0];
/// How often the disk is asked by itself.
const SYNCS: usize = 200;

/// Options of `bench ban`.
#[derive(clap::Args)]
pub struct BanArgs {
    /// Bans one after the other, by the API and as many by SQL.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(10..=2_000))]
    bans: u32,
    /// Bans per second in the rush after that, by the API.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=5_000))]
    rate: u32,
    /// Seconds of the rush. 0: none.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(0..=600))]
    seconds: u32,
}

/// Runs it.
pub fn run(args: &BanArgs, programs: &Programs) -> Result<()> {
    ensure!(args.rate * args.seconds <= MAX_BANS, "{MAX_BANS} bans at most: less --rate or --seconds");
    let mut options = scene::options("ban", programs)?;
    options.workers = WORKERS;
    options.flags = FlagsAtStart::AllOn;
    options.upstream = Upstream::Nowhere;
    options.plugin = json!({ "performance_headers": null });
    let stack = Stack::start(options)?;
    scene::fill(&stack)?;
    let disk = quantiles(&disk_sync(&stack.options().dir)?, QUANTILES);
    say(format_args!(
        "A page written and synced to this disk by itself: p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms\n",
        disk[0], disk[1], disk[2]
    ));
    one_by_one::run(&stack, args.bans)?;
    if args.seconds > 0 {
        rush::run(&stack, args.rate, args.seconds)?;
    }
    Ok(())
}

/// How long a page takes until the disk has it, milliseconds: what every commit waits for.
fn disk_sync(dir: &Path) -> Result<Vec<f64>> {
    let path = dir.join("sync");
    let mut file = File::create(&path)?;
    let mut one = || -> Result<f64> {
        let begin = Instant::now();
        file.write_all(&[7; 4096])?;
        file.sync_data()?;
        Ok(millis(begin.elapsed()))
    };
    let times = (0..SYNCS).map(|_| one()).collect();
    std::fs::remove_file(path)?;
    times
}

/// A row of a table of times: what it is, p50, p99, longest.
fn row(table: &mut Table, what: &str, times: &[f64]) {
    let figures = quantiles(times, QUANTILES).map(|time| format!("{time:.2}"));
    table.row([what.to_owned()].into_iter().chain(figures));
}

/// p99.
fn p99(times: &[f64]) -> f64 {
    quantiles(times, [0.99])[0]
}

/// Whether a goal is met, in words.
fn goal(what: &str, figure: f64, goal: f64, unit: &str) {
    let mark = if figure < goal { "✓" } else { "✗" };
    say(format_args!("{mark} {what}: {figure:.2}{unit}, the goal is under {goal}{unit}"));
}
