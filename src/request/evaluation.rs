//! One request and who answers its checks: the cache, the admin service, or one
//! in the other's place. `Findings::step` says which check comes next and when
//! enough is known; here is how it gets to know.

use std::cell::OnceCell;
use std::rc::Rc;

use tidegate_policy::UnixSeconds;
use tidegate_policy::check::{Answered, Check, PerCheck};
use tidegate_policy::decide::{
    Decision, Facts, Finding, Findings, GeoFinding, Given, IpFinding, Step, Tables,
};
use tidegate_policy::flags::{Mode, Modes};
use tidegate_policy::wire::check::{Found, RouteAnswer};
use tidegate_policy::wire::event::{Mismatch, TrafficEvent};

use super::facts::RequestFacts;
use super::performance::Timing;
use super::shadow;
use crate::direct::{QuestionState, Questions};
use crate::filter::Filter;
use crate::host::Host;
use crate::metrics::Count;
use crate::worker::Instance;

/// What was decided, of which request.
pub struct Decided<'i> {
    /// The decision.
    pub decision: Decision<'i>,
    /// The request.
    pub request: &'i RequestFacts,
    /// Its random bits.
    pub dice: u32,
    /// The tables that it began with; none before the first ones came.
    pub tables: Option<&'i Tables>,
}

/// A request that is being decided.
pub struct Evaluation {
    known: Known,
    modes: Modes,
    questions: Questions,
    answered: PerCheck<Answered>,
    mismatches: Vec<Mismatch>,
    /// Absent where nobody wants to know.
    timing: Option<Timing>,
}

/// What does not change while it is asked about.
struct Known {
    request: RequestFacts,
    /// The tables that it began with; none before the first ones came.
    tables: Option<Rc<Tables>>,
    dice: u32,
    answers: PerCheck<Option<Found>>,
}

impl Evaluation {
    /// About `request`, by these tables. `timing`: where it is to be measured.
    pub fn new(request: RequestFacts, tables: Option<Rc<Tables>>, dice: u32, timing: Option<Timing>) -> Self {
        // Without tables there is no cache, and nobody knows the flags: they are
        // off, as at the start of a rollout.
        let modes =
            tables.as_ref().map_or_else(Modes::default, |tables| tables.flags.modes(request.client()));
        Self {
            known: Known { request, tables, dice, answers: PerCheck::default() },
            modes,
            questions: Questions::default(),
            answered: PerCheck::default(),
            mismatches: Vec::new(),
            timing,
        }
    }

    /// What the flags mean for this request.
    pub fn modes(&self) -> Modes {
        self.modes
    }

    /// Goes as far as what is known goes: to the decision, or to questions that
    /// are then open. In turn that is one question. In parallel it is every one
    /// that can still matter: each open question is taken to let the request
    /// pass, to see what would be asked next.
    pub fn advance<H: Host>(&mut self, filter: &Filter<H>) -> Option<Decided<'_>> {
        let Self { known, modes, questions, answered, timing, .. } = self;
        let (vm, host) = (&filter.vm, &filter.vm.host);
        let lines = known.request.lines();
        let facts = known.request.facts(&lines, known.dice);
        let given = known.request.given();
        let mut findings = Findings::default();
        let mut hoping = false;
        loop {
            let check = match findings.step(&filter.settings) {
                Step::Ask(check) => check,
                Step::Decided(decision) if !hoping => {
                    let tables = known.tables.as_deref();
                    return Some(Decided { decision, request: &known.request, dice: known.dice, tables });
                }
                Step::Decided(_) => return None,
            };
            let is_cached = mode(modes, check) == Mode::Cached;
            if !is_cached && questions.get(check) == QuestionState::NotYet {
                questions.ask(check, &facts, given, &filter.line);
                if questions.get(check) == QuestionState::Failed {
                    vm.metrics.count(Count::question_failed(check));
                }
            }
            let by = match questions.get(check) {
                QuestionState::Pending(_) if modes.parallel => {
                    hoping = true;
                    hope(check, &mut findings);
                    continue;
                }
                QuestionState::Pending(_) => return None,
                QuestionState::NotYet => Answered::Cache,
                QuestionState::Answered => Answered::Direct,
                QuestionState::Failed if known.tables.is_some() => Answered::Fallback,
                QuestionState::Failed => Answered::Nobody,
            };
            if !hoping {
                *answered.get_mut(check) = by;
            }
            let since_ns = timing.as_ref().filter(|_| is_cached).map(|_| host.monotonic_ns());
            known.find(check, by, &facts, given, &mut findings, vm);
            if let (Some(timing), Some(since_ns)) = (timing.as_mut(), since_ns) {
                *timing.checks.get_mut(check) = host.monotonic_ns().saturating_sub(since_ns);
            }
        }
    }

    /// Takes the answer to a call, inside its callback; false when no question
    /// of this request is open under that token.
    pub fn take<H: Host>(&mut self, token: u32, num_headers: usize, filter: &Filter<H>) -> bool {
        let Some((check, open)) = self.questions.of_call(token) else { return false };
        let (vm, host) = (&filter.vm, &filter.vm.host);
        if let Some(timing) = &mut self.timing {
            *timing.checks.get_mut(check) = host.monotonic_ns().saturating_sub(open.since_ns);
        }
        let Some(answer) = self.questions.take(check, open, num_headers, &filter.line) else {
            vm.metrics.count(Count::question_failed(check));
            return true;
        };
        if mode(&self.modes, check) == Mode::Shadow
            && let Some(tables) = &self.known.tables
        {
            let lines = self.known.request.lines();
            let facts = self.known.request.facts(&lines, self.known.dice);
            let now = || vm.sync.borrow().now();
            let mismatch = shadow::compare(&answer, &facts, self.known.request.given(), tables, now);
            vm.metrics.count(Count::compared(check));
            if mismatch.is_some() {
                vm.metrics.count(Count::mismatched(check));
            }
            self.mismatches.extend(mismatch);
        }
        *self.known.answers.get_mut(check) = Some(answer.found);
        true
    }

    /// Ends it, decided or not: what it found goes into the event.
    pub fn finish<H: Host>(self, event: &mut TrafficEvent, vm: &Instance<H>) -> Option<Timing> {
        for check in Check::ALL {
            if let Some(count) = Count::answered(check, *self.answered.get(check)) {
                vm.metrics.count(count);
            }
        }
        event.answered = self.answered;
        event.mismatches = self.mismatches;
        self.known.request.into_event(event);
        self.timing
    }
}

impl Known {
    /// What the answerer found.
    fn find<'k, H: Host>(
        &'k self,
        check: Check,
        by: Answered,
        facts: &Facts<'_>,
        given: Given,
        findings: &mut Findings<'k>,
        vm: &Instance<H>,
    ) {
        // What cannot be is treated as if nobody had answered.
        let direct = self.answers.get(check).as_ref().filter(|_| by == Answered::Direct);
        let cache = self.tables.as_deref().filter(|_| matches!(by, Answered::Cache | Answered::Fallback));
        match check {
            Check::Ip => {
                findings.ip = Some(match (direct, cache) {
                    (Some(Found::Ip(found)), _) => Finding::Found(*found),
                    (_, Some(tables)) => {
                        // Entries of both lists may expire: one look at the clock.
                        let read = OnceCell::<UnixSeconds>::new();
                        let now = || *read.get_or_init(|| vm.sync.borrow().now());
                        Finding::Found(IpFinding::look_up(facts.client, tables, now))
                    }
                    _ => Finding::Unavailable,
                });
            }
            Check::Geo => {
                findings.geo = Some(match (direct, cache) {
                    (Some(Found::Geo(found)), _) => Finding::Found(found.finding()),
                    (_, Some(tables)) => Finding::Found(GeoFinding::look_up(facts.client, given, tables)),
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

/// The finding that denies nothing, in the place of one that is not there yet.
fn hope(check: Check, findings: &mut Findings<'_>) {
    match check {
        Check::Ip => findings.ip = Some(Finding::Found(IpFinding::Clear)),
        Check::Geo => {
            findings.geo = Some(Finding::Found(GeoFinding::Verdicts { country: None, verdicts: &[] }));
        }
        // The last: whatever it found, there is no question after it.
        Check::Route => findings.route = Some(Finding::Found(Ok(None))),
    }
}
