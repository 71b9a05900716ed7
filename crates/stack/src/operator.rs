//! What an operator asks of a running stack, in one call each.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Options;
use crate::http::{Connection, Method, PATIENCE, Request};
use crate::stack::Stack;
use crate::wait;

const FLAGS: &str = "/api/admin/optimization/flags";

/// `recording/stats`, as far as tests ask.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Recording {
    /// Events that the gates numbered.
    pub numbered: u64,
    /// Events in the database.
    pub stored: u64,
    /// Still to come.
    pub pending: u64,
    /// Will not come.
    pub lost: u64,
    /// Given up, all reasons together.
    pub dropped: u64,
    /// Received twice, stored once.
    pub duplicates: u64,
    /// VMs that died without a closing record.
    pub unclosed: u64,
    /// Events that a response waited for, and whose request has not ended yet.
    pub open: u64,
    /// How the checks were answered.
    pub checks: Checks,
    /// Stored by numbered.
    pub completeness: f64,
    /// Whether that is a figure and not a bound.
    pub exact: bool,
    /// Whether it is a bound because Envoy does not tell of requests that reach no filter.
    pub untold: bool,
}

/// How each check was answered, over all recorded requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
pub struct Checks {
    /// Ban and allow list.
    pub ip: Checked,
    /// Country and geo rules.
    pub geo: Checked,
    /// Routes.
    pub route: Checked,
}

/// How one check was answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
pub struct Checked {
    /// By anybody or nobody: where the decision needed it.
    pub asked: u64,
    /// From the cache, as the flag says.
    pub cache: u64,
    /// By the database.
    pub direct: u64,
    /// From the cache, because the admin service did not answer.
    pub fallback: u64,
    /// By nobody.
    pub unavailable: u64,
    /// In shadow: compared.
    pub compared: u64,
    /// In shadow: different.
    pub mismatched: u64,
    /// Of those, where the cache was only behind.
    pub lagging: u64,
}

impl Checked {
    /// The share answered from the cache, 0 to 1, since `before`; `None`: the
    /// check was not asked for since.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "counts of one run")]
    pub fn hit_ratio_since(&self, before: &Self) -> Option<f64> {
        let asked = self.asked.saturating_sub(before.asked);
        (asked > 0).then(|| self.cache.saturating_sub(before.cache) as f64 / asked as f64)
    }
}

impl Recording {
    /// Whether everything that the gate was told of is in the database, for certain.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        (self.exact || self.untold)
            && self.completeness == 1.0
            && self.stored == self.numbered
            && (self.pending, self.lost, self.dropped, self.unclosed, self.open) == (0, 0, 0, 0, 0)
    }
}

impl Stack {
    /// Starts a stack as most scenarios want it: everything goes to the demo
    /// backend, except from 192.0.2.13, which is banned.
    ///
    /// # Errors
    /// As [`Stack::start`], or when a write is refused.
    pub fn start_serving(options: Options) -> Result<Self> {
        let stack = Self::start(options)?;
        stack.put_route("all", "/", "demo")?;
        stack.ban("192.0.2.13")?;
        Ok(stack)
    }

    /// Bans, and waits until every gateway enforces it.
    ///
    /// # Errors
    /// Refused, or not applied in time.
    pub fn ban(&self, ip: &str) -> Result<()> {
        self.ban_with(&json!({ "ip": ip, "reason": "test" }))
    }

    /// Bans with a body of one's own, and waits until every gateway enforces it.
    ///
    /// # Errors
    /// Refused, or not applied in time.
    pub fn ban_with(&self, body: &Value) -> Result<()> {
        self.applied(Method::POST, "/api/admin/optimization/ip/ban", Some(body))
    }

    /// Lifts a ban, and waits until every gateway knows.
    ///
    /// # Errors
    /// Refused, or not applied in time.
    pub fn unban(&self, ip: &str) -> Result<()> {
        self.applied(Method::POST, "/api/admin/optimization/ip/unban", Some(&json!({ "ip": ip })))
    }

    /// Sends what begins with `prefix` to the cluster, and waits until every
    /// gateway does so.
    ///
    /// # Errors
    /// Refused, or not applied in time.
    pub fn put_route(&self, name: &str, prefix: &str, cluster: &str) -> Result<()> {
        let path = json!({ "type": "PathPrefix", "value": prefix });
        let rule = json!({ "matches": [{ "path": path }], "backendRefs": [{ "name": cluster }] });
        self.put_spec(name, &json!({ "rules": [rule] }))
    }

    /// Makes or replaces a route (`NAME` or `NAMESPACE/NAME`) with a `spec` of one's own, and waits
    /// until every gateway goes by it.
    ///
    /// # Errors
    /// Refused, or not applied in time.
    pub fn put_spec(&self, id: &str, spec: &Value) -> Result<()> {
        self.applied(Method::PUT, &format!("/api/admin/routes/{id}"), Some(&json!({ "spec": spec })))
    }

    /// Removes a route, and waits until every gateway knows.
    ///
    /// # Errors
    /// Refused, or not applied in time.
    pub fn delete_route(&self, name: &str) -> Result<()> {
        self.applied(Method::DELETE, &format!("/api/admin/routes/{name}"), None)
    }

    /// Makes or replaces a backend of the API, and waits until every gateway knows.
    ///
    /// # Errors
    /// Refused, or not applied in time.
    pub fn put_backend(&self, name: &str, document: &Value) -> Result<()> {
        self.applied(Method::PUT, &format!("/api/admin/backends/{name}"), Some(document))
    }

    /// Merges these flags into those that are set, and waits until every gateway
    /// goes by them.
    ///
    /// # Errors
    /// Refused, or not applied in time.
    pub fn flags(&self, flags: &Value) -> Result<()> {
        self.applied(Method::PUT, FLAGS, Some(flags))
    }

    /// All five on, or all five off, and waits until every gateway goes by them.
    ///
    /// # Errors
    /// Refused, or not applied in time.
    pub fn all_flags(&self, on: bool) -> Result<()> {
        let all = [
            "enableRouteCache",
            "enableIpBlacklistCache",
            "enableGeoRulesCache",
            "enableParallelExecution",
            "enableAsyncRecording",
        ];
        let flags: Value = all.iter().map(|name| ((*name).to_owned(), Value::Bool(on))).collect();
        self.flags(&flags)
    }

    /// The flags as they are set, with what `status=1` adds: shadow mismatches.
    ///
    /// # Errors
    /// Any answer but 200.
    pub fn flags_status(&self) -> Result<Value> {
        self.api_ok(Method::GET, &format!("{FLAGS}?status=1"), None)
    }

    /// Makes or replaces a geo rule, and waits until every gateway enforces it.
    ///
    /// # Errors
    /// Refused, or not applied in time.
    pub fn put_geo_rule(&self, name: &str, rule: &Value) -> Result<()> {
        self.applied(Method::PUT, &format!("/api/admin/geo-rules/{name}"), Some(rule))
    }

    /// Removes a geo rule, and waits until every gateway knows.
    ///
    /// # Errors
    /// Refused, or not applied in time.
    pub fn delete_geo_rule(&self, name: &str) -> Result<()> {
        self.applied(Method::DELETE, &format!("/api/admin/geo-rules/{name}"), None)
    }

    /// `tidegate geo import FILE` on the running stack's database, and waits until
    /// every gateway has the table. What the program said.
    ///
    /// # Errors
    /// The program refuses the file: the message has its words.
    pub fn import_countries(&self, file: &Path) -> Result<String> {
        let output = Command::new(&self.options().programs.admin)
            .args(["geo", "import", "--db"])
            .args([&self.db(), file])
            .output()
            .context("cannot run the admin service's program")?;
        let said =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if !output.status.success() {
            bail!("tidegate geo import: {said}");
        }
        let warm = self.api_ok(Method::POST, "/api/admin/optimization/warmup?wait=30s", None)?;
        ensure!(warm["applied"]["gateways"] == warm["applied"]["of"], "not every gateway has it: {warm}");
        Ok(said)
    }

    /// Waits until the gateway enforces what the database says now.
    ///
    /// # Errors
    /// It does not within the time, or there are several.
    pub fn wait_enforced(&self) -> Result<()> {
        let mut last = Value::Null;
        wait::until("the gateway enforces what the database says", PATIENCE, || {
            last = self.api_ok(Method::POST, "/api/admin/optimization/warmup?wait=5s", None)?;
            Ok((last["applied"]["gateways"] == 1 && last["applied"]["of"] == 1).then_some(()))
        })
        .with_context(|| last.to_string())
    }

    /// Makes or replaces a limit, and waits until every gateway enforces it.
    ///
    /// # Errors
    /// Refused, or not applied in time.
    pub fn put_limit(&self, name: &str, limit: &Value) -> Result<()> {
        self.applied(Method::PUT, &format!("/api/admin/limits/{name}"), Some(limit))
    }

    /// Removes a limit, and waits until every gateway knows.
    ///
    /// # Errors
    /// Refused, or not applied in time.
    pub fn delete_limit(&self, name: &str) -> Result<()> {
        self.applied(Method::DELETE, &format!("/api/admin/limits/{name}"), None)
    }

    /// A write that must be enforced by every live gateway, of which there is one
    /// (Envoys of this stack that have ended are `lost`).
    fn applied(&self, method: Method, target: &str, body: Option<&Value>) -> Result<()> {
        let answer = self.api_ok(method, &format!("{target}?wait_applied=30s"), body)?;
        let applied = &answer["applied"];
        ensure!(
            applied["gateways"] == 1 && applied["of"] == 1,
            "{target} was not applied by the one gateway: {answer}"
        );
        Ok(())
    }

    /// Waits until a gateway polls: one that lost the admin service tries again
    /// every second.
    ///
    /// # Errors
    /// Not within the limit.
    pub fn wait_gateway(&self, limit: Duration) -> Result<()> {
        wait::until("a gateway polls", limit, || {
            let said = self.api_ok(Method::GET, "/api/admin/gateways", None)?;
            let live = said["items"].as_array().is_some_and(|all| all.iter().any(|one| one["lost"] == false));
            Ok(live.then_some(()))
        })
    }

    /// What `recording/stats` says now.
    ///
    /// # Errors
    /// No answer, or not as documented.
    pub fn recording(&self) -> Result<Recording> {
        let said = self.api_ok(Method::GET, "/api/admin/optimization/recording/stats", None)?;
        let number = |name: &str| said[name].as_u64().with_context(|| format!("no {name} in {said}"));
        let flag = |name: &str| said[name].as_bool().with_context(|| format!("no {name} in {said}"));
        let dropped = match &said["dropped"] {
            Value::Object(reasons) => reasons.values().filter_map(Value::as_u64).sum(),
            other => other.as_u64().with_context(|| format!("no dropped in {said}"))?,
        };
        Ok(Recording {
            numbered: number("numbered")?,
            stored: number("stored")?,
            pending: number("pending")?,
            lost: number("lost")?,
            dropped,
            duplicates: number("duplicates")?,
            unclosed: number("unclosed")?,
            open: number("open")?,
            checks: Checks::deserialize(&said["checks"]).with_context(|| format!("no checks in {said}"))?,
            completeness: said["completeness"]
                .as_f64()
                .with_context(|| format!("no completeness in {said}"))?,
            exact: flag("exact")?,
            untold: flag("untold")?,
        })
    }

    /// Waits until every request that this Envoy has finished is numbered, and
    /// stored unless it was given up, and says what holds then.
    ///
    /// # Errors
    /// Not within the limit; the message has the last figures. More events than
    /// requests are never right.
    pub fn recorded(&self, limit: Duration) -> Result<Recording> {
        let mut last = String::new();
        wait::until("every request has its event", limit, || {
            let stats = self.stats()?;
            let requests = |what: &str| stats.get(&format!("http.gate.downstream_rq_{what}")).unwrap_or(0);
            let finished = requests("total").saturating_sub(requests("active"));
            let now = self.recording()?;
            last = format!("{finished} requests are finished, {} are not; {now:?}", requests("active"));
            let settled = now.numbered >= finished && now.stored + now.lost + now.dropped == now.numbered;
            Ok((settled && now.pending == 0).then_some(now))
        })
        .with_context(|| last)
    }

    /// Waits until the filter's counter `name` (as docs/METRICS.md lists it) is at least
    /// `at_least`, and says what it is then. A VM hands its counts to Envoy up to 50 ms after
    /// the request, so one look right after an answer may miss some.
    ///
    /// # Errors
    /// Not within [`PATIENCE`]; the message has the last figure.
    pub fn counted(&self, name: &str, at_least: u64) -> Result<u64> {
        let full_name = format!("wasmcustom.{name}");
        let mut last = 0;
        wait::until("the filter's counts are handed over", PATIENCE, || {
            last = self.stats()?.get(&full_name).unwrap_or(0);
            Ok((last >= at_least).then_some(last))
        })
        .with_context(|| format!("{name} is {last}, and {at_least} was waited for"))
    }

    /// Runs `check` with the caches and then directly, each time on a connection to
    /// every worker, with words for where it is. The caches are on afterwards.
    ///
    /// # Errors
    /// The flags could not be set, a worker not be reached, or what `check` finds.
    pub fn everywhere(&self, mut check: impl FnMut(&mut Connection, &str) -> Result<()>) -> Result<()> {
        for (on, how) in [(true, "caches"), (false, "directly")] {
            self.all_flags(on)?;
            for (worker, connection) in self.connection_per_worker()?.iter_mut().enumerate() {
                let at = format!("worker {worker}, {how}");
                check(connection, &at).with_context(|| at.clone())?;
            }
        }
        self.all_flags(true)
    }

    /// One kept connection to each worker, by Envoy's own count of connections.
    ///
    /// # Errors
    /// A worker gets none, however many are opened.
    pub fn connection_per_worker(&self) -> Result<Vec<Connection>> {
        let listener = format!("listener.127.0.0.1_{}.worker_", self.gate().port());
        let counts = || -> Result<Vec<u64>> {
            let stats = self.stats()?;
            let total = |name: &str| name.starts_with(&listener) && name.ends_with(".downstream_cx_total");
            Ok(stats.matching(total).map(|(_, value)| value).collect())
        };
        let mut kept = Vec::new();
        // Open until the end: a listener with exact balance gives the next connection to the
        // first of the workers that have fewest, the same one again if it was closed.
        let mut others = Vec::new();
        let mut reached = vec![false; self.options().workers as usize];
        let mut before = counts()?;
        for _ in 0..64 * reached.len() {
            let mut connection = Connection::open(self.gate())?;
            // The connection is counted before it is answered.
            connection.send(&Request::get("/"))?;
            let after = counts()?;
            let count = |counts: &[u64], worker: usize| counts.get(worker).copied().unwrap_or(0);
            let by_worker: Vec<u64> = (0..reached.len())
                .map(|worker| count(&after, worker).saturating_sub(count(&before, worker)))
                .collect();
            before = after;
            // Another client's connection at the same moment leaves open which of them is ours.
            let worker = match by_worker.iter().sum::<u64>() {
                1 => by_worker.iter().position(|opened| *opened == 1),
                _ => None,
            };
            match worker {
                Some(worker) if !std::mem::replace(&mut reached[worker], true) => kept.push(connection),
                _ => others.push(connection),
            }
            if reached.iter().all(|reached| *reached) {
                return Ok(kept);
            }
        }
        anyhow::bail!("no connection reached some worker: {reached:?}")
    }
}
