//! Recorded requests: found, followed, and one in full.

mod event;
mod filters;
mod follow;

use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use maud::{Markup, html};

use crate::answers::Items;
use crate::api::{ApiError, Problem};
use crate::dashboard::Dashboard;
use crate::error::PageError;
use crate::page::{Page, command, field_problem, form_problem, marks};
use crate::query::PageQuery;
use crate::show::shell::shell_word;
use crate::show::text::visible;
use crate::visitor::Visitor;
use event::Event;
use filters::{FILTERS, PATH, VERDICTS, WOULD_DENY, filters};

/// Events of a page.
const PAGE: u32 = 100;
/// Rows that a page that follows keeps.
const KEPT: u32 = 200;

/// The paths here.
pub fn routes() -> Router<Dashboard> {
    Router::new()
        .route(PATH, get(page))
        .route("/ui/events/one", get(event::page))
        .route("/ui/events/follow", get(follow::answer))
}

/// Answers the page.
async fn page(visitor: Visitor, query: PageQuery) -> Result<Response, PageError> {
    let follows = !query.get("follow").is_empty();
    let wanted = filters(&query);
    let wanted = if follows { wanted.with("since", "").with("until", "") } else { wanted };
    let asked = wanted
        .with("limit", &PAGE.to_string())
        .with("cursor", if follows { "" } else { query.get("cursor") });
    let (events, problem) = match visitor.api.get::<Items<Event>>(&format!("events{}", asked.text())).await {
        Ok(events) => (events, None),
        Err(ApiError::Problem(problem)) if problem.status == 400 => {
            (Items { items: Vec::new(), next: None }, Some(problem))
        }
        Err(error) => return Err(error.into()),
    };
    let live = format!("/ui/events/follow{}", wanted.text());
    let body = html! {
        (form_problem(problem.as_deref()))
        (filter_form(&query, problem.as_deref()))
        div.actions.spaced {
            @if follows { a.button href={ (PATH) (wanted.text()) } { "Stop following" } }
            @else if problem.is_none() { a.button href={ (PATH) (wanted.with("follow", "1").text()) } { "Follow as they come" } }
        }
        (table(&events, &wanted, follows, problem.is_some()))
        @if let Some(next) = events.next.filter(|_| !follows) {
            nav.pager aria-label="Further events" {
                a.button rel="next" href={ (PATH) (wanted.with("cursor", &next).text()) } { "Older ones" }
                @if !query.get("cursor").is_empty() { a.button href={ (PATH) (wanted.text()) } { "The newest" } }
            }
        }
        (command(&as_command(&wanted, follows)))
    };
    let status = if problem.is_some() { StatusCode::BAD_REQUEST } else { StatusCode::OK };
    let live = if follows && problem.is_none() { &live } else { "" };
    Ok((status, Page { title: "Events", menu: PATH, live, body }.show(&visitor)?).into_response())
}

fn filter_form(query: &PageQuery, problem: Option<&Problem>) -> Markup {
    let more = FILTERS[4..].iter().map(|(name, ..)| *name).chain(["would_deny"]);
    let set = more.into_iter().any(|name| !query.get(name).is_empty());
    let field = |name: &'static str, label: &str, example: &str| {
        let (id, wrong) = (format!("filter-{name}"), problem.and_then(|problem| problem.of_field(name)));
        let marks = marks(&id, wrong);
        html! {
            div {
                label for=(id) { (label) }
                input id=(id) name=(name) value=(query.get(name)) placeholder=(example)
                    aria-invalid=[marks.invalid] aria-describedby=[marks.described_by];
                (field_problem(&id, wrong))
            }
        }
    };
    html! {
        form.card method="get" action=(PATH) {
            div.fields {
                (choice(query, "verdict", "Verdict", (&VERDICTS, problem)))
                @for (name, label, example) in &FILTERS[..4] { (field(name, label, example)) }
            }
            details open[set || problem.is_some()] {
                summary { "More filters" }
                div.fields {
                    (choice(query, "would_deny", "Shadow would have denied", (&WOULD_DENY, problem)))
                    @for (name, label, example) in &FILTERS[4..] { (field(name, label, example)) }
                }
            }
            div.actions {
                button.primary type="submit" { "Find" }
                a.button href=(PATH) { "All events" }
            }
        }
    }
}

fn choice(
    query: &PageQuery,
    name: &str,
    label: &str,
    (values, problem): (&[&str], Option<&Problem>),
) -> Markup {
    let (id, wrong) = (format!("filter-{name}"), problem.and_then(|problem| problem.of_field(name)));
    let (marks, chosen) = (marks(&id, wrong), query.get(name));
    // What is in the address stays, be it offered or not.
    let other = Some(chosen).filter(|chosen| !chosen.is_empty() && !values.contains(chosen));
    html! {
        div {
            label for=(id) { (label) }
            select id=(id) name=(name) aria-invalid=[marks.invalid] aria-describedby=[marks.described_by] {
                option value="" { "any" }
                @for value in values.iter().copied().chain(other) {
                    option value=(value) selected[chosen == value] { (visible(value)) }
                }
            }
            (field_problem(&id, wrong))
        }
    }
}

fn table(found: &Items<Event>, wanted: &PageQuery, follows: bool, is_refused: bool) -> Markup {
    let events = &found.items;
    html! {
        section.card aria-label="Events" {
            @if follows && events.is_empty() { p.empty { "None yet that fits. New ones come on top." } }
            @if events.is_empty() && !follows {
                p.empty {
                    @if is_refused { "Mend the filter and find again." }
                    @else if found.next.is_some() { "None that fits among the newest; a search ends after a second. Go on to older ones, or say since when." }
                    @else if wanted.text().is_empty() { "No request was recorded yet. Send one through the gate: it is here within seconds." }
                    @else { "No request was recorded that fits. Take filters out, or send one through the gate." }
                }
            } @else {
                div.scroll tabindex="0" role="group" aria-label="Events, newest first" {
                    table.rows {
                        thead { tr {
                            th { "Time" } th { "Client" } th { "Request" } th.number { "Status" } th { "Verdict" }
                            th { "Why" } th { "Route" } th.number { "Duration" }
                        } }
                        tbody #event-rows data-most=(KEPT) { @for event in events { (event.row()) } }
                    }
                }
            }
        }
    }
}

/// The command that finds the same.
fn as_command(wanted: &PageQuery, follows: bool) -> String {
    let mut text = "tidegate events".to_owned();
    if follows {
        text.push_str(" --follow");
    }
    for name in FILTERS.iter().map(|(name, ..)| *name).chain(["verdict", "would_deny", "would_deny_rule"]) {
        let value = wanted.get(name);
        if !value.is_empty() {
            text.push_str(&format!(" --{} {}", name.replace('_', "-"), shell_word(value)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_finds_the_same() {
        let query = PageQuery::read("verdict=deny&path=%2Fa+b%27&span=1h&would_deny=ip_banned");
        let command = as_command(&filters(&query), true);
        assert_eq!(
            command,
            r"tidegate events --follow --path '/a b'\''' --verdict deny --would-deny ip_banned"
        );
    }
}
