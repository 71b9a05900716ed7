//! `GET stats/paths`: requests and their times by route, template and method.

use std::cmp::Reverse;

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use serde::Serialize;
use utoipa::ToSchema;

use super::{Percentiles, filter, rfc3339, share};
use crate::api::app_state::AppState;
use crate::api::endpoints::Endpoints;
use crate::api::openapi::about::About;
use crate::api::openapi::parameters::{
    COUNTED_METHOD, GROUP, LIMIT, ROUTE, SENT_HOST, SINCE, SORT, TEMPLATE, UNTIL,
};
use crate::api::query::QueryParams;
use crate::auth::Role;
use crate::problem::ApiResult;
use crate::store::{PathStats, RequestStats, StatsFilter};
use tidegate_statistics::histogram::PRECISION;

/// The path here.
pub fn routes() -> Endpoints {
    let about = About::new(
        "Counts requests by route, template and method, or by route, with percentiles of their times",
    )
    .query(&[&SINCE, &UNTIL, &ROUTE, &SENT_HOST, &TEMPLATE, &COUNTED_METHOD, &GROUP, &SORT, &LIMIT])
    .answers::<PathsReport>();
    Endpoints::default().get(Role::Read, "/api/admin/stats/paths", paths).about(about)
}

/// All parameters.
const PARAMETERS: &[&str] =
    &["since", "until", "route", "host", "template", "method", "group", "sort", "limit"];
/// Paths by default.
const DEFAULT_LIMIT: usize = 100;
/// Paths at most.
const MAX_LIMIT: usize = 1_000;
/// What they are sorted by, highest first.
const SORTS: [&str; 7] = ["requests", "p50", "p95", "p99", "bytes_out", "errors", "denied"];

/// What requests are counted by: route, template and method; or the route alone.
const GROUPS: [&str; 2] = ["path", "route"];

/// Requests by path.
#[derive(Serialize, Debug, ToSchema)]
struct PathsReport {
    since: Option<String>,
    until: Option<String>,
    /// How far a percentile may be off, by its value.
    precision: f64,
    total: StatsReport,
    items: Vec<PathReport>,
    /// Paths that `limit` leaves out.
    left_out: usize,
}

#[derive(Serialize, Debug, ToSchema)]
struct PathReport {
    route: Option<String>,
    template: Option<String>,
    method: Option<String>,
    #[serde(flatten)]
    stats: StatsReport,
}

#[derive(Serialize, Debug, ToSchema)]
struct StatsReport {
    requests: u64,
    denied: u64,
    status: StatusCounts,
    bytes_in: u64,
    bytes_out: u64,
    cached_share: Option<f64>,
    duration_ms: Percentiles,
    upstream_ms: Percentiles,
    gate_ms: Percentiles,
}

/// Requests by class of status.
#[derive(Serialize, Debug, ToSchema)]
struct StatusCounts {
    none: u64,
    #[serde(rename = "1xx")]
    c1: u64,
    #[serde(rename = "2xx")]
    c2: u64,
    #[serde(rename = "3xx")]
    c3: u64,
    #[serde(rename = "4xx")]
    c4: u64,
    #[serde(rename = "5xx")]
    c5: u64,
}

impl From<&RequestStats> for StatsReport {
    fn from(stats: &RequestStats) -> Self {
        let [none, c1, c2, c3, c4, c5] = stats.classes;
        Self {
            requests: stats.requests,
            denied: stats.denied,
            status: StatusCounts { none, c1, c2, c3, c4, c5 },
            bytes_in: stats.bytes_in,
            bytes_out: stats.bytes_out,
            cached_share: share(stats.cached, stats.checked),
            duration_ms: Percentiles::of(&stats.duration),
            upstream_ms: Percentiles::of(&stats.upstream),
            gate_ms: Percentiles::of(&stats.gate),
        }
    }
}

/// Answers requests by path.
async fn paths(State(app): State<AppState>, uri: Uri) -> ApiResult<Json<PathsReport>> {
    let params = QueryParams::read(&uri, PARAMETERS)?;
    let limit = params.limit(DEFAULT_LIMIT, MAX_LIMIT)?;
    let sort = params.word("sort", &SORTS)?.unwrap_or(SORTS[0]);
    let by_route = params.word("group", &GROUPS)? == Some(GROUPS[1]);
    let filter = StatsFilter { by_route, ..filter(&params)? };
    let mut answer = app.store.path_stats(filter).await?;
    answer.paths.sort_by_cached_key(|path| {
        (Reverse(rank(sort, &path.stats)), path.route.clone(), path.template.clone(), path.method.clone())
    });
    let left_out = answer.paths.len().saturating_sub(limit);
    answer.paths.truncate(limit);
    let text = |text: String| Some(text).filter(|text| !text.is_empty());
    let item = |path: PathStats| PathReport {
        stats: (&path.stats).into(),
        route: text(path.route),
        template: text(path.template),
        method: text(path.method),
    };
    Ok(Json(PathsReport {
        since: answer.covers.and_then(|(since, _)| rfc3339(since)),
        until: answer.covers.and_then(|(_, until)| rfc3339(until)),
        precision: PRECISION,
        total: (&answer.total).into(),
        items: answer.paths.into_iter().map(item).collect(),
        left_out,
    }))
}

fn rank(sort: &str, stats: &RequestStats) -> u64 {
    let quantile = |share| stats.duration.quantile(share).unwrap_or_default();
    match sort {
        "p50" => quantile(0.5),
        "p95" => quantile(0.95),
        "p99" => quantile(0.99),
        "bytes_out" => stats.bytes_out,
        "errors" => stats.classes[5],
        "denied" => stats.denied,
        _ => stats.requests,
    }
}
