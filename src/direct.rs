//! The questions that one request asks the admin service: sent, and matched with
//! their answers. What is asked when stands in `request/evaluation.rs`.

mod circuit_breaker;
mod line;

use std::time::Duration;

use tidegate_policy::check::{Check, PerCheck};
use tidegate_policy::decide::Given;
use tidegate_policy::request::Facts;
use tidegate_policy::wire::check::{Answer, MAX_ANSWER, MAX_QUESTION, Question, path};

use crate::host::{CallToken, Host};
pub use line::AdminClient;

/// The status that Envoy makes up for a call whose time is over.
pub const RAN_OUT: u16 = 504;

/// Less than this is no time to ask in: Envoy counts in milliseconds.
const SHORTEST: Duration = Duration::from_millis(1);

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
    /// It could not be sent, or the answer is none.
    Failed,
}

/// A question that waits for its answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenQuestion {
    /// What the host will call the answer.
    token: CallToken,
    /// What the answer must repeat.
    id: u64,
    /// When it was asked, monotonic nanoseconds.
    pub since_ns: u64,
    /// Whether it has the whole time of a question, and not what was left of
    /// all questions'.
    unhurried: bool,
}

/// The questions of one request.
#[derive(Debug, Default)]
pub struct Questions {
    asked: PerCheck<QuestionState>,
    /// When the time for all of them is over, monotonic nanoseconds; begins with
    /// the first.
    until_ns: Option<u64>,
}

impl Questions {
    /// How far a question is.
    #[must_use]
    pub fn get(&self, check: Check) -> QuestionState {
        *self.asked.get(check)
    }

    /// Asks; the question is open afterwards, or failed at once.
    pub fn ask<H: Host>(&mut self, check: Check, facts: &Facts<'_>, given: Given, line: &AdminClient<H>) {
        let (id, since_ns) = (line.vm.question_id(), line.vm.host.monotonic_ns());
        let limits = line.limits;
        let until_ns = *self.until_ns.get_or_insert_with(|| {
            since_ns.saturating_add(u64::try_from(limits.budget.as_nanos()).unwrap_or(u64::MAX))
        });
        let left = Duration::from_nanos(until_ns.saturating_sub(since_ns));
        let worth_it = left >= SHORTEST && line.patience.get(check).may_ask(since_ns);
        let sent = match Question::new(check, id, facts, given).to_bytes() {
            Ok(body) if worth_it && body.len() <= MAX_QUESTION => {
                line.post(path(check), &body, limits.timeout.min(left)).ok()
            }
            _ => None,
        };
        let unhurried = left >= limits.timeout;
        *self.asked.get_mut(check) = match sent {
            Some(token) => QuestionState::Open(OpenQuestion { token, id, since_ns, unhurried }),
            None => QuestionState::Failed,
        };
    }

    /// The check whose question this call asks, while it is open.
    #[must_use]
    pub fn of_call(&self, token: CallToken) -> Option<(Check, OpenQuestion)> {
        Check::ALL.into_iter().find_map(|check| match self.get(check) {
            QuestionState::Open(open) if open.token == token => Some((check, open)),
            _ => None,
        })
    }

    /// Takes what came for an open question, inside its callback: the answer,
    /// unless it is none. `num_headers` is zero when the call failed without one.
    pub fn take<H: Host>(
        &mut self,
        check: Check,
        open: OpenQuestion,
        num_headers: usize,
        line: &AdminClient<H>,
    ) -> Option<Answer> {
        let host = &line.vm.host;
        // Without headers there is no map that could be read.
        let status = if num_headers == 0 { None } else { host.call_status() };
        match status {
            Some(RAN_OUT) if open.unhurried => line.patience.get(check).note_ran_out(host.monotonic_ns()),
            Some(RAN_OUT) | None => {}
            Some(_) => line.patience.get(check).note_answered(),
        }
        let answer = if status == Some(200) { read(check, open.id, host) } else { None };
        *self.asked.get_mut(check) =
            if answer.is_some() { QuestionState::Answered } else { QuestionState::Failed };
        answer
    }
}

/// The answer at hand, if it is one to the question `id` about `check`.
fn read<H: Host>(check: Check, id: u64, host: &H) -> Option<Answer> {
    // A byte more than allowed, so that what is longer is seen to be.
    let body = host.call_body(MAX_ANSWER.saturating_add(1));
    Answer::from_bytes(&body).ok().filter(|answer| answer.id == id && answer.found.check() == check)
}
