//! Requests that end while their questions are open.

use super::*;

#[test]
fn an_answer_after_envoys_own_is_left_alone() {
    for parallel in [false, true] {
        let mut testbed = direct(parallel);
        testbed.feed.ban("9.9.9.9");
        let stream = testbed.begin(0, Request::get("/x", "9.9.9.9"));
        let open = testbed.sim.calls_of(stream).len();
        testbed.sim.answer_early(stream, 408, "request_overall_timeout");
        // The answer that would have denied it, and those that would have let it pass.
        testbed.feed.serve(&mut testbed.sim);
        assert!(testbed.sim.calls_of(stream).is_empty(), "no more questions");
        testbed.check();
        let response = testbed.sim.finish(stream);
        assert_eq!(told(&response), (408, "request_overall_timeout"));
        let events = testbed.events();
        assert_eq!(events[0].status, Some(408));
        assert_eq!(events[0].reason, None, "nothing was decided");
        assert_eq!(testbed.metric("tidegate.direct.late"), open as u64);
        assert_eq!(testbed.metric("tidegate.requests.undecided"), 1);
    }
}

#[test]
fn whatever_overtakes_a_request_at_any_step_its_answers_do_no_harm() {
    // After so many answers Envoy gives the request up, or its client leaves.
    for parallel in [false, true] {
        for recording in [FlagState::Off, FlagState::On] {
            for answers in 0..4 {
                for leaves in [false, true] {
                    let mut testbed = direct(parallel);
                    testbed.feed.set_flag(Flag::AsyncRecording, recording.clone());
                    testbed.run(SECOND);
                    let handles = testbed.sim.handles();
                    let stream = testbed.begin(0, Request::get("/x", "1.1.1.1"));
                    for _ in 0..answers {
                        let Some(call) = testbed.sim.calls_of(stream).first().map(|call| call.id) else {
                            break;
                        };
                        // One answer, by hand: the others stay open.
                        answer_one(&mut testbed, call);
                    }
                    let waits = testbed.sim.waits(stream).unwrap();
                    if leaves {
                        testbed.sim.leave(stream);
                    } else if matches!(waits, Waits::Request | Waits::Upstream) {
                        testbed.sim.answer_early(stream, 504, "response_timeout");
                        testbed.finish(stream);
                    } else {
                        testbed.finish(stream);
                    }
                    testbed.run(5 * SECOND);
                    testbed.check();
                    assert!(testbed.sim.calls().iter().all(|call| call.stream.is_none()));
                    assert_eq!(testbed.sim.handles(), handles, "nothing is left of it");
                    assert_eq!(testbed.events().len(), 1);
                    assert_eq!(testbed.get(0, "1.1.1.1").status, 200, "the VM goes on");
                }
            }
        }
    }
}

#[test]
fn a_client_that_goes_away_while_questions_are_open_leaves_nothing() {
    for parallel in [false, true] {
        let mut testbed = direct(parallel);
        let handles = testbed.sim.handles();
        let streams: Vec<_> = (0..500).map(|_| testbed.begin(0, Request::get("/x", "1.1.1.1"))).collect();
        assert!(testbed.sim.handles() > handles);
        for stream in streams {
            assert_eq!(testbed.sim.leave(stream).status, 0);
        }
        assert_eq!(testbed.sim.handles(), handles, "dropped with the request, not with the answer");
        // Their answers come to nobody.
        testbed.run(2 * SECOND);
        assert!(testbed.sim.calls().iter().all(|call| call.stream.is_none()));
        assert_eq!(testbed.get(0, "1.1.1.1").status, 200);
        let events = testbed.events();
        assert_eq!(events.len(), 501);
        assert!(events[..500].iter().all(|event| event.status.is_none() && event.duration_us.is_some()));
        assert!(events.iter().all(|event| event.client.is_some()));
        assert_eq!(testbed.metric("tidegate.requests.undecided"), 500);
        testbed.check();
    }
}

#[test]
fn a_vm_that_traps_with_questions_open_comes_back() {
    for calls in 0..40 {
        let mut testbed = direct(true);
        let (worker, _) = testbed.gates[0];
        let held: Vec<_> = (0..3).map(|_| testbed.begin(0, Request::get("/x", "1.1.1.1"))).collect();
        testbed.sim.trap_after(worker, calls);
        testbed.feed.serve(&mut testbed.sim);
        testbed.run(3 * SECOND);
        for stream in held {
            let status = testbed.finish(stream).status;
            assert!(matches!(status, 200 | 503), "{status}");
        }
        testbed.sim.spare(worker);
        testbed.get(0, "1.1.1.1");
        testbed.run(15 * SECOND);
        assert_eq!(testbed.get(0, "1.1.1.1").status, 200, "after {calls} host calls");
        testbed.check();
    }
}
