mod action;
mod direct;

use std::sync::Arc;
use std::time::Duration;

use tidegate_policy::decide::{Decision, IpFinding, Settings, Tables};
use tidegate_policy::flags::{Flag, FlagState, Flags};
use tidegate_policy::route::Backend;
use tidegate_policy::tables::Table;
use tidegate_policy::version::Version;
use tidegate_policy::wire::check::{Answer, Found, GeoAnswer, Question, RouteAnswer};
use tidegate_policy::wire::event::VerdictCode;
use tidegate_policy::wire::sync::BlobRef;

use super::*;
use crate::config::Config;
use crate::host::HeaderPairs;
use crate::request::upstream::CLUSTER_HEADER;
use crate::sync::fixtures::{empty_set, publish};
use crate::sync::{Keys, Role};
use crate::worker::{FLUSH_EVERY, Worker};
use tidegate_host_sim::{CallView, Done, Request, SimHost};

const ADMIN: &str = r#""admin": {"cluster": "admin", "token": "secret"}"#;
const SEQ: u64 = 7;

/// A filter whose tables have these flags and are empty but for that; without
/// flags it has no tables. `more` goes into the configuration.
fn filter(host: &SimHost, flags: Option<Flags>, more: &str) -> Rc<Filter<SimHost>> {
    let config = Config::parse(format!("{{{ADMIN}{more}}}").as_bytes(), |_| None).unwrap();
    let instance = Worker::new(host.clone()).join(&config, Role::Gate);
    if let Some(flags) = flags {
        let mut set = empty_set(1, SEQ, 0);
        let bytes = flags.to_bytes().unwrap();
        set.blobs[Table::Flags] = BlobRef::of(&bytes);
        set.bytes[Table::Flags] = Some(Arc::new(bytes));
        publish(host, &Keys::new(crate::worker::instance_id(&config.admin)), set);
    }
    instance.sync.borrow_mut().load_now();
    Rc::new(Filter::new(instance, config, FLUSH_EVERY))
}

fn pairs(headers: &[(&str, &[u8])]) -> HeaderPairs {
    headers.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.to_vec())).collect()
}

/// A request at its headers: the stream, and whether it goes on.
fn begin(host: &SimHost, filter: &Rc<Filter<SimHost>>) -> (RequestContext<SimHost>, Action) {
    begin_with(host, filter, &[(":path", b"/"), (":method", b"GET"), (":authority", b"h")])
}

fn begin_with(
    host: &SimHost,
    filter: &Rc<Filter<SimHost>>,
    headers: &[(&str, &[u8])],
) -> (RequestContext<SimHost>, Action) {
    host.begin(Request::of(pairs(headers), "192.0.2.1:80"));
    let mut stream = RequestContext::new(host.clone(), Some(filter.clone()), 2);
    let flow = stream.on_http_request_headers(3, true);
    (stream, flow)
}

/// The admin service's answer to a question.
fn answer(made: &CallView, found: Found) -> Vec<u8> {
    let id = Question::from_bytes(&made.body).unwrap().id;
    Answer { id, version: Version { epoch: 1, seq: SEQ + 1 }, found }.to_bytes().unwrap()
}

/// A call's answer reaches its request.
fn deliver(
    host: &SimHost,
    stream: &mut RequestContext<SimHost>,
    made: &CallView,
    status: u16,
    body: Vec<u8>,
) {
    host.answer(Some(status), body);
    stream.on_http_call_response(made.token, 3, 0, 0);
    tell_of_failure(host, stream);
}

/// A request is told of a call of its that failed, if one did.
fn tell_of_failure(host: &SimHost, stream: &mut RequestContext<SimHost>) {
    stream.filter.clone().unwrap().tell_of_failure(1);
    if let Some((token, status)) = host.notified() {
        stream.on_foreign_function(token, status.into());
    }
}

/// What the admin service finds of a check that lets a request pass.
fn pass(path: &str) -> Found {
    match path.rsplit('/').next().unwrap() {
        "ip" => Found::Ip(IpFinding::Clear),
        "geo" => Found::Geo(GeoAnswer::default()),
        _ => {
            let backend = Backend { name: "shop".to_owned(), namespace: None, port: None, target: None };
            let backend = Some(backend);
            Found::Route(Ok(Some(RouteAnswer {
                route: "r".to_owned(),
                rule: 0,
                template: Some("/{p}".to_owned()),
                backend,
                geo: Vec::new(),
                action: None,
                backend_action: None,
            })))
        }
    }
}

fn event(stream: &RequestContext<SimHost>) -> &TrafficEvent {
    let RequestState::Decided(request) = &stream.request else { panic!("not decided") };
    &request.event
}

#[test]
fn a_request_under_way_holds_no_tables() {
    let host = SimHost::alone();
    let filter = filter(&host, Some(Flags::all_on()), r#", "routing": "envoy""#);
    let tables: Rc<Tables> = filter.instance.sync.borrow().tables().unwrap();
    let before = Rc::strong_count(&tables);
    let (stream, flow) = begin(&host, &filter);
    assert_eq!(flow, Action::Continue);
    assert_eq!(Rc::strong_count(&tables), before);
    assert_eq!(event(&stream).tables_seq, SEQ);
    assert!(host.take_calls().is_empty());
}

#[test]
fn roots_that_only_wait_otherwise_share_tables_and_events() {
    let home = Worker::new(SimHost::alone());
    let instance = |more: &str| {
        let config = Config::parse(format!("{{{ADMIN}{more}}}").as_bytes(), |_| None).unwrap();
        home.join(&config, Role::Gate)
    };
    let first = instance("");
    for same in [r#", "events": {"sync_timeout": "20ms"}"#, r#", "direct": {"budget": "9s"}"#] {
        assert!(Rc::ptr_eq(&first, &instance(same)), "{same}");
    }
    assert!(!Rc::ptr_eq(&first, &instance(r#", "events": {"batch_events": 7}"#)));
}

#[test]
fn what_may_pass_is_described_if_that_is_wanted() {
    let done = |refuses: bool, more: &str| {
        let host = SimHost::alone();
        let filter = filter(&host, Some(Flags::all_on()), &format!(r#", "descriptor_headers": true{more}"#));
        host.refuse_headers(refuses);
        begin(&host, &filter);
        host.take_done()
    };
    let passes = r#", "routing": "envoy""#;
    assert_eq!(done(false, passes), [Done::Set("x-tidegate-client".to_owned(), "192.0.2.1".to_owned())]);
    let refused = [Done::Replied(503, "not_ready".to_owned())];
    assert_eq!(done(true, passes), refused, "no limit would hold");
    assert_eq!(done(false, ""), [Done::Replied(404, "no_route".to_owned())], "what is denied does not count");
}

#[test]
fn a_request_whose_headers_cannot_be_read_does_not_pass() {
    let host = SimHost::alone();
    let filter = filter(&host, Some(Flags::all_on()), r#", "routing": "envoy""#);
    host.begin(Request::default());
    let mut stream = RequestContext::new(host.clone(), Some(filter.clone()), 2);
    assert_eq!(
        stream.on_http_request_headers(3, true),
        Action::Pause,
        "it may carry a header of the filter's own"
    );
    assert_eq!(host.take_done(), [Done::Replied(503, "not_ready".to_owned())]);
    assert_eq!(event(&stream).reason.as_deref(), Some("not_ready"));
    assert_eq!(begin(&host, &filter).1, Action::Continue);
}

#[test]
fn a_host_that_cannot_be_read_is_denied_before_anybody_is_asked() {
    let host = SimHost::alone();
    let filter = filter(&host, Some(Flags::default()), r#", "routing": "envoy""#);
    let of = |hosts: &[(&str, &'static [u8])]| {
        let mut headers: Vec<(&str, &[u8])> = vec![(":path", b"/"), (":method", b"GET")];
        headers.extend(hosts);
        begin_with(&host, &filter, &headers).0
    };
    let denied = [Done::Replied(400, "bad_host".to_owned())];
    let stream = of(&[(":authority", b"closed.example:abc")]);
    assert_eq!((host.take_done().as_slice(), host.take_calls().len()), (&denied[..], 0));
    let event = event(&stream);
    assert_eq!((event.verdict, event.reason.as_deref()), (VerdictCode::Deny, Some("bad_host")));
    assert_eq!(event.host.as_deref(), Some(&b"closed.example:abc"[..]), "as it came");
    for several in [[":authority", ":authority"], [":authority", "host"]] {
        let _ = of(&several.map(|name| (name, &b"h"[..])));
        assert_eq!(host.take_done(), denied, "{several:?}");
    }
    let _ = of(&[]);
    assert_eq!(host.take_done(), denied, "none at all");
    filter.instance.metrics.flush();
    assert_eq!(host.metric_value("tidegate.requests.deny.bad_host"), 4);
    let _ = of(&[("host", b"[::1]:80")]);
    assert_eq!((host.take_done().len(), host.take_calls().len()), (0, 1), "an address is a host");
}

#[test]
fn a_request_that_comes_back_again_and_again_is_denied() {
    let host = SimHost::alone();
    let filter = filter(&host, Some(Flags::all_on()), r#", "routing": "envoy""#);
    let path: (&str, &[u8]) = (":path", b"/");
    let first: [(&str, &[u8]); 4] =
        [path, (":method", b"GET"), (":authority", b"h"), ("cdn-loop", b"tidegate,x")];
    let (_, flow) =
        begin_with(&host, &filter, &[&first[..], &[("cdn-loop", b"tidegate, tidegate")]].concat());
    assert_eq!(flow, Action::Continue);
    let last: [(&str, &[u8]); 2] = [("cdn-loop", b"tidegate, tidegate"), ("cdn-loop", b"tidegate")];
    let (stream, flow) = begin_with(&host, &filter, &[&first[..], &last].concat());
    assert_eq!(flow, Action::Pause);
    assert_eq!(host.take_done(), [Done::Replied(508, "loop_detected".to_owned())]);
    let event = event(&stream);
    assert_eq!((event.verdict, event.reason.as_deref()), (VerdictCode::Deny, Some("loop_detected")));
    filter.instance.metrics.flush();
    assert_eq!(host.metric_value("tidegate.requests.deny.loop_detected"), 1);
}

#[test]
fn a_path_is_asked_about_without_parameters_where_that_is_configured() {
    for (more, path) in
        [("", &b"/x/;/secret;y=1?q"[..]), (r#", "strip_path_parameters": true"#, b"/x/secret?q")]
    {
        let host = SimHost::alone();
        let filter = filter(&host, Some(Flags::all_on().with(Flag::RouteCache, FlagState::Off)), more);
        let headers: [(&str, &[u8]); 3] =
            [(":path", b"/x/;/secret;y=1?q"), (":method", b"GET"), (":authority", b"h")];
        let (stream, _) = begin_with(&host, &filter, &headers);
        let asked = host.take_calls().remove(0);
        assert_eq!(Question::from_bytes(&asked.body).unwrap().path, path);
        assert_eq!(host.take_done(), [], "backends get the path as it came");
        drop(stream);
    }
}

#[test]
fn a_gate_without_configuration_lets_nothing_pass() {
    let host = SimHost::alone();
    host.begin(Request::default());
    let mut stream = RequestContext::new(host.clone(), None, 2);
    assert_eq!(stream.on_http_request_headers(3, true), Action::Pause);
    assert_eq!(host.take_done(), [Done::Replied(503, "not_ready".to_owned())]);
    assert_eq!(stream.on_http_response_headers(3, true), Action::Continue);
    stream.on_log();
}

#[test]
fn a_request_has_one_event_however_often_it_ends() {
    let host = SimHost::alone();
    let filter = filter(&host, Some(Flags::all_on()), r#", "routing": "envoy""#);
    let on_log: fn(&mut RequestContext<SimHost>) = RequestContext::on_log;
    let on_done: fn(&mut RequestContext<SimHost>) = |context| assert!(context.on_done());
    for ends in [vec![on_log, on_done], vec![on_done], vec![on_done, on_log]] {
        let (mut request, _) = begin(&host, &filter);
        ends.iter().for_each(|end| end(&mut request));
    }
    let mut refused_before = RequestContext::new(host.clone(), Some(filter.clone()), 2);
    [on_log, on_done].iter().for_each(|end| end(&mut refused_before));
    filter.instance.metrics.flush();
    let figures = ["tidegate.events.numbered", "tidegate.requests.allow", "tidegate.requests.unseen"];
    assert_eq!(figures.map(|name| host.metric_value(name)), [4, 3, 1]);
}
