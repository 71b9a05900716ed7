//! What happens to responses: synchronous recording, and what a request cost.

use tidegate_policy::wire::event::OpenEvent;

use super::*;

/// A request that passed at once, with its event to be recorded synchronously.
fn sync_flags() -> Flags {
    Flags::all_on().with(Flag::AsyncRecording, State::Off)
}

const ENVOYS: &str =
    r#", "routing": "envoy", "performance_headers": "on_request", "events": {"sync_timeout": "250ms"}"#;

fn respond(host: &Fake, stream: &mut RequestContext<Fake>, status: &str) -> Action {
    host.0.response.replace(Some(pairs(&[(":status", status.as_bytes())])));
    stream.on_http_response_headers(3, true)
}

fn header(host: &Fake, name: &str) -> Option<String> {
    let response = host.0.response.borrow();
    let found = response.as_ref().unwrap().iter().find(|(other, _)| other == name.as_bytes());
    found.map(|(_, value)| String::from_utf8(value.clone()).unwrap())
}

#[test]
fn a_response_waits_until_its_event_is_stored() {
    let host = Fake::default();
    let filter = filter(&host, Some(sync_flags()), ENVOYS);
    let (mut stream, flow) = begin(&host, &filter);
    assert_eq!(flow, Action::Continue);
    assert_eq!(respond(&host, &mut stream, "201"), Action::Pause);
    let call = host.take_calls().remove(0);
    assert_eq!(
        (call.path.as_str(), call.timeout),
        ("/api/data-plane/v1/events?sync=1", Duration::from_millis(250))
    );
    let open = OpenEvent::from_bytes(&call.body).unwrap();
    assert_eq!((open.source, open.event.number, open.event.status), (filter.vm.source, 1, Some(201)));
    assert_eq!(open.event.verdict, VerdictCode::Allow);
    assert_eq!(host.take_done(), []);
    deliver(&host, &mut stream, &call, 200, Vec::new());
    assert_eq!(host.take_done(), [Done::ResponseResumed]);
    assert_eq!(event(&stream).number, 1, "the event that completes it has its number");
    assert_eq!(header(&host, "x-performance-total"), None, "nobody asked");
    stream.on_log();
    filter.vm.metrics.flush();
    assert_eq!(host.figure("tidegate.recording.sync.stored"), 1);
    assert_eq!(filter.vm.reserve(), 2, "and no second one");
}

#[test]
fn a_response_goes_on_whatever_the_admin_service_says() {
    let host = Fake::default();
    let filter = filter(&host, Some(sync_flags()), ENVOYS);
    for (status, num_headers) in [(504, 3), (500, 3), (200, 0)] {
        let (mut stream, _) = begin(&host, &filter);
        assert_eq!(respond(&host, &mut stream, "200"), Action::Pause);
        let call = host.take_calls().remove(0);
        host.0.status.set(Some(status));
        stream.on_http_call_response(call.token, num_headers, 0, 0);
        assert_eq!(host.take_done(), [Done::ResponseResumed]);
        stream.on_log();
    }
    host.0.refuse_calls.set(Some(crate::host::HostError::Refused));
    let (mut stream, _) = begin(&host, &filter);
    assert_eq!(respond(&host, &mut stream, "200"), Action::Continue);
    stream.on_log();
    filter.vm.metrics.flush();
    assert_eq!(host.figure("tidegate.recording.sync.failed"), 4);
    assert_eq!(filter.vm.reserve(), 5, "each has its event all the same");
}

#[test]
fn a_denial_waits_too_and_what_the_gate_never_saw_does_not() {
    let host = Fake::default();
    let filter = filter(&host, Some(sync_flags()), "");
    let (mut stream, flow) = begin(&host, &filter);
    assert_eq!((flow, host.take_done()), (Action::Pause, vec![Done::Replied(404, "no_route".to_owned())]));
    assert_eq!(respond(&host, &mut stream, "404"), Action::Pause);
    let open = OpenEvent::from_bytes(&host.take_calls()[0].body).unwrap();
    assert_eq!(open.event.reason.as_deref(), Some("no_route"));
    let mut unseen = RequestContext::new(host.clone(), Some(filter.clone()), 2);
    assert_eq!(respond(&host, &mut unseen, "400"), Action::Continue);
    assert!(host.take_calls().is_empty());
}

#[test]
fn an_answer_of_envoys_own_waits_for_nothing_and_late_answers_do_nothing() {
    let host = Fake::default();
    let filter = filter(&host, Some(Flags::default()), "");
    let (mut stream, _) = begin(&host, &filter);
    let ip = host.take_calls().remove(0);
    assert_eq!(respond(&host, &mut stream, "504"), Action::Continue);
    assert!(host.take_calls().is_empty(), "its event comes afterwards");
    deliver(&host, &mut stream, &ip, 200, answer(&ip, pass("ip")));
    assert_eq!(host.take_done(), []);
}

#[test]
fn who_asks_is_told_what_the_request_cost() {
    let host = Fake::default();
    let wanted = pairs(&[(":path", b"/"), (":authority", b"h"), ("x-performance", b"1")]);
    host.0.headers.replace(Some(wanted));
    let flags = sync_flags().with(Flag::GeoRulesCache, State::Off);
    let filter = filter(&host, Some(flags), ENVOYS);
    let (mut stream, _) = begin(&host, &filter);
    let geo = host.take_calls().remove(0);
    host.advance(Duration::from_millis(12));
    deliver(&host, &mut stream, &geo, 200, answer(&geo, pass("geo")));
    host.advance(Duration::from_millis(100));
    assert_eq!(respond(&host, &mut stream, "200"), Action::Pause);
    let recording = host.take_calls().remove(0);
    host.advance(Duration::from_micros(3_500));
    deliver(&host, &mut stream, &recording, 200, Vec::new());
    for (name, value) in [
        ("x-performance-total", "115.500"),
        ("x-performance-geo", "12.000"),
        ("x-performance-ip", "0.000"),
        ("x-performance-recording", "3.500"),
        ("x-performance-cache", "route=unneeded,ip=hit,geo=direct"),
    ] {
        assert_eq!(header(&host, name).as_deref(), Some(value), "{name}");
    }
    assert!(
        header(&host, "server-timing")
            .is_some_and(|line| line.contains("geo;dur=12.000, recording;dur=3.500"))
    );
}
