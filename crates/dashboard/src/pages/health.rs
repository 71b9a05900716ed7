//! What is wrong, and what the service holds.

use std::collections::BTreeMap;

use axum::Router;
use axum::response::Response;
use axum::routing::get;
use futures_util::try_join;
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::Value;

use super::overview::findings;
use crate::answers::Examined;
use crate::dashboard::Dashboard;
use crate::error::PageError;
use crate::page::{Page, command};
use crate::part::Part;
use crate::query::PageQuery;
use crate::show::number::{bytes, count, grouped};
use crate::show::text::foreign;
use crate::show::time;
use crate::visitor::Visitor;

/// The path of the page.
const PATH: &str = "/ui/health";

/// The paths here.
pub fn routes() -> Router<Dashboard> {
    Router::new().route(PATH, get(page))
}

#[derive(Deserialize)]
struct Health {
    version: String,
    uptime_ms: u64,
    tables: BTreeMap<String, Value>,
    quarantine: Quarantine,
    store: Store,
}

#[derive(Deserialize)]
struct Quarantine {
    count: u64,
    rows: Vec<QuarantinedRow>,
}

/// A row of the database that cannot be read.
#[derive(Deserialize)]
struct QuarantinedRow {
    table: String,
    key: String,
    detail: String,
}

#[derive(Deserialize)]
struct Store {
    locked_for_ms: Option<u64>,
    wal_bytes: Option<u64>,
}

/// Answers the page.
async fn page(visitor: Visitor, query: PageQuery) -> Result<Response, PageError> {
    let parts = parts(&visitor, &query).await?;
    let body = html! { @for part in &parts { (part.in_page()) } };
    Page { title: "Health", menu: PATH, live: "/ui/live/health", body }.show(&visitor)
}

/// The parts of the page that change by themselves.
pub async fn parts(visitor: &Visitor, _: &PageQuery) -> Result<Vec<Part>, PageError> {
    let (examined, health) =
        try_join!(visitor.api.get::<Examined>("doctor"), visitor.api.get::<Health>("optimization/health"))?;
    Ok(vec![
        Part::new("findings", findings(&examined.findings)),
        Part::new("service", service(&health)),
        Part::new("tables", tables(&health)),
        Part::new("quarantine", quarantine(&health.quarantine)),
    ])
}

fn service(health: &Health) -> Markup {
    html! {
        dl.figures {
            div { dt { "Version of the tables" } dd { small { code { (health.version) } } } }
            div { dt { "Running for" } dd { (time::span(health.uptime_ms / 1_000)) } }
            div { dt { "Write-ahead log" } dd { (health.store.wal_bytes.map_or_else(|| "–".to_owned(), bytes)) } }
            div { dt { "Database locked" } dd { (health.store.locked_for_ms.map_or_else(|| "no".to_owned(), |ms| format!("for {}", time::span(ms / 1_000)))) } }
        }
    }
}

fn tables(health: &Health) -> Markup {
    let entries = |table: &Value| {
        let of = |name: &str| table[name].as_u64();
        of("entries").or_else(|| Some(of("v4")? + of("v6")?))
    };
    html! {
        section.card aria-labelledby="tables-heading" {
            h2 #tables-heading { "Tables that gateways hold" }
            div.scroll tabindex="0" role="group" aria-label="Tables" {
                table {
                    thead { tr { th { "Table" } th.number { "Entries" } th { "Digest" } } }
                    tbody {
                        @for (name, table) in health.tables.iter().filter(|(_, table)| table.is_object()) {
                            tr {
                                td.keep { code.keep { (name) } }
                                td.number { @if let Some(entries) = entries(table) { (count(entries)) } @else { span.none { "–" } } }
                                td.long { code.quiet { (table["digest"].as_str().unwrap_or("–")) } }
                            }
                        }
                    }
                }
            }
            (command("tidegate status"))
        }
    }
}

fn quarantine(quarantine: &Quarantine) -> Markup {
    html! {
        @if quarantine.count > 0 {
            section.card aria-labelledby="quarantine-heading" {
                h2 #quarantine-heading { "Rows that cannot be read: " (grouped(quarantine.count)) }
                p { "They were written by SQL. What each said before stays in force, where there was something before. Mend them by SQL, or write them anew through the API." }
                div.scroll tabindex="0" role="group" aria-label="Rows that cannot be read" {
                    table {
                        thead { tr { th { "Table" } th { "Key" } th { "What is wrong" } } }
                        tbody { @for row in &quarantine.rows { tr {
                            td { code { (row.table) } }
                            td.long { (foreign(&row.key)) }
                            td.long { (foreign(&row.detail)) }
                        } } }
                    }
                }
            }
        }
    }
}
