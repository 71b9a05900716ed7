//! What happens next in a rollout, in words.

use super::phase::Phase;
use super::status::RunStatus;
use crate::show::number::grouped;
use crate::show::time;

/// What happens next; `None`: it has never run.
pub fn next(status: Option<&RunStatus>) -> String {
    let Some(status) = status else { return "It waits to be started.".to_owned() };
    match status.phase {
        Phase::Running => of_stage(status),
        Phase::WaitingForApproval => "Its gates hold: somebody must approve.".to_owned(),
        Phase::Paused => "Somebody must resume or abort it.".to_owned(),
        Phase::RolledBack | Phase::Aborted => {
            "It has ended, and the flags are what they were before.".to_owned()
        }
        Phase::Completed => "It has ended: all stages have passed.".to_owned(),
    }
}

fn of_stage(status: &RunStatus) -> String {
    let left_ms = status.hold_ms.saturating_sub(status.held_ms);
    let then = match status.stages.saturating_sub(status.stage_number) {
        0 => "it is done",
        _ => "the next stage begins",
    };
    if left_ms > 0 {
        let left = time::span(left_ms.div_ceil(1_000));
        return format!("In {left} at the earliest {then}, if all gates hold.");
    }
    let missing = status.min_requests.saturating_sub(status.requests);
    if missing > 0 {
        return format!("After {} more requests {then}, if all gates hold.", grouped(missing));
    }
    let unmet = status.gates.iter().filter(|gate| !gate.is_met).count();
    let (gates, hold) = if unmet == 1 { ("gate", "holds") } else { ("gates", "hold") };
    format!("Once {unmet} more {gates} {hold} {then}.")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn status(changes: Value) -> RunStatus {
        let mut all = json!({
            "run": 1, "phase": "running", "stage": "half", "stage_number": 2, "stages": 3, "started_by": "op",
            "began": null, "ended": null, "entered": null, "held_ms": 1_500, "hold_ms": 61_200, "requests": 10,
            "min_requests": 2_000, "gates": [],
        });
        all.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        serde_json::from_value(all).unwrap()
    }

    #[test]
    fn what_is_missing_is_told_in_its_order() {
        assert_eq!(next(None), "It waits to be started.");
        let text = |changes| next(Some(&status(changes)));
        assert_eq!(text(json!({})), "In 1 min at the earliest the next stage begins, if all gates hold.");
        let held = json!({"held_ms": 61_200, "stage_number": 3});
        assert_eq!(text(held), "After 1,990 more requests it is done, if all gates hold.");
        let gate = json!({
            "name": "g", "kind": "success", "verdict": "undecided", "is_met": false, "unit": "share", "measured": null,
            "limit": 0.999, "is_minimum": true, "bounds": null, "control": null, "room": null, "requests": 0, "says": "",
        });
        let all_but_one = json!({"held_ms": 61_200, "requests": 2_000, "gates": [gate]});
        assert_eq!(text(all_but_one), "Once 1 more gate holds the next stage begins.");
        assert!(text(json!({"phase": "waiting_for_approval"})).contains("approve"));
        assert!(text(json!({"phase": "paused"})).contains("resume"));
        assert!(text(json!({"phase": "rolled_back"})).contains("ended"));
    }
}
