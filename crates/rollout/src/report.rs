//! The report of a run: every stage with both groups' figures, gates, decision, times and who decided.

mod markdown;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::figures::StageFigures;
use crate::run::{Note, Phase, Run, StageRecord, record};
use crate::time::rfc3339;

/// The report of a run, as the API answers it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The rollout's name.
    pub name: String,
    /// What it is for; empty: nothing was said.
    pub description: String,
    /// The run's number.
    pub run: u64,
    /// What the run is doing.
    pub phase: Phase,
    /// Who started it.
    pub started_by: String,
    /// When, RFC 3339.
    pub began: String,
    /// When it ended; `null`: it has not.
    pub ended: Option<String>,
    /// The names of the plan's stages.
    pub plan: Vec<String>,
    /// Stages that have ended, oldest first; a stage that was paused and resumed is there once for each measurement.
    pub stages: Vec<StageRecord>,
    /// The stage that it is in, as it stands; `null`: it is paused or has ended.
    pub current: Option<StageRecord>,
    /// What happened, oldest first.
    pub notes: Vec<Note>,
}

/// The report of `run`. `figures`: what the present measurement has so far, if there is one.
#[must_use]
pub fn report(run: &Run, figures: Option<&StageFigures>) -> Report {
    let is_measuring = matches!(run.phase, Phase::Running | Phase::WaitingForApproval);
    Report {
        name: run.plan.name.clone(),
        description: run.plan.description.clone(),
        run: run.number,
        phase: run.phase.clone(),
        started_by: run.started_by.clone(),
        began: rfc3339(run.began_ms),
        ended: run.ended_ms.map(rfc3339),
        plan: run.plan.stages.iter().map(|stage| stage.name.clone()).collect(),
        stages: run.history.clone(),
        current: if is_measuring { record(run, figures) } else { None },
        notes: run.notes.clone(),
    }
}

impl Report {
    /// The report as a page of Markdown, fit for a ticket.
    #[must_use]
    pub fn to_markdown(&self) -> String {
        markdown::page(self)
    }
}
