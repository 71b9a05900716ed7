//! Limits: how many requests may pass, and whom that turns away.

use axum::Router;
use axum::extract::Path;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use futures_util::try_join;
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::Value;

use crate::answers::Items;
use crate::api::encoded;
use crate::dashboard::Dashboard;
use crate::editor::{self, DocumentKind, Edit, Effect, Sent, confirmation, new_page, page_of, path_of};
use crate::error::PageError;
use crate::form::Form;
use crate::page::{Page, command};
use crate::query::PageQuery;
use crate::role::Role;
use crate::show::number::{count, grouped};
use crate::show::text::in_table;
use crate::visitor::Visitor;

const PATH: &str = "/ui/limits";

/// Limits in the editor. A new one is in shadow, so that it is seen first whom it would turn away.
const LIMITS: DocumentKind = DocumentKind {
    collection: "limits",
    command: "limits",
    page: PATH,
    noun: "limit",
    names: "per-client; letters a to z, digits, - and .",
    template: "key: ip\nrate: 100\nper: minute\nburst: 20\nshadow: true\n",
    has_status: false,
    effect: Effect::InTables,
};

/// The pages here.
pub fn routes() -> Router<Dashboard> {
    Router::new().route(PATH, get(list).post(send_new)).route("/ui/limits/{name}", get(one).post(send))
}

#[derive(Deserialize)]
struct Limit {
    name: String,
    #[serde(default)]
    key: String,
    #[serde(default, rename = "match")]
    of: Value,
    #[serde(default)]
    rate: u64,
    #[serde(default)]
    per: String,
    burst: Option<u64>,
    #[serde(default)]
    shadow: bool,
}

/// What a limit has done today.
#[derive(Deserialize)]
struct Hits {
    limit: String,
    denied: u64,
    would_deny: u64,
    clients: Vec<Client>,
}

#[derive(Deserialize)]
struct Client {
    value: String,
    requests: u64,
}

impl Limit {
    /// What is counted together.
    fn key(&self) -> Markup {
        html! {
            @match self.key.as_str() {
                "ip" => "each client address",
                "route" => "each route",
                "global" => "all requests together",
                key => { "each value of the header " code { (in_table(key.trim_start_matches("header:"))) } }
            }
        }
    }

    /// Which requests are counted.
    fn of(&self) -> Markup {
        let (routes, blocks) = (names(&self.of["route"]), names(&self.of["cidr"]));
        html! {
            @if routes.is_empty() && blocks.is_empty() { "all" }
            @for route in &routes {
                div { "route " a href={ "/ui/routes/" (path_of(route)) } { (in_table(route)) } }
            }
            @for block in &blocks { div { "clients of " code { (in_table(block)) } } }
        }
    }

    fn mode(&self) -> Markup {
        html! {
            @if self.shadow { span.tag.warn { "shadow" } } @else { span.tag.good { "enforced" } }
        }
    }
}

/// A text, or a list of them.
fn names(value: &Value) -> Vec<&str> {
    match value {
        Value::Array(list) => list.iter().filter_map(Value::as_str).collect(),
        other => other.as_str().into_iter().collect(),
    }
}

async fn list(visitor: Visitor, query: PageQuery) -> Result<Response, PageError> {
    if !query.get("new").is_empty() {
        return page_of_new(&visitor, &Edit::new(&LIMITS));
    }
    if !query.get("name").is_empty() {
        return Ok(Redirect::to(&LIMITS.page_of(query.get("name"))).into_response());
    }
    let (limits, hits) = try_join!(
        visitor.api.get::<Items<Limit>>("limits?limit=1000"),
        visitor.api.get::<Items<Hits>>("stats/limits")
    )?;
    let body = html! {
        p { "How many requests may pass in a time. They are checked last; a request over one gets 429." }
        div.actions.spaced {
            @if visitor.may(Role::Admin) { a.button.primary href=(LIMITS.page_of_new()) { "New limit" } }
            (editor::jump(&LIMITS))
        }
        section.card aria-label="All limits" {
            @if limits.items.is_empty() {
                p.empty { "There is no limit: as many requests pass as come. Make one in shadow first; it counts, and denies nothing." }
            } @else { (table(&limits.items, &hits.items)) }
        }
        section.card aria-labelledby="hits-heading" {
            h2 #hits-heading { "Who hits them, today (UTC)" }
            @if hits.items.is_empty() {
                p.empty {
                    "No limit has denied a request today, or would have."
                    @if limits.items.is_empty() { " There is none: make one first." } @else { " Lower a rate in shadow to see whom it would reach." }
                }
            }
            @for hit in &hits.items { (clients(hit)) }
            (command("tidegate stats limits"))
        }
        (command("tidegate limits get"))
    };
    Page { title: "Limits", menu: PATH, live: "", body }.show(&visitor)
}

fn table(limits: &[Limit], hits: &[Hits]) -> Markup {
    html! {
        div.scroll tabindex="0" role="group" aria-label="Limits" {
            table.rows #limits {
                thead { tr {
                    th { "Limit" } th { "Mode" } th { "Allows" } th { "Counted by" } th { "Requests" }
                    th.number { "Denied today" } th.number { "Would deny" }
                } }
                tbody {
                    @for limit in limits {
                        @let hit = hits.iter().find(|hit| hit.limit == limit.name);
                        tr {
                            td.name data-label="Limit" { a href=(LIMITS.page_of(&limit.name)) { (in_table(&limit.name)) } }
                            td data-label="Mode" { (limit.mode()) }
                            td.keep data-label="Allows" {
                                (grouped(limit.rate)) " per " (in_table(&limit.per))
                                @if let Some(burst) = limit.burst { div.quiet { (grouped(burst)) " at once" } }
                            }
                            td data-label="Counted by" { (limit.key()) }
                            td data-label="Requests" { (limit.of()) }
                            td.number data-label="Denied today" { (count(hit.map_or(0, |hit| hit.denied))) }
                            td.number data-label="Would deny" { (count(hit.map_or(0, |hit| hit.would_deny))) }
                        }
                    }
                }
            }
        }
    }
}

/// The clients that a limit has denied most often.
fn clients(hit: &Hits) -> Markup {
    html! {
        h3 {
            (in_table(&hit.limit)) ": " (count(hit.denied)) " denied"
            @if hit.would_deny > 0 { ", " (count(hit.would_deny)) " would have been" }
        }
        @if hit.clients.is_empty() {
            p.quiet { "Which clients these were is counted only for limits that are enforced." }
        } @else {
            div.scroll tabindex="0" role="group" aria-label="Clients" {
                table {
                    thead { tr { th { "Client" } th.number { "Requests denied" } th { "More" } } }
                    tbody {
                        @for client in &hit.clients {
                            @let ip = encoded(&client.value);
                            tr {
                                td { code { (in_table(&client.value)) } }
                                td.number { (count(client.requests)) }
                                td {
                                    a href={ "/ui/events?ip=" (ip) } { "Events" } " "
                                    a href={ "/ui/bans/address?ip=" (ip) } { "Address" }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

async fn send_new(form: Form) -> Result<Response, PageError> {
    match editor::send(&form, &LIMITS, "").await? {
        Sent::Done(response) => Ok(response),
        Sent::Again(edit) => page_of_new(&form.visitor, &edit),
    }
}

fn page_of_new(visitor: &Visitor, edit: &Edit) -> Result<Response, PageError> {
    let about = "How many requests of each client, route or header may pass. This one begins in shadow: it counts, and \
                 denies nothing until shadow is false. `docs/LIMITS.md` has every field.";
    new_page(visitor, &LIMITS, edit, about)
}

async fn one(visitor: Visitor, Path(name): Path<String>, query: PageQuery) -> Result<Response, PageError> {
    if !query.get("remove").is_empty() {
        return confirmation(&visitor, &LIMITS, &name).await;
    }
    let edit = Edit::open(&visitor, &LIMITS, &name).await?;
    page_of_limit(&visitor, &edit).await
}

async fn send(Path(name): Path<String>, form: Form) -> Result<Response, PageError> {
    match editor::send(&form, &LIMITS, &name).await? {
        Sent::Done(response) => Ok(response),
        Sent::Again(edit) => page_of_limit(&form.visitor, &edit).await,
    }
}

async fn page_of_limit(visitor: &Visitor, edit: &Edit) -> Result<Response, PageError> {
    let hits: Items<Hits> = visitor.api.get("stats/limits?limit=100").await?;
    let hit = hits.items.iter().find(|hit| hit.limit == edit.name);
    let below = html! {
        section.card aria-labelledby="hits-heading" {
            h2 #hits-heading { "Who hits it, today (UTC)" }
            @match hit {
                Some(hit) => (clients(hit)),
                None => p.empty { "It has denied nothing today, and would have denied nothing: nobody came over its rate." },
            }
        }
    };
    page_of(visitor, &LIMITS, edit, below)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_limit_is_told_in_words() {
        let limit = |document| serde_json::from_value::<Limit>(document).unwrap();
        let one = limit(
            json!({"name": "a", "key": "header:x-key", "match": {"route": ["t/r"], "cidr": "10.0.0.0/8"}}),
        );
        assert_eq!(
            one.key().into_string(),
            "each value of the header <code><bdi class=\"foreign\">x-key</bdi></code>"
        );
        let of = one.of().into_string();
        assert!(of.contains("href=\"/ui/routes/t/r\"") && of.contains("clients of"), "{of}");
        assert_eq!(limit(json!({"name": "a", "key": "ip", "match": null})).of().into_string(), "all");
    }
}
