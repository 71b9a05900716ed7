//! How a stack is started.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::doctor::Doctor;
use crate::envoy_gateway::EnvoyGateway;
use crate::faults::Faults;
use crate::istio::Istio;
use crate::ports::PortChoice;
use crate::programs::Programs;
use crate::render::{Cluster, Trust, Upstream};

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
    /// What answers for `demo`, if `backends` does not name it.
    pub demo: Demo,
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
    /// Who changes what they say to each other: not together with faults.
    pub doctor: Option<Doctor>,
    /// The service that counts for several gateways, if Envoy is to ask one: with the
    /// additions in `envoy/ratelimit.yaml`.
    pub global_limit: Option<SocketAddr>,
    /// Where the gate sends what it lets pass.
    pub upstream: Upstream,
    /// Run Envoy on this processor only: for measurements.
    pub envoy_cpu: Option<u32>,
    /// Who configures Envoy.
    pub control: Control,
    /// How long Envoy lets connections of what was replaced go on, in whole seconds, and
    /// says in every answer from the first moment on that the connection ends (as Istio
    /// and Envoy Gateway have it). `None`: ten minutes, and more and more often.
    pub drain: Option<Duration>,
    /// What to run.
    pub programs: Programs,
}

/// Who configures Envoy.
#[derive(Clone, PartialEq, Debug)]
pub enum Control {
    /// The repository's file, with all options.
    Own,
    /// As Istio has it. Of the options only ports, workers, `drain` and `backends` hold.
    Istio(Istio),
    /// As Envoy Gateway has it. Of the options only ports, workers and `drain` hold.
    EnvoyGateway(EnvoyGateway),
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

/// What answers for the cluster `demo`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Demo {
    /// A thread of this process.
    InProcess,
    /// This program, as a process of its own.
    Program(PathBuf),
}

impl Options {
    /// For a test: free ports, two workers, connections spread evenly, with the
    /// recorder, all flags on, programs as [`Programs::find`] finds them, files
    /// under `target/tests/<name>`, which is emptied.
    ///
    /// # Errors
    /// A program is missing; the message has the command that makes it.
    pub fn for_test(name: &str) -> Result<Self> {
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
            demo: Demo::InProcess,
            recorder: true,
            exact_balance: false,
            flags: FlagsAtStart::Off,
            plugin: Value::Null,
            faults: None,
            doctor: None,
            global_limit: None,
            upstream: Upstream::Chosen,
            envoy_cpu: None,
            control: Control::Own,
            drain: None,
            programs,
        }
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
