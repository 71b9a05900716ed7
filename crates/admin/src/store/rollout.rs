//! Runs of rollouts as the database has them, what is measured, and notices to webhooks.

use serde::{Deserialize, Serialize};
use tidegate_policy::flags::Flag;
use tidegate_rollout::figures::{Measurement, Spans};

/// The last run of a rollout.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RolloutRow {
    /// The rollout's name.
    pub name: String,
    /// Counts the steps of all its runs, from 1: a step says which it follows.
    pub revision: u64,
    /// The run's state as JSON.
    pub state: String,
    /// Whether the run has not ended: there is one such run at most.
    pub is_active: bool,
    /// Sequence number of the transaction that entered the stage: requests with tables that are no older count.
    pub entered_seq: u64,
    /// What is measured at this moment; `None`: nothing.
    pub measured: Option<MeasuredStage>,
}

/// All runs and the flags at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RolloutRows {
    /// The last run of each rollout, by name.
    pub runs: Vec<RolloutRow>,
    /// The rows of flags: name and value.
    pub flags: Vec<(String, String)>,
}

/// What is measured from a step on, until another or none is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MeasuredStage {
    /// Number of the run.
    pub run: u64,
    /// Which of the run's measurements it is.
    pub number: u32,
    /// Length of a slice, milliseconds.
    pub slice_ms: u64,
    /// The spans of time of blocks of clients.
    #[serde(default)]
    pub spans: Spans,
    /// Names of the flags by which there are two groups.
    pub shared_flags: Vec<String>,
    /// Names of the flags that are limited to gateways, hostnames or routes: other requests do not count.
    pub scoped_flags: Vec<String>,
    /// The shares of the next stage, by which requests are counted ahead as well: names of flags, and percent.
    pub next_shares: Vec<(String, u8)>,
    /// Counts of recording when it began.
    pub before: RecordedBefore,
}

/// Counts of recording at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RecordedBefore {
    /// Events that gateways had numbered.
    pub numbered: u64,
    /// Of these, missing: lost, or late.
    pub missing: u64,
    /// Of these, given up by gateways.
    pub dropped: u64,
}

impl MeasuredStage {
    /// Which requests count, if it began with the transaction of this sequence number.
    #[must_use]
    pub fn measurement(&self, from_seq: u64) -> Measurement {
        let flags = |names: &[String]| names.iter().filter_map(|name| Flag::named(name)).collect();
        Measurement {
            run: self.run,
            number: self.number,
            from_seq,
            slice_ms: self.slice_ms,
            spans: self.spans,
            shared_flags: flags(&self.shared_flags),
            scoped_flags: flags(&self.scoped_flags),
            next_shares: self
                .next_shares
                .iter()
                .filter_map(|(name, percent)| Some((Flag::named(name)?, *percent)))
                .collect(),
        }
    }
}

/// One step of a run, which is written as a whole or not at all.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RolloutStep {
    /// The rollout's name.
    pub name: String,
    /// The revision that the step follows; 0: the rollout has had no run. If it is another, or another rollout's run is
    /// active, the step is refused: [`Committed::is_stale`](super::Committed::is_stale).
    pub follows: u64,
    /// The run's state after the step, as JSON.
    pub state: String,
    /// Whether the run goes on.
    pub is_active: bool,
    /// The flags, name and state as JSON, by which the step was decided: if any is another, the step is refused.
    pub expected_flags: Vec<(String, String)>,
    /// Flags that it sets.
    pub set_flags: Vec<(String, String)>,
    /// What is measured from now on.
    pub measuring: Measuring,
    /// What is told to webhooks.
    pub notices: Vec<NewNotice>,
    /// What the audit says of the step, as JSON; `None`: the step is none that people need to know of.
    pub summary: Option<String>,
}

/// What is measured after a step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Measuring {
    /// The same as before.
    Keep,
    /// This, from this step on. What was counted of other measurements is removed.
    Begin(MeasuredStage),
    /// Nothing.
    End,
}

/// A notice that is to be sent to a webhook.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewNotice {
    /// By which the receiver knows one that comes twice. Of one rollout they are, as texts, in the order in which things
    /// happened.
    pub id: String,
    /// The webhook as JSON: where to, and by what the notice is signed.
    pub webhook: String,
    /// The body.
    pub body: String,
}

/// A notice that waits to be sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WaitingNotice {
    /// The rollout's name.
    pub rollout: String,
    /// What is sent.
    pub notice: NewNotice,
    /// When it was made, milliseconds since the Unix epoch.
    pub made_ms: i64,
    /// When it is to be tried, milliseconds since the Unix epoch.
    pub next_try_ms: i64,
    /// Tries that failed.
    pub tries: u32,
    /// How many wait for the same webhook of the same rollout, this one included.
    pub waiting: u64,
}

/// What became of a try to send a notice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoticeTry {
    /// It is done with: it was taken, or is given up.
    Done,
    /// It failed, and is to be tried again at this time (milliseconds since the Unix epoch).
    Failed {
        /// When.
        next_try_ms: i64,
    },
}
