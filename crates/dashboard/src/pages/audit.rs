//! The audit: who changed what.

use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::Value;

use crate::answers::Items;
use crate::api::{ApiError, Problem};
use crate::dashboard::Dashboard;
use crate::error::PageError;
use crate::page::{Page, command, field_problem, form_problem, marks};
use crate::query::PageQuery;
use crate::show::number::grouped;
use crate::show::shell::shell_word;
use crate::show::text::{foreign, optional};
use crate::show::time;
use crate::visitor::Visitor;

/// The path of the page.
const PATH: &str = "/ui/audit";
/// Entries of a page.
const PAGE: u32 = 50;
/// Filters: name, label, example.
const FILTERS: [(&str, &str, &str); 5] = [
    ("actor", "Who", "name of a token, sql"),
    ("kind", "Kind", "ban, flag, route"),
    ("name", "Name", "203.0.113.7"),
    ("since", "Since", "2026-11-30T12:00:00Z or 1h"),
    ("until", "Until", "2026-11-30T13:00:00Z"),
];

/// The paths here.
pub fn routes() -> Router<Dashboard> {
    Router::new().route(PATH, get(page))
}

#[derive(Deserialize)]
struct Entry {
    id: u64,
    at: String,
    actor: String,
    address: Option<String>,
    request_id: Option<String>,
    kind: String,
    name: String,
    before: Option<Value>,
    after: Option<Value>,
    changes: Option<u64>,
    hash: String,
}

/// Answers the list, and whether the chain is whole if that was asked for.
async fn page(visitor: Visitor, query: PageQuery) -> Result<Response, PageError> {
    let names: Vec<&str> = FILTERS.iter().map(|(name, ..)| *name).collect();
    let wanted = query.only(&names);
    let asked = wanted.with("limit", &PAGE.to_string()).with("cursor", query.get("cursor"));
    let (entries, problem) = match visitor.api.get::<Items<Entry>>(&format!("audit{}", asked.text())).await {
        Ok(entries) => (entries, None),
        Err(ApiError::Problem(problem)) if problem.status == 400 => {
            (Items { items: Vec::new(), next: None }, Some(problem))
        }
        Err(error) => return Err(error.into()),
    };
    let checked = match query.get("verify") {
        "" => None,
        _ => Some(visitor.api.get::<Checked>("audit/verify").await?),
    };
    let body = html! {
        p { "Every change, through the API, the command line or SQL. Entries are chained: " a href={ (PATH) "?verify=1" } { "check that none was removed or changed" } "." }
        @if let Some(checked) = &checked { (verified(checked)) }
        (form_problem(problem.as_deref()))
        (filter_form(&wanted, problem.as_deref()))
        section.card aria-label="Changes" {
            @if entries.items.is_empty() {
                p.empty {
                    @if problem.is_some() { "Mend the filter and find again." }
                    @else if wanted.text().is_empty() { "Nothing was changed yet. Each change is here from then on, with its author." }
                    @else { "No change fits. Take filters out, or look further back." }
                }
            }
            @for entry in &entries.items { (show(entry)) }
            @if let Some(next) = &entries.next {
                nav.pager aria-label="Further changes" {
                    a.button rel="next" href={ (PATH) (wanted.with("cursor", next).text()) } { "Older ones" }
                }
            }
            (command(&as_command(&wanted)))
        }
    };
    let status = if problem.is_some() { StatusCode::BAD_REQUEST } else { StatusCode::OK };
    Ok((status, Page { title: "Audit", menu: PATH, live: "", body }.show(&visitor)?).into_response())
}

fn as_command(wanted: &PageQuery) -> String {
    let options = FILTERS.iter().map(|(name, ..)| *name).filter(|name| !wanted.get(name).is_empty());
    let options: String = options.map(|name| format!(" --{name} {}", shell_word(wanted.get(name)))).collect();
    format!("tidegate audit{options}")
}

fn filter_form(wanted: &PageQuery, problem: Option<&Problem>) -> Markup {
    html! {
        form.card.fields method="get" action=(PATH) {
            @for (name, label, example) in FILTERS {
                @let id = format!("filter-{name}");
                @let wrong = problem.and_then(|problem| problem.of_field(name));
                @let marks = marks(&id, wrong);
                div {
                    label for=(id) { (label) }
                    input id=(id) name=(name) value=(wanted.get(name)) placeholder=(example)
                        aria-invalid=[marks.invalid] aria-describedby=[marks.described_by];
                    (field_problem(&id, wrong))
                }
            }
            div.actions { button.primary type="submit" { "Find" } a.button href=(PATH) { "All changes" } }
        }
    }
}

/// Whether the chain is whole.
#[derive(Deserialize)]
struct Checked {
    entries: u64,
    faults: Vec<String>,
}

fn verified(checked: &Checked) -> Markup {
    html! {
        @if checked.faults.is_empty() {
            p.notice role="status" {
                "The chain of " (grouped(checked.entries)) " entries is whole. What this cannot find: " code { "docs/OPERATIONS.md" } "."
            }
        } @else {
            div.problem role="alert" {
                p { strong { "The audit was changed by somebody:" } }
                ul { @for fault in &checked.faults { li { (foreign(fault)) } } }
            }
        }
    }
}

fn show(entry: &Entry) -> Markup {
    let what = match (&entry.before, &entry.after) {
        (None, Some(_)) => "made",
        (Some(_), None) => "removed",
        _ => "changed",
    };
    html! {
        details.entry {
            summary {
                (time::moment(&entry.at)) " " strong { (foreign(&entry.actor)) } " " (what) " " (foreign(&entry.kind)) " "
                code { (optional(Some(&entry.name))) }
                @if let Some(changes) = entry.changes { span.quiet { " (" (grouped(changes)) " changes told as one)" } }
            }
            dl.facts {
                dt { "From" } dd { (optional(entry.address.as_deref())) }
                dt { "Request" } dd { (optional(entry.request_id.as_deref())) }
                dt { "Before" } dd { (json(entry.before.as_ref())) }
                dt { "After" } dd { (json(entry.after.as_ref())) }
                dt { "Entry" } dd { (entry.id) " " code.quiet { (entry.hash) } }
            }
        }
    }
}

fn json(value: Option<&Value>) -> Markup {
    match value {
        None => html! { span.none { "there was none" } },
        Some(value) => {
            html! { pre.diff tabindex="0" { (foreign_lines(&serde_json::to_string_pretty(value).unwrap_or_default())) } }
        }
    }
}

/// A text of several lines of somebody else.
fn foreign_lines(text: &str) -> Markup {
    html! { @for line in text.lines() { (foreign(line)) "\n" } }
}
