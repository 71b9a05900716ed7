//! The figures of a look, and whether each meets its target.

use serde::Serialize;
use serde_json::Value;

use super::Targets;
use super::look::Look;
use crate::cli::targets::Target;

/// What is looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Figure {
    /// Whether the service answered.
    Service,
    /// Whether it says that nothing is wrong.
    Health,
    P50,
    P95,
    P99,
    /// Of clients' requests.
    Success,
    /// Of the events since the look before.
    Completeness,
    RouteHits,
    IpHits,
    /// Of this command's own requests.
    ProbeSuccess,
    ProbeP50,
}

impl Figure {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 11] = [
        Self::Service,
        Self::Health,
        Self::P50,
        Self::P95,
        Self::P99,
        Self::Success,
        Self::Completeness,
        Self::RouteHits,
        Self::IpHits,
        Self::ProbeSuccess,
        Self::ProbeP50,
    ];

    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Health => "health",
            Self::P50 => "P50",
            Self::P95 => "P95",
            Self::P99 => "P99",
            Self::Success => "success",
            Self::Completeness => "completeness",
            Self::RouteHits => "route hits",
            Self::IpHits => "ip hits",
            Self::ProbeSuccess => "probe's success",
            Self::ProbeP50 => "probe's P50",
        }
    }

    /// Whether it is of requests: without any of these, nothing was seen of what a gate is there for.
    pub fn is_of_requests(self) -> bool {
        matches!(self, Self::P50 | Self::Success | Self::ProbeSuccess)
    }

    /// The target of its number; `None`: it is no number.
    pub fn target(self, targets: &Targets) -> Option<Target> {
        let Targets { requests, gateways } = targets;
        Some(match self {
            Self::Service | Self::Health => return None,
            Self::P50 | Self::ProbeP50 => Target::UnderMs(requests.p50),
            Self::P95 => Target::UnderMs(requests.p95),
            Self::P99 => Target::UnderMs(requests.p99),
            Self::Success | Self::ProbeSuccess => Target::OverPercent(requests.success),
            Self::Completeness => Target::OverPercent(gateways.completeness),
            Self::RouteHits => Target::OverPercent(gateways.route_hits),
            Self::IpHits => Target::OverPercent(gateways.ip_hits),
        })
    }
}

/// A figure of a look.
#[derive(Clone, PartialEq, Debug)]
pub struct Measured {
    pub figure: Figure,
    /// Its number, if it is one.
    pub number: Option<f64>,
    /// In words, with its unit.
    pub shown: String,
    /// Whether it meets its target.
    pub met: bool,
}

/// What a look measured; `before`: the last look with counts before it.
pub fn measured(look: &Look, before: Option<&Look>, targets: &Targets) -> Vec<Measured> {
    Figure::ALL.into_iter().filter_map(|figure| measure(figure, look, before, targets)).collect()
}

/// `None`: there was nothing to measure.
fn measure(figure: Figure, look: &Look, before: Option<&Look>, targets: &Targets) -> Option<Measured> {
    let said = |met: bool, shown: String| Some(Measured { figure, number: None, shown, met });
    match (figure, &look.failed, &look.health) {
        (Figure::Service, failed, _) => {
            return said(failed.is_none(), failed.clone().unwrap_or_else(|| "answers".to_owned()));
        }
        (Figure::Health, _, health) => {
            let health = health.as_ref()?;
            let reasons = health.reasons.iter().map(|reason| format!(" {reason}"));
            return said(health.status == "ok", format!("{}{}", health.status, reasons.collect::<String>()));
        }
        _ => {}
    }
    let (target, number) = (figure.target(targets)?, number(figure, look, before)?);
    let reason = match (figure, &look.probe) {
        (Figure::ProbeSuccess, Some(probe)) => probe.failed.as_ref().map(|why| format!(" ({why})")),
        _ => None,
    };
    let shown = format!("{}{}", target.shown(number), reason.unwrap_or_default());
    Some(Measured { figure, number: Some(number), shown, met: target.is_met(number) })
}

fn number(figure: Figure, look: &Look, before: Option<&Look>) -> Option<f64> {
    let counts = || Some((look.recording.as_ref()?, before?.recording.as_ref()?));
    // Until its flag is on for all, a cache has no hits to have.
    let is_on = |flag: &str| {
        [Some(look), before]
            .iter()
            .all(|look| look.is_some_and(|look| look.flags.get(flag) == Some(&Value::Bool(true))))
    };
    let hits = |flag: &str, check: &str| {
        let (now, before) = counts().filter(|_| is_on(flag))?;
        now.hits_since(before, check)
    };
    let traffic = look.traffic.as_ref();
    match figure {
        Figure::Service | Figure::Health => None,
        Figure::P50 => traffic?.p50_ms,
        Figure::P95 => traffic?.p95_ms,
        Figure::P99 => traffic?.p99_ms,
        Figure::Success => traffic?.success(),
        Figure::Completeness => counts().and_then(|(now, before)| now.completeness_since(before)),
        Figure::RouteHits => hits("enableRouteCache", "route"),
        Figure::IpHits => hits("enableIpBlacklistCache", "ip"),
        Figure::ProbeSuccess => Some(look.probe.as_ref()?.success()),
        Figure::ProbeP50 => look.probe.as_ref()?.p50_ms,
    }
}
