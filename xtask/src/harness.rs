//! Runs tests with libtest's harness: their output is shown, and read on the way.

use std::io::{BufRead, BufReader};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, Result, ensure};

use crate::command::line;

/// Tests as the harness counts them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    pub passed: u64,
    pub failed: u64,
    pub ignored: u64,
    /// Failed first, and passed by themselves.
    pub again: u64,
}

impl Counts {
    fn and(self, other: Self) -> Self {
        Self {
            passed: self.passed + other.passed,
            failed: self.failed + other.failed,
            ignored: self.ignored + other.ignored,
            again: self.again + other.again,
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
        let (passed, failed, ignored) = (figure("passed"), figure("failed"), figure("ignored"));
        Some(Self { passed, failed, ignored, again: 0 })
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if *self == Self::default() {
            return f.write_str("ok");
        }
        write!(f, "{} passed, {} failed, {} ignored", self.passed, self.failed, self.ignored)?;
        if self.again > 0 {
            write!(f, ", {} passed when run again", self.again)?;
        }
        Ok(())
    }
}

/// The messages of the panics in what a harness prints: whoever sees the end of a log only
/// must see why a test failed, and backtraces are long.
#[derive(Default)]
struct Panics {
    messages: Vec<String>,
    /// Lines of the last message that may still come.
    open: usize,
}

impl Panics {
    /// Lines of a message that are kept.
    const KEPT: usize = 12;

    fn take(&mut self, line: &str) {
        if line.starts_with("thread '") && line.contains(" panicked at ") {
            self.messages.push(line.to_owned());
            self.open = Self::KEPT;
        } else if line.starts_with("stack backtrace:") || line.starts_with("Stack backtrace:") {
            self.open = 0;
        } else if let Some(message) = self.messages.last_mut()
            && self.open > 0
        {
            self.open -= 1;
            message.push('\n');
            message.push_str(line);
        }
    }
}

/// The names in the list of failures at the end of what a harness prints.
#[derive(Default)]
struct Failures {
    names: Vec<String>,
    is_open: bool,
}

impl Failures {
    fn take(&mut self, line: &str) {
        if line == "failures:" {
            // Twice per harness: before the outputs, and before the names.
            self.names.clear();
            self.is_open = true;
        } else if line.starts_with("test result:") {
            self.is_open = false;
        } else if self.is_open
            && let Some(name) = line.strip_prefix("    ")
        {
            self.names.push(name.to_owned());
        }
    }
}

/// A run of one or several test programs, and what it printed.
pub struct Harness {
    line: String,
    status: ExitStatus,
    counts: Counts,
    panics: Panics,
    failures: Failures,
}

impl Harness {
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// The names of the tests that failed.
    pub fn failed(&self) -> &[String] {
        &self.failures.names
    }

    /// The messages of the panics.
    pub fn messages(&self) -> String {
        self.panics.messages.join("\n\n")
    }

    /// The counts, if all passed and there were any.
    pub fn whole(&self) -> Result<Counts> {
        ensure!(self.status.success(), "{}: {}\n\n{}", self.line, self.status, self.messages());
        ensure!(self.counts.passed > 0, "{}: no test ran", self.line);
        Ok(self.counts)
    }
}

/// Runs tests with their output shown, and counts them; `compiled` is called when the first
/// of them run.
pub fn tests(command: Command, compiled: impl FnOnce()) -> Result<Counts> {
    run_harness(command, compiled)?.whole()
}

/// As [`tests`], whatever came of them.
pub fn run_harness(mut command: Command, compiled: impl FnOnce()) -> Result<Harness> {
    let line = line(&command);
    let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| format!("cannot run {line}"))?;
    let output = child.stdout.take().context("no pipe")?;
    let (mut counts, mut panics, mut failures) = (Counts::default(), Panics::default(), Failures::default());
    let mut compiled = Some(compiled);
    for said in BufReader::new(output).lines() {
        let said = said?;
        if said.starts_with("running ")
            && let Some(compiled) = compiled.take()
        {
            compiled();
        }
        println!("{said}");
        counts = counts.and(Counts::of(&said).unwrap_or_default());
        panics.take(&said);
        failures.take(&said);
    }
    Ok(Harness { line, status: child.wait()?, counts, panics, failures })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_harness_last_line_is_counted() {
        let line =
            "test result: ok. 13 passed; 0 failed; 2 ignored; 0 measured; 4 filtered out; finished in 0.22s";
        assert_eq!(Counts::of(line), Some(Counts { passed: 13, failed: 0, ignored: 2, again: 0 }));
        let line = "test result: FAILED. 1 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s";
        assert_eq!(Counts::of(line), Some(Counts { passed: 1, failed: 3, ignored: 0, again: 0 }));
        assert_eq!(Counts::of("test a_name ... ok"), None);
    }

    #[test]
    fn a_panic_is_kept_without_its_backtrace() {
        let mut panics = Panics::default();
        let log = "thread 'a' (7) panicked at src/a.rs:1:2:\nno answer\n\nCaused by:\n    0: reset\n\n\
                   Stack backtrace:\n   0: main\ntest b ... ok";
        log.lines().for_each(|line| panics.take(line));
        assert_eq!(panics.messages.len(), 1);
        assert!(panics.messages[0].ends_with("    0: reset\n"), "{:?}", panics.messages);
    }

    #[test]
    fn failures_are_the_names_at_the_end() {
        let mut failures = Failures::default();
        let log = "test a::b ... FAILED\n\nfailures:\n\n---- a::b stdout ----\n    0: reset\n\n\
                   failures:\n    a::b\n    c\n\ntest result: FAILED. 1 passed; 2 failed\n    later";
        log.lines().for_each(|line| failures.take(line));
        assert_eq!(failures.names, ["a::b", "c"]);
    }
}
