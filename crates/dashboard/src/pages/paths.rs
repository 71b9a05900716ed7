//! Requests and their times by path, and one path with its charts.

use axum::Router;
use axum::response::Response;
use axum::routing::get;
use jiff::Timestamp;
use maud::{Markup, html};
use serde::Deserialize;

use crate::answers::PathStats;
use crate::api::encoded;
use crate::dashboard::Dashboard;
use crate::error::PageError;
use crate::page::{Page, command};
use crate::query::PageQuery;
use crate::show::number::{bytes, count, grouped, optional_millis, percent};
use crate::show::shell::shell_word;
use crate::show::text::{foreign, optional};
use crate::timeline::{Span, Timeline};
use crate::visitor::Visitor;

/// The path of the page.
const PATH: &str = "/ui/paths";
/// Paths that are shown.
const SHOWN: u32 = 200;

/// The paths here.
pub fn routes() -> Router<Dashboard> {
    Router::new().route(PATH, get(page)).route("/ui/paths/one", get(one))
}

#[derive(Deserialize)]
struct Paths {
    items: Vec<PathStats>,
    total: PathStats,
    left_out: u64,
}

/// Columns that the list can be sorted by: name in the API, heading.
const SORTS: [(&str, &str); 7] = [
    ("requests", "Requests"),
    ("denied", "Denied"),
    ("errors", "5xx"),
    ("p50", "P50"),
    ("p95", "P95"),
    ("p99", "P99"),
    ("bytes_out", "Sent"),
];

/// Answers the list.
async fn page(visitor: Visitor, query: PageQuery) -> Result<Response, PageError> {
    let (span, now) = (Span::of(&query), Timestamp::now());
    let sort =
        SORTS.iter().map(|(name, _)| *name).find(|name| *name == query.get("sort")).unwrap_or("requests");
    let filters = query.only(&["route", "host"]);
    let asked = filters
        .with("since", &span.since(now).to_string())
        .with("sort", sort)
        .with("limit", &SHOWN.to_string());
    let paths: Paths = visitor.api.get(&format!("stats/paths{}", asked.text())).await?;
    let here = query.only(&["route", "host", "span", "sort"]);
    let body = html! {
        (span.choices(PATH, &here))
        (filter_form(&here))
        section.card aria-label="Paths" {
            @if paths.items.is_empty() {
                p.empty {
                    @if filters.text().is_empty() { "No request was recorded in this time. Look further back, or send one through the gate: it is here within seconds." }
                    @else { "No request was recorded in this time that fits. Look further back, or take the filters out." }
                }
            } @else {
                div.scroll tabindex="0" role="group" aria-label="Paths, sorted" {
                    table {
                        caption { (grouped(paths.total.requests)) " requests in the " (span.words) ". Times are of whole requests, 1.6 % off at most; upstream: P95." }
                        thead { tr {
                            th { "Route" } th { "Path" } th { "Method" }
                            @for (name, heading) in SORTS {
                                th.number aria-sort=[(name == sort).then_some("descending")] {
                                    a href={ (PATH) (here.with("sort", name).text()) } { (heading) @if name == sort { " ↓" } }
                                }
                            }
                            th.number { "4xx" } th.number { "Upstream" } th.number { "Cached" }
                        } }
                        tbody { @for path in &paths.items { (row(path, span)) } }
                    }
                }
                @if paths.left_out > 0 { p.quiet { (grouped(paths.left_out)) " further paths are left out: filter by route or host." } }
            }
            (command(&format!("tidegate stats paths --since {} --sort {sort}{}", span.name, as_options(&here))))
        }
    };
    Page { title: "Paths", menu: PATH, live: "", body }.show(&visitor)
}

fn as_options(here: &PageQuery) -> String {
    let options = ["route", "host"].into_iter().filter(|name| !here.get(name).is_empty());
    options.map(|name| format!(" --{name} {}", shell_word(here.get(name)))).collect()
}

fn filter_form(here: &PageQuery) -> Markup {
    html! {
        form.card.fields method="get" action=(PATH) {
            @for (name, label) in [("route", "Route"), ("host", "Host")] {
                div {
                    label for={ "filter-" (name) } { (label) }
                    input id={ "filter-" (name) } name=(name) value=(here.get(name));
                }
            }
            @for name in ["span", "sort"] {
                @if !here.get(name).is_empty() { input type="hidden" name=(name) value=(here.get(name)); }
            }
            div.actions { button type="submit" { "Filter" } }
        }
    }
}

fn row(path: &PathStats, span: Span) -> Markup {
    html! {
        tr {
            td { @if path.route.is_some() { (optional(path.route.as_deref())) } @else { span.none { "no route" } } }
            td.long { a href=(link(path, span)) { @if let Some(template) = &path.template { (foreign(template)) } @else { "any" } } }
            td { (optional(path.method.as_deref())) }
            td.number { (count(path.requests)) }
            td.number { (count(path.denied)) }
            td.number { (count(path.status.server_errors)) }
            td.number { (optional_millis(path.duration_ms.p50)) }
            td.number { (optional_millis(path.duration_ms.p95)) }
            td.number { (optional_millis(path.duration_ms.p99)) }
            td.number { (bytes(path.bytes_out)) }
            td.number { (count(path.status.client_errors)) }
            td.number { (optional_millis(path.upstream_ms.p95)) }
            td.number { (path.cached_share.map_or_else(|| "–".to_owned(), percent)) }
        }
    }
}

/// The page of one path.
fn link(path: &PathStats, span: Span) -> String {
    let part = |name: &str, value: &Option<String>| {
        value.as_deref().map(|value| format!("&{name}={}", encoded(value))).unwrap_or_default()
    };
    let parts = [("route", &path.route), ("template", &path.template), ("method", &path.method)];
    format!("/ui/paths/one?span={}{}", span.name, parts.map(|(name, value)| part(name, value)).concat())
}

/// Answers one path with its charts.
async fn one(visitor: Visitor, query: PageQuery) -> Result<Response, PageError> {
    let span = Span::of(&query);
    let filter = query.only(&["route", "template", "method"]);
    let and = filter.text().replacen('?', "&", 1);
    let timeline = Timeline::ask(&visitor.api, span, Timestamp::now(), &and).await?;
    let words: Vec<&str> = ["method", "route", "template"]
        .into_iter()
        .map(|name| filter.get(name))
        .filter(|text| !text.is_empty())
        .collect();
    let body = html! {
        p { @if words.is_empty() { "Requests that no route matched." } @else { (foreign(&words.join(" "))) } }
        (span.choices("/ui/paths/one", &query.only(&["route", "template", "method", "span"])))
        (timeline.show())
        div.actions {
            a.button href={ (PATH) "?span=" (span.name) } { "All paths" }
            @if !filter.get("route").is_empty() {
                a.button href={ "/ui/events" (filter.only(&["route", "method"]).text()) } { "Its requests" }
            }
        }
    };
    Page { title: "One path", menu: PATH, live: "", body }.show(&visitor)
}
