//! Runs that another version has written, that are damaged, or that come from a backup.

use serde_json::{Value, json};
use tidegate_policy::flags::{Flag, FlagState, Flags};

use super::world::World;
use crate::run::{
    Cause, Command, Now, Phase, Refusal, Run, command, note_set_by_hand, read_stored, restored,
};

/// A run in a stage with half of the clients, begun while shadow was on.
fn running() -> Run {
    let plan = json!({"webhooks": [{"url": "https://example.com/hook"}], "stages": [
        {"name": "half", "flags": {"enableRouteCache": {"percent": 50}}, "hold": "10s"},
        {"name": "all", "flags": {"enableRouteCache": true, "enableGeoRulesCache": true}, "hold": "1s"}]});
    let mut world = World::new(&plan);
    world.flags = Flags::default().with(Flag::RouteCache, FlagState::Shadow);
    world.start().unwrap();
    world.run().unwrap()
}

fn stored(change: impl Fn(&mut Value)) -> Run {
    let mut state = serde_json::to_value(running()).unwrap();
    change(&mut state);
    read_stored("p", &state.to_string(), true, 9)
}

fn cause(run: &Run) -> Option<Cause> {
    match &run.phase {
        Phase::Paused { reason, .. } => Some(reason.cause),
        _ => None,
    }
}

/// All that an abort sets.
fn aborted(run: &Run) -> Vec<(Flag, FlagState)> {
    let now = Now { ms: 5, flags: Flags::default().with(Flag::RouteCache, FlagState::Share(50)) };
    assert_eq!(command(run, Command::Resume, "ann", None, &now), Err(Refusal::Unreadable));
    let step = command(run, Command::Abort, "ann", None, &now).unwrap();
    assert!(matches!(step.run.phase, Phase::Aborted { .. }) && step.must_store);
    // What is stored then can be read.
    let state = serde_json::to_string(&step.run).unwrap();
    assert_eq!(read_stored("p", &state, false, 10), step.run);
    step.set_flags
}

#[test]
fn a_stored_plan_is_read_though_a_new_one_like_it_would_be_refused() {
    let run = stored(|state| {
        // A percentage that falls.
        state["plan"]["stages"][1]["flags"]["enableRouteCache"] = json!({"percent": 10});
    });
    assert_eq!((run.phase.clone(), run.plan.stages.len()), (Phase::Running, 2));
}

#[test]
fn what_cannot_be_read_is_paused_and_an_abort_sets_the_flags_back() {
    let back = vec![(Flag::RouteCache, FlagState::Shadow), (Flag::GeoRulesCache, FlagState::Off)];
    type Edit = fn(&mut Value);
    let changes: [(&str, Edit); 5] = [
        ("later version", |state| state["version"] = json!(2)),
        ("unknown field", |state| state["plan"]["stages"][1]["canary"] = json!(["a"])),
        ("no stage", |state| state["stage"] = json!("first")),
        ("other phase", |state| state["phase"] = json!({"name": "completed"})),
        ("no history", |state| state["history"] = Value::Null),
    ];
    for (what, change) in changes {
        let run = stored(change);
        assert_eq!((cause(&run), run.number), (Some(Cause::Unreadable), 1), "{what}");
        assert_eq!(run.plan.webhooks.len(), 1, "{what}: they are told");
        assert_eq!(aborted(&run), back, "{what}");
    }
    // One flag of which it is not known what it was stays.
    let run = stored(|state| {
        state["version"] = json!(2);
        state["flags_before"]["enableGeoRulesCache"] = json!("what");
    });
    assert_eq!(aborted(&run), [(Flag::RouteCache, FlagState::Shadow)]);
    // Of nothing at all it is said.
    let run = read_stored("p", "{", true, 9);
    let Phase::Paused { reason, .. } = &run.phase else { panic!("{:?}", run.phase) };
    assert!(reason.says.contains("leaves them as they are"), "{}", reason.says);
    assert_eq!((aborted(&run), run.number), (Vec::new(), 9));
    assert!(!read_stored("p", "{", false, 9).phase.is_active());
}

#[test]
fn a_run_of_a_backup_waits_for_a_person() {
    let run = running();
    let step = restored(&run, 7).unwrap();
    assert_eq!((cause(&step.run), step.set_flags.len()), (Some(Cause::Restored), 0));
    assert_eq!(restored(&step.run, 8), None);
}

#[test]
fn who_has_set_a_flag_last_is_noted_for_it() {
    let noted = |state: &str, by, flags: &[&str]| note_set_by_hand(state, by, flags).unwrap();
    let state = noted(r#"{"a": 1}"#, "eve", &["enableRouteCache", "enableGeoRulesCache"]);
    let state: Value = serde_json::from_str(&noted(&state, "bob", &["enableRouteCache"])).unwrap();
    assert_eq!(
        state,
        json!({"a": 1, "set_by_hand": [
            {"by": "eve", "flags": ["enableGeoRulesCache"]}, {"by": "bob", "flags": ["enableRouteCache"]}]})
    );
    assert_eq!(note_set_by_hand("[]", "eve", &["enableRouteCache"]), None);
}
