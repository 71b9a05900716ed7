//! A service with a simulated clock, in which the flags, the stored run and the driver's memory are apart.

use std::collections::BTreeMap;

use serde_json::Value;
use tidegate_policy::flags::{Flag, FlagState, Flags};
use tidegate_statistics::histogram::Histogram;

use crate::figures::{Block, CLIENT_BLOCKS, Completeness, Group, GroupFigures, Observed, StageFigures};
use crate::plan::{Plan, Stage};
use crate::report::report;
use crate::run::{
    Command, Decision, Look, Now, Phase, Refusal, Run, Step, command, look, note_set_by_hand, start,
};

/// What requests are like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Traffic {
    Good,
    /// Answered with 500, those of the treated.
    Broken,
    /// The cache answers differently.
    Mismatched,
}

pub struct World {
    pub plan: Plan,
    pub flags: Flags,
    /// What a restart leaves, as it was read from JSON.
    stored: Option<Run>,
    /// Something was stored since all was checked.
    is_new: bool,
    /// What the driver has in memory.
    memory: Option<Run>,
    pub figures: StageFigures,
    pub observed: Observed,
    seq: u64,
    /// The time of day, which may jump,
    pub clock_ms: u64,
    /// and that which does not.
    pub monotonic_ms: u64,
    last_look_ms: Option<u64>,
    /// When the present measurement began, by the clock that does not jump.
    measurement_began_ms: u64,
    pub changed_by: BTreeMap<Flag, String>,
    /// What happened, as `from>to`.
    pub reached: Vec<String>,
}

impl World {
    pub fn new(plan: &Value) -> Self {
        Self {
            plan: Plan::read("p", plan).expect("it is valid"),
            flags: Flags::default(),
            stored: None,
            is_new: false,
            memory: None,
            figures: StageFigures::default(),
            observed: well(),
            seq: 7,
            clock_ms: 1_700_000_000_000,
            monotonic_ms: 0,
            last_look_ms: None,
            measurement_began_ms: 0,
            changed_by: BTreeMap::new(),
            reached: Vec::new(),
        }
    }

    pub fn run(&self) -> Option<Run> {
        self.stored.clone()
    }

    pub fn phase(&self) -> Phase {
        self.run().expect("there is a run").phase
    }

    fn now(&self) -> Now {
        Now { ms: self.clock_ms, flags: self.flags.clone() }
    }

    pub fn start(&mut self) -> Result<(), Refusal> {
        let before = self.run();
        match start(&self.plan, before.as_ref(), "ann", &self.now()) {
            Ok(step) => {
                assert!(self.apply(before.as_ref(), step));
                Ok(())
            }
            Err(refusal) => {
                self.reached.push("start refused".to_owned());
                Err(refusal)
            }
        }
    }

    pub fn command(&mut self, asked: Command) -> Result<(), Refusal> {
        let Some(before) = self.run() else { return Ok(()) };
        match command(&before, asked, "ann", Some(&self.seen()), &self.now()) {
            Ok(step) => {
                assert!(self.apply(Some(&before), step), "nobody was faster");
                Ok(())
            }
            Err(refusal) => {
                let what = match refusal {
                    Refusal::WrongPhase { command, phase } => format!("{command} refused, {phase}"),
                    Refusal::GateDoesNotHold(_) => "approve refused, gate".to_owned(),
                    Refusal::FlagsDiffer => "approve refused, flags".to_owned(),
                    Refusal::MovedOn { .. } | Refusal::Unreadable => panic!("{refusal:?}"),
                    Refusal::Active(_) => "start refused".to_owned(),
                };
                self.reached.push(what);
                Err(refusal)
            }
        }
    }

    fn seen(&self) -> StageFigures {
        StageFigures { observed: self.observed.clone(), ..self.figures.clone() }
    }

    pub fn look(&mut self) {
        self.look_with_flags(self.flags.clone());
    }

    /// As `look`, with flags as they were when the driver read them.
    pub fn look_with_flags(&mut self, flags: Flags) {
        let Some(before) = self.memory.clone().or_else(|| self.run()) else { return };
        let elapsed_ms = self.last_look_ms.map_or(0, |last| self.monotonic_ms - last);
        self.last_look_ms = Some(self.monotonic_ms);
        let seen = Look { elapsed_ms, figures: self.seen(), changed_by: self.changed_by.clone() };
        let step = look(&before, &seen, &Now { ms: self.clock_ms, flags });
        self.apply(Some(&before), step);
    }

    /// The store's transaction. Whether it was carried out.
    fn apply(&mut self, before: Option<&Run>, mut step: Step) -> bool {
        if step.required_flags.as_ref().is_some_and(|required| *required != self.flags) {
            self.memory = None;
            self.reached.push("somebody was faster".to_owned());
            return false;
        }
        self.check_transition(before, &step);
        if step.enters || !step.set_flags.is_empty() {
            self.seq += 1;
        }
        for (flag, state) in &step.set_flags {
            self.flags = std::mem::take(&mut self.flags).with(*flag, state.clone());
        }
        if step.enters {
            step.run.current.entered_seq = Some(self.seq);
            self.figures = StageFigures {
                slice_ms: step.run.stage().map_or(200, Stage::slice_ms),
                ..StageFigures::default()
            };
            self.measurement_began_ms = self.monotonic_ms;
        }
        if step.must_store {
            let json = serde_json::to_string(&step.run).expect("it can be written");
            let read: Run = serde_json::from_str(&json).expect("what was stored is read");
            assert_eq!(read, step.run);
            (self.stored, self.is_new) = (Some(read), true);
        }
        self.memory = Some(step.run);
        true
    }

    fn check_transition(&mut self, before: Option<&Run>, step: &Step) {
        let (from, to) = (before.map_or("none", |run| run.phase.name()), &step.run);
        let changed = before.is_none_or(|run| run.phase != to.phase || run.stage != to.stage);
        let is_new_run = before.is_some_and(|run| run.number != to.number);
        if changed || step.enters || is_new_run {
            assert!(step.must_store, "{from} to {:?} must not be forgotten", to.phase);
            assert!(!step.notices.is_empty() && step.summary.is_some());
            let cause = match &to.phase {
                Phase::Paused { reason, .. } | Phase::RolledBack { reason } => format!(":{:?}", reason.cause),
                _ => String::new(),
            };
            self.reached.push(format!("{from}>{}{cause}", to.phase.name()));
            self.reached.extend(step.run.notes.last().map(|note| format!("note {}", note.kind.name())));
        }
        let records = before.filter(|run| run.number == to.number).map_or(0, |run| run.history.len());
        for record in to.history.iter().skip(records) {
            self.reached.push(format!("record {}", record.decision.expect("it is decided").name()));
        }
        let Some(before) = before.filter(|run| run.number == to.number) else { return };
        if to.stage != before.stage || to.phase == Phase::Completed && before.phase != Phase::Completed {
            self.check_passed(before, to);
        }
        if !before.phase.is_active() {
            assert_eq!(before, to, "the end is the end");
        }
    }

    /// A stage is left by its end only, when it was held and all its gates hold.
    fn check_passed(&self, before: &Run, after: &Run) {
        if after.phase != Phase::Completed {
            assert_eq!(after.stage, before.stage + 1);
        }
        let record = after.history.last().expect("it is recorded");
        assert_eq!((record.stage, record.decision), (before.stage, Some(Decision::Passed)));
        let stage = &before.plan.stages[before.stage];
        let measured_ms = self.monotonic_ms - self.measurement_began_ms;
        assert!(record.held_ms >= stage.hold_ms && record.held_ms <= measured_ms, "{record:?}");
        assert!(self.figures.requests() >= stage.min_requests);
        assert_eq!(record.gates.len(), stage.gates.len());
        assert!(record.gates.iter().all(|gate| gate.verdict.name() == "holds"), "{:?}", record.gates);
    }

    /// What must hold at every moment.
    pub fn check(&mut self) {
        if !std::mem::take(&mut self.is_new) {
            return;
        }
        let Some(run) = self.run() else { return };
        let report = report(&run, Some(&self.seen()));
        let page = report.to_markdown();
        assert!(page.starts_with("# Rollout p, run "), "{page}");
        let json = serde_json::to_string(&report).expect("it can be written");
        assert_eq!(serde_json::from_str::<crate::report::Report>(&json).expect("it is read"), report);
        if run.phase == Phase::Completed {
            for stage in 0..run.plan.stages.len() {
                let has_passed = |record: &crate::run::StageRecord| {
                    record.stage == stage && record.decision == Some(Decision::Passed)
                };
                assert!(run.history.iter().any(has_passed), "stage {stage} did not pass");
            }
        }
    }

    /// The plan's flags are what they were before the run, but for those that people have set since the run did.
    pub fn is_back(&self) -> bool {
        let run = self.run().expect("there is a run");
        let is_kept =
            |flag: &Flag| run.set_by_hand.iter().any(|set| set.flags.iter().any(|name| name == flag.name()));
        let is_back = |flag: &Flag| self.flags.get(*flag) == run.flags_before.get(*flag);
        run.plan.flags().iter().all(|flag| is_kept(flag) || is_back(flag))
    }

    pub fn restart(&mut self) {
        self.memory = None;
        self.last_look_ms = None;
    }

    pub fn pass_time(&mut self, ms: u64) {
        self.monotonic_ms += ms;
        self.clock_ms = self.clock_ms.saturating_add(ms);
    }

    pub fn set_flag(&mut self, who: &str, flag: Flag, state: FlagState) {
        self.flags = std::mem::take(&mut self.flags).with(flag, state);
        self.changed_by.insert(flag, who.to_owned());
        self.seq += 1;
    }

    /// By the service: the run that goes on is told, whether or not the flag was that already.
    pub fn put_flag(&mut self, who: &str, flag: Flag, state: FlagState) {
        self.flags = std::mem::take(&mut self.flags).with(flag, state);
        self.seq += 1;
        let Some(run) = self.run().filter(|run| run.phase.is_active()) else { return };
        let stored = serde_json::to_string(&run).expect("it can be written");
        let stored = note_set_by_hand(&stored, who, &[flag.name()]).expect("it is an object");
        // The revision of what the driver has in memory is not the stored one any more.
        (self.stored, self.memory) = (serde_json::from_str(&stored).ok(), None);
    }

    /// Requests of both groups, if there are two.
    pub fn requests(&mut self, count: u64, traffic: Traffic) {
        let Some(measurement) = self.stored.as_ref().and_then(Run::measurement) else { return };
        let groups = if measurement.shared_flags.is_empty() { &Group::ALL[1..] } else { &Group::ALL };
        let slice = (self.monotonic_ms - self.measurement_began_ms) / self.figures.slice_ms.max(1);
        let slice = u32::try_from(slice).unwrap_or(u32::MAX);
        let clients = Block::Clients(((self.monotonic_ms / 250 % u64::from(CLIENT_BLOCKS)) as u8).into());
        for group in groups {
            let figures = requests(count, traffic, *group);
            self.figures.add(Block::Slice(slice), *group, &figures);
            self.figures.add(clients, *group, &figures);
        }
    }
}

fn requests(count: u64, traffic: Traffic, group: Group) -> GroupFigures {
    let is_broken = traffic == Traffic::Broken && group == Group::Treated;
    let of = |is: bool| if is { count } else { 0 };
    let mut figures = GroupFigures {
        requests: count,
        succeeded: of(!is_broken),
        server_errors: of(is_broken),
        gate: Histogram::of(std::iter::repeat_n(500, count as usize)),
        total: Histogram::of(std::iter::repeat_n(20_000, count as usize)),
        ..GroupFigures::default()
    };
    figures.checks.route.direct = count;
    figures.checks.route.compared = count;
    figures.checks.route.mismatched = of(traffic == Traffic::Mismatched);
    figures
}

/// All is well.
pub fn well() -> Observed {
    Observed {
        completeness: Some(Completeness { ratio: 1.0, exact: true }),
        gateways: 1,
        oldest_tables_ms: Some(20),
        ..Observed::default()
    }
}
