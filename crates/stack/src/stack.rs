//! One stack from start to end.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::envoy;
use crate::http::{self, Method, Request, Response};
use crate::options::{FlagsAtStart, Options};
use crate::ports::{PortChoice, Ports, ReservedPorts, local};
use crate::process::{Identity, Process};
use crate::sql::Shell;
use crate::stats::Stats;
use crate::tokens::{FIRST_GATEWAY_TOKEN, create_token, database, revoke_token, tokens};
use crate::wait;

/// How long each part may take to become ready: a debug Envoy on a busy machine
/// compiles the filter for seconds.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Something that a stack started, for who comes later.
pub type Started = Identity;

/// A running stack. Dropped, it ends what it started.
#[derive(Debug)]
pub struct Stack {
    options: Options,
    pub(crate) ports: Ports,
    /// Nobody else takes them meanwhile.
    pub(crate) reserved: Vec<ReservedPorts>,
    pub(crate) envoy: Option<Process>,
    admin: Option<Process>,
    demo: Option<Process>,
    admin_token: String,
    gateway_token: String,
}

/// Starts the admin service by `command`, and waits until it is healthy at `people`, its listener for people.
///
/// # Errors
/// It ends, or is not healthy in time; with the end of its log.
pub fn start_service(command: Command, people: SocketAddr, log: &Path) -> Result<Process> {
    let mut process = Process::start("admin", command, log)?;
    wait::until("the admin service is healthy", START_LIMIT, || {
        process.check_running()?;
        let answer = http::send(people, &Request::get("/api/health"));
        Ok(answer.ok().filter(|answer| answer.status == 200))
    })
    .with_context(|| process.tail(15))?;
    Ok(process)
}

impl Stack {
    /// Starts everything and waits until the gate holds its tables.
    ///
    /// # Errors
    /// A port is taken, a part ends or is not ready in time: the message has the
    /// end of its log. What had been started is ended.
    pub fn start(options: Options) -> Result<Self> {
        std::fs::create_dir_all(&options.dir)
            .with_context(|| format!("cannot make {}", options.dir.display()))?;
        match options.ports {
            PortChoice::Default => {
                Ports::DEFAULT.check_free(!options.demo_is_ours())?;
                Self::on_ports(options, Ports::DEFAULT, Vec::new())
            }
            PortChoice::Free => {
                let reserved = ReservedPorts::take()?;
                Self::on_ports(options, reserved.ports(), vec![reserved])
            }
        }
    }

    fn on_ports(options: Options, ports: Ports, reserved: Vec<ReservedPorts>) -> Result<Self> {
        let [admin_token, gateway_token] = tokens(&options)?;
        let mut stack = Self {
            options,
            ports,
            reserved,
            envoy: None,
            admin: None,
            demo: None,
            admin_token,
            gateway_token,
        };
        stack.start_demo()?;
        stack.start_admin()?;
        stack.start_envoy()?;
        stack.wait_gate_ready()?;
        if stack.options.flags == FlagsAtStart::AllOn {
            stack.all_flags(true).context("cannot switch the flags on")?;
        }
        Ok(stack)
    }

    fn start_demo(&mut self) -> Result<()> {
        if !self.options.demo_is_ours() {
            return Ok(());
        }
        let address = local(self.ports.demo);
        let mut command = Command::new(&self.options.programs.demo);
        command.args(["demo", &address.to_string()]);
        let mut process = Process::start("demo", command, &self.log("demo"))?;
        wait::until("the demo backend answers", START_LIMIT, || {
            process.check_running()?;
            Ok(http::send(address, &Request::get("/")).ok())
        })?;
        self.demo = Some(process);
        Ok(())
    }

    /// Starts the admin service on the database, and waits until it is healthy.
    ///
    /// # Errors
    /// It runs already, ends, or is not healthy in time.
    pub fn start_admin(&mut self) -> Result<()> {
        ensure!(self.admin.is_none(), "the admin service runs already");
        let mut command = Command::new(&self.options.programs.admin);
        command.arg("serve").arg("--db").arg(self.db());
        command.arg("--listen").arg(self.people().to_string());
        command.arg("--gateway-listen").arg(local(self.ports.gateways).to_string());
        for name in self.options.clusters() {
            command.arg("--cluster").arg(name);
        }
        command.args(&self.options.admin_args);
        let process = start_service(command, self.people(), &self.log("admin"))?;
        self.admin = Some(process);
        Ok(())
    }

    /// SIGKILL to the admin service: what a crash looks like.
    pub fn kill_admin(&mut self) {
        if let Some(process) = self.admin.take() {
            process.kill();
        }
    }

    /// SIGTERM to the admin service, and waits for its end.
    pub fn stop_admin(&mut self) {
        if let Some(process) = self.admin.take() {
            process.terminate();
        }
    }

    /// From its next start on, the admin service is this program.
    pub fn set_admin(&mut self, program: PathBuf) {
        self.options.programs.admin = program;
    }

    /// From Envoy's next start on, the filter is this file.
    pub fn set_filter(&mut self, wasm: PathBuf) {
        self.options.programs.wasm = wasm;
    }

    /// Starts Envoy and returns at once; see [`Stack::wait_gate_ready`].
    ///
    /// # Errors
    /// It runs already, or cannot be started.
    pub fn start_envoy(&mut self) -> Result<()> {
        ensure!(self.envoy.is_none(), "Envoy runs already");
        let config = match &self.options.control {
            None => self.options.envoy_config(&self.ports)?,
            Some(control) => control.config(&self.options, &self.ports)?,
        };
        let path = self.options.dir.join("envoy.json");
        std::fs::write(&path, serde_json::to_vec_pretty(&config)?)?;
        let options = &self.options;
        let mut command = envoy::command(&options.programs.envoy, &path, options.workers, options.envoy_cpu);
        if let Some(drain) = options.drain {
            let seconds = drain.as_secs().to_string();
            command.args(["--drain-strategy", "immediate", "--drain-time-s", &seconds]);
        }
        command.env("TIDEGATE_GATEWAY_TOKEN", &self.gateway_token);
        self.envoy = Some(Process::start("envoy", command, &self.log("envoy"))?);
        Ok(())
    }

    /// Waits until Envoy is live, the gate answers (on as many fresh connections in
    /// a row as there are workers, and twice over), and every worker holds the
    /// tables.
    ///
    /// # Errors
    /// Not within a minute, or Envoy ended.
    pub fn wait_gate_ready(&mut self) -> Result<()> {
        self.wait_gate_answers()?;
        if self.admin.is_some() {
            self.wait_tables()?;
        }
        Ok(())
    }

    /// Without tables the gate asks the admin service, and answers as well.
    fn wait_tables(&mut self) -> Result<()> {
        let mut last = Value::Null;
        let mut looks = 0_u32;
        wait::until("the gate enforces the tables", START_LIMIT, || {
            self.check_running()?;
            // A gateway says how far it is at once when somebody waits for it, and with
            // its next poll otherwise: a refresh makes it say so again.
            let ask = if looks > 0 && looks.is_multiple_of(50) { "cache/refresh" } else { "warmup" };
            looks += 1;
            self.api_ok(Method::POST, &format!("/api/admin/optimization/{ask}?wait=1s"), None)?;
            last = self.api_ok(Method::GET, "/api/admin/gateways", None)?;
            let gateways = last["items"].as_array().into_iter().flatten();
            // The newest is the Envoy that runs; others are of processes that ended.
            let newest = gateways.min_by_key(|gateway| gateway["known_for_ms"].as_u64());
            let ready = newest.filter(|gateway| self.holds_tables(gateway)).map(drop);
            if ready.is_none() {
                self.serve_on_all();
            }
            Ok(ready)
        })
        .with_context(|| format!("gateways: {last}"))
    }

    /// A worker counts once it has served a request: connections that are open at
    /// the same time go to all of them, sooner or later. One that closes before the
    /// next one opens may leave that to the same worker, for ever.
    fn serve_on_all(&self) {
        let open = |_| http::Connection::open(self.gate()).ok();
        let mut held: Vec<_> = (0..self.options.workers).filter_map(open).collect();
        for connection in &mut held {
            // What it answers was looked at before.
            let _ = connection.send(&Request::get("/"));
        }
    }

    fn holds_tables(&self, gateway: &Value) -> bool {
        let all = u64::from(self.options.workers);
        gateway["lost"] == false
            && gateway["enforces"].is_string()
            && gateway["vms"].as_u64().is_some_and(|vms| vms >= all)
    }

    fn wait_gate_answers(&mut self) -> Result<()> {
        let (envoy_admin, gate) = (self.envoy_admin(), self.gate());
        let process = self.envoy.as_mut().context("Envoy does not run")?;
        let mut last = String::from("nothing listens");
        let wanted = 2 * self.options.workers;
        let mut in_a_row = 0;
        wait::until("the gate answers", START_LIMIT, || {
            process.check_running()?;
            let live =
                http::send(envoy_admin, &Request::get("/ready")).is_ok_and(|answer| answer.status == 200);
            if !live {
                return Ok(None);
            }
            while in_a_row < wanted {
                match http::send(gate, &Request::get("/")) {
                    Ok(answer) if answer.status != 503 => in_a_row += 1,
                    other => {
                        last = other.map_or_else(|error| format!("{error:#}"), |answer| answer.text());
                        in_a_row = 0;
                        return Ok(None);
                    }
                }
            }
            Ok(Some(()))
        })
        .with_context(|| format!("the gate's last answer: {last}"))
        .with_context(|| process.tail(15))
    }

    /// SIGKILL to Envoy: nothing is flushed.
    pub fn kill_envoy(&mut self) {
        if let Some(process) = self.envoy.take() {
            process.kill();
        }
    }

    /// Ends Envoy, starts it again with the configuration as it now is, and waits
    /// until it is ready.
    ///
    /// # Errors
    /// As [`Stack::wait_gate_ready`].
    pub fn restart_envoy(&mut self) -> Result<()> {
        if let Some(process) = self.envoy.take() {
            process.terminate();
        }
        self.start_envoy()?;
        self.wait_gate_ready()
    }

    /// Fails, with the end of its log, if a part has ended by itself.
    ///
    /// # Errors
    /// Which one, and its last words.
    pub fn check_running(&mut self) -> Result<()> {
        [&mut self.envoy, &mut self.admin, &mut self.demo]
            .into_iter()
            .flatten()
            .try_for_each(Process::check_running)
    }

    /// Asks the admin service, as the operator.
    ///
    /// # Errors
    /// It does not answer; any status is an answer.
    pub fn api(&self, method: Method, target: &str, body: Option<&Value>) -> Result<Response> {
        let request = Request::new(method, target).bearer(&self.admin_token);
        let request = match body {
            Some(body) => request.json(body),
            None => request,
        };
        http::send(self.people(), &request)
    }

    /// Like [`Stack::api`], and the answer must be 200; its JSON.
    ///
    /// # Errors
    /// Any other status, with the body.
    pub fn api_ok(&self, method: Method, target: &str, body: Option<&Value>) -> Result<Value> {
        let what = format!("{method} {target}");
        let answer = self.api(method, target, body)?;
        ensure!(answer.status == 200, "{what} answered {}: {}", answer.status, answer.text());
        answer.json()
    }

    /// Envoy's counters and gauges now.
    ///
    /// # Errors
    /// Envoy does not answer.
    pub fn stats(&self) -> Result<Stats> {
        Stats::read(self.envoy_admin())
    }

    /// Envoy's process.
    ///
    /// # Errors
    /// It does not run.
    pub fn envoy(&self) -> Result<&Identity> {
        Ok(self.envoy.as_ref().context("Envoy does not run")?.identity())
    }

    /// The admin service's process.
    ///
    /// # Errors
    /// It does not run.
    pub fn service(&self) -> Result<&Identity> {
        Ok(self.admin.as_ref().context("the admin service does not run")?.identity())
    }

    /// A database shell in a process of its own.
    ///
    /// # Errors
    /// As [`Shell::open`].
    pub fn sql(&self) -> Result<Shell> {
        Shell::open(&self.db())
    }

    /// Its ports.
    #[must_use]
    pub fn ports(&self) -> Ports {
        self.ports
    }

    /// How it was started.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The gate.
    #[must_use]
    pub fn gate(&self) -> SocketAddr {
        local(self.ports.gate)
    }

    /// The admin service.
    #[must_use]
    pub fn people(&self) -> SocketAddr {
        local(self.ports.people)
    }

    /// The admin service through Envoy.
    #[must_use]
    pub fn admin_api(&self) -> SocketAddr {
        local(self.ports.admin_api)
    }

    /// The demo backend, if it is the stack's own.
    #[must_use]
    pub fn demo(&self) -> SocketAddr {
        local(self.ports.demo)
    }

    /// Envoy's admin interface.
    #[must_use]
    pub fn envoy_admin(&self) -> SocketAddr {
        local(self.ports.envoy_admin)
    }

    /// The database file.
    #[must_use]
    pub fn db(&self) -> PathBuf {
        database(&self.options.dir)
    }

    /// The operator's token.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.admin_token
    }

    /// Makes one more token of the role `gateway`.
    ///
    /// # Errors
    /// The admin service's program does not make it.
    pub fn create_gateway_token(&self, name: &str) -> Result<String> {
        create_token(&self.options, name, "gateway")
    }

    /// Revokes the token that Envoy was started with, and waits until the admin
    /// service refuses it.
    ///
    /// # Errors
    /// There is none any more, or it stays valid.
    pub fn revoke_first_gateway_token(&self) -> Result<()> {
        self.revoke_gateway_token(FIRST_GATEWAY_TOKEN, &self.gateway_token)
    }

    /// Revokes the gateways' token of this name, and waits until the admin service
    /// refuses it.
    ///
    /// # Errors
    /// There is none of the name, or it stays valid.
    pub fn revoke_gateway_token(&self, name: &str, token: &str) -> Result<()> {
        revoke_token(&self.options, name)?;
        let asks = Request::get("/api/data-plane/v1/sync").bearer(token);
        wait::until("the token is refused", START_LIMIT, || {
            let answer = http::send(local(self.ports.gateways), &asks)?;
            Ok((answer.status == 401).then_some(()))
        })
    }

    /// A part's log: `admin`, `envoy`, `demo`, or `access`.
    #[must_use]
    pub fn log(&self, part: &str) -> PathBuf {
        self.options.log(part)
    }

    /// What runs now, as processes of their own.
    #[must_use]
    pub fn started(&self) -> Vec<Started> {
        [&self.envoy, &self.admin, &self.demo]
            .into_iter()
            .flatten()
            .map(|process| process.identity().clone())
            .collect()
    }

    /// Lets everything run on without us.
    pub fn detach(mut self) -> Vec<Started> {
        [self.envoy.take(), self.admin.take(), self.demo.take()]
            .into_iter()
            .flatten()
            .map(Process::detach)
            .collect()
    }
}

impl Drop for Stack {
    /// Envoy first: its last events still find the admin service.
    fn drop(&mut self) {
        self.envoy = None;
        self.admin = None;
        self.demo = None;
    }
}
