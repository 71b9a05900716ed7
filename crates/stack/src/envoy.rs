//! Envoy's process: how it is started, what it costs, and Envoy alone, without an
//! admin service, to compare with.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::http::{self, Request};
use crate::ports::{Ports, ReservedPorts, local};
use crate::process::{Identity, Process};
use crate::programs::{Programs, public_authorities};
use crate::render::{Edits, Upstream, put_filters, render};
use crate::wait;

/// How long an Envoy may take until it is ready.
const START_LIMIT: Duration = Duration::from_secs(60);

/// The command line of an Envoy, on one processor only if `cpu` says so.
#[must_use]
pub fn command(envoy: &Path, config: &Path, workers: u32, cpu: Option<u32>) -> Command {
    let mut command = match cpu {
        // It becomes Envoy: the process stays the same.
        Some(cpu) => {
            let mut command = Command::new("taskset");
            command.args(["-c", &cpu.to_string()]).arg(envoy);
            command
        }
        None => Command::new(envoy),
    };
    command.arg("-c").arg(config).args(["--concurrency", &workers.to_string()]);
    // Several on one machine would otherwise meet in one shared-memory region.
    command.arg("--disable-hot-restart");
    command
}

/// Processor time that all threads of a process have used since they began.
///
/// # Errors
/// There is no such process, or the kernel does not keep `schedstat`.
pub fn cpu_time(process: &Identity) -> Result<Duration> {
    let threads = format!("/proc/{}/task", process.pid);
    let mut sum = Duration::ZERO;
    for thread in std::fs::read_dir(&threads).with_context(|| format!("cannot read {threads}"))? {
        let path = thread?.path();
        match thread_time(&path) {
            Ok(time) => sum += time,
            // A thread may end meanwhile.
            Err(_) if !path.exists() => {}
            Err(error) => return Err(error),
        }
    }
    ensure!(!sum.is_zero(), "{threads}/*/schedstat says nothing");
    Ok(sum)
}

/// Processor time that a thread has used since it began, by its folder in `/proc/PID/task`.
///
/// # Errors
/// There is no such thread, or the kernel does not keep `schedstat`.
pub fn thread_time(thread: &Path) -> Result<Duration> {
    let path = thread.join("schedstat");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let nanos = text.split_ascii_whitespace().next().and_then(|first| first.parse().ok());
    Ok(Duration::from_nanos(nanos.with_context(|| format!("{}: {text:?}", path.display()))?))
}

/// Memory of an Envoy, bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Memory {
    /// What its own code has allocated: of VMs their shared data, and not what they
    /// have inside.
    pub allocated: u64,
    /// What the kernel holds for all of it.
    pub resident: u64,
}

impl Memory {
    /// Asks Envoy and the kernel.
    ///
    /// # Errors
    /// One of them does not answer.
    pub fn of(envoy_admin: SocketAddr, process: &Identity) -> Result<Self> {
        let said = http::send(envoy_admin, &Request::get("/memory"))?.json()?;
        // A 64-bit number is a text in protobuf's JSON.
        let allocated = said["allocated"].as_str().and_then(|bytes| bytes.parse().ok());
        let status = format!("/proc/{}/status", process.pid);
        let text = std::fs::read_to_string(&status).with_context(|| format!("cannot read {status}"))?;
        let resident = text.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
        let resident: Option<u64> = resident.and_then(|kib| kib.parse().ok());
        Ok(Self {
            allocated: allocated.with_context(|| format!("no allocated in {said}"))?,
            resident: 1024 * resident.with_context(|| format!("no VmRSS in {status}"))?,
        })
    }
}

/// An Envoy without admin service and backends.
#[derive(Debug)]
pub struct Alone {
    process: Process,
    ports: Ports,
    _reserved: ReservedPorts,
}

/// What an [`Alone`] runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Filter<'f> {
    /// No filter.
    None,
    /// The filter, and the recorder.
    Ours,
    /// Another module in the filter's place, without the recorder.
    Other(&'f Path),
    /// These HTTP filters of Envoy's own in the filter's place, as its configuration has them.
    Native(&'f [Value]),
}

/// How an [`Alone`] is started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Setup<'f> {
    /// What it runs.
    pub filter: Filter<'f>,
    /// Where requests go; without the filter nobody names a cluster.
    pub upstream: Upstream,
    /// The port of `demo`, if something listens there.
    pub demo: Option<u16>,
    /// Worker threads.
    pub workers: u32,
    /// Only on this processor.
    pub cpu: Option<u32>,
}

impl Alone {
    /// Starts it with files in `dir`, named after `name`, and waits until it says
    /// that it is ready.
    ///
    /// # Errors
    /// Envoy refuses the configuration or the filter: the message has its words.
    pub fn start(name: &str, programs: &Programs, dir: &Path, setup: &Setup<'_>) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let reserved = ReservedPorts::take()?;
        let mut ports = reserved.ports();
        ports.demo = setup.demo.unwrap_or(ports.demo);
        let source = std::fs::read_to_string(&programs.config)?;
        let access_log = dir.join(format!("{name}-access.log"));
        let roots = public_authorities();
        let edits = Edits {
            ports,
            wasm: if let Filter::Other(module) = setup.filter { module } else { &programs.wasm },
            access_log: &access_log,
            clusters: &[],
            roots: roots.as_deref(),
            trusts: &[],
            recorder: setup.filter == Filter::Ours,
            filter: matches!(setup.filter, Filter::Ours | Filter::Other(_)),
            upstream: setup.upstream,
            plugin: &Value::Null,
            faults: None,
            exact_balance: false,
        };
        let config = dir.join(format!("{name}.json"));
        let mut rendered = render(&source, &edits)?;
        if let Filter::Native(filters) = setup.filter {
            put_filters(&mut rendered, filters)?;
        }
        std::fs::write(&config, serde_json::to_vec(&rendered)?)?;
        let log = dir.join(format!("{name}.log"));
        let _ = std::fs::remove_file(&log);
        let mut command = command(&programs.envoy, &config, setup.workers, setup.cpu);
        command.env("TIDEGATE_GATEWAY_TOKEN", "none");
        let mut alone = Self { process: Process::start(name, command, &log)?, ports, _reserved: reserved };
        alone.wait_ready()?;
        Ok(alone)
    }

    fn wait_ready(&mut self) -> Result<()> {
        let admin = local(self.ports.envoy_admin);
        wait::until("Envoy is ready", START_LIMIT, || {
            self.process.check_running()?;
            let answer = http::send(admin, &Request::get("/ready"));
            Ok(answer.ok().filter(|answer| answer.status == 200).map(drop))
        })
        .with_context(|| self.process.tail(15))
    }

    /// What clients talk to.
    #[must_use]
    pub fn gate(&self) -> SocketAddr {
        local(self.ports.gate)
    }

    /// Its process.
    #[must_use]
    pub fn process(&self) -> &Identity {
        self.process.identity()
    }
}

/// How long Envoy takes from its start until it says that it is ready, with the
/// filter and the recorder or without both. No admin service is there.
///
/// # Errors
/// Envoy refuses the configuration or the filter: the message has its words.
pub fn time_to_ready(programs: &Programs, filter: bool, dir: &Path) -> Result<Duration> {
    let setup = Setup {
        filter: if filter { Filter::Ours } else { Filter::None },
        upstream: if filter { Upstream::Chosen } else { Upstream::Demo },
        demo: None,
        workers: 2,
        cpu: None,
    };
    let begin = Instant::now();
    let alone = Alone::start("startup", programs, dir, &setup)?;
    let took = begin.elapsed();
    // Its end is not its start.
    drop(alone);
    Ok(took)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_shows_as_processor_time() {
        let dir = std::env::temp_dir().join(format!("tidegate-cpu-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "while :; do :; done"]);
        let process = Process::start("busy", command, &dir.join("busy.log")).unwrap();
        let before = cpu_time(process.identity()).unwrap();
        wait::until("20 ms of processor time are used", Duration::from_secs(30), || {
            Ok((cpu_time(process.identity())? >= before + Duration::from_millis(20)).then_some(()))
        })
        .unwrap();
        let gone = process.identity().clone();
        process.kill();
        assert!(cpu_time(&gone).is_err(), "a process that is gone has none");
        std::fs::remove_dir_all(dir).unwrap();
    }
}
