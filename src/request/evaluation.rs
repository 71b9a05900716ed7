//! The checks of one request, each answered by the tables (the cache) or the admin
//! service, or by the one in place of the other. `Findings::step` (crates/policy) returns
//! the check that is needed next, or the decision; this file supplies the findings.

use std::cell::OnceCell;
use std::rc::Rc;

use tidegate_policy::UnixSeconds;
use tidegate_policy::check::{Answered, Check, PerCheck};
use tidegate_policy::decide::{
    CountrySource, Decision, Finding, Findings, GeoFinding, IpFinding, Step, Tables,
};
use tidegate_policy::flags::{Mode, Modes};
use tidegate_policy::request::Facts;
use tidegate_policy::wire::check::{Found, RouteAnswer};
use tidegate_policy::wire::event::Mismatch;

use super::facts::RequestFacts;
use super::flag_modes;
use super::listener::CameBy;
use super::performance::Timing;
use super::shadow;
use crate::direct::{QuestionState, Questions};
use crate::filter::Filter;
use crate::host::Host;
use crate::metrics::{Count, Metrics};
use crate::worker::AdminInstance;

/// A request whose checks came to a decision.
pub struct Evaluated<'e> {
    /// The decision.
    pub decision: Decision<'e>,
    /// The request.
    pub facts: &'e RequestFacts,
    /// The request's header lines.
    pub lines: Vec<(&'e [u8], &'e [u8])>,
    /// The tables that the request began with; none before the first ones came.
    pub tables: Option<&'e Tables>,
    /// The request's random bits.
    pub random_bits: u32,
}

/// What an evaluation leaves for the request's event and response.
pub struct EvaluationRecord {
    /// The request.
    pub facts: RequestFacts,
    /// The sequence number of the tables that the request began with, 0 without tables.
    pub tables_seq: u64,
    /// How each check is answered, by the flags for this request.
    pub modes: Modes,
    /// Who answered each check.
    pub answered: PerCheck<Answered>,
    /// Checks in shadow that the tables answer differently.
    pub mismatches: Vec<Mismatch>,
    /// `None` if the request is not measured.
    pub timing: Option<Timing>,
}

/// The checks of one request, until they come to a decision.
pub struct Evaluation {
    inputs: Inputs,
    modes: Modes,
    questions: Questions,
    answered: PerCheck<Answered>,
    mismatches: Vec<Mismatch>,
    /// `None` if the request is not measured.
    timing: Option<Timing>,
}

/// What the checks are decided by.
struct Inputs {
    facts: RequestFacts,
    came_by: CameBy,
    /// The tables that the request began with; none before the first ones came. They and their
    /// flags are used up to the decision, also if others come into force while it waits.
    tables: Option<Rc<Tables>>,
    random_bits: u32,
    /// The admin service's answers, from its database at that moment, which may be newer than
    /// the tables.
    answers: PerCheck<Option<Found>>,
}

impl Evaluation {
    /// Begins to evaluate a request by these tables. `random_bits`: random bits. `timing`: `None`
    /// if the request is not measured.
    pub fn new<H: Host>(
        filter: &Filter<H>,
        facts: RequestFacts,
        tables: Option<Rc<Tables>>,
        random_bits: u32,
        timing: Option<Timing>,
    ) -> Self {
        // Without tables the flags are not known either: all off, as at the start of a
        // rollout.
        let modes = tables.as_deref().map_or_else(Modes::default, |tables| {
            flag_modes::of_request(filter, &facts, tables, random_bits)
        });
        let came_by = CameBy::read(filter, &facts, tables.as_deref(), &modes);
        Self {
            inputs: Inputs { facts, came_by, tables, random_bits, answers: PerCheck::default() },
            modes,
            questions: Questions::default(),
            answered: PerCheck::default(),
            mismatches: Vec::new(),
            timing,
        }
    }

    /// Evaluates up to the decision, or until questions to the admin service are open
    /// (`None`): one at a time, or with `enableParallelExecution` all that can still
    /// matter. To find those, each open question is assumed to let the request pass.
    pub fn evaluate<H: Host>(&mut self, filter: &Filter<H>) -> Option<Evaluated<'_>> {
        let Self { inputs, modes, questions, answered, timing, .. } = self;
        let (instance, host) = (&filter.instance, &filter.instance.host);
        let lines = inputs.facts.lines();
        let facts = inputs.facts(&lines);
        let country_source = inputs.facts.country_source();
        let mut findings = Findings::default();
        let mut assuming = false;
        loop {
            let check = match findings.step(&facts, &filter.settings) {
                Step::Ask(check) => check,
                Step::Decided(_) if assuming => return None,
                Step::Decided(decision) => {
                    let Inputs { facts, tables, random_bits, .. } = &*inputs;
                    return Some(Evaluated {
                        decision,
                        facts,
                        lines,
                        tables: tables.as_deref(),
                        random_bits: *random_bits,
                    });
                }
            };
            let is_cached = mode(modes, check) == Mode::Cached;
            if !is_cached && questions.get(check) == QuestionState::NotYet {
                questions.ask(check, &facts, country_source, &filter.direct, instance);
                if questions.get(check) == QuestionState::Failed {
                    instance.metrics.count(Count::question_failed(check));
                }
            }
            let by = match questions.get(check) {
                QuestionState::Open(_) if modes.parallel => {
                    assuming = true;
                    assume_pass(check, &mut findings);
                    continue;
                }
                QuestionState::Open(_) => return None,
                QuestionState::NotYet => Answered::Cache,
                QuestionState::Answered => Answered::Direct,
                QuestionState::Failed if inputs.tables.is_some() => Answered::Fallback,
                QuestionState::Failed => Answered::Nobody,
            };
            if !assuming {
                *answered.get_mut(check) = by;
            }
            let since_ns = timing.as_ref().filter(|_| is_cached).map(|_| host.monotonic_ns());
            inputs.find(check, by, &facts, country_source, &mut findings, instance);
            if let (Some(timing), Some(since_ns)) = (timing.as_mut(), since_ns) {
                *timing.checks.get_mut(check) = host.monotonic_ns().saturating_sub(since_ns);
            }
        }
    }

    /// Takes what came of the call `token`, its status first: a body can only be had inside
    /// its callback. False if that is no open question of this request.
    pub fn take_answer<H: Host>(&mut self, token: u32, status: Option<u16>, filter: &Filter<H>) -> bool {
        let Some((check, open)) = self.questions.of_call(token) else { return false };
        let (instance, host) = (&filter.instance, &filter.instance.host);
        if let Some(timing) = &mut self.timing {
            *timing.checks.get_mut(check) = host.monotonic_ns().saturating_sub(open.call.since_ns);
        }
        let Some(answer) = self.questions.take(check, open, status, &filter.direct, instance) else {
            instance.metrics.count(Count::question_failed(check));
            return true;
        };
        if mode(&self.modes, check) == Mode::Shadow
            && let Some(tables) = &self.inputs.tables
        {
            let lines = self.inputs.facts.lines();
            let facts = self.inputs.facts(&lines);
            let now = || instance.sync.borrow().now();
            let mismatch = shadow::compare(&answer, &facts, self.inputs.facts.country_source(), tables, now);
            instance.metrics.count(Count::compared(check));
            if mismatch.is_some() {
                instance.metrics.count(Count::mismatched(check));
            }
            self.mismatches.extend(mismatch);
        }
        *self.inputs.answers.get_mut(check) = Some(answer.found);
        true
    }

    /// Ends the evaluation, decided or not, and counts how each check was answered.
    pub fn finish<H: Host>(self, metrics: &Metrics<H>) -> EvaluationRecord {
        for check in Check::ALL {
            if let Some(count) = Count::answered(check, *self.answered.get(check)) {
                metrics.count(count);
            }
        }
        let Self { inputs: Inputs { facts, tables, .. }, modes, answered, mismatches, timing, .. } = self;
        let tables_seq = tables.map_or(0, |tables| tables.version.seq);
        EvaluationRecord { facts, tables_seq, modes, answered, mismatches, timing }
    }
}

impl Inputs {
    /// The facts that are decided by, over the lines of the request.
    fn facts<'r>(&'r self, lines: &'r [(&'r [u8], &'r [u8])]) -> Facts<'r> {
        let CameBy { https, port } = self.came_by;
        Facts { https, port, ..self.facts.facts(lines, self.random_bits) }
    }

    /// Writes the answer that `by` gives to a check into the findings.
    fn find<'k, H: Host>(
        &'k self,
        check: Check,
        by: Answered,
        facts: &Facts<'_>,
        country_source: CountrySource,
        findings: &mut Findings<'k>,
        instance: &AdminInstance<H>,
    ) {
        let direct = self.answers.get(check).as_ref().filter(|_| by == Answered::Direct);
        let cache = self.tables.as_deref().filter(|_| matches!(by, Answered::Cache | Answered::Fallback));
        match check {
            Check::Ip => {
                findings.ip = Some(match (direct, cache) {
                    (Some(Found::Ip(found)), _) => Finding::Found(*found),
                    (_, Some(tables)) => {
                        // Entries of both lists may expire: one look at the clock.
                        let read = OnceCell::<UnixSeconds>::new();
                        let now = || *read.get_or_init(|| instance.sync.borrow().now());
                        Finding::Found(IpFinding::look_up(facts, tables, now))
                    }
                    _ => Finding::Unavailable,
                });
            }
            Check::Geo => {
                findings.geo = Some(match (direct, cache) {
                    (Some(Found::Geo(found)), _) => Finding::Found(found.finding()),
                    (_, Some(tables)) => {
                        Finding::Found(GeoFinding::look_up(facts.client, country_source, tables))
                    }
                    _ => Finding::Unavailable,
                });
            }
            Check::Route => {
                findings.route = Some(match (direct, cache) {
                    (Some(Found::Route(found)), _) => Finding::Found(RouteAnswer::found(found)),
                    (_, Some(tables)) => Finding::Found(tables.routes.find(facts)),
                    _ => Finding::Unavailable,
                });
            }
        }
    }
}

fn mode(modes: &Modes, check: Check) -> Mode {
    match check {
        Check::Ip => modes.ip,
        Check::Geo => modes.geo,
        Check::Route => modes.route,
    }
}

/// Writes a finding that denies nothing, in place of one that has not come yet.
fn assume_pass(check: Check, findings: &mut Findings<'_>) {
    match check {
        Check::Ip => findings.ip = Some(Finding::Found(IpFinding::Clear)),
        Check::Geo => {
            findings.geo = Some(Finding::Found(GeoFinding::Verdicts { country: None, verdicts: &[] }));
        }
        // The last check: no question follows, whatever it finds.
        Check::Route => findings.route = Some(Finding::Found(Ok(None))),
    }
}
