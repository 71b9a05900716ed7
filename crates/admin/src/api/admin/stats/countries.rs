//! `GET stats/countries`: requests by the client's country, and how many of them were denied, and why.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use serde::Serialize;
use tidegate_policy::decide::Reason;
use utoipa::ToSchema;

use super::rfc3339;
use super::top::{ValueReport, days};
use crate::api::app_state::AppState;
use crate::api::endpoints::Endpoints;
use crate::api::openapi::about::About;
use crate::api::openapi::parameters::{SINCE, UNTIL};
use crate::api::query::QueryParams;
use crate::auth::Role;
use crate::problem::ApiResult;
use crate::store::{TopOf, TopValue};

/// The path here.
pub fn routes() -> Endpoints {
    let about =
        About::new("Counts the requests of whole days by country, and those of them that were denied")
            .query(&[&SINCE, &UNTIL])
            .answers::<CountriesReport>();
    Endpoints::default().get(Role::Read, "/api/admin/stats/countries", countries).about(about)
}

/// Requests by country.
#[derive(Serialize, Debug, ToSchema)]
struct CountriesReport {
    since: Option<String>,
    until: Option<String>,
    items: Vec<CountryReport>,
}

/// A country.
#[derive(Serialize, Debug, ToSchema)]
struct CountryReport {
    country: String,
    #[serde(flatten)]
    seen: CountrySeen,
    /// Requests that were denied.
    denied: u64,
    /// Of these, denied by a geo rule.
    geo_denied: u64,
    /// Of these, by the reason of the denial.
    reasons: BTreeMap<String, u64>,
}

/// How often a country came: [`ValueReport`] without its value.
#[derive(Serialize, Debug, ToSchema)]
struct CountrySeen {
    requests: u64,
    over: u64,
    under: u64,
    last_seen: Option<String>,
}

impl From<TopValue> for CountrySeen {
    fn from(row: TopValue) -> Self {
        let ValueReport { requests, over, under, last_seen, .. } = row.into();
        Self { requests, over, under, last_seen }
    }
}

/// Answers the countries, the most frequent first.
async fn countries(State(app): State<AppState>, uri: Uri) -> ApiResult<Json<CountriesReport>> {
    let params = QueryParams::read(&uri, &["since", "until"])?;
    let (since, until) = days(&params)?;
    let values = async |of| app.store.top_values(of, (since, until), usize::MAX).await;
    let mut denied: HashMap<String, BTreeMap<String, u64>> = HashMap::new();
    for row in values(TopOf::DeniedCountry).await? {
        if let Some((country, reason)) = row.value.split_once(' ') {
            denied.entry(country.to_owned()).or_default().insert(reason.to_owned(), row.count);
        }
    }
    let item = |row: TopValue| {
        let reasons = denied.remove(&row.value).unwrap_or_default();
        CountryReport {
            country: row.value.clone(),
            denied: reasons.values().fold(0, |sum, count| sum.saturating_add(*count)),
            geo_denied: reasons.get(Reason::GeoDenied.code()).copied().unwrap_or_default(),
            reasons,
            seen: row.into(),
        }
    };
    let mut items: Vec<_> = values(TopOf::Country).await?.into_iter().map(item).collect();
    items.sort_by_key(|item| Reverse(item.seen.requests));
    Ok(Json(CountriesReport { since: rfc3339(since), until: rfc3339(until), items }))
}
