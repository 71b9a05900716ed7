//! The gateways: what each enforces, its workers, how far it is behind.

use axum::Router;
use axum::http::Method;
use axum::response::Response;
use axum::routing::{get, post};
use futures_util::try_join;
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::Value;

use crate::answers::{Gateway, Items};
use crate::api::Write;
use crate::dashboard::Dashboard;
use crate::error::PageError;
use crate::form::{Form, hidden_fields};
use crate::page::{Page, command};
use crate::part::Part;
use crate::query::PageQuery;
use crate::redirect::see_other;
use crate::role::Role;
use crate::show::text::{foreign, optional};
use crate::show::time;
use crate::visitor::Visitor;

/// The path of the page.
const PATH: &str = "/ui/gateways";

/// The paths here.
pub fn routes() -> Router<Dashboard> {
    Router::new().route(PATH, get(page)).route("/ui/gateways/refresh", post(refresh))
}

/// The version that the service is at.
#[derive(Deserialize)]
struct Health {
    version: String,
}

/// Answers the page.
async fn page(visitor: Visitor, query: PageQuery) -> Result<Response, PageError> {
    let parts = parts(&visitor, &query).await?;
    let body = html! {
        @for part in &parts { (part.in_page()) }
        @if visitor.may(Role::Operate) {
            section.card aria-labelledby="refresh-heading" {
                h2 #refresh-heading { "Load all tables anew" }
                p { "Gateways follow each change by themselves. This makes each of them fetch all tables from the beginning, for example after doubts about one." }
                form.actions method="post" action="/ui/gateways/refresh" {
                    (hidden_fields(&visitor)?)
                    button type="submit" { "Have all gateways load all tables anew" }
                }
                (command("tidegate refresh"))
            }
        }
    };
    Page { title: "Gateways", menu: PATH, live: "/ui/live/gateways", body }.show(&visitor)
}

/// The parts of the page that change by themselves.
pub async fn parts(visitor: &Visitor, _: &PageQuery) -> Result<Vec<Part>, PageError> {
    let (gateways, health) = try_join!(
        visitor.api.get::<Items<Gateway>>("gateways"),
        visitor.api.get::<Health>("optimization/health")
    )?;
    Ok(vec![Part::new("gateways", table(&gateways.items, &health.version))])
}

fn table(gateways: &[Gateway], version: &str) -> Markup {
    html! {
        section.card aria-labelledby="gateways-heading" {
            h2 #gateways-heading { "Connected gateways" }
            p { "The service is at version " code { (version) } "." }
            @if gateways.is_empty() {
                p.empty { "No gateway has reported yet. Start an Envoy with the filter: " code { "docs/DEPLOY.md" } "." }
            } @else {
                div.scroll tabindex="0" role="group" aria-label="Gateways" {
                    table.rows {
                        caption {
                            "Stale: workers that were not heard of lately. Polls: who in the gateway asks the service for changes. Clock: the \
                             gateway's, beside the service's. All tables: whether its filter can read every table of this service."
                        }
                        thead { tr {
                            th { "Node" } th { "Address" } th { "State" } th { "Enforces" } th.number { "Workers" }
                            th.number { "Stale" } th { "Polls" } th.number { "Clock" } th.number { "Known for" }
                            th.number { "Heard of" } th { "All tables" }
                        } }
                        tbody { @for gateway in gateways { (row(gateway, version)) } }
                    }
                }
            }
            (command("tidegate gateways"))
        }
    }
}

fn row(gateway: &Gateway, version: &str) -> Markup {
    html! {
        tr {
            td data-label="Node" { (foreign(&gateway.node)) br; span.quiet { "process " code { (gateway.process) } } }
            td.keep data-label="Address" { (optional(gateway.address.as_deref())) }
            td data-label="State" { (gateway.state()) }
            td.keep data-label="Enforces" { (gateway.enforces_tag(version)) br; code { (gateway.enforces.as_deref().unwrap_or("–")) } }
            td.number data-label="Workers" { (gateway.vms) }
            td.number data-label="Stale" { (gateway.stale_vms) }
            td data-label="Polls" { (poller(gateway)) }
            td.number data-label="Clock" { (clock(gateway)) }
            td.number data-label="Known for" { (time::span(gateway.known_for_ms / 1_000)) }
            td.number data-label="Heard of" { (time::span(gateway.silent_for_ms / 1_000)) " ago" }
            td data-label="All tables" { (filter(gateway)) }
        }
    }
}

fn poller(gateway: &Gateway) -> &'static str {
    match &gateway.poller {
        None => "not told",
        Some(poller) if poller.recorder => "the recorder",
        Some(_) => "a worker, beside its requests",
    }
}

/// How far the gateway's clock is from the service's.
fn clock(gateway: &Gateway) -> String {
    let Some(poller) = &gateway.poller else { return "–".to_owned() };
    let ahead = poller.clock_ahead_ms;
    match ahead {
        0 => "as the service's".to_owned(),
        _ => format!("{} ms {}", ahead.unsigned_abs(), if ahead > 0 { "ahead" } else { "behind" }),
    }
}

/// Whether the filter reads all tables as this service writes them.
fn filter(gateway: &Gateway) -> Markup {
    html! {
        @if gateway.cannot_read.is_empty() { span class="tag good" { "yes" } }
        @else { span class="tag warn" { "not " (gateway.cannot_read.join(", ")) } }
    }
}

/// Has all gateways load all tables anew.
async fn refresh(form: Form) -> Result<Response, PageError> {
    let write = Write::json(Method::POST, "optimization/cache/refresh?wait=5s", &Value::Null);
    let answer = form.visitor.api.send(write.once(form.once())).await?;
    let number = |name: &str| answer["applied"][name].as_u64().unwrap_or_default();
    form.visitor.note(format!(
        "{} of {} gateways have loaded all tables anew, after {} ms.",
        number("gateways"),
        number("of"),
        answer["elapsed_ms"]
    ));
    Ok(see_other(PATH))
}
