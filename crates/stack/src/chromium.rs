//! Chromium, its WebDriver server, and axe-core, where a machine has them or can get them.

use std::path::PathBuf;

use crate::programs::{from_env, on_path, repository};

/// What to do where there is no Chromium.
pub const HOW_TO_INSTALL: &str = "install Debian's packages chromium and chromium-driver, or set CHROMIUM and CHROMEDRIVER to the paths of \
     both programs";

/// The version of the PyPI package `axe-playwright-python`, of which axe-core is taken.
pub const AXE_VERSION: &str = "0.1.8";

/// The browser and the server that drives it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChromiumBinaries {
    /// The browser.
    pub chromium: PathBuf,
    /// The WebDriver server of the same version.
    pub chromedriver: PathBuf,
}

impl ChromiumBinaries {
    /// `$CHROMIUM` and `$CHROMEDRIVER`, else those on the PATH; `None`: one is missing.
    #[must_use]
    pub fn find() -> Option<Self> {
        let chromium = || ["chromium", "chromium-browser", "google-chrome"].into_iter().find_map(on_path);
        Some(Self {
            chromium: from_env("CHROMIUM").or_else(chromium).filter(|path| path.is_file())?,
            chromedriver: from_env("CHROMEDRIVER")
                .or_else(|| on_path("chromedriver"))
                .filter(|path| path.is_file())?,
        })
    }
}

/// The script of axe-core, where `xtask` puts it.
#[must_use]
pub fn installed_axe() -> PathBuf {
    repository().join(format!("target/tools/axe-{AXE_VERSION}.min.js"))
}
