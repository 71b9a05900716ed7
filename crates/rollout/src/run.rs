//! A run of a plan: what it is doing, and the one step from what it sees to what is to be done.
//!
//! The admin service calls [`look`] several times a second, [`command`] when a person asks for something, and does
//! what the [`Step`] says in one transaction. Time that passes is told by a monotonic clock, so a clock that is set
//! ends no hold; the time of day is only written down.

mod enter;
mod look;
mod step;
mod stored;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tidegate_policy::flags::{Flag, FlagState, Flags};

use crate::figures::{Measurement, Observed, PerGroup, StageFigures};
use crate::flag_map;
use crate::gates::{GateResult, GateState};
use crate::plan::{Plan, Stage};

pub use enter::{command, start};
pub use look::{look, waits_for};
pub(crate) use step::record;
pub use step::summary;
pub use stored::{note_set_by_hand, read_stored, restored};

/// The version of a stored [`Run`].
pub const RUN_VERSION: u32 = 1;
/// What is noted of a run, at most; the oldest go.
pub const MAX_NOTES: usize = 500;
/// Records of stages of a run, at most; the oldest go.
pub const MAX_HISTORY: usize = 500;
/// So much of the time between two looks counts, milliseconds: what nobody looked at was not held.
pub const MAX_ELAPSED_MS: u64 = 10_000;

/// A run, as it is stored.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Run {
    /// [`RUN_VERSION`].
    pub version: u32,
    /// Of this plan, from 1.
    pub number: u64,
    /// The plan as it was when the run began.
    pub plan: Plan,
    /// Who started it.
    pub started_by: String,
    /// When, milliseconds since the Unix epoch.
    pub began_ms: u64,
    /// When it ended.
    pub ended_ms: Option<u64>,
    /// What it is doing.
    pub phase: Phase,
    /// The stage that it is in or ended in, by its place in the plan.
    pub stage: usize,
    /// All flags as they were before the run.
    #[serde(with = "flag_map")]
    pub flags_before: Flags,
    /// All flags as they were before the stage.
    #[serde(with = "flag_map")]
    pub flags_before_stage: Flags,
    /// All flags as the run has set or found them: others mean that somebody else has set some.
    #[serde(with = "flag_map")]
    pub expected_flags: Flags,
    /// Flags that people have set since the run has set them: an active run pauses for that, and when it is aborted these stay
    /// as they are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub set_by_hand: Vec<SetByHand>,
    /// The stage in its present measurement.
    pub current: Current,
    /// Stages, and measurements of stages, that have ended.
    pub history: Vec<StageRecord>,
    /// What happened, oldest first.
    pub notes: Vec<Note>,
}

/// Flags that somebody has set, whether or not that changed any.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SetByHand {
    /// Who; `None`: it is not known.
    pub by: Option<String>,
    /// Their names.
    pub flags: Vec<String>,
}

/// A stage in its present measurement.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Current {
    /// Which of the run's measurements it is, from 1.
    pub measurement: u32,
    /// When it began, milliseconds since the Unix epoch.
    pub entered_ms: u64,
    /// The sequence number of the transaction in which it began; the store fills it in. `None`: not yet, and nothing
    /// counts.
    pub entered_seq: Option<u64>,
    /// For how long requests have come, milliseconds.
    pub held_ms: u64,
    /// For how long it has been looked at, milliseconds.
    pub open_ms: u64,
    /// How many requests there were at the last look,
    pub requests: u64,
    /// and for how many milliseconds there has been no new one.
    pub quiet_ms: u64,
    /// The measurement of the stage before, in which the groups of this one were counted ahead; `None`: there was none.
    #[serde(default)]
    pub before: Option<u32>,
    /// The fewest events that were missing at any look: more of those that were missing before the stage cannot be any
    /// more, and all others that are missing are the stage's own.
    #[serde(default)]
    pub least_missing: Option<u64>,
    /// By the plan's gates.
    pub gates: Vec<GateState>,
}

/// What a run is doing.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum Phase {
    /// It is in a stage.
    Running,
    /// All gates of its stage hold, and somebody must approve.
    WaitingForApproval,
    /// Nothing is decided until somebody resumes or aborts it.
    Paused {
        /// Who paused it; `None`: it did itself.
        by: Option<String>,
        /// Why.
        reason: Reason,
    },
    /// A gate failed: the flags are what they were before the run. The end.
    RolledBack {
        /// Why.
        reason: Reason,
    },
    /// Somebody aborted it: the flags are what they were before the run. The end.
    Aborted {
        /// Who.
        by: String,
    },
    /// The last stage's gates held. The end.
    Completed,
}

impl Phase {
    /// The name in answers and metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::WaitingForApproval => "waiting_for_approval",
            Self::Paused { .. } => "paused",
            Self::RolledBack { .. } => "rolled_back",
            Self::Aborted { .. } => "aborted",
            Self::Completed => "completed",
        }
    }

    /// Whether the run goes on: it has not ended.
    #[must_use]
    pub const fn is_active(&self) -> bool {
        matches!(self, Self::Running | Self::WaitingForApproval | Self::Paused { .. })
    }
}

/// Why a run was paused or taken back.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Reason {
    /// What kind of reason.
    pub cause: Cause,
    /// In words.
    pub says: String,
}

/// Kinds of reasons.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Somebody asked for it.
    Asked,
    /// A gate failed.
    GateFailed,
    /// The stage's time was over, and its gates did not all hold.
    TimedOut,
    /// Somebody else has set a flag.
    FlagsChanged,
    /// The database was put back from a backup.
    Restored,
    /// What the database has of the run cannot be read.
    Unreadable,
}

/// A stage, or a measurement of it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct StageRecord {
    /// Its place in the plan.
    pub stage: usize,
    /// Its name.
    pub name: String,
    /// Which of the run's measurements it was.
    pub measurement: u32,
    /// The flags that it set, as documents have them.
    pub flags: serde_json::Map<String, serde_json::Value>,
    /// When it began, milliseconds since the Unix epoch.
    pub entered_ms: u64,
    /// When it ended; `None`: it has not.
    pub left_ms: Option<u64>,
    /// For how long it was held, milliseconds,
    pub held_ms: u64,
    /// and for how long it had to be.
    pub hold_ms: u64,
    /// Requests that there had to be.
    pub min_requests: u64,
    /// What became of it; `None`: it is not decided.
    pub decision: Option<Decision>,
    /// Why, in words.
    pub says: String,
    /// Who decided; `None`: the run itself.
    pub by: Option<String>,
    /// What both groups measured.
    pub groups: PerGroup<GroupSummary>,
    /// What the service saw.
    pub observed: Observed,
    /// What the gates said at last.
    pub gates: Vec<GateResult>,
}

/// What became of a stage.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// Its gates held.
    Passed,
    /// It was paused.
    Paused,
    /// A gate failed, and the flags went back to what they were before the run,
    RolledBack,
    /// or before the stage.
    StageRolledBack,
    /// Somebody aborted the run.
    Aborted,
}

impl Decision {
    /// The name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Paused => "paused",
            Self::RolledBack => "rolled_back",
            Self::StageRolledBack => "stage_rolled_back",
            Self::Aborted => "aborted",
        }
    }
}

/// What a group measured in a whole stage.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct GroupSummary {
    /// Requests that have ended.
    pub requests: u64,
    /// Answered with a status under 500.
    pub succeeded: u64,
    /// Answered with 5xx.
    pub server_errors: u64,
    /// Denied by the gate.
    pub denied: u64,
    /// What they waited for the gate.
    pub gate: Percentiles,
    /// From arrival to end.
    pub total: Percentiles,
    /// How their checks were answered.
    pub checks: tidegate_policy::check::PerCheck<crate::figures::CheckFigures>,
}

/// Percentiles of times, microseconds; `None`: there were none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Percentiles {
    /// The median.
    pub p50: Option<u64>,
    /// 95 % are not above.
    pub p95: Option<u64>,
    /// 99 % are not above.
    pub p99: Option<u64>,
}

/// Something that happened to a run.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Note {
    /// When, milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// What.
    pub kind: NoteKind,
    /// The stage it was in.
    pub stage: String,
    /// Who did it; `None`: the run itself.
    pub by: Option<String>,
    /// In words, with the figures that decided.
    pub says: String,
}

/// What can happen to a run.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoteKind {
    /// It began.
    Started,
    /// It entered a stage, the first one too.
    StageEntered,
    /// A gate failed.
    GateFailed,
    /// It waits for somebody who approves.
    WaitingForApproval,
    /// Somebody approved.
    Approved,
    /// It was paused.
    Paused,
    /// It goes on with its stage, from the stage's beginning.
    Resumed,
    /// The flags went back to what they were before the stage.
    StageRolledBack,
    /// The flags went back to what they were before the run.
    RolledBack,
    /// Somebody aborted it.
    Aborted,
    /// It is done.
    Completed,
}

impl NoteKind {
    /// The name in webhooks (`rollout.` in front), reports and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::StageEntered => "stage_entered",
            Self::GateFailed => "gate_failed",
            Self::WaitingForApproval => "waiting_for_approval",
            Self::Approved => "approved",
            Self::Paused => "paused",
            Self::Resumed => "resumed",
            Self::StageRolledBack => "stage_rolled_back",
            Self::RolledBack => "rolled_back",
            Self::Aborted => "aborted",
            Self::Completed => "completed",
        }
    }
}

/// What a webhook is told: the body of a post, but for its id, which is in a header.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Notice {
    /// `rollout.` and [`NoteKind::name`].
    #[serde(rename = "type")]
    pub kind: String,
    /// When it happened, RFC 3339.
    pub timestamp: String,
    /// What happened.
    pub data: NoticeData,
}

/// The content of a [`Notice`].
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct NoticeData {
    /// The rollout's name.
    pub rollout: String,
    /// The run's number.
    pub run: u64,
    /// What the run is doing now: [`Phase::name`].
    pub phase: String,
    /// The stage's name.
    pub stage: String,
    /// Who did it; `null`: the run itself.
    pub by: Option<String>,
    /// In words.
    pub says: String,
    /// All flags, as they are now.
    #[serde(with = "flag_map")]
    pub flags: Flags,
    /// What the stage's gates said at last.
    pub gates: Vec<GateResult>,
}

/// What is to be done, in one transaction.
#[derive(Clone, PartialEq, Debug)]
pub struct Step {
    /// The run afterwards.
    pub run: Run,
    /// Whether the run is to be stored. If not, it is only to be kept in memory until the next look: a restart may lose
    /// it.
    pub must_store: bool,
    /// Whether a new measurement begins: the store writes the transaction's sequence number to
    /// `run.current.entered_seq`.
    pub enters: bool,
    /// The flags that are to be set, whatever they are; empty: none.
    pub set_flags: Vec<(Flag, FlagState)>,
    /// Flags must be these, or nothing is to be done: somebody was faster, which the next look will see. `None`: whatever
    /// they are.
    pub required_flags: Option<Flags>,
    /// What webhooks are to be told.
    pub notices: Vec<Notice>,
    /// What the audit is to say; `None`: nothing.
    pub summary: Option<String>,
}

/// What people ask of a run.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Command {
    /// Nothing is to be decided for now; flags stay.
    Pause,
    /// Go on with the stage: its flags are set again, and it is measured and held anew.
    Resume,
    /// Go on with the next stage.
    Approve,
    /// Take all back, and end.
    Abort,
}

impl Command {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Pause, Self::Resume, Self::Approve, Self::Abort];

    /// The name in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Approve => "approve",
            Self::Abort => "abort",
        }
    }
}

/// The moment of a step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Now {
    /// The time of day, milliseconds since the Unix epoch. Written down only.
    pub ms: u64,
    /// All flags, as they are.
    pub flags: Flags,
}

/// What is seen at a look.
#[derive(Clone, PartialEq, Debug)]
pub struct Look {
    /// Since this process's last look at this run, milliseconds by a monotonic clock; 0 at the first one.
    pub elapsed_ms: u64,
    /// What the present measurement has so far.
    pub figures: StageFigures,
    /// Who has set the flags that are not as the run expects them, where that is known.
    pub changed_by: BTreeMap<Flag, String>,
}

/// Why a command is not carried out.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// The run goes on already.
    #[error("it is {0} already: abort it first")]
    Active(&'static str),
    /// Nobody can approve what does not hold.
    #[error("a gate does not hold at the moment: {0}")]
    GateDoesNotHold(String),
    /// The run is not where it was when somebody decided this.
    #[error("run {run} is in stage {stage} ({name}) now, which is not what this was asked of")]
    MovedOn {
        /// The number of the run,
        run: u64,
        /// and of its stage, from 1.
        stage: usize,
        /// The stage's name.
        name: String,
    },
    /// What there is of the run is not enough to go on with.
    #[error("what the database has of this run cannot be read: it can only be aborted")]
    Unreadable,
    /// Somebody has set a flag, which the next look will see.
    #[error("the flags are not those that it has set: somebody has changed one")]
    FlagsDiffer,
    /// Not in this phase.
    #[error("{command} is not possible while it is {phase}")]
    WrongPhase {
        /// What was asked for.
        command: &'static str,
        /// What the run is doing.
        phase: &'static str,
    },
}

impl Run {
    /// The stage that it is in or ended in.
    #[must_use]
    pub fn stage(&self) -> Option<&Stage> {
        self.plan.stages.get(self.stage)
    }

    /// Whether it is the run of this number, in its stage of this number from 1, as far as these are given.
    ///
    /// # Errors
    /// [`Refusal::MovedOn`] when it is not.
    pub fn check_place(&self, run: Option<u64>, stage: Option<usize>) -> Result<(), Refusal> {
        let number = self.stage.saturating_add(1);
        if run.is_none_or(|run| run == self.number) && stage.is_none_or(|stage| stage == number) {
            return Ok(());
        }
        let name = self.stage().map(|stage| stage.name.clone()).unwrap_or_default();
        Err(Refusal::MovedOn { run: self.number, stage: number, name })
    }

    /// Which requests count at this moment; `None`: none, because it is paused, has ended, or has not entered its stage
    /// yet.
    #[must_use]
    pub fn measurement(&self) -> Option<Measurement> {
        if !matches!(self.phase, Phase::Running | Phase::WaitingForApproval) {
            return None;
        }
        let stage = self.stage()?;
        Some(Measurement {
            run: self.number,
            number: self.current.measurement,
            from_seq: self.current.entered_seq?,
            slice_ms: stage.slice_ms(),
            spans: stage.spans(),
            scoped_flags: stage.scoped_flags().collect(),
            next_shares: self.plan.shares_after(self.stage),
            shared_flags: stage.shared_flags().collect(),
        })
    }
}
