//! `cargo xtask test`: everything that must hold before a change lands.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::build::{self, Parts};
use crate::command::{cargo, execute, line};
use crate::{dist, install};

/// Results of one heading.
struct Line {
    heading: &'static str,
    outcome: String,
    seconds: f64,
}

/// Runs every step, stops at the first that fails, and says what ran.
pub fn run() -> Result<()> {
    let mut done = Vec::new();
    let ended = steps(&mut done);
    println!("\n=== what ran");
    for step in &done {
        println!("  {:<40} {:<34} {:>6.1} s", step.heading, step.outcome, step.seconds);
    }
    if ended.is_ok() {
        println!("all passed");
    }
    ended
}

fn steps(done: &mut Vec<Line>) -> Result<()> {
    install::wasm_target()?;
    step(done, "formatting", || quiet(&["fmt", "--all", "--check"]))?;
    step(done, "lints", || quiet(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    step(done, "lints of the filter as wasm", || {
        let target = install::WASM_TARGET;
        quiet(&["clippy", "-p", "tidegate", "--lib", "--target", target, "--", "-D", "warnings"])
    })?;
    // The root package's own scenarios have their own headings below.
    step(done, "unit and property tests", || {
        let crates = tests(&mut cargo(&[
            "test",
            "--workspace",
            "--exclude",
            "tidegate",
            "--lib",
            "--bins",
            "--tests",
        ]))?;
        let filter = tests(&mut cargo(&["test", "-p", "tidegate", "--lib", "--test", "manifests"]))?;
        Ok(crates.and(filter))
    })?;
    step(done, "scenarios on the emulated host", || {
        tests(&mut cargo(&["test", "-p", "tidegate", "--test", "sim"]))
    })?;
    step(done, "release parts, size and start-up", || {
        dist::run()?;
        Ok(Counts::default())
    })?;
    let parts = build::parts()?;
    let others = build::other_filters()?;
    if let Err(error) = install::prometheus() {
        println!("no Prometheus, so what needs it is skipped: {error:#}");
    }
    step(done, "scenarios on a real Envoy", || {
        // One at a time: each has an Envoy of its own, and some look at the clock.
        let arguments =
            ["test", "-p", "tidegate", "--test", "envoy", "--", "--test-threads=1", "--nocapture"];
        tests(with_parts(&mut cargo(&arguments), &parts).env("TIDEGATE_OTHER_FILTERS", &others))
    })?;
    step(done, "docker-compose.yml on a Docker engine", || {
        let arguments = ["test", "-p", "tidegate", "--test", "compose", "--", "--nocapture"];
        tests(with_parts(&mut cargo(&arguments), &parts))
    })
}

fn with_parts<'c>(command: &'c mut Command, parts: &Parts) -> &'c mut Command {
    command
        .env("ENVOY", &parts.programs.envoy)
        .env("TIDEGATE_ADMIN_BIN", &parts.programs.admin)
        .env("TIDEGATE_WASM", &parts.programs.wasm)
}

fn step(done: &mut Vec<Line>, heading: &'static str, work: impl FnOnce() -> Result<Counts>) -> Result<()> {
    println!("\n=== {heading}");
    let begin = Instant::now();
    let result = work();
    let outcome = result.as_ref().map_or_else(|_| "FAILED".to_owned(), Counts::to_string);
    done.push(Line { heading, outcome, seconds: begin.elapsed().as_secs_f64() });
    result.map(drop).with_context(|| format!("failed: {heading}"))
}

fn quiet(arguments: &[&str]) -> Result<Counts> {
    execute(&mut cargo(arguments))?;
    Ok(Counts::default())
}

/// Tests as the harness counts them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Counts {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Counts {
    fn and(self, other: Self) -> Self {
        Self {
            passed: self.passed + other.passed,
            failed: self.failed + other.failed,
            ignored: self.ignored + other.ignored,
        }
    }

    /// From the harness's last line: `test result: ok. 3 passed; 0 failed; 1 ignored; ...`.
    fn of(line: &str) -> Option<Self> {
        let figures = line.strip_prefix("test result: ")?.split_once(". ")?.1;
        let figure = |word: &str| {
            figures
                .split("; ")
                .find_map(|part| part.trim().strip_suffix(word)?.trim().parse().ok())
                .unwrap_or(0)
        };
        Some(Self { passed: figure("passed"), failed: figure("failed"), ignored: figure("ignored") })
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if *self == Self::default() {
            return f.write_str("ok");
        }
        write!(f, "{} passed, {} failed, {} ignored", self.passed, self.failed, self.ignored)
    }
}

/// Runs tests with their output shown, and counts them on the way.
fn tests(command: &mut Command) -> Result<Counts> {
    let line = line(command);
    let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| format!("cannot run {line}"))?;
    let output = child.stdout.take().context("no pipe")?;
    let mut counts = Counts::default();
    for said in BufReader::new(output).lines() {
        let said = said?;
        println!("{said}");
        counts = counts.and(Counts::of(&said).unwrap_or_default());
    }
    let status = child.wait()?;
    ensure!(status.success(), "{line}: {status}");
    ensure!(counts.passed > 0, "{line}: no test ran");
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_harness_last_line_is_counted() {
        let line =
            "test result: ok. 13 passed; 0 failed; 2 ignored; 0 measured; 4 filtered out; finished in 0.22s";
        assert_eq!(Counts::of(line), Some(Counts { passed: 13, failed: 0, ignored: 2 }));
        let line = "test result: FAILED. 1 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s";
        assert_eq!(Counts::of(line), Some(Counts { passed: 1, failed: 3, ignored: 0 }));
        assert_eq!(Counts::of("test a_name ... ok"), None);
    }
}
