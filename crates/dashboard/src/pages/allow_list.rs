//! The allow list, and the networks that bans spare.

pub mod form;

use axum::Router;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use futures_util::try_join;
use jiff::Timestamp;
use maud::{Markup, html};
use serde::Deserialize;

use super::bans::entries::{Entry, WrittenEntry};
use super::bans::urls::{ENTRY, page_of};
use crate::answers::Items;
use crate::api::{ApiError, Problem, Write, encoded};
use crate::dashboard::Dashboard;
use crate::enforced::{self, VERSION};
use crate::error::PageError;
use crate::form::{Form, hidden_fields};
use crate::page::{Page, command, form_problem};
use crate::pager::pager;
use crate::part::Part;
use crate::query::PageQuery;
use crate::role::Role;
use crate::session::NoRandomBytes;
use crate::show::number::count;
use crate::show::text::{foreign, optional};
use crate::show::time;
use crate::visitor::Visitor;
use form::{ADD, AllowForm};

const PATH: &str = "/ui/allow-list";
/// Entries of a page of the list.
const PER_PAGE: usize = 50;

/// The pages here.
pub fn routes() -> Router<Dashboard> {
    Router::new().route(PATH, get(page)).route(ADD, get(add_page).post(add))
}

/// A network that bans spare.
#[derive(Deserialize)]
struct Protected {
    block: String,
    why: String,
    node: Option<String>,
}

async fn page(visitor: Visitor, query: PageQuery) -> Result<Response, PageError> {
    let list = query.only(&["cursor"]).with("limit", &PER_PAGE.to_string());
    let list = format!("allow-list{}", list.text());
    let (list, protected) = try_join!(
        visitor.api.get::<Items<Entry>>(&list),
        visitor.api.get::<Items<Protected>>("protected-networks"),
    )?;
    let enforced = enforced::part(&visitor.api, &query).await?;
    let may_act = visitor.may(Role::Operate);
    let body = html! {
        @if let Some(part) = &enforced { (part.in_page()) }
        p { "Neither bans nor geo rules hold for what is on it, and no limit counts it." }
        @if may_act {
            details.card open[list.items.is_empty()] {
                summary { "Allow an address or a block" }
                (AllowForm::default().show(&visitor, None)?)
            }
        }
        section.card aria-labelledby="entries-heading" {
            h2 #entries-heading { "Entries" }
            @if list.items.is_empty() {
                p.empty { "Nothing is on it. Put on it what must never be turned away: offices, monitoring, partners." }
            } @else { (table(&visitor, &list.items)?) }
            (pager(&query, list.next.as_deref()))
            (command("tidegate allow-list list"))
        }
        (protected_networks(&protected.items))
    };
    let live = match enforced {
        Some(_) => format!("/ui/live/allow-list{}", query.only(&[VERSION]).text()),
        None => String::new(),
    };
    Page { title: "Allow list", menu: PATH, live: &live, body }.show(&visitor)
}

/// The parts of the page that are made anew.
pub async fn parts(visitor: &Visitor, query: &PageQuery) -> Result<Vec<Part>, PageError> {
    Ok(enforced::part(&visitor.api, query).await?.into_iter().collect())
}

fn table(visitor: &Visitor, entries: &[Entry]) -> Result<Markup, NoRandomBytes> {
    let now = Timestamp::now();
    let may_act = visitor.may(Role::Operate);
    let table = html! {
        div.scroll tabindex="0" role="group" aria-label="Entries" {
            table.rows #entries {
                thead { tr {
                    th { "Address or block" } th { "Reason" } th { "Since" } th { "Until" }
                    th.number { "Requests seen" }
                    @if may_act { th { "Change" } }
                } }
                tbody { @for entry in entries { (row(entry, now, may_act)) } }
            }
        }
    };
    if !may_act {
        return Ok(table);
    }
    Ok(html! {
        form method="post" action=(ENTRY) {
            (hidden_fields(visitor)?)
            input type="hidden" name="action" value="disallow";
            (table)
        }
    })
}

fn row(entry: &Entry, now: Timestamp, may_act: bool) -> Markup {
    html! {
        tr class=[entry.expired.then_some("ended")] {
            td.address data-label="Address" {
                a href=(page_of(&entry.ip)) { (foreign(&entry.ip)) }
                @if entry.expired { " " span.tag.plain title="It ended, and holds for nobody any more" { "ended" } }
                @if entry.left_out { " " span.tag.bad { "no room" } }
            }
            td.long data-label="Reason" { (optional(entry.reason.as_deref())) }
            td.keep data-label="Since" { (time::optional_relative(entry.since.as_deref(), now, "–")) }
            td.keep data-label="Until" { (entry.end(now)) }
            td.number data-label="Requests" {
                @match &entry.requests_seen {
                    Some(seen) => (count(seen.count)),
                    None => span.none { "–" },
                }
            }
            @if may_act {
                td data-label="Change" {
                    button type="submit" name="ip" value=(entry.ip) aria-label={ "Remove " (entry.ip) } { "Remove" }
                }
            }
        }
    }
}

fn protected_networks(networks: &[Protected]) -> Markup {
    html! {
        section.card aria-labelledby="protected-heading" {
            h2 #protected-heading { "Protected networks" }
            p.quiet {
                "A ban of one of these is refused at first, for it would keep out the gateways themselves, or what "
                code { "tidegate serve --protect" } " names. They are not allowed by that: other checks hold for them."
            }
            div.scroll tabindex="0" role="group" aria-label="Protected networks" {
                table #protected {
                    thead { tr { th { "Block" } th { "Why" } } }
                    tbody {
                        @for network in networks {
                            tr { td.keep { (foreign(&network.block)) } td { (why(network)) } }
                        }
                    }
                }
            }
        }
    }
}

fn why(network: &Protected) -> Markup {
    html! {
        @match (network.why.as_str(), &network.node) {
            ("loopback", _) => "this machine itself",
            ("gateway", Some(node)) => { "the gateway " (foreign(node)) " connects from there" }
            ("gateway", None) => "a gateway connects from there",
            ("added", _) => { "named with " code { "--protect" } }
            (other, _) => (foreign(other)),
        }
    }
}

async fn add_page(visitor: Visitor, query: PageQuery) -> Result<Response, PageError> {
    show_form(&visitor, &AllowForm::of(query.get("ip")), None)
}

fn show_form(visitor: &Visitor, form: &AllowForm, problem: Option<&Problem>) -> Result<Response, PageError> {
    let body = html! {
        p { a href=(PATH) { "Allow list" } " › allow" }
        (form_problem(problem))
        section.card { (form.show(visitor, problem)?) }
    };
    let status = problem.and_then(|problem| StatusCode::from_u16(problem.status).ok());
    let page = Page { title: "Allow an address", menu: PATH, live: "", body }.show(visitor)?;
    Ok((status.unwrap_or(StatusCode::OK), page).into_response())
}

async fn add(form: Form) -> Result<Response, PageError> {
    let asked = AllowForm::read(&form);
    let write = Write::json(Method::PUT, format!("allow-list/{}", encoded(&asked.ip)), &asked.body());
    let answer = match form.visitor.api.send(write).await {
        Ok(answer) => answer,
        Err(ApiError::Problem(problem)) if problem.status != 401 => {
            return show_form(&form.visitor, &asked, Some(&problem));
        }
        Err(error) => return Err(error.into()),
    };
    let written: WrittenEntry =
        serde_json::from_value(answer).map_err(|error| ApiError::Form(error.to_string()))?;
    form.visitor.note(written.notice(&asked.ip, "is on the allow list"));
    let WrittenEntry { ip, version, .. } = written;
    Ok(Redirect::to(&format!("{}&{VERSION}={}", page_of(&ip), encoded(&version))).into_response())
}
