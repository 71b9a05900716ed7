//! The list that is held: what it would change, the button that imports it, and what became of it.

use std::collections::BTreeMap;

use axum::response::{IntoResponse, Redirect, Response};
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::Value;

use super::super::urls::{BANS, CHECKED, IMPORT};
use super::form::command_of;
use crate::api::ApiError;
use crate::enforced::{self, VERSION};
use crate::error::PageError;
use crate::form::hidden_fields;
use crate::page::{Page, command, form_problem};
use crate::part::Part;
use crate::query::PageQuery;
use crate::session::{NoRandomBytes, Upload, UploadState};
use crate::show::number::{bytes, count, grouped};
use crate::show::text::{foreign, in_table};
use crate::visitor::Visitor;

/// The field by which a form names the list that its page shows.
pub const UPLOAD: &str = "upload";
/// Refusals that `force` passes over.
const FORCED: [&str; 2] = ["protected_network", "address_allowed"];
/// Why entries are refused: the API's codes in words, as docs/BANS.md has them.
const REFUSALS: [(&str, &str); 18] = [
    ("not_an_address", "neither an address, a block nor a range"),
    ("bad_length", "the length of a block is not right"),
    ("bad_range", "the range ends before it begins"),
    ("zone_id", "the address has a zone, which means something on one machine only"),
    ("too_wide", "wider than /8 (IPv4) or /19 (IPv6)"),
    ("too_long", "a line of over 64 KiB"),
    ("nul_byte", "a line with a NUL byte"),
    ("not_utf8", "an entry that is not ASCII"),
    ("no_address", "a row without an address"),
    ("bad_score", "no score, or none that can be read"),
    ("bad_time", "an end that cannot be read"),
    ("expired", "an end that has passed"),
    ("bad_csv", "a row whose quotes do not close"),
    ("bad_json", "a value that is no entry"),
    ("other_scope", "about something else than an address"),
    ("not_a_ban", "it allows, or asks for a captcha"),
    ("protected_network", "it has addresses of a protected network"),
    ("address_allowed", "it is on the allow list, which beats a ban"),
];

/// The API's answer to an import.
#[derive(Deserialize)]
struct Counts {
    format: String,
    shadow: bool,
    source: Option<String>,
    added: u64,
    kept: u64,
    removed: u64,
    released: u64,
    allowed: u64,
    duplicates: u64,
    skipped: BTreeMap<String, u64>,
    refused: BTreeMap<String, u64>,
    refusals: Vec<Refusal>,
}

#[derive(Deserialize)]
struct Refusal {
    line: u64,
    code: String,
    text: String,
    detail: String,
}

impl Counts {
    fn read(answer: Value) -> Result<Self, ApiError> {
        serde_json::from_value(answer).map_err(|error| ApiError::Form(error.to_string()))
    }

    fn refused_total(&self) -> u64 {
        self.refused.values().sum()
    }
}

/// Answers the page.
pub async fn page(visitor: Visitor, query: PageQuery) -> Result<Response, PageError> {
    let Some(upload) = visitor.held() else {
        visitor.note("No list is held: one is for 10 minutes, and until another one is sent.");
        return Ok(Redirect::to(IMPORT).into_response());
    };
    let (title, body) = match &upload.state {
        UploadState::Checked(answer, problem) => {
            let counts = Counts::read(answer.clone())?;
            let body = html! {
                (form_problem(problem.as_deref()))
                (figures(&counts, &upload))
                (buttons(&visitor, &counts, &upload)?)
                (refusals(&counts))
            };
            ("Import this list?", body)
        }
        UploadState::Running => {
            let body = html! { p #import-running { "The list is being imported. Load this page again to see whether it is done." } };
            ("Import under way", body)
        }
        UploadState::Imported(answer) => {
            let counts = Counts::read(answer.clone())?;
            let enforced = enforced::part(&visitor.api, &query).await?;
            let body = html! {
                p.notice #imported role="status" { "The list is imported." }
                @if let Some(part) = enforced { (part.in_page()) }
                (figures(&counts, &upload))
                (refusals(&counts))
                p { a href=(BANS) { "All bans" } " · " a href=(IMPORT) { "Import another list" } }
            };
            ("Imported", body)
        }
    };
    let body = html! {
        p { a href=(BANS) { "All bans" } " › " a href=(IMPORT) { "import" } }
        (body)
    };
    let live = match (&upload.state, query.get(VERSION)) {
        (UploadState::Imported(_), version) if !version.is_empty() => {
            format!("/ui/live/import{}", query.only(&[VERSION]).text())
        }
        _ => String::new(),
    };
    Page { title, menu: BANS, live: &live, body }.show(&visitor)
}

/// The parts of the page that are made anew.
pub async fn parts(visitor: &Visitor, query: &PageQuery) -> Result<Vec<Part>, PageError> {
    Ok(enforced::part(&visitor.api, query).await?.into_iter().collect())
}

/// What a list is called in a sentence.
pub fn named(upload: &Upload) -> &str {
    if upload.file.is_empty() { "the pasted list" } else { &upload.file }
}

/// What the list changes.
fn figures(counts: &Counts, upload: &Upload) -> Markup {
    let skipped: u64 = counts.skipped.values().sum();
    let source = counts.source.as_deref();
    let rarely = [
        (counts.released, "Released", "the source no longer has them, another has"),
        (counts.allowed, "Allowed", "these are on the allow list"),
        (counts.duplicates, "Repeated", "in the list more than once"),
        (skipped, "Skipped", "not wanted, as by their score"),
    ];
    html! {
        p {
            "Of " (foreign(named(upload)))
            @if !upload.list.is_empty() { " (" (bytes(upload.list.len() as u64)) ")" }
            ", read as " (counts.format)
            @if let Some(source) = source { ", for the source " strong { (foreign(source)) } }
            @if counts.shadow { ", " span.tag.warn { "in shadow" } }
            ":"
        }
        dl.figures #import-counts {
            div { dt { "Added" } dd #added { (count(counts.added)) small { "new bans" } } }
            div { dt { "Kept" } dd #kept { (count(counts.kept)) small { "there already" } } }
            div { dt { "Removed" } dd #removed { (count(counts.removed)) small { "the list does not have them" } } }
            div { dt { "Refused" } dd #refused { (count(counts.refused_total())) small { "not taken, see below" } } }
            @for (number, name, words) in rarely {
                @if number > 0 { div { dt { (name) } dd { (count(number)) small { (words) } } } }
            }
        }
    }
}

fn buttons(visitor: &Visitor, counts: &Counts, upload: &Upload) -> Result<Markup, NoRandomBytes> {
    let forced: u64 = FORCED.iter().filter_map(|code| counts.refused.get(*code)).sum();
    Ok(html! {
        section.card {
            form.actions method="post" action=(CHECKED) {
                (hidden_fields(visitor)?)
                input type="hidden" name=(UPLOAD) value=(upload.id);
                button.primary #import-now type="submit" name="action" value="import" { "Import it" }
                @if forced > 0 {
                    button.danger #import-force type="submit" name="action" value="force" {
                        "Check it again, with the " (grouped(forced)) " that are protected or allowed"
                    }
                }
                a.button href=(IMPORT) { "Send another list" }
            }
            p.quiet { "It is held for 10 minutes, and forgotten then." }
            (command(&command_of(&upload.query, &upload.file)))
        }
    })
}

fn refusals(counts: &Counts) -> Markup {
    let words = |code: &str| REFUSALS.iter().find(|(known, _)| *known == code).map_or("", |(_, words)| words);
    html! {
        @if !counts.refused.is_empty() {
            section.card aria-labelledby="refused-heading" {
                h2 #refused-heading { "Refused, by reason" }
                div.scroll tabindex="0" role="group" aria-label="Refused, by reason" {
                    table #refused-by-reason {
                        thead { tr { th { "Reason" } th { "Code" } th.number { "Entries" } } }
                        tbody {
                            @for (code, number) in &counts.refused {
                                tr { td { (words(code)) } td { code { (code) } } td.number { (count(*number)) } }
                            }
                        }
                    }
                }
                h3 {
                    @if counts.refused_total() > counts.refusals.len() as u64 { "The first of them" } @else { "Which" }
                }
                div.scroll tabindex="0" role="group" aria-label="Refused entries" {
                    table #refusals {
                        thead { tr { th.number { "Line" } th { "Entry" } th { "Why" } } }
                        tbody {
                            @for refusal in &counts.refusals {
                                tr {
                                    td.number { (grouped(refusal.line)) }
                                    td.long { (in_table(&refusal.text)) }
                                    td.long title=(refusal.code) { (foreign(&refusal.detail)) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn refusals_are_shown_with_their_lines_and_as_text() {
        let counts = Counts::read(json!({
            "format": "plain", "mode": "add", "shadow": false, "source": null, "dry_run": true,
            "added": 2, "kept": 0, "removed": 0, "released": 0, "allowed": 0, "duplicates": 0, "skipped": {},
            "refused": {"not_an_address": 1_234, "news": 1},
            "refusals": [{"line": 3, "code": "not_an_address", "text": "<b>\u{202e}", "detail": "`<b>` is none"}],
        }))
        .unwrap();
        let text = refusals(&counts).into_string();
        assert!(
            text.contains("neither an address")
                && text.contains("1,234")
                && text.contains("The first of them")
        );
        assert!(text.contains("&lt;b&gt;\\u{202e}") && !text.contains("<b>"), "{text}");
    }
}
