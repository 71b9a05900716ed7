//! The questions about one request to the admin service: sent, and matched with their
//! answers. `request/evaluation.rs` decides which are asked, and when.

use std::rc::Rc;
use std::time::Duration;

use tidegate_policy::check::{Check, PerCheck};
use tidegate_policy::decide::CountrySource;
use tidegate_policy::request::Facts;
use tidegate_policy::wire::check::{Answer, MAX_ANSWER, MAX_QUESTION, Question, path};

use crate::admin_client::{CircuitBreaker, InFlight, Probes, nanos};
use crate::config::DirectLimits;
use crate::host::{CallToken, Host};
use crate::worker::AdminInstance;

/// Shortest time limit of a call: Envoy counts in milliseconds.
const SHORTEST: Duration = Duration::from_millis(1);

/// What the questions of all requests under one configuration share.
pub struct DirectChecks {
    limits: DirectLimits,
    breakers: PerCheck<CircuitBreaker>,
}

impl DirectChecks {
    /// With these time limits.
    pub fn new(limits: DirectLimits, probes: &Rc<Probes>) -> Self {
        Self { limits, breakers: PerCheck::from_fn(|_| CircuitBreaker::new(probes)) }
    }
}

/// How far a question is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum QuestionState {
    /// It was not asked.
    #[default]
    NotYet,
    /// It waits for its answer.
    Open(OpenQuestion),
    /// It was answered.
    Answered,
    /// It could not be sent, timed out, or what came is no answer to it.
    Failed,
}

/// A question that waits for its answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenQuestion {
    /// Its call.
    pub call: InFlight,
    /// What the answer must repeat.
    id: u64,
    /// Whether its time limit is at least half a question's full one, not the end of the budget.
    has_time: bool,
}

/// The questions of one request.
#[derive(Debug, Default)]
pub struct Questions {
    states: PerCheck<QuestionState>,
    /// When the budget of all of them ends, monotonic nanoseconds. It begins with the first
    /// question.
    until_ns: Option<u64>,
}

impl Questions {
    /// How far a question is.
    #[must_use]
    pub fn get(&self, check: Check) -> QuestionState {
        *self.states.get(check)
    }

    /// Asks; the question is open afterwards, or failed at once.
    pub fn ask<H: Host>(
        &mut self,
        check: Check,
        facts: &Facts<'_>,
        country_source: CountrySource,
        direct: &DirectChecks,
        instance: &AdminInstance<H>,
    ) {
        let (id, now_ns) = (instance.question_id(), instance.host.monotonic_ns());
        let DirectLimits { timeout, budget } = direct.limits;
        let until_ns = *self.until_ns.get_or_insert_with(|| now_ns.saturating_add(nanos(budget)));
        let left = Duration::from_nanos(until_ns.saturating_sub(now_ns));
        let is_worth_it = left >= SHORTEST && direct.breakers.get(check).allows(now_ns);
        let sent = match Question::new(check, id, facts, country_source).to_bytes() {
            Ok(body) if is_worth_it && body.len() <= MAX_QUESTION => {
                instance.client.post(path(check), &[], &body, timeout.min(left)).ok()
            }
            _ => None,
        };
        *self.states.get_mut(check) = match sent {
            Some(call) => {
                QuestionState::Open(OpenQuestion { call, id, has_time: left.saturating_mul(2) >= timeout })
            }
            None => QuestionState::Failed,
        };
    }

    /// The open question of the call `token`, and its check.
    #[must_use]
    pub fn of_call(&self, token: CallToken) -> Option<(Check, OpenQuestion)> {
        Check::ALL.into_iter().find_map(|check| match self.get(check) {
            QuestionState::Open(open) if open.call.token == token => Some((check, open)),
            _ => None,
        })
    }

    /// Takes the answer to an open question, inside its callback unless it has failed: then
    /// there is `None`.
    pub fn take<H: Host>(
        &mut self,
        check: Check,
        open: OpenQuestion,
        status: Option<u16>,
        direct: &DirectChecks,
        instance: &AdminInstance<H>,
    ) -> Option<Answer> {
        let now_ns = instance.host.monotonic_ns();
        let answer = if status == Some(200) { read(check, open.id, &instance.host) } else { None };
        let is_heard = answer.is_some() || instance.client.has_refused(status);
        direct.breakers.get(check).note(is_heard, open.call.since_ns, open.has_time, now_ns);
        *self.states.get_mut(check) =
            if answer.is_some() { QuestionState::Answered } else { QuestionState::Failed };
        answer
    }
}

/// The answer in the callback that runs, if it is one to the question `id` about `check`.
fn read<H: Host>(check: Check, id: u64, host: &H) -> Option<Answer> {
    // One byte more than allowed, so that a longer body does not decode.
    let body = host.call_body(MAX_ANSWER.saturating_add(1));
    Answer::from_bytes(&body).ok().filter(|answer| answer.id == id && answer.found.check() == check)
}
