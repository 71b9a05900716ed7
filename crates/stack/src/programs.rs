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

/// The root of the repository that this crate was built in.
#[must_use]
pub fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

fn from_env(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}
