//! The tokens of a stack: made once per database, kept in files beside it.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::options::Options;

/// What the token is called that Envoy is started with.
pub const FIRST_GATEWAY_TOKEN: &str = "stack-gateway";

/// The database of a stack with its files in `dir`.
pub fn database(dir: &Path) -> PathBuf {
    dir.join("tidegate.db")
}

/// The operator's and the gateway's token, made once per database.
pub fn tokens(options: &Options) -> Result<[String; 2]> {
    // Tokens of a database that was removed are nobody's.
    let known = database(&options.dir).exists();
    let token = |file: &str, scope: &str| {
        let path = options.dir.join(file);
        match std::fs::read_to_string(&path) {
            Ok(token) if known => return Ok(token.trim().to_owned()),
            Ok(_) => std::fs::remove_file(&path)?,
            Err(_) => {}
        }
        let name = format!("stack-{scope}");
        if known {
            // Its file is gone. There may be none of the name, too.
            let _ = revoke_token(options, &name);
        }
        let token = create_token(options, &name, scope)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        writeln!(file, "{token}")?;
        anyhow::Ok(token)
    };
    Ok([token("token", "admin")?, token("gateway-token", "gateway")?])
}

/// A new token of this name and role. Earlier services, too, know the option by this name.
pub fn create_token(options: &Options, name: &str, scope: &str) -> Result<String> {
    let said = token(options, "create", &["--name", name, "--scope", scope])?;
    let token = said.lines().map(str::trim).rfind(|line| !line.is_empty());
    Ok(token.context("tidegate token create printed nothing")?.to_owned())
}

/// Revokes all tokens of this name.
pub fn revoke_token(options: &Options, name: &str) -> Result<()> {
    token(options, "revoke", &["--name", name]).map(drop)
}

/// `tidegate token`, beside a service that may be running.
fn token(options: &Options, what: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(&options.programs.admin)
        .args(["token", what, "--db"])
        .arg(database(&options.dir))
        .args(arguments)
        .output()
        .with_context(|| format!("cannot run {}", options.programs.admin.display()))?;
    let said = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!("tidegate token {what}: {}{}", said, String::from_utf8_lossy(&output.stderr));
    }
    Ok(said.into_owned())
}
