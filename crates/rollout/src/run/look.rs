//! What a run does by itself.

use super::step::Change;
use super::{Cause, Decision, Look, MAX_ELAPSED_MS, NoteKind, Now, Phase, Reason, Run, Step};
use crate::figures::StageFigures;
use crate::gates::{self, GateState, Verdict};
use crate::plan::{Gate, OnFailure, Stage, span};

/// Looks at a run. Total: whatever is seen, there is a step, which may be to do nothing.
#[must_use]
pub fn look(run: &Run, look: &Look, now: &Now) -> Step {
    let mut change = Change::of(run, now);
    let is_measuring = matches!(run.phase, Phase::Running | Phase::WaitingForApproval);
    let Some(stage) = run.stage().filter(|_| is_measuring) else { return change.into_step() };
    if now.flags != run.expected_flags || !run.set_by_hand.is_empty() {
        flags_changed(&mut change, look);
        return change.into_step();
    }
    // Until its transaction has told its number, nothing counts for the stage.
    if run.current.entered_seq.is_none() {
        return change.into_step();
    }
    pass_time(&mut change, stage, look);
    let elapsed_ms = look.elapsed_ms.min(MAX_ELAPSED_MS);
    let gates = each_gate(run, stage, |gate, before| gates::look(gate, &look.figures, before, elapsed_ms));
    change.must_store |= has_news(&run.current.gates, &gates);
    change.run.current.gates = gates;
    decide(&mut change, stage, look);
    change.into_step()
}

/// What `look` says of each gate of the stage, given what it said last.
fn each_gate(run: &Run, stage: &Stage, look: impl Fn(&Gate, &GateState) -> GateState) -> Vec<GateState> {
    let before = run.current.gates.iter().cloned().chain(std::iter::repeat(GateState::default()));
    stage.gates.iter().zip(before).map(|(gate, before)| look(gate, &before)).collect()
}

/// All gates of the stage, tested by the figures of this moment: something is decided by them that lasts.
pub(super) fn gates_now(run: &Run, stage: &Stage, figures: &StageFigures) -> Vec<GateState> {
    each_gate(run, stage, |gate, before| gates::look_now(gate, figures, before))
}

/// Somebody else has set a flag.
fn flags_changed(change: &mut Change<'_>, look: &Look) {
    change.note_flags_that_differ(&look.changed_by);
    let (who, says) = change.set_by_whom();
    change.record(Decision::Paused, &says, who.as_deref(), Some(&look.figures));
    change.pause(who.as_deref(), Reason { cause: Cause::FlagsChanged, says });
}

/// Counts the time since the last look.
fn pass_time(change: &mut Change<'_>, stage: &Stage, look: &Look) {
    let elapsed_ms = look.elapsed_ms.min(MAX_ELAPSED_MS);
    let requests = look.figures.requests();
    let current = &mut change.run.current;
    current.quiet_ms =
        if requests > current.requests { 0 } else { current.quiet_ms.saturating_add(elapsed_ms) };
    current.requests = requests;
    let missing = look.figures.observed.missing;
    current.least_missing = Some(current.least_missing.map_or(missing, |least| least.min(missing)));
    let stored_before = current.open_ms / store_every_ms(stage);
    current.open_ms = current.open_ms.saturating_add(elapsed_ms);
    // A stage without traffic is not held: nothing could have failed.
    let is_tested = stage.min_requests == 0 || (requests > 0 && current.quiet_ms <= quiet_limit_ms(stage));
    if is_tested {
        current.held_ms = current.held_ms.saturating_add(elapsed_ms);
    }
    change.must_store |= stored_before != current.open_ms / store_every_ms(stage);
}

/// How long a stage may be without a request and is still held.
fn quiet_limit_ms(stage: &Stage) -> u64 {
    (stage.hold_ms / 10).max(1_000)
}

/// After how much time a run is stored to which nothing happened; a restart forgets so much of a hold.
fn store_every_ms(stage: &Stage) -> u64 {
    (stage.hold_ms / 50).clamp(1_000, 30_000)
}

/// Whether gates were tested again, which must not be forgotten, or say something else.
fn has_news(before: &[GateState], after: &[GateState]) -> bool {
    let verdict = |gate: &GateState| gate.result.as_ref().map(|result| (result.verdict, result.is_met));
    before.len() != after.len()
        || before
            .iter()
            .zip(after)
            .any(|(before, after)| before.tests != after.tests || verdict(before) != verdict(after))
}

/// What failed, in words; `None`: nothing.
fn failed(run: &Run) -> Option<String> {
    let results = run.current.gates.iter().filter_map(|gate| gate.result.as_ref());
    let failed: Vec<String> = results
        .filter(|result| result.verdict == Verdict::Fails)
        .map(|result| format!("{}: {}", result.name, result.says))
        .collect();
    (!failed.is_empty()).then(|| failed.join("; "))
}

/// Goes back, on, or nowhere.
fn decide(change: &mut Change<'_>, stage: &Stage, look: &Look) {
    if let Some(says) = failed(&change.run) {
        return fail(change, stage, says, look);
    }
    if change.run.phase != Phase::Running {
        return;
    }
    let mut open = what_is_open(&change.run, stage);
    if open.is_empty() {
        // What was met at its last test may not be any more.
        change.run.current.gates = gates_now(&change.run, stage, &look.figures);
        change.must_store = true;
        if let Some(says) = failed(&change.run) {
            return fail(change, stage, says, look);
        }
        open = what_is_open(&change.run, stage);
    }
    if open.is_empty() {
        if stage.approve {
            change.wait_for_approval();
        } else {
            change.pass(None, Some(&look.figures));
        }
    } else if change.run.current.open_ms >= stage.timeout_ms {
        let says = format!("not enough after {}: {}", span(stage.timeout_ms), open.join("; "));
        change.record(Decision::Paused, &says, None, Some(&look.figures));
        change.pause(None, Reason { cause: Cause::TimedOut, says });
    }
}

/// What the stage of a run waits for, in words; nothing: it does not go on.
#[must_use]
pub fn waits_for(run: &Run) -> Vec<String> {
    match (&run.phase, run.stage()) {
        (Phase::Running, Some(stage)) => what_is_open(run, stage),
        (Phase::WaitingForApproval, _) => vec!["somebody who approves".to_owned()],
        _ => Vec::new(),
    }
}

/// What a stage still needs, in words; nothing: it has passed.
fn what_is_open(run: &Run, stage: &Stage) -> Vec<String> {
    let current = &run.current;
    let mut open = Vec::new();
    if current.held_ms < stage.hold_ms {
        let mut says = format!("held {} of {}", about(current.held_ms), span(stage.hold_ms));
        if stage.min_requests > 0 && current.quiet_ms > quiet_limit_ms(stage) {
            says.push_str(&format!(", no request for {}", about(current.quiet_ms)));
        }
        open.push(says);
    }
    if current.requests < stage.min_requests {
        open.push(format!("{} of {} requests", current.requests, stage.min_requests));
    }
    open.extend(current.gates.iter().filter_map(GateState::unmet));
    open
}

/// A span, from ten seconds on in whole ones.
fn about(ms: u64) -> String {
    span(if ms < 10_000 { ms } else { ms - ms % 1_000 })
}

/// A gate has failed.
fn fail(change: &mut Change<'_>, stage: &Stage, says: String, look: &Look) {
    change.note(NoteKind::GateFailed, None, says.clone());
    let figures = Some(&look.figures);
    match change.run.plan.on_failure_of(stage) {
        OnFailure::Rollback => {
            change.record(Decision::RolledBack, &says, None, figures);
            change.roll_back(Reason { cause: Cause::GateFailed, says });
        }
        OnFailure::RollbackStage => {
            change.record(Decision::StageRolledBack, &says, None, figures);
            change.roll_back_stage(Reason { cause: Cause::GateFailed, says });
        }
        OnFailure::Pause => {
            change.record(Decision::Paused, &says, None, figures);
            change.pause(None, Reason { cause: Cause::GateFailed, says });
        }
    }
}
