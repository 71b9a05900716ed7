//! What the API answers about a request that is described.

use serde::Deserialize;
use serde_json::Value;

/// How a request would be handled.
#[derive(Deserialize)]
pub struct Explanation {
    pub version: String,
    pub decision: Outcome,
    pub checks: ExplainedChecks,
}

#[derive(Deserialize)]
pub struct ExplainedChecks {
    pub ip: IpCheck,
    pub geo: GeoCheck,
    pub route: RouteCheck,
    pub limits: Vec<CountingLimit>,
}

/// The outcome, be it of one backend.
#[derive(Deserialize)]
pub struct Outcome {
    pub verdict: String,
    pub status: Option<u16>,
    pub reason: Option<String>,
    pub rule: Option<String>,
    pub would_deny: Option<String>,
    pub would_deny_rule: Option<String>,
    pub template: Option<String>,
    pub backend: Option<Backend>,
    #[serde(default)]
    pub effects: Effects,
}

#[derive(Deserialize)]
pub struct Backend {
    pub name: String,
    pub namespace: Option<String>,
    pub address: Option<String>,
    pub tls: Option<bool>,
    pub known: Option<bool>,
}

/// What filters change.
#[derive(Deserialize, Default)]
#[serde(default)]
pub struct Effects {
    pub location: Option<String>,
    pub host: Option<String>,
    pub path: Option<String>,
    pub request_headers: Vec<HeaderChange>,
    pub response_headers: Vec<HeaderChange>,
    pub mirrors: Vec<Mirror>,
    pub request_timeout_ms: Option<u64>,
    pub backend_timeout_ms: Option<u64>,
    pub retry: Option<Retry>,
    pub cors: Option<bool>,
}

#[derive(Deserialize)]
pub struct HeaderChange {
    pub action: String,
    pub name: String,
    pub value: Option<String>,
}

#[derive(Deserialize)]
pub struct Mirror {
    pub name: String,
    pub numerator: u64,
    pub denominator: u64,
}

#[derive(Deserialize)]
pub struct Retry {
    pub attempts: u32,
    pub codes: Vec<u16>,
}

#[derive(Deserialize)]
pub struct IpCheck {
    pub says: String,
    pub entry: Option<String>,
    pub reason: Option<String>,
    pub source: Option<String>,
    pub until: Option<String>,
    /// Where the entry applies, if not everywhere.
    pub applies_to: Option<Value>,
    /// Bans that cover the client at other hostnames or routes only.
    #[serde(default)]
    pub elsewhere: Vec<LimitedBan>,
}

/// A ban that applies at some hostnames or routes only.
#[derive(Deserialize)]
pub struct LimitedBan {
    pub entry: String,
    pub status: String,
    pub applies_to: Option<Value>,
    pub reason: Option<String>,
}

#[derive(Deserialize)]
pub struct GeoCheck {
    pub country: Option<String>,
    pub rules: Vec<GeoRuleAnswer>,
}

#[derive(Deserialize)]
pub struct GeoRuleAnswer {
    pub name: String,
    pub global: bool,
    pub holds: bool,
    pub says: String,
    pub status: Option<u16>,
    #[serde(default)]
    pub shadow: bool,
}

#[derive(Deserialize)]
pub struct RouteCheck {
    pub listeners: Vec<String>,
    pub matches: Vec<Match>,
    pub more: u64,
    pub backends: Vec<Share>,
    pub warnings: Vec<String>,
}

#[derive(Deserialize)]
pub struct Match {
    pub route: String,
    pub rule: u64,
    pub rule_name: Option<String>,
    pub wins: bool,
    pub why: Option<String>,
    pub hostname: Option<String>,
    #[serde(default)]
    pub closed: bool,
    pub path: PathCondition,
    pub method: Option<String>,
    pub headers: u64,
    pub query: u64,
}

#[derive(Deserialize)]
pub struct PathCondition {
    pub r#type: String,
    pub value: String,
}

#[derive(Deserialize)]
pub struct Share {
    pub weight: u64,
    pub outcome: Outcome,
}

#[derive(Deserialize)]
pub struct CountingLimit {
    pub name: String,
    pub key: String,
    pub rate: u64,
    pub per_s: u64,
    pub burst: u64,
    pub shadow: bool,
}
