//! Geo rules: all of them, and one in the editor.

use axum::extract::Path;
use axum::response::Response;
use maud::{Markup, html};
use serde::Deserialize;

use crate::editor::{self, DocumentKind, Edit, Effect, Sent, confirmation, new_page, page_of};
use crate::error::PageError;
use crate::form::Form;
use crate::query::PageQuery;
use crate::show::country;
use crate::show::text::{in_table, visible};
use crate::visitor::Visitor;

/// The page of all rules, and of traffic by country.
pub const PATH: &str = "/ui/geo";
/// Countries of a rule that the list shows.
const SHOWN: usize = 12;

/// Geo rules in the editor. A new one is in shadow, so that it is seen first whom it would turn away.
pub const GEO_RULES: DocumentKind = DocumentKind {
    collection: "geo-rules",
    command: "geo-rules",
    page: PATH,
    noun: "geo rule",
    names: "only-dach; letters a to z, digits, - and .",
    template: "mode: deny\ncountries:\n- KP\nstatus: 451\nshadow: true\n",
    has_status: false,
    effect: Effect::InTables,
};

/// A rule, as far as the list shows it.
#[derive(Deserialize)]
pub struct GeoRule {
    name: String,
    #[serde(default)]
    mode: String,
    #[serde(default)]
    countries: Vec<String>,
    global: Option<bool>,
    unknown: Option<String>,
    status: Option<u16>,
    #[serde(default)]
    shadow: bool,
}

/// All rules as a table, or what to do where there is none.
pub fn rule_table(rules: &[GeoRule]) -> Markup {
    html! {
        @if rules.is_empty() {
            p.empty { "There is no rule: all countries may enter. Make one in shadow first; it denies nobody, and whom it would deny is recorded." }
        } @else {
            div.scroll tabindex="0" role="group" aria-label="Geo rules" {
                table #geo-rules {
                    thead { tr { th { "Rule" } th { "Mode" } th { "Says" } th { "Holds for" } th { "Unknown country" } th.number { "Answer" } } }
                    tbody { @for rule in rules { (rule_row(rule)) } }
                }
            }
        }
    }
}

fn rule_row(rule: &GeoRule) -> Markup {
    let is_list = rule.mode == "allow";
    // What the list suggests: docs/API.md, Geo rules.
    let unknown = rule.unknown.as_deref().unwrap_or(if is_list { "deny" } else { "allow" });
    let names: Vec<&str> = rule.countries.iter().map(|code| country::name(code)).collect();
    html! {
        tr {
            td.name { a href=(GEO_RULES.page_of(&rule.name)) { (in_table(&rule.name)) } }
            td { @if rule.shadow { span.tag.warn { "shadow" } } @else { span.tag.good { "enforced" } } }
            td.long {
                strong { @if is_list { "only these: " } @else { "not these: " } }
                span title=(visible(&names.join(", "))) {
                    (names.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", "))
                    @if names.len() > SHOWN { " and " (names.len() - SHOWN) " more" }
                }
            }
            td { @if rule.global.unwrap_or(true) { "every request" } @else { "routes that name it" } }
            td { @if unknown == "deny" { "denied" } @else { "let in" } }
            td.number { (rule.status.unwrap_or(403)) }
        }
    }
}

/// Makes a rule.
pub async fn send_new(form: Form) -> Result<Response, PageError> {
    match editor::send(&form, &GEO_RULES, "").await? {
        Sent::Done(response) => Ok(response),
        Sent::Again(edit) => page_of_new(&form.visitor, &edit),
    }
}

/// The page that makes a rule.
///
/// # Errors
/// When the operating system gives no random bytes.
pub fn page_of_new(visitor: &Visitor, edit: &Edit) -> Result<Response, PageError> {
    let about = "Which countries may enter, by their codes of ISO 3166-1. This one begins in shadow: it denies nobody until \
                 shadow is false, and whom it would deny is recorded. `docs/API.md`, Geo rules, has every field.";
    new_page(visitor, &GEO_RULES, edit, about)
}

/// Answers one rule.
pub async fn one(
    visitor: Visitor,
    Path(name): Path<String>,
    query: PageQuery,
) -> Result<Response, PageError> {
    if !query.get("remove").is_empty() {
        return confirmation(&visitor, &GEO_RULES, &name).await;
    }
    page_of_rule(&visitor, &Edit::open(&visitor, &GEO_RULES, &name).await?)
}

/// Carries out what a form of the editor asks for.
pub async fn send(Path(name): Path<String>, form: Form) -> Result<Response, PageError> {
    match editor::send(&form, &GEO_RULES, &name).await? {
        Sent::Done(response) => Ok(response),
        Sent::Again(edit) => page_of_rule(&form.visitor, &edit),
    }
}

fn page_of_rule(visitor: &Visitor, edit: &Edit) -> Result<Response, PageError> {
    page_of(visitor, &GEO_RULES, edit, Markup::default())
}
