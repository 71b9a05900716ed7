//! One rule: what it counts, what it has done, the bans that it made, and its document.

use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use futures_util::try_join;
use jiff::Timestamp;
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::Value;

use super::rule::{Outcomes, PATH, RULES, after, counts_what, how_long, spec};
use crate::answers::Items;
use crate::api::{ApiClient, ApiError, encoded};
use crate::editor::{self, Edit, Sent, confirmation};
use crate::error::PageError;
use crate::form::Form;
use crate::page::{Page, command};
use crate::pages::bans::entries::{applies_to, status_tag};
use crate::pages::bans::urls::page_of;
use crate::part::Part;
use crate::query::PageQuery;
use crate::show::number::{count, grouped};
use crate::show::shell::shell_word;
use crate::show::text::{foreign, visible};
use crate::show::time;
use crate::visitor::Visitor;

/// Bans that are listed.
const SHOWN: usize = 50;
/// What became of those who reached the threshold: the API's names, headings, and what they mean.
const OUTCOMES: [(&str, &str, &str); 7] = [
    ("banned", "Banned", "denied from then on"),
    ("watched", "Banned in shadow", "recorded, not denied"),
    ("held_back", "Held back", "over its bans in one window"),
    ("allowed", "Allowed", "spared by the allow list"),
    ("protected", "Protected", "spared: private or protected networks"),
    ("known", "Known", "banned already"),
    ("failed", "Failed", "could not be written"),
];

/// A ban that the rule made, as the audit has it.
#[derive(Deserialize)]
struct Made {
    at: String,
    name: String,
    kind: String,
    #[serde(default)]
    after: Value,
}

/// What the page shows.
struct RuleReport {
    document: Value,
    /// `None`: it is not at work.
    outcomes: Option<Outcomes>,
    made: Vec<Made>,
}

impl RuleReport {
    async fn ask(api: &ApiClient, name: &str) -> Result<Self, ApiError> {
        let document = format!("auto-bans/{}", encoded(name));
        let made = format!("audit?actor={}&limit={SHOWN}", encoded(&format!("auto-bans/{name}")));
        let (document, outcomes, made) = try_join!(
            api.get::<Value>(&document),
            api.get::<Items<Outcomes>>("stats/auto-bans"),
            api.get::<Items<Made>>(&made),
        )?;
        let outcomes = outcomes.items.into_iter().find(|one| one.name == name);
        Ok(Self { document, outcomes, made: made.items })
    }
}

/// Answers the page, or the one that asks whether the rule is to be removed.
pub async fn page(
    visitor: Visitor,
    Path(name): Path<String>,
    query: PageQuery,
) -> Result<Response, PageError> {
    if !query.get("remove").is_empty() {
        return confirmation(&visitor, &RULES, &name).await;
    }
    let edit = Edit::open(&visitor, &RULES, &name).await?;
    show(&visitor, &edit).await
}

/// Carries out what a form of the editor asks for.
pub async fn send(Path(name): Path<String>, form: Form) -> Result<Response, PageError> {
    match editor::send(&form, &RULES, &name).await? {
        Sent::Done(response) => Ok(response),
        Sent::Again(edit) => show(&form.visitor, &edit).await,
    }
}

async fn show(visitor: &Visitor, edit: &Edit) -> Result<Response, PageError> {
    let name = edit.name.as_str();
    let rule = RuleReport::ask(&visitor.api, name).await?;
    let body = html! {
        p { a href=(PATH) { "All rules" } " › " (foreign(name)) }
        @for part in parts_of(&rule, name) { (part.in_page()) }
        (edit.show(visitor, &RULES)?)
    };
    let live = format!("/ui/live/auto-bans?name={}", encoded(name));
    let page = Page { title: &format!("Automatic ban {}", visible(name)), menu: PATH, live: &live, body };
    Ok((edit.status(), page.show(visitor)?).into_response())
}

/// The parts of the page that are made anew.
pub async fn parts(visitor: &Visitor, name: &str) -> Result<Vec<Part>, PageError> {
    Ok(parts_of(&RuleReport::ask(&visitor.api, name).await?, name))
}

fn parts_of(rule: &RuleReport, name: &str) -> Vec<Part> {
    vec![Part::new("rule-state", state(rule)), Part::new("rule-bans", made(rule, name, Timestamp::now()))]
}

fn state(rule: &RuleReport) -> Markup {
    let Some(outcomes) = &rule.outcomes else {
        return html! { p.problem { "The rule is not at work: its row may be in quarantine, see Health." } };
    };
    html! {
        section.card aria-labelledby="rule-heading" {
            h2 #rule-heading { "What it does" }
            dl.facts {
                dt { "Mode" } dd #mode { (outcomes.mode()) }
                dt { "Counts requests with" } dd { (counts_what(&rule.document)) }
                dt { "Bans after" } dd { (after(&rule.document, outcomes)) }
                dt { "For" } dd { (how_long(&rule.document)) }
                @if let Some(scope) = spec(&rule.document).get("applies_to") {
                    dt { "Its bans apply" } dd { (applies_to(scope)) }
                }
            }
        }
        h2 { "Who reached the threshold" }
        dl.figures {
            @for (outcome, heading, words) in OUTCOMES {
                div { dt { (heading) } dd { (count(outcomes.of(outcome))) small { (words) } } }
            }
            div {
                dt { "Counters" }
                dd {
                    (count(outcomes.counters))
                    small { "of " (grouped(outcomes.max_counters)) "; " (grouped(outcomes.dropped)) " dropped, " (grouped(outcomes.late)) " requests came too late" }
                }
            }
        }
    }
}

fn made(rule: &RuleReport, name: &str, now: Timestamp) -> Markup {
    html! {
        section.card aria-labelledby="made-heading" {
            h2 #made-heading { "Bans that it made" }
            @if rule.made.is_empty() {
                p.empty { "None that the audit still has: nobody has reached the threshold, or that was long ago. Lower it in the document if it should ban more." }
            } @else {
                div.scroll tabindex="0" role="group" aria-label="Bans that it made" {
                    table #made {
                        thead { tr { th { "When" } th { "Address or block" } th { "Mode" } th { "Because of" } } }
                        tbody {
                            @for ban in &rule.made {
                                tr {
                                    td.keep { (time::relative(&ban.at, now)) }
                                    td.address { a href=(page_of(&ban.name)) { (foreign(&ban.name)) } }
                                    td { (status_tag(if ban.kind == "watch" { "watched" } else { "banned" })) }
                                    td { (because(&ban.after)) }
                                }
                            }
                        }
                    }
                }
                @if rule.made.len() == SHOWN { p.quiet { "The newest " (SHOWN) ". All: " a href={ "/ui/audit?actor=auto-bans%2F" (encoded(name)) } { "audit" } } }
            }
            (command(&format!("tidegate audit --actor {}", shell_word(&format!("auto-bans/{name}")))))
        }
    }
}

/// The count that made a ban: `12 of 15 requests within 1 min`.
fn because(after: &Value) -> Markup {
    let number = |field: &str| after[field].as_u64();
    html! {
        @match (number("requests"), number("within_s")) {
            (Some(requests), Some(within)) => {
                (count(requests))
                @if let Some(all) = number("of") { " of " (count(all)) }
                " requests within " (time::span(within))
            }
            _ => span.none { "–" },
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_count_that_made_a_ban_is_told() {
        let text = |after: Value| because(&after).into_string();
        assert_eq!(text(json!({"requests": 12, "of": 15, "within_s": 60})), "12 of 15 requests within 1 min");
        assert_eq!(
            text(json!({"requests": 1_200, "of": null, "within_s": 30})),
            "1,200 requests within 30 s"
        );
        assert!(text(Value::Null).contains('–'));
    }
}
