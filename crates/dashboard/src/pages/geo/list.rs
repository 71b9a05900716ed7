//! The page of geo rules, of traffic by country, and of the country table.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use futures_util::try_join;
use maud::html;

use super::by_country::by_country;
use super::country_table::CountryTable;
use super::country_traffic::CountryTraffic;
use super::rules::{GEO_RULES, GeoRule, PATH, page_of_new, rule_table};
use crate::answers::Items;
use crate::api::Problem;
use crate::editor::Edit;
use crate::error::PageError;
use crate::page::{Page, command};
use crate::query::PageQuery;
use crate::role::Role;
use crate::visitor::Visitor;

/// How far back the page looks: name in the address and in the API, words.
const SPANS: [(&str, &str); 3] =
    [("1d", "today and yesterday"), ("7d", "last 7 days"), ("30d", "last 30 days")];

/// Answers the page.
pub async fn page(visitor: Visitor, query: PageQuery) -> Result<Response, PageError> {
    if !query.get("new").is_empty() {
        return page_of_new(&visitor, &Edit::new(&GEO_RULES));
    }
    if !query.get("name").is_empty() {
        return Ok(Redirect::to(&GEO_RULES.page_of(query.get("name"))).into_response());
    }
    show(&visitor, &query, None).await
}

/// The page, with what was wrong with a file that was sent.
///
/// # Errors
/// When the API does not answer.
pub async fn show(
    visitor: &Visitor,
    query: &PageQuery,
    problem: Option<&Problem>,
) -> Result<Response, PageError> {
    let (span, words) = *SPANS.iter().find(|(name, _)| *name == query.get("span")).unwrap_or(&SPANS[0]);
    let traffic = format!("stats/countries?since={span}");
    let (rules, traffic, table) = try_join!(
        visitor.api.get::<Items<GeoRule>>("geo-rules?limit=1000"),
        visitor.api.get::<Items<CountryTraffic>>(&traffic),
        visitor.api.get::<CountryTable>("geo-countries")
    )?;
    let body = html! {
        section.card aria-labelledby="rules-heading" {
            h2 #rules-heading { "Rules" }
            (rule_table(&rules.items))
            @if visitor.may(Role::Admin) { p { a.button.primary href=(GEO_RULES.page_of_new()) { "New geo rule" } } }
            (command("tidegate geo-rules get"))
        }
        nav.actions.spans aria-label="Time shown" {
            @for (name, words) in SPANS {
                a.button href={ (PATH) "?span=" (name) } aria-current=[(name == span).then_some("true")] { (words) }
            }
        }
        (by_country(&traffic.items, words))
        (command(&format!("tidegate stats countries --since {span}")))
        (table.show(visitor, problem)?)
    };
    let status = problem.and_then(|problem| StatusCode::from_u16(problem.status).ok());
    let page = Page { title: "Geo", menu: PATH, live: "", body }.show(visitor)?;
    Ok((status.unwrap_or(StatusCode::OK), page).into_response())
}
