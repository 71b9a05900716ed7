//! What `bench gate` measures: each case is an Envoy that runs from the beginning to the end.

use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tidegate_stack::envoy::{Alone, Filter, Setup};
use tidegate_stack::flood::flood;
use tidegate_stack::http::{self, Connection, Request};
use tidegate_stack::process::Identity;
use tidegate_stack::{FlagsAtStart, Options, Programs, Stack, Upstream};

use super::slices::Slices;
use super::{ENVOY_CPU, Module, competitors};
use crate::rounds::say;
use crate::scene;

/// How long the last events may take until they are in the database.
const RECORDED: Duration = Duration::from_secs(60);
/// What clients ask for that only have to be remembered by a limit, and who they are.
const FLOODED: &str = "/svc-00/flood";
const FLOOD: Range<u32> = 0x6500_0000..0x6500_0000 + 150_000;
/// A client that asks in no slice.
const ONE_CLIENT: &str = "9.9.9.9";

/// A kind of case, as `--cases` names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum CaseName {
    /// Envoy without a filter once more: what it shows as a difference is noise.
    SecondBare,
    /// A filter of the proxy-wasm SDK that does nothing.
    Noop,
    /// The gate, all flags on.
    Gate,
    /// The gate with a limit by address.
    Limited,
    /// That with a million bans, 660,000 ranges of countries and 1,223 more routes, templates.
    Large,
    /// Envoy's RBAC filter with the IP matcher and 100,000 bans.
    Rbac,
    /// A Lua script with the same list.
    Lua,
    /// Envoy's external authorization, over HTTP to a service that allows everything.
    ExtAuthz,
    /// Envoy's local rate limit by address.
    LocalRatelimit,
}

impl CaseName {
    /// Its line in the table.
    fn told(self) -> &'static str {
        match self {
            Self::SecondBare => "the same once more (noise)",
            Self::Noop => "SDK filter that does nothing",
            Self::Gate => "Tidegate, all flags on",
            Self::Limited => "the same, one limit by address",
            Self::Large => "the same, 1,000,000 bans, 660,000 ranges, 1,273 routes",
            Self::Rbac => "Envoy's RBAC, IP matcher, 100,000 bans",
            Self::Lua => "Lua, 100,000 bans",
            Self::ExtAuthz => "Envoy's ext_authz, HTTP",
            Self::LocalRatelimit => "Envoy's local rate limit by address",
        }
    }

    /// Whether the filter under test runs in it.
    fn has_gate(self) -> bool {
        matches!(self, Self::Gate | Self::Limited | Self::Large)
    }
}

/// An Envoy to measure, and what was measured.
pub struct Case {
    /// Which.
    pub name: CaseName,
    /// With another build of the filter: its name.
    pub module: Option<String>,
    /// What was measured so far.
    pub slices: Slices,
    running: Running,
    process: Identity,
    /// Events in the database before the first slice.
    stored: u64,
}

/// Ended when dropped.
enum Running {
    Alone(Alone),
    Gate(Box<Stack>),
}

impl Case {
    fn alone(name: CaseName, alone: Alone) -> Self {
        let process = alone.process().clone();
        let running = Running::Alone(alone);
        Self { name, module: None, slices: Slices::default(), running, process, stored: 0 }
    }

    fn gate(name: CaseName, module: Option<&Module>, stack: Stack) -> Result<Self> {
        let (process, stored) = (stack.envoy()?.clone(), stack.recorded(RECORDED)?.stored);
        let module = module.map(|module| module.name.clone());
        let running = Running::Gate(Box::new(stack));
        Ok(Self { name, module, slices: Slices::default(), running, process, stored })
    }

    /// Its line in the table.
    pub fn told(&self) -> String {
        match &self.module {
            Some(module) => format!("{} ({module})", self.name.told()),
            None => self.name.told().to_owned(),
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        match &self.running {
            Running::Alone(alone) => alone.gate(),
            Running::Gate(stack) => stack.gate(),
        }
    }

    /// Envoy's process.
    pub fn process(&self) -> &Identity {
        &self.process
    }

    /// Whether something of a request is still to be done when it has been answered.
    pub fn hands_over_later(&self) -> bool {
        matches!(self.running, Running::Gate(_))
    }

    /// Every request of every slice is in the database, where the case records them.
    pub fn check_recorded(&self) -> Result<()> {
        let Running::Gate(stack) = &self.running else { return Ok(()) };
        let stored = stack.recorded(RECORDED)?.stored - self.stored;
        let sent = self.slices.requests();
        ensure!(stored == sent, "{}: {sent} requests were sent, {stored} recorded", self.told());
        Ok(())
    }
}

/// Starts cases.
pub struct Starter<'p> {
    programs: &'p Programs,
    dir: PathBuf,
    noop: PathBuf,
    upstream: bool,
    /// A backend for Envoys that have none of their own, once it is needed.
    service: Option<Stack>,
}

impl<'p> Starter<'p> {
    /// Nothing runs yet, but for the backend that `upstream` needs.
    pub fn new(programs: &'p Programs, upstream: bool) -> Result<Self> {
        let others = std::env::var_os("TIDEGATE_OTHER_FILTERS").context("run `cargo xtask bench`")?;
        let noop = PathBuf::from(others).join("tidegate_noop_filter.wasm");
        let dir = scene::emptied("gate-alone")?;
        let mut starter = Self { programs, dir, noop, upstream, service: None };
        if upstream {
            starter.service()?;
        }
        Ok(starter)
    }

    fn service(&mut self) -> Result<()> {
        if self.service.is_none() {
            self.service = Some(Stack::start(scene::options("gate-service", self.programs)?)?);
        }
        Ok(())
    }

    /// Envoy without a filter.
    pub fn bare(&mut self) -> Result<Case> {
        Ok(Case::alone(CaseName::SecondBare, self.alone("bare", Filter::None)?))
    }

    /// Those of these names, and each of the gate with each of these modules.
    pub fn all(&mut self, names: &[CaseName], modules: &[Module]) -> Result<Vec<Case>> {
        let mut cases = Vec::new();
        for name in names {
            cases.push(self.start(*name, None)?);
        }
        for module in modules {
            for name in names.iter().filter(|name| name.has_gate()) {
                cases.push(self.start(*name, Some(module))?);
            }
        }
        Ok(cases)
    }

    fn start(&mut self, name: CaseName, module: Option<&Module>) -> Result<Case> {
        let of = module.map(|module| format!(" ({})", module.name)).unwrap_or_default();
        say(format_args!("starting: {}{of}", name.told()));
        let alone = |alone| Ok(Case::alone(name, alone));
        match name {
            CaseName::SecondBare => alone(self.alone("second-bare", Filter::None)?),
            CaseName::Noop => alone(self.alone("noop", Filter::Other(&self.noop))?),
            CaseName::Rbac => alone(self.denying("rbac", competitors::rbac())?),
            CaseName::Lua => alone(self.denying("lua", competitors::lua())?),
            CaseName::ExtAuthz => {
                self.service()?;
                alone(self.alone("ext-authz", Filter::Native(&[competitors::ext_authz()]))?)
            }
            CaseName::LocalRatelimit => alone(self.limiting(competitors::local_ratelimit())?),
            CaseName::Gate => Case::gate(name, module, self.stack("gate", module)?),
            CaseName::Limited => {
                let stack = self.stack("gate-limited", module)?;
                put_limit(&stack)?;
                Case::gate(name, module, stack)
            }
            CaseName::Large => {
                let stack = self.stack("gate-large", module)?;
                scene::large::enlarge(&stack)?;
                put_limit(&stack)?;
                Case::gate(name, module, stack)
            }
        }
    }

    fn alone(&self, name: &str, filter: Filter<'_>) -> Result<Alone> {
        let upstream = if self.upstream { Upstream::Demo } else { Upstream::Nowhere };
        let demo = self.service.as_ref().map(|stack| stack.demo().port());
        let setup = Setup { filter, upstream, demo, workers: 1, cpu: Some(ENVOY_CPU) };
        Alone::start(name, self.programs, &self.dir, &setup)
    }

    /// An Envoy with a filter of its own that denies a list of addresses, and does so.
    fn denying(&self, name: &str, filter: Value) -> Result<Alone> {
        let alone = self.alone(name, Filter::Native(&[filter]))?;
        for (client, status) in [(competitors::banned_address(), 403), (ONE_CLIENT.to_owned(), 200)] {
            let answer = http::send(alone.gate(), &Request::get(FLOODED).from(&client))?;
            ensure!(answer.status == status, "{name}: {client} got {}, not {status}", answer.status);
        }
        Ok(alone)
    }

    /// An Envoy with its own limit, which keeps as many addresses as that of the gate, and denies.
    fn limiting(&self, filter: Value) -> Result<Alone> {
        let alone = self.alone("local-ratelimit", Filter::Native(&[filter]))?;
        flood(alone.gate(), FLOODED, FLOOD, 16)?;
        let mut connection = Connection::open(alone.gate())?;
        // Envoy lets a few more through than the burst.
        for _ in 0..2 * competitors::BURST {
            if connection.send(&Request::get(FLOODED).from(ONE_CLIENT))?.status == 429 {
                return Ok(alone);
            }
        }
        bail!("the local rate limit denies nobody")
    }

    /// The gate as `bench`'s scene has it, with another build of the filter if there is one.
    fn stack(&self, name: &str, module: Option<&Module>) -> Result<Stack> {
        let name = module.map_or_else(|| name.to_owned(), |module| format!("{name}-{}", module.name));
        let mut options: Options = scene::options(&name, self.programs)?;
        options.workers = 1;
        options.envoy_cpu = Some(ENVOY_CPU);
        options.flags = FlagsAtStart::AllOn;
        options.upstream = if self.upstream { Upstream::Chosen } else { Upstream::Nowhere };
        // As it is by default, not as the local stack has it.
        options.plugin = json!({ "performance_headers": null });
        if let Some(module) = module {
            options.programs.wasm.clone_from(&module.file);
        }
        let stack = Stack::start(options)?;
        scene::fill(&stack)?;
        Ok(stack)
    }
}

/// A limit for each address that denies nobody here, and all of the places taken in
/// which the limiter keeps who used what.
fn put_limit(stack: &Stack) -> Result<()> {
    // Nobody is replenished meanwhile, nor uses all of it up.
    stack.put_limit(
        "per-client",
        &json!({ "key": "ip", "rate": 1, "per": "day", "burst": competitors::BURST }),
    )?;
    flood(stack.gate(), FLOODED, FLOOD, 16)?;
    stack.recorded(RECORDED).map(drop)
}
