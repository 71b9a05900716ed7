//! `GET /api/admin/optimization/recording/stats`: whether all events are in the database.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use serde::Serialize;
use tidegate_policy::check::Check;
use utoipa::ToSchema;

use crate::api::app_state::AppState;
use crate::api::endpoints::Endpoints;
use crate::api::openapi::about::About;
use crate::api::query::QueryParams;
use crate::auth::Role;
use crate::problem::ApiResult;
use crate::store::{CheckCounts, RecordingCounts, RefusedClaim, SourceGap, StoreError, time_text};
use crate::time;

/// The paths here.
pub fn routes() -> Endpoints {
    let about = About::new("Says whether all events are in the database").answers::<RecordingStats>();
    Endpoints::default().get(Role::Read, "/api/admin/optimization/recording/stats", stats).about(about)
}

/// The answer.
#[derive(Serialize, Debug, PartialEq, ToSchema)]
pub struct RecordingStats {
    numbered: u64,
    stored: u64,
    completeness: f64,
    exact: bool,
    unclosed: u64,
    silent: usize,
    untold: bool,
    pending: u64,
    lost: u64,
    dropped: BTreeMap<&'static str, u64>,
    duplicates: u64,
    malformed: u64,
    removed: u64,
    gaps: Vec<GapOfSource>,
    refused: u64,
    last_refused: Option<Refused>,
    alive: u64,
    open: u64,
    incomplete: u64,
    checks: BTreeMap<&'static str, CheckStats>,
    queue: QueueStats,
}

/// A VM of which numbers are neither stored nor dropped.
#[derive(Serialize, Debug, PartialEq, ToSchema)]
struct GapOfSource {
    source: String,
    gateway: String,
    numbered: u64,
    stored: u64,
    dropped: u64,
}

impl From<SourceGap> for GapOfSource {
    fn from(gap: SourceGap) -> Self {
        let SourceGap { source, gateway, numbered, stored, dropped } = gap;
        Self { source: source.to_string(), gateway, numbered, stored, dropped }
    }
}

/// A claim that was not believed.
#[derive(Serialize, Debug, PartialEq, ToSchema)]
struct Refused {
    source: String,
    gateway: String,
    numbered: u64,
    at: String,
}

impl From<RefusedClaim> for Refused {
    fn from(claim: RefusedClaim) -> Self {
        let RefusedClaim { source, gateway, number, at_ms } = claim;
        let at = time::sql_to_rfc3339(time_text::from_ms(at_ms));
        Self { source: source.to_string(), gateway, numbered: number, at }
    }
}

/// How one check was answered, over all recorded requests.
#[derive(Serialize, Debug, PartialEq, ToSchema)]
pub(super) struct CheckStats {
    /// Requests whose decision needed the check, answered or not.
    asked: u64,
    /// Share of those answered from the gateway's tables as the flag says; `null` without any.
    hit_ratio: Option<f64>,
    cache: u64,
    direct: u64,
    fallback: u64,
    unavailable: u64,
    compared: u64,
    mismatched: u64,
    lagging: u64,
}

impl CheckStats {
    #[expect(clippy::cast_precision_loss, reason = "a ratio; over 2^53 events its last digits do not matter")]
    pub fn new(counts: &CheckCounts) -> Self {
        let CheckCounts { cache, direct, fallback, unavailable, compared, mismatched, lagging } = *counts;
        let asked = cache.saturating_add(direct).saturating_add(fallback).saturating_add(unavailable);
        let hit_ratio = (asked > 0).then(|| cache as f64 / asked as f64);
        Self { asked, hit_ratio, cache, direct, fallback, unavailable, compared, mismatched, lagging }
    }
}

#[derive(Serialize, Debug, PartialEq, ToSchema)]
struct QueueStats {
    waiting_bytes: u64,
    oldest_ms: u64,
    retries: u64,
}

/// Answers the counts.
pub async fn stats(State(app): State<AppState>, uri: Uri) -> ApiResult<Json<RecordingStats>> {
    QueryParams::read(&uri, &[])?;
    let (counts, silent) = read_counts(&app).await?;
    Ok(Json(RecordingStats::new(counts, silent)))
}

/// The counts, and the number of silent gateways: those with VMs that have not ended, as far as
/// is known, and that are not heard of.
pub async fn read_counts(app: &AppState) -> Result<(RecordingCounts, usize), StoreError> {
    let open = app.store.gateways_with_open_sources().await?;
    let counts = app.store.recording().await?;
    Ok((counts, app.gateways.silent(&open)))
}

impl RecordingStats {
    /// Stored events divided by numbered ones.
    pub fn completeness(&self) -> f64 {
        self.completeness
    }

    /// Whether completeness is exact; otherwise it is an upper bound.
    pub fn is_exact(&self) -> bool {
        self.exact
    }

    /// `silent`: gateways with VMs that have not ended, as far as is known, and that are not
    /// heard of. What these numbered since their last post is unknown.
    #[expect(clippy::cast_precision_loss, reason = "a ratio; over 2^53 events its last digits do not matter")]
    pub fn new(counts: RecordingCounts, silent: usize) -> Self {
        let completeness = match counts.numbered {
            0 => 1.0,
            numbered => counts.stored as f64 / numbered as f64,
        };
        Self {
            numbered: counts.numbered,
            stored: counts.stored,
            completeness,
            exact: counts.is_exact(silent),
            unclosed: counts.unclosed,
            silent,
            untold: counts.untold,
            pending: counts.pending,
            lost: counts.lost,
            dropped: counts.dropped.into_iter().collect(),
            duplicates: counts.duplicates,
            malformed: counts.malformed,
            removed: counts.removed,
            gaps: counts.gaps.into_iter().map(GapOfSource::from).collect(),
            refused: counts.refused,
            last_refused: counts.last_refused.map(Refused::from),
            alive: counts.alive,
            open: counts.open,
            incomplete: counts.incomplete,
            checks: Check::ALL.map(|check| (check.name(), CheckStats::new(counts.checks.get(check)))).into(),
            queue: QueueStats {
                waiting_bytes: counts.recorder.waiting_bytes,
                oldest_ms: counts.recorder.oldest_ms,
                retries: counts.recorder.retries,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completeness_is_what_is_stored_of_what_was_numbered() {
        let counts =
            |numbered, stored, unclosed| RecordingCounts { numbered, stored, unclosed, ..Default::default() };
        let nothing = RecordingStats::new(counts(0, 0, 0), 0);
        assert_eq!((nothing.completeness, nothing.exact), (1.0, true));
        let half = RecordingStats::new(counts(4, 2, 1), 0);
        assert_eq!((half.completeness, half.exact), (0.5, false));
        let none = CheckStats::new(&CheckCounts::default());
        assert_eq!((none.asked, none.hit_ratio), (0, None));
        let some = CheckCounts { cache: 6, direct: 1, fallback: 2, unavailable: 3, ..CheckCounts::default() };
        assert_eq!((CheckStats::new(&some).asked, CheckStats::new(&some).hit_ratio), (12, Some(0.5)));
        let unheard = RecordingStats::new(counts(4, 4, 0), 1);
        assert_eq!((unheard.completeness, unheard.exact), (1.0, false));
        let untold = RecordingStats::new(RecordingCounts { untold: true, ..counts(4, 4, 0) }, 0);
        assert_eq!((untold.completeness, untold.exact), (1.0, false));
    }
}
