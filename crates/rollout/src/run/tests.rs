//! The state machine on a simulated clock: what happens in each of the faults that it is for, and what must hold
//! whatever happens.

mod scenarios;
mod stored;
pub(crate) mod world;

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};
use tidegate_policy::flags::{Flag, FlagState};

use super::{Command, Phase};
use world::{Traffic, World, well};

/// Something that happens.
#[derive(Clone, Debug)]
enum Event {
    Start,
    Command(Command),
    /// Requests come, some time passes, and the driver looks; so many times.
    Look(u64, Option<Traffic>, u64),
    /// The driver looks with flags that it has read before a person set one.
    LateLook(Flag, FlagState),
    Restart,
    /// The time of day is another.
    Clock(u64),
    SetFlag(Flag, FlagState),
    /// The same by the service, which tells the run.
    PutFlag(Flag, FlagState),
    /// The figures of the stage are lost.
    LoseFigures,
    LoseGateway,
    DropEvents,
    AllIsWell,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let flag = prop::sample::select(Flag::ALL.to_vec());
    let state = prop::sample::select(vec![FlagState::Off, FlagState::On, FlagState::Share(30)]);
    let traffic = prop_oneof![
        30 => Just(Some(Traffic::Good)),
        3 => Just(None),
        1 => Just(Some(Traffic::Broken)),
        1 => Just(Some(Traffic::Mismatched)),
    ];
    let event = prop_oneof![
        60 => (100u64..800, traffic, 1u64..10).prop_map(|(ms, traffic, times)| Event::Look(ms, traffic, times)),
        6 => Just(Event::Start),
        8 => prop::sample::select(vec![Command::Approve, Command::Resume]).prop_map(Event::Command),
        3 => prop::sample::select(Command::ALL.to_vec()).prop_map(Event::Command),
        4 => Just(Event::Restart),
        3 => prop_oneof![Just(0u64), Just(u64::MAX), any::<u64>()].prop_map(Event::Clock),
        1 => (flag.clone(), state.clone()).prop_map(|(flag, state)| Event::SetFlag(flag, state)),
        1 => (flag.clone(), state.clone()).prop_map(|(flag, state)| Event::PutFlag(flag, state)),
        1 => (flag, state).prop_map(|(flag, state)| Event::LateLook(flag, state)),
        1 => Just(Event::LoseFigures),
        1 => Just(Event::LoseGateway),
        1 => Just(Event::DropEvents),
        3 => Just(Event::AllIsWell),
    ];
    prop::collection::vec(event, 1..120)
}

fn plan(on_failure: [&str; 3]) -> Value {
    json!({"stages": [
        {"name": "shadow", "flags": {"enableRouteCache": "shadow"}, "hold": "1s", "min_requests": 20, "timeout": "8s",
         "on_failure": on_failure[0],
         "gates": [{"mismatches": {"at_most": 0, "compared_at_least": 20}}, {"dropped": {"at_most": 0}}]},
        {"name": "half", "flags": {"enableRouteCache": {"percent": 50}, "enableIpBlacklistCache": true}, "hold": "2s",
         "min_requests": 40, "timeout": "9s", "approve": true, "on_failure": on_failure[1],
         "gates": [{"success": {"at_least": 0.99}}, {"health": {"gateways": true}}]},
        {"name": "all", "flags": {"enableRouteCache": true, "enableAsyncRecording": true}, "hold": "1s", "timeout": "8s",
         "on_failure": on_failure[2], "gates": [{"success": {"at_least": 0.99}}]}]})
}

fn happens(world: &mut World, event: &Event) {
    match event {
        Event::Start => {
            let _ = world.start();
        }
        Event::Command(command) => {
            let done = world.command(*command);
            if done.is_ok() && *command == Command::Abort && world.run().is_some() {
                assert!(world.is_back(), "a flag was left on");
            }
        }
        Event::Look(ms, traffic, times) => {
            for _ in 0..*times {
                world.pass_time(*ms);
                if let Some(traffic) = traffic {
                    world.requests(12, *traffic);
                }
                look(world);
            }
        }
        Event::LateLook(flag, state) => {
            let seen = world.flags.clone();
            world.set_flag("eve", *flag, state.clone());
            world.pass_time(200);
            world.look_with_flags(seen);
        }
        Event::Restart => world.restart(),
        Event::Clock(ms) => world.clock_ms = *ms,
        Event::SetFlag(flag, state) | Event::PutFlag(flag, state) => {
            match event {
                Event::PutFlag(..) => world.put_flag("eve", *flag, state.clone()),
                _ => world.set_flag("eve", *flag, state.clone()),
            }
            let before = world.run();
            look(world);
            let was_driving =
                before.is_some_and(|run| matches!(run.phase, Phase::Running | Phase::WaitingForApproval));
            let run = world.run();
            let is_noticed =
                |run: &super::Run| run.expected_flags != world.flags || matches!(event, Event::PutFlag(..));
            if let Some(run) = run.filter(|run| was_driving && is_noticed(run)) {
                assert!(
                    matches!(&run.phase, Phase::Paused { by: Some(by), .. } if by == "eve"),
                    "{:?}",
                    run.phase
                );
            }
        }
        Event::LoseFigures => world.figures = crate::figures::StageFigures::default(),
        Event::LoseGateway => world.observed.lost = 1,
        Event::DropEvents => world.observed.dropped += 1,
        Event::AllIsWell => world.observed = well(),
    }
}

fn look(world: &mut World) {
    let before = world.run().map(|run| run.phase);
    world.look();
    let after = world.run().map(|run| run.phase);
    if before != after && matches!(after, Some(Phase::RolledBack { .. })) {
        assert!(world.is_back(), "a flag was left on");
    }
}

/// All that can happen to a run.
const ALL: [&str; 55] = [
    "none>running",
    "running>running",
    "running>waiting_for_approval",
    "running>completed",
    "running>paused:Asked",
    "running>paused:GateFailed",
    "running>paused:TimedOut",
    "running>paused:FlagsChanged",
    "running>rolled_back:GateFailed",
    "running>aborted",
    "waiting_for_approval>running",
    "waiting_for_approval>paused:Asked",
    "waiting_for_approval>paused:GateFailed",
    "waiting_for_approval>paused:FlagsChanged",
    "waiting_for_approval>rolled_back:GateFailed",
    "waiting_for_approval>aborted",
    "paused>running",
    "paused>aborted",
    "completed>running",
    "rolled_back>running",
    "aborted>running",
    "somebody was faster",
    "start refused",
    "approve refused, flags",
    "approve refused, gate",
    "approve refused, running",
    "approve refused, paused",
    "approve refused, completed",
    "approve refused, rolled_back",
    "approve refused, aborted",
    "resume refused, running",
    "resume refused, waiting_for_approval",
    "resume refused, completed",
    "resume refused, rolled_back",
    "resume refused, aborted",
    "pause refused, paused",
    "pause refused, completed",
    "pause refused, rolled_back",
    "pause refused, aborted",
    "abort refused, completed",
    "abort refused, rolled_back",
    "abort refused, aborted",
    "record passed",
    "record paused",
    "record rolled_back",
    "record stage_rolled_back",
    "record aborted",
    "note stage_entered",
    "note waiting_for_approval",
    "note paused",
    "note resumed",
    "note stage_rolled_back",
    "note rolled_back",
    "note aborted",
    "note completed",
];

#[test]
fn whatever_happens_no_flag_is_left_on_no_hold_is_shortened_and_there_is_a_report() {
    let actions = prop::sample::select(vec!["rollback", "rollback_stage", "pause"]);
    let reached = std::cell::RefCell::new(BTreeSet::new());
    let mut runner = TestRunner::new_with_rng(
        Config { cases: 500, failure_persistence: None, ..Config::default() },
        proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
    );
    let tried =
        runner.run(&(events(), [actions.clone(), actions.clone(), actions]), |(events, on_failure)| {
            let mut world = World::new(&plan(on_failure));
            world.start().expect("nothing runs yet");
            for event in &events {
                happens(&mut world, event);
                world.check();
            }
            reached.borrow_mut().append(&mut world.reached.drain(..).collect());
            Ok(())
        });
    tried.unwrap_or_else(|failure| panic!("{failure}"));
    let reached = reached.into_inner();
    let missing: Vec<_> = ALL.into_iter().filter(|what| !reached.contains(*what)).collect();
    assert!(missing.is_empty(), "not reached: {missing:?}");
    let new: Vec<_> = reached.iter().filter(|what| !ALL.contains(&what.as_str())).collect();
    assert!(new.is_empty(), "not known: {new:?}");
}
