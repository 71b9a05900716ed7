//! Answers of the API that several pages show. What a page does not show is left out.

use std::collections::BTreeMap;

use jiff::Timestamp;
use maud::{Markup, html};
use serde::Deserialize;

/// A list.
#[derive(Deserialize)]
pub struct Items<T> {
    /// This page of it.
    pub items: Vec<T>,
    /// The cursor of the next page.
    pub next: Option<String>,
}

/// Milliseconds; `None`: of no request.
#[derive(Deserialize, Default, Clone, Copy)]
pub struct Percentiles {
    pub p50: Option<f64>,
    pub p95: Option<f64>,
    pub p99: Option<f64>,
}

/// Requests of a path, a route, or all.
#[derive(Deserialize)]
pub struct PathStats {
    /// The route's id.
    pub route: Option<String>,
    /// The path as its route has it.
    pub template: Option<String>,
    /// The method.
    pub method: Option<String>,
    /// Requests that have ended.
    pub requests: u64,
    /// Of these, denied.
    pub denied: u64,
    /// By class of status.
    pub status: StatusCounts,
    /// Bytes of responses' bodies.
    pub bytes_out: u64,
    /// Share of those that were answered from caches alone.
    pub cached_share: Option<f64>,
    /// Whole times.
    pub duration_ms: Percentiles,
    /// Times behind the gate.
    pub upstream_ms: Percentiles,
    /// The gate's own times.
    #[serde(default)]
    pub gate_ms: Percentiles,
}

/// Requests by class of status.
#[derive(Deserialize)]
pub struct StatusCounts {
    /// 4xx.
    #[serde(rename = "4xx")]
    pub client_errors: u64,
    /// 5xx.
    #[serde(rename = "5xx")]
    pub server_errors: u64,
}

/// Whether all events are stored.
#[derive(Deserialize)]
pub struct Recording {
    pub numbered: u64,
    pub stored: u64,
    pub completeness: f64,
    pub exact: bool,
    pub unclosed: u64,
    pub silent: u64,
    pub lost: u64,
    pub dropped: BTreeMap<String, u64>,
    pub checks: Checks,
    pub queue: Queue,
}

#[derive(Deserialize)]
pub struct Checks {
    pub ip: CheckCounts,
    pub geo: CheckCounts,
    pub route: CheckCounts,
}

#[derive(Deserialize)]
pub struct CheckCounts {
    pub hit_ratio: Option<f64>,
}

#[derive(Deserialize)]
pub struct Queue {
    pub waiting_bytes: u64,
    pub oldest_ms: u64,
}

/// A finding of the doctor.
#[derive(Deserialize, Clone)]
pub struct Finding {
    pub severity: String,
    pub detail: String,
    pub mend: String,
}

impl Finding {
    /// How bad it is, in a word.
    pub fn word(&self) -> &'static str {
        match self.severity.as_str() {
            "error" => "Error",
            "warning" => "Warning",
            _ => "Note",
        }
    }
}

/// What the doctor found.
#[derive(Deserialize)]
pub struct Examined {
    /// The worst first.
    pub findings: Vec<Finding>,
}

/// A gateway.
#[derive(Deserialize)]
pub struct Gateway {
    /// Envoy's node id.
    pub node: String,
    /// The process, hexadecimal.
    pub process: String,
    /// From where it connects.
    pub address: Option<String>,
    /// The version that all its workers enforce.
    pub enforces: Option<String>,
    /// Workers.
    pub vms: u64,
    /// Of these, not heard of for a while.
    pub stale_vms: u64,
    /// Whether it is not heard of.
    pub lost: bool,
    /// Since when it is known.
    pub known_for_ms: u64,
    /// When it was last heard of.
    pub silent_for_ms: u64,
    /// Tables that its filter cannot read.
    pub cannot_read: Vec<String>,
    /// The VM that polls.
    pub poller: Option<Poller>,
}

/// The VM that polls for a gateway.
#[derive(Deserialize)]
pub struct Poller {
    /// Whether it is the singleton recorder.
    pub recorder: bool,
    /// How far its clock is ahead of the service's.
    pub clock_ahead_ms: i64,
}

impl Gateway {
    /// Whether it is there, as a tag.
    pub fn state(&self) -> Markup {
        let (class, word) = match (self.lost, self.stale_vms) {
            (true, _) => ("bad", "lost"),
            (false, 0) => ("good", "live"),
            _ => ("warn", "workers not heard of"),
        };
        html! { span class={ "tag " (class) } { (word) } }
    }

    /// Whether it enforces `version`, as a tag.
    pub fn enforces_tag(&self, version: &str) -> Markup {
        let (class, word) =
            if self.has_reached(version) { ("good", "enforces it") } else { ("warn", "not yet") };
        html! { span class={ "tag " (class) } { (word) } }
    }

    /// Whether it enforces `version` or a later one. Versions are `EPOCH.SEQ`; those of another epoch are of
    /// before the service's last start.
    pub fn has_reached(&self, version: &str) -> bool {
        let read = |text: &str| {
            let (epoch, seq) = text.split_once('.')?;
            Some((epoch.to_owned(), seq.parse::<u64>().ok()?))
        };
        match (self.enforces.as_deref().and_then(read), read(version)) {
            (Some((one, seq)), Some((other, wanted))) => one == other && seq >= wanted,
            _ => false,
        }
    }
}

/// A change that is marked on the time axis.
#[derive(Deserialize)]
pub struct Change {
    pub at: Timestamp,
    pub actor: String,
    pub kind: String,
    pub name: String,
    #[serde(default)]
    pub after: serde_json::Value,
}
