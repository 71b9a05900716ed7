//! All entries, and the search for those that cover an address.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use futures_util::try_join;
use jiff::Timestamp;
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::Value;

use super::ban_form::BanForm;
use super::entries::{Entry, table};
use super::urls::{BANS, IMPORT, page_of};
use crate::answers::Items;
use crate::api::{ApiClient, ApiError, Problem, encoded};
use crate::error::PageError;
use crate::page::{Page, command, field_problem, marks};
use crate::pager::pager;
use crate::query::PageQuery;
use crate::role::Role;
use crate::show::number::{count, short};
use crate::visitor::Visitor;

/// Entries of a page of the list.
const PER_PAGE: usize = 50;
/// Up to so many entries those that have ended are not counted, for that they are looked at one by one.
const COUNTED: u64 = 1_000;

/// Counts of entries, from health.
#[derive(Deserialize)]
struct Health {
    tables: Tables,
}

/// Entries of the tables. Those that have ended are in them for an hour more.
#[derive(Deserialize)]
struct Tables {
    bans: TableInfo,
    allow: TableInfo,
    shadow_bans: TableInfo,
    /// Bans of some hostnames or routes, in shadow or not.
    scoped_bans: TableInfo,
    /// The same of sources.
    scoped_sources: TableInfo,
}

impl Tables {
    async fn ask(api: &ApiClient) -> Result<Self, ApiError> {
        let tables = api.get::<Health>("optimization/health").await?.tables;
        if tables.all() > COUNTED {
            return Ok(tables);
        }
        let entries = api.get::<Items<Entry>>(&format!("ip-monitor?limit={COUNTED}")).await?.items;
        let count = |is_it: &dyn Fn(&Entry) -> bool| TableInfo {
            entries: entries.iter().filter(|entry| !entry.expired && is_it(entry)).count() as u64,
        };
        let everywhere =
            |status: &'static str| count(&move |entry| entry.status == status && entry.applies_to.is_none());
        Ok(Self {
            bans: everywhere("banned"),
            allow: everywhere("allowed"),
            shadow_bans: everywhere("watched"),
            scoped_bans: count(&|entry| entry.applies_to.is_some()),
            scoped_sources: TableInfo { entries: 0 },
        })
    }

    fn all(&self) -> u64 {
        self.bans.entries + self.allow.entries + self.shadow_bans.entries + self.scoped()
    }

    fn scoped(&self) -> u64 {
        self.scoped_bans.entries + self.scoped_sources.entries
    }
}

#[derive(Deserialize)]
struct TableInfo {
    entries: u64,
}

/// Answers the list, or leads to the address that is searched for.
pub async fn page(visitor: Visitor, query: PageQuery) -> Result<Response, PageError> {
    let wanted = query.get("q");
    if wanted.is_empty() {
        return show(&visitor, &query, None).await;
    }
    match visitor.api.get::<Value>(&format!("ip-monitor/{}", encoded(wanted))).await {
        Ok(_) => Ok(Redirect::to(&page_of(wanted)).into_response()),
        Err(ApiError::Problem(problem)) if problem.status == 400 => {
            show(&visitor, &query, Some(&problem)).await
        }
        Err(error) => Err(error.into()),
    }
}

async fn show(visitor: &Visitor, query: &PageQuery, wrong: Option<&Problem>) -> Result<Response, PageError> {
    let list = format!(
        "ip-monitor{}",
        query.only(&["status", "cursor"]).with("limit", &PER_PAGE.to_string()).text()
    );
    let (list, tables) = try_join!(visitor.api.get::<Items<Entry>>(&list), Tables::ask(&visitor.api))?;
    let body = html! {
        (search(query.get("q"), wrong))
        @if visitor.may(Role::Operate) {
            details.card open[list.items.is_empty()] {
                summary { "Ban an address or a block" }
                (BanForm::of("").show(visitor, None)?)
            }
        }
        section.card aria-labelledby="entries-heading" {
            h2 #entries-heading { "Entries" }
            (filters(query.get("status"), &tables))
            @if list.items.is_empty() { (empty(query.get("status"))) } @else { (table(&list.items, Timestamp::now())) }
            (pager(query, list.next.as_deref()))
            (command(if query.get("status") == "watched" { "tidegate bans list --shadow" } else { "tidegate bans list" }))
        }
        p { a href=(IMPORT) { "Import a list" } " · " a href="/ui/sources" { "Sources that are fetched" } }
    };
    let status = if wrong.is_some() { StatusCode::BAD_REQUEST } else { StatusCode::OK };
    Ok((status, Page { title: "Bans", menu: BANS, live: "", body }.show(visitor)?).into_response())
}

/// The form that searches.
fn search(wanted: &str, wrong: Option<&Problem>) -> Markup {
    let wrong = wrong.map(|problem| problem.of_field("ip").unwrap_or(&problem.detail));
    let marks = marks("q", wrong);
    html! {
        section.card aria-labelledby="search-heading" {
            h2 #search-heading { "What holds for an address or a block?" }
            form.fields method="get" action=(BANS) role="search" {
                div {
                    label for="q" { "Address or block" }
                    input #q name="q" value=(wanted) required placeholder="203.0.113.7" autocomplete="off" spellcheck="false"
                        aria-invalid=[marks.invalid] aria-describedby=[marks.described_by];
                }
                div.actions { button type="submit" { "Search" } }
            }
            (field_problem("q", wrong))
        }
    }
}

fn filters(current: &str, tables: &Tables) -> Markup {
    let scoped = tables.scoped();
    let filters = [
        ("", "All", tables.all()),
        ("banned", "Banned", tables.bans.entries),
        ("watched", "In shadow", tables.shadow_bans.entries),
        ("allowed", "Allowed", tables.allow.entries),
    ];
    html! {
        nav.actions.spans aria-label="Entries shown" {
            @for (status, name, entries) in filters {
                a.button href={ (BANS) (PageQuery::default().with("status", status).text()) }
                    title=[(tables.all() > COUNTED).then_some("With those that ended within the last hour")]
                    aria-current=[(status == current).then_some("true")] { (name) " " (short(entries)) }
            }
        }
        @if scoped > 0 {
            p.quiet { "Of these, " (count(scoped)) " for some hostnames or routes only: they are counted under All." }
        }
    }
}

fn empty(status: &str) -> Markup {
    html! {
        p.empty {
            @match status {
                "watched" => "No ban is in shadow. One in shadow denies nobody, and says whom it would deny: ban an address above, and choose shadow.",
                "allowed" => { "Nothing is allowed. Put addresses that must never be turned away on the " a href="/ui/allow-list" { "allow list" } "." }
                _ => { "Nobody is banned. Ban an address above, " a href=(IMPORT) { "import a list" } ", or have one fetched as a " a href="/ui/sources" { "source" } "." }
            }
        }
    }
}
