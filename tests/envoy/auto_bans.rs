//! Automatic bans on a real Envoy: from the last bad request to the last worker that lets the address
//! through, beside other requests. Measured and printed; what must hold is that every one of them is banned.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tidegate_stack::http::{Connection, Method, Request};
use tidegate_stack::{Options, Stack};

use crate::ban_latency::{measure, report};

const CLIENTS: usize = 40;
/// Requests that it takes.
const THRESHOLD: usize = 10;
/// Connections of the other requests, and how many come a second over all of them.
const OTHERS: u64 = 40;
const RATE: u64 = 5_000;

/// Runs `meanwhile` beside other requests, and prints how many there were.
fn beside_load<T>(stack: &Stack, meanwhile: impl FnOnce() -> Result<T>) -> Result<T> {
    let (is_over, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    let ask = |at: u64| {
        let mut connection = Connection::open(stack.gate())?;
        let (began, mut due) = (Instant::now(), Duration::ZERO);
        while !is_over.load(Ordering::Relaxed) {
            let answer = connection.send(&Request::get("/").from(&format!("203.0.113.{at}")))?;
            ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
            sent.fetch_add(1, Ordering::Relaxed);
            due += Duration::from_micros(1_000_000 * OTHERS / RATE);
            std::thread::sleep(due.saturating_sub(began.elapsed()));
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let began = Instant::now();
        let asking: Vec<_> = (1..=OTHERS).map(|at| scope.spawn(move || ask(at))).collect();
        let done = meanwhile();
        is_over.store(true, Ordering::Relaxed);
        let asked = asking.into_iter().map(|one| one.join().expect("nobody panics"));
        asked.collect::<Result<Vec<()>>>()?;
        let rate = sent.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64();
        println!("beside {rate:.0} requests a second:");
        done
    })
}

/// Bans clients one after the other by ten bad requests of each.
fn ban_clients(stack: &Stack, workers: &mut [Connection], block: u8) -> Result<Vec<Duration>> {
    let mut bad = Connection::open(stack.gate())?;
    (1..=CLIENTS)
        .map(|at| {
            let client = format!("198.18.{block}.{at}");
            let ban = || {
                for _ in 0..THRESHOLD {
                    let answer = bad.send(&Request::get("/nothing/here").from(&client))?;
                    ensure!(answer.status == 404, "{client}: {}", answer.status);
                }
                Ok(Instant::now())
            };
            measure(workers, &client, ban).with_context(|| client.clone())
        })
        .collect()
}

fn run() -> Result<()> {
    let stack = Stack::start(Options::for_test("auto-bans")?)?;
    // Whatever else is asked for is not there.
    let home =
        json!({"matches": [{"path": {"type": "Exact", "value": "/"}}], "backendRefs": [{"name": "demo"}]});
    stack.put_spec("home", &json!({"rules": [home]}))?;
    let rule = json!({"match": {"status": 404}, "threshold": THRESHOLD, "window": "1m", "ban": {"ttl": "1h"},
        "max_bans": 1_000});
    stack.api_ok(Method::PUT, "/api/admin/auto-bans/scanners?wait_applied=5s", Some(&rule))?;
    let goal = Duration::from_millis(200);
    // Before other connections, which would be taken for these.
    let mut workers = stack.connection_per_worker()?;
    let quiet = ban_clients(&stack, &mut workers, 1)?;
    report(
        "from the tenth 404 until the last worker let nobody through, without other requests",
        quiet,
        goal,
    );
    let busy = beside_load(&stack, || ban_clients(&stack, &mut workers, 2))?;
    report("from the tenth 404 until the last worker let nobody through", busy, goal);
    let seen = stack.api_ok(Method::GET, "/api/admin/ip-monitor/198.18.2.1", None)?;
    ensure!(seen["status"] == "banned" && seen["source"] == "auto.scanners", "{seen}");
    let done = stack.api_ok(Method::GET, "/api/admin/stats/auto-bans", None)?;
    let banned = &done["items"][0]["outcomes"]["banned"];
    ensure!(banned.as_u64() == Some(2 * CLIENTS as u64), "{done}");
    Ok(())
}

#[test]
fn from_the_tenth_bad_request_to_the_last_worker() {
    run().unwrap();
}
