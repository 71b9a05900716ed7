//! What a gate says of figures.
//!
//! A gate fails when it is sure, with the confidence that it asks for, that the limit is not kept. Data grows while it is
//! looked at again and again, so each test may take less of the risk than the one before
//! ([`risk_of_test`](tidegate_statistics::interval::risk_of_test)). When there is a test is told by how much data there is and
//! how much time has passed, not by what earlier ones said; and there is one before a stage is left, so that it is left by
//! what is so at that moment. At the end of the hold a gate is met if the measured value is within the limit and there
//! was enough data. What can be counted exactly is compared at every look.

mod describe;
mod look;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use describe::{milliseconds, name, percent, value};
pub use look::{look, look_now};

/// For how long what the service sees (completeness, queue, health) may be bad before its gate fails, milliseconds: events
/// on their way, or a gateway that restarts, are no fault.
pub const GRACE_MS: u64 = 5_000;

/// What a gate says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It does.
    Holds,
    /// It does not: the stage has failed.
    Fails,
    /// There is not enough data to say.
    Undecided,
}

impl Verdict {
    /// The name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::Fails => "fails",
            Self::Undecided => "undecided",
        }
    }
}

/// What a gate's figures are measured in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// A time.
    Microseconds,
    /// A share of requests, 0 to 1; or the difference of two.
    Share,
    /// So many times the control group's.
    Times,
    /// A number.
    Count,
}

/// What is known of a gate from earlier looks.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct GateState {
    /// Requests of the stage when it was first looked at with some.
    pub first_requests: u64,
    /// How many tests of growing data there were: each may take less risk than the one before.
    pub tests: u32,
    /// By how many steps the data had grown at the last test.
    #[serde(default)]
    pub step: u64,
    /// For how long, milliseconds, there has been no test.
    #[serde(default)]
    pub untested_ms: u64,
    /// The stage's requests at the last test.
    pub tested_requests: u64,
    /// For how long, milliseconds, what the service sees has been bad.
    pub bad_ms: u64,
    /// What it said last.
    pub result: Option<GateResult>,
}

impl GateState {
    /// What is missing until it holds, in words; `None`: nothing.
    #[must_use]
    pub fn unmet(&self) -> Option<String> {
        match &self.result {
            Some(result) if result.is_met => None,
            Some(result) => Some(format!("{}: {}", result.name, result.says)),
            None => Some("a gate was not looked at yet".to_owned()),
        }
    }

    /// This state with a new result.
    fn with(self, result: GateResult) -> Self {
        let result = GateResult {
            measured: result.measured.map(short),
            limit: short(result.limit),
            bounds: result.bounds.map(|(low, high)| (short(low), short(high))),
            control: result.control.map(short),
            room: result.room.map(short),
            ..result
        };
        Self { result: Some(result), ..self }
    }

    /// The hold is over: what is met holds.
    pub(crate) fn settle(&mut self) {
        if let Some(result) = &mut self.result
            && result.is_met
        {
            result.verdict = Verdict::Holds;
        }
    }
}

/// A number with nine digits, so that JSON gives back the same. JSON has no infinity, which a bound from little data may
/// be.
fn short(number: f64) -> f64 {
    let number = if number.is_nan() { 0.0 } else { number.clamp(-1e12, 1e12) };
    let number = if number.abs() < 1e-12 { 0.0 } else { number };
    format!("{number:.8e}").parse().unwrap_or(0.0)
}

/// A gate and what it says of the figures.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct GateResult {
    /// The gate's name, or its condition in words: `total P95 <= 1.1 x control`.
    pub name: String,
    /// The field of the gate that has its condition, as `latency`.
    pub kind: String,
    /// What it says.
    pub verdict: Verdict,
    /// Whether it will hold at the end of the hold if nothing changes: there is enough data, and the measured value is
    /// within the limit.
    pub is_met: bool,
    /// Of the measured value and the limit.
    pub unit: Unit,
    /// `None`: nothing was measured.
    pub measured: Option<f64>,
    /// What the measured value may be.
    pub limit: f64,
    /// Whether the limit is the lowest that is right, not the highest.
    pub is_minimum: bool,
    /// Lower and upper bound of what was measured; `None`: it is exact, or there is not enough data.
    pub bounds: Option<(f64, f64)>,
    /// The control group's value, of a latency in microseconds; `None`: it is not compared.
    pub control: Option<f64>,
    /// How far from failing: 1 is as far as can be, 0 at the limit, below 0 over it; `None`: nothing was measured.
    pub room: Option<f64>,
    /// Requests that it looked at, of both groups if it compares.
    pub requests: u64,
    /// What it found, or what is missing, in words.
    pub says: String,
}
