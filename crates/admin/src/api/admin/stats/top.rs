//! `GET stats/top`: the most frequent addresses, countries, paths, reasons, user agents, rules,
//! limits, and what entries in shadow would have denied.

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::{DAY, rfc3339, span};
use crate::api::app_state::AppState;
use crate::api::endpoints::Endpoints;
use crate::api::openapi::about::About;
use crate::api::openapi::parameters::{BY, SINCE, TOP, UNTIL};
use crate::api::query::QueryParams;
use crate::auth::Role;
use crate::problem::{ApiResult, Problem};
use crate::store::{TopOf, TopValue};
use crate::time;

/// The path here.
pub fn routes() -> Endpoints {
    let about = About::new("Lists the most frequent values of whole days")
        .query(&[&BY, &SINCE, &UNTIL, &TOP])
        .answers::<TopReport>();
    Endpoints::default().get(Role::Read, "/api/admin/stats/top", top).about(about)
}

/// What can be asked for.
const KINDS: [TopOf; 9] = [
    TopOf::Ip,
    TopOf::Country,
    TopOf::Path,
    TopOf::Reason,
    TopOf::UserAgent,
    TopOf::Rule,
    TopOf::Limit,
    TopOf::WouldDeny,
    TopOf::ShadowSource,
];
/// Values by default.
const DEFAULT_LIMIT: usize = 20;
/// Values at most: as many as are kept of a day.
const MAX_LIMIT: usize = 1_000;

/// The most frequent values.
#[derive(Serialize, Debug, ToSchema)]
struct TopReport {
    by: &'static str,
    since: Option<String>,
    until: Option<String>,
    items: Vec<ValueReport>,
}

/// A frequent value.
#[derive(Serialize, Debug, ToSchema)]
pub struct ValueReport {
    value: String,
    pub requests: u64,
    /// How much `requests` may be too high.
    pub over: u64,
    /// How much it may be too low.
    pub under: u64,
    pub last_seen: Option<String>,
}

impl From<TopValue> for ValueReport {
    fn from(row: TopValue) -> Self {
        let last_seen = Timestamp::from_millisecond(row.last_ms).ok().map(time::rfc3339);
        Self { value: row.value, requests: row.count, over: row.over, under: row.under, last_seen }
    }
}

/// Beginning and end of the days that `params` ask for, Unix seconds: today's without `since`.
pub fn days(params: &QueryParams) -> ApiResult<(i64, i64)> {
    let (since, until) = span(params)?;
    let today = time::now().as_second().div_euclid(DAY) * DAY;
    let since =
        if params.get("since").is_some() { since.div_euclid(DAY) * DAY } else { today.min(until - 1) };
    let end = (until - 1).div_euclid(DAY).saturating_add(1) * DAY;
    Ok((since.div_euclid(DAY) * DAY, end.min(today + DAY)))
}

/// Answers the most frequent values of whole days.
async fn top(State(app): State<AppState>, uri: Uri) -> ApiResult<Json<TopReport>> {
    let params = QueryParams::read(&uri, &["by", "since", "until", "limit"])?;
    let limit = params.limit(DEFAULT_LIMIT, MAX_LIMIT)?;
    let name = params.word("by", &KINDS.map(TopOf::name))?;
    let by = KINDS.into_iter().find(|of| Some(of.name()) == name).ok_or_else(|| {
        let known = KINDS.map(TopOf::name).join(", ");
        Problem::parameter("by", "missing", format!("say what the most frequent values are of: {known}"))
    })?;
    let (since, until) = days(&params)?;
    let values = app.store.top_values(by, (since, until), limit).await?;
    Ok(Json(TopReport {
        by: by.name(),
        since: rfc3339(since),
        until: rfc3339(until),
        items: values.into_iter().map(ValueReport::from).collect(),
    }))
}
