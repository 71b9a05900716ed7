//! What is done to a run, put together into one step.

use std::collections::BTreeMap;

use tidegate_author::write_state;
use tidegate_policy::flags::{Flag, FlagState, Flags};

use super::{
    Cause, Current, Decision, GroupSummary, MAX_HISTORY, MAX_NOTES, Note, NoteKind, Notice, NoticeData, Now,
    Percentiles, Phase, Reason, Run, SetByHand, StageRecord, Step,
};
use crate::figures::{GroupFigures, Observed, PerGroup, StageFigures};
use crate::gates::GateState;
use crate::time;
use tidegate_statistics::histogram::Histogram;

/// A run that is being changed.
pub(super) struct Change<'n> {
    pub run: Run,
    pub must_store: bool,
    now: &'n Now,
    enters: bool,
    set_flags: Vec<(Flag, FlagState)>,
    required_flags: Option<Flags>,
    notes: Vec<Note>,
}

impl<'n> Change<'n> {
    /// Nothing, so far.
    pub fn of(run: &Run, now: &'n Now) -> Self {
        Self {
            run: run.clone(),
            must_store: false,
            now,
            enters: false,
            set_flags: Vec::new(),
            required_flags: None,
            notes: Vec::new(),
        }
    }

    pub fn into_step(mut self) -> Step {
        let told: Vec<String> = self.notes.iter().map(in_words).collect();
        let summary = (!told.is_empty()).then(|| told.join("; "));
        let notices = self.notes.iter().map(|note| notice(&self.run, note)).collect();
        self.must_store |= !self.notes.is_empty();
        self.run.notes.append(&mut self.notes);
        keep_last(&mut self.run.notes, MAX_NOTES);
        keep_last(&mut self.run.history, MAX_HISTORY);
        Step {
            run: self.run,
            must_store: self.must_store,
            enters: self.enters,
            set_flags: self.set_flags,
            required_flags: self.required_flags,
            notices,
            summary,
        }
    }

    pub fn note(&mut self, kind: NoteKind, by: Option<&str>, says: String) {
        let stage = self.run.stage().map(|stage| stage.name.clone()).unwrap_or_default();
        self.notes.push(Note { at_ms: self.now.ms, kind, stage, by: by.map(str::to_owned), says });
    }

    /// Writes down what becomes of the stage in its present measurement.
    pub fn record(
        &mut self,
        decision: Decision,
        says: &str,
        by: Option<&str>,
        figures: Option<&StageFigures>,
    ) {
        if let Some(record) = record(&self.run, figures) {
            self.run.history.push(StageRecord {
                left_ms: Some(self.now.ms),
                decision: Some(decision),
                says: says.to_owned(),
                by: by.map(str::to_owned),
                ..record
            });
        }
    }

    /// Begins stage `index`, if there is one.
    pub fn enter_stage(&mut self, index: usize, required: Option<Flags>) {
        let Some(stage) = self.run.plan.stages.get(index) else { return };
        let (set_flags, flags) = (stage.flags.clone(), stage.applied_to(&self.now.flags));
        self.run.stage = index;
        self.run.flags_before_stage = self.now.flags.clone();
        self.run.expected_flags = flags;
        self.set_flags = set_flags;
        self.required_flags = required;
        let before = (index > 0).then_some(self.run.current.measurement);
        self.begin_measurement(before);
        let says = format!("flags set: {}", states(&self.set_flags));
        self.note(NoteKind::StageEntered, None, says);
    }

    /// `before`: the measurement of the stage before.
    fn begin_measurement(&mut self, before: Option<u32>) {
        self.enters = true;
        self.run.phase = Phase::Running;
        self.run.current = Current {
            measurement: self.run.current.measurement.saturating_add(1),
            entered_ms: self.now.ms,
            before,
            ..Current::default()
        };
    }

    pub fn wait_for_approval(&mut self) {
        self.run.phase = Phase::WaitingForApproval;
        self.note(NoteKind::WaitingForApproval, None, "all gates hold; somebody must approve".to_owned());
    }

    /// The stage's gates held: the next one begins, or the run is complete.
    pub fn pass(&mut self, by: Option<&str>, figures: Option<&StageFigures>) {
        for gate in &mut self.run.current.gates {
            gate.settle();
        }
        self.record(Decision::Passed, "all gates held", by, figures);
        let next = self.run.stage.saturating_add(1);
        if next < self.run.plan.stages.len() {
            return self.enter_stage(next, Some(self.run.expected_flags.clone()));
        }
        self.run.phase = Phase::Completed;
        self.run.ended_ms = Some(self.now.ms);
        self.required_flags = Some(self.run.expected_flags.clone());
        self.note(NoteKind::Completed, None, "the gates of all stages held".to_owned());
    }

    pub fn pause(&mut self, by: Option<&str>, reason: Reason) {
        self.note(NoteKind::Paused, by, reason.says.clone());
        self.run.phase = Phase::Paused { by: by.map(str::to_owned), reason };
    }

    /// Goes on with the stage, whose flags are set again, from its beginning.
    pub fn resume(&mut self, by: &str) {
        let stages = self.run.plan.stages.iter().take(self.run.stage.saturating_add(1));
        let flags = stages.fold(self.run.flags_before.clone(), |flags, stage| stage.applied_to(&flags));
        self.restore(&flags, &[]);
        self.run.set_by_hand.clear();
        self.begin_measurement(self.run.current.before);
        let says = format!("held and measured anew, with the flags {}", states(&self.set_flags));
        self.note(NoteKind::Resumed, Some(by), says);
    }

    pub fn roll_back(&mut self, reason: Reason) {
        self.required_flags = Some(self.run.expected_flags.clone());
        self.end(Phase::RolledBack { reason: reason.clone() }, &[]);
        let says = format!("{}; flags set back: {}", reason.says, states(&self.set_flags));
        self.note(NoteKind::RolledBack, None, says);
    }

    pub fn roll_back_stage(&mut self, reason: Reason) {
        self.required_flags = Some(self.run.expected_flags.clone());
        self.restore(&self.run.flags_before_stage.clone(), &[]);
        let says = format!("{}; flags set back: {}", reason.says, states(&self.set_flags));
        self.note(NoteKind::StageRolledBack, None, says);
        self.run.phase = Phase::Paused { by: None, reason };
    }

    /// Ends it. Flags that people have set by hand stay as they are: whoever has switched all off must not find them on.
    pub fn abort(&mut self, by: &str) {
        if !self.is_unreadable() {
            self.note_flags_that_differ(&BTreeMap::new());
        }
        let by_hand = |flag: &Flag| self.run.set_by_hand.iter().any(|set| set.has(*flag));
        let kept: Vec<Flag> = self.run.plan.flags().into_iter().filter(by_hand).collect();
        self.end(Phase::Aborted { by: by.to_owned() }, &kept);
        let mut says = match self.set_flags.is_empty() {
            true => "no flag set back".to_owned(),
            false => format!("flags set back: {}", states(&self.set_flags)),
        };
        if !kept.is_empty() {
            let kept: Vec<_> =
                kept.into_iter().map(|flag| (flag, self.now.flags.get(flag).clone())).collect();
            says.push_str(&format!("; left as they were set by hand: {}", states(&kept)));
        }
        self.note(NoteKind::Aborted, Some(by), says);
    }

    /// Whether too little is known of the run to go on with it.
    pub fn is_unreadable(&self) -> bool {
        matches!(&self.run.phase, Phase::Paused { reason, .. } if reason.cause == Cause::Unreadable)
    }

    fn end(&mut self, phase: Phase, kept: &[Flag]) {
        self.restore(&self.run.flags_before.clone(), kept);
        self.run.phase = phase;
        self.run.ended_ms = Some(self.now.ms);
    }

    /// Sets all flags that the plan sets, but for `kept`, to what they are in `flags`, whatever they seem to be at the moment.
    fn restore(&mut self, flags: &Flags, kept: &[Flag]) {
        let set = self.run.plan.flags().into_iter().filter(|flag| !kept.contains(flag));
        self.set_flags = set.map(|flag| (flag, flags.get(flag).clone())).collect();
        let set = self.set_flags.iter().cloned();
        self.run.expected_flags =
            set.fold(self.now.flags.clone(), |flags, (flag, state)| flags.with(flag, state));
    }

    /// Notes flags that are not as they should be as set by hand, by whom it is known.
    pub fn note_flags_that_differ(&mut self, by: &BTreeMap<Flag, String>) {
        let (is, should) = (&self.now.flags, &self.run.expected_flags);
        for flag in Flag::ALL.into_iter().filter(|flag| is.get(*flag) != should.get(*flag)) {
            if !self.run.set_by_hand.iter().any(|set| set.has(flag)) {
                let (by, flags) = (by.get(&flag).cloned(), vec![flag.name().to_owned()]);
                self.run.set_by_hand.push(SetByHand { by, flags });
            }
        }
    }

    /// Who has set flags by hand, if that is known, and which.
    pub fn set_by_whom(&self) -> (Option<String>, String) {
        let mut by_whom: BTreeMap<Option<&str>, Vec<String>> = BTreeMap::new();
        for flag in Flag::ALL {
            let Some(set) = self.run.set_by_hand.iter().find(|set| set.has(flag)) else { continue };
            let [is, should] =
                [&self.now.flags, &self.run.expected_flags].map(|flags| write_state(flags.get(flag)));
            let name = flag.name();
            let says = if is == should {
                format!("{name} is {is}, as before")
            } else {
                format!("{name} is {is}, not {should}")
            };
            by_whom.entry(set.by.as_deref()).or_default().push(says);
        }
        let people: Vec<&str> = by_whom.keys().copied().flatten().collect();
        let told: Vec<String> = by_whom
            .iter()
            .map(|(by, flags)| format!("by {}: {}", by.unwrap_or("somebody else"), flags.join(", ")))
            .collect();
        ((!people.is_empty()).then(|| people.join(", ")), format!("flags were set {}", told.join("; ")))
    }
}

impl SetByHand {
    /// Whether this flag is among them.
    fn has(&self, flag: Flag) -> bool {
        self.flags.iter().any(|name| name == flag.name())
    }
}

/// A note as the audit has it.
fn in_words(note: &Note) -> String {
    let stage = if note.stage.is_empty() { String::new() } else { format!(" in stage {:?}", note.stage) };
    format!("{}{stage}: {}", note.kind.name().replace('_', " "), note.says)
}

fn keep_last<T>(list: &mut Vec<T>, most: usize) {
    list.drain(..list.len().saturating_sub(most));
}

/// States of flags in words.
fn states(flags: &[(Flag, FlagState)]) -> String {
    let states: Vec<String> =
        flags.iter().map(|(flag, state)| format!("{}={}", flag.name(), write_state(state))).collect();
    states.join(" ")
}

fn notice(run: &Run, note: &Note) -> Notice {
    Notice {
        kind: format!("rollout.{}", note.kind.name()),
        timestamp: time::rfc3339(note.at_ms),
        data: NoticeData {
            rollout: run.plan.name.clone(),
            run: run.number,
            phase: run.phase.name().to_owned(),
            stage: note.stage.clone(),
            by: note.by.clone(),
            says: note.says.clone(),
            flags: run.expected_flags.clone(),
            gates: run.current.gates.iter().filter_map(|gate| gate.result.clone()).collect(),
        },
    }
}

/// The stage of `run` as it stands.
pub(crate) fn record(run: &Run, figures: Option<&StageFigures>) -> Option<StageRecord> {
    let stage = run.stage()?;
    let whole = figures.map(StageFigures::whole).unwrap_or_default();
    Some(StageRecord {
        stage: run.stage,
        name: stage.name.clone(),
        measurement: run.current.measurement,
        flags: stage.flags.iter().map(|(flag, state)| (flag.name().to_owned(), write_state(state))).collect(),
        entered_ms: run.current.entered_ms,
        left_ms: None,
        held_ms: run.current.held_ms,
        hold_ms: stage.hold_ms,
        min_requests: stage.min_requests,
        decision: None,
        says: String::new(),
        by: None,
        groups: PerGroup::from_fn(|group| summary(whole.get(group))),
        observed: figures.map(|figures| writable(&figures.observed)).unwrap_or_default(),
        gates: run.current.gates.iter().filter_map(|gate: &GateState| gate.result.clone()).collect(),
    })
}

/// What JSON can have: a share that is no number is not known.
fn writable(observed: &Observed) -> Observed {
    Observed {
        completeness: observed.completeness.filter(|completeness| completeness.ratio.is_finite()),
        ..observed.clone()
    }
}

/// A group's figures in short.
pub fn summary(figures: &GroupFigures) -> GroupSummary {
    GroupSummary {
        requests: figures.requests,
        succeeded: figures.succeeded,
        server_errors: figures.server_errors,
        denied: figures.denied,
        gate: percentiles(&figures.gate),
        total: percentiles(&figures.total),
        checks: figures.checks,
    }
}

fn percentiles(times: &Histogram) -> Percentiles {
    let at = |share| times.quantile(share);
    Percentiles { p50: at(0.5), p95: at(0.95), p99: at(0.99) }
}
