//! `/api/admin/stats/...`: what requests there were, and how long they took. `docs/STATISTICS.md`.

mod auto_bans;
mod limits;
mod paths;
mod timeline;
mod top;

use jiff::Timestamp;
use tidegate_policy::wire::event::MAX_HOST;

use crate::api::admin::events::bounded;
use crate::api::endpoints::Endpoints;
use crate::api::query::QueryParams;
use crate::problem::ApiResult;
use crate::store::StatsFilter;
use crate::time;

/// All paths below it.
pub fn routes() -> Endpoints {
    Endpoints::default()
        .merge(auto_bans::routes())
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
    Ok(StatsFilter { since, until, route: bounded(params, "route", 1_024)?, host })
}

/// A time as answers have it.
fn rfc3339(seconds: i64) -> Option<String> {
    Timestamp::from_second(seconds).ok().map(time::rfc3339)
}

/// `part` of `all`; `None`: there are none.
fn share(part: u64, all: u64) -> Option<f64> {
    (all > 0).then(|| part as f64 / all as f64)
}
