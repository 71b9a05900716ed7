//! Bans one after the other, by the API and by SQL: where the milliseconds are.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tidegate_stack::Stack;
use tidegate_stack::http::{Connection, Request};

use super::feed_poll::FeedPoll;
use super::{goal, p99, row};
use crate::rounds::{ensure_not_interrupted, millis, say};
use crate::table::Table;
use crate::watchers::{Sight, Watched, Watchers};

/// How often a watcher asks its worker: the figures are too large by this at most.
const PACE: Duration = Duration::from_micros(500);
const GOAL_API: f64 = 10.0;
const GOAL_SQL: f64 = 100.0;

/// When what had happened, milliseconds since the call began, of each ban.
#[derive(Default)]
struct Marks {
    committed: Vec<f64>,
    told: Vec<f64>,
    first: Vec<f64>,
    last: Vec<f64>,
}

/// Bans `count` addresses by the API and as many by SQL.
pub fn run(stack: &Stack, count: u32) -> Result<()> {
    let watchers = Watchers::start(stack, PACE)?;
    let poll = FeedPoll::start(stack)?;
    let mut api = Connection::open(stack.people())?;
    let mut by_api = Marks::default();
    for ban in 0..count {
        let client = address(17, ban);
        let request = request(stack, &client);
        by_api.measure(&watchers, &poll, ban, &client, || {
            let answer = api.send(&request)?;
            ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
            Ok(())
        })?;
    }
    let mut sql = stack.sql()?;
    let mut by_sql = Marks::default();
    for ban in 0..count {
        let client = address(18, ban);
        let insert = format!("INSERT INTO ip_monitor (ip, status) VALUES ('{client}', 'banned')");
        by_sql.measure(&watchers, &poll, count + ban, &client, || sql.run(&insert).map(drop))?;
    }
    drop(poll);
    watchers.finish()?;
    report(count, &by_api, &by_sql);
    Ok(())
}

/// The call that bans an address.
pub fn request(stack: &Stack, client: &str) -> Request {
    Request::new(tidegate_stack::http::Method::POST, "/api/admin/optimization/ip/ban")
        .bearer(stack.token())
        .json(&json!({ "ip": client }))
}

/// The n-th address of `198.<block>/16`, out of which nobody else asks.
pub fn address(block: u8, n: u32) -> String {
    format!("198.{block}.{}.{}", n / 256 % 256, n % 256)
}

impl Marks {
    fn measure(
        &mut self,
        watchers: &Watchers,
        poll: &FeedPoll,
        ban: u32,
        client: &str,
        call: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        ensure_not_interrupted()?;
        watchers.orders().watch(&Watched { ban, client: client.into() })?;
        for _ in 0..watchers.count() {
            let sight = watchers.sight()?;
            ensure!(matches!(sight, Sight::Passes), "{client} was banned before: {sight:?}");
        }
        let begin = Instant::now();
        call().with_context(|| format!("the ban of {client}"))?;
        self.committed.push(millis(begin.elapsed()));
        self.told.push(millis(poll.next_after(begin)? - begin));
        let mut denied = Vec::new();
        while denied.len() < watchers.count() {
            if let Sight::Denied(of, at) = watchers.sight()?
                && of == ban
            {
                denied.push(millis(at - begin));
            }
        }
        self.first.push(denied.iter().copied().fold(f64::INFINITY, f64::min));
        self.last.push(denied.iter().copied().fold(0.0, f64::max));
        Ok(())
    }

    fn rows(&self, how: &str, table: &mut Table) {
        row(table, &format!("{how}: the call is answered, so it is on the disk"), &self.committed);
        row(table, "gateways are told: another one's poll is answered", &self.told);
        row(table, "the first worker denies", &self.first);
        row(table, "**the last worker denies**", &self.last);
    }
}

fn report(count: u32, by_api: &Marks, by_sql: &Marks) {
    let mut table = Table::new(&["ms since the call began", "p50", "p99", "longest"]);
    by_api.rows("by API", &mut table);
    by_sql.rows("by SQL", &mut table);
    say(format_args!(
        "{count} bans by the API and {count} by SQL, one after the other; 4 workers, each asked every {:.1} ms:\n\n{table}",
        millis(PACE)
    ));
    goal("by API, p99 until the last worker denies", p99(&by_api.last), GOAL_API, " ms");
    goal("by SQL, likewise", p99(&by_sql.last), GOAL_SQL, " ms");
    say("");
}
