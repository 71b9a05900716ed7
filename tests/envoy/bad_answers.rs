//! An admin service whose answers are wrong, in every way that HTTP/2 has: Envoy lives, each
//! request is decided as always, each is a row, and tables come as soon as an answer is right.

mod hpack;
mod kinds;
mod service;

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tidegate_stack::http::{self, Method, PATIENCE, Request};
use tidegate_stack::load::Load;
use tidegate_stack::{FlagsAtStart, Options, Stack, wait};

use kinds::{KINDS, SLOW};
use service::{Call, Service};

const BANNED: &str = "192.0.2.13";
const WELCOME: &str = "192.0.2.14";

struct Wrong {
    stack: Stack,
    service: Service,
    /// Requests sent, but for those that the stack sends by itself.
    sent: u64,
}

impl Wrong {
    fn start(name: &str) -> Result<Self> {
        let service = Service::start()?;
        let mut options = Options::for_test(name)?;
        options.flags = FlagsAtStart::Off;
        // Which of its calls are wrong is counted by the service.
        options.workers = 1;
        options.control = Some(Arc::new(service.clone()));
        options.plugin = json!({
            "direct": { "timeout": "500ms", "budget": "1s" },
            "events": { "sync_timeout": "500ms" },
        });
        Ok(Self { stack: Stack::start_serving(options)?, service, sent: 0 })
    }

    /// Some requests, every other one of them of a banned client.
    fn requests(&mut self, number: u64) -> Result<()> {
        let tally = Load::start(self.stack.gate(), 4, Some(number), |number| {
            Request::get("/wrong").from(if number % 2 == 0 { BANNED } else { WELCOME })
        })
        .finish();
        self.sent += number;
        self.stack.check_running()?;
        ensure!((tally.status(200), tally.status(403)) == (number / 2, number / 2), "{tally:?}");
        Ok(())
    }

    /// What breaks connections may make the gate ask no more for a while.
    fn is_asked_again(&self) -> Result<()> {
        wait::until("the service is asked again", PATIENCE, || {
            let answer = http::send(self.stack.gate(), &Request::get("/asked-again").from(WELCOME))?;
            let told = answer.header("x-performance-cache").unwrap_or_default();
            Ok((!told.contains("fallback")).then_some(()))
        })
    }

    fn check_events(&self) -> Result<()> {
        let whole = self.stack.recorded(PATIENCE)?;
        ensure!(whole.is_whole(), "{whole:?}");
        let rows = self.stack.sql()?.number("SELECT count(*) FROM traffic_events WHERE path = '/wrong'")?;
        ensure!(rows == self.sent, "{rows} rows of {} requests", self.sent);
        let reloads = self.stack.stats()?.sum(|name| name.contains("vm_reload"));
        ensure!(reloads == 0, "a VM trapped");
        Ok(())
    }
}

/// Wrong answers to questions about requests, and to open events.
fn about_requests(wrong: &mut Wrong) -> Result<()> {
    let mut given = BTreeMap::<_, u64>::new();
    // What one does not say stays as it was. Caches decide which questions are asked.
    for flags in [
        json!({ "enableParallelExecution": false, "enableAsyncRecording": false }),
        json!({ "enableParallelExecution": true, "enableIpBlacklistCache": "shadow" }),
        json!({ "enableAsyncRecording": true, "enableGeoRulesCache": true }),
        json!({ "enableParallelExecution": false, "enableIpBlacklistCache": false, "enableRouteCache": "shadow" }),
    ] {
        wrong.stack.flags(&flags)?;
        for (kinds, requests) in [(KINDS, 8), (SLOW, 2)] {
            for kind in kinds {
                wrong.service.answer_wrongly(&[Call::Check, Call::Open], *kind);
                wrong.requests(requests).with_context(|| format!("{}; {flags}", kind.name))?;
                *given.entry(kind.name).or_default() += wrong.service.answer_rightly();
                wrong.is_asked_again().context(kind.name)?;
            }
        }
        wrong.check_events().with_context(|| flags.to_string())?;
    }
    let never: Vec<_> = given.into_iter().filter(|(_, times)| *times == 0).collect();
    ensure!(never.is_empty(), "{never:?}");
    Ok(())
}

/// Wrong answers to what the holder of the lease asks. A poll that is never answered is not
/// among them: it holds up the tables until its time is up.
fn about_tables(wrong: &mut Wrong) -> Result<()> {
    for (at, kind) in KINDS.iter().enumerate() {
        for calls in [[Call::Poll, Call::Events].as_slice(), &[Call::Page, Call::Ack, Call::Events]] {
            wrong.service.answer_wrongly(calls, *kind);
            // All tables are asked for, and an ack is waited for.
            wrong.stack.api_ok(Method::POST, "/api/admin/optimization/cache/refresh?wait=0s", None)?;
            let given = || Ok((wrong.service.given() > 0).then_some(()));
            wait::until("a wrong answer is given", PATIENCE, given).context(kind.name)?;
            wrong.requests(2).context(kind.name)?;
            wrong.service.answer_rightly();
            wrong.stack.ban(&format!("198.51.100.{at}")).context(kind.name)?;
        }
    }
    wrong.check_events()
}

#[test]
fn no_answer_ends_envoy() {
    let mut wrong = Wrong::start("wrong-answers").unwrap();
    about_requests(&mut wrong).unwrap();
    about_tables(&mut wrong).unwrap();
}
