//! The admin service dies under load and comes back 20 s later: nobody outside
//! notices, bans hold, and no event is missing afterwards.

use std::time::{Duration, Instant};

use anyhow::Result;
use tidegate_stack::http::Request;
use tidegate_stack::load::Load;
use tidegate_stack::{Options, Stack, wait};

const AWAY: Duration = Duration::from_secs(20);

fn admin_dies_under_load(name: &str, recorder: bool) -> Result<()> {
    let mut options = Options::for_test(name)?;
    options.recorder = recorder;
    let mut stack = Stack::start_serving(options)?;
    let before = stack.recorded(Duration::from_secs(20))?;

    let load = Load::start(stack.gate(), 16, None, |number| {
        // About 1,600 requests a second: what waits 20 s must fit the queue's bounds.
        std::thread::sleep(Duration::from_millis(10));
        let client = if number % 5 == 0 { "192.0.2.13" } else { "192.0.2.14" };
        Request::get(&format!("/outage/{client}")).from(client)
    });
    let reached = |count: u64| {
        wait::until("the load is under way", Duration::from_secs(60), || {
            Ok((load.sent() >= count).then_some(()))
        })
    };
    reached(500)?;
    stack.kill_admin();
    let killed = Instant::now();
    wait::until("20 s have passed", AWAY * 2, || Ok((killed.elapsed() >= AWAY).then_some(())))?;
    stack.start_admin()?;
    reached(load.sent() + 500)?;
    let tally = load.stop();

    assert_eq!(tally.failed, 0, "{:?}", tally.failures);
    assert_eq!(tally.status(200) + tally.status(403), tally.total(), "{tally:?}");
    let whole = stack.recorded(Duration::from_secs(60))?;
    assert!(whole.is_whole(), "{whole:?}");
    assert_eq!(whole.stored, before.stored + tally.total());
    let mut sql = stack.sql()?;
    let rows = |status: u16, client: &str| {
        format!(
            "SELECT count(*) FROM traffic_events WHERE path = '/outage/{client}' \
             AND client_ip = '{client}' AND status = {status}"
        )
    };
    assert_eq!(sql.number(&rows(403, "192.0.2.13"))?, tally.status(403), "the ban held throughout");
    assert_eq!(sql.number(&rows(200, "192.0.2.14"))?, tally.status(200));
    println!(
        "{name}: {} requests, {} of them while the admin service was away or later; {whole:?}",
        tally.total(),
        tally.total().saturating_sub(500)
    );

    // The feed is back as well: a new ban is applied.
    stack.wait_gateway(Duration::from_secs(30))?;
    stack.ban("192.0.2.15")?;
    for worker in &mut stack.connection_per_worker()? {
        assert_eq!(worker.send(&Request::get("/").from("192.0.2.15"))?.status, 403);
    }
    Ok(())
}

#[test]
fn the_admin_service_may_die_under_load() {
    admin_dies_under_load("outage", true).unwrap();
}

#[test]
fn the_admin_service_may_die_under_load_without_the_recorder() {
    admin_dies_under_load("outage-bare", false).unwrap();
}
