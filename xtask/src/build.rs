//! The parts of a stack: filter, admin service, demo backend.

use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result, anyhow};
use tidegate_stack::Programs;
use tidegate_stack::programs::repository;

use crate::command::{cargo, execute, target_dir};
use crate::{filter, install, remap};

/// How the programs are compiled. The filter is always compiled as it ships.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// As the tests are: what they share with xtask and each other is compiled once.
    Dev,
    /// As they ship.
    Release,
}

/// Everything that a stack runs, built and installed.
pub struct Parts {
    /// For the stack.
    pub programs: Programs,
    /// Bytes of the filter as the compiler made it, before what nobody calls was
    /// dropped.
    pub compiled: usize,
}

impl Parts {
    /// What `tidegate_stack::Programs::find` looks at.
    pub fn variables(&self) -> [(&'static str, &Path); 4] {
        let Programs { envoy, admin, demo, wasm, .. } = &self.programs;
        [
            ("ENVOY", envoy),
            ("TIDEGATE_ADMIN_BIN", admin),
            ("TIDEGATE_DEMO_BIN", demo),
            ("TIDEGATE_WASM", wasm),
        ]
    }
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
pub fn parts(profile: Profile) -> Result<Parts> {
    install::wasm_target()?;
    // Cargo keeps the two in folders of their own. The last stage of the filter is one thread.
    let filter = thread::spawn(filter::build);
    programs(profile)?;
    let filter = filter.join().map_err(|_| anyhow!("the filter's build panicked"))??;
    built(profile, filter)
}

fn programs(profile: Profile) -> Result<()> {
    let bins = ["--bin", "tidegate", "--bin", "tidegate-demo-backend"];
    let mut build = cargo(&["build"]);
    match profile {
        // Of the whole workspace, so that dependencies have the features that tests give them.
        Profile::Dev => build.arg("--workspace"),
        Profile::Release => build
            .args(["--release", "-p", "tidegate-admin", "-p", "tidegate-backend"])
            .env("CARGO_ENCODED_RUSTFLAGS", remap::flags(&remap::host()?)?),
    };
    execute(build.args(bins))
}

/// The parts, where the programs have been built.
pub fn built(profile: Profile, filter: filter::Dist) -> Result<Parts> {
    let dir = target_dir()?.join(if profile == Profile::Dev { "debug" } else { "release" });
    Ok(Parts {
        programs: Programs {
            envoy: install::envoy()?,
            admin: dir.join("tidegate"),
            demo: dir.join("tidegate-demo-backend"),
            wasm: filter.path,
            config: repository().join("envoy/envoy.yaml"),
        },
        compiled: filter.before,
    })
}

/// `cargo xtask filter`: the filter alone. No Envoy is needed.
pub fn filter(out: &Path) -> Result<()> {
    install::wasm_target()?;
    let built = filter::build()?.path;
    std::fs::copy(&built, out).with_context(|| format!("cannot write {}", out.display()))?;
    Ok(())
}
