//! What must have been built or installed before a stack can start.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// The version of Envoy that everything is tested with.
pub const ENVOY_VERSION: &str = "1.40.0";

/// The files that a stack runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Programs {
    /// Envoy's binary.
    pub envoy: PathBuf,
    /// The admin service's binary, `tidegate`.
    pub admin: PathBuf,
    /// The filter.
    pub wasm: PathBuf,
    /// The demo backend's binary, `tidegate-demo-backend`.
    pub demo: PathBuf,
    /// Envoy's configuration as it is in the repository.
    pub config: PathBuf,
}

impl Programs {
    /// From `ENVOY`, `TIDEGATE_ADMIN_BIN`, `TIDEGATE_DEMO_BIN` and `TIDEGATE_WASM`, which
    /// `cargo xtask test` sets; else where it builds them.
    ///
    /// # Errors
    /// One is missing: the message says which, and the command that makes it.
    pub fn find() -> Result<Self> {
        let root = repository();
        let programs = Self {
            envoy: from_env("ENVOY").unwrap_or_else(installed_envoy),
            admin: from_env("TIDEGATE_ADMIN_BIN").unwrap_or_else(|| root.join("target/debug/tidegate")),
            wasm: from_env("TIDEGATE_WASM").unwrap_or_else(|| root.join("target/dist/tidegate.wasm")),
            demo: from_env("TIDEGATE_DEMO_BIN")
                .unwrap_or_else(|| root.join("target/debug/tidegate-demo-backend")),
            config: root.join("envoy/envoy.yaml"),
        };
        programs.check()?;
        Ok(programs)
    }

    fn check(&self) -> Result<()> {
        for (what, path, command) in [
            ("Envoy", &self.envoy, "`cargo xtask parts`, or set ENVOY to its path"),
            ("the admin service", &self.admin, "`cargo xtask parts`"),
            ("the demo backend", &self.demo, "`cargo xtask parts`"),
            ("the filter", &self.wasm, "`cargo xtask parts`"),
            ("Envoy's configuration", &self.config, "git checkout envoy/envoy.yaml"),
        ] {
            if !path.is_file() {
                bail!("{what} is missing: no file {}; run {command}", path.display());
            }
        }
        Ok(())
    }
}

/// The file with the certificates of the public authorities, wherever this machine's
/// distribution has it: Envoy does not look for it by itself.
#[must_use]
pub fn public_authorities() -> Option<PathBuf> {
    // Debian and its kin, Red Hat and its, Alpine and the BSDs.
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"]
        .map(PathBuf::from)
        .into_iter()
        .find(|path| path.is_file())
}

/// Where `xtask` puts the Envoy that it installs.
#[must_use]
pub fn installed_envoy() -> PathBuf {
    repository().join(format!("target/tools/envoy-{ENVOY_VERSION}"))
}

/// A program that the PATH has.
#[must_use]
pub fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|candidate| candidate.is_file())
}

/// The root of the checkout that this program belongs to. It is found when the program runs: a
/// checkout may be copied with all that was built in it, and cargo takes that for the copy's own.
/// Cargo says whose package it runs; what was started without it is in the checkout's `target/`,
/// or runs in the checkout.
#[must_use]
pub fn repository() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let places = [package, std::env::current_exe().ok(), std::env::current_dir().ok()];
    let is_checkout = |dir: &&Path| dir.join("envoy/envoy.yaml").is_file() && dir.join("crates").is_dir();
    let found = places.iter().flatten().find_map(|place| place.ancestors().find(is_checkout));
    found.unwrap_or(Path::new(".")).to_owned()
}

pub(crate) fn from_env(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use super::*;

    /// The copy's root, for this test in a process that belongs to it.
    const WANTED: &str = "TIDEGATE_TEST_CHECKOUT";

    #[test]
    fn a_program_belongs_to_the_checkout_that_it_was_copied_to() {
        if let Some(wanted) = std::env::var_os(WANTED) {
            assert_eq!(repository(), PathBuf::from(wanted));
            return;
        }
        let here = std::env::current_exe().unwrap();
        let root = repository().join("target/tests/copied-checkout");
        let copied = root.join("target/debug/program");
        for dir in ["envoy", "crates/stack", "target/debug"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        fs::write(root.join("envoy/envoy.yaml"), "").unwrap();
        fs::copy(&here, &copied).unwrap();
        for (program, package) in [(&here, Some("crates/stack")), (&copied, None)] {
            let mut command = Command::new(program);
            command.args([
                "--exact",
                "programs::tests::a_program_belongs_to_the_checkout_that_it_was_copied_to",
            ]);
            command.env(WANTED, &root).env_remove("CARGO_MANIFEST_DIR").current_dir("/");
            command.envs(package.map(|package| ("CARGO_MANIFEST_DIR", root.join(package))));
            let output = command.output().unwrap();
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success() && said.contains("1 passed"), "{said}");
        }
        fs::remove_dir_all(&root).unwrap();
    }

    /// What the compiler is told of paths is the original's in a copy.
    #[test]
    fn no_path_is_built_in() {
        let mut folders: Vec<PathBuf> =
            ["src", "crates", "tests", "xtask"].iter().map(|dir| repository().join(dir)).collect();
        let mut files = 0;
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    files += 1;
                    let text = fs::read_to_string(&path).unwrap();
                    for read in text.split(concat!("env", "!(")).skip(1) {
                        let says = "read variables with paths when the program runs: std::env::var_os";
                        assert!(read.starts_with("\"CARGO_PKG_VERSION\")"), "{}: {says}", path.display());
                    }
                }
            }
        }
        assert!(files > 300, "{files}");
    }
}
