//! One look: what the service says of itself and its gateways, and a probe of one's own.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use form_urlencoded::Serializer;
use jiff::Timestamp;
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{is_refusal, moment};
use crate::cli::api_client::{ApiClient, RequestError};
use crate::cli::bench::load::Load;
use crate::time;

/// How long the questions of a look may take in all.
const PATIENCE: Duration = Duration::from_secs(30);

/// One look, as it is saved.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Look {
    /// Its number, from 0; those that were not taken are missing.
    pub number: i64,
    /// When it was taken.
    pub at: String,
    /// Why the service did not answer; then there is nothing of it.
    pub failed: Option<String>,
    /// What it says of itself.
    pub health: Option<HealthSeen>,
    /// The requests since the look before.
    pub traffic: Option<Traffic>,
    /// Counts of events and checks, since the database was made.
    pub recording: Option<Recording>,
    /// The flags.
    pub flags: BTreeMap<String, Value>,
    /// What requests of this command's own showed.
    pub probe: Option<Probe>,
}

/// `optimization/health`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthSeen {
    pub status: String,
    /// Codes of what is wrong.
    pub reasons: Vec<String>,
    pub gateways: u64,
    /// Gateways that were not heard of for over 3 s.
    pub lost: u64,
}

/// `stats/paths`, all of them together. Rollups are of whole minutes, hours or days, so that there may be more in it
/// than since the look before.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Traffic {
    pub since: Option<String>,
    pub requests: u64,
    pub denied: u64,
    #[serde(rename = "5xx")]
    pub errors: u64,
    /// Requests whose client went before there was a status.
    pub without_status: u64,
    pub p50_ms: Option<f64>,
    pub p95_ms: Option<f64>,
    pub p99_ms: Option<f64>,
    pub gate_p95_ms: Option<f64>,
}

/// `recording/stats`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recording {
    pub numbered: u64,
    pub stored: u64,
    pub pending: u64,
    pub lost: u64,
    /// Of all reasons.
    pub dropped: u64,
    pub completeness: f64,
    pub exact: bool,
    pub checks: BTreeMap<String, Checked>,
}

/// Who answered a check.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checked {
    pub asked: u64,
    pub cache: u64,
}

/// Requests of this command's own.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    pub requests: u64,
    /// Answered with a status below 400.
    pub successes: u64,
    pub p50_ms: Option<f64>,
    pub max_ms: Option<f64>,
    /// The first error, or the first status of 400 or more.
    pub failed: Option<String>,
}

impl Look {
    /// When it was taken.
    pub fn moment(&self) -> Timestamp {
        moment(&self.at)
    }
}

/// The last look with counts, of those before another one.
pub fn counted(before: &[Look]) -> Option<&Look> {
    before.iter().rfind(|look| look.recording.is_some())
}

/// Takes a look. Returns it also if the service is away; the error if it does not take the token.
pub async fn take(
    client: &ApiClient,
    number: i64,
    since: Timestamp,
    probe: Option<&Load>,
) -> (Look, Option<RequestError>) {
    let at = time::rfc3339(time::to_the_millisecond(time::now()));
    let mut look = Look { number, at, ..Look::default() };
    if let Some(load) = probe {
        look.probe = Some(Probe::of(load).await);
    }
    let asked = tokio::time::timeout(PATIENCE, look.ask(client, since)).await;
    let Err(error) =
        asked.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer within {} s", PATIENCE.as_secs())))
    else {
        return (look, None);
    };
    // Nothing of half a look: its parts would be of different moments.
    let (number, at, probe) = (look.number, look.at, look.probe);
    let failed = Some(format!("{error:#}"));
    let refusal = error.downcast::<RequestError>().ok().filter(is_refusal);
    (Look { number, at, probe, failed, ..Look::default() }, refusal)
}

impl Look {
    async fn ask(&mut self, client: &ApiClient, since: Timestamp) -> anyhow::Result<()> {
        let get = async |target: &str, field: &str| client.request(Method::GET, target, None, field).await;
        let health = get("/api/admin/optimization/health", "status").await?;
        self.health = Some(HealthSeen::of(health).context("optimization/health")?);
        let query = Serializer::new(String::new())
            .extend_pairs([("since", time::rfc3339(since).as_str()), ("group", "route"), ("limit", "1")])
            .finish();
        let paths = get(&format!("/api/admin/stats/paths?{query}"), "items").await?;
        self.traffic = Some(Traffic::of(paths).context("stats/paths")?);
        let recording = get("/api/admin/optimization/recording/stats", "numbered").await?;
        self.recording = Some(Recording::of(recording).context("optimization/recording/stats")?);
        let flags = get("/api/admin/optimization/flags", "enableRouteCache").await?;
        self.flags = serde_json::from_value(flags).context("optimization/flags")?;
        Ok(())
    }
}

impl HealthSeen {
    fn of(answer: Value) -> serde_json::Result<Self> {
        #[derive(Deserialize)]
        struct Answer {
            status: String,
            reasons: Vec<Reason>,
            gateways: Vec<Gateway>,
        }
        #[derive(Deserialize)]
        struct Reason {
            code: String,
        }
        #[derive(Deserialize)]
        struct Gateway {
            lost: bool,
        }
        let Answer { status, reasons, gateways } = serde_json::from_value(answer)?;
        Ok(Self {
            status,
            reasons: reasons.into_iter().map(|reason| reason.code).collect(),
            gateways: gateways.len() as u64,
            lost: gateways.iter().filter(|gateway| gateway.lost).count() as u64,
        })
    }
}

impl Traffic {
    fn of(answer: Value) -> serde_json::Result<Self> {
        #[derive(Deserialize)]
        struct Answer {
            since: Option<String>,
            total: Total,
        }
        #[derive(Deserialize)]
        struct Total {
            requests: u64,
            denied: u64,
            status: Statuses,
            duration_ms: Percentiles,
            gate_ms: Percentiles,
        }
        #[derive(Deserialize)]
        struct Statuses {
            none: u64,
            #[serde(rename = "5xx")]
            errors: u64,
        }
        #[derive(Deserialize)]
        struct Percentiles {
            p50: Option<f64>,
            p95: Option<f64>,
            p99: Option<f64>,
        }
        let Answer { since, total: Total { requests, denied, status, duration_ms, gate_ms } } =
            serde_json::from_value(answer)?;
        let Percentiles { p50: p50_ms, p95: p95_ms, p99: p99_ms } = duration_ms;
        let Statuses { none: without_status, errors } = status;
        let gate_p95_ms = gate_ms.p95;
        Ok(Self { since, requests, denied, errors, without_status, p50_ms, p95_ms, p99_ms, gate_p95_ms })
    }

    /// Requests that were answered with a status below 500, of those with a status, percent; `None`: there were none.
    pub fn success(&self) -> Option<f64> {
        let with_status = self.requests.saturating_sub(self.without_status);
        (with_status > 0).then(|| (1.0 - self.errors as f64 / with_status as f64) * 100.0)
    }
}

impl Recording {
    fn of(answer: Value) -> serde_json::Result<Self> {
        #[derive(Deserialize)]
        struct Answer {
            numbered: u64,
            stored: u64,
            pending: u64,
            lost: u64,
            dropped: BTreeMap<String, u64>,
            completeness: f64,
            exact: bool,
            checks: BTreeMap<String, OneCheck>,
        }
        #[derive(Deserialize)]
        struct OneCheck {
            asked: u64,
            cache: u64,
        }
        let Answer { numbered, stored, pending, lost, dropped, completeness, exact, checks } =
            serde_json::from_value(answer)?;
        let dropped = dropped.into_values().fold(0, u64::saturating_add);
        let checks =
            checks.into_iter().map(|(name, OneCheck { asked, cache })| (name, Checked { asked, cache }));
        let checks = checks.collect();
        Ok(Self { numbered, stored, pending, lost, dropped, completeness, exact, checks })
    }

    /// How many of the events since `before` are stored or still to come, percent. `None`: there were none, or the counts
    /// began anew.
    pub fn completeness_since(&self, before: &Self) -> Option<f64> {
        let numbered = self.numbered.checked_sub(before.numbered).filter(|numbered| *numbered > 0)?;
        let there = |counts: &Self| counts.stored.saturating_add(counts.pending);
        let came = there(self).saturating_sub(there(before));
        Some((came as f64 / numbered as f64).min(1.0) * 100.0)
    }

    /// How many of a check's answers since `before` came from gateways' tables, percent. `None`: there were none, or the
    /// counts began anew.
    pub fn hits_since(&self, before: &Self, check: &str) -> Option<f64> {
        let (now, before) = (self.checks.get(check)?, before.checks.get(check).copied().unwrap_or_default());
        let asked = now.asked.checked_sub(before.asked).filter(|asked| *asked > 0)?;
        Some(now.cache.checked_sub(before.cache)? as f64 / asked as f64 * 100.0)
    }
}

impl Probe {
    async fn of(load: &Load) -> Self {
        let result = match load.run().await {
            Ok(result) => result,
            Err(error) => return Self { failed: Some(format!("{error:#}")), ..Self::default() },
        };
        let error = result.errors.iter().next().map(|(kind, of)| format!("{}: {}", kind.name(), of.first));
        let status =
            result.status.range(400..).next().map(|(status, count)| format!("{count} times {status}"));
        Self {
            requests: result.requests,
            successes: result.successes(),
            p50_ms: result.latency.quantile(0.5),
            max_ms: result.latency.longest(),
            failed: error.or(status),
        }
    }

    /// Its successes, percent.
    pub fn success(&self) -> f64 {
        if self.requests == 0 { 0.0 } else { self.successes as f64 / self.requests as f64 * 100.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recording(numbered: u64, stored: u64, pending: u64, asked: u64, cache: u64) -> Recording {
        let checks = [("ip".to_owned(), Checked { asked, cache })].into();
        Recording { numbered, stored, pending, checks, ..Recording::default() }
    }

    #[test]
    fn counts_are_of_what_came_between_two_looks() {
        let before = recording(1_000, 900, 0, 1_000, 0);
        let after = recording(2_000, 1_890, 5, 2_000, 950);
        assert_eq!(after.completeness_since(&before), Some(99.5));
        assert_eq!(after.hits_since(&before, "ip"), Some(95.0));
        assert_eq!(after.hits_since(&before, "geo"), None);
        assert_eq!(before.completeness_since(&before), None, "there were none");
        assert_eq!(before.completeness_since(&after), None, "another database");
        // What was pending before may come in addition.
        let late = recording(1_010, 1_000, 0, 0, 0);
        assert_eq!(late.completeness_since(&recording(1_000, 900, 0, 0, 0)), Some(100.0));
    }

    #[test]
    fn a_client_that_went_is_no_failure_of_the_gate() {
        let traffic = Traffic { requests: 1_010, without_status: 10, errors: 1, ..Traffic::default() };
        assert_eq!(traffic.success(), Some(99.9));
        assert_eq!(Traffic { requests: 3, without_status: 3, ..Traffic::default() }.success(), None);
        assert_eq!((Probe::default().success(), Traffic::default().success()), (0.0, None));
    }
}
