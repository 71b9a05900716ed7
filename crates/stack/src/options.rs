//! How a stack is started.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::faults::Faults;
use crate::ports::{PortChoice, Ports};
use crate::programs::{Programs, public_authorities};
use crate::render::{self, Cluster, Edits, Trust, Upstream};

/// How a stack is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where database, tokens, logs and Envoy's configuration are; made if missing.
    pub dir: PathBuf,
    /// Which ports.
    pub ports: PortChoice,
    /// Envoy's worker threads.
    pub workers: u32,
    /// Clusters to add beside `demo`, or in its place.
    pub backends: Vec<NamedBackend>,
    /// Private authorities that backends of the API may name.
    pub trusts: Vec<Trust>,
    /// Whether the singleton recorder runs (Istio cannot have one).
    pub recorder: bool,
    /// Spread connections evenly over workers: for tests with few of them.
    pub exact_balance: bool,
    /// The flags of a new database.
    pub flags: FlagsAtStart,
    /// Merged into the plugin's configuration (RFC 7396); `Value::Null`: as in the
    /// repository's file.
    pub plugin: Value,
    /// What stands between the gate and the admin service.
    pub faults: Option<Faults>,
    /// Where the gate sends what it lets pass.
    pub upstream: Upstream,
    /// Run Envoy on this processor only: for measurements.
    pub envoy_cpu: Option<u32>,
    /// Who writes Envoy's configuration. `None`: [`Options::envoy_config`] does.
    pub control: Option<Arc<dyn Control>>,
    /// How long Envoy lets connections of what was replaced go on, in whole seconds, and
    /// says in every answer from the first moment on that the connection ends (as Istio
    /// and Envoy Gateway have it). `None`: ten minutes, and more and more often.
    pub drain: Option<Duration>,
    /// Arguments of the admin service besides those that every stack gives.
    pub admin_args: Vec<OsString>,
    /// What to run.
    pub programs: Programs,
}

/// Writes Envoy's configuration in the place of the repository's file, or changes what
/// that file says.
pub trait Control: Debug + Send + Sync {
    /// The whole configuration of an Envoy that is about to start on these ports.
    ///
    /// # Errors
    /// It cannot be made of these options.
    fn config(&self, options: &Options, ports: &Ports) -> Result<Value>;
}

/// The flags that a stack starts with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlagsAtStart {
    /// All on, and applied by the gate before the stack counts as started.
    AllOn,
    /// As the database has them: all off in a new one.
    Off,
}

/// A backend by name.
pub type NamedBackend = Cluster;

impl Options {
    /// For a test: free ports, two workers, connections spread evenly, with the
    /// recorder, all flags on, programs as [`Programs::find`] finds them, files
    /// under `target/tests/<name>`, which is emptied.
    ///
    /// # Errors
    /// A program is missing; the message has the command that makes it. Or another test of
    /// this process has taken the name.
    pub fn for_test(name: &str) -> Result<Self> {
        static TAKEN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
        let new = TAKEN.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
        ensure!(new, "there are two stacks of the name {name}: their files would be the same");
        let dir = crate::programs::repository().join("target/tests").join(name);
        if dir.exists() {
            std::fs::remove_dir_all(&dir).with_context(|| format!("cannot empty {}", dir.display()))?;
        }
        let programs = Programs::find()?;
        let flags = FlagsAtStart::AllOn;
        Ok(Self { exact_balance: true, flags, ..Self::new(dir, PortChoice::Free, programs) })
    }

    /// Everything as in the repository's configuration: two workers, the recorder,
    /// flags as the database has them.
    #[must_use]
    pub fn new(dir: PathBuf, ports: PortChoice, programs: Programs) -> Self {
        Self {
            dir,
            ports,
            workers: 2,
            backends: Vec::new(),
            trusts: Vec::new(),
            recorder: true,
            exact_balance: false,
            flags: FlagsAtStart::Off,
            plugin: Value::Null,
            faults: None,
            upstream: Upstream::Chosen,
            envoy_cpu: None,
            control: None,
            drain: None,
            admin_args: Vec::new(),
            programs,
        }
    }

    /// Envoy's configuration as the repository's file has it, changed as these options say.
    ///
    /// # Errors
    /// The file cannot be read, or lacks something that is to be changed.
    pub fn envoy_config(&self, ports: &Ports) -> Result<Value> {
        let source = &self.programs.config;
        let source =
            std::fs::read_to_string(source).with_context(|| format!("cannot read {}", source.display()))?;
        render::render(
            &source,
            &Edits {
                ports: *ports,
                wasm: &self.programs.wasm,
                access_log: &self.log("access"),
                clusters: &self.backends,
                roots: public_authorities().as_deref(),
                trusts: &self.trusts,
                recorder: self.recorder,
                filter: true,
                upstream: self.upstream,
                plugin: &self.plugin,
                faults: self.faults.as_ref(),
                exact_balance: self.exact_balance,
            },
        )
    }

    /// A part's log: `admin`, `envoy`, `demo`, or `access`.
    pub(crate) fn log(&self, part: &str) -> PathBuf {
        self.dir.join(format!("{part}.log"))
    }

    /// Names that routes can give for clusters of Envoy's.
    pub(crate) fn clusters(&self) -> impl Iterator<Item = &str> {
        let demo = self.demo_is_ours().then_some("demo");
        self.backends.iter().map(|backend| backend.name.as_str()).chain(demo)
    }

    pub(crate) fn demo_is_ours(&self) -> bool {
        !self.backends.iter().any(|backend| backend.name == "demo")
    }
}
