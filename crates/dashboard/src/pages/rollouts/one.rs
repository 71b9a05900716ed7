//! One rollout: how its run goes, and its plan.

use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::Value;
use tidegate_rollout::plan::Plan;
use tidegate_rollout::report::Report;
use tidegate_rollout::run::StageRecord;

use super::curves::{self, Curves};
use super::next::next;
use super::phase::Phase;
use super::plans::{PATH, ROLLOUTS};
use super::status::RunStatus;
use super::{abort, ask, decisions, gates, groups, stages};
use crate::api::{ApiClient, ApiError, Problem, encoded};
use crate::editor::{self, Edit, Sent, confirmation};
use crate::error::PageError;
use crate::form::Form;
use crate::page::{Page, command, form_problem};
use crate::part::Part;
use crate::query::PageQuery;
use crate::show::number::grouped;
use crate::show::sentence::sentence;
use crate::show::shell::shell_word;
use crate::show::text::{foreign, in_table, visible};
use crate::show::time;
use crate::visitor::Visitor;

/// Answers the page, or one that asks whether the rollout is to be removed, or its run to be aborted.
pub async fn page(
    visitor: Visitor,
    Path(name): Path<String>,
    query: PageQuery,
) -> Result<Response, PageError> {
    if !query.get("remove").is_empty() {
        return confirmation(&visitor, &ROLLOUTS, &name).await;
    }
    if query.get("ask") == "abort" {
        return abort::confirmation(&visitor, &name);
    }
    let edit = Edit::open(&visitor, &ROLLOUTS, &name).await?;
    show(&visitor, &edit, None).await
}

/// Carries out what a form of the editor asks for.
pub async fn send(Path(name): Path<String>, form: Form) -> Result<Response, PageError> {
    match editor::send(&form, &ROLLOUTS, &name).await? {
        Sent::Done(response) => Ok(response),
        Sent::Again(edit) => Ok((edit.status(), show(&form.visitor, &edit, None).await?).into_response()),
    }
}

/// The page, with why what was asked for is not done on top of it.
pub async fn refused(visitor: &Visitor, name: &str, problem: &Problem) -> Result<Response, PageError> {
    let edit = Edit::open(visitor, &ROLLOUTS, name).await?;
    show(visitor, &edit, Some(problem)).await
}

async fn show(visitor: &Visitor, edit: &Edit, problem: Option<&Problem>) -> Result<Response, PageError> {
    let name = edit.name.as_str();
    let parts = parts(visitor, name).await?;
    let body = html! {
        nav aria-label="Path" { p { a href=(PATH) { "All" } " › " (foreign(name)) } }
        (form_problem(problem))
        (ask::form(visitor, name)?)
        @for part in &parts { (part.in_page()) }
        (edit.show(visitor, &ROLLOUTS)?)
    };
    let live = format!("/ui/live/rollouts?name={}", encoded(name));
    Page { title: &format!("Rollout {}", visible(name)), menu: PATH, live: &live, body }.show(visitor)
}

/// What the API answers for the page.
struct Answers {
    /// The plan of the run, or where there was none of the document; `None`: it cannot be read.
    plan: Option<Plan>,
    run: Option<LastRun>,
}

/// The last run.
struct LastRun {
    status: RunStatus,
    report: Report,
    curves: Curves,
}

impl Answers {
    async fn ask(api: &ApiClient, name: &str, now: Timestamp) -> Result<Self, ApiError> {
        let one = format!("rollouts/{}", encoded(name));
        let mut document: Value = api.get(&one).await?;
        let status = document.as_object_mut().and_then(|fields| fields.remove("status"));
        let Some(status) = status.filter(|status| !status.is_null()) else {
            return Ok(Self { plan: Plan::deserialize(document).ok(), run: None });
        };
        let status: RunStatus =
            serde_json::from_value(status).map_err(|error| ApiError::Form(error.to_string()))?;
        let report: Report = api.get(&format!("{one}/report?format=json")).await?;
        let step = curves::step(last_stage(&report), now);
        let curves: Curves = api.get(&format!("{one}/figures?step={step}s")).await?;
        let plan = Plan::deserialize(&curves.plan).ok();
        Ok(Self { plan, run: Some(LastRun { status, report, curves }) })
    }
}

/// The stage that a run is in, or ended or was paused in.
fn last_stage(report: &Report) -> Option<&StageRecord> {
    report.current.as_ref().or(report.stages.last())
}

/// The parts of the page that are made anew.
pub async fn parts(visitor: &Visitor, name: &str) -> Result<Vec<Part>, PageError> {
    let now = Timestamp::now();
    let Answers { plan, run } = Answers::ask(&visitor.api, name, now).await?;
    let status = run.as_ref().map(|run| &run.status);
    let report = run.as_ref().map(|run| &run.report);
    // The buttons are a part of their own, which changes only when others are right.
    let mut parts = vec![
        Part::new("run-state", state(status, now)),
        Part::new("run-asks", ask::buttons(visitor, name, status)),
    ];
    if let Some(plan) = &plan {
        parts.push(Part::new("run-stages", stages::show(plan, status, report)));
    }
    if let Some(LastRun { status, report, curves }) = &run {
        let stage = last_stage(report);
        let planned = plan.as_ref().and_then(|plan| plan.stages.get(status.stage_number.saturating_sub(1)));
        parts.push(Part::new("run-gates", gates::show(status, planned)));
        parts.push(Part::new("run-groups", groups::show(stage)));
        parts.push(Part::new("run-curves", curves.show(status.phase.is_measuring(), now)));
        parts.push(Part::new("run-decisions", decisions::show(report)));
        parts.push(Part::new("run-report", links(name)));
    }
    Ok(parts)
}

/// What it is doing, why, and what happens next.
fn state(status: Option<&RunStatus>, now: Timestamp) -> Markup {
    html! {
        section.card aria-labelledby="state-heading" {
            h2 #state-heading { "The run" }
            @if let Some(status) = status { (why(status)) }
            dl.facts {
                dt { "State" } dd #state { (Phase::tag(status.map(|status| status.phase))) }
                @if let Some(status) = status { (facts(status, now)) }
                dt { "Next" } dd #next { (next(status)) }
            }
        }
    }
}

fn facts(status: &RunStatus, now: Timestamp) -> Markup {
    html! {
        dt { "Stage" }
        dd { (status.stage_number) " of " (status.stages) ", " (in_table(&status.stage)) }
        @if status.phase.is_active() {
            dt { "In it since" } dd { (time::optional_relative(status.entered.as_deref(), now, "–")) }
        } @else {
            dt { "Ended" } dd { (time::optional_relative(status.ended.as_deref(), now, "–")) }
        }
        dt { "Begun" }
        dd {
            (time::optional_relative(status.began.as_deref(), now, "–")) " by " (in_table(&status.started_by))
            ", its run " (grouped(status.run))
        }
    }
}

/// Why it does not go on, and by whom.
fn why(status: &RunStatus) -> Markup {
    let (class, what) = match (status.phase, status.cause.as_deref()) {
        (Phase::RolledBack, _) => ("error", "A gate failed, and the flags are what they were before the run"),
        (Phase::Paused, Some("gate_failed")) => ("error", "A gate failed"),
        (Phase::Paused, Some("timed_out")) => ("warning", "The stage's time is over"),
        (Phase::Paused, Some("flags_changed")) => ("warning", "Somebody has set a flag"),
        (Phase::Paused, _) => ("warning", "It is paused"),
        (Phase::Aborted, _) => ("warning", "It was aborted, and the flags are what they were before the run"),
        _ => return Markup::default(),
    };
    html! {
        div class={ "finding " (class) } #why {
            p {
                strong { (what) }
                @if let Some(by) = &status.by { ", by " (foreign(by)) }
                @match &status.reason {
                    Some(reason) if status.cause.as_deref() != Some("asked") => { ": " (sentence(reason.trim_end_matches('.'))) "." },
                    _ => ".",
                }
            }
        }
    }
}

/// The report, to keep.
fn links(name: &str) -> Markup {
    let report = format!("{}/report", ROLLOUTS.page_of(name));
    html! {
        section.card aria-labelledby="report-heading" {
            h2 #report-heading { "The report" }
            p { "Every stage with what both groups measured, its gates, the decision, and who decided." }
            div.actions {
                a.button href={ (report) "?format=markdown" } { "Report as Markdown" }
                a.button href={ (report) "?format=json" } { "Report as JSON" }
            }
            (command(&format!("tidegate rollout report {}", shell_word(name))))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(phase: &str, cause: Option<&str>, by: Option<&str>) -> RunStatus {
        serde_json::from_value(json!({
            "run": 1, "phase": phase, "reason": "enableRouteCache is <on>", "cause": cause, "by": by, "stage": "half",
            "stage_number": 2, "stages": 2, "started_by": "op", "began": null, "ended": null, "entered": null,
            "held_ms": 0, "hold_ms": 1_000, "requests": 0, "min_requests": 0, "gates": [],
        }))
        .unwrap()
    }

    #[test]
    fn it_is_said_why_a_run_does_not_go_on_and_by_whom() {
        let text = |phase, cause, by| why(&status(phase, cause, by)).into_string();
        let changed = text("paused", Some("flags_changed"), Some("<mallory>"));
        assert!(
            changed.contains("&lt;mallory&gt;") && changed.contains("enableRouteCache is &lt;on&gt;"),
            "{changed}"
        );
        assert!(text("rolled_back", Some("gate_failed"), None).contains("A gate failed"));
        assert!(
            text("aborted", None, Some("op")).contains("by <bdi"),
            "{}",
            text("aborted", None, Some("op"))
        );
        assert_eq!(text("running", None, None), "");
    }
}
