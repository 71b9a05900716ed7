//! One source: how its fetches go, what its list had, and its document.

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use maud::{Markup, html};
use serde_json::Value;

use super::release::release;
use super::source::{PATH, SOURCES, Source, wrong};
use crate::api::{ApiClient, ApiError, Problem, encoded};
use crate::editor::{self, Edit, Sent, confirmation};
use crate::error::PageError;
use crate::form::{Form, hidden_fields};
use crate::page::{Page, command, form_problem};
use crate::pages::bans::entries::applies_to;
use crate::part::Part;
use crate::query::PageQuery;
use crate::role::Role;
use crate::session::NoRandomBytes;
use crate::show::number::{count, grouped};
use crate::show::shell::shell_word;
use crate::show::text::{foreign, optional, visible};
use crate::show::time;
use crate::visitor::Visitor;

/// Answers the page, or the one that asks whether the source is to be removed.
pub async fn page(
    visitor: Visitor,
    Path(name): Path<String>,
    query: PageQuery,
) -> Result<Response, PageError> {
    if !query.get("remove").is_empty() {
        return confirmation(&visitor, &SOURCES, &name).await;
    }
    let edit = Edit::open(&visitor, &SOURCES, &name).await?;
    let page = show(&visitor, &edit, None).await?;
    Ok(page.into_response())
}

/// Carries out what a form of the editor asks for.
pub async fn send(Path(name): Path<String>, form: Form) -> Result<Response, PageError> {
    match editor::send(&form, &SOURCES, &name).await? {
        Sent::Done(response) => Ok(response),
        Sent::Again(edit) => Ok((edit.status(), show(&form.visitor, &edit, None).await?).into_response()),
    }
}

/// The page, with why the source was not fetched on top of it.
pub async fn not_fetched(visitor: &Visitor, name: &str, problem: &Problem) -> Result<Response, PageError> {
    let edit = Edit::open(visitor, &SOURCES, name).await?;
    let page = show(visitor, &edit, Some(problem)).await?;
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::BAD_GATEWAY);
    Ok((status, page).into_response())
}

async fn ask(api: &ApiClient, name: &str) -> Result<Source, ApiError> {
    api.get(&format!("sources/{}", encoded(name))).await
}

async fn show(visitor: &Visitor, edit: &Edit, problem: Option<&Problem>) -> Result<Response, PageError> {
    let name = edit.name.as_str();
    let source = ask(&visitor.api, name).await?;
    let body = html! {
        p { a href=(PATH) { "All sources" } " › " (foreign(name)) }
        (form_problem(problem))
        @if let Some(why) = source.held_back() {
            div.finding.warning #held-back {
                p { strong { "Held back: " } (foreign(&why.detail)) ". The " (grouped(why.had)) " entries from before stay in force." }
                (release(visitor, name, why)?)
            }
        }
        (state_part(&source).in_page())
        (refresh_now(visitor, name)?)
        (edit.show(visitor, &SOURCES)?)
    };
    let live = format!("/ui/live/sources?name={}", encoded(name));
    Page { title: &format!("Source {}", visible(name)), menu: PATH, live: &live, body }.show(visitor)
}

/// The parts of the page that are made anew.
pub async fn parts(visitor: &Visitor, name: &str) -> Result<Vec<Part>, PageError> {
    Ok(vec![state_part(&ask(&visitor.api, name).await?)])
}

fn state_part(source: &Source) -> Part {
    Part::new("source-state", state(source, Timestamp::now()))
}

fn state(source: &Source, now: Timestamp) -> Markup {
    let status = source.status.as_ref();
    let of = |moment: Option<&str>, otherwise: &str| time::optional_relative(moment, now, otherwise);
    html! {
        section.card aria-labelledby="state-heading" {
            h2 #state-heading { "State" }
            dl.facts {
                dt { "State" } dd #state { (source.state()) }
                dt { "Entries in force" } dd { @if let Some(status) = status { (count(status.entries)) } @else { "0" } }
                dt { "Last fetched" } dd { (of(status.and_then(|status| status.fetched.as_deref()), "never")) }
                dt { "Last tried" } dd { (of(status.and_then(|status| status.tried.as_deref()), "never")) }
                dt { "Next try" } dd { (of(status.and_then(|status| status.next_try.as_deref()), "soon")) }
                dt { "What is wrong" } dd { (wrong(status)) }
                dt { "From" }
                dd {
                    @if source.field(|spec| spec.kind.as_deref()) == Some("crowdsec") { "CrowdSec at " }
                    (optional(source.place()))
                }
                dt { "Fetched every" } dd { (interval(source)) }
                dt { "Reason of its bans" } dd { (optional(source.field(|spec| spec.reason.as_deref()))) }
                @if let Some(scope) = source.field(|spec| spec.applies_to.as_ref()) {
                    dt { "Applies to" } dd { (applies_to(scope)) }
                }
            }
            @if let Some(counts) = status.and_then(|status| status.counts.as_ref()) { (counts_of(counts)) }
        }
    }
}

fn interval(source: &Source) -> Markup {
    match source.field(|spec| spec.interval.as_ref()) {
        Some(Value::String(text)) => foreign(text),
        Some(Value::Number(seconds)) => html! { (seconds) " s" },
        _ => html! { "default" },
    }
}

/// What became of the entries of the list that is in force.
fn counts_of(counts: &Value) -> Markup {
    let number = |field: &str| counts[field].as_u64().unwrap_or_default();
    let by_reason = |field: &str| -> Vec<(String, u64)> {
        let fields = counts[field].as_object().into_iter().flatten();
        fields.map(|(code, number)| (code.clone(), number.as_u64().unwrap_or_default())).collect()
    };
    html! {
        h3 { "Its list" }
        p {
            (count(number("taken"))) " entries taken, " (count(number("duplicates"))) " repeated"
            @if let Some(format) = counts["format"].as_str() { "; read as " (foreign(format)) }
            "."
        }
        @for (field, words) in [("refused", "refused"), ("skipped", "skipped")] {
            @for (code, number) in by_reason(field) {
                p.quiet { (count(number)) " " (words) ": " code { (visible(&code)) } }
            }
        }
    }
}

fn refresh_now(visitor: &Visitor, name: &str) -> Result<Markup, NoRandomBytes> {
    Ok(html! {
        section.card aria-labelledby="refresh-heading" {
            h2 #refresh-heading { "Fetch it now" }
            @if visitor.may(Role::Operate) {
                form.actions method="post" action={ (SOURCES.page_of(name)) "/refresh" } {
                    (hidden_fields(visitor)?)
                    button #refresh type="submit" { "Fetch now" }
                }
            }
            (command(&format!("tidegate sources refresh {}", shell_word(name))))
        }
    })
}
