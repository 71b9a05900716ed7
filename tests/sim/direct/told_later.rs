//! Calls that fail. In the callback of one nothing is done (the emulator takes it for a
//! violation otherwise), and soon after it everything.

use super::*;
use tidegate_host_sim::StreamId;

/// A request whose first question has failed, in the callback of that and no further.
fn failed_at_first(testbed: &mut Testbed, stream: StreamId) {
    let asked = testbed.sim.calls_of(stream);
    assert_eq!(asked.len(), 1);
    assert!(testbed.sim.fail(asked[0].id));
    assert!(testbed.sim.deliver());
    assert!(testbed.sim.calls_of(stream).is_empty(), "not in its callback");
}

fn has_asked_on(testbed: &Testbed, stream: StreamId) -> bool {
    testbed.sim.calls_of(stream).len() == 1
}

#[test]
fn what_follows_a_failure_is_done_at_once_but_in_a_later_callback() {
    let mut testbed = direct(false);
    let streams: Vec<_> = (0..50).map(|_| testbed.begin(0, Request::get("/x", "1.1.1.1"))).collect();
    for stream in &streams {
        failed_at_first(&mut testbed, *stream);
    }
    // Some clients do not wait for it.
    for stream in streams.iter().step_by(3) {
        testbed.sim.leave(*stream);
    }
    testbed.sim.settle();
    for stream in streams.iter().filter(|stream| testbed.sim.waits(**stream).is_some()) {
        assert!(has_asked_on(&testbed, *stream));
    }
    for stream in streams {
        if testbed.sim.waits(stream).is_some() {
            assert_eq!(testbed.finish(stream).status, 200);
        }
    }
    assert_eq!(testbed.events().len(), 50);
    testbed.check();
}

#[test]
fn before_its_first_tick_a_vm_is_told_by_that() {
    let mut testbed = Testbed::cold(module, 1, CONFIG, Feed::new());
    let stream = testbed.begin(0, Request::get("/x", "1.1.1.1"));
    failed_at_first(&mut testbed, stream);
    testbed.sim.settle();
    assert!(!has_asked_on(&testbed, stream), "there is no queue yet");
    testbed.sim.advance(2 * MS);
    assert!(has_asked_on(&testbed, stream));
    testbed.finish(stream);
    testbed.check();
}

#[test]
fn another_root_tells_for_one_that_is_gone() {
    let mut testbed = direct(false);
    let (worker, first) = testbed.gates[0];
    let mut config: serde_json::Value = serde_json::from_str(CONFIG).unwrap();
    config["direct"] = serde_json::json!({"budget": "9s"});
    let (second, accepted) = testbed.sim.root(worker, "tidegate", &config.to_string());
    assert!(accepted);
    testbed.run(SECOND);
    let stream = testbed.sim.begin(worker, second, Request::get("/x", "1.1.1.1"));
    failed_at_first(&mut testbed, stream);
    // The one that is notified of the VM's queue.
    testbed.sim.drop_root(worker, first);
    testbed.sim.settle();
    assert!(!has_asked_on(&testbed, stream));
    testbed.sim.advance(Duration::from_millis(250));
    assert!(has_asked_on(&testbed, stream));
    testbed.gates[0].1 = second;
    assert_eq!(testbed.finish(stream).status, 200);
    testbed.check();
}
