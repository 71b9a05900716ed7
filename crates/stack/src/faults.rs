//! Envoy's own fault filter in front of the admin service: calls that are slow,
//! refused or answered wrongly, without a word of that in the product.
//!
//! The gate's cluster of the admin service points to one more listener of the same
//! Envoy, on an abstract Unix socket, which has the fault filters and sends on what
//! they let through. Delays are fixed when the stack starts; a test changes the
//! rest while it runs, through Envoy's runtime.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value, json};

/// Prefix of Envoy's statistics of this listener: `http.admin_faults.`.
pub const STAT_PREFIX: &str = "admin_faults";
/// The cluster of the admin service itself, behind the faults.
pub const BEHIND: &str = "tidegate-admin-behind-faults";
/// The filter that a test switches.
const SWITCHED: &str = "switched";

/// A call of the gate to the admin service.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Call {
    /// `check/ip`.
    Ip,
    /// `check/geo`.
    Geo,
    /// `check/route`.
    Route,
    /// `events?sync=1`: an event whose response waits for it.
    OpenEvent,
    /// `events`: batches.
    Events,
    /// `sync`: the poll for tables (neither its pages nor acks).
    Sync,
}

impl Call {
    /// All of them, the more specific matches first.
    pub const ALL: [Self; 6] = [Self::Ip, Self::Geo, Self::Route, Self::OpenEvent, Self::Events, Self::Sync];

    /// The name in tables and runtime keys.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ip => "ip",
            Self::Geo => "geo",
            Self::Route => "route",
            Self::OpenEvent => "open_event",
            Self::Events => "events",
            Self::Sync => "sync",
        }
    }

    fn matches(self) -> Value {
        let path = match self {
            Self::Ip => "check/ip",
            Self::Geo => "check/geo",
            Self::Route => "check/route",
            Self::OpenEvent | Self::Events => "events",
            Self::Sync => "sync",
        };
        let mut matches = json!({ "path": format!("/api/data-plane/v1/{path}") });
        if self == Self::OpenEvent {
            matches["query_parameters"] = json!([{ "name": "sync", "present_match": true }]);
        }
        matches
    }

    /// The key of Envoy's runtime that switches this.
    pub(crate) fn key(self, what: &str) -> String {
        format!("tidegate.faults.{}.{what}", self.name())
    }
}

/// A share of the calls of one kind takes longer. Several of one kind are drawn
/// independently and add up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Delay {
    /// Which calls.
    pub call: Call,
    /// Of 10,000 calls, how many.
    pub per_10_000: u32,
    /// By how much; at least a millisecond.
    pub by: Duration,
}

/// What stands between the gate and the admin service from the start.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Faults {
    /// Delays; none: calls pass until a test says otherwise.
    pub delays: Vec<Delay>,
    /// Where each call is written down as a line of JSON: its `path`, and what of a
    /// trace its headers carry.
    pub log: Option<PathBuf>,
}

impl Faults {
    /// Every call of these kinds takes this much longer.
    #[must_use]
    pub fn slow(calls: &[Call], by: Duration) -> Self {
        let delays = calls.iter().map(|call| Delay { call: *call, per_10_000: 10_000, by }).collect();
        Self { delays, log: None }
    }

    /// Filters with a delay that are needed one after the other.
    fn levels(&self) -> usize {
        Call::ALL.into_iter().map(|call| self.of(call).count()).max().unwrap_or(0)
    }

    fn of(&self, call: Call) -> impl Iterator<Item = &Delay> {
        self.delays.iter().filter(move |delay| delay.call == call)
    }

    /// The listener, at `address`.
    #[must_use]
    pub fn listener(&self, address: &Value) -> Value {
        let fault = |name: &str| json!({ "name": name, "typed_config": { "@type": FAULT } });
        let mut filters: Vec<_> = (0..self.levels()).map(|level| fault(&level_name(level))).collect();
        filters.push(fault(SWITCHED));
        filters.push(json!({
            "name": "envoy.filters.http.router",
            "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" },
        }));
        let to = json!({ "cluster": BEHIND, "timeout": "0s" });
        let mut routes: Vec<_> = Call::ALL
            .into_iter()
            .map(|call| json!({ "match": call.matches(), "route": to, "typed_per_filter_config": self.filters(call) }))
            .collect();
        routes.push(json!({ "match": { "prefix": "/" }, "route": to }));
        json!({
            "name": "admin-faults",
            "address": address,
            "filter_chains": [{ "filters": [{
                "name": "envoy.filters.network.http_connection_manager",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                    "stat_prefix": STAT_PREFIX,
                    // A poll waits as long as it likes.
                    "stream_idle_timeout": "0s",
                    "access_log": self.log.iter().map(|path| access_log(path)).collect::<Vec<_>>(),
                    "http_filters": filters,
                    "route_config": {
                        "name": "admin-faults",
                        "virtual_hosts": [{ "name": "any", "domains": ["*"], "routes": routes }],
                    },
                },
            }] }],
        })
    }

    /// What the filters do to one kind of call.
    fn filters(&self, call: Call) -> Value {
        let delayed = self.of(call).enumerate().map(|(level, delay)| {
            let share = json!({ "numerator": delay.per_10_000, "denominator": "TEN_THOUSAND" });
            let delay = json!({ "fixed_delay": seconds(delay.by), "percentage": share });
            (level_name(level), json!({ "@type": FAULT, "delay": delay }))
        });
        let none = json!({ "numerator": 0, "denominator": "HUNDRED" });
        let switched = json!({
            "@type": FAULT,
            "delay": { "fixed_delay": "0.001s", "percentage": none },
            "delay_percent_runtime": call.key("delay_percent"),
            "delay_duration_runtime": call.key("delay_ms"),
            "abort": { "http_status": 503, "percentage": none },
            "abort_percent_runtime": call.key("abort_percent"),
            "abort_http_status_runtime": call.key("abort_status"),
        });
        delayed.chain([(SWITCHED.to_owned(), switched)]).collect::<Map<_, _>>().into()
    }
}

/// Lines of JSON with what could be part of a trace.
fn access_log(path: &Path) -> Value {
    let header = |name: &str| format!("%REQ({name})%");
    let names = ["traceparent", "tracestate", "b3", "x-b3-traceid", "x-request-id", "x-cloud-trace-context"];
    let mut format: Map<_, _> =
        names.into_iter().map(|name| (name.to_owned(), header(name).into())).collect();
    format.insert("path".to_owned(), header(":path").into());
    json!({
        "name": "envoy.access_loggers.file",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": path,
            "log_format": { "json_format": format },
        },
    })
}

const FAULT: &str = "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault";

fn level_name(level: usize) -> String {
    format!("delay-{level}")
}

fn seconds(duration: Duration) -> String {
    format!("{}.{:09}s", duration.as_secs(), duration.subsec_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_call_has_its_own_delays_one_after_the_other() {
        let delay = |call, per_10_000, millis| Delay { call, per_10_000, by: Duration::from_millis(millis) };
        let faults = Faults {
            delays: vec![
                delay(Call::Ip, 10_000, 50),
                delay(Call::Route, 10_000, 60),
                delay(Call::Ip, 100, 1_090),
            ],
            log: None,
        };
        assert_eq!(faults.levels(), 2);
        let ip = faults.filters(Call::Ip);
        assert_eq!(ip["delay-1"]["delay"]["fixed_delay"], "1.090000000s");
        assert_eq!(ip["delay-1"]["delay"]["percentage"]["numerator"], 100);
        let route = faults.filters(Call::Route);
        assert_eq!(route["delay-0"]["delay"]["fixed_delay"], "0.060000000s");
        assert!(route.get("delay-1").is_none());
        assert!(faults.filters(Call::Sync).get("delay-0").is_none());
        let listener = faults.listener(&json!({ "pipe": { "path": "@x" } })).to_string();
        assert_eq!(listener.matches("\"delay-1\"").count(), 2, "the filter and the one route: {listener}");
    }
}
