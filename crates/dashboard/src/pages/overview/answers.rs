//! What the API answers for the overview.

use futures_util::try_join;
use jiff::Timestamp;
use serde::Deserialize;

use crate::answers::{Examined, Finding, Gateway, PathStats, Recording};
use crate::api::{ApiClient, ApiError};
use crate::pages::rollouts::{Rollout, now_or_lately};
use crate::timeline::{Span, Timeline};

/// All of it.
pub struct Answers {
    /// Requests by step.
    pub timeline: Timeline,
    /// Requests of the whole span.
    pub total: PathStats,
    /// Whether all events are stored.
    pub recording: Recording,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// The gateways.
    pub gateways: Gateways,
    /// Rollouts that go on, or were taken back lately.
    pub rollouts: Vec<Rollout>,
}

/// The gateways, and the version that they should enforce.
#[derive(Deserialize)]
pub struct Gateways {
    /// The newest version.
    pub version: String,
    /// Each gateway.
    pub items: Vec<Gateway>,
}

/// The sum of all paths.
#[derive(Deserialize)]
struct Paths {
    total: PathStats,
}

impl Answers {
    /// Asks for what happened within `span` before `now`.
    pub async fn ask(api: &ApiClient, span: Span, now: Timestamp) -> Result<Self, ApiError> {
        let paths = format!("stats/paths?since={}&limit=1", span.since(now));
        let (timeline, paths, recording, examined, gateways, rollouts) = try_join!(
            Timeline::ask(api, span, now, ""),
            api.get::<Paths>(&paths),
            api.get::<Recording>("optimization/recording/stats"),
            api.get::<Examined>("doctor"),
            api.get::<Gateways>("gateways"),
            now_or_lately(api),
        )?;
        Ok(Self { timeline, total: paths.total, recording, findings: examined.findings, gateways, rollouts })
    }
}
