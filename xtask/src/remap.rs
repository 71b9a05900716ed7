//! What is built names no folder of the machine that built it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tidegate_stack::programs::repository;

use crate::command::metadata;

/// The compiler's flags for that, in the encoding of `CARGO_ENCODED_RUSTFLAGS`. A panic
/// names the source file that it happened in: without folders the program is the same
/// bytes wherever it is built, and tells nobody who built it where.
///
/// They stand in the environment, where they win over flags that somebody has set for
/// other builds. Where a build has a `--target`, what runs on this machine (build
/// scripts, procedural macros) is not compiled anew for them.
pub fn flags(target: &str) -> Result<String> {
    let metadata = metadata(&["--filter-platform", target])?;
    let packages = metadata["packages"].as_array().context("cargo metadata has no packages")?;
    // Where cargo unpacks the registry's packages: its home, or where they are vendored.
    let mut folders: BTreeMap<PathBuf, String> = packages
        .iter()
        .filter(|package| !package["source"].is_null())
        .filter_map(|package| package["manifest_path"].as_str())
        .filter_map(|manifest| Path::new(manifest).ancestors().nth(2))
        .map(|folder| (folder.to_owned(), String::new()))
        .collect();
    folders.insert(repository(), String::new());
    // The standard library's sources, if they are installed. If they are not, the
    // compiler calls them by this name itself.
    let version = version()?;
    let commit = said(&version, "commit-hash").unwrap_or("unknown");
    let sysroot = PathBuf::from(ask(&["--print", "sysroot"])?.trim());
    folders.insert(sysroot.join("lib/rustlib/src/rust"), format!("/rustc/{commit}"));
    let flags =
        folders.iter().map(|(folder, name)| format!("--remap-path-prefix={}={name}", folder.display()));
    Ok(flags.collect::<Vec<_>>().join("\x1f"))
}

/// The target of programs for this machine.
pub fn host() -> Result<String> {
    Ok(said(&version()?, "host").context("rustc does not say its host")?.to_owned())
}

/// What the compiler says of itself.
fn version() -> Result<String> {
    ask(&["--version", "--verbose"])
}

fn said<'v>(version: &'v str, name: &str) -> Option<&'v str> {
    version.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

fn ask(arguments: &[&str]) -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).args(arguments).current_dir(repository()).output()?;
    ensure!(output.status.success(), "rustc: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}
