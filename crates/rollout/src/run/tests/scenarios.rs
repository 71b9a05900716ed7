//! One fault each.

use serde_json::json;
use tidegate_policy::flags::{Flag, FlagState, Flags};

use super::world::{Traffic, World};
use crate::figures::{Block, Group, GroupFigures, Observed};
use crate::run::{Cause, Command, Decision, Phase, Refusal};

/// A stage of half of the clients, with these gates.
fn half(gates: serde_json::Value) -> World {
    let plan = json!({"stages": [
        {"name": "half", "flags": {"enableRouteCache": {"percent": 50}}, "hold": "10s", "min_requests": 50, "timeout": "1m",
         "gates": gates},
        {"name": "all", "flags": {"enableRouteCache": true}, "hold": "1s"}]});
    let mut world = World::new(&plan);
    world.start().unwrap();
    world
}

/// So many seconds with requests and four looks in each.
fn seconds(world: &mut World, seconds: u64, traffic: Option<Traffic>) {
    for _ in 0..seconds * 4 {
        world.pass_time(250);
        if let Some(traffic) = traffic {
            world.requests(10, traffic);
        }
        world.look();
    }
}

fn reason(world: &World) -> (Cause, String) {
    match world.phase() {
        Phase::Paused { reason, .. } | Phase::RolledBack { reason } => (reason.cause, reason.says),
        phase => panic!("{phase:?}"),
    }
}

#[test]
fn a_stage_is_held_before_the_next_one_begins_and_then_the_run_is_complete() {
    let mut world = half(json!([{"success": {"at_least": 0.999}}]));
    assert_eq!(world.flags.get(Flag::RouteCache), &FlagState::Share(50));
    seconds(&mut world, 9, Some(Traffic::Good));
    assert_eq!(world.run().unwrap().stage, 0);
    seconds(&mut world, 2, Some(Traffic::Good));
    assert_eq!((world.run().unwrap().stage, world.flags.get(Flag::RouteCache)), (1, &FlagState::On));
    seconds(&mut world, 2, None);
    assert_eq!(world.phase(), Phase::Completed);
    assert_eq!(world.flags, Flags::default().with(Flag::RouteCache, FlagState::On));
    let run = world.run().unwrap();
    let kinds: Vec<_> = run.notes.iter().map(|note| note.kind.name()).collect();
    assert_eq!(kinds, ["started", "stage_entered", "stage_entered", "completed"]);
    let treated = &run.history[0].groups.treated;
    assert_eq!(
        (treated.succeeded, treated.requests),
        (treated.requests, run.history[0].groups.control.requests)
    );
    assert_eq!(treated.total.p95.map(|us| us / 1_000), Some(20));
}

#[test]
fn a_gate_that_fails_takes_everything_back_at_that_look() {
    let mut world = half(json!([{"success": {"at_least": 0.999}}]));
    seconds(&mut world, 3, Some(Traffic::Good));
    seconds(&mut world, 1, Some(Traffic::Broken));
    let (cause, says) = reason(&world);
    assert!(matches!(world.phase(), Phase::RolledBack { .. }));
    assert_eq!(cause, Cause::GateFailed);
    assert!(says.starts_with("success at least 99.9 %: "), "{says}");
    assert_eq!(world.flags, Flags::default());
    assert_eq!(world.run().unwrap().history[0].decision, Some(Decision::RolledBack));
}

#[test]
fn a_clock_that_jumps_ends_no_hold_and_makes_none_longer() {
    let mut world = half(json!([{"success": {"at_least": 0.999}}]));
    for jump in [0, u64::MAX, 86_400_000_000, 5] {
        world.clock_ms = jump;
        seconds(&mut world, 2, Some(Traffic::Good));
        assert_eq!(world.run().unwrap().stage, 0);
    }
    seconds(&mut world, 3, Some(Traffic::Good));
    assert_eq!(world.run().unwrap().stage, 1);
}

#[test]
fn what_a_restart_forgets_makes_the_hold_longer_by_a_second_at_most() {
    let mut world = half(json!([{"success": {"at_least": 0.999}}]));
    for _ in 0..5 {
        seconds(&mut world, 2, Some(Traffic::Good));
        world.restart();
        assert_eq!(world.run().unwrap().stage, 0);
    }
    let held_ms = world.run().unwrap().current.held_ms;
    assert!((4_000..10_000).contains(&held_ms), "{held_ms}");
    seconds(&mut world, 6, Some(Traffic::Good));
    assert_eq!(world.run().unwrap().stage, 1);
}

#[test]
fn a_process_that_stood_still_has_not_held_a_stage() {
    let mut world = half(json!([{"success": {"at_least": 0.999}}]));
    seconds(&mut world, 1, Some(Traffic::Good));
    world.pass_time(3_600_000);
    world.requests(10, Traffic::Good);
    world.look();
    // So long a look counts for no more than ten seconds: here that is the hold.
    assert!(world.run().unwrap().current.open_ms < 12_000);
}

#[test]
fn without_traffic_a_stage_is_not_held_and_pauses_in_the_end() {
    let mut world = half(json!([{"success": {"at_least": 0.999}}]));
    seconds(&mut world, 3, Some(Traffic::Good));
    seconds(&mut world, 56, None);
    assert_eq!(world.phase(), Phase::Running);
    seconds(&mut world, 2, None);
    let (cause, says) = reason(&world);
    assert_eq!(cause, Cause::TimedOut);
    assert!(says.contains("held 3s750ms of 10s, no request for 57s"), "{says}");
    // Half of the clients stay where they are until somebody decides.
    assert_eq!(world.flags.get(Flag::RouteCache), &FlagState::Share(50));
    // It begins anew: what came before does not count.
    world.command(Command::Resume).unwrap();
    assert_eq!((world.figures.requests(), world.run().unwrap().current.held_ms), (0, 0));
    seconds(&mut world, 9, Some(Traffic::Good));
    assert_eq!(world.run().unwrap().stage, 0);
    seconds(&mut world, 2, Some(Traffic::Good));
    assert_eq!(world.run().unwrap().stage, 1);
}

#[test]
fn a_control_group_of_three_clients_decides_nothing() {
    let gates = json!([{"latency": {"of": "total", "percentile": 95, "at_most_times_control": 1.1}}]);
    let mut world = half(gates);
    // A client's own pace: three times that of the others.
    let slow = GroupFigures {
        requests: 100,
        succeeded: 100,
        total: tidegate_statistics::histogram::Histogram::of([60_000; 100]),
        ..GroupFigures::default()
    };
    let fast =
        GroupFigures { total: tidegate_statistics::histogram::Histogram::of([20_000; 100]), ..slow.clone() };
    for slice in 0..290u32 {
        world.pass_time(250);
        let slice = Block::Slice(slice);
        world.figures.add(slice, Group::Control, &fast);
        world.figures.add(
            Block::Clients(((world.monotonic_ms / 250 % 3) as u8).into()),
            Group::Control,
            &fast,
        );
        world.figures.add(slice, Group::Treated, &slow);
        world.figures.add(
            Block::Clients(((world.monotonic_ms / 250 % 64) as u8).into()),
            Group::Treated,
            &slow,
        );
        world.look();
    }
    let (cause, says) = reason(&world);
    assert_eq!(cause, Cause::TimedOut);
    assert!(says.contains("requests of 3 blocks of clients in the smaller group, 8 are needed"), "{says}");
}

#[test]
fn a_person_who_sets_a_flag_pauses_the_run_and_is_named() {
    let mut world = half(json!([]));
    seconds(&mut world, 1, Some(Traffic::Good));
    world.set_flag("eve", Flag::GeoRulesCache, FlagState::On);
    world.look();
    let (cause, says) = reason(&world);
    assert_eq!(cause, Cause::FlagsChanged);
    assert_eq!(says, "flags were set by eve: enableGeoRulesCache is true, not false");
    // Nothing is set back: it was a person's will. What the plan sets is set again when it goes on.
    world.set_flag("eve", Flag::RouteCache, FlagState::Off);
    world.command(Command::Resume).unwrap();
    let wanted = Flags::default()
        .with(Flag::GeoRulesCache, FlagState::On)
        .with(Flag::RouteCache, FlagState::Share(50));
    assert_eq!(world.flags, wanted);
    seconds(&mut world, 1, Some(Traffic::Good));
    assert_eq!(world.phase(), Phase::Running);
    world.command(Command::Abort).unwrap();
    assert_eq!(world.flags, Flags::default().with(Flag::GeoRulesCache, FlagState::On));
}

#[test]
fn who_switches_all_off_while_all_is_off_pauses_the_run_and_an_abort_leaves_it_off() {
    let plan = json!({"stages": [
        {"name": "base", "flags": {"enableRouteCache": false}, "hold": "10s"},
        {"name": "all", "flags": {"enableRouteCache": true}, "hold": "1s"}]});
    let mut world = World::new(&plan);
    world.flags = world.flags.with(Flag::RouteCache, FlagState::On);
    world.start().unwrap();
    seconds(&mut world, 1, None);
    assert_eq!(world.phase(), Phase::Running);
    world.put_flag("eve", Flag::RouteCache, FlagState::Off);
    assert_eq!(
        world.command(Command::Approve),
        Err(Refusal::WrongPhase { command: "approve", phase: "running" })
    );
    world.look();
    assert_eq!(
        reason(&world),
        (Cause::FlagsChanged, "flags were set by eve: enableRouteCache is false, as before".to_owned())
    );
    seconds(&mut world, 60, None);
    assert_eq!(world.flags, Flags::default());
    world.command(Command::Abort).unwrap();
    assert_eq!(
        world.flags,
        Flags::default(),
        "it was on before the run, and somebody has switched it off since"
    );
    let says = &world.run().unwrap().notes.last().unwrap().says.clone();
    assert_eq!(says, "no flag set back; left as they were set by hand: enableRouteCache=false");
}

#[test]
fn what_was_set_by_hand_before_a_resume_goes_back_with_the_rest() {
    let mut world = half(json!([]));
    world.command(Command::Pause).unwrap();
    world.put_flag("eve", Flag::RouteCache, FlagState::On);
    world.command(Command::Resume).unwrap();
    seconds(&mut world, 1, Some(Traffic::Good));
    assert_eq!((world.phase(), world.flags.get(Flag::RouteCache)), (Phase::Running, &FlagState::Share(50)));
    world.command(Command::Abort).unwrap();
    assert_eq!(world.flags, Flags::default());
}

#[test]
fn each_flag_is_said_to_be_of_who_has_set_it() {
    let mut world = half(json!([]));
    world.set_flag("eve", Flag::RouteCache, FlagState::Off);
    world.set_flag("bob", Flag::GeoRulesCache, FlagState::On);
    world.look();
    let Phase::Paused { by, reason } = world.phase() else { panic!("{:?}", world.phase()) };
    assert_eq!(by.as_deref(), Some("bob, eve"));
    assert_eq!(
        reason.says,
        "flags were set by bob: enableGeoRulesCache is true, not false; by eve: enableRouteCache is false, not {\"percent\":50}"
    );
}

#[test]
fn a_run_says_where_it_is_and_what_it_waits_for() {
    let mut world = half(json!([{"success": {"at_least": 0.999}}]));
    seconds(&mut world, 1, Some(Traffic::Good));
    let run = world.run().unwrap();
    for (number, stage, is_there) in
        [(None, None, true), (Some(1), Some(1), true), (Some(2), None, false), (None, Some(2), false)]
    {
        assert_eq!(run.check_place(number, stage).is_ok(), is_there, "{number:?} {stage:?}");
    }
    let waits = crate::run::waits_for(&run).join("; ");
    assert!(waits.contains("held") && waits.contains("of 10s"), "{waits}");
    world.command(Command::Abort).unwrap();
    assert!(crate::run::waits_for(&world.run().unwrap()).is_empty());
}

#[test]
fn of_a_gate_and_a_person_who_come_at_once_the_person_was_faster() {
    let mut world = half(json!([{"success": {"at_least": 0.999}}]));
    seconds(&mut world, 3, Some(Traffic::Good));
    world.requests(100, Traffic::Broken);
    let seen = world.flags.clone();
    world.set_flag("eve", Flag::RouteCache, FlagState::Share(80));
    world.look_with_flags(seen);
    assert_eq!(world.phase(), Phase::Running, "the transaction was refused");
    world.look();
    assert_eq!(reason(&world).0, Cause::FlagsChanged);
    assert_eq!(world.flags.get(Flag::RouteCache), &FlagState::Share(80));
}

#[test]
fn a_stage_that_waits_goes_back_when_a_gate_fails_and_on_when_somebody_approves() {
    let plan = json!({"stages": [
        {"name": "half", "flags": {"enableRouteCache": {"percent": 50}}, "hold": "2s", "approve": true,
         "on_failure": "rollback_stage", "gates": [{"success": {"at_least": 0.99}}]}]});
    let mut world = World::new(&plan);
    world.start().unwrap();
    assert!(matches!(world.command(Command::Approve), Err(Refusal::WrongPhase { .. })));
    seconds(&mut world, 4, Some(Traffic::Good));
    assert_eq!(world.phase(), Phase::WaitingForApproval);
    seconds(&mut world, 4, Some(Traffic::Broken));
    assert_eq!((&world.flags, reason(&world).0), (&Flags::default(), Cause::GateFailed));
    world.command(Command::Resume).unwrap();
    seconds(&mut world, 4, Some(Traffic::Good));
    world.command(Command::Approve).unwrap();
    assert_eq!(world.phase(), Phase::Completed);
    let decisions: Vec<_> = world.run().unwrap().history.iter().map(|record| record.decision).collect();
    assert_eq!(decisions, [Some(Decision::StageRolledBack), Some(Decision::Passed)]);
    assert_eq!(world.run().unwrap().history[1].by.as_deref(), Some("ann"));
}

#[test]
fn a_stage_passes_by_what_is_so_at_that_moment() {
    let gates = json!([{"latency": {"of": "total", "percentile": 95, "at_most": "30ms"}}]);
    let mut world = half(gates);
    seconds(&mut world, 9, Some(Traffic::Good));
    let tested = world.run().unwrap().current.gates[0].clone();
    assert!(tested.result.unwrap().is_met);
    // A tenth of the requests become slow, too few and too late for a test before the end of the hold.
    let slow = GroupFigures {
        requests: 30,
        succeeded: 30,
        total: tidegate_statistics::histogram::Histogram::of([60_000; 30]),
        ..GroupFigures::default()
    };
    world.figures.add(Block::Slice(45), Group::Treated, &slow);
    world.pass_time(1_500);
    world.look();
    assert_eq!(
        (world.phase(), world.run().unwrap().stage),
        (Phase::Running, 0),
        "{:?}",
        world.run().unwrap().current
    );
    assert!(!world.run().unwrap().current.gates[0].result.as_ref().unwrap().is_met);
}

#[test]
fn what_is_approved_holds_at_that_moment() {
    let plan = json!({"stages": [
        {"name": "half", "flags": {"enableRouteCache": {"percent": 50}}, "hold": "2s", "approve": true,
         "gates": [{"success": {"at_least": 0.9}}]}]});
    let mut world = World::new(&plan);
    world.start().unwrap();
    seconds(&mut world, 4, Some(Traffic::Good));
    assert_eq!(world.phase(), Phase::WaitingForApproval);
    let before = world.run();
    world.requests(40, Traffic::Broken);
    let refused = world.command(Command::Approve).unwrap_err();
    assert!(matches!(&refused, Refusal::GateDoesNotHold(says) if says.contains("160 of 200")), "{refused}");
    assert_eq!(world.run(), before, "a refusal changes nothing");
}

#[test]
fn gateways_that_are_lost_fail_their_gate_when_they_stay_lost() {
    let mut world = half(json!([{"health": {"gateways": true}}]));
    world.observed = Observed { gateways: 0, lost: 2, ..Observed::default() };
    seconds(&mut world, 4, Some(Traffic::Good));
    assert_eq!(world.phase(), Phase::Running);
    world.observed = super::well();
    seconds(&mut world, 1, Some(Traffic::Good));
    world.observed = Observed { gateways: 0, lost: 2, ..Observed::default() };
    seconds(&mut world, 6, Some(Traffic::Good));
    let (_, says) = reason(&world);
    assert!(says.contains("no gateway is there, 2 gateways are lost, for 5s"), "{says}");
    assert!(matches!(world.phase(), Phase::RolledBack { .. }));
}

#[test]
fn a_run_that_was_not_told_its_sequence_number_counts_nothing() {
    let mut world = half(json!([{"success": {"at_least": 0.999}}]));
    let mut run = world.run().unwrap();
    run.current.entered_seq = None;
    assert!(run.measurement().is_none());
    let look = crate::run::Look {
        elapsed_ms: 5_000,
        figures: std::mem::take(&mut world.figures),
        changed_by: std::collections::BTreeMap::new(),
    };
    let step = crate::run::look(&run, &look, &crate::run::Now { ms: 0, flags: world.flags });
    assert_eq!((step.run, step.must_store), (run, false));
}

#[test]
fn what_was_missing_before_a_stage_and_came_leaves_no_room_for_what_is_lost_in_it() {
    let mut world = half(json!([{"success": {"at_least": 0.999}}]));
    let mut least_after = |missing: u64| {
        world.observed.missing = missing;
        seconds(&mut world, 2, Some(Traffic::Good));
        // It is stored.
        world.restart();
        world.run().unwrap().current.least_missing
    };
    assert_eq!([9, 4, 12, 5].map(&mut least_after), [Some(9), Some(4), Some(4), Some(4)]);
    seconds(&mut world, 6, Some(Traffic::Good));
    let run = world.run().unwrap();
    assert_eq!((run.stage, run.current.least_missing), (1, Some(5)), "the next stage begins anew");
}
