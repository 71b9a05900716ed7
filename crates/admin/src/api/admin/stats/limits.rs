//! `GET stats/limits`: which limits deny, and whom.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use serde::Serialize;
use utoipa::ToSchema;

use super::rfc3339;
use super::top::{ValueReport, days};
use crate::api::app_state::AppState;
use crate::api::endpoints::Endpoints;
use crate::api::openapi::about::About;
use crate::api::openapi::parameters::{CLIENTS, SINCE, UNTIL};
use crate::api::query::QueryParams;
use crate::auth::Role;
use crate::problem::ApiResult;
use crate::store::{TopOf, TopValue};

/// The path here.
pub fn routes() -> Endpoints {
    let about = About::new("Lists the limits that denied, and whom")
        .query(&[&SINCE, &UNTIL, &CLIENTS])
        .answers::<LimitsReport>();
    Endpoints::default().get(Role::Read, "/api/admin/stats/limits", limits).about(about)
}

/// Clients of a limit by default.
const DEFAULT_CLIENTS: usize = 10;
/// Clients of a limit at most.
const MAX_CLIENTS: usize = 100;

/// The limits that denied.
#[derive(Serialize, Debug, ToSchema)]
struct LimitsReport {
    since: Option<String>,
    until: Option<String>,
    items: Vec<LimitReport>,
}

/// A limit.
#[derive(Serialize, Debug, Default, ToSchema)]
struct LimitReport {
    limit: String,
    /// Requests that it denied.
    denied: u64,
    /// Requests that it would have denied, were it not in shadow.
    would_deny: u64,
    /// The clients whose requests it denied most often.
    clients: Vec<ValueReport>,
}

/// Answers the limits that denied, or would have, on whole days.
async fn limits(State(app): State<AppState>, uri: Uri) -> ApiResult<Json<LimitsReport>> {
    let params = QueryParams::read(&uri, &["since", "until", "limit"])?;
    let clients = params.limit(DEFAULT_CLIENTS, MAX_CLIENTS)?;
    let (since, until) = days(&params)?;
    let values = async |of| app.store.top_values(of, (since, until), usize::MAX).await;
    let mut limits: BTreeMap<String, LimitReport> = BTreeMap::new();
    for row in values(TopOf::Limit).await? {
        limits.entry(row.value).or_default().denied = row.count;
    }
    for row in values(TopOf::ShadowLimit).await? {
        limits.entry(row.value).or_default().would_deny = row.count;
    }
    for row in values(TopOf::LimitedClient).await? {
        let Some((limit, client)) = row.value.rsplit_once(' ') else { continue };
        let of = &mut limits.entry(limit.to_owned()).or_default().clients;
        if of.len() < clients {
            of.push(TopValue { value: client.to_owned(), ..row.clone() }.into());
        }
    }
    let mut items: Vec<LimitReport> =
        limits.into_iter().map(|(limit, report)| LimitReport { limit, ..report }).collect();
    items.sort_by_key(|one| std::cmp::Reverse(one.denied.saturating_add(one.would_deny)));
    Ok(Json(LimitsReport { since: rfc3339(since), until: rfc3339(until), items }))
}
