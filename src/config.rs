//! The plugin's configuration: read whole, or refused with the wrong field and what it
//! should be. `docs/CONFIGURATION.md` lists the fields for operators.
//!
//! Read by hand out of a JSON value instead of by derive: every message carries
//! the JSON pointer of its field, and the `.wasm` holds one JSON reader.

mod fields;
#[cfg(test)]
mod tests;
mod trusted_hops;

use std::time::Duration;

use serde_json::Value;
use tidegate_policy::check::{Check, PerCheck};
use tidegate_policy::decide::{OnNoRoute, Routing, Settings, Unavailable};

pub use fields::ConfigError;
use fields::{Fields, wrong};
pub use trusted_hops::TrustedHops;

/// All that an operator sets on the filter and on the singleton recorder.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// How the admin service is reached.
    pub admin: Admin,
    /// Settings of the decision.
    pub settings: Settings,
    /// Template for the name of the Envoy cluster of a route's backend: `{name}`,
    /// `{namespace}` and `{port}` stand for the backendRef's.
    pub cluster_template: String,
    /// Whether clients use TLS, for routes that are held to a listener; `None`: as the
    /// connection is, or as a trusted hop says.
    pub listener_https: Option<bool>,
    /// The port that clients know the listener by, for redirects and for routes that are
    /// held to a listener; `None`: the one that Envoy listens on.
    pub listener_port: Option<u16>,
    /// Whether requests get the headers that Envoy's own rate limit filter, after this
    /// one, makes descriptors of.
    pub descriptor_headers: bool,
    /// Whether route and mismatches are set as filter state, for Envoy's access log.
    pub log_fields: bool,
    /// Bounds of the events that wait to be recorded.
    pub events: EventLimits,
    /// With synchronous recording, how long a response waits for its event to be
    /// stored: 10 ms to 60 s. After that the response is sent in any case.
    pub sync_timeout: Duration,
    /// How long a request may wait for the admin service's answers to its checks.
    pub direct: DirectLimits,
    /// Which responses get performance headers.
    pub performance: Performance,
    /// Name, in lower case, of the header with the client's country, which a trusted
    /// filter before this one sets or removes. `None`: the country is looked up in
    /// the country table.
    pub country_header: Option<String>,
    /// Who may say in `X-Forwarded-For` who the client is, where Envoy passed over an entry with a port or
    /// brackets. `None`: what Envoy says stands.
    pub forwarded_for: Option<TrustedHops>,
    /// Whether paths are matched without parameters (`;x=1`).
    pub strip_path_parameters: bool,
}

/// How the admin service is reached.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Admin {
    /// Envoy cluster of the gateways' listener.
    pub cluster: String,
    /// `:authority` of the calls; the cluster's name when not given.
    pub authority: String,
    /// Bearer token of the role `gateway`.
    pub token: String,
    /// Time limit of a call that the admin service does not hold open (as a long poll),
    /// 100 ms to 60 s.
    pub timeout: Duration,
}

/// Bounds of the events that wait to be recorded.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct EventLimits {
    /// Bytes that one worker keeps while the queue is not drained.
    pub buffer_bytes: usize,
    /// Bytes in the shared queue, from all workers; beyond that each worker buffers
    /// its own events.
    pub queue_bytes: usize,
    /// The most events of one batch.
    pub batch_events: usize,
    /// Whether Envoy's access log tells of requests that reach no filter. Where it does not, the admin
    /// service is told that they have no events.
    pub access_log: bool,
}

impl Default for EventLimits {
    /// About 25,000 events per worker and 400,000 in the queue.
    fn default() -> Self {
        Self { buffer_bytes: 4 << 20, queue_bytes: 64 << 20, batch_events: 512, access_log: false }
    }
}

/// How long a request may wait for the admin service's answers to its checks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DirectLimits {
    /// For one question, 10 ms to 60 s.
    pub timeout: Duration,
    /// For all questions of one request together, asked in turn or at once: 10 ms
    /// to 60 s, never less than `timeout`.
    pub budget: Duration,
}

impl Default for DirectLimits {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(1), budget: Duration::from_secs(3) }
    }
}

/// Which responses get performance headers: what the request cost.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Performance {
    /// None.
    #[default]
    Never,
    /// Those of requests with `x-performance: 1`.
    OnRequest,
    /// All.
    Always,
}

/// Prefix of headers that only the filter sets: a client's are removed.
pub const OWN_PREFIX: &[u8] = b"x-tidegate-";

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
const DEFAULT_SYNC_TIMEOUT: Duration = Duration::from_secs(1);
/// Shortest time limit of a call that no request waits for.
const MIN_TIMEOUT_MS: u64 = 100;
/// Shortest time limit of a call that a request waits for.
const MIN_WAIT_MS: u64 = 10;
/// Longest name of a header, in bytes.
const MAX_HEADER: usize = 64;
/// All fields of the configuration's top level.
const KNOWN: [&str; 15] = [
    "admin",
    "routing",
    "on_no_route",
    "on_unavailable",
    "cluster_template",
    "listener_scheme",
    "listener_port",
    "descriptor_headers",
    "log_fields",
    "events",
    "direct",
    "performance_headers",
    "geo",
    "forwarded_for",
    "strip_path_parameters",
];

impl Config {
    /// Reads a configuration. `environment` looks up a variable that the VM
    /// configuration lets through.
    ///
    /// # Errors
    /// Names the first field that is missing, unknown or wrong.
    pub fn parse(bytes: &[u8], environment: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let text = std::str::from_utf8(bytes).map_err(|_| wrong("", "is not UTF-8".to_owned()))?;
        // Not `from_slice`, which is generic: this one is compiled within serde_json,
        // which is optimized for size.
        let value: Value = text
            .parse()
            .map_err(|error: serde_json::Error| wrong("", ["is not JSON: ", &error.to_string()].concat()))?;
        let top = Fields::of(&value, "", &KNOWN)?;
        let routing = top.one_of("routing", &[("tidegate", Routing::Tidegate), ("envoy", Routing::Envoy)])?;
        let on_no_route =
            top.one_of("on_no_route", &[("deny", OnNoRoute::Deny), ("pass", OnNoRoute::Pass)])?;
        let performance = [
            ("never", Performance::Never),
            ("on_request", Performance::OnRequest),
            ("always", Performance::Always),
        ];
        let (events, sync_timeout) = events(&top)?;
        Ok(Self {
            admin: admin(&top, environment)?,
            settings: Settings {
                routing: routing.unwrap_or(Routing::Tidegate),
                on_no_route: on_no_route.unwrap_or(OnNoRoute::Deny),
                on_unavailable: on_unavailable(&top)?,
            },
            cluster_template: cluster_template(&top)?,
            listener_https: listener_https(&top)?,
            listener_port: listener_port(&top)?,
            descriptor_headers: top.flag("descriptor_headers")?.unwrap_or(false),
            log_fields: top.flag("log_fields")?.unwrap_or(false),
            events,
            sync_timeout,
            direct: direct(&top)?,
            performance: top.one_of("performance_headers", &performance)?.unwrap_or_default(),
            country_header: country_header(&top)?,
            forwarded_for: trusted_hops::read(&top)?,
            strip_path_parameters: top.flag("strip_path_parameters")?.unwrap_or(false),
        })
    }
}

fn admin(top: &Fields<'_>, environment: impl Fn(&str) -> Option<String>) -> Result<Admin, ConfigError> {
    let value = top
        .get("admin")
        .ok_or_else(|| top.wrong("admin", "is missing: give {\"cluster\": ..., \"token_env\": ...}"))?;
    let admin = Fields::of(value, "/admin", &["cluster", "authority", "token", "token_env", "timeout"])?;
    let cluster = admin.text("cluster")?.ok_or_else(|| {
        admin.wrong("cluster", "is missing: name the Envoy cluster of the admin service's gateways' listener")
    })?;
    let token = match (admin.text("token")?, admin.text("token_env")?) {
        (Some(token), None) => token.to_owned(),
        (None, Some(name)) => environment(name).ok_or_else(|| {
            admin.wrong("token_env", "names a variable that the VM does not have: let it through in vm_config.environment_variables")
        })?,
        (Some(_), Some(_)) => return Err(admin.wrong("token_env", "and token are both given: give one of them")),
        (None, None) => {
            return Err(admin.wrong("token", "is missing: give token, or token_env with the name of a variable that holds it"));
        }
    };
    if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(admin.wrong("token", "is empty or has characters that a header cannot carry"));
    }
    let authority = admin.text("authority")?.unwrap_or(cluster);
    if !authority.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(admin.wrong(
            "authority",
            "(the cluster's name if not given) has characters that a header cannot carry",
        ));
    }
    Ok(Admin {
        authority: authority.to_owned(),
        cluster: cluster.to_owned(),
        token,
        timeout: admin.duration("timeout", MIN_TIMEOUT_MS)?.unwrap_or(DEFAULT_TIMEOUT),
    })
}

fn cluster_template(top: &Fields<'_>) -> Result<String, ConfigError> {
    let name = "cluster_template";
    let template = top.text(name)?.unwrap_or("{name}");
    let is_known = |part: &str| {
        part.split_once('}').is_some_and(|(placeholder, after)| {
            matches!(placeholder, "name" | "namespace" | "port") && !after.contains('}')
        })
    };
    let mut parts = template.split('{');
    if parts.next().is_some_and(|before| before.contains('}')) || !parts.all(is_known) {
        return Err(top.wrong(name, "has an unknown placeholder: {name}, {namespace} and {port} are known"));
    }
    if !template.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(top.wrong(name, "has characters that a header cannot carry"));
    }
    Ok(template.to_owned())
}

fn listener_https(top: &Fields<'_>) -> Result<Option<bool>, ConfigError> {
    let name = "listener_scheme";
    match top.text(name)? {
        None => Ok(None),
        Some("http") => Ok(Some(false)),
        Some("https") => Ok(Some(true)),
        Some(_) => Err(top.wrong(name, "must be http or https")),
    }
}

fn listener_port(top: &Fields<'_>) -> Result<Option<u16>, ConfigError> {
    Ok(top.number("listener_port", 1, 65_535)?.and_then(|port| u16::try_from(port).ok()))
}

/// The bounds of the events that wait, and how long a response waits for its event.
fn events(top: &Fields<'_>) -> Result<(EventLimits, Duration), ConfigError> {
    let mut limits = EventLimits::default();
    let Some(value) = top.get("events") else { return Ok((limits, DEFAULT_SYNC_TIMEOUT)) };
    let events = Fields::of(
        value,
        "/events",
        &["buffer_bytes", "queue_bytes", "batch_events", "sync_timeout", "access_log"],
    )?;
    limits.buffer_bytes = events.number("buffer_bytes", 64 << 10, 256 << 20)?.unwrap_or(limits.buffer_bytes);
    limits.queue_bytes = events.number("queue_bytes", 64 << 10, 1 << 30)?.unwrap_or(limits.queue_bytes);
    limits.batch_events = events.number("batch_events", 1, 2_000)?.unwrap_or(limits.batch_events);
    limits.access_log = events.flag("access_log")?.unwrap_or_default();
    let sync_timeout = events.duration("sync_timeout", MIN_WAIT_MS)?.unwrap_or(DEFAULT_SYNC_TIMEOUT);
    Ok((limits, sync_timeout))
}

fn on_unavailable(top: &Fields<'_>) -> Result<PerCheck<Unavailable>, ConfigError> {
    let mut chosen = PerCheck::default();
    let Some(value) = top.get("on_unavailable") else { return Ok(chosen) };
    let checks = Fields::of(value, "/on_unavailable", &["ip", "geo", "route"])?;
    for check in Check::ALL {
        let choices = [("allow", Unavailable::Allow), ("deny", Unavailable::Deny)];
        *chosen.get_mut(check) = checks.one_of(check.name(), &choices)?.unwrap_or_default();
    }
    Ok(chosen)
}

fn direct(top: &Fields<'_>) -> Result<DirectLimits, ConfigError> {
    let default = DirectLimits::default();
    let Some(value) = top.get("direct") else { return Ok(default) };
    let direct = Fields::of(value, "/direct", &["timeout", "budget"])?;
    let timeout = direct.duration("timeout", MIN_WAIT_MS)?.unwrap_or(default.timeout);
    let budget = direct.duration("budget", MIN_WAIT_MS)?.unwrap_or(default.budget.max(timeout));
    if budget < timeout {
        return Err(direct.wrong("budget", "is for all questions of a request: give at least direct.timeout"));
    }
    Ok(DirectLimits { timeout, budget })
}

fn country_header(top: &Fields<'_>) -> Result<Option<String>, ConfigError> {
    let name = "country_header";
    let Some(value) = top.get("geo") else { return Ok(None) };
    let geo = Fields::of(value, "/geo", &[name])?;
    let Some(header) = geo.text(name)?.map(str::to_ascii_lowercase) else { return Ok(None) };
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if header.len() > MAX_HEADER || !header.bytes().all(is_token) {
        return Err(geo.wrong(name, "is no header's name: letters, digits and hyphens, at most 64 of them"));
    }
    if header.as_bytes().starts_with(OWN_PREFIX) {
        let says = "must not begin with x-tidegate-: such headers are removed from every request";
        return Err(geo.wrong(name, says));
    }
    Ok(Some(header))
}
