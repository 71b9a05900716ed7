//! The document `rollouts/{name}`: stages, each with flags, how long it is held, and gates.
//!
//! ```json
//! {"on_failure": "rollback", "stages": [
//!   {"name": "routes: a tenth", "flags": {"enableRouteCache": {"percent": 10}}, "hold": "24h", "min_requests": 1000,
//!    "gates": [{"latency": {"of": "total", "percentile": 95, "at_most_times_control": 1.1}},
//!              {"success": {"at_least": 0.999}}]}]}
//! ```

mod check;
mod read;
#[cfg(test)]
mod tests;
mod write;

pub(crate) use write::{micros, span};

use serde_json::Value;
use tidegate_author::DocumentError;
use tidegate_policy::check::Check;
use tidegate_policy::flags::{Flag, FlagState, Flags};
use tidegate_statistics::comparison::MIN_BLOCKS;

use crate::figures::Spans;

/// The most stages of a plan.
pub const MAX_STAGES: usize = 64;
/// The most gates of a stage.
pub const MAX_GATES: usize = 32;
/// The most webhooks of a plan.
pub const MAX_WEBHOOKS: usize = 8;
/// The confidence of a comparison, if none is given.
pub const CONFIDENCE: f64 = 0.999;
/// The shortest slice of time in which figures are kept, milliseconds.
pub const MIN_SLICE_MS: u64 = 200;

/// A rollout as it is to be run.
#[derive(Clone, PartialEq, Debug)]
pub struct Plan {
    /// Its name.
    pub name: String,
    /// What it is for; empty: nothing was said.
    pub description: String,
    /// What happens when a gate fails, where the stage says nothing else.
    pub on_failure: OnFailure,
    /// Who is told.
    pub webhooks: Vec<Webhook>,
    /// In their order, one at least.
    pub stages: Vec<Stage>,
}

/// What happens when a gate fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnFailure {
    /// `rollback`: flags go back to what they were before the run, and the run ends.
    #[default]
    Rollback,
    /// `rollback_stage`: flags go back to what they were before the stage, and the run is paused there.
    RollbackStage,
    /// `pause`: flags stay, and the run is paused.
    Pause,
}

impl OnFailure {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Rollback, Self::RollbackStage, Self::Pause];

    /// The name in documents.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rollback => "rollback",
            Self::RollbackStage => "rollback_stage",
            Self::Pause => "pause",
        }
    }
}

/// Where notices go to, signed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Webhook {
    /// http or https.
    pub url: String,
    /// The name of the file with the secret that signs, in the directory that the service has for such files;
    /// `None`: not signed.
    pub secret_file: Option<String>,
    /// It may be sent without TLS.
    pub allow_insecure: bool,
    /// It may be sent to an address outside of the public internet.
    pub allow_private: bool,
}

/// A step of the rollout.
#[derive(Clone, PartialEq, Debug)]
pub struct Stage {
    /// Its name, unique in the plan.
    pub name: String,
    /// What is set when the stage begins, by flag in the order of [`Flag::ALL`]. Others stay.
    pub flags: Vec<(Flag, FlagState)>,
    /// How long it is held at least, milliseconds.
    pub hold_ms: u64,
    /// Requests of both groups that there must be at least.
    pub min_requests: u64,
    /// After so many milliseconds a stage whose gates do not all hold is paused.
    pub timeout_ms: u64,
    /// Waits for a person when its gates hold.
    pub approve: bool,
    /// What happens when a gate fails; `None`: as the plan says.
    pub on_failure: Option<OnFailure>,
    /// What must hold.
    pub gates: Vec<Gate>,
}

impl Stage {
    /// How long a slice is in which figures of the stage are kept, milliseconds: 2,000 slices at most.
    #[must_use]
    pub fn slice_ms(&self) -> u64 {
        MIN_SLICE_MS.max(self.timeout_ms.div_ceil(2_000))
    }

    /// The spans of time in which blocks of clients are kept, for the windows that compare clients: a quarter of the
    /// shortest one, but no more than 64 to the longest.
    #[must_use]
    pub fn spans(&self) -> Spans {
        let compared = self.gates.iter().filter(|gate| gate.condition.needs_control());
        let slices = |ms: u64| u32::try_from(ms.div_ceil(self.slice_ms())).unwrap_or(u32::MAX);
        let windows = || compared.clone().filter_map(|gate| gate.window_ms).map(slices);
        let (Some(shortest), Some(longest)) = (windows().min(), windows().max()) else {
            return Spans::default();
        };
        Spans { slices: (shortest / 4).max(longest.div_ceil(64)).max(1), kept_slices: longest }
    }

    /// `flags` as they are in this stage.
    #[must_use]
    pub fn applied_to(&self, flags: &Flags) -> Flags {
        self.flags.iter().fold(flags.clone(), |flags, (flag, state)| flags.with(*flag, state.clone()))
    }

    /// Flags that are on for a share of the clients, 1 to 99 percent: by them there are two groups.
    pub fn shared_flags(&self) -> impl Iterator<Item = Flag> {
        self.flags.iter().filter(|(_, state)| (1..=99).contains(&state.percent())).map(|(flag, _)| *flag)
    }

    /// Flags that are limited to gateways, hostnames or routes: requests elsewhere do not count.
    pub fn scoped_flags(&self) -> impl Iterator<Item = Flag> {
        self.flags.iter().filter(|(_, state)| state.scope().is_some()).map(|(flag, _)| *flag)
    }
}

/// A condition over what a stage's requests measured.
#[derive(Clone, PartialEq, Debug)]
pub struct Gate {
    /// What it is called; `None`: by its condition.
    pub name: Option<String>,
    /// Only what the last so many milliseconds measured; `None`: the whole stage.
    pub window_ms: Option<u64>,
    /// What must hold.
    pub condition: Condition,
}

/// What a gate demands.
#[derive(Clone, PartialEq, Debug)]
pub enum Condition {
    /// `latency`: a percentile of times.
    Latency {
        /// Which times.
        of: Times,
        /// 1 to 99.9.
        percentile: f64,
        /// What it may be.
        limit: LatencyLimit,
    },
    /// `success`: of the treated requests that were answered, the share with a status under 500.
    Success {
        /// 0 to 1.
        at_least: f64,
    },
    /// `server_errors`: the share of the treated requests that were answered with 5xx.
    ServerErrors(ShareLimit),
    /// `denials`: the share of the treated requests that the gate denied.
    Denials(ShareLimit),
    /// `mismatches`: checks in shadow that the cache answered differently, but for those in which it was only behind.
    Mismatches {
        /// How many there may be.
        limit: MismatchLimit,
        /// How many must have been compared.
        compared_at_least: u64,
    },
    /// `completeness`: the share of all numbered events that are stored.
    Completeness {
        /// 0 to 1.
        at_least: f64,
    },
    /// `queue_depth`: events that wait in the gateways.
    QueueDepth {
        /// How many may wait.
        at_most: u64,
    },
    /// `dropped`: events that were given up since the stage began.
    Dropped {
        /// How many may be.
        at_most: u64,
    },
    /// `hit_ratio`: the share of the treated requests' answers to a check that came from the cache.
    HitRatio {
        /// Which check.
        check: Check,
        /// 0 to 1.
        at_least: f64,
    },
    /// `health`: gateways, recorder and tables are well.
    Health {
        /// One gateway at least polls, none is lost and none lags.
        gateways: bool,
        /// No gateway is without a recorder.
        recorder: bool,
        /// No gateway's tables are older, milliseconds; `None`: not looked at.
        tables_age_at_most_ms: Option<u64>,
    },
}

impl Condition {
    /// The field of a gate that has it.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Latency { .. } => "latency",
            Self::Success { .. } => "success",
            Self::ServerErrors(_) => "server_errors",
            Self::Denials(_) => "denials",
            Self::Mismatches { .. } => "mismatches",
            Self::Completeness { .. } => "completeness",
            Self::QueueDepth { .. } => "queue_depth",
            Self::Dropped { .. } => "dropped",
            Self::HitRatio { .. } => "hit_ratio",
            Self::Health { .. } => "health",
        }
    }

    /// Whether it compares with the control group.
    #[must_use]
    pub const fn needs_control(&self) -> bool {
        matches!(
            self,
            Self::Latency { limit: LatencyLimit::TimesControl { .. }, .. }
                | Self::ServerErrors(ShareLimit::OverControl { .. })
                | Self::Denials(ShareLimit::OverControl { .. })
        )
    }

    /// How many slices of time it needs.
    #[must_use]
    pub const fn needed_slices(&self) -> u64 {
        match self {
            Self::Latency { .. } => MIN_BLOCKS as u64,
            compared if compared.needs_control() => MIN_BLOCKS as u64,
            _ => 1,
        }
    }

    /// Whether it says nothing without requests.
    #[must_use]
    pub const fn needs_requests(&self) -> bool {
        matches!(
            self,
            Self::Latency { .. }
                | Self::Success { .. }
                | Self::ServerErrors(_)
                | Self::Denials(_)
                | Self::Mismatches { .. }
                | Self::HitRatio { .. }
        )
    }
}

/// Which times of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Times {
    /// `gate`: what the request waited for the gate.
    Gate,
    /// `total`: from its arrival to its end.
    Total,
}

impl Times {
    /// The name in documents.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gate => "gate",
            Self::Total => "total",
        }
    }
}

/// What a percentile of times may be.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum LatencyLimit {
    /// `at_most`.
    AtMost {
        /// Microseconds.
        us: u64,
        /// How sure a failure must be, 0.5 to 0.999999.
        confidence: f64,
    },
    /// `at_most_times_control`.
    TimesControl {
        /// So many times the control group's percentile: 0.01 to 100; under 1, the treated must be faster.
        times: f64,
        /// How sure a failure must be, 0.5 to 0.999999.
        confidence: f64,
    },
}

/// What a share of requests may be.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum ShareLimit {
    /// `at_most`.
    AtMost {
        /// 0 to 1.
        share: f64,
        /// How sure a failure must be, 0.5 to 0.999999.
        confidence: f64,
    },
    /// `over_control_at_most`.
    OverControl {
        /// By how much it may be over the control group's share, 0 to 1.
        by: f64,
        /// How sure a failure must be, 0.5 to 0.999999.
        confidence: f64,
    },
}

/// How many mismatches there may be.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum MismatchLimit {
    /// `at_most`: so many.
    Count(u64),
    /// `at_most_share`: this share of the compared, 0 to 1.
    Share(f64),
}

impl Plan {
    /// Reads the plan of this name. `stages`, and in each `name`, `flags` and `hold`, are required; by default
    /// `on_failure` is `rollback`, `min_requests` 1 where a gate needs requests, and `timeout` three times `hold`, and a
    /// minute more than it at least. A `name` in the document must be this one.
    ///
    /// # Errors
    /// All problems, each with its JSON pointer and what would be right, up to
    /// [`MAX_PROBLEMS`](tidegate_author::MAX_PROBLEMS): of fields, and of stages that contradict each other. A problem
    /// with `name` itself has the pointer `/name`.
    pub fn read(name: &str, document: &Value) -> Result<Self, Vec<DocumentError>> {
        read::plan(name, document)
    }

    /// The plan as a document that [`Self::read`] reads, without what is there by default: documents of equal meaning
    /// give equal ones.
    #[must_use]
    pub fn to_document(&self) -> Value {
        write::plan(self)
    }

    /// The flags that it sets, in the order of [`Flag::ALL`].
    #[must_use]
    pub fn flags(&self) -> Vec<Flag> {
        let is_set =
            |flag: &Flag| self.stages.iter().any(|stage| stage.flags.iter().any(|(set, _)| set == flag));
        Flag::ALL.into_iter().filter(is_set).collect()
    }

    /// The shares of the stage after `stage`, by which it has two groups; none if it has none, or if a flag of it is limited
    /// to some requests: who is within is not known ahead.
    #[must_use]
    pub fn shares_after(&self, stage: usize) -> Vec<(Flag, u8)> {
        let Some(next) = self.stages.get(stage.saturating_add(1)) else { return Vec::new() };
        if next.scoped_flags().next().is_some() {
            return Vec::new();
        }
        let shares = next.flags.iter().filter(|(_, state)| (1..=99).contains(&state.percent()));
        shares.map(|(flag, state)| (*flag, state.percent())).collect()
    }

    /// What happens when a gate of `stage` fails.
    #[must_use]
    pub fn on_failure_of(&self, stage: &Stage) -> OnFailure {
        stage.on_failure.unwrap_or(self.on_failure)
    }
}

impl serde::Serialize for Plan {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.to_document().serialize(to)
    }
}

/// What was stored was checked when it was new: it is read without the rules by which new plans are refused that
/// contradict themselves, as another version may have others.
impl<'de> serde::Deserialize<'de> for Plan {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let document = Value::deserialize(from)?;
        let name = document.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        read::stored(&name, &document).map_err(|errors| {
            let says = errors.first().map(|error| format!("{}: {}", error.pointer, error.message));
            serde::de::Error::custom(says.unwrap_or_default())
        })
    }
}
