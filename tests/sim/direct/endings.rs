//! Requests that end while their questions are open.

use super::*;

#[test]
fn an_answer_after_envoys_own_is_left_alone() {
    for parallel in [false, true] {
        let mut stage = direct(parallel);
        stage.feed.ban("9.9.9.9");
        let stream = stage.begin(0, Request::get("/x", "9.9.9.9"));
        let open = stage.sim.calls_of(stream).len();
        stage.sim.answer_early(stream, 408, "request_overall_timeout");
        // The answer that would have denied it, and those that would have let it pass.
        stage.feed.serve(&mut stage.sim);
        assert!(stage.sim.calls_of(stream).is_empty(), "no more questions");
        stage.check();
        let response = stage.sim.finish(stream);
        assert_eq!(told(&response), (408, "request_overall_timeout"));
        let events = stage.events();
        assert_eq!(events[0].status, Some(408));
        assert_eq!(events[0].reason, None, "nothing was decided");
        assert_eq!(stage.metric("tidegate.direct.late"), open as u64);
        assert_eq!(stage.metric("tidegate.requests.undecided"), 1);
    }
}

#[test]
fn whatever_overtakes_a_request_at_any_step_its_answers_do_no_harm() {
    // After so many answers Envoy gives the request up, or its client leaves.
    for parallel in [false, true] {
        for recording in [FlagState::Off, FlagState::On] {
            for answers in 0..4 {
                for leaves in [false, true] {
                    let mut stage = direct(parallel);
                    stage.feed.set_flag(Flag::AsyncRecording, recording);
                    stage.run(SECOND);
                    let handles = stage.sim.handles();
                    let stream = stage.begin(0, Request::get("/x", "1.1.1.1"));
                    for _ in 0..answers {
                        let Some(call) = stage.sim.calls_of(stream).first().map(|call| call.id) else {
                            break;
                        };
                        // One answer, by hand: the others stay open.
                        answer_one(&mut stage, call);
                    }
                    let waits = stage.sim.waits(stream).unwrap();
                    if leaves {
                        stage.sim.leave(stream);
                    } else if matches!(waits, Waits::Request | Waits::Upstream) {
                        stage.sim.answer_early(stream, 504, "response_timeout");
                        stage.finish(stream);
                    } else {
                        stage.finish(stream);
                    }
                    stage.run(5 * SECOND);
                    stage.check();
                    assert!(stage.sim.calls().iter().all(|call| call.stream.is_none()));
                    assert_eq!(stage.sim.handles(), handles, "nothing is left of it");
                    assert_eq!(stage.events().len(), 1);
                    assert_eq!(stage.get(0, "1.1.1.1").status, 200, "the VM goes on");
                }
            }
        }
    }
}

#[test]
fn a_client_that_goes_away_while_questions_are_open_leaves_nothing() {
    for parallel in [false, true] {
        let mut stage = direct(parallel);
        let handles = stage.sim.handles();
        let streams: Vec<_> = (0..500).map(|_| stage.begin(0, Request::get("/x", "1.1.1.1"))).collect();
        assert!(stage.sim.handles() > handles);
        for stream in streams {
            assert_eq!(stage.sim.leave(stream).status, 0);
        }
        assert_eq!(stage.sim.handles(), handles, "dropped with the request, not with the answer");
        // Their answers come to nobody.
        stage.run(2 * SECOND);
        assert!(stage.sim.calls().iter().all(|call| call.stream.is_none()));
        assert_eq!(stage.get(0, "1.1.1.1").status, 200);
        let events = stage.events();
        assert_eq!(events.len(), 501);
        assert!(events[..500].iter().all(|event| event.status.is_none() && event.duration_us.is_some()));
        assert!(events.iter().all(|event| event.client.is_some()));
        assert_eq!(stage.metric("tidegate.requests.undecided"), 500);
        stage.check();
    }
}

#[test]
fn a_vm_that_traps_with_questions_open_comes_back() {
    for calls in 0..40 {
        let mut stage = direct(true);
        let (worker, _) = stage.gates[0];
        let held: Vec<_> = (0..3).map(|_| stage.begin(0, Request::get("/x", "1.1.1.1"))).collect();
        stage.sim.trap_after(worker, calls);
        stage.feed.serve(&mut stage.sim);
        stage.run(3 * SECOND);
        for stream in held {
            let status = stage.finish(stream).status;
            assert!(matches!(status, 200 | 503), "{status}");
        }
        stage.sim.spare(worker);
        stage.get(0, "1.1.1.1");
        stage.run(15 * SECOND);
        assert_eq!(stage.get(0, "1.1.1.1").status, 200, "after {calls} host calls");
        stage.check();
    }
}
