//! The admin service is there again, and every worker asks it about each request.

use anyhow::Result;
use tidegate_stack::http::{PATIENCE, Request};
use tidegate_stack::{Stack, wait};

/// Waits until every worker asks the checks that `cached` names: after failures in a row it does so
/// once a second only. `cached`: what `x-performance-cache` must have, like `ip=direct`.
pub fn asked_again(stack: &Stack, cached: &[&str]) -> Result<()> {
    for worker in &mut stack.connection_per_worker()? {
        wait::until("the admin service is asked again", PATIENCE, || {
            let answer = worker.send(&Request::get("/asked-again").from("192.0.2.14"))?;
            let told = answer.header("x-performance-cache").unwrap_or_default();
            Ok(cached.iter().all(|cached| told.contains(cached)).then_some(()))
        })?;
    }
    Ok(())
}
