//! The plugin's configuration: read whole, or refused with the field and what
//! would be right. `docs/CONFIGURATION.md` lists the fields for operators.
//!
//! Read by hand out of a JSON value instead of by derive: every message carries
//! the JSON pointer of its field, and the `.wasm` holds one JSON reader.

use std::time::Duration;

use serde_json::{Map, Value};
use tidegate_policy::decide::{OnNoRoute, Routing, Settings};

/// All that an operator sets on the filter and on the singleton recorder.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// How the admin service is reached.
    pub admin: Admin,
    /// What is decided.
    pub settings: Settings,
    /// How a route's backend becomes the name of an Envoy cluster: `{name}`,
    /// `{namespace}` and `{port}` stand for the backendRef's.
    pub cluster_template: String,
    /// Bounds of what waits to be recorded.
    pub events: EventLimits,
}

/// How the admin service is reached.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Admin {
    /// Envoy cluster of the gateways' listener.
    pub cluster: String,
    /// `:authority` of the calls; the cluster's name when not given.
    pub authority: String,
    /// Bearer token of scope `gateway`.
    pub token: String,
    /// For a call that is not held open by the other side, 100 ms to 60 s.
    pub timeout: Duration,
}

/// Bounds of what waits to be recorded.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct EventLimits {
    /// Bytes that one worker keeps while nobody drains the queue.
    pub buffer_bytes: usize,
    /// Bytes in the shared queue, over all workers; beyond that workers keep
    /// theirs.
    pub queue_bytes: usize,
    /// Events of one batch.
    pub batch_events: usize,
}

impl Default for EventLimits {
    /// About 25,000 events per worker and 400,000 in the queue.
    fn default() -> Self {
        Self { buffer_bytes: 4 << 20, queue_bytes: 64 << 20, batch_events: 512 }
    }
}

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest text of a field, in bytes.
const MAX_TEXT: usize = 4096;

/// Why a configuration is refused: where, and what would be right.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigError {
    /// JSON pointer of the field; empty for the whole.
    pub pointer: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl std::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let at = if self.pointer.is_empty() { "/" } else { &self.pointer };
        f.write_str("plugin configuration ")?;
        f.write_str(at)?;
        f.write_str(": ")?;
        f.write_str(&self.message)
    }
}

impl Config {
    /// Reads a configuration. `environment` looks up a variable that the VM
    /// configuration lets through.
    ///
    /// # Errors
    /// Names the first field that is missing, unknown or wrong.
    pub fn parse(bytes: &[u8], environment: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let value: Value = serde_json::from_slice(bytes)
            .map_err(|error| wrong("", ["is not JSON: ", &error.to_string()].concat()))?;
        let top = Fields::of(&value, "", &["admin", "routing", "cluster_template", "on_no_route", "events"])?;
        let routing = top.one_of("routing", &[("tidegate", Routing::Tidegate), ("envoy", Routing::Envoy)])?;
        let on_no_route =
            top.one_of("on_no_route", &[("deny", OnNoRoute::Deny), ("pass", OnNoRoute::Pass)])?;
        Ok(Self {
            admin: admin(&top, environment)?,
            settings: Settings {
                routing: routing.unwrap_or(Routing::Tidegate),
                on_no_route: on_no_route.unwrap_or(OnNoRoute::Deny),
            },
            cluster_template: cluster_template(&top)?,
            events: events(&top)?,
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
        timeout: admin.duration("timeout")?.unwrap_or(DEFAULT_TIMEOUT),
    })
}

fn cluster_template(top: &Fields<'_>) -> Result<String, ConfigError> {
    let name = "cluster_template";
    let template = top.text(name)?.unwrap_or("{name}");
    let rest = ["{name}", "{namespace}", "{port}"]
        .iter()
        .fold(template.to_owned(), |rest, placeholder| rest.replace(placeholder, ""));
    if rest.contains(['{', '}']) {
        return Err(top.wrong(name, "has an unknown placeholder: {name}, {namespace} and {port} are known"));
    }
    if !template.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(top.wrong(name, "has characters that a header cannot carry"));
    }
    Ok(template.to_owned())
}

fn events(top: &Fields<'_>) -> Result<EventLimits, ConfigError> {
    let mut limits = EventLimits::default();
    let Some(value) = top.get("events") else { return Ok(limits) };
    let events = Fields::of(value, "/events", &["buffer_bytes", "queue_bytes", "batch_events"])?;
    limits.buffer_bytes = events.number("buffer_bytes", 64 << 10, 256 << 20)?.unwrap_or(limits.buffer_bytes);
    limits.queue_bytes = events.number("queue_bytes", 64 << 10, 1 << 30)?.unwrap_or(limits.queue_bytes);
    limits.batch_events = events.number("batch_events", 1, 2_000)?.unwrap_or(limits.batch_events);
    Ok(limits)
}

/// The fields of one JSON object, all of them known.
struct Fields<'v> {
    map: &'v Map<String, Value>,
    pointer: &'static str,
}

impl<'v> Fields<'v> {
    fn of(value: &'v Value, pointer: &'static str, known: &[&str]) -> Result<Self, ConfigError> {
        let Value::Object(map) = value else {
            return Err(wrong(pointer, "must be a JSON object".to_owned()));
        };
        let fields = Self { map, pointer };
        match map.keys().find(|key| !known.contains(&key.as_str())) {
            None => Ok(fields),
            Some(key) => Err(fields.wrong(
                &key.chars().take(60).collect::<String>(),
                &["is unknown: known are ", &known.join(", ")].concat(),
            )),
        }
    }

    fn wrong(&self, name: &str, message: &str) -> ConfigError {
        wrong(&[self.pointer, "/", &name.replace('~', "~0").replace('/', "~1")].concat(), message.to_owned())
    }

    fn get(&self, name: &str) -> Option<&'v Value> {
        self.map.get(name)
    }

    fn text(&self, name: &str) -> Result<Option<&'v str>, ConfigError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) if !text.is_empty() && text.len() <= MAX_TEXT => Ok(Some(text)),
            Some(_) => Err(self.wrong(name, "must be a string of 1 to 4096 bytes")),
        }
    }

    fn one_of<T: Copy>(&self, name: &str, choices: &[(&str, T)]) -> Result<Option<T>, ConfigError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        match choices.iter().find(|(choice, _)| value.as_str() == Some(choice)) {
            Some((_, chosen)) => Ok(Some(*chosen)),
            None => {
                let names: Vec<&str> = choices.iter().map(|(choice, _)| *choice).collect();
                Err(self.wrong(name, &["must be one of ", &names.join(", ")].concat()))
            }
        }
    }

    fn number(&self, name: &str, min: usize, max: usize) -> Result<Option<usize>, ConfigError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        match value.as_u64().and_then(|number| usize::try_from(number).ok()) {
            Some(number) if (min..=max).contains(&number) => Ok(Some(number)),
            _ => Err(self.wrong(
                name,
                &["must be a whole number from ", &min.to_string(), " to ", &max.to_string()].concat(),
            )),
        }
    }

    /// A duration like `250ms` or `5s`.
    fn duration(&self, name: &str) -> Result<Option<Duration>, ConfigError> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        let millis = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
            (Some(number), _) => digits(number),
            (None, Some(number)) => digits(number).and_then(|seconds| seconds.checked_mul(1_000)),
            (None, None) => None,
        };
        match millis {
            Some(millis @ 100..=60_000) => Ok(Some(Duration::from_millis(millis))),
            _ => Err(self.wrong(name, "must be a duration from 100ms to 60s, like \"250ms\" or \"5s\"")),
        }
    }
}

fn digits(text: &str) -> Option<u64> {
    if text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None }
}

fn wrong(pointer: &str, message: String) -> ConfigError {
    ConfigError { pointer: pointer.to_owned(), message }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(text.as_bytes(), |name| (name == "TOKEN").then(|| "secret".to_owned()))
    }

    #[test]
    fn the_least_that_is_enough() {
        let config = parse(r#"{"admin": {"cluster": "admin", "token_env": "TOKEN"}}"#).unwrap();
        assert_eq!(config.admin.authority, "admin");
        assert_eq!(config.admin.token, "secret");
        assert_eq!(config.admin.timeout, Duration::from_secs(5));
        assert_eq!(config.cluster_template, "{name}");
        assert_eq!(config.settings, Settings { routing: Routing::Tidegate, on_no_route: OnNoRoute::Deny });
        assert_eq!(config.events, EventLimits::default());
    }

    #[test]
    fn every_field_is_taken() {
        let config = parse(
            r#"{"admin": {"cluster": "a", "authority": "b", "token": "t", "timeout": "250ms"},
                "routing": "envoy", "on_no_route": "pass",
                "cluster_template": "outbound|{port}||{name}.{namespace}.svc.cluster.local",
                "events": {"buffer_bytes": 65536, "queue_bytes": 131072, "batch_events": 7}}"#,
        )
        .unwrap();
        assert_eq!(config.admin.authority, "b");
        assert_eq!(config.admin.timeout, Duration::from_millis(250));
        assert_eq!(config.settings, Settings { routing: Routing::Envoy, on_no_route: OnNoRoute::Pass });
        assert!(config.cluster_template.starts_with("outbound|{port}"));
        assert_eq!(config.events, EventLimits { buffer_bytes: 65536, queue_bytes: 131_072, batch_events: 7 });
    }

    #[test]
    fn what_is_wrong_is_named_with_what_would_be_right() {
        let admin = r#""admin": {"cluster": "a", "token": "t"}"#;
        let cases = [
            ("", "", "not JSON"),
            ("[]", "", "object"),
            ("{}", "/admin", "missing"),
            (r#"{"admin": {"cluster": "a"}}"#, "/admin/token", "missing"),
            (r#"{"admin": {"token": "a"}}"#, "/admin/cluster", "missing"),
            (r#"{"admin": {"cluster": "a", "tokn": "t"}}"#, "/admin/tokn", "token_env"),
            (
                r#"{"admin": {"cluster": "a", "token": "t", "token_env": "TOKEN"}}"#,
                "/admin/token_env",
                "both",
            ),
            (
                r#"{"admin": {"cluster": "a", "token_env": "OTHER"}}"#,
                "/admin/token_env",
                "environment_variables",
            ),
            (r#"{"admin": {"cluster": "a", "token": "a b"}}"#, "/admin/token", "header"),
            (r#"{"admin": {"cluster": 5, "token": "t"}}"#, "/admin/cluster", "string"),
            (r#"{"admin": {"cluster": "a b", "token": "t"}}"#, "/admin/authority", "header"),
            (
                r#"{"admin": {"cluster": "a", "authority": "b\n", "token": "t"}}"#,
                "/admin/authority",
                "header",
            ),
            (
                &format!(r#"{{"admin": {{"cluster": "{}", "token": "t"}}}}"#, "a".repeat(4097)),
                "/admin/cluster",
                "4096",
            ),
            (r#"{"admin": {"cluster": "a", "token": "t", "timeout": "5 s"}}"#, "/admin/timeout", "250ms"),
            (r#"{"admin": {"cluster": "a", "token": "t", "timeout": "61s"}}"#, "/admin/timeout", "60s"),
            (&format!(r#"{{{admin}, "routing": "istio"}}"#), "/routing", "tidegate, envoy"),
            (&format!(r#"{{{admin}, "on_no_route": true}}"#), "/on_no_route", "deny, pass"),
            (&format!(r#"{{{admin}, "cluster_template": "{{nam}}"}}"#), "/cluster_template", "{namespace}"),
            (&format!(r#"{{{admin}, "cluster_template": "a b"}}"#), "/cluster_template", "header"),
            (
                &format!(r#"{{{admin}, "events": {{"batch_events": 0}}}}"#),
                "/events/batch_events",
                "1 to 2000",
            ),
            (&format!(r#"{{{admin}, "a/b~": 1}}"#), "/a~1b~0", "known are admin"),
        ];
        for (text, pointer, says) in cases {
            let error = parse(text).unwrap_err();
            assert_eq!(error.pointer, pointer, "{text}: {error}");
            assert!(error.message.contains(says), "{text}: {error}");
        }
    }
}
