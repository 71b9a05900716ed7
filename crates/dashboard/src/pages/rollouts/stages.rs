//! The stages of a plan as a line: done, now, and to come.

use maud::{Markup, html};
use tidegate_author::write_state;
use tidegate_rollout::plan::{Plan, Stage};
use tidegate_rollout::report::Report;
use tidegate_rollout::run::StageRecord;

use super::phase::Phase;
use super::status::RunStatus;
use crate::chart::{ShareBar, share_bar};
use crate::flag_state::State;
use crate::show::number::grouped;
use crate::show::text::in_table;
use crate::show::time;

/// Flags that there are.
const ALL_FLAGS: usize = 5;

/// Where a stage is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Done,
    /// The run is in it, or ended in it.
    Here(Phase),
    ToCome,
}

impl Place {
    fn of(index: usize, status: Option<&RunStatus>) -> Self {
        let Some(status) = status else { return Self::ToCome };
        match index.cmp(&status.stage_number.saturating_sub(1)) {
            std::cmp::Ordering::Less => Self::Done,
            std::cmp::Ordering::Equal if status.phase == Phase::Completed => Self::Done,
            std::cmp::Ordering::Equal => Self::Here(status.phase),
            std::cmp::Ordering::Greater => Self::ToCome,
        }
    }

    fn class(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Here(Phase::Running) => "now",
            Self::Here(Phase::RolledBack) => "failed",
            Self::Here(_) => "stopped",
            Self::ToCome => "to-come",
        }
    }
}

/// The stages of a run, or of a plan that has not run.
pub fn show(plan: &Plan, status: Option<&RunStatus>, report: Option<&Report>) -> Markup {
    html! {
        section.card aria-labelledby="stages-heading" {
            h2 #stages-heading { "Stages" }
            ol.stages {
                @for (index, stage) in plan.stages.iter().enumerate() {
                    @let place = Place::of(index, status);
                    li class=(place.class()) aria-current=[matches!(place, Place::Here(_)).then_some("step")] {
                        strong { (in_table(&stage.name)) }
                        div { (flags(stage)) }
                        div.quiet { (progress(place, stage, status, last_of(report, index))) }
                    }
                }
            }
        }
    }
}

/// The last measurement of a stage that has ended.
fn last_of(report: Option<&Report>, index: usize) -> Option<&StageRecord> {
    report?.stages.iter().rfind(|record| record.stage == index)
}

/// What it sets.
fn flags(stage: &Stage) -> Markup {
    let states: Vec<(&str, State)> = stage
        .flags
        .iter()
        .map(|(flag, state)| (flag.name(), State::read(Some(&write_state(state)))))
        .collect();
    let first = states.first().map(|(_, state)| state);
    let all =
        first.filter(|first| states.len() == ALL_FLAGS && states.iter().all(|(_, state)| state == *first));
    html! {
        @if let Some(state) = all {
            "all flags " (state.argument())
        } @else {
            @for (name, state) in &states { div { code { (name) } " " (state.argument()) } }
        }
    }
}

/// How long it was or is to be held.
fn progress(place: Place, stage: &Stage, status: Option<&RunStatus>, ended: Option<&StageRecord>) -> Markup {
    html! {
        @match (place, status) {
            (Place::Done, _) => {
                "passed"
                @if let Some((record, left_ms)) = ended.and_then(|record| Some((record, record.left_ms?))) {
                    " after " (span(left_ms.saturating_sub(record.entered_ms)))
                }
            },
            (Place::Here(phase), Some(status)) => {
                @let words = format!("held {} of {}", span(status.held_ms), span(stage.hold_ms));
                (phase.words()) ", " (words)
                (hold_bar(status.held_ms, stage.hold_ms, &words))
                (grouped(status.requests)) " of " (grouped(stage.min_requests)) " requests"
            },
            _ => {
                "for " (span(stage.hold_ms)) " and " (grouped(stage.min_requests)) " requests"
                @if stage.approve { ", then waits for approval" }
            },
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a bar has some hundred pixels")]
fn hold_bar(held_ms: u64, hold_ms: u64, words: &str) -> Markup {
    let held = ShareBar { name: words, ink: "cached", amount: held_ms as f64 };
    share_bar(&[held], hold_ms as f64, words)
}

/// A span of milliseconds.
pub fn span(ms: u64) -> String {
    if ms > 0 && ms < 1_000 { format!("{ms} ms") } else { time::span(ms / 1_000) }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tidegate_rollout::template::guide;

    use super::*;

    fn status(phase: &str, stage_number: usize) -> RunStatus {
        let status: Value = json!({
            "run": 1, "phase": phase, "stage": "", "stage_number": stage_number, "stages": 17, "started_by": "op",
            "began": null, "ended": null, "entered": null, "held_ms": 3_600_000, "hold_ms": 86_400_000, "requests": 1_234,
            "min_requests": 10_000, "gates": [],
        });
        serde_json::from_value(status).unwrap()
    }

    #[test]
    fn stages_before_are_done_and_those_after_are_to_come() {
        let places = |phase, at| [0, 1, 2].map(|index| Place::of(index, Some(&status(phase, at))).class());
        assert_eq!(places("running", 2), ["done", "now", "to-come"]);
        assert_eq!(places("rolled_back", 1), ["failed", "to-come", "to-come"]);
        assert_eq!(places("completed", 3), ["done", "done", "done"]);
        assert_eq!(places("paused", 3), ["done", "done", "stopped"]);
        assert_eq!(Place::of(0, None), Place::ToCome);
    }

    #[test]
    fn a_line_tells_flags_and_how_far_it_is() {
        let plan = Plan::read("guide", &guide(1)).unwrap();
        let text = show(&plan, Some(&status("running", 2)), None).into_string();
        for part in [
            "all flags off",
            "<code>enableRouteCache</code> shadow",
            "aria-current=\"step\"",
            "held 1 h of 1 d",
            "1,234 of 10,000 requests",
            "<code>enableRouteCache</code> 10%",
            "for 1 d and 10,000 requests",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!([0, 8, 999, 1_000, 90_000].map(span), ["0 s", "8 ms", "999 ms", "1 s", "1 min"]);
    }
}
