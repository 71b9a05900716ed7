//! What must hold while the filter or its configuration is replaced under load.

use std::time::Duration;

use anyhow::{Result, ensure};
use tidegate_stack::http::Request;
use tidegate_stack::load::Load;
use tidegate_stack::operator::Recording;
use tidegate_stack::{Stack, wait};

/// A client that is banned from the beginning.
pub const BANNED: &str = "192.0.2.13";
/// One that never is.
pub const WELCOME: &str = "192.0.2.14";
/// For whatever must happen.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Requests of a banned and of another client, to two services, until stopped: about two
/// thousand a second at most.
pub fn load(stack: &Stack) -> Load {
    Load::start(stack.gate(), 12, None, |number| {
        std::thread::sleep(Duration::from_millis(6));
        let client = if number % 4 == 0 { BANNED } else { WELCOME };
        let service = if number % 2 == 0 { "/orders" } else { "" };
        Request::get(&format!("{service}/load/{client}")).from(client)
    })
}

/// Lets the load go on for some hundred requests.
pub fn wait_for_more_requests(load: &Load) -> Result<()> {
    let target = load.sent() + 400;
    wait::until("the load goes on", LIMIT, || Ok((load.sent() >= target).then_some(())))
}

/// The load's requests were answered as they should be, each one is a row, and no check
/// was asked for or failed: every VM had its tables at its first request.
pub fn assert_unnoticed(stack: &Stack, load: Load, before: &Recording) -> Result<Recording> {
    let after = assert_answered(stack, load)?;
    for (now, then) in [(&after.checks.ip, &before.checks.ip), (&after.checks.geo, &before.checks.geo)] {
        assert_eq!(now.direct, then.direct, "a VM without tables asked: {after:?}");
        assert_eq!((now.fallback, now.unavailable), (then.fallback, then.unavailable), "{after:?}");
    }
    Ok(after)
}

/// The load's requests were answered as they should be, and each one is a row.
pub fn assert_answered(stack: &Stack, load: Load) -> Result<Recording> {
    let tally = load.stop();
    assert_eq!(tally.failed, 0, "{:?}", tally.failures);
    assert_eq!(tally.status(200) + tally.status(403), tally.total(), "{tally:?}");
    let after = stack.recorded(LIMIT)?;
    assert!(after.is_whole(), "{after:?}");
    let mut sql = stack.sql()?;
    let mut rows = |client: &str, status: u16| {
        sql.number(&format!(
            "SELECT count(*) FROM traffic_events WHERE path LIKE '%/load/{client}' AND status = {status}"
        ))
    };
    assert_eq!(rows(BANNED, 403)?, tally.status(403), "a banned client never passes");
    assert_eq!(rows(WELCOME, 200)?, tally.status(200), "and nobody else is turned away");
    let all = "SELECT count(*) FROM traffic_events WHERE path LIKE '%/load/%'";
    assert_eq!(sql.number(all)?, tally.total(), "one row each");
    println!("{} requests; {after:?}", tally.total());
    Ok(after)
}

/// Each worker decides by the newest tables.
pub fn assert_bans_hold(stack: &Stack, late: &str) -> Result<()> {
    stack.ban(late)?;
    for worker in &mut stack.connection_per_worker()? {
        for (client, status) in [(BANNED, 403), (late, 403), (WELCOME, 200)] {
            assert_eq!(worker.send(&Request::get("/").from(client))?.status, status, "{client}");
        }
    }
    Ok(())
}

/// Every worker goes by the configuration that was last delivered: its responses have
/// `X-Performance-*` headers, or have none.
pub fn assert_performance_headers(stack: &Stack, expected: bool) -> Result<()> {
    for (at, worker) in stack.connection_per_worker()?.iter_mut().enumerate() {
        let answer = worker.send(&Request::get("/").from(WELCOME))?;
        let found = answer.headers.keys().any(|name| name.as_str().starts_with("x-performance-"));
        ensure!(found == expected, "worker {at}: {:?}", answer.headers);
    }
    Ok(())
}
