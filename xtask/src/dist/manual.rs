//! Manual pages and completions, as the admin service's program writes them.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tidegate_stack::programs::repository;

/// The shells, and the names under which they look for completions.
const SHELLS: [(&str, &str); 3] = [("bash", "tidegate"), ("zsh", "_tidegate"), ("fish", "tidegate.fish")];

/// The files by their path in the release.
pub fn of(program: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let mut files = Vec::new();
    for (shell, name) in SHELLS {
        let script = output(Command::new(program).args(["completions", shell]))?;
        files.push((format!("completions/{shell}/{name}"), script));
    }
    let dir = repository().join("target/dist/man");
    if dir.exists() {
        std::fs::remove_dir_all(&dir)?;
    }
    output(Command::new(program).arg("man").arg(&dir))?;
    for page in std::fs::read_dir(&dir)? {
        let page = page?;
        let name = page.file_name().into_string().ok().context("a page with a strange name")?;
        files.push((format!("man/{name}"), std::fs::read(page.path())?));
    }
    Ok(files)
}

fn output(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout)
}
