//! The admin service under load: a process of its own, started, killed and measured.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tidegate_stack::http::{self, Method, Request};
use tidegate_stack::ports::local;
use tidegate_stack::process::Process;
use tidegate_stack::{ReservedPorts, start_service};

/// The service, its database and its tokens.
pub struct Service {
    program: PathBuf,
    dir: PathBuf,
    ports: ReservedPorts,
    operator: String,
    gateway: String,
    process: Option<Process>,
}

/// What a process has used so far.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Usage {
    /// Processor time of all its threads, user and system.
    pub cpu: Duration,
    /// Resident memory now, bytes.
    pub memory: u64,
    /// The most since the last [`Service::forget_peak`], bytes.
    pub peak: u64,
}

impl Service {
    /// Starts `program` with a new database in `dir`, which is emptied, and waits until it is healthy.
    ///
    /// # Errors
    /// The folder cannot be made, there are no free ports, or the program does not start.
    pub fn start(program: &Path, dir: &Path) -> Result<Self> {
        if dir.exists() {
            std::fs::remove_dir_all(dir).with_context(|| format!("cannot empty {}", dir.display()))?;
        }
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let (program, dir) = (program.to_owned(), dir.to_owned());
        let token = |role: &str| create_token(&program, &dir, role);
        let (operator, gateway) = (token("admin")?, token("gateway")?);
        let ports = ReservedPorts::take()?;
        let mut service = Self { program, dir, ports, operator, gateway, process: None };
        service.restart()?;
        Ok(service)
    }

    /// Starts it on its database, and waits until it is healthy.
    ///
    /// # Errors
    /// It ends, or is not healthy in time.
    pub fn restart(&mut self) -> Result<()> {
        let mut command = Command::new(&self.program);
        command.arg("serve").arg("--db").arg(database(&self.dir));
        command.arg("--listen").arg(self.people().to_string());
        command.arg("--gateway-listen").arg(self.feed().to_string());
        let log = self.dir.join("admin.log");
        self.process = Some(start_service(command, self.people(), &log)?);
        Ok(())
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }

    /// Where people ask.
    pub fn people(&self) -> SocketAddr {
        local(self.ports.ports().people)
    }

    /// Where gateways ask.
    pub fn feed(&self) -> SocketAddr {
        local(self.ports.ports().gateways)
    }

    /// The token of the gateways.
    pub fn gateway_token(&self) -> &str {
        &self.gateway
    }

    /// Sends a request as an operator, and returns the answer's JSON.
    ///
    /// # Errors
    /// It does not answer, or not with 200 or 201.
    pub fn api(&self, method: Method, target: &str, body: Option<&Value>) -> Result<Value> {
        let request = Request::new(method, target).bearer(&self.operator);
        self.send(target, &body.into_iter().fold(request, Request::json))
    }

    /// Sends a text as an operator, and returns the answer's JSON.
    ///
    /// # Errors
    /// It does not answer, or not with 200 or 201.
    pub fn post_text(&self, target: &str, text: String) -> Result<Value> {
        self.send(target, &Request::new(Method::POST, target).bearer(&self.operator).body("text/plain", text))
    }

    fn send(&self, target: &str, request: &Request) -> Result<Value> {
        let answer = http::send(self.people(), request)?;
        ensure!(
            [200, 201].contains(&answer.status),
            "{target} answered {}: {}",
            answer.status,
            answer.text()
        );
        answer.json()
    }

    /// What the process has used.
    ///
    /// # Errors
    /// It does not run.
    pub fn usage(&self) -> Result<Usage> {
        let stat = self.proc_file("stat")?;
        let status = self.proc_file("status")?;
        Ok(Usage {
            cpu: cpu(&stat).context("/proc/PID/stat")?,
            memory: kilobytes(&status, "VmRSS:").context("no VmRSS")?,
            peak: kilobytes(&status, "VmHWM:").context("no VmHWM")?,
        })
    }

    /// From here on [`Usage::peak`] is of what follows (proc(5), `clear_refs`).
    ///
    /// # Errors
    /// It does not run, or the kernel does not let this process.
    pub fn forget_peak(&self) -> Result<()> {
        let path = format!("/proc/{}/clear_refs", self.pid()?);
        std::fs::write(&path, "5").with_context(|| format!("cannot write {path}"))
    }

    fn pid(&self) -> Result<i32> {
        Ok(self.process.as_ref().context("the admin service does not run")?.identity().pid)
    }

    fn proc_file(&self, name: &str) -> Result<String> {
        let path = format!("/proc/{}/{name}", self.pid()?);
        std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
    }
}

/// Processor time of this process so far.
///
/// # Errors
/// `/proc` cannot be read.
pub fn own_cpu() -> Result<Duration> {
    cpu(&std::fs::read_to_string("/proc/self/stat")?).context("/proc/self/stat")
}

fn database(dir: &Path) -> PathBuf {
    dir.join("tidegate.db")
}

fn create_token(program: &Path, dir: &Path, role: &str) -> Result<String> {
    let output = Command::new(program)
        .args(["token", "create", "--db"])
        .arg(database(dir))
        .args(["--name", role, "--scope", role])
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "tidegate token create: {}", String::from_utf8_lossy(&output.stderr));
    let token = said.lines().map(str::trim).rfind(|line| !line.is_empty());
    Ok(token.context("tidegate token create printed nothing")?.to_owned())
}

/// User and system time: fields 14 and 15 of `/proc/PID/stat`, in clock ticks.
fn cpu(stat: &str) -> Option<Duration> {
    // The command in parentheses may hold anything, parentheses included. Field 3 follows it.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let ticks: u64 = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * 1_000 / rustix::param::clock_ticks_per_second().max(1)))
}

/// A line of `/proc/PID/status`, in bytes.
fn kilobytes(status: &str, name: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(name))?;
    Some(value.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? * 1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_as_proc_writes_it() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 4 0 99 1 2";
        let ticks = rustix::param::clock_ticks_per_second();
        assert_eq!(cpu(stat), Some(Duration::from_millis(200_000 / ticks)));
        assert_eq!(kilobytes("VmPeak:\t 1 kB\nVmRSS:\t   12 kB\n", "VmRSS:"), Some(12_288));
    }
}
