//! What ships.

mod filter;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tidegate_stack::Programs;
use tidegate_stack::envoy::time_to_ready;
use tidegate_stack::programs::repository;

use crate::install;
pub use filter::build;

/// What the module may weigh. Built for size it would be under 500,000, and slower
/// by a sixth: `docs/ARCHITECTURE.md`.
const SIZE_LIMIT: usize = 550_000;
/// How much later Envoy may be ready because of it.
const START_LIMIT: Duration = Duration::from_millis(600);

/// `cargo xtask dist`.
pub fn run() -> Result<()> {
    install::wasm_target()?;
    let envoy = install::envoy()?;
    let dist = build()?;
    println!(
        "{}: {} bytes ({} as compiled; limit {SIZE_LIMIT})",
        dist.path.display(),
        dist.after,
        dist.before
    );
    ensure!(dist.after <= SIZE_LIMIT, "the filter is over its limit of {SIZE_LIMIT} bytes");
    let programs = Programs {
        envoy,
        admin: PathBuf::new(),
        wasm: dist.path,
        config: repository().join("envoy/envoy.yaml"),
    };
    start_up(&programs)
}

/// Starts Envoy with and without the filter and compares.
fn start_up(programs: &Programs) -> Result<()> {
    let dir = repository().join("target/dist/startup");
    let fastest = |filter| {
        // The fastest of three: what another process does meanwhile is not the filter's.
        let times = (0..3).map(|_| time_to_ready(programs, filter, &dir)).collect::<Result<Vec<_>>>()?;
        times.into_iter().min().context("no start at all")
    };
    let (with, without) = (fastest(true)?, fastest(false)?);
    let more = with.saturating_sub(without);
    println!(
        "Envoy is ready in {:.2} s with the filter, {:.2} s without: {:.2} s more",
        with.as_secs_f64(),
        without.as_secs_f64(),
        more.as_secs_f64()
    );
    if more > START_LIMIT {
        println!("warning: that is over the goal of {:.1} s", START_LIMIT.as_secs_f64());
    }
    Ok(())
}
