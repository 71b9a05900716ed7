//! What a run is doing, in words.

use maud::{Markup, html};
use serde::Deserialize;

/// What a run is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It is in a stage.
    Running,
    /// Somebody must approve.
    WaitingForApproval,
    /// Somebody must resume or abort it.
    Paused,
    /// A gate failed.
    RolledBack,
    /// Somebody aborted it.
    Aborted,
    /// All stages passed.
    Completed,
}

impl Phase {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::WaitingForApproval => "waits for approval",
            Self::Paused => "paused",
            Self::RolledBack => "rolled back",
            Self::Aborted => "aborted",
            Self::Completed => "completed",
        }
    }

    /// Whether the run has not ended.
    pub fn is_active(self) -> bool {
        matches!(self, Self::Running | Self::WaitingForApproval | Self::Paused)
    }

    /// Whether the stage is being measured.
    pub fn is_measuring(self) -> bool {
        matches!(self, Self::Running | Self::WaitingForApproval)
    }

    /// What may be asked of a run that is in it, in the order of the buttons.
    pub fn questions(self) -> &'static [Question] {
        match self {
            Self::Running => &[Question::Pause, Question::Abort],
            Self::WaitingForApproval => &[Question::Approve, Question::Pause, Question::Abort],
            Self::Paused => &[Question::Resume, Question::Abort],
            Self::RolledBack | Self::Aborted | Self::Completed => &[Question::Start],
        }
    }

    /// As a tag; `None`: it has never run.
    pub fn tag(of: Option<Self>) -> Markup {
        let class = match of {
            None | Some(Self::Aborted) => "plain",
            Some(Self::Running | Self::Completed) => "good",
            Some(Self::WaitingForApproval | Self::Paused) => "warn",
            Some(Self::RolledBack) => "bad",
        };
        html! { span class={ "tag " (class) } { (of.map_or("not started", Self::words)) } }
    }
}

/// What a person may ask of a rollout.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Question {
    /// To begin a run.
    Start,
    /// To decide nothing for now.
    Pause,
    /// To go on with the stage.
    Resume,
    /// To go on with the next stage.
    Approve,
    /// To take all back, and end.
    Abort,
}

impl Question {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Start, Self::Pause, Self::Resume, Self::Approve, Self::Abort];

    /// The name in the API, in forms, and of the command.
    pub fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Approve => "approve",
            Self::Abort => "abort",
        }
    }

    /// On its button, and what it does.
    pub fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Start => ("Start", "Begins a run: the flags of the first stage are set at once."),
            Self::Pause => ("Pause", "Flags stay, and nothing is decided until it is resumed or aborted."),
            Self::Resume => ("Resume", "Sets the stage's flags again; it is held and measured anew."),
            Self::Approve => ("Approve", "Goes on with the next stage."),
            Self::Abort => ("Abort…", "Ends the run, and sets the flags back to what they were before it."),
        }
    }

    /// What is said when it was done.
    pub fn done(self) -> &'static str {
        match self {
            Self::Start => "has started",
            Self::Pause => "is paused",
            Self::Resume => "goes on",
            Self::Approve => "is approved, and goes on",
            Self::Abort => "is aborted: the flags are what they were before the run",
        }
    }
}
