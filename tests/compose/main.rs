//! `docker-compose.yml` as it stands, on the Docker engine of this machine: what
//! docs/DOCKER.md says, and that it comes back as it was.
//!
//! Where there is no Docker daemon, or no Compose, this says so and passes. Base
//! images that are not there and cannot be pulled get stand-ins
//! (`tests/compose/stand-ins.sh`).

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tidegate_stack::http::{self, Method, Request};
use tidegate_stack::programs::{installed_envoy, repository};
use tidegate_stack::{Programs, page, wait};

const PROJECT: &str = "tidegate-compose-test";
const GATE: u16 = 10000;
const ADMIN_THROUGH_ENVOY: u16 = 10001;
const STATISTICS: u16 = 9901;
const PROMETHEUS: u16 = 9090;
/// All that the file publishes and this test starts.
const PORTS: [u16; 5] = [GATE, ADMIN_THROUGH_ENVOY, STATISTICS, 9070, PROMETHEUS];
/// Containers that are started are ready in seconds, on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

#[test]
fn the_containers_do_what_the_readme_says_and_come_back() {
    if let Some(why) = missing() {
        println!("skipped: {why}");
        return;
    }
    let containers = Containers::prepare().unwrap();
    let done = containers.scenario();
    if done.is_err() {
        containers.show_logs();
    }
    drop(containers);
    done.unwrap();
}

/// What this machine lacks, if anything.
fn missing() -> Option<&'static str> {
    let works = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    if !works("docker", &["info"]) {
        return Some("no Docker daemon answers");
    }
    // Where there is no such file, the engine is on another system.
    let mounts = std::fs::read_to_string("/proc/self/mountinfo");
    if mounts.is_ok_and(|mounts| !mounts.contains(" - cgroup")) {
        return Some("no cgroups are mounted here, without which the engine starts no container");
    }
    let compose = works("docker", &["compose", "version"]) || works("docker-compose", &["version"]);
    (!compose).then_some("there is neither `docker compose` nor `docker-compose`")
}

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// `docker compose` or `docker-compose`, for this project only.
fn compose_words() -> String {
    let mut plugin = Command::new("docker");
    plugin.args(["compose", "version"]).stdout(Stdio::null()).stderr(Stdio::null());
    let plugin = plugin.status().is_ok_and(|status| status.success());
    let program = if plugin { "docker compose" } else { "docker-compose" };
    format!("{program} --project-name {PROJECT}")
}

/// The project, gone when dropped.
struct Containers {
    compose: String,
}

impl Containers {
    /// Removes what an earlier run left, and sees to base images.
    fn prepare() -> Result<Self> {
        let this = Self { compose: compose_words() };
        this.remove();
        for port in PORTS {
            let free = TcpListener::bind(local(port));
            free.with_context(|| format!("docker-compose.yml publishes 127.0.0.1:{port}, which is taken"))?;
        }
        stand_ins(&["up", "rust", "envoy", "prometheus"])?;
        Ok(this)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut words = self.compose.split(' ');
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words).args(arguments).current_dir(repository());
        command
    }

    /// Runs it; what it printed on standard output.
    fn run(&self, arguments: &[&str]) -> Result<String> {
        let Output { status, stdout, stderr } = self.command(arguments).output()?;
        let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        ensure!(status.success(), "{} {arguments:?}: {status}\n{stdout}\n{stderr}", self.compose);
        Ok(stdout.into_owned())
    }

    fn exec(&self, service: &str, arguments: &[&str]) -> Result<String> {
        self.run(&[&["exec", "-T", service], arguments].concat())
    }

    fn sql(&self, statement: &str) -> Result<String> {
        let database = "/var/lib/tidegate/tidegate.db";
        let rows = self.exec("admin", &["sqlite3", "-cmd", ".timeout 5000", database, statement])?;
        Ok(rows.trim().to_owned())
    }

    fn token(&self) -> Result<String> {
        let token = self.exec("admin", &["cat", "/run/tidegate/tokens/admin-token"])?;
        Ok(token.trim().to_owned())
    }

    fn show_logs(&self) {
        let _ = self.command(&["ps"]).status();
        let _ = self.command(&["logs", "--no-color", "--tail=60"]).status();
    }

    fn remove(&self) {
        let all = ["--profile", "observe", "down", "--volumes", "--remove-orphans", "--rmi", "local"];
        let _ = self.command(&all).stderr(Stdio::null()).status();
    }

    fn scenario(&self) -> Result<()> {
        let begin = Instant::now();
        let printed = page::section_of("docs/DOCKER.md", "## Start and try", |commands| {
            commands.replace("docker compose", &self.compose)
        })?;
        println!("the commands of the page took {:.0} s, with the images", begin.elapsed().as_secs_f64());
        let [started, ban, link, sql] = &printed[..] else { bail!("blocks of the page: {printed:?}") };
        ensure!(started.contains(r#""backend":"demo""#), "{started}");
        let ban: String = ban.split_whitespace().collect();
        ensure!(ban.contains(r#""gateways":1,"of":1"#) && ban.contains("ip_banned"), "{ban}");
        ensure!(link.contains("http://127.0.0.1:9070/ui/sign-in?code="), "{link}");
        println!("after the ban by SQL: {sql}");
        self.flags()?;
        let before = self.state()?;
        self.walls()?;
        self.health(&["admin", "envoy"])?;
        for services in [&["admin"][..], &["envoy"], &["backend"], &[]] {
            self.run(&[&["restart"], services].concat())?;
            println!("restarted {services:?}");
            let after = self.state()?;
            ensure!(after == before, "before the restart {before:?}, after it {after:?}");
        }
        self.observe()
    }

    /// Switches all flags on, through Envoy.
    fn flags(&self) -> Result<()> {
        let target = "/api/admin/optimization/flags?wait_applied=10s";
        let request = Request::new(Method::PUT, target).bearer(&self.token()?).json(&all_flags());
        let answer = http::send(local(ADMIN_THROUGH_ENVOY), &request)?;
        ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
        ensure!(answer.json()?["applied"]["gateways"] == 1, "{}", answer.text());
        Ok(())
    }

    /// What clients and operators see, once the gate holds its tables again.
    fn state(&self) -> Result<State> {
        wait::until("the gate enforces what it should", LIMIT, || {
            let status = |client| {
                let answer = http::send(local(GATE), &Request::get("/hello").from(client));
                answer.map_or(0, |answer| answer.status)
            };
            let all = [status("192.0.2.1"), status("1.2.3.4"), status("5.6.7.8")];
            let answer = http::send(local(GATE), &Request::get("/hello"));
            let cached = answer.is_ok_and(|answer| {
                answer
                    .headers
                    .get("x-performance-cache")
                    .is_some_and(|value| value == "route=hit,ip=hit,geo=hit")
            });
            Ok((all == [200, 403, 403] && cached).then_some(()))
        })?;
        let token = self.token()?;
        let request = Request::get("/api/admin/optimization/flags").bearer(&token);
        let flags = wait::until("the admin service answers through Envoy", LIMIT, || {
            let answer = http::send(local(ADMIN_THROUGH_ENVOY), &request)?;
            ensure!(answer.status != 401, "the token is not known any more: {}", answer.text());
            if answer.status == 200 { answer.json().map(Some) } else { Ok(None) }
        })?;
        ensure!(flags == all_flags(), "{flags}");
        let first_event = wait::until("events are recorded", LIMIT, || {
            let first = self.sql("SELECT timestamp, path FROM traffic_events ORDER BY timestamp LIMIT 1")?;
            Ok((!first.is_empty()).then_some(first))
        })?;
        Ok(State { token, first_event })
    }

    /// What the health checks of the file say.
    fn health(&self, services: &[&str]) -> Result<()> {
        for service in services {
            let id = self.run(&["ps", "--quiet", service])?;
            let mut said = String::new();
            wait::until("a container is healthy", LIMIT, || {
                let mut inspect = Command::new("docker");
                inspect.args(["inspect", "--format", "{{.State.Health.Status}}", id.trim()]);
                said = String::from_utf8_lossy(&inspect.output()?.stdout).trim().to_owned();
                Ok((said == "healthy").then_some(()))
            })
            .with_context(|| format!("{service}: {said}"))?;
        }
        Ok(())
    }

    /// What must not be possible.
    fn walls(&self) -> Result<()> {
        let stopped = http::send(local(STATISTICS), &Request::new(Method::POST, "/quitquitquit"))?;
        ensure!(stopped.status == 404, "Envoy can be stopped: {}", stopped.status);
        let ready = http::send(local(STATISTICS), &Request::get("/ready"))?;
        ensure!(ready.status == 200, "{}: {}", ready.status, ready.text());
        for file in ["admin-token", "gateway-token"] {
            let read = self.exec("envoy", &["cat", &format!("/run/tidegate/tokens/{file}")]);
            ensure!(read.is_ok() == (file == "gateway-token"), "Envoy and {file}: {read:?}");
        }
        let writes = self.exec("envoy", &["sh", "-c", "echo > /run/tidegate/tokens/gateway-token"]);
        ensure!(writes.is_err(), "Envoy can write the token");
        // Another container is a client like any other: nobody believes what it says of itself.
        let ask = "exec 3<>/dev/tcp/envoy/10000; \
            printf 'GET /hello HTTP/1.1\\r\\nHost: a\\r\\nX-Forwarded-For: 1.2.3.4\\r\\nConnection: close\\r\\n\\r\\n' >&3; \
            head -n 1 <&3";
        let answer = self.exec("admin", &["bash", "-c", ask])?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        // Envoy hands its lines over every ten seconds.
        wait::until("the access log is among the logs", LIMIT, || {
            let log = self.run(&["logs", "--no-color", "envoy"])?;
            Ok(log.contains("\"reason\":\"ip_banned\"").then_some(()))
        })
    }

    /// Prometheus of the profile, and that it gets what it asks for. Grafana is in no package of Debian's.
    fn observe(&self) -> Result<()> {
        self.run(&["--profile", "observe", "up", "--detach", "prometheus"])?;
        let targets = wait::until("Prometheus has asked everybody", LIMIT, || {
            let Ok(answer) = http::send(local(PROMETHEUS), &Request::get("/api/v1/targets")) else {
                return Ok(None);
            };
            let Ok(targets) = answer.json().map(|all| all["data"]["activeTargets"].clone()) else {
                return Ok(None);
            };
            let asked = |target: &Value| target["health"] != "unknown";
            let all = targets.as_array().is_some_and(|all| all.len() >= 2 && all.iter().all(asked));
            Ok(all.then_some(targets))
        })?;
        for target in targets.as_array().into_iter().flatten() {
            ensure!(target["health"] == "up", "{target}");
        }
        Ok(())
    }
}

impl Drop for Containers {
    fn drop(&mut self) {
        self.remove();
        let _ = stand_ins(&["down"]);
    }
}

/// What must be the same after a restart, beside what [`Containers::state`] waits for.
#[derive(PartialEq, Eq, Debug)]
struct State {
    token: String,
    first_event: String,
}

fn all_flags() -> Value {
    json!({
        "enableRouteCache": true, "enableIpBlacklistCache": true, "enableGeoRulesCache": true,
        "enableParallelExecution": true, "enableAsyncRecording": true,
    })
}

/// See there. The parts that other scenarios run are in them, unless the build in containers
/// is to be tried as well.
fn stand_ins(arguments: &[&str]) -> Result<()> {
    let envoy = std::env::var_os("ENVOY").map_or_else(installed_envoy, PathBuf::from);
    let mut command = Command::new(repository().join("tests/compose/stand-ins.sh"));
    command.args(arguments).env("ENVOY", envoy);
    if arguments.first() == Some(&"up") && std::env::var_os("TIDEGATE_COMPOSE_FROM_SOURCE").is_none() {
        command.env("TIDEGATE_PARTS", parts()?);
    }
    let status = command.status()?;
    ensure!(status.success(), "stand-ins.sh {arguments:?}: {status}");
    Ok(())
}

/// A folder with the programs that images are made of.
fn parts() -> Result<PathBuf> {
    let programs = Programs::find()?;
    let dir = repository().join("target/tests/compose");
    std::fs::create_dir_all(&dir)?;
    let parts = [
        ("tidegate", &programs.admin),
        ("tidegate-demo-backend", &programs.demo),
        ("tidegate.wasm", &programs.wasm),
    ];
    for (name, program) in parts {
        std::fs::copy(program, dir.join(name)).with_context(|| format!("cannot copy {name}"))?;
    }
    Ok(dir)
}
