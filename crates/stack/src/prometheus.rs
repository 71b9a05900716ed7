//! Prometheus itself, where a machine has it or can get it: whether what the product
//! ships for it is right, it says best.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::http::{self, Request};
use crate::process::Process;
use crate::programs::{on_path, repository};
use crate::wait;

/// How long it may take to become ready.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Prometheus and the tool that checks its files.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PrometheusBinaries {
    /// The server.
    pub prometheus: PathBuf,
    /// The tool.
    pub promtool: PathBuf,
}

impl PrometheusBinaries {
    /// `$PROMETHEUS` with `promtool` beside it, else both on the PATH, else where `xtask`
    /// puts them; `None`: this machine has neither.
    #[must_use]
    pub fn find() -> Option<Self> {
        let given = std::env::var_os("PROMETHEUS").filter(|path| !path.is_empty()).map(PathBuf::from);
        let beside =
            |prometheus: PathBuf| Self { promtool: prometheus.with_file_name("promtool"), prometheus };
        let on_path = || Some(Self { prometheus: on_path("prometheus")?, promtool: on_path("promtool")? });
        let installed = || Some(beside(installed().join("prometheus")));
        let is_there = |all: &Self| all.prometheus.is_file() && all.promtool.is_file();
        given.map(beside).or_else(on_path).or_else(installed).filter(is_there)
    }

    /// Runs `promtool` in `dir`: what it says.
    ///
    /// # Errors
    /// It finds something wrong; the message has its words.
    pub fn check(&self, dir: &Path, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.promtool);
        let output = command.args(arguments).current_dir(dir).output().context("cannot run promtool")?;
        let said =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "promtool {}: {said}", arguments.join(" "));
        Ok(said)
    }
}

/// Where `xtask` puts both programs.
#[must_use]
pub fn installed() -> PathBuf {
    repository().join("target/tools/prometheus")
}

/// A running Prometheus, ended when dropped.
#[derive(Debug)]
pub struct Prometheus {
    process: Process,
    address: SocketAddr,
}

impl Prometheus {
    /// Starts it with a configuration, its data beside that, and waits until it is
    /// ready.
    ///
    /// # Errors
    /// It ends, or is not ready in time.
    pub fn start(programs: &PrometheusBinaries, config: &Path, address: SocketAddr) -> Result<Self> {
        let dir = config.parent().context("a configuration without a directory")?;
        let mut command = Command::new(&programs.prometheus);
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", dir.join("data").display()))
            .arg(format!("--web.listen-address={address}"));
        let process = Process::start("prometheus", command, &dir.join("prometheus.log"))?;
        let mut started = Self { process, address };
        wait::until("Prometheus is ready", START_LIMIT, || {
            started.process.check_running()?;
            let answer = http::send(address, &Request::get("/-/ready"));
            Ok(answer.ok().filter(|answer| answer.status == 200).map(drop))
        })?;
        Ok(started)
    }

    /// What an expression comes to now: its series, none if there is no data.
    ///
    /// # Errors
    /// It is no expression, or Prometheus does not answer.
    pub fn query(&self, expression: &str) -> Result<Vec<Value>> {
        let body = form_urlencoded::Serializer::new(String::new()).append_pair("query", expression).finish();
        let request = Request::new(http::Method::POST, "/api/v1/query");
        let request = request.body("application/x-www-form-urlencoded", body);
        let answer = http::send(self.address, &request)?;
        ensure!(answer.status == 200, "{expression}: {} {}", answer.status, answer.text());
        let said = answer.json()?;
        Ok(said["data"]["result"].as_array().cloned().unwrap_or_default())
    }

    /// An answer of its API: the `data` of it.
    ///
    /// # Errors
    /// Any status but 200.
    pub fn get(&self, target: &str) -> Result<Value> {
        let answer = http::send(self.address, &Request::get(target))?;
        ensure!(answer.status == 200, "{target}: {} {}", answer.status, answer.text());
        Ok(answer.json()?["data"].clone())
    }
}
