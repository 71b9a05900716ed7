//! `GET /api/admin/optimization/shadow/mismatches`: recorded requests of which a check in shadow was answered
//! differently by the database and by the gateway's tables, with both answers.

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::admin::events;
use crate::api::app_state::AppState;
use crate::api::endpoints::Endpoints;
use crate::api::openapi::about::About;
use crate::api::openapi::parameters::{CHECK, CURSOR, LAGGING, LIMIT, SINCE, UNTIL};
use crate::api::query::QueryParams;
use crate::auth::Role;
use crate::problem::ApiResult;
use crate::store::{EventFilter, EventRow, MismatchFilter};
use crate::time;

/// The path here.
pub fn routes() -> Endpoints {
    let about =
        About::new("Lists requests that database and gateway answered differently in shadow, newest first")
            .query(&[&CHECK, &LAGGING, &SINCE, &UNTIL, &LIMIT, &CURSOR])
            .answers::<MismatchesPage>();
    Endpoints::default().get(Role::Read, "/api/admin/optimization/shadow/mismatches", list).about(about)
}

/// Checks that can be in shadow.
const CHECKS: [&str; 3] = ["ip", "geo", "route"];
/// Requests per page by default.
const DEFAULT_LIMIT: usize = 100;
/// Requests per page at most.
const MAX_LIMIT: usize = 1_000;

/// A page of requests.
#[derive(Serialize, Debug, ToSchema)]
struct MismatchesPage {
    items: Vec<RequestMismatches>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// A request and the checks that differed.
#[derive(Serialize, Debug, ToSchema)]
struct RequestMismatches {
    timestamp: String,
    node: String,
    source: String,
    number: u64,
    method: Option<String>,
    host: Option<String>,
    /// Without its query, which is not recorded.
    path: Option<String>,
    client_ip: Option<String>,
    /// What was done, by the database's answer.
    verdict: String,
    reason: Option<String>,
    route: Option<String>,
    status: Option<u16>,
    mismatches: Vec<MismatchReport>,
}

/// A check that was answered differently.
#[derive(Serialize, Debug, ToSchema)]
struct MismatchReport {
    check: String,
    /// The database's answer, which decided, as text for people; the first 256 bytes.
    direct: String,
    /// The answer of the gateway's tables.
    cached: String,
    difference: Difference,
    /// The `seq` of the version of each answer.
    direct_seq: u64,
    cached_seq: u64,
    /// Whether the gateway's tables were only behind: right for some milliseconds of a change.
    lagging: bool,
}

/// The words of both answers between those that both begin and end with.
#[derive(Serialize, Debug, PartialEq, Eq, ToSchema)]
struct Difference {
    direct: String,
    cached: String,
}

impl Difference {
    fn between(direct: &str, cached: &str) -> Self {
        let [ours, theirs] = [direct, cached].map(|text| text.split(' ').collect::<Vec<_>>());
        let same = |(one, other): &(&&str, &&str)| one == other;
        let begin = ours.iter().zip(&theirs).take_while(same).count();
        let [ours, theirs] = [ours, theirs].map(|words| words[begin..].to_vec());
        let end = ours.iter().rev().zip(theirs.iter().rev()).take_while(same).count();
        let [direct, cached] = [ours, theirs].map(|words| words[..words.len() - end].join(" "));
        Self { direct, cached }
    }
}

/// What the column `mismatches` has of each.
#[derive(Deserialize)]
struct StoredMismatch {
    check: String,
    direct: String,
    cached: String,
    direct_seq: u64,
    cached_seq: u64,
}

impl RequestMismatches {
    /// Of an event, what `wanted` lets pass.
    fn new(event: EventRow, wanted: MismatchFilter) -> Self {
        let stored = event.mismatches.as_deref().map(serde_json::from_str::<Vec<StoredMismatch>>);
        let stored = stored.and_then(Result::ok).unwrap_or_default();
        let reports = stored.into_iter().map(|found| MismatchReport {
            difference: Difference::between(&found.direct, &found.cached),
            lagging: found.cached_seq < found.direct_seq,
            check: found.check,
            direct: found.direct,
            cached: found.cached,
            direct_seq: found.direct_seq,
            cached_seq: found.cached_seq,
        });
        let is_wanted = |report: &MismatchReport| {
            wanted.check.is_none_or(|check| check.name() == report.check)
                && wanted.lagging.is_none_or(|lagging| lagging == report.lagging)
        };
        Self {
            timestamp: time::sql_to_rfc3339(event.timestamp),
            node: event.node,
            source: event.source,
            number: event.number,
            method: event.method,
            host: event.host,
            path: event.path,
            client_ip: event.client_ip,
            verdict: event.verdict,
            reason: event.reason,
            route: event.route,
            status: event.status,
            mismatches: reports.filter(is_wanted).collect(),
        }
    }
}

/// Answers a page of requests.
async fn list(State(app): State<AppState>, uri: Uri) -> ApiResult<Json<MismatchesPage>> {
    let params = QueryParams::read(&uri, &["check", "lagging", "since", "until", "limit", "cursor"])?;
    let limit = params.limit(DEFAULT_LIMIT, MAX_LIMIT)?;
    let (since, until) = params.since_until()?;
    let wanted = MismatchFilter {
        check: params.word("check", &CHECKS)?.and_then(events::check),
        lagging: params.parsed("lagging", "write true or false")?,
    };
    let filter = EventFilter {
        since: since.map(time::to_sql),
        until: until.map(time::to_sql),
        mismatch: Some(wanted),
        ..EventFilter::default()
    };
    let page = app.store.events(&filter, events::position(&params)?, limit).await?;
    let next = page.next.map(|next| events::cursor_at(&params, &next));
    let items = page.rows.into_iter().map(|event| RequestMismatches::new(event, wanted)).collect();
    Ok(Json(MismatchesPage { items, next }))
}

#[cfg(test)]
mod tests {
    use super::Difference;

    #[test]
    fn a_difference_is_what_stands_between_equal_words() {
        for (direct, cached, wanted) in [
            ("shop rule 2 to a:80, geo eu", "shop rule 2 to b:80, geo eu", ("a:80,", "b:80,")),
            ("clear", "banned by 192.0.2.0/24", ("clear", "banned by 192.0.2.0/24")),
            ("shop rule 1 to a", "shop rule 1 to a, other filters", ("a", "a, other filters")),
            ("a a", "a", ("a", "")),
            ("DE", "DE", ("", "")),
        ] {
            let Difference { direct, cached } = Difference::between(direct, cached);
            assert_eq!((direct.as_str(), cached.as_str()), wanted);
        }
    }
}
