//! All rules, and the page that makes one.

use std::collections::BTreeMap;

use axum::response::{IntoResponse, Response};
use futures_util::try_join;
use maud::{Markup, html};
use serde_json::Value;

use super::rule::{Outcomes, PATH, RULES, after, counts_what};
use crate::answers::Items;
use crate::api::{ApiClient, ApiError};
use crate::editor::{self, Edit, Sent};
use crate::error::PageError;
use crate::form::Form;
use crate::page::{Page, command};
use crate::part::Part;
use crate::query::PageQuery;
use crate::role::Role;
use crate::show::number::count;
use crate::show::sentence::sentence;
use crate::show::text::in_table;
use crate::visitor::Visitor;

/// A rule with what it has done.
struct Rule {
    document: Value,
    outcomes: Outcomes,
}

async fn rules(api: &ApiClient) -> Result<Vec<Rule>, ApiError> {
    let (outcomes, documents) = try_join!(
        api.get::<Items<Outcomes>>("stats/auto-bans"),
        api.get::<Items<Value>>("auto-bans?limit=1000"),
    )?;
    let mut documents: BTreeMap<String, Value> =
        documents.items.into_iter().map(|document| (name_of(&document).to_owned(), document)).collect();
    let rule = |outcomes: Outcomes| {
        let document = documents.remove(&outcomes.name).unwrap_or_default();
        Rule { document, outcomes }
    };
    Ok(outcomes.items.into_iter().map(rule).collect())
}

fn name_of(document: &Value) -> &str {
    document["name"].as_str().or_else(|| document["metadata"]["name"].as_str()).unwrap_or_default()
}

/// Answers the page.
pub async fn page(visitor: Visitor, query: PageQuery) -> Result<Response, PageError> {
    if !query.get("new").is_empty() {
        return page_of_new(&visitor, &Edit::new(&RULES));
    }
    let rules = rules(&visitor.api).await?;
    let body = html! {
        p {
            "A rule bans who sends too many requests of a kind: who tries passwords, or looks for what is not there."
        }
        @if visitor.may(Role::Admin) { p { a.button.primary href=(RULES.page_of_new()) { "New rule" } } }
        (list_part(&rules).in_page())
        (command("tidegate auto-bans list"))
    };
    Page { title: "Automatic bans", menu: PATH, live: "/ui/live/auto-bans", body }.show(&visitor)
}

/// Makes a rule.
pub async fn send_new(form: Form) -> Result<Response, PageError> {
    match editor::send(&form, &RULES, "").await? {
        Sent::Done(response) => Ok(response),
        Sent::Again(edit) => page_of_new(&form.visitor, &edit),
    }
}

fn page_of_new(visitor: &Visitor, edit: &Edit) -> Result<Response, PageError> {
    let body = html! {
        p { a href=(PATH) { "All rules" } " › new" }
        p {
            "Which requests count, how many of them within how long, and how long the ban is. "
            (sentence("In shadow it bans nobody, and says whom it would have banned. `docs/BANS.md` has every field."))
        }
        (edit.show(visitor, &RULES)?)
    };
    let page = Page { title: "New automatic ban", menu: PATH, live: "", body }.show(visitor)?;
    Ok((edit.status(), page).into_response())
}

/// The parts of the page that are made anew.
pub async fn parts(visitor: &Visitor) -> Result<Vec<Part>, PageError> {
    Ok(vec![list_part(&rules(&visitor.api).await?)])
}

fn list_part(rules: &[Rule]) -> Part {
    Part::new("rules-list", list(rules))
}

fn list(rules: &[Rule]) -> Markup {
    html! {
        section.card aria-label="All rules" {
            @if rules.is_empty() {
                p.empty {
                    "There is none yet. Make one in shadow: it bans nobody, and says whom it would have banned."
                }
                (command("tidegate auto-bans apply -f logins.yaml"))
            } @else {
                div.scroll tabindex="0" role="group" aria-label="Rules" {
                    table.rows #rules {
                        thead { tr {
                            th { "Rule" } th { "Mode" } th { "Counts" } th { "Bans after" } th.number { "Bans made" }
                            th.number { "Held back" } th.number { "Spared" } th.number { "Counters" }
                        } }
                        tbody { @for rule in rules { (row(rule)) } }
                    }
                }
                p.quiet {
                    "Counted since the rule was written, or the service began. Held back: over its bans in one window. "
                    "Spared: protected, or on the allow list."
                }
            }
        }
    }
}

fn row(rule: &Rule) -> Markup {
    let outcomes = &rule.outcomes;
    html! {
        tr {
            td data-label="Rule" { a href=(RULES.page_of(&outcomes.name)) { (in_table(&outcomes.name)) } }
            td data-label="Mode" { (outcomes.mode()) }
            td.long data-label="Counts" { (counts_what(&rule.document)) }
            td data-label="Bans after" { (after(&rule.document, outcomes)) }
            td.number data-label="Bans made" { (count(outcomes.bans())) }
            td.number data-label="Held back" { (count(outcomes.of("held_back"))) }
            td.number data-label="Spared" { (count(outcomes.of("protected") + outcomes.of("allowed"))) }
            td.number data-label="Counters" { (count(outcomes.counters)) }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::rule::how_long;
    use super::*;

    fn rule(document: Value) -> Rule {
        let outcomes = json!({
            "name": "logins", "mode": "shadow", "threshold": 10, "window_s": 60,
            "outcomes": {"banned": 0, "watched": 1_234, "held_back": 7, "protected": 1, "allowed": 2},
            "counters": 5, "max_counters": 100_000, "dropped": 0, "late": 0,
        });
        Rule { document, outcomes: serde_json::from_value(outcomes).unwrap() }
    }

    #[test]
    fn a_rule_is_told_in_words() {
        let fields = json!({
            "match": {"route": "<login>", "method": "POST", "status": [401, "4xx"]}, "share": 50,
            "ban": {"ttl": "1h", "factor": 2, "max_ttl": "7d"},
        });
        for document in [fields.clone(), json!({ "metadata": {"name": "logins"}, "spec": fields })] {
            let text = counts_what(&document).into_string();
            assert!(text.contains("status 401 or 4xx, route &lt;login&gt;, method POST"), "{text}");
            let rule = rule(document);
            let text = after(&rule.document, &rule.outcomes).into_string();
            assert_eq!(text, "10 requests within 1 min, over 50 % of all");
            let text = how_long(&rule.document).into_string();
            assert_eq!(text, "1h, each further one 2 times as long, up to 7d");
            let text = list(&[rule]).into_string();
            assert!(text.contains(">1,234<") && text.contains(">7<") && text.contains(">3<"), "{text}");
        }
    }
}
