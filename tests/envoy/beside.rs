//! How long requests take while something else goes on: measured and printed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tidegate_stack::Stack;
use tidegate_stack::http::{Connection, Request};

/// Between two requests of a connection: they share the processors with what they measure.
const PAUSE: Duration = Duration::from_micros(300);

/// Asks down one connection to each worker for as long as `meanwhile` runs, and prints how long the answers
/// took, with `what`.
///
/// # Errors
/// Those of `meanwhile`, or one of the requests does not pass.
pub fn requests_beside<T>(stack: &Stack, what: &str, meanwhile: impl FnOnce() -> Result<T>) -> Result<T> {
    let is_over = AtomicBool::new(false);
    let ask = |worker: &mut Connection| {
        let mut took = Vec::new();
        while !is_over.load(Ordering::Relaxed) {
            let began = Instant::now();
            let answer = worker.send(&Request::get("/beside").from("192.0.2.14"))?;
            ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
            took.push(began.elapsed());
            std::thread::sleep(PAUSE);
        }
        Ok(took)
    };
    let mut workers = stack.connection_per_worker()?;
    let (done, took) = std::thread::scope(|scope| {
        let asking: Vec<_> = workers.iter_mut().map(|worker| scope.spawn(|| ask(worker))).collect();
        let done = meanwhile();
        is_over.store(true, Ordering::Relaxed);
        let took = asking.into_iter().map(|one| one.join().expect("nobody panics"));
        (done, took.collect::<Result<Vec<_>>>())
    });
    let mut took = took?.concat();
    took.sort_unstable();
    let at = |share: usize| took.get(took.len() * share / 100).copied().unwrap_or_default();
    let longest = took.last().copied().unwrap_or_default();
    println!("{} requests {what}: p50 {:.1?}, p99 {:.1?}, longest {longest:.1?}", took.len(), at(50), at(99));
    done
}
