//! `GET stats/timeline`: requests over time, by verdict.

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use serde::Serialize;
use utoipa::ToSchema;

use super::{filter, rfc3339, share};
use crate::api::app_state::AppState;
use crate::api::endpoints::Endpoints;
use crate::api::openapi::about::About;
use crate::api::openapi::parameters::{ROUTE, SENT_HOST, SINCE, STEP, UNTIL};
use crate::api::query::QueryParams;
use crate::auth::Role;
use crate::problem::ApiResult;
use crate::store::TimelinePoint;

/// The path here.
pub fn routes() -> Endpoints {
    let about = About::new("Counts requests over time, by verdict")
        .query(&[&SINCE, &UNTIL, &ROUTE, &SENT_HOST, &STEP])
        .answers::<Timeline>();
    Endpoints::default().get(Role::Read, "/api/admin/stats/timeline", timeline).about(about)
}

/// Lengths of steps, seconds.
const STEPS: [(&str, i64); 3] = [("1m", 60), ("1h", 3_600), ("1d", 86_400)];

/// Requests over time.
#[derive(Serialize, Debug, ToSchema)]
struct Timeline {
    items: Vec<Point>,
}

/// Requests of one span.
#[derive(Serialize, Debug, ToSchema)]
struct Point {
    at: Option<String>,
    seconds: i64,
    requests: u64,
    allow: u64,
    deny: u64,
    redirect: u64,
    unseen: u64,
    cached_share: Option<f64>,
}

impl From<TimelinePoint> for Point {
    fn from(point: TimelinePoint) -> Self {
        let [allow, deny, redirect, unseen] = point.verdicts;
        Self {
            at: rfc3339(point.at),
            seconds: point.seconds,
            requests: point.verdicts.iter().fold(0, |sum, count| sum.saturating_add(*count)),
            allow,
            deny,
            redirect,
            unseen,
            cached_share: share(point.cached, point.checked),
        }
    }
}

/// Answers requests over time, oldest first.
async fn timeline(State(app): State<AppState>, uri: Uri) -> ApiResult<Json<Timeline>> {
    let params = QueryParams::read(&uri, &["since", "until", "route", "host", "step"])?;
    let name = params.word("step", &STEPS.map(|(name, _)| name))?;
    let step = STEPS.iter().find(|(known, _)| Some(*known) == name).unwrap_or(&STEPS[0]).1;
    let points = app.store.timeline(filter(&params)?, step).await?;
    Ok(Json(Timeline { items: points.into_iter().map(Point::from).collect() }))
}
