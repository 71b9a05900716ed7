//! `GET stats/auto-bans`: what the rules of automatic bans have done.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use serde::Serialize;
use tidegate_author::AutoBan;
use utoipa::ToSchema;

use crate::api::app_state::AppState;
use crate::api::endpoints::Endpoints;
use crate::api::openapi::about::About;
use crate::api::query::QueryParams;
use crate::auth::Role;
use crate::auto_bans::{MAX_COUNTERS, RuleOutcome, RuleState};
use crate::problem::ApiResult;

/// The path here.
pub fn routes() -> Endpoints {
    let about = About::new("Lists what the rules of automatic bans have done").answers::<AutoBansReport>();
    Endpoints::default().get(Role::Read, "/api/admin/stats/auto-bans", auto_bans).about(about)
}

/// What the rules have done.
#[derive(Serialize, Debug, ToSchema)]
struct AutoBansReport {
    items: Vec<AutoBanReport>,
}

/// What a rule has done since it was written, or the service began.
#[derive(Serialize, Debug, ToSchema)]
struct AutoBanReport {
    name: String,
    /// `enforce` or `shadow`.
    mode: &'static str,
    threshold: u32,
    window_s: u32,
    /// How many reached the threshold, by what became of them.
    outcomes: BTreeMap<&'static str, u64>,
    /// Counters that it has now, of so many at most.
    counters: usize,
    max_counters: usize,
    /// Counters that were dropped for others though they had requests of the window.
    dropped: u64,
    /// Events that came too late to be counted.
    late: u64,
}

/// Answers the rules that count.
async fn auto_bans(State(app): State<AppState>, uri: Uri) -> ApiResult<Json<AutoBansReport>> {
    QueryParams::read(&uri, &[])?;
    // Written before this: counted from now on.
    app.current().await;
    let states = app.store.auto_bans().states();
    let max_counters = MAX_COUNTERS / states.len().max(1);
    let report = |(rule, state): (Arc<AutoBan>, RuleState)| {
        let outcomes = RuleOutcome::ALL.map(|outcome| (outcome.name(), state.outcomes[outcome as usize]));
        AutoBanReport {
            name: rule.name.clone(),
            mode: if rule.is_shadow { "shadow" } else { "enforce" },
            threshold: rule.threshold,
            window_s: rule.window_s,
            outcomes: outcomes.into_iter().collect(),
            counters: state.counters,
            max_counters,
            dropped: state.dropped,
            late: state.late,
        }
    };
    Ok(Json(AutoBansReport { items: states.into_iter().map(report).collect() }))
}
