//! Requests that database and cache answered differently.

use maud::{Markup, html};
use serde::Deserialize;
use serde_json::Value;

use crate::answers::Items;
use crate::api::{ApiClient, encoded};
use crate::error::PageError;
use crate::page::command;
use crate::show::text::{foreign, in_table, optional};
use crate::show::time;

/// Examples that are shown.
const SHOWN: usize = 20;

/// A request of which a check was answered differently.
#[derive(Deserialize)]
pub struct Example {
    timestamp: String,
    method: Option<String>,
    host: Option<String>,
    path: Option<String>,
    client_ip: Option<String>,
    source: String,
    number: u64,
    mismatches: Vec<Mismatch>,
}

#[derive(Deserialize)]
struct Mismatch {
    check: String,
    direct: String,
    cached: String,
    #[serde(default)]
    difference: Value,
    lagging: bool,
}

/// Asks for the newest.
pub async fn ask(api: &ApiClient) -> Result<Vec<Example>, PageError> {
    let path = format!("optimization/shadow/mismatches?limit={SHOWN}");
    Ok(api.get::<Items<Example>>(&path).await?.items)
}

/// The newest, each check a row.
pub fn show(examples: &[Example]) -> Markup {
    html! {
        section.card aria-labelledby="mismatches-heading" {
            h2 #mismatches-heading { "What shadow answered differently" }
            @if examples.is_empty() {
                p.empty { "No request was answered differently. A flag in shadow compares each request; switch it on once enough were compared and none differed." }
            } @else {
                div.scroll tabindex="0" role="group" aria-label="Requests that were answered differently" {
                    table.rows {
                        thead { tr {
                            th { "Time" } th { "Request" } th { "Client" } th { "Check" } th { "Why" } th { "Database" } th { "Cache" }
                            th { "Difference" }
                        } }
                        tbody { @for example in examples { @for mismatch in &example.mismatches { (row(example, mismatch)) } } }
                    }
                }
                (command("tidegate events --mismatch any"))
            }
        }
    }
}

fn row(example: &Example, mismatch: &Mismatch) -> Markup {
    let at = encoded(&example.timestamp);
    let event = format!("/ui/events/one?source={}&number={}&at={at}", example.source, example.number);
    html! {
        tr {
            td.keep data-label="Time" { a href=(event) { (time::moment(&example.timestamp)) } }
            td.long.request data-label="Request" { (optional(example.method.as_deref())) " " (optional(example.host.as_deref())) (optional(example.path.as_deref())) }
            td.keep data-label="Client" { (optional(example.client_ip.as_deref())) }
            td data-label="Check" { code { (mismatch.check) } }
            td data-label="Why" { @if mismatch.lagging { span.tag title="The gateway had not loaded the newest change yet; a moment later both say the same." { "cache was behind" } } @else { span class="tag bad" title="Both had the same tables, and said different things: this should not be." { "same tables" } } }
            td data-label="Database" { (in_table(&mismatch.direct)) }
            td data-label="Cache" { (in_table(&mismatch.cached)) }
            td.long data-label="Difference" { (difference(&mismatch.difference)) }
        }
    }
}

/// What of both answers stands between the words that they share.
fn difference(difference: &Value) -> Markup {
    match difference {
        Value::Object(both) => html! {
            @for (side, text) in both { span.quiet { (side) ": " } (foreign(text.as_str().unwrap_or("–"))) " " }
        },
        Value::String(text) => foreign(text),
        _ => html! { span.none { "–" } },
    }
}
