//! Backends: upstreams that Envoy's configuration does not have.

use std::collections::{BTreeMap, BTreeSet};

use axum::Router;
use axum::extract::Path;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use futures_util::try_join;
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::Value;

use super::routes::RouteDocument;
use crate::answers::Items;
use crate::api::{ApiClient, ApiError};
use crate::dashboard::Dashboard;
use crate::editor::{self, DocumentKind, Edit, Effect, Sent, confirmation, new_page, page_of, path_of};
use crate::error::PageError;
use crate::form::Form;
use crate::page::{Page, command};
use crate::query::PageQuery;
use crate::role::Role;
use crate::show::text::in_table;
use crate::visitor::Visitor;

const PATH: &str = "/ui/backends";
/// Routes that are looked through for the backends that they name.
const ROUTES_READ: usize = 2_000;
/// Routes of a backend that the list shows.
const ROUTES_SHOWN: usize = 5;

/// Backends in the editor.
const BACKENDS: DocumentKind = DocumentKind {
    collection: "backends",
    command: "backends",
    page: PATH,
    noun: "backend",
    names: "orders; letters a to z, digits, - and .",
    template: "address: api.example.com:443\ntls:\n  enabled: true\n",
    has_status: false,
    effect: Effect::InTables,
};

/// The pages here.
pub fn routes() -> Router<Dashboard> {
    Router::new().route(PATH, get(list).post(send_new)).route("/ui/backends/{name}", get(one).post(send))
}

#[derive(Deserialize)]
struct Backend {
    name: String,
    #[serde(default)]
    address: String,
    protocol: Option<String>,
    tls: Option<Tls>,
    #[serde(default)]
    allow_private: bool,
}

#[derive(Deserialize)]
struct Tls {
    enabled: Option<bool>,
    sni: Option<String>,
    trust: Option<String>,
}

/// Routes by the backends that they name.
struct UsedBy {
    routes: BTreeMap<String, BTreeSet<String>>,
    /// Whether there are routes that were not looked through.
    is_partial: bool,
}

impl UsedBy {
    async fn ask(api: &ApiClient) -> Result<Self, ApiError> {
        let all: Items<Value> = api.get(&format!("routes?limit={ROUTES_READ}")).await?;
        let mut routes: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for route in all.items.iter().map(RouteDocument) {
            for backend in route.backends() {
                routes.entry(backend.name.to_owned()).or_default().insert(route.id());
            }
        }
        Ok(Self { routes, is_partial: all.next.is_some() })
    }

    fn of(&self, backend: &str) -> Markup {
        let routes = self.routes.get(backend);
        let shown = routes.into_iter().flatten().take(ROUTES_SHOWN);
        let count = routes.map_or(0, BTreeSet::len);
        html! {
            @for route in shown { div { a href={ "/ui/routes/" (path_of(route)) } { (in_table(route)) } } }
            @if count > ROUTES_SHOWN { div.quiet { "and " (count - ROUTES_SHOWN) " more" } }
            @if count == 0 { span.quiet { @if self.is_partial { "no route that was looked at" } @else { "no route" } } }
        }
    }
}

async fn list(visitor: Visitor, query: PageQuery) -> Result<Response, PageError> {
    if !query.get("new").is_empty() {
        return page_of_new(&visitor, &Edit::new(&BACKENDS));
    }
    if !query.get("name").is_empty() {
        return Ok(Redirect::to(&BACKENDS.page_of(query.get("name"))).into_response());
    }
    let (backends, used_by) =
        try_join!(visitor.api.get::<Items<Backend>>("backends?limit=1000"), UsedBy::ask(&visitor.api))?;
    let body = html! {
        p { "Services behind the gate that Envoy's own configuration does not have. Routes send requests to them by name, in " code { "backendRefs" } "." }
        div.actions.spaced {
            @if visitor.may(Role::Admin) { a.button.primary href=(BACKENDS.page_of_new()) { "New backend" } }
            (editor::jump(&BACKENDS))
        }
        section.card aria-label="All backends" {
            @if backends.items.is_empty() {
                p.empty { "There is no backend. Routes can name clusters of Envoy's; make a backend for a server that Envoy does not know." }
            } @else { (table(&backends.items, &used_by)) }
            @if backends.next.is_some() { p.quiet { "These are the first 1,000; all others are found by their name." } }
        }
        (command("tidegate backends get"))
    };
    Page { title: "Backends", menu: PATH, live: "", body }.show(&visitor)
}

fn table(backends: &[Backend], used_by: &UsedBy) -> Markup {
    html! {
        div.scroll tabindex="0" role="group" aria-label="Backends" {
            table.rows #backends {
                thead { tr { th { "Backend" } th { "Address" } th { "Spoken to with" } th { "Used by" } } }
                tbody {
                    @for backend in backends {
                        tr {
                            td.name data-label="Backend" { a href=(BACKENDS.page_of(&backend.name)) { (in_table(&backend.name)) } }
                            td.long data-label="Address" {
                                (in_table(&backend.address))
                                @if backend.allow_private { " " span.tag.plain { "may be private" } }
                            }
                            td data-label="Spoken to" { (backend.how()) }
                            td data-label="Used by" { (used_by.of(&backend.name)) }
                        }
                    }
                }
            }
        }
    }
}

impl Backend {
    fn how(&self) -> Markup {
        let protocol = if self.protocol.as_deref() == Some("h2c") { "HTTP/2" } else { "HTTP/1.1" };
        let tls = self.tls.as_ref().filter(|tls| tls.enabled != Some(false));
        html! {
            (protocol)
            @match tls {
                None => ", without TLS",
                Some(tls) => {
                    ", TLS"
                    @if let Some(sni) = &tls.sni { div.quiet { "asks for " (in_table(sni)) } }
                    @if let Some(trust) = &tls.trust { div.quiet { "trusts " (in_table(trust)) } }
                }
            }
        }
    }
}

async fn send_new(form: Form) -> Result<Response, PageError> {
    match editor::send(&form, &BACKENDS, "").await? {
        Sent::Done(response) => Ok(response),
        Sent::Again(edit) => page_of_new(&form.visitor, &edit),
    }
}

fn page_of_new(visitor: &Visitor, edit: &Edit) -> Result<Response, PageError> {
    let about = "A server that requests can go to: host and port, and how it is spoken to. `docs/API.md`, Backends, has every field.";
    new_page(visitor, &BACKENDS, edit, about)
}

async fn one(visitor: Visitor, Path(name): Path<String>, query: PageQuery) -> Result<Response, PageError> {
    if !query.get("remove").is_empty() {
        return confirmation(&visitor, &BACKENDS, &name).await;
    }
    let edit = Edit::open(&visitor, &BACKENDS, &name).await?;
    page_of_backend(&visitor, &edit).await
}

async fn send(Path(name): Path<String>, form: Form) -> Result<Response, PageError> {
    match editor::send(&form, &BACKENDS, &name).await? {
        Sent::Done(response) => Ok(response),
        Sent::Again(edit) => page_of_backend(&form.visitor, &edit).await,
    }
}

async fn page_of_backend(visitor: &Visitor, edit: &Edit) -> Result<Response, PageError> {
    let used_by = UsedBy::ask(&visitor.api).await?;
    let below = html! {
        section.card aria-labelledby="used-heading" { h2 #used-heading { "Used by" } (used_by.of(&edit.name)) }
    };
    page_of(visitor, &BACKENDS, edit, below)
}
