//! Envoy alone, with and without the filter: does it load, and what does that cost?

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::http::{self, Request};
use crate::ports::{Ports, local};
use crate::process::Process;
use crate::programs::Programs;
use crate::render::{Edits, render};
use crate::wait;

/// How long Envoy takes from its start until it says that it is ready, with the
/// filter and the recorder or without both. No admin service is there.
///
/// # Errors
/// Envoy refuses the configuration or the filter: the message has its words.
pub fn time_to_ready(programs: &Programs, filter: bool, dir: &Path) -> Result<Duration> {
    std::fs::create_dir_all(dir)?;
    let ports = Ports::free()?;
    let source = std::fs::read_to_string(&programs.config)?;
    let access_log = dir.join("startup-access.log");
    let edits = Edits {
        ports,
        wasm: &programs.wasm,
        access_log: &access_log,
        clusters: &[],
        recorder: true,
        filter,
        exact_balance: false,
    };
    let config = dir.join("startup.json");
    std::fs::write(&config, serde_json::to_vec(&render(&source, &edits)?)?)?;
    let mut command = Command::new(&programs.envoy);
    command.arg("-c").arg(&config).args(["--concurrency", "2", "--disable-hot-restart"]);
    command.env("TIDEGATE_GATEWAY_TOKEN", "none");
    let log = dir.join("startup.log");
    let _ = std::fs::remove_file(&log);
    let begin = Instant::now();
    let mut process = Process::start("envoy", command, &log)?;
    wait::until("Envoy is ready", Duration::from_secs(60), || {
        process.check_running()?;
        let answer = http::send(local(ports.envoy_admin), &Request::get("/ready"));
        Ok(answer.ok().filter(|answer| answer.status == 200).map(|_| begin.elapsed()))
    })
    .with_context(|| process.tail(15))
}
