//! `/api/admin/stats/...`: what requests there were, and how long they took. `docs/STATISTICS.md`.

mod auto_bans;
mod countries;
mod limits;
mod paths;
mod timeline;
mod top;

use jiff::Timestamp;
use serde::Serialize;
use tidegate_policy::wire::event::{MAX_HOST, MAX_METHOD, MAX_PATH};
use utoipa::ToSchema;

use crate::api::admin::events::bounded;
use crate::api::endpoints::Endpoints;
use crate::api::query::QueryParams;
use crate::problem::ApiResult;
use crate::store::StatsFilter;
use crate::time;
use tidegate_statistics::histogram::HistogramSum;

/// All paths below it.
pub fn routes() -> Endpoints {
    Endpoints::default()
        .merge(auto_bans::routes())
        .merge(countries::routes())
        .merge(limits::routes())
        .merge(paths::routes())
        .merge(timeline::routes())
        .merge(top::routes())
}

/// What is answered without `since`: the last day, seconds.
const DAY: i64 = 86_400;

/// Beginning and end of what `params` ask for, Unix seconds: the last day without `since`, and until tomorrow
/// without `until`, for gateways' clocks may be ahead.
fn span(params: &QueryParams) -> ApiResult<(i64, i64)> {
    let (since, until) = params.since_until()?;
    let now = time::now().as_second();
    let until = until.map_or(now + DAY, |until| until.as_millisecond().div_euclid(1_000) + 1);
    Ok((since.map_or(until.min(now) - DAY, Timestamp::as_second), until))
}

/// The requests that `params` ask for.
fn filter(params: &QueryParams) -> ApiResult<StatsFilter> {
    let (since, until) = span(params)?;
    let host = bounded(params, "host", MAX_HOST)?.map(|host| host.to_ascii_lowercase());
    let route = bounded(params, "route", 1_024)?;
    let template = bounded(params, "template", MAX_PATH)?;
    // `other` is what it is, all others are as HTTP has them.
    let method = bounded(params, "method", MAX_METHOD)?
        .map(|method| if method == "other" { method } else { method.to_ascii_uppercase() });
    Ok(StatsFilter { since, until, route, host, template, method, by_route: false })
}

/// Percentiles of times, milliseconds; `null`: there are no times.
#[derive(Serialize, Debug, ToSchema)]
struct Percentiles {
    p50: Option<f64>,
    p95: Option<f64>,
    p99: Option<f64>,
}

impl Percentiles {
    fn of(times: &HistogramSum) -> Self {
        let [p50, p95, p99] =
            [0.5, 0.95, 0.99].map(|share| times.quantile(share).map(|us| us as f64 / 1_000.0));
        Self { p50, p95, p99 }
    }
}

/// A time as answers have it.
fn rfc3339(seconds: i64) -> Option<String> {
    Timestamp::from_second(seconds).ok().map(time::rfc3339)
}

/// `part` of `all`; `None`: there are none.
fn share(part: u64, all: u64) -> Option<f64> {
    (all > 0).then(|| part as f64 / all as f64)
}
