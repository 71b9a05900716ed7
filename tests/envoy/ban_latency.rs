//! How long after a ban the last worker still lets the address through: measured
//! and printed, 100 bans by the API and 100 by SQL. And what a ban costs while many others are
//! in force.
//!
//! Nothing here fails because a machine is slow. What must hold is that every ban
//! is enforced by every worker; the goals stand beside the figures.

use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tidegate_stack::http::{Connection, Method, Request};
use tidegate_stack::{Options, Stack};

use crate::beside::requests_beside;

const BANS: usize = 100;
/// Pause of a prober between two requests: the probers share the processors with
/// what they measure.
const PAUSE: Duration = Duration::from_micros(300);

/// Bans `client` with `ban`, while one connection to each worker keeps asking as
/// that client; the time from the moment that `ban` returns to the last answer that let
/// it through.
pub fn measure(
    workers: &mut [Connection],
    client: &str,
    ban: impl FnOnce() -> Result<Instant>,
) -> Result<Duration> {
    let began = Instant::now();
    let first_asked = Barrier::new(workers.len() + 1);
    let last_passed = AtomicU64::new(0);
    let called = std::thread::scope(|scope| {
        let probers: Vec<_> = workers
            .iter_mut()
            .map(|worker| {
                let (first_asked, last_passed) = (&first_asked, &last_passed);
                scope.spawn(move || {
                    let first = worker.send(&Request::get("/").from(client));
                    first_asked.wait();
                    ensure!(first?.status == 200, "{client} was banned before");
                    probe(worker, client, began, last_passed)
                })
            })
            .collect();
        first_asked.wait();
        let done = ban();
        let probed = probers.into_iter().map(|prober| prober.join().expect("a prober does not panic"));
        probed.collect::<Result<Vec<_>>>().and(done)
    })?;
    Ok((began + Duration::from_micros(last_passed.load(Ordering::Relaxed))).saturating_duration_since(called))
}

/// Asks until five answers in a row are 403; notes when the last 200 came.
fn probe(worker: &mut Connection, client: &str, began: Instant, last_passed: &AtomicU64) -> Result<()> {
    let mut denied = 0;
    while denied < 5 {
        ensure!(began.elapsed() < Duration::from_secs(20), "{client} is still let through after 20 s");
        match worker.send(&Request::get("/").from(client))?.status {
            200 => {
                last_passed.fetch_max(elapsed_us(began), Ordering::Relaxed);
                denied = 0;
            }
            403 => denied += 1,
            other => anyhow::bail!("{client} got {other}"),
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

fn elapsed_us(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// Prints how long bans took, with `what`.
pub fn report(what: &str, mut times: Vec<Duration>, goal: Duration) {
    times.sort();
    let ms = |at: usize| times[at].as_secs_f64() * 1_000.0;
    let within = times.iter().filter(|time| **time < goal).count();
    println!(
        "{what}, {} bans: \
         p50 {:.1} ms, 99 of 100 {:.1} ms, max {:.1} ms; {within} under the goal of {} ms",
        times.len(),
        ms(times.len() / 2),
        ms(times.len() * 99 / 100 - 1),
        ms(times.len() - 1),
        goal.as_millis()
    );
}

fn by_api(stack: &Stack, workers: &mut [Connection]) -> Result<Vec<Duration>> {
    let one = |at: usize| {
        let client = format!("198.18.0.{at}");
        let body = json!({ "ip": client });
        // The time of the call itself is in the figure.
        let ban = || {
            let called = Instant::now();
            stack.api_ok(Method::POST, "/api/admin/optimization/ip/ban", Some(&body)).map(|_| called)
        };
        measure(workers, &client, ban).with_context(|| format!("ban {at} by API"))
    };
    (0..BANS).map(one).collect()
}

/// Bans `count` addresses of `10.0.0.0/8` from `first` on, and waits until they are enforced.
fn ban_many(stack: &Stack, first: usize, count: usize) -> Result<()> {
    let last = first + count - 1;
    stack.sql()?.run(&format!(
        "WITH RECURSIVE n(i) AS (SELECT {first} UNION ALL SELECT i + 1 FROM n WHERE i < {last})
         INSERT INTO ip_monitor (ip, status)
         SELECT '10.' || (i >> 16) || '.' || ((i >> 8) & 255) || '.' || (i & 255), 'banned' FROM n"
    ))?;
    // What is enforced after these is enforced with them.
    let body = json!({ "ip": format!("198.19.0.{}", first % 256) });
    let began = Instant::now();
    loop {
        let banned =
            stack.api_ok(Method::POST, "/api/admin/optimization/ip/ban?wait_applied=5s", Some(&body))?;
        if banned["applied"]["gateways"] == 1 {
            return Ok(());
        }
        ensure!(began.elapsed() < Duration::from_secs(240), "{count} bans are not enforced: {banned}");
    }
}

/// Processor time of a process so far.
fn processor_time(pid: i32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // After the name, which may have spaces; in hundredths of a second.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks =
        |at: usize| fields.get(at).and_then(|ticks| ticks.parse::<u64>().ok()).context("no such field");
    Ok(Duration::from_millis(10 * (ticks(11)? + ticks(12)?)))
}

/// 100 bans by the API, one after the other and each once it is enforced, while no requests come:
/// so that the processor time is theirs. Over an overlay of this size, and a base that is so large
/// that no new one is cut. Then as many beside requests, whose times are printed, and those of as many
/// requests without.
fn over_many(overlay: usize) -> Result<()> {
    let stack = Stack::start(Options::for_test("ban-latency-overlay")?)?;
    stack.put_route("all", "/", "demo")?;
    for worker in &mut stack.connection_per_worker()? {
        worker.send(&Request::get("/"))?;
    }
    let base = (overlay * 9).max(150_000);
    ban_many(&stack, 0, base)?;
    ban_many(&stack, base, overlay)?;
    let envoy = stack.envoy()?.pid;
    let before = processor_time(envoy)?;
    let one = |at: usize| {
        let began = Instant::now();
        let body = json!({ "ip": format!("198.18.{}.{}", at >> 8, at & 255) });
        let banned =
            stack.api_ok(Method::POST, "/api/admin/optimization/ip/ban?wait_applied=5s", Some(&body))?;
        ensure!(banned["applied"]["gateways"] == 1, "{banned}");
        Ok(began.elapsed())
    };
    let times = (0..BANS).map(one).collect::<Result<Vec<_>>>()?;
    let spent = processor_time(envoy)?.saturating_sub(before);
    let health = stack.api_ok(Method::GET, "/api/admin/optimization/health", None)?;
    let bans = &health["tables"]["bans"];
    let what =
        format!("over {} bans, of which {} are the overlay, until applied", bans["entries"], bans["overlay"]);
    report(&what, times, Duration::from_millis(10));
    let each = spent / u32::try_from(BANS)?;
    println!("Envoy needed {:.1} ms of a processor for each", each.as_secs_f64() * 1_000.0);
    let began = Instant::now();
    let times =
        requests_beside(&stack, "beside bans", || (BANS..2 * BANS).map(one).collect::<Result<Vec<_>>>())?;
    let as_long = began.elapsed();
    report("beside requests, until applied", times, Duration::from_millis(10));
    requests_beside(&stack, "without bans", || {
        std::thread::sleep(as_long);
        Ok(())
    })
}

/// `TIDEGATE_TEST_OVERLAY=95000` for the largest overlay; it takes a minute.
#[test]
fn a_ban_over_many_others() {
    let overlay = std::env::var("TIDEGATE_TEST_OVERLAY").ok().and_then(|text| text.parse().ok());
    over_many(overlay.unwrap_or(16_000)).unwrap();
}

fn latencies(name: &str, recorder: bool) -> Result<()> {
    let mut options = Options::for_test(name)?;
    options.recorder = recorder;
    let stack = Stack::start(options)?;
    stack.put_route("all", "/", "demo")?;
    let mut workers = stack.connection_per_worker()?;

    let by_api = by_api(&stack, &mut workers)?;
    report(
        &format!("{name}, API call, until the last worker let nobody through"),
        by_api,
        Duration::from_millis(10),
    );

    let mut sql = stack.sql()?;
    let by_sql = (0..BANS)
        .map(|at| {
            let client = format!("198.18.1.{at}");
            let insert = format!("INSERT INTO ip_monitor (ip, status) VALUES ('{client}', 'banned')");
            // The time of the commit itself is in the figure.
            let insert = || {
                let called = Instant::now();
                sql.run(&insert).map(|_| called)
            };
            measure(&mut workers, &client, insert).with_context(|| format!("ban {at} by SQL"))
        })
        .collect::<Result<Vec<_>>>()?;
    report(&format!("{name}, SQL insert, likewise"), by_sql, Duration::from_millis(200));
    Ok(())
}

#[test]
fn from_a_ban_to_the_last_worker() {
    latencies("ban-latency", true).unwrap();
}

#[test]
fn from_a_ban_to_the_last_worker_without_the_recorder() {
    latencies("ban-latency-bare", false).unwrap();
}
