//! All sources, the lists that are held back, and the page that makes a source.

use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use maud::{Markup, html};

use super::release::release;
use super::source::{PATH, SOURCES, Source, wrong};
use crate::answers::Items;
use crate::api::{ApiClient, ApiError};
use crate::editor::{self, Edit, Sent};
use crate::error::PageError;
use crate::form::Form;
use crate::page::{Page, command};
use crate::pages::bans::entries::applies_to;
use crate::part::Part;
use crate::query::PageQuery;
use crate::role::Role;
use crate::session::NoRandomBytes;
use crate::show::number::{count, grouped};
use crate::show::sentence::sentence;
use crate::show::text::{foreign, in_table};
use crate::show::time;
use crate::visitor::Visitor;

async fn sources(api: &ApiClient) -> Result<Vec<Source>, ApiError> {
    Ok(api.get::<Items<Source>>("sources?limit=1000").await?.items)
}

/// Answers the page.
pub async fn page(visitor: Visitor, query: PageQuery) -> Result<Response, PageError> {
    if !query.get("new").is_empty() {
        return page_of_new(&visitor, &Edit::new(&SOURCES));
    }
    let sources = sources(&visitor.api).await?;
    let body = html! {
        p {
            "A source is a list that the service fetches again and again, or CrowdSec. What it has is banned for as long as it has it."
        }
        @if visitor.may(Role::Admin) {
            p { a.button.primary href=(SOURCES.page_of_new()) { "New source" } }
        }
        (held_back(&visitor, &sources)?)
        (list_part(&sources).in_page())
        (command("tidegate sources list"))
        p { a href="/ui/bans/import" { "Import a list once" } }
    };
    Page { title: "Sources", menu: PATH, live: "/ui/live/sources", body }.show(&visitor)
}

/// Makes a source.
pub async fn send_new(form: Form) -> Result<Response, PageError> {
    match editor::send(&form, &SOURCES, "").await? {
        Sent::Done(response) => Ok(response),
        Sent::Again(edit) => page_of_new(&form.visitor, &edit),
    }
}

fn page_of_new(visitor: &Visitor, edit: &Edit) -> Result<Response, PageError> {
    let body = html! {
        p { a href=(PATH) { "All sources" } " › new" }
        p { (sentence("Where the list is, and how often it is fetched. `docs/BANS.md` has every field, and CrowdSec.")) }
        (edit.show(visitor, &SOURCES)?)
    };
    let page = Page { title: "New source", menu: PATH, live: "", body }.show(visitor)?;
    Ok((edit.status(), page).into_response())
}

/// The parts of the page that are made anew.
pub async fn parts(visitor: &Visitor) -> Result<Vec<Part>, PageError> {
    Ok(vec![list_part(&sources(&visitor.api).await?)])
}

fn list_part(sources: &[Source]) -> Part {
    Part::new("sources-list", list(sources, Timestamp::now()))
}

fn list(sources: &[Source], now: Timestamp) -> Markup {
    html! {
        section.card aria-label="All sources" {
            @if sources.is_empty() {
                p.empty { "There is none yet. Make one, or apply a file with the command below." }
                (command("tidegate sources apply -f drop.yaml"))
            } @else {
                div.scroll tabindex="0" role="group" aria-label="Sources" {
                    table.rows #sources {
                        thead { tr {
                            th { "Source" } th { "State" } th.number { "Entries" } th { "Fetched" } th { "Next try" }
                            th { "What is wrong" }
                        } }
                        tbody { @for source in sources { (row(source, now)) } }
                    }
                }
            }
        }
    }
}

fn row(source: &Source, now: Timestamp) -> Markup {
    let status = source.status.as_ref();
    html! {
        tr {
            td data-label="Source" {
                a href=(source.page()) { (in_table(source.name())) }
                @if let Some(place) = source.place() { div.quiet { (in_table(place)) } }
                @if let Some(scope) = source.field(|spec| spec.applies_to.as_ref()) { div.quiet { (applies_to(scope)) } }
            }
            td data-label="State" { (source.state()) }
            td.number data-label="Entries" { @if let Some(status) = status { (count(status.entries)) } @else { "0" } }
            td.keep data-label="Fetched" { (time::optional_relative(status.and_then(|status| status.fetched.as_deref()), now, "never")) }
            td.keep data-label="Next try" { (time::optional_relative(status.and_then(|status| status.next_try.as_deref()), now, "soon")) }
            td.long data-label="What is wrong" { (wrong(status)) }
        }
    }
}

/// The lists that are held back, each with the button that takes it.
fn held_back(visitor: &Visitor, sources: &[Source]) -> Result<Markup, NoRandomBytes> {
    let mut held = Vec::new();
    for source in sources {
        if let Some(why) = source.held_back() {
            held.push(html! {
                div.finding.warning {
                    p {
                        strong { a href=(source.page()) { (foreign(source.name())) } " is held back: " }
                        (foreign(&why.detail)) ". The " (grouped(why.had)) " entries from before stay in force."
                    }
                    (release(visitor, source.name(), why)?)
                }
            });
        }
    }
    Ok(html! {
        @if !held.is_empty() {
            section aria-labelledby="held-back-heading" {
                h2 #held-back-heading { "Held back" }
                @for one in held { (one) }
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn source(document: Value) -> Source {
        serde_json::from_value(document).unwrap()
    }

    #[test]
    fn what_is_wrong_is_shown_as_text() {
        let status = json!({
            "state": "held_back", "entries": 1_487, "fetched": null, "tried": null, "next_try": null, "failures": 0,
            "error": null, "held_back": {"code": "shrank", "had": 1_487, "has": 3, "detail": "the <list>"},
            "counts": null,
        });
        let sources = [source(json!({"path": "drop.txt", "name": "drop", "status": status}))];
        let text = list(&sources, Timestamp::UNIX_EPOCH).into_string();
        assert!(
            text.contains("the &lt;list&gt;") && text.contains("held back") && text.contains("1,487"),
            "{text}"
        );
    }
}
