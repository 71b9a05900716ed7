//! The release parts: filter, admin service, demo backend.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tidegate_stack::Programs;
use tidegate_stack::programs::repository;

use crate::command::{cargo, execute, target_dir};
use crate::dist::{self, paths};
use crate::install;

/// Everything that a stack runs, built and installed.
pub struct Parts {
    /// For the stack.
    pub programs: Programs,
    /// Bytes of the filter as the compiler made it, before what nobody calls was
    /// dropped.
    pub compiled: usize,
    /// The demo backend as a program.
    pub demo: PathBuf,
    /// The load generator.
    pub load: PathBuf,
}

/// Filters that are not ours, in the folder that comes back: what tests set beside the gate.
pub fn other_filters() -> Result<PathBuf> {
    install::wasm_target()?;
    let target = install::WASM_TARGET;
    let filters = ["-p", "tidegate-chatty-filter", "-p", "tidegate-noop-filter"];
    execute(cargo(&["build", "--lib", "--target", target, "--profile", "filter"]).args(filters))?;
    Ok(target_dir()?.join(target).join("filter"))
}

/// Installs what is missing and builds what has changed.
pub fn parts() -> Result<Parts> {
    install::wasm_target()?;
    let envoy = install::envoy()?;
    let filter = dist::build()?;
    let mut programs =
        cargo(&["build", "--release", "--bins", "-p", "tidegate-admin", "-p", "tidegate-stack"]);
    execute(programs.env("CARGO_ENCODED_RUSTFLAGS", paths::flags(&paths::host()?)?))?;
    let release = target_dir()?.join("release");
    let config = repository().join("envoy/envoy.yaml");
    Ok(Parts {
        programs: Programs { envoy, admin: release.join("tidegate"), wasm: filter.path, config },
        compiled: filter.before,
        demo: release.join("tidegate-demo-backend"),
        load: release.join("tidegate-load"),
    })
}

/// `cargo xtask filter`: the filter alone. No Envoy is needed.
pub fn filter(out: &Path) -> Result<()> {
    install::wasm_target()?;
    let built = dist::build()?.path;
    std::fs::copy(&built, out).with_context(|| format!("cannot write {}", out.display()))?;
    Ok(())
}
