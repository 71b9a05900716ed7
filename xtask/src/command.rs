//! Running other programs in sight of the user.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tidegate_stack::programs::repository;

/// `cargo` with these arguments, at the root of the repository.
pub fn cargo(arguments: &[&str]) -> Command {
    as_cargo(Command::new(program()), arguments)
}

/// The same for work that nobody waits for: it leaves the processors to others.
pub fn idle_cargo(arguments: &[&str]) -> Command {
    let mut nice = Command::new("nice");
    nice.args(["-n", "19"]).arg(program());
    as_cargo(nice, arguments)
}

fn program() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

fn as_cargo(mut command: Command, arguments: &[&str]) -> Command {
    command.args(arguments).current_dir(repository());
    // The variables that cargo set for this program are not for the next one: a
    // build script that looks at them would run again each time.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name == "CARGO_MANIFEST_DIR") {
            command.env_remove(name);
        }
    }
    command
}

/// Runs it with its output shown; anything but success is an error.
pub fn execute(command: &mut Command) -> Result<()> {
    let line = line(command);
    let status = command.status().with_context(|| format!("cannot run {line}"))?;
    ensure!(status.success(), "{line}: {status}");
    Ok(())
}

/// Its command line, for people.
pub fn line(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program());
    let program = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned();
    std::iter::once(program)
        .chain(command.get_args().map(|argument| argument.to_string_lossy().into_owned()))
        .collect::<Vec<_>>()
        .join(" ")
}

/// Where cargo puts what it builds.
pub fn target_dir() -> Result<PathBuf> {
    let metadata = metadata(&["--no-deps"])?;
    Ok(metadata["target_directory"].as_str().context("cargo metadata has no target_directory")?.into())
}

/// What `cargo metadata` says.
pub fn metadata(arguments: &[&str]) -> Result<serde_json::Value> {
    let output = cargo(&["metadata", "--format-version", "1"]).args(arguments).output()?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}
