//! Very many bans in a short time: whether any is lost, how long each takes, and what requests feel of it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use tidegate_stack::Stack;
use tidegate_stack::http::{Connection, Request};

use super::one_by_one::{address, request};
use super::{goal, p99, row};
use crate::rounds::{ensure_not_interrupted, millis, say};
use crate::table::Table;
use crate::watchers::{Orders, Sight, Watched, Watchers};

/// How often each worker is asked, in the rush and in the quiet time before it.
const PACE: Duration = Duration::from_millis(2);
/// The quiet time.
const QUIET: Duration = Duration::from_secs(20);
/// Connections that ban, each its share.
const CALLERS: u32 = 16;
/// One ban of so many is watched.
const WATCHED_OF: u32 = 20;
const GOAL_ENFORCED: f64 = 50.0;
const GOAL_RATIO: f64 = 1.1;

/// When a ban's call began and was answered.
struct Call {
    ban: u32,
    began: Instant,
    millis: f64,
}

/// Bans `rate` addresses a second for so many seconds, by the API.
pub fn run(stack: &Stack, rate: u32, seconds: u32) -> Result<()> {
    let count = rate * seconds;
    let watchers = Watchers::start(stack, PACE)?;
    std::thread::sleep(QUIET);
    let (_, quiet) = watchers.finish()?;
    ensure_not_interrupted()?;

    let watchers = Watchers::start(stack, PACE)?;
    let begin = Instant::now();
    let calls = ban_all(stack, &watchers.orders(), rate, count)?;
    let took = begin.elapsed();
    let (sights, busy) = watchers.finish()?;
    let enforced = enforced(&calls, &sights);
    stack.wait_enforced()?;
    let lost = lost(stack, count)?;

    let mut table = Table::new(&["ms", "p50", "p99", "longest"]);
    row(&mut table, "a ban: the call is answered", &calls.iter().map(|call| call.millis).collect::<Vec<_>>());
    row(&mut table, "**a ban: the last worker denies**", &enforced);
    row(&mut table, "a request that passes, in the 20 s before", &quiet);
    row(&mut table, "a request that passes, meanwhile", &busy);
    say(format_args!(
        "{count} bans by the API in {:.1} s, {:.0} a second, by {CALLERS} connections; 4 workers, each asked every {:.0} ms; \
         one ban of {WATCHED_OF} was watched ({}), in the end all of them were tried at every worker:\n\n{table}",
        took.as_secs_f64(),
        f64::from(count) / took.as_secs_f64(),
        millis(PACE),
        enforced.len(),
    ));
    say(format_args!("{} {lost} bans lost", if lost == 0 { "✓" } else { "✗" }));
    goal("p99 until the last worker denies", p99(&enforced), GOAL_ENFORCED, " ms");
    goal("p99 of requests, by that of the quiet time", p99(&busy) / p99(&quiet), GOAL_RATIO, "");
    Ok(())
}

fn ban_all(stack: &Stack, orders: &Orders, rate: u32, count: u32) -> Result<Vec<Call>> {
    let begin = Instant::now();
    let of_caller = |caller: u32| -> Result<Vec<Call>> {
        let mut connection = Connection::open(stack.people())?;
        let mut calls = Vec::new();
        for ban in (caller..count).step_by(CALLERS as usize) {
            let due = begin + Duration::from_secs(1) * ban / rate;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            ensure_not_interrupted()?;
            let client = client(ban);
            if ban.is_multiple_of(WATCHED_OF) {
                orders.watch(&Watched { ban, client: client.as_str().into() })?;
            }
            let began = Instant::now();
            let answer = connection.send(&request(stack, &client))?;
            ensure!(answer.status == 200, "{client}: {}: {}", answer.status, answer.text());
            calls.push(Call { ban, began, millis: millis(began.elapsed()) });
        }
        Ok(calls)
    };
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS).map(|caller| scope.spawn(move || of_caller(caller))).collect();
        let mut all = Vec::new();
        for caller in callers {
            all.extend(caller.join().map_err(|_| anyhow!("a caller panicked"))??);
        }
        Ok(all)
    })
}

/// Two blocks of 65,536 addresses.
fn client(ban: u32) -> String {
    address(if ban < 65_536 { 51 } else { 52 }, ban)
}

/// From each watched ban's call until its last worker denied, milliseconds.
fn enforced(calls: &[Call], sights: &[Sight]) -> Vec<f64> {
    let began: HashMap<u32, Instant> = calls.iter().map(|call| (call.ban, call.began)).collect();
    let mut last: HashMap<u32, f64> = HashMap::new();
    for sight in sights {
        if let Sight::Denied(ban, at) = sight
            && let Some(began) = began.get(ban)
        {
            let time = last.entry(*ban).or_default();
            *time = time.max(millis(at.saturating_duration_since(*began)));
        }
    }
    last.into_values().collect()
}

/// How many of the bans some worker does not enforce: each is tried at each worker.
fn lost(stack: &Stack, count: u32) -> Result<usize> {
    let threads: Vec<_> = stack
        .connection_per_worker()?
        .into_iter()
        .map(|mut worker| {
            std::thread::spawn(move || -> Result<Vec<u32>> {
                let mut lost = Vec::new();
                for ban in 0..count {
                    let answer = worker.send(&Request::get("/svc-00/tried").from(&client(ban)))?;
                    if answer.status != 403 {
                        lost.push(ban);
                    }
                }
                Ok(lost)
            })
        })
        .collect();
    let mut lost = std::collections::BTreeSet::new();
    for thread in threads {
        lost.extend(
            thread.join().map_err(|_| anyhow!("a trier panicked"))?.context("a ban cannot be tried")?,
        );
    }
    Ok(lost.len())
}
