//! A stack with a rollout on it, and the load that its stages measure.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tidegate_author as author;
use tidegate_policy::flags::{Flag, FlagState, Flags};
use tidegate_stack::http::{Method, PATIENCE, Request};
use tidegate_stack::load::Load;
use tidegate_stack::{FlagsAtStart, Options, Stack, wait};

/// The rollout of these tests.
pub const NAME: &str = "trial";
const ROLLOUT: &str = "/api/admin/rollouts/trial";
/// So many are on their way at once. Each is answered after some tens of milliseconds, so this bounds the load.
const CONNECTIONS: usize = 16;
/// How many clients there are.
const CLIENTS: u64 = 3_000;
/// Modes of a request for which nothing is on.
pub const ALL_OFF: &str = "ip=direct,geo=direct,route=direct,parallel=off,async=off";
/// A run that goes on is given up after this.
pub const LIMIT: Duration = Duration::from_secs(300);

/// Options of a stack that begins with all flags off. A slow machine must not make the cache answer for the database.
pub fn options(name: &str) -> Result<Options> {
    let mut options = Options::for_test(name)?;
    options.flags = FlagsAtStart::Off;
    options.plugin = json!({
        "direct": { "timeout": "30s", "budget": "60s" },
        "events": { "sync_timeout": "30s", "access_log": true },
    });
    Ok(options)
}

/// Who sends request number `number`.
fn client(number: u64) -> IpAddr {
    let number = number.wrapping_mul(2_654_435_761) % CLIENTS;
    IpAddr::from(Ipv4Addr::from_bits(0x0a00_0000 + u32::try_from(number).expect("a small number")))
}

/// Whether a flag that is on for `percent` of the clients is on for this one.
pub fn is_treated(flag: Flag, percent: u8, client: IpAddr) -> bool {
    Flags::default().with(flag, FlagState::Share(percent)).modes(Some(client)).is_on(flag)
}

/// Who sends requests in each stage of a plan: half of them clients of each of its groups, so that the smaller group has
/// what a comparison needs as soon as the other.
#[derive(Clone)]
pub struct ByGroup {
    stage: Arc<AtomicUsize>,
    /// By stage its control group and its treated; without shares nobody.
    groups: Arc<Vec<[Vec<IpAddr>; 2]>>,
}

impl ByGroup {
    /// For this plan, which begins.
    pub fn of(plan: &Value) -> Result<Self> {
        let stages = plan["stages"].as_array().context("no stages")?;
        let groups = stages.iter().map(|stage| {
            let flags = author::read_flags(&stage["flags"]).map_err(|wrong| anyhow::anyhow!("{wrong:?}"))?;
            let shares = flags.into_iter().filter(|(_, state)| (1..=99).contains(&state.percent()));
            let shares: Vec<_> = shares.map(|(flag, state)| (flag, state.percent())).collect();
            let in_all = |client: &IpAddr, of_treated: bool| {
                shares.iter().all(|(flag, percent)| is_treated(*flag, *percent, *client) == of_treated)
            };
            Ok([false, true].map(|of_treated| {
                let clients = (0..CLIENTS).map(client).filter(|_| !shares.is_empty());
                clients.filter(|client| in_all(client, of_treated)).collect()
            }))
        });
        Ok(Self { stage: Arc::default(), groups: Arc::new(groups.collect::<Result<_>>()?) })
    }

    /// Takes the stage from a run's status.
    pub fn follow(&self, status: &Value) {
        let stage = status["stage_number"].as_u64().and_then(|number| usize::try_from(number).ok());
        self.stage.store(stage.unwrap_or(1).saturating_sub(1), Ordering::Relaxed);
    }

    /// Who sends request number `number`.
    pub fn client(&self, number: u64) -> IpAddr {
        let groups = self.groups.get(self.stage.load(Ordering::Relaxed));
        let group = groups.map(|[control, treated]| if number.is_multiple_of(2) { control } else { treated });
        let any = client(number);
        let pick = |group: &Vec<IpAddr>| {
            let at = usize::try_from(number / 2).ok()?.checked_rem(group.len())?;
            group.get(at).copied()
        };
        group.and_then(pick).unwrap_or(any)
    }
}

/// Requests of many clients until it is stopped: number n of a client to `path(n, client)`.
pub fn load(stack: &Stack, path: impl Fn(u64, IpAddr) -> String + Send + Sync + 'static) -> Load {
    load_of(stack, CONNECTIONS, path)
}

/// The same down so many connections.
pub fn load_of(
    stack: &Stack,
    connections: usize,
    path: impl Fn(u64, IpAddr) -> String + Send + Sync + 'static,
) -> Load {
    Load::start(stack.gate(), connections, None, move |number| {
        let client = client(number);
        Request::get(&path(number, client)).from(&client.to_string())
    })
}

/// The same, of clients that are taken by their groups.
pub fn load_by_group(stack: &Stack, clients: ByGroup) -> Load {
    Load::start(stack.gate(), CONNECTIONS, None, move |number| {
        let client = clients.client(number);
        Request::get(&usual(number, client)).from(&client.to_string())
    })
}

/// Where a request is answered after 25 ms, whoever sends it.
pub fn usual(_number: u64, _client: IpAddr) -> String {
    "/slow?ms=25".to_owned()
}

/// A stage with what all of these have.
pub fn stage(name: &str, flags: Value, hold: &str, gates: Value) -> Value {
    json!({ "name": name, "flags": flags, "hold": hold, "timeout": "90s", "min_requests": 100, "gates": gates })
}

/// Replaces the rollout and begins a run.
pub fn start(stack: &Stack, plan: &Value) -> Result<()> {
    stack.api_ok(Method::PUT, ROLLOUT, Some(plan))?;
    ask(stack, "start")
}

/// `start`, `pause`, `resume`, `approve` or `abort`.
pub fn ask(stack: &Stack, what: &str) -> Result<()> {
    stack.api_ok(Method::POST, &format!("{ROLLOUT}/{what}"), None).map(drop)
}

/// How the run goes.
pub fn status(stack: &Stack) -> Result<Value> {
    Ok(stack.api_ok(Method::GET, ROLLOUT, None)?["status"].clone())
}

/// Waits until the run is in this phase.
///
/// # Errors
/// Not within [`LIMIT`], or it ended in another phase.
pub fn reaches(stack: &Stack, phase: &str) -> Result<Value> {
    reaches_seeing(stack, phase, |_| {})
}

/// The same, and tells of every status on the way.
///
/// # Errors
/// As [`reaches`].
pub fn reaches_seeing(stack: &Stack, phase: &str, see: impl Fn(&Value)) -> Result<Value> {
    let mut last = Value::Null;
    wait::until(&format!("the run is {phase}"), LIMIT, || {
        last = status(stack)?;
        see(&last);
        if last["phase"] == phase {
            return Ok(Some(last.clone()));
        }
        let goes_on = ["running", "waiting_for_approval"].map(Value::from).contains(&last["phase"]);
        ensure!(goes_on, "it is {}: {}", last["phase"], last["reason"]);
        Ok(None)
    })
    .with_context(|| last.to_string())
}

/// Waits until the run is in this stage.
pub fn reaches_stage(stack: &Stack, stage: &str) -> Result<()> {
    wait::until(&format!("it is in stage {stage}"), LIMIT, || {
        let status = status(stack)?;
        ensure!(status["phase"] == "running", "{status}");
        Ok((status["stage"] == stage).then_some(()))
    })
}

/// The run's report.
pub fn report(stack: &Stack) -> Result<Value> {
    stack.api_ok(Method::GET, &format!("{ROLLOUT}/report"), None)
}

/// The run's report as a page.
pub fn page(stack: &Stack) -> Result<String> {
    let answer = stack.api(Method::GET, &format!("{ROLLOUT}/report?format=markdown"), None)?;
    ensure!(answer.status == 200, "{}", answer.text());
    Ok(answer.text())
}

/// The modes with which every worker decides now: from the rows of one request to each, of a client for whom
/// shares of 50 % of all flags are on.
pub fn modes_everywhere(stack: &Stack, path: &str) -> Result<Vec<String>> {
    let is_treated_by_all = |client: &IpAddr| Flag::ALL.into_iter().all(|flag| is_treated(flag, 50, *client));
    let client = (0..CLIENTS).map(client).find(is_treated_by_all).context("no such client")?;
    let mut workers = stack.connection_per_worker()?;
    for worker in &mut workers {
        let answer = worker.send(&Request::get(path).from(&client.to_string()))?;
        ensure!(answer.status == 200, "{}", answer.text());
    }
    let query = format!("SELECT modes FROM traffic_events WHERE path = '{path}'");
    let mut sql = stack.sql()?;
    wait::until("each worker's row is there", PATIENCE, || {
        let rows = sql.run(&query)?;
        Ok((rows.len() == workers.len()).then_some(rows))
    })
}
