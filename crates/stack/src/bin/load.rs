//! `tidegate-load`: reads a [`Plan`] as JSON, runs it, writes the [`Outcome`] as JSON.
//!
//! [`Outcome`]: tidegate_stack::measure::Outcome

use anyhow::{Context, Result};
use tidegate_stack::measure::Plan;

fn main() -> Result<()> {
    let plan: Plan = serde_json::from_reader(std::io::stdin().lock()).context("no plan on standard input")?;
    serde_json::to_writer(std::io::stdout().lock(), &plan.run()?)?;
    Ok(())
}
