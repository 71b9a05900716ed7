//! All rollouts.

use axum::response::{IntoResponse, Redirect, Response};
use jiff::Timestamp;
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::Value;

use super::new;
use super::next::next;
use super::phase::Phase;
use super::plans::{PATH, ROLLOUTS};
use super::status::RunStatus;
use crate::answers::Items;
use crate::api::{ApiClient, ApiError};
use crate::editor;
use crate::error::PageError;
use crate::page::{Page, command};
use crate::part::Part;
use crate::query::PageQuery;
use crate::role::Role;
use crate::show::sentence::sentence;
use crate::show::text::in_table;
use crate::show::time;
use crate::visitor::Visitor;

/// For how long, seconds, the overview tells of a run that was rolled back.
const LATELY: i64 = 86_400;

/// A rollout with how its last run goes.
#[derive(Deserialize)]
pub struct Rollout {
    name: String,
    #[serde(default)]
    description: String,
    #[serde(default)]
    stages: Vec<Value>,
    /// `None`: it has never run.
    status: Option<RunStatus>,
}

async fn ask(api: &ApiClient) -> Result<Vec<Rollout>, ApiError> {
    Ok(api.get::<Items<Rollout>>("rollouts?limit=1000").await?.items)
}

/// Answers the page, or the one that makes a rollout.
pub async fn page(visitor: Visitor, query: PageQuery) -> Result<Response, PageError> {
    if !query.get("new").is_empty() {
        return new::page(&visitor, &query);
    }
    if !query.get("name").is_empty() {
        return Ok(Redirect::to(&ROLLOUTS.page_of(query.get("name"))).into_response());
    }
    let rollouts = ask(&visitor.api).await?;
    let body = html! {
        p {
            "A rollout is a plan of stages. It sets " a href="/ui/rollout" { "the flags" } " of each stage, measures it, and goes on while \
             the gates of the stage hold. When a gate fails it sets the flags back to what they were."
        }
        div.actions.spaced {
            @if visitor.may(Role::Admin) { a.button.primary href=(ROLLOUTS.page_of_new()) { "New rollout" } }
            (editor::jump(&ROLLOUTS))
        }
        (list_part(&rollouts).in_page())
        (command("tidegate rollout status"))
    };
    Page { title: "Automatic rollouts", menu: PATH, live: "/ui/live/rollouts", body }.show(&visitor)
}

/// The parts of the page that are made anew.
pub async fn parts(visitor: &Visitor) -> Result<Vec<Part>, PageError> {
    Ok(vec![list_part(&ask(&visitor.api).await?)])
}

fn list_part(rollouts: &[Rollout]) -> Part {
    Part::new("rollouts-list", list(rollouts, Timestamp::now()))
}

fn list(rollouts: &[Rollout], now: Timestamp) -> Markup {
    html! {
        section.card aria-label="All rollouts" {
            @if rollouts.is_empty() {
                p.empty {
                    "There is none yet. Make one from the plan of the guide, which a token of the role admin can do here, or print \
                     the plan, change it, and start it:"
                }
                (command("tidegate rollout template guide > guide.yaml"))
                (command("tidegate rollout start guide.yaml"))
            } @else {
                div.scroll tabindex="0" role="group" aria-label="Rollouts" {
                    table.rows #rollouts {
                        thead { tr {
                            th { "Rollout" } th { "State" } th { "Stage" } th { "Since" } th { "What happens next" }
                        } }
                        tbody { @for rollout in rollouts { (row(rollout, now)) } }
                    }
                }
            }
        }
    }
}

fn row(rollout: &Rollout, now: Timestamp) -> Markup {
    let status = rollout.status.as_ref();
    html! {
        tr {
            td.name data-label="Rollout" {
                a href=(ROLLOUTS.page_of(&rollout.name)) { (in_table(&rollout.name)) }
                @if !rollout.description.is_empty() { div.quiet { (in_table(&rollout.description)) } }
            }
            td data-label="State" { (Phase::tag(status.map(|status| status.phase))) }
            td.name data-label="Stage" {
                @match status {
                    Some(status) => { (status.stage_number) " of " (status.stages) div.quiet { (in_table(&status.stage)) } },
                    None => { "0 of " (rollout.stages.len()) },
                }
            }
            td.keep data-label="Since" { (time::optional_relative(status.and_then(since), now, "–")) }
            td.long data-label="Next" { (next(status)) }
        }
    }
}

/// Since when a run is as it is: when its stage began, or when it ended.
fn since(status: &RunStatus) -> Option<&str> {
    status.ended.as_deref().or(status.entered.as_deref())
}

/// Rollouts that go on, or were rolled back lately, for the overview; nothing where there is none.
///
/// # Errors
/// When the API does not answer.
pub async fn now_or_lately(api: &ApiClient) -> Result<Vec<Rollout>, ApiError> {
    let now = Timestamp::now();
    let mut rollouts = ask(api).await?;
    rollouts.retain(|rollout| rollout.status.as_ref().is_some_and(|status| is_of_now(status, now)));
    Ok(rollouts)
}

fn is_of_now(status: &RunStatus, now: Timestamp) -> bool {
    let ended: Option<Timestamp> = status.ended.as_deref().and_then(|at| at.parse().ok());
    let is_lately = ended.is_some_and(|ended| now.as_second() - ended.as_second() < LATELY);
    status.phase.is_active() || (status.phase == Phase::RolledBack && is_lately)
}

impl Rollout {
    /// In a sentence with a link to its page, and why it does not go on.
    pub fn in_short(&self) -> Markup {
        let Some(status) = &self.status else { return Markup::default() };
        let class = match status.phase {
            Phase::RolledBack => "error",
            Phase::Paused | Phase::WaitingForApproval => "warning",
            _ => "note",
        };
        html! {
            div class={ "finding " (class) } {
                p {
                    a href=(ROLLOUTS.page_of(&self.name)) { "Rollout " (in_table(&self.name)) } " "
                    (Phase::tag(Some(status.phase)))
                    " in stage " (status.stage_number) " of " (status.stages) ", " (in_table(&status.stage)) "."
                }
                p {
                    @match &status.reason {
                        Some(reason) => { "Why: " (sentence(reason.trim_end_matches('.'))) ". " },
                        None => {},
                    }
                    (next(Some(status)))
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rollout(phase: &str, ended: Option<&str>) -> Rollout {
        serde_json::from_value(json!({
            "name": "<guide>", "stages": [{}, {}], "on_failure": "rollback",
            "status": {
                "run": 3, "phase": phase, "reason": "success: 98 %", "cause": "gate_failed", "by": null, "stage": "half",
                "stage_number": 2, "stages": 2, "started_by": "op", "began": "2026-11-30T12:00:00Z", "ended": ended,
                "entered": "2026-11-30T12:30:00Z", "held_ms": 0, "hold_ms": 1_000, "requests": 0, "min_requests": 0,
                "gates": [],
            },
        }))
        .unwrap()
    }

    #[test]
    fn a_rollout_is_in_the_list_as_text_and_an_empty_list_says_what_to_do() {
        let now: Timestamp = "2026-11-30T13:00:00Z".parse().unwrap();
        let text = list(&[rollout("running", None)], now).into_string();
        for part in ["&lt;guide&gt;", "2 of 2", "half", "30 min ago", "href=\"/ui/rollouts/%3Cguide%3E\""] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(list(&[], now).into_string().contains("tidegate rollout template guide"));
    }

    #[test]
    fn the_overview_tells_of_what_goes_on_or_was_taken_back_lately() {
        let now: Timestamp = "2026-11-30T13:00:00Z".parse().unwrap();
        let is_told = |phase, ended| is_of_now(rollout(phase, ended).status.as_ref().unwrap(), now);
        assert!(is_told("paused", None) && is_told("waiting_for_approval", None));
        assert!(is_told("rolled_back", Some("2026-11-30T12:40:00Z")));
        assert!(!is_told("rolled_back", Some("2026-11-28T12:40:00Z")));
        assert!(!is_told("completed", Some("2026-11-30T12:40:00Z")));
        let text = rollout("rolled_back", None).in_short().into_string();
        assert!(
            text.contains("Why: ") && text.contains("success: 98 %") && text.contains("finding error"),
            "{text}"
        );
    }
}
