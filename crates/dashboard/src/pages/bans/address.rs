//! One address or block: what holds for it, every entry that covers it, and what can be done.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use jiff::Timestamp;
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::Value;

use super::action::{Refused, all_the_same};
use super::ban_form::BanForm;
use super::entries::{Entry, RequestsSeen, applies_to, status_tag};
use super::urls::{BANS, ENTRY, page_of};
use crate::api::{ApiClient, ApiError, encoded};
use crate::enforced::{self, VERSION};
use crate::error::PageError;
use crate::form::hidden_fields;
use crate::page::{Page, command, form_problem};
use crate::pages::allow_list::form::AllowForm;
use crate::part::Part;
use crate::query::PageQuery;
use crate::role::Role;
use crate::session::NoRandomBytes;
use crate::show::number::{count, grouped};
use crate::show::shell::shell_word;
use crate::show::text::{foreign, optional, visible};
use crate::show::time;
use crate::visitor::Visitor;

/// What holds for an address or a block.
#[derive(Deserialize)]
struct Report {
    ip: String,
    status: String,
    /// The entry that decides.
    entry: Option<String>,
    reason: Option<String>,
    until: Option<String>,
    applies_to: Option<Value>,
    requests_seen: Option<RequestsSeen>,
    entries: Vec<Entry>,
}

impl Report {
    async fn ask(api: &ApiClient, ip: &str) -> Result<Self, ApiError> {
        api.get(&format!("ip-monitor/{}", encoded(ip))).await
    }
}

/// Answers the page.
pub async fn page(visitor: Visitor, query: PageQuery) -> Result<Response, PageError> {
    if query.get("ip").is_empty() {
        return Ok(Redirect::to(BANS).into_response());
    }
    show(&visitor, &query, None).await
}

/// The page, with what was refused on top of it.
pub async fn show(
    visitor: &Visitor,
    query: &PageQuery,
    refused: Option<&Refused>,
) -> Result<Response, PageError> {
    let report = Report::ask(&visitor.api, query.get("ip")).await?;
    let enforced = enforced::part(&visitor.api, query).await?;
    let problem = refused.map(|refused| &refused.problem);
    let body = html! {
        p { a href=(BANS) { "All bans" } " › " (foreign(&report.ip)) }
        (form_problem(problem))
        @if let Some(refused) = refused { (all_the_same(visitor, &report.ip, refused)?) }
        @if let Some(part) = &enforced { (part.in_page()) }
        @if query.get("ip") != report.ip {
            p.quiet #taken-as { code { (visible(query.get("ip"))) } " was taken as " code { (report.ip) } "." }
        }
        (decision_part(&report).in_page())
        (entries(visitor, &report)?)
        @if visitor.may(Role::Operate) { (forms(visitor, &report)?) }
        (elsewhere(&report.ip))
    };
    let live = format!("/ui/live/address{}", query.only(&["ip", VERSION]).text());
    let title = format!("Address {}", report.ip);
    let status = problem.and_then(|problem| StatusCode::from_u16(problem.status).ok());
    let page = Page { title: &title, menu: BANS, live: &live, body }.show(visitor)?;
    Ok((status.unwrap_or(StatusCode::OK), page).into_response())
}

/// The parts of the page that are made anew.
pub async fn parts(visitor: &Visitor, query: &PageQuery) -> Result<Vec<Part>, PageError> {
    let report = Report::ask(&visitor.api, query.get("ip")).await?;
    let enforced = enforced::part(&visitor.api, query).await?;
    Ok(enforced.into_iter().chain([decision_part(&report)]).collect())
}

fn decision_part(report: &Report) -> Part {
    Part::new("decision", decision(report, Timestamp::now()))
}

fn decision(report: &Report, now: Timestamp) -> Markup {
    html! {
        section.card aria-labelledby="decision-heading" {
            h2 #decision-heading { "What holds now" }
            dl.facts {
                dt { "Status" }
                dd #status { (status_tag(&report.status)) " " (words(report)) }
                @if let Some(entry) = &report.entry {
                    dt { "Entry that decides" }
                    dd { a href=(page_of(entry)) { (foreign(entry)) } }
                    dt { "Reason" }
                    dd { (optional(report.reason.as_deref())) }
                    dt { "Until" }
                    dd { (time::optional_relative(report.until.as_deref(), now, "for ever")) }
                }
                dt { "Requests seen" }
                dd { (seen(report.requests_seen.as_ref(), now)) }
            }
        }
    }
}

fn words(report: &Report) -> Markup {
    html! {
        @match report.status.as_str() {
            "banned" => "Its requests are denied",
            "watched" => "Its requests are let through, and what the ban would deny is recorded",
            "allowed" => "Neither bans, geo rules nor limits hold for it",
            _ => "No entry covers it",
        }
        @if let Some(scope) = &report.applies_to { ", " (applies_to(scope)) }
        "."
    }
}

fn seen(seen: Option<&RequestsSeen>, now: Timestamp) -> Markup {
    html! {
        @match seen {
            None => "none that is known; the 10,000 most frequent addresses are counted",
            Some(seen) => {
                (count(seen.count))
                @if seen.over > 0 { " (up to " (grouped(seen.over)) " fewer)" }
                ", the last " (time::relative(&seen.last_seen, now))
            }
        }
    }
}

fn entries(visitor: &Visitor, report: &Report) -> Result<Markup, NoRandomBytes> {
    let now = Timestamp::now();
    let may_act = visitor.may(Role::Operate);
    let mut rows = Vec::new();
    for entry in &report.entries {
        rows.push(html! {
            tr class=[entry.expired.then_some("ended")] {
                td.address data-label="Address" { a href=(page_of(&entry.ip)) { (foreign(&entry.ip)) } }
                td data-label="Status" { (entry.state()) }
                @if may_act { td data-label="Change" { (buttons(visitor, &report.ip, entry)?) } }
                td.long data-label="Reason" { (optional(entry.reason.as_deref())) }
                td data-label="From" { (entry.origin()) }
                td.keep data-label="Since" { (time::optional_relative(entry.since.as_deref(), now, "–")) }
                td.keep data-label="Until" { (entry.end(now)) }
                td.number data-label="Would deny" { (entry.hits()) }
            }
        });
    }
    Ok(html! {
        section.card aria-labelledby="covering-heading" {
            h2 #covering-heading { "Entries that cover it" }
            @if rows.is_empty() { p.empty { "None: nothing is banned or allowed here." @if may_act { " The forms below do either." } } } @else {
                p.quiet { "The narrowest first. An entry of the allow list beats every ban; of bans, one that applies everywhere decides before others, then the narrowest." }
                div.scroll tabindex="0" role="group" aria-label="Entries that cover it" {
                    table.rows #covering {
                        thead { tr {
                            th { "Address or block" } th { "Status" }
                            @if may_act { th { "Change" } }
                            th { "Reason" } th { "From" } th { "Since" } th { "Until" }
                            th.number { "Would have denied" }
                        } }
                        tbody { @for row in rows { (row) } }
                    }
                }
                @if may_act { (commands(&report.entries)) }
            }
        }
    })
}

/// What can be done to an entry.
fn buttons(visitor: &Visitor, of: &str, entry: &Entry) -> Result<Markup, NoRandomBytes> {
    if !entry.is_own() {
        return Ok(html! { span.quiet { "Only sources have it: allow the address, or change the source." } });
    }
    let about = format!(" {}", entry.ip);
    let button = |action: &str, words: &str| {
        html! { button type="submit" name="action" value=(action) aria-label={ (words) (about) } { (words) } }
    };
    Ok(html! {
        form.actions method="post" action=(ENTRY) {
            (hidden_fields(visitor)?)
            input type="hidden" name="of" value=(of);
            input type="hidden" name="ip" value=(entry.ip);
            @match entry.status.as_str() {
                "allowed" => (button("disallow", "Remove from the allow list")),
                "watched" => {
                    (button("enforce", "Enforce"))
                    (button("unban", "Unban"))
                }
                _ => (button("unban", "Unban")),
            }
        }
    })
}

fn forms(visitor: &Visitor, report: &Report) -> Result<Markup, NoRandomBytes> {
    Ok(html! {
        div.columns {
            section.card aria-labelledby="ban-heading" {
                h2 #ban-heading { "Ban it" }
                (BanForm::of(&report.ip).show(visitor, None)?)
            }
            section.card aria-labelledby="allow-heading" {
                h2 #allow-heading { "Allow it" }
                (AllowForm::of(&report.ip).show(visitor, None)?)
            }
        }
    })
}

/// Commands that do what the buttons of entries do.
fn commands(entries: &[Entry]) -> Markup {
    let own = || entries.iter().filter(|entry| entry.is_own());
    let commands = own().flat_map(|entry| {
        let ip = shell_word(&entry.ip);
        match entry.status.as_str() {
            "allowed" => vec![format!("tidegate disallow {ip}")],
            "watched" => vec![format!("tidegate bans enforce {ip}"), format!("tidegate unban {ip}")],
            _ => vec![format!("tidegate unban {ip}")],
        }
    });
    html! { @for text in commands { (command(&text)) } }
}

fn elsewhere(ip: &str) -> Markup {
    html! {
        p {
            a href={ "/ui/events?ip=" (encoded(ip)) } { "Its requests" }
            " · "
            a href={ "/ui/explain?ip=" (encoded(ip)) } { "What would happen to a request from it?" }
        }
    }
}
