//! How the last run of a rollout goes, as the API answers it.

use serde::Deserialize;
use tidegate_rollout::gates::GateResult;

use super::phase::Phase;

/// How the last run of a rollout goes.
#[derive(Deserialize)]
pub struct RunStatus {
    /// The run's number.
    pub run: u64,
    /// What it is doing.
    pub phase: Phase,
    /// Why it is paused or was rolled back.
    pub reason: Option<String>,
    /// What kind of reason.
    pub cause: Option<String>,
    /// Who paused or aborted it; `None`: nobody, or the run itself.
    pub by: Option<String>,
    /// The stage that it is in or ended in,
    pub stage: String,
    /// which is the so-many-th, from 1,
    pub stage_number: usize,
    /// of so many.
    pub stages: usize,
    /// Who started it,
    pub started_by: String,
    /// and when, RFC 3339.
    pub began: Option<String>,
    /// When it ended.
    pub ended: Option<String>,
    /// When the stage began.
    pub entered: Option<String>,
    /// For how long it has been held, milliseconds,
    pub held_ms: u64,
    /// and for how long it is at least.
    pub hold_ms: u64,
    /// Requests of both groups,
    pub requests: u64,
    /// and how many there must be.
    pub min_requests: u64,
    /// What its gates said last.
    pub gates: Vec<GateResult>,
}
