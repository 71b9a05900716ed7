//! `cargo xtask bench`: builds what is measured and what measures, as it ships.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result};

use crate::build::{self, Profile};
use crate::command::{cargo, execute, target_dir};

/// Becomes `tidegate-bench` with these arguments.
pub fn run(arguments: &[OsString]) -> Result<()> {
    execute(&mut cargo(&["build", "--release", "-p", "tidegate-bench"]))?;
    let mut bench = Command::new(target_dir()?.join("release/tidegate-bench"));
    bench.args(arguments);
    let asks = |argument: &OsString| ["-h", "--help", "help"].iter().any(|help| argument == help);
    if !arguments.is_empty() && !arguments.iter().any(asks) {
        let parts = build::parts(Profile::Release)?;
        bench.envs(parts.variables()).env("TIDEGATE_OTHER_FILTERS", build::other_filters()?);
    }
    Err(bench.exec()).context("cannot run tidegate-bench")
}
