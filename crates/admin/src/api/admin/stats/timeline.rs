//! `GET stats/timeline`: requests over time, by verdict, and what they took.

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use serde::Serialize;
use utoipa::ToSchema;

use super::{Percentiles, filter, rfc3339, share};
use crate::api::app_state::AppState;
use crate::api::endpoints::Endpoints;
use crate::api::openapi::about::About;
use crate::api::openapi::parameters::{COUNTED_METHOD, ROUTE, SENT_HOST, SINCE, STEP, TEMPLATE, UNTIL};
use crate::api::query::QueryParams;
use crate::auth::Role;
use crate::problem::ApiResult;
use crate::store::TimelinePoint;
use crate::time;

/// The path here.
pub fn routes() -> Endpoints {
    let about = About::new("Counts requests over time, by verdict, with percentiles of their times")
        .query(&[&SINCE, &UNTIL, &ROUTE, &SENT_HOST, &TEMPLATE, &COUNTED_METHOD, &STEP])
        .answers::<Timeline>();
    Endpoints::default().get(Role::Read, "/api/admin/stats/timeline", timeline).about(about)
}

/// All parameters.
const PARAMETERS: &[&str] = &["since", "until", "route", "host", "template", "method", "step"];
/// Lengths of steps, seconds.
const STEPS: [(&str, i64); 5] = [("1m", 60), ("5m", 300), ("15m", 900), ("1h", 3_600), ("1d", 86_400)];
/// The step that is chosen by the span.
const AUTO: &str = "auto";
/// Points of an answer with [`AUTO`], at most, up to 200 days.
const AUTO_POINTS: i64 = 200;

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
    duration_ms: Percentiles,
    gate_ms: Percentiles,
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
            duration_ms: Percentiles::of(&point.duration),
            gate_ms: Percentiles::of(&point.gate),
        }
    }
}

/// Answers requests over time, oldest first.
async fn timeline(State(app): State<AppState>, uri: Uri) -> ApiResult<Json<Timeline>> {
    let params = QueryParams::read(&uri, PARAMETERS)?;
    let names: Vec<&str> = STEPS.iter().map(|(name, _)| *name).chain([AUTO]).collect();
    let name = params.word("step", &names)?;
    let filter = filter(&params)?;
    let step = match name {
        Some(AUTO) => auto_step(filter.until.min(time::now().as_second()).saturating_sub(filter.since)),
        name => STEPS.iter().find(|(known, _)| Some(*known) == name).unwrap_or(&STEPS[0]).1,
    };
    let points = app.store.timeline(filter, step).await?;
    Ok(Json(Timeline { items: points.into_iter().map(Point::from).collect() }))
}

/// The shortest step of which a span of so many seconds has at most [`AUTO_POINTS`]; a day if none.
fn auto_step(seconds: i64) -> i64 {
    STEPS.into_iter().map(|(_, step)| step).find(|step| seconds / step <= AUTO_POINTS).unwrap_or(STEPS[4].1)
}

#[cfg(test)]
mod tests {
    use super::auto_step;

    #[test]
    fn a_span_has_a_number_of_points_that_a_chart_can_show() {
        for (span, step) in [(0, 60), (10_800, 60), (13_000, 300), (86_400, 900), (604_800, 3_600)] {
            assert_eq!(auto_step(span), step, "{span} s");
        }
        assert_eq!(auto_step(400 * 86_400), 86_400);
    }
}
