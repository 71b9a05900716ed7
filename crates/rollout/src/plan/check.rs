//! Contradictions between the parts of a plan.

use std::collections::BTreeMap;

use tidegate_author::reader::DocumentErrors;
use tidegate_author::{is_within, write_state};
use tidegate_policy::check::Check;
use tidegate_policy::flags::{Flag, FlagState};

use super::{Condition, Gate, MIN_SLICE_MS, Plan, Stage, span};

/// More requests than that are not recorded: a plan that needs them cannot be carried out.
const MAX_REQUESTS_PER_MS: u64 = 100;

/// The share of the clients that the smaller group must have at least, where several flags have shares.
const SMALLEST_GROUP: f64 = 0.1;

/// Notes all contradictions.
pub(super) fn contradictions(plan: &Plan, errors: &mut DocumentErrors) {
    let mut so_far = SoFar::default();
    for (index, stage) in plan.stages.iter().enumerate() {
        let at = format!("/stages/{index}");
        so_far.name(stage, index, &at, errors);
        so_far.flags(stage, &at, errors);
        groups(stage, &at, errors);
        times(stage, &at, errors);
        for (number, gate) in stage.gates.iter().enumerate() {
            let at = format!("{at}/gates/{number}");
            so_far.gate(stage, gate, &at, errors);
        }
        so_far.is_measured |= is_measured(stage);
    }
}

/// What the stages up to one have said.
#[derive(Default)]
struct SoFar<'p> {
    names: BTreeMap<&'p str, usize>,
    flags: BTreeMap<Flag, (&'p FlagState, &'p str)>,
    /// A stage measured requests before this one.
    is_measured: bool,
}

impl<'p> SoFar<'p> {
    fn name(&mut self, stage: &'p Stage, index: usize, at: &str, errors: &mut DocumentErrors) {
        if let Some(first) = self.names.insert(&stage.name, index) {
            let message =
                format!("stage {first} has this name: each must have its own, as it is shown by it");
            errors.note(&format!("{at}/name"), "conflict", message);
        }
    }

    fn flags(&mut self, stage: &'p Stage, at: &str, errors: &mut DocumentErrors) {
        for (flag, state) in &stage.flags {
            let (flag, at) = (*flag, format!("{at}/flags/{}", flag.name()));
            if let Some((before, name)) = self.flags.insert(flag, (state, &stage.name))
                && let Some(message) = goes_back(before, state, name)
            {
                errors.note(&at, "conflict", message);
            }
            if flag == Flag::AsyncRecording && is_on_for_some(state) && !self.is_measured {
                let message = "nothing was recorded that it could be compared with: put a stage before it that leaves it off \
                               and has gates over requests";
                errors.note(&at, "conflict", message);
            }
        }
    }

    fn gate(&self, stage: &Stage, gate: &Gate, at: &str, errors: &mut DocumentErrors) {
        let at_condition = format!("{at}/{}", gate.condition.kind());
        if gate.condition.needs_control() && stage.shared_flags().next().is_none() {
            let message = "there is no control group in this stage: set one of its flags to {\"percent\": 1} to \
                           {\"percent\": 99}, or give an absolute limit";
            errors.note(&at_condition, "conflict", message);
        }
        match &gate.condition {
            Condition::Mismatches { .. } if !self.has(|state| *state == FlagState::Shadow) => {
                let message = "no flag is in shadow in this stage, so nothing is compared: set one to \"shadow\" here or in an \
                               earlier stage";
                errors.note(&at_condition, "conflict", message);
            }
            Condition::HitRatio { check, .. } => {
                let flag = flag_of(*check);
                if !self.flags.get(&flag).is_some_and(|(state, _)| is_on_for_some(state)) {
                    let message = format!(
                        "{} is on for nobody in this stage: set it to a percentage or true here or in an earlier stage",
                        flag.name()
                    );
                    errors.note(&format!("{at_condition}/check"), "conflict", message);
                }
            }
            _ => {}
        }
        window(stage, gate, at, errors);
    }

    fn has(&self, is: impl Fn(&FlagState) -> bool) -> bool {
        self.flags.values().any(|(state, _)| is(state))
    }
}

/// Notes flags of one stage by which there are no two groups that can be compared.
fn groups(stage: &Stage, at: &str, errors: &mut DocumentErrors) {
    let at = |flag: Flag| format!("{at}/flags/{}", flag.name());
    let mut scoped = stage.flags.iter().filter(|(_, state)| state.scope().is_some());
    if let Some((first, state)) = scoped.next() {
        for (flag, _) in scoped.filter(|(_, other)| other.scope() != state.scope()) {
            let message = format!(
                "only requests within all that a stage's flags are limited to count, and {} is limited to others: limit both to \
                 the same, or give each a stage of its own",
                first.name()
            );
            errors.note(&at(*flag), "conflict", message);
        }
    }
    let shares: Vec<(Flag, f64)> = stage
        .flags
        .iter()
        .filter(|(_, state)| (1..=99).contains(&state.percent()))
        .map(|(flag, state)| (*flag, f64::from(state.percent()) / 100.0))
        .collect();
    let both: f64 = shares.iter().map(|(_, share)| share).product();
    let none: f64 = shares.iter().map(|(_, share)| 1.0 - share).product();
    if let Some((flag, _)) = shares.get(1)
        && both.min(none) < SMALLEST_GROUP
    {
        let message = format!(
            "each flag chooses its clients by itself: all of this stage's shares are on for {:.0} % of the clients and none for \
             {:.0} %, and the others are in no group, so that a fault of one flag would not be seen. Give each flag a stage of its \
             own, or half of the clients",
            both * 100.0,
            none * 100.0
        );
        errors.note(&at(*flag), "conflict", message);
    }
}

fn times(stage: &Stage, at: &str, errors: &mut DocumentErrors) {
    if stage.timeout_ms <= stage.hold_ms {
        let message = "must be longer than hold: a stage that has been held would always be too late";
        errors.note(&format!("{at}/timeout"), "conflict", message);
    }
    let Some(gate) = stage.gates.iter().find(|gate| gate.condition.needs_requests()) else { return };
    let kind = gate.condition.kind();
    let least_ms = stage.min_requests.div_ceil(MAX_REQUESTS_PER_MS).max(MIN_SLICE_MS);
    if stage.hold_ms < least_ms {
        let message = format!(
            "a gate of this stage ({kind}) needs requests: must be long enough for {} of them, {} at least (100,000 a second \
             are the most that are counted)",
            stage.min_requests,
            span(least_ms)
        );
        errors.note(&format!("{at}/hold"), "conflict", message);
    }
    slices(stage, at, errors);
    if stage.min_requests == 0 {
        let message = format!("a gate of this stage ({kind}) needs requests: must be 1 at least");
        errors.note(&format!("{at}/min_requests"), "conflict", message);
    }
}

/// A stage that has fewer slices in all than a gate needs can never decide it.
fn slices(stage: &Stage, at: &str, errors: &mut DocumentErrors) {
    let Some(gate) = stage.gates.iter().max_by_key(|gate| gate.condition.needed_slices()) else { return };
    let needed = gate.condition.needed_slices();
    let least_ms = needed.saturating_add(1).saturating_mul(stage.slice_ms());
    if stage.timeout_ms < least_ms {
        let message = format!(
            "a gate of this stage ({}) needs requests in {needed} slices of {}: must be {} at least",
            gate.condition.kind(),
            span(stage.slice_ms()),
            span(least_ms)
        );
        errors.note(&format!("{at}/timeout"), "conflict", message);
    }
}

fn window(stage: &Stage, gate: &Gate, at: &str, errors: &mut DocumentErrors) {
    let Some(window_ms) = gate.window_ms else { return };
    let at = format!("{at}/window");
    let needed = gate.condition.needed_slices();
    let least_ms = needed.saturating_mul(stage.slice_ms());
    if !gate.condition.needs_requests() {
        let message =
            format!("{} is looked at as it is at the moment: leave window out", gate.condition.kind());
        errors.note(&at, "conflict", message);
    } else if window_ms > stage.hold_ms {
        let message = "must not be longer than hold: without a window the whole stage is looked at";
        errors.note(&at, "conflict", message);
    } else if window_ms < least_ms {
        let message = format!(
            "{} needs {} of {}, in which the figures of this stage are kept (2,000 to its timeout): must be {} at least, or the \
             timeout shorter",
            gate.condition.kind(),
            if needed == 1 { "a slice".to_owned() } else { format!("{needed} slices") },
            span(stage.slice_ms()),
            span(least_ms)
        );
        errors.note(&at, "out_of_range", message);
    }
}

/// Why a flag must not go from one state, which stage `name` has set, to another; `None`: it may.
fn goes_back(before: &FlagState, state: &FlagState, name: &str) -> Option<String> {
    let was = write_state(before);
    let has_share = |state: &FlagState| rank(state) >= rank(&FlagState::Share(0));
    if has_share(before) && has_share(state) && !is_within(before.scope(), state.scope()) {
        return Some(format!(
            "stage {name:?} has set it to {was} already, and this does not have all of that: within a plan what a flag is limited \
             to only grows, or it would be off again somewhere without a gate that failed"
        ));
    }
    // Where it is on for more than before, its clients may be chosen anew.
    let grows = has_share(before) && !is_within(state.scope(), before.scope()) && state.percent() > 0;
    (rank(state) < rank(before) && !grows).then(|| {
        format!(
            "stage {name:?} has set it to {was} already: a plan only goes up, from false over \"shadow\" and growing \
             percentages to true, and back when a gate fails"
        )
    })
}

/// The order in which a flag may go: off, shadow, percentages, on.
fn rank(state: &FlagState) -> u8 {
    match state {
        FlagState::Off => 0,
        FlagState::Shadow => 1,
        FlagState::Share(_) | FlagState::Scoped(_) => state.percent().saturating_add(2),
        FlagState::On => u8::MAX,
    }
}

fn is_on_for_some(state: &FlagState) -> bool {
    state.percent() > 0
}

/// Whether a stage records requests while the recording is synchronous, and looks at what they measured.
fn is_measured(stage: &Stage) -> bool {
    stage.gates.iter().any(|gate| gate.condition.needs_requests())
}

fn flag_of(check: Check) -> Flag {
    match check {
        Check::Route => Flag::RouteCache,
        Check::Ip => Flag::IpBlacklistCache,
        Check::Geo => Flag::GeoRulesCache,
    }
}
