//! `cargo xtask up` and `down`: the local stack.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tidegate_stack::programs::repository;
use tidegate_stack::{NamedBackend, Options, PortChoice, Ports, Stack, Started, Trust, process, wait};

use crate::build::{self, Parts, Profile};
use crate::report;

/// Options of `up`.
#[derive(clap::Args)]
pub struct UpArgs {
    /// Return once everything is ready, and leave it running until `down`.
    #[arg(long)]
    detach: bool,
    /// Forget the database, tokens and logs of the last time.
    #[arg(long)]
    fresh: bool,
    /// Envoy's worker threads.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=256))]
    workers: u32,
    /// A backend of yours that routes can name; may be given several times.
    /// `demo` takes the place of the demo backend.
    #[arg(long = "backend", value_name = "NAME=HOST:PORT", value_parser = parse_backend)]
    backends: Vec<NamedBackend>,
    /// A private authority (certificates, PEM) whose backends of the API say `trust: NAME`;
    /// may be given several times.
    #[arg(long = "trust", value_name = "NAME=FILE", value_parser = parse_trust)]
    trusts: Vec<Trust>,
    /// Without the singleton recorder, as under Istio: a worker does its work.
    #[arg(long)]
    no_recorder: bool,
}

fn parse_backend(text: &str) -> Result<NamedBackend, String> {
    let wanted = || format!("write NAME=HOST:PORT, like `orders=127.0.0.1:8080`; got {text:?}");
    let (name, address) = text.split_once('=').ok_or_else(wanted)?;
    let (host, port) = address.rsplit_once(':').ok_or_else(wanted)?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    if name.is_empty() || host.is_empty() || !name.chars().all(plain) {
        return Err(wanted());
    }
    if name.starts_with("tidegate-") {
        return Err(format!("{name}: names that begin with `tidegate-` are the stack's own"));
    }
    let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(wanted)?;
    Ok(NamedBackend { name: name.to_owned(), host: host.to_owned(), port })
}

fn parse_trust(text: &str) -> Result<Trust, String> {
    let wanted = || format!("write NAME=FILE, like `corp=corp-ca.pem`; got {text:?}");
    let (name, file) = text.split_once('=').ok_or_else(wanted)?;
    if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
        return Err(wanted());
    }
    // Envoy runs in the repository, wherever this command was given.
    let authorities = std::fs::canonicalize(file).map_err(|error| format!("{file}: {error}"))?;
    Ok(Trust { name: name.to_owned(), authorities })
}

/// `cargo xtask up`.
pub fn up(args: &UpArgs) -> Result<()> {
    wait::catch_signals()?;
    let dir = dir();
    let running = read_state(&dir)?;
    if !running.is_empty() && running.iter().all(Started::is_alive) {
        ensure!(
            !args.fresh,
            "it is up, and --fresh would take its database away: run `cargo xtask down` first"
        );
        report::say("already up; options are not applied (`cargo xtask down` ends it)");
        report::addresses(&dir);
        return Ok(());
    }
    end_all(&dir, &running)?;
    // Before the build, which takes minutes the first time.
    let own_demo = args.backends.iter().all(|backend| backend.name != "demo");
    Ports::DEFAULT.check_free(!own_demo)?;
    let parts = build::parts(Profile::Dev)?;
    ensure!(!wait::is_interrupted(), "interrupted");
    if args.fresh && dir.exists() {
        std::fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    remove_logs(&dir)?;
    let new = !dir.join("tidegate.db").exists();
    report::say(format_args!("starting: admin service, Envoy with {} workers, backends", args.workers));
    let stack = Stack::start(options(args, parts, &dir))?;
    write_state(&dir, &stack.started())?;
    if new {
        // So that the first request has an answer.
        stack.put_route("demo", "/", "demo").context("cannot make the first route")?;
    }
    report::addresses(&dir);
    if let Some(age) = process::age() {
        report::say(format_args!("up {:.0} s after the command", age.as_secs_f64()));
    }
    if args.detach {
        let _ = stack.detach();
        report::say("running until `cargo xtask down`");
        return Ok(());
    }
    report::say("Ctrl-C ends it");
    let ended = watch(stack);
    write_state(&dir, &[])?;
    ended
}

/// `cargo xtask down`.
pub fn down() -> Result<()> {
    let dir = dir();
    let known = read_state(&dir)?;
    let running: Vec<_> = known.iter().filter(|process| process.is_alive()).collect();
    if running.is_empty() {
        report::say("nothing to end: what `cargo xtask up --detach` starts is not running");
    }
    for process in running {
        report::say(format_args!("ending {} (pid {})", process.name, process.pid));
    }
    end_all(&dir, &known)
}

fn options(args: &UpArgs, parts: Parts, dir: &Path) -> Options {
    Options {
        workers: args.workers,
        backends: args.backends.clone(),
        trusts: args.trusts.clone(),
        recorder: !args.no_recorder,
        ..Options::new(dir.to_owned(), PortChoice::Default, parts.programs)
    }
}

/// Until Ctrl-C or SIGTERM, or until a part ends by itself.
fn watch(mut stack: Stack) -> Result<()> {
    while !wait::is_interrupted() {
        stack.check_running()?;
        std::thread::sleep(Duration::from_millis(100));
    }
    report::say("\nending");
    drop(stack);
    Ok(())
}

fn dir() -> PathBuf {
    repository().join("target/up")
}

fn state_file(dir: &Path) -> PathBuf {
    dir.join("processes.json")
}

/// Device and inode of the folder, which a copy of it does not have.
fn identity(dir: &Path) -> Result<(u64, u64)> {
    let metadata = std::fs::metadata(dir)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// The processes of the last `up` in this folder, running or not. What a copied checkout says is
/// of the original.
fn read_state(dir: &Path) -> Result<Vec<Started>> {
    let path = state_file(dir);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => bail!("cannot read {}: {error}", path.display()),
    };
    let (folder, processes): ((u64, u64), Vec<Started>) = serde_json::from_slice(&bytes)
        .with_context(|| format!("{} cannot be read; if nothing runs, remove it", path.display()))?;
    Ok(if folder == identity(dir)? { processes } else { Vec::new() })
}

fn write_state(dir: &Path, processes: &[Started]) -> Result<()> {
    let state = serde_json::to_vec_pretty(&(identity(dir)?, processes))?;
    Ok(std::fs::write(state_file(dir), state)?)
}

/// Ends those that are still ours; a pid that another process has by now is left.
fn end_all(dir: &Path, processes: &[Started]) -> Result<()> {
    if processes.is_empty() {
        return Ok(());
    }
    processes.iter().try_for_each(Started::end)?;
    write_state(dir, &[])
}

fn remove_logs(dir: &Path) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Ok(()) };
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_is_a_name_and_an_address() {
        let parsed =
            |name: &str, host: &str, port| Ok(NamedBackend { name: name.into(), host: host.into(), port });
        assert_eq!(parse_backend("orders=127.0.0.1:8080"), parsed("orders", "127.0.0.1", 8080));
        assert_eq!(parse_backend("v6=[::1]:80"), parsed("v6", "::1", 80));
        for wrong in [
            "",
            "orders",
            "orders=",
            "=h:1",
            "a=h",
            "a=h:0",
            "a=h:x",
            "a=:1",
            "a b=h:1",
            "tidegate-admin=h:1",
        ] {
            assert!(parse_backend(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_copy_has_nothing_of_what_the_original_started() {
        let dir = repository().join("target/tests/up-state");
        let copy = dir.join("copy");
        std::fs::create_dir_all(&copy).unwrap();
        let started = Started { name: "envoy".into(), pid: 1, started: 1 };
        write_state(&dir, std::slice::from_ref(&started)).unwrap();
        std::fs::copy(state_file(&dir), state_file(&copy)).unwrap();
        assert_eq!(read_state(&dir).unwrap(), [started]);
        assert_eq!(read_state(&copy).unwrap(), []);
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_trust_is_a_name_and_a_file_that_is_there() {
        let parsed = parse_trust("corp=Cargo.toml").unwrap();
        assert_eq!(parsed.name, "corp");
        assert!(parsed.authorities.is_absolute());
        for wrong in ["", "corp", "corp=", "corp=/no/such/file", "a b=/etc/hosts", "=/etc/hosts"] {
            assert!(parse_trust(wrong).is_err(), "{wrong}");
        }
    }
}
