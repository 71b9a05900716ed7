//! Short slices of load: what the machine does meanwhile meets neighbours alike.

use std::time::Duration;

use anyhow::{Result, ensure};
use tidegate_stack::envoy::cpu_time;

use super::cases::Case;
use crate::measure::{Plan, Sender};
use crate::rounds::ensure_not_interrupted;
use crate::scene;

/// Load of one slice.
const LOAD: Duration = Duration::from_millis(200);
/// After the load: a worker hands over its last events within 50 ms, the recorder posts them, and the admin
/// service answers. What Envoy uses meanwhile is part of the slice.
const SETTLE: Duration = Duration::from_millis(120);
/// How often a second such time is looked at, to see that nothing was left.
const LOOK_BEYOND: usize = 10;
/// Connections, each sending its next request when the last is answered.
pub const CONNECTIONS: usize = 16;

/// What a case was measured to use, slice by slice.
#[derive(Default)]
pub struct Slices {
    /// Processor time per request, microseconds.
    pub micros: Vec<f64>,
    /// The same over that of the bare Envoy just before and after.
    pub over: Vec<f64>,
    /// Of `micros`, what was used after the last answer.
    pub settling: Vec<f64>,
    /// What was used in as long a time after that, and is not in `micros`: of some slices.
    pub beyond: Vec<f64>,
    /// Requests per second.
    pub rates: Vec<f64>,
    requests: u64,
}

impl Slices {
    /// All requests sent.
    pub fn requests(&self) -> u64 {
        self.requests
    }
}

/// How long so many slices of each case take, without the time to start all Envoys.
pub fn duration(slices: u32, cases: &[Case]) -> Duration {
    let one = |case: &Case| 2 * LOAD + if case.hands_over_later() { SETTLE } else { Duration::ZERO };
    (cases.iter().map(one).sum::<Duration>() + LOAD) * slices
}

/// Measures slices.
pub struct Meter {
    sender: Sender,
}

impl Meter {
    /// The load comes from a process on this processor.
    pub fn start(cpu: u32) -> Result<Self> {
        Ok(Self { sender: Sender::start(Some(cpu))? })
    }

    /// A slice of every case, in another order each time, each between two slices of the bare Envoy.
    pub fn measure_round(&mut self, bare: &mut Case, cases: &mut [Case]) -> Result<()> {
        let mut order: Vec<usize> = (0..cases.len()).collect();
        fastrand::shuffle(&mut order);
        let mut earlier = self.measure(bare)?;
        for index in order {
            let case = &mut cases[index];
            let micros = self.measure(case)?;
            let later = self.measure(bare)?;
            case.slices.over.push(micros - f64::midpoint(earlier, later));
            earlier = later;
        }
        Ok(())
    }

    /// One slice: processor time per request, microseconds.
    #[expect(clippy::cast_precision_loss, reason = "some thousand requests")]
    fn measure(&mut self, case: &mut Case) -> Result<f64> {
        ensure_not_interrupted()?;
        let plan = Plan {
            address: case.address(),
            connections: CONNECTIONS,
            seconds: LOAD.as_secs_f64(),
            shots: scene::passing(),
        };
        let begin = cpu_time(case.process())?;
        let outcome = self.sender.run(&plan)?;
        let answered = cpu_time(case.process())?;
        let end = if case.hands_over_later() { later(case)? } else { answered };
        ensure!(outcome.wrong == 0, "{}: {:?}", case.told(), outcome.failures);

        let requests = outcome.total();
        let per_request = |time: Duration| time.as_secs_f64() * 1e6 / requests as f64;
        let micros = per_request(end.saturating_sub(begin));
        let slices = &mut case.slices;
        slices.settling.push(per_request(end.saturating_sub(answered)));
        slices.micros.push(micros);
        slices.rates.push(outcome.rate());
        slices.requests += requests;
        if case.hands_over_later() && case.slices.micros.len() % LOOK_BEYOND == 1 {
            let beyond = per_request(later(case)?.saturating_sub(end));
            case.slices.beyond.push(beyond);
        }
        Ok(micros)
    }
}

/// The processor time that a case has used [`SETTLE`] from now.
fn later(case: &Case) -> Result<Duration> {
    std::thread::sleep(SETTLE);
    cpu_time(case.process())
}
