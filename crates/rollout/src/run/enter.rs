//! The beginning of a run, and what people ask of it.

use super::look::gates_now;
use super::step::Change;
use super::{
    Cause, Command, Current, Decision, NoteKind, Now, Phase, RUN_VERSION, Reason, Refusal, Run, Step,
};
use crate::figures::StageFigures;
use crate::gates::GateState;
use crate::plan::Plan;

/// Begins a run of `plan`, `before` being its last one.
///
/// # Errors
/// The last run is still active.
pub fn start(plan: &Plan, before: Option<&Run>, by: &str, now: &Now) -> Result<Step, Refusal> {
    if let Some(before) = before
        && before.phase.is_active()
    {
        return Err(Refusal::Active(before.phase.name()));
    }
    let run = Run {
        version: RUN_VERSION,
        number: before.map_or(1, |before| before.number.saturating_add(1)),
        plan: plan.clone(),
        started_by: by.to_owned(),
        began_ms: now.ms,
        ended_ms: None,
        phase: Phase::Running,
        stage: 0,
        flags_before: now.flags.clone(),
        flags_before_stage: now.flags.clone(),
        expected_flags: now.flags.clone(),
        set_by_hand: Vec::new(),
        current: Current::default(),
        history: Vec::new(),
        notes: Vec::new(),
    };
    let mut change = Change::of(&run, now);
    let stages = plan.stages.len();
    change.note(NoteKind::Started, Some(by), format!("run {} began, of {stages} stages", run.number));
    change.enter_stage(0, None);
    Ok(change.into_step())
}

/// Carries out what `by` asks of a run. `figures`: what its present measurement has so far, for the stage's record;
/// `None`: it has none.
///
/// # Errors
/// It cannot be done in the run's phase, or with what can be read of it; or it is to be approved, and a gate does not hold or somebody has set a flag.
pub fn command(
    run: &Run,
    command: Command,
    by: &str,
    figures: Option<&StageFigures>,
    now: &Now,
) -> Result<Step, Refusal> {
    let is_measuring = matches!(run.phase, Phase::Running | Phase::WaitingForApproval);
    let mut change = Change::of(run, now);
    match command {
        Command::Pause if is_measuring => {
            change.record(Decision::Paused, "asked to", Some(by), figures);
            let reason = Reason { cause: Cause::Asked, says: "asked to".to_owned() };
            change.pause(Some(by), reason);
        }
        Command::Resume if change.is_unreadable() => return Err(Refusal::Unreadable),
        Command::Resume if matches!(run.phase, Phase::Paused { .. }) => change.resume(by),
        Command::Approve if run.phase == Phase::WaitingForApproval => {
            change.run.current.gates = check_approval(run, figures, now)?;
            change.note(NoteKind::Approved, Some(by), "approved".to_owned());
            change.pass(Some(by), figures);
        }
        Command::Abort if run.phase.is_active() => {
            if is_measuring {
                change.record(Decision::Aborted, "aborted", Some(by), figures);
            }
            change.abort(by);
        }
        _ => return Err(Refusal::WrongPhase { command: command.name(), phase: run.phase.name() }),
    }
    Ok(change.into_step())
}

/// Whether what is to be approved holds at this moment: the gates, tested by the figures of now. A refusal changes nothing,
/// so it costs none of the risk of a false alarm.
fn check_approval(run: &Run, figures: Option<&StageFigures>, now: &Now) -> Result<Vec<GateState>, Refusal> {
    if now.flags != run.expected_flags || !run.set_by_hand.is_empty() {
        return Err(Refusal::FlagsDiffer);
    }
    let (Some(stage), Some(figures)) = (run.stage(), figures) else {
        return Err(Refusal::GateDoesNotHold("nothing is measured".to_owned()));
    };
    let gates = gates_now(run, stage, figures);
    if let Some(open) = gates.iter().find_map(GateState::unmet) {
        return Err(Refusal::GateDoesNotHold(open));
    }
    let (has, needs) = (figures.requests(), stage.min_requests);
    if has < needs {
        return Err(Refusal::GateDoesNotHold(format!("{has} of {needs} requests")));
    }
    Ok(gates)
}
