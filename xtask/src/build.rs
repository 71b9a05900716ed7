//! The release parts: filter, admin service, demo backend.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use tidegate_stack::Programs;
use tidegate_stack::programs::repository;

use crate::command::{cargo, execute};
use crate::{dist, install};

/// Everything that a stack runs, built and installed.
pub struct Parts {
    /// For the stack.
    pub programs: Programs,
    /// The demo backend as a program.
    pub demo: PathBuf,
}

/// Installs what is missing and builds what has changed.
pub fn parts() -> Result<Parts> {
    install::wasm_target()?;
    let envoy = install::envoy()?;
    let wasm = dist::build()?.path;
    execute(&mut cargo(&["build", "--release", "--bins", "-p", "tidegate-admin", "-p", "tidegate-stack"]))?;
    let release = target_dir()?.join("release");
    let config = repository().join("envoy/envoy.yaml");
    Ok(Parts {
        programs: Programs { envoy, admin: release.join("tidegate"), wasm, config },
        demo: release.join("tidegate-demo-backend"),
    })
}

/// Where cargo puts what it builds.
pub fn target_dir() -> Result<PathBuf> {
    let output = cargo(&["metadata", "--no-deps", "--format-version", "1"]).output()?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    Ok(metadata["target_directory"].as_str().context("cargo metadata has no target_directory")?.into())
}
