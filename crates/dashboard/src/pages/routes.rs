//! Routes: all of them, and one with its document and its traffic.

mod document;

use std::collections::HashMap;

use axum::Router;
use axum::extract::Path;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use futures_util::try_join;
use jiff::Timestamp;
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::Value;

use crate::answers::{Items, PathStats};
use crate::api::{ApiClient, ApiError, encoded};
use crate::dashboard::Dashboard;
use crate::editor::{self, DocumentKind, Edit, Effect, Sent, confirmation, new_page, page_of};
use crate::error::PageError;
use crate::form::Form;
use crate::page::{Page, command};
use crate::query::PageQuery;
use crate::role::Role;
use crate::show::number::{count, optional_millis};
use crate::show::text::{in_table, optional, visible};
use crate::timeline::{Span, Timeline};
use crate::visitor::Visitor;
pub use document::RouteDocument;

const PATH: &str = "/ui/routes";
/// Routes of a page of the list.
const PER_PAGE: usize = 100;
/// Paths of a route that its page shows.
const PATHS: usize = 50;

/// Routes in the editor.
const ROUTES: DocumentKind = DocumentKind {
    collection: "routes",
    command: "routes",
    page: PATH,
    noun: "route",
    names: "shop, or team-a/shop with a namespace; letters a to z, digits, - and .",
    template: "\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
spec:
  hostnames:
  - shop.example.com
  rules:
  - matches:
    - path:
        type: PathPrefix
        value: /
    backendRefs:
    - name: demo
",
    has_status: false,
    effect: Effect::InTables,
};

/// The pages here.
pub fn routes() -> Router<Dashboard> {
    Router::new()
        .route(PATH, get(list).post(send_new))
        .route("/ui/routes/{name}", get(one).post(send))
        .route("/ui/routes/{namespace}/{name}", get(one_of_namespace).post(send_of_namespace))
}

/// What is wrong with references of routes, as far as it is health's to say.
#[derive(Deserialize)]
struct Health {
    #[serde(default)]
    unknown_backends: Vec<UnknownBackend>,
}

#[derive(Deserialize)]
struct UnknownBackend {
    route: String,
    backend: String,
}

/// Requests by route.
#[derive(Deserialize)]
struct Traffic {
    items: Vec<PathStats>,
}

/// What the list shows beside the routes.
struct Known {
    traffic: HashMap<String, PathStats>,
    unknown_backends: Vec<UnknownBackend>,
    geo_rules: Vec<String>,
    backends: Vec<String>,
}

impl Known {
    async fn ask(api: &ApiClient) -> Result<Self, ApiError> {
        let (traffic, health, geo_rules, backends) = try_join!(
            api.get::<Traffic>("stats/paths?group=route&since=1h&limit=1000"),
            api.get::<Health>("optimization/health"),
            api.get::<Items<Named>>("geo-rules?limit=10000"),
            api.get::<Items<Named>>("backends?limit=10000"),
        )?;
        let names = |items: Items<Named>| items.items.into_iter().map(|one| one.name).collect();
        let by_route = |stats: PathStats| Some((stats.route.clone()?, stats));
        Ok(Self {
            traffic: traffic.items.into_iter().filter_map(by_route).collect(),
            unknown_backends: health.unknown_backends,
            geo_rules: names(geo_rules),
            backends: names(backends),
        })
    }

    /// What is wrong with the references of a route.
    fn warnings(&self, route: &RouteDocument<'_>) -> Vec<String> {
        let id = route.id();
        let backends = self.unknown_backends.iter().filter(|unknown| unknown.route == id);
        let backends = backends.map(|unknown| format!("There is no backend {}", visible(&unknown.backend)));
        let rules =
            route.geo_rules().into_iter().filter(|rule| !self.geo_rules.iter().any(|known| known == rule));
        backends.chain(rules.map(|rule| format!("There is no geo rule {}", visible(rule)))).collect()
    }
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

async fn list(visitor: Visitor, query: PageQuery) -> Result<Response, PageError> {
    if !query.get("new").is_empty() {
        return page_of_new(&visitor, &Edit::new(&ROUTES));
    }
    if !query.get("name").is_empty() {
        return Ok(Redirect::to(&ROUTES.page_of(query.get("name"))).into_response());
    }
    let cursor = match query.get("cursor") {
        "" => String::new(),
        cursor => format!("&cursor={}", encoded(cursor)),
    };
    let routes = format!("routes?limit={PER_PAGE}{cursor}");
    let (routes, known) = try_join!(visitor.api.get::<Items<Value>>(&routes), Known::ask(&visitor.api))?;
    let next = routes.next.as_deref();
    let body = html! {
        div.actions.spaced {
            @if visitor.may(Role::Admin) { a.button.primary href=(ROUTES.page_of_new()) { "New route" } }
            (editor::jump(&ROUTES))
        }
        section.card aria-label="All routes" {
            @if routes.items.is_empty() {
                p.empty { "There is no route yet, so every request is answered 404. Make one here, or apply files with the command below." }
            } @else { (table(&routes.items, &known)) }
            @if !cursor.is_empty() || next.is_some() {
                nav.pager aria-label="Pages of the list" {
                    @if !cursor.is_empty() { a href=(PATH) { "First page" } }
                    @if let Some(next) = next { a href={ (PATH) "?cursor=" (encoded(next)) } { "Next page" } }
                }
            }
        }
        (command("tidegate routes get"))
    };
    Page { title: "Routes", menu: PATH, live: "", body }.show(&visitor)
}

fn table(routes: &[Value], known: &Known) -> Markup {
    html! {
        div.scroll tabindex="0" role="group" aria-label="Routes" {
            table.rows #routes {
                caption { "Requests and whole times of the last hour." }
                thead { tr {
                    th { "Route" } th { "Hosts" } th { "Matches" } th { "Goes to" } th.number { "Requests" }
                    th.number { "Denied" } th.number { "5xx" } th.number { "P50" } th.number { "P95" }
                } }
                tbody { @for route in routes { (row(&RouteDocument(route), known)) } }
            }
        }
    }
}

fn row(route: &RouteDocument<'_>, known: &Known) -> Markup {
    let id = route.id();
    html! {
        tr {
            td.name data-label="Route" {
                a href=(ROUTES.page_of(&id)) { (in_table(&id)) }
                @for warning in known.warnings(route) { div { span.tag.warn { (warning) } } }
            }
            td data-label="Hosts" {
                @let hosts = route.hostnames();
                @if hosts.is_empty() { span.quiet { "every host" } }
                @for host in hosts.iter().take(4) { div { (in_table(host)) } }
                @if hosts.len() > 4 { div.quiet { "and " (hosts.len() - 4) " more" } }
            }
            td.long data-label="Matches" { (route.matches()) }
            td data-label="Goes to" { (goes_to(route, known)) }
            @match known.traffic.get(&id) {
                Some(stats) => {
                    td.number data-label="Requests" { (count(stats.requests)) }
                    td.number data-label="Denied" { (count(stats.denied)) }
                    td.number data-label="5xx" { (count(stats.status.server_errors)) }
                    td.number data-label="P50" { (optional_millis(stats.duration_ms.p50)) }
                    td.number data-label="P95" { (optional_millis(stats.duration_ms.p95)) }
                }
                None => {
                    td.number data-label="Requests" { "0" }
                    @for label in ["Denied", "5xx", "P50", "P95"] { td.number data-label=(label) { "–" } }
                }
            }
        }
    }
}

fn goes_to(route: &RouteDocument<'_>, known: &Known) -> Markup {
    let backends = route.backends();
    html! {
        @for backend in backends.iter().take(4) {
            div {
                @if known.backends.iter().any(|name| name == backend.name) {
                    a href={ "/ui/backends/" (encoded(backend.name)) } { (in_table(backend.name)) }
                } @else { (in_table(backend.name)) }
                @if backend.weight != 1 { span.quiet { " weight " (backend.weight) } }
            }
        }
        @if backends.len() > 4 { div.quiet { "and " (backends.len() - 4) " more" } }
        @if route.redirects() { div { "a redirect" } }
        @if backends.is_empty() && !route.redirects() { span.tag.warn { "no backend: 500" } }
    }
}

async fn send_new(form: Form) -> Result<Response, PageError> {
    match editor::send(&form, &ROUTES, "").await? {
        Sent::Done(response) => Ok(response),
        Sent::Again(edit) => page_of_new(&form.visitor, &edit),
    }
}

fn page_of_new(visitor: &Visitor, edit: &Edit) -> Result<Response, PageError> {
    let about = "An HTTPRoute of the Gateway API: which requests it takes, and where they go. `docs/ROUTES.md` has every field.";
    new_page(visitor, &ROUTES, edit, about)
}

async fn one(visitor: Visitor, Path(name): Path<String>, query: PageQuery) -> Result<Response, PageError> {
    open(visitor, name, query).await
}

async fn one_of_namespace(
    visitor: Visitor,
    Path((namespace, name)): Path<(String, String)>,
    query: PageQuery,
) -> Result<Response, PageError> {
    open(visitor, format!("{namespace}/{name}"), query).await
}

async fn send(Path(name): Path<String>, form: Form) -> Result<Response, PageError> {
    sent(&name, form).await
}

async fn send_of_namespace(
    Path((namespace, name)): Path<(String, String)>,
    form: Form,
) -> Result<Response, PageError> {
    sent(&format!("{namespace}/{name}"), form).await
}

async fn open(visitor: Visitor, id: String, query: PageQuery) -> Result<Response, PageError> {
    if !query.get("remove").is_empty() {
        return confirmation(&visitor, &ROUTES, &id).await;
    }
    let edit = Edit::open(&visitor, &ROUTES, &id).await?;
    page_of_route(&visitor, &edit, &query).await
}

async fn sent(id: &str, form: Form) -> Result<Response, PageError> {
    match editor::send(&form, &ROUTES, id).await? {
        Sent::Done(response) => Ok(response),
        Sent::Again(edit) => page_of_route(&form.visitor, &edit, &PageQuery::default()).await,
    }
}

/// One route with its document and its traffic.
async fn page_of_route(visitor: &Visitor, edit: &Edit, query: &PageQuery) -> Result<Response, PageError> {
    let (span, now) = (Span::of(query), Timestamp::now());
    let filter = format!("&route={}", encoded(&edit.name));
    let paths = format!("stats/paths?since={}&limit={PATHS}{filter}", span.since(now));
    let (timeline, paths) =
        try_join!(Timeline::ask(&visitor.api, span, now, &filter), visitor.api.get::<Traffic>(&paths))?;
    let here = query.only(&["span"]);
    let below = html! {
        h2 #traffic { "Its traffic" }
        (span.choices(&ROUTES.page_of(&edit.name), &here))
        (timeline.show())
        (paths_of(&paths.items, span))
    };
    page_of(visitor, &ROUTES, edit, below)
}

fn paths_of(paths: &[PathStats], span: Span) -> Markup {
    html! {
        section.card aria-labelledby="paths-heading" {
            h2 #paths-heading { "Its paths, " (span.words) }
            @if paths.is_empty() {
                p.empty { "No request of this time came by it. Explain says which route a request takes." }
                p { a.button href="/ui/explain" { "Explain a request" } }
            } @else {
                div.scroll tabindex="0" role="group" aria-label="Paths of the route" {
                    table {
                        thead { tr {
                            th { "Path" } th { "Method" } th.number { "Requests" } th.number { "Denied" }
                            th.number { "5xx" } th.number { "P50" } th.number { "P95" } th.number { "P99" }
                        } }
                        tbody {
                            @for path in paths {
                                tr {
                                    td.long { (optional(path.template.as_deref())) }
                                    td { (optional(path.method.as_deref())) }
                                    td.number { (count(path.requests)) }
                                    td.number { (count(path.denied)) }
                                    td.number { (count(path.status.server_errors)) }
                                    td.number { (optional_millis(path.duration_ms.p50)) }
                                    td.number { (optional_millis(path.duration_ms.p95)) }
                                    td.number { (optional_millis(path.duration_ms.p99)) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
