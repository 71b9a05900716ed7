//! How long after a ban the last worker still lets the address through: measured
//! and printed, 100 bans by the API and 100 by SQL.
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

const BANS: usize = 100;
/// Pause of a prober between two requests: the probers share the processors with
/// what they measure.
const PAUSE: Duration = Duration::from_micros(300);

/// Bans `client` with `ban`, while one connection to each worker keeps asking as
/// that client; the time from just before the call to the last answer that let
/// it through.
fn measure(workers: &mut [Connection], client: &str, ban: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let began = Instant::now();
    let first_asked = Barrier::new(workers.len() + 1);
    let last_passed = AtomicU64::new(0);
    let mut called = 0;
    std::thread::scope(|scope| {
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
        called = elapsed_us(began);
        let done = ban();
        let probed = probers.into_iter().map(|prober| prober.join().expect("a prober does not panic"));
        probed.collect::<Result<Vec<_>>>().and(done)
    })?;
    Ok(Duration::from_micros(last_passed.load(Ordering::Relaxed).saturating_sub(called)))
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

fn report(what: &str, mut times: Vec<Duration>, goal: Duration) {
    times.sort();
    let ms = |at: usize| times[at].as_secs_f64() * 1_000.0;
    let within = times.iter().filter(|time| **time < goal).count();
    println!(
        "{what}: until the last worker stopped letting the address through, {} bans: \
         p50 {:.1} ms, 99 of 100 {:.1} ms, max {:.1} ms; {within} under the goal of {} ms",
        times.len(),
        ms(times.len() / 2),
        ms(times.len() * 99 / 100 - 1),
        ms(times.len() - 1),
        goal.as_millis()
    );
}

fn latencies(name: &str, recorder: bool) -> Result<()> {
    let mut options = Options::for_test(name)?;
    options.recorder = recorder;
    let stack = Stack::start(options)?;
    stack.put_route("all", "/", "demo")?;
    let mut workers = stack.connection_per_worker()?;

    let by_api = (0..BANS)
        .map(|at| {
            let client = format!("198.18.0.{at}");
            let body = json!({ "ip": client });
            measure(&mut workers, &client, || {
                stack.api_ok(Method::POST, "/api/admin/optimization/ip/ban", Some(&body)).map(drop)
            })
            .with_context(|| format!("ban {at} by API"))
        })
        .collect::<Result<Vec<_>>>()?;
    report(&format!("{name}, API call"), by_api, Duration::from_millis(10));

    let mut sql = stack.sql()?;
    let by_sql = (0..BANS)
        .map(|at| {
            let client = format!("198.18.1.{at}");
            let insert = format!("INSERT INTO ip_monitor (ip, status) VALUES ('{client}', 'banned')");
            // The time of the commit itself is in the figure.
            measure(&mut workers, &client, || sql.run(&insert).map(drop))
                .with_context(|| format!("ban {at} by SQL"))
        })
        .collect::<Result<Vec<_>>>()?;
    report(&format!("{name}, SQL insert"), by_sql, Duration::from_millis(200));
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
