//! Chromium, driven over WebDriver: the server of one test, which ends with it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use fantoccini::wd::WebDriverCompatibleCommand;
use fantoccini::{Client, ClientBuilder};
use hyper::Method;
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tidegate_stack::chromium::{ChromiumBinaries, HOW_TO_INSTALL};
use tidegate_stack::process::Process;
use tidegate_stack::wait;
use tokio::runtime::Runtime;

/// How the server says where it listens.
const LISTENS: &str = "ChromeDriver was started successfully on port ";

/// What Chromium is started with: no window, nothing that it asks for by itself.
const ARGUMENTS: [&str; 10] = [
    "--headless=new",
    "--window-size=1280,900",
    // An element that still scrolls is not where it was when it is pressed.
    "--force-prefers-reduced-motion",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
];

/// How a session differs from the usual.
#[derive(Clone, Copy, Default)]
pub struct Settings {
    /// Pages may run no scripts.
    pub no_script: bool,
}

/// A WebDriver server.
pub struct Chromium {
    binaries: ChromiumBinaries,
    port: u16,
    runtime: Runtime,
    _process: Process,
}

impl Chromium {
    /// Starts the server on a port of its own choice, with its log in `dir`.
    ///
    /// # Errors
    /// There is no Chromium here, or the server does not start.
    pub fn start(dir: &Path) -> Result<Self> {
        let binaries = ChromiumBinaries::find().with_context(|| format!("no Chromium: {HOW_TO_INSTALL}"))?;
        let log = dir.join("chromedriver.log");
        let mut command = Command::new(&binaries.chromedriver);
        command.args(["--port=0", "--allowed-ips="]);
        let mut process = Process::start("chromedriver", command, &log)?;
        let port = wait::until("chromedriver says its port", Duration::from_secs(30), || {
            process.check_running()?;
            port_of(&log)
        })?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        Ok(Self { binaries, port, runtime, _process: process })
    }

    /// Opens a browser with a profile of its own.
    ///
    /// # Errors
    /// It does not start.
    pub fn open(&self, settings: Settings) -> Result<Session<'_>> {
        let mut arguments = ARGUMENTS.map(str::to_owned).to_vec();
        if is_root() {
            arguments.push("--no-sandbox".to_owned());
        }
        let mut options = json!({ "binary": self.binaries.chromium, "args": arguments });
        if settings.no_script {
            options["prefs"] = json!({ "profile.managed_default_content_settings.javascript": 2 });
        }
        let capabilities = json!({
            "goog:chromeOptions": options,
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        });
        let Value::Object(capabilities) = capabilities else { unreachable!("an object was written") };
        let server = format!("http://127.0.0.1:{}", self.port);
        let client = self
            .runtime
            .block_on(ClientBuilder::new(HttpConnector::new()).capabilities(capabilities).connect(&server))
            .context("Chromium does not start")?;
        Ok(Session { client, runtime: &self.runtime })
    }
}

fn port_of(log: &PathBuf) -> Result<Option<u16>> {
    let said = std::fs::read_to_string(log)?;
    let Some((_, rest)) = said.split_once(LISTENS) else { return Ok(None) };
    // Whole once the full stop behind it is there.
    let Some((port, _)) = rest.split_once('.') else { return Ok(None) };
    Ok(Some(port.parse()?))
}

/// Chromium's sandbox does not start for root.
fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// A browser. Dropped, it ends.
pub struct Session<'c> {
    /// What WebDriver has commands for.
    pub client: Client,
    runtime: &'c Runtime,
}

impl Session<'_> {
    /// Waits for an answer of the browser.
    pub fn run<T>(&self, answer: impl Future<Output = T>) -> T {
        self.runtime.block_on(answer)
    }

    /// A command of Chromium's own WebDriver server: `POST /session/ID/` and `path`.
    ///
    /// # Errors
    /// The browser's.
    pub fn command(&self, path: &'static str, body: Value) -> Result<Value> {
        Ok(self.run(self.client.issue_cmd(OwnCommand { path, body }))?)
    }

    /// A command of the DevTools protocol.
    ///
    /// # Errors
    /// The browser's.
    pub fn devtools(&self, name: &str, parameters: &Value) -> Result<Value> {
        self.command("goog/cdp/execute", json!({ "cmd": name, "params": parameters }))
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        // Where that fails the server ends it.
        let _ = self.run(self.client.clone().close());
    }
}

#[derive(Debug)]
struct OwnCommand {
    path: &'static str,
    body: Value,
}

impl WebDriverCompatibleCommand for OwnCommand {
    fn endpoint(&self, base: &url::Url, session: Option<&str>) -> Result<url::Url, url::ParseError> {
        base.join(&format!("session/{}/{}", session.unwrap_or_default(), self.path))
    }

    fn method_and_body(&self, _: &url::Url) -> (Method, Option<String>) {
        (Method::POST, Some(self.body.to_string()))
    }
}
