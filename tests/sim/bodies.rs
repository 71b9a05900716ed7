//! How requests and responses end, and what their events say of that: what went past the gate is told by
//! callbacks, and attributes are asked for only where that is not certain.

use std::time::Duration;

use tidegate::root_context::module;
use tidegate_host_sim::{CONFIG, Request, StreamId, Testbed};
use tidegate_policy::flags::Flags;
use tidegate_policy::wire::event::TrafficEvent;

const SECOND: Duration = Duration::from_secs(1);
/// Attributes that the gate needs of every request: the client's address.
const ALWAYS: u64 = 1;

/// A gate with all flags on that is warm, and bans 9.9.9.9.
fn testbed() -> Testbed {
    let mut testbed = Testbed::with_flags(module, 1, CONFIG, Flags::all_on());
    testbed.feed.ban("9.9.9.9");
    testbed.run(SECOND);
    testbed.get(0, "1.1.1.1");
    testbed.run(SECOND);
    testbed
}

/// The event of a request, and how many attributes the gate asked for.
fn event(request: Request, ends: impl FnOnce(&mut Testbed, StreamId)) -> (TrafficEvent, u64) {
    let mut testbed = testbed();
    let worker = testbed.gates[0].0;
    let before = testbed.sim.properties(worker);
    let stream = testbed.begin(0, request);
    ends(&mut testbed, stream);
    let asked = testbed.sim.properties(worker) - before;
    testbed.check();
    (testbed.events().pop().unwrap(), asked)
}

fn get(client: &str) -> Request {
    Request::get("/x", client)
}

fn finish(testbed: &mut Testbed, stream: StreamId) {
    testbed.sim.finish(stream);
}

#[test]
fn the_end_of_an_ordinary_request_costs_no_attribute() {
    let declared = |length: &str| get("1.1.1.1").header(b"content-length", length.as_bytes()).body(300);
    let head = Request::new("HEAD", "example.org", "/x", Some("1.1.1.1"));
    let answered = |status, headers: &'static [(&str, &str)]| {
        move |testbed: &mut Testbed, stream| {
            testbed.sim.upstream(stream, status, headers);
            testbed.sim.finish(stream);
        }
    };
    type End = Box<dyn FnOnce(&mut Testbed, StreamId)>;
    let cases: [(&str, Request, End, u16, u64, u64); 6] = [
        ("GET", get("1.1.1.1"), Box::new(finish), 200, 0, 1_000),
        ("with a body", declared("300"), Box::new(finish), 200, 300, 1_000),
        ("HEAD", head, Box::new(finish), 200, 0, 0),
        ("204", get("1.1.1.1"), Box::new(answered(204, &[("content-length", "0")])), 204, 0, 0),
        ("304", get("1.1.1.1"), Box::new(answered(304, &[])), 304, 0, 0),
        (
            "trailers",
            get("1.1.1.1"),
            Box::new(|testbed, stream| {
                testbed.sim.upstream(stream, 200, &[]);
                testbed.sim.pass(stream, 600);
                testbed.sim.pass_with_trailers(stream);
                testbed.sim.finish(stream);
            }),
            200,
            0,
            1_000,
        ),
    ];
    for (what, request, ends, status, bytes_in, bytes_out) in cases {
        let (event, asked) = event(request, ends);
        let said = (event.status, event.bytes_in, event.bytes_out);
        assert_eq!(said, (Some(status), Some(bytes_in), Some(bytes_out)), "{what}");
        assert_eq!(asked, ALWAYS, "{what}");
    }
    let (denied, asked) = event(get("9.9.9.9"), finish);
    assert_eq!((denied.status, asked), (Some(403), ALWAYS));
    assert!(denied.bytes_out.unwrap() > 100, "{denied:?}");
}

#[test]
fn what_is_not_certain_is_asked() {
    // A length that is not declared: a filter may have compressed what went past.
    let (chunked, asked) = event(get("1.1.1.1"), |testbed, stream| {
        testbed.sim.upstream(stream, 200, &[("transfer-encoding", "chunked")]);
        testbed.sim.finish(stream);
    });
    assert_eq!((chunked.status, chunked.bytes_out), (Some(200), Some(1_000)));
    assert_eq!(asked, ALWAYS + 2, "status and bytes");
    let (upload, asked) = event(get("1.1.1.1").body(300), finish);
    assert_eq!((upload.bytes_in, asked), (Some(300), ALWAYS + 1));
    // More is declared than came, as of a client that gave up.
    let (less, asked) = event(get("1.1.1.1").header(b"content-length", b"5000").body(300), finish);
    assert_eq!((less.bytes_in, asked), (Some(300), ALWAYS + 1));
    // The client left, or the upstream did.
    let (left, _) = event(get("1.1.1.1"), |testbed, stream| {
        testbed.sim.upstream(stream, 200, &[]);
        testbed.sim.pass(stream, 400);
        testbed.sim.leave(stream);
    });
    assert_eq!((left.status, left.bytes_out, left.upstream_us), (Some(200), Some(400), None));
}

#[test]
fn a_response_that_is_replaced_after_it_went_past_is_recorded_as_it_was_sent() {
    for passed in [0, 400, 1_000] {
        for status in [502, 504] {
            let (replaced, _) = event(get("1.1.1.1"), |testbed, stream| {
                testbed.sim.upstream(stream, 200, &[]);
                if passed > 0 {
                    testbed.sim.pass(stream, passed);
                }
                testbed.sim.turn(stream, status, "response_timeout");
                testbed.sim.finish(stream);
            });
            assert_eq!((replaced.status, replaced.bytes_out), (Some(status), Some(0)), "after {passed}");
        }
    }
}

#[test]
fn the_upstreams_time_is_from_the_gate_to_the_responses_end() {
    let ms = Duration::from_millis;
    let (slow, _) = event(get("1.1.1.1"), |testbed, stream| {
        testbed.run(ms(30));
        testbed.sim.upstream(stream, 200, &[]);
        testbed.run(ms(20));
        testbed.sim.pass(stream, 1_000);
        testbed.run(ms(5));
        testbed.sim.finish(stream);
    });
    assert_eq!((slow.upstream_us, slow.duration_us), (Some(50_000), Some(55_000)));
    assert_eq!(slow.gate_us, Some(0), "what the client took to read is not the gate's");
    let (denied, _) = event(get("9.9.9.9"), finish);
    assert_eq!((denied.upstream_us, denied.gate_us), (None, denied.duration_us), "the gate answered");
    let websocket = |testbed: &mut Testbed, stream| {
        testbed.sim.upstream(stream, 101, &[]);
        testbed.sim.finish(stream);
    };
    let (tunnel, _) = event(get("1.1.1.1"), websocket);
    assert_eq!((tunnel.tunnel, tunnel.upstream_us), (true, None));
}
