//! What Envoy is made to do with a request that a route matched.

use std::sync::Arc;

use tidegate_policy::route::action::{
    Action, Cors, HeaderEdits, Mirror, PathEdit, Redirect, Retry, Rewrite, Timeouts,
};
use tidegate_policy::route::{Target, TargetTls, TooLong};

use super::*;

fn backend(name: &str, target: Option<Target>) -> Backend {
    Backend { name: name.to_owned(), namespace: None, port: None, target }
}

fn found(backend: Option<Backend>, action: Action) -> Found {
    let action = Some(Arc::new(action));
    let (route, rule, geo) = ("r".to_owned(), 0, Vec::new());
    Found::Route(Ok(Some(RouteAnswer {
        route,
        rule,
        template: None,
        backend,
        geo,
        action,
        backend_action: None,
    })))
}

/// A request with this route in the admin service's answer, to `h` unless it says another host.
fn routed(host: &SimHost, headers: &[(&str, &[u8])], found: Found) -> RequestContext<SimHost> {
    let has_host = headers.iter().any(|(name, _)| *name == ":authority");
    let own: &[(&str, &[u8])] = if has_host { &[] } else { &[(":authority", b"h")] };
    let headers = &[headers, own].concat();
    let filter = filter(host, Some(Flags::all_on().with(Flag::RouteCache, FlagState::Off)), "");
    let (mut stream, _) = begin_with(host, &filter, headers);
    let route = host.take_calls().remove(0);
    deliver(host, &mut stream, &route, 200, answer(&route, found));
    stream
}

const GET: [(&str, &[u8]); 4] =
    [(":method", b"GET"), (":scheme", b"http"), (":authority", b"a.example:80"), (":path", b"/a/b?c")];

fn set(name: &str, value: &str) -> Done {
    Done::Set(name.to_owned(), value.to_owned())
}

/// The pass that is added.
fn passed() -> Done {
    Done::Added("cdn-loop".to_owned(), "tidegate".to_owned())
}

fn lines(lines: &[(&str, &str)]) -> Vec<(String, String)> {
    lines.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[test]
fn everything_that_a_route_says_of_a_request_is_told() {
    let host = SimHost::alone();
    let action = Action {
        request: HeaderEdits {
            remove: vec!["x-gone".to_owned()],
            set: lines(&[("x-set", "1")]),
            add: lines(&[("x-add", "2")]),
        },
        rewrite: Some(Rewrite {
            hostname: Some("b.example".to_owned()),
            path: Some(PathEdit::Prefix { matched: "/a".to_owned(), with: "/x".to_owned() }),
        }),
        timeouts: Timeouts { request_ms: 500, backend_ms: 100 },
        retry: Some(Retry { attempts: 2, codes: vec![500, 503] }),
        mirrors: vec![
            Mirror { backend: backend("all", None), numerator: 1, denominator: 1 },
            Mirror { backend: backend("none", None), numerator: 0, denominator: 100 },
            Mirror { backend: backend("both", None), numerator: 100, denominator: 100 },
        ],
        ..Action::default()
    };
    let stream = routed(&host, &GET, found(Some(backend("shop", None)), action));
    assert_eq!(
        host.take_done(),
        [
            set(CLUSTER_HEADER, "shop"),
            Done::Removed("x-gone".to_owned()),
            set("x-set", "1"),
            Done::Added("x-add".to_owned(), "2".to_owned()),
            set(":authority", "b.example"),
            set(":path", "/x/b?c"),
            set("x-envoy-upstream-rq-timeout-ms", "500"),
            set("x-envoy-upstream-rq-per-try-timeout-ms", "100"),
            set("x-envoy-retry-on", "connect-failure,refused-stream,reset,retriable-status-codes"),
            set("x-envoy-max-retries", "2"),
            set("x-envoy-retriable-status-codes", "500,503"),
            passed(),
            set("x-tidegate-mirror-1", "all"),
            set("x-tidegate-mirror-2", "both"),
            Done::Resumed,
        ]
    );
    assert_eq!(event(&stream).path.as_deref(), Some(&b"/a/b"[..]), "recorded as the client asked");
}

/// A gate behind this one that answers 508 has seen a circle: to try again would multiply it with each pass.
#[test]
fn a_circle_is_not_tried_again() {
    for (passed, codes) in [(&b"cdn.example"[..], "503,508"), (b"tidegate", "503")] {
        let host = SimHost::alone();
        let retry = Retry { attempts: 2, codes: vec![503, 508] };
        let action = Action { retry: Some(retry), ..Action::default() };
        let headers = [&GET[..], &[("cdn-loop", passed)]].concat();
        routed(&host, &headers, found(Some(backend("shop", None)), action));
        assert!(host.take_done().contains(&set("x-envoy-retriable-status-codes", codes)));
    }
}

#[test]
fn a_backend_of_the_api_is_aimed_at_before_its_cluster_is_named() {
    let tls = |trust: Option<&str>| {
        Some(TargetTls { sni: "b.example".to_owned(), trust: trust.map(str::to_owned) })
    };
    let state = |name: &str, value: &str| Done::State(name.to_owned(), value.to_owned());
    let sent = |host: &SimHost, target| {
        routed(host, &GET, found(Some(backend("shop", Some(target))), Action::default()));
        host.take_done()
    };
    let host = SimHost::alone();
    let plain = Target { host: "::1".to_owned(), port: 8080, h2c: false, tls: None };
    assert_eq!(
        sent(&host, plain.clone()),
        [
            state("envoy.upstream.dynamic_host", "[::1]"),
            state("envoy.upstream.dynamic_port", "8080"),
            set(CLUSTER_HEADER, "tidegate-dynamic"),
            passed(),
            Done::Resumed,
        ]
    );
    let host = SimHost::alone();
    let secure = Target { host: "10.0.0.1".to_owned(), port: 443, h2c: false, tls: tls(Some("lab")) };
    assert_eq!(
        sent(&host, secure)[2..5],
        [
            state("envoy.network.upstream_server_name", "b.example"),
            state("envoy.network.upstream_subject_alt_names", "b.example"),
            set(CLUSTER_HEADER, "tidegate-dynamic-tls-lab"),
        ]
    );
    let host = SimHost::alone();
    let h2c = Target { h2c: true, ..plain.clone() };
    assert_eq!(sent(&host, h2c)[2..3], [set(CLUSTER_HEADER, "tidegate-dynamic-h2c")]);
    let host = SimHost::alone();
    host.refuse_headers(true);
    assert_eq!(sent(&host, plain), [Done::Replied(503, "not_ready".to_owned())], "never where `Host` says");
}

#[test]
fn a_cluster_between_gate_and_envoy_is_no_backend() {
    let host = SimHost::alone();
    let dynamic = || backend("tidegate-dynamic", None);
    routed(&host, &GET, found(Some(dynamic()), Action::default()));
    assert_eq!(host.take_done(), [Done::Replied(500, "no_backend".to_owned())]);
    let host = SimHost::alone();
    let mirrors = vec![Mirror { backend: dynamic(), numerator: 1, denominator: 1 }];
    routed(&host, &GET, found(Some(backend("shop", None)), Action { mirrors, ..Action::default() }));
    assert_eq!(host.take_done(), [set(CLUSTER_HEADER, "shop"), passed(), Done::Resumed]);
}

#[test]
fn a_mirror_of_the_api_is_named_after_where_it_is() {
    let host = SimHost::alone();
    let tls = Some(TargetTls { sni: "m.example".to_owned(), trust: None });
    let target = Target { host: "m.example".to_owned(), port: 443, h2c: false, tls };
    let mirrors = vec![Mirror { backend: backend("m", Some(target)), numerator: 1, denominator: 1 }];
    routed(&host, &GET, found(Some(backend("shop", None)), Action { mirrors, ..Action::default() }));
    assert_eq!(
        host.take_done()[2..6],
        [
            set("x-tidegate-mirror-1-host", "m.example"),
            set("x-tidegate-mirror-1-port", "443"),
            set("x-tidegate-mirror-1-sni", "m.example"),
            set("x-tidegate-mirror-1", "tidegate-dynamic-tls"),
        ]
    );
}

#[test]
fn a_redirect_is_the_answer_and_its_headers_are_edited() {
    let host = SimHost::alone();
    let redirect = Redirect { https: Some(true), hostname: None, path: None, port: None, status: 301 };
    let response = HeaderEdits { set: lines(&[("x-by", "filter")]), ..HeaderEdits::default() };
    let action = Action { redirect: Some(redirect), response, ..Action::default() };
    let mut stream = routed(&host, &GET, found(None, action));
    assert_eq!(host.take_done(), [Done::Replied(301, "redirect".to_owned())]);
    assert_eq!(host.reply_headers(), pairs(&[("location", b"https://a.example/a/b?c")]));
    let of = event(&stream);
    assert_eq!((of.verdict, of.reason.as_deref()), (VerdictCode::Redirect, Some("redirect")));
    host.respond(pairs(&[(":status", b"301")]));
    assert_eq!(stream.on_http_response_headers(3, true), proxy_wasm::types::Action::Continue);
    assert_eq!(host.response()[1], (b"x-by".to_vec(), b"filter".to_vec()));
}

fn cors() -> Action {
    let origins = vec!["https://a.example".to_owned()];
    Action { cors: Some(Cors { origins, max_age: 5, ..Cors::default() }), ..Action::default() }
}

#[test]
fn a_preflight_request_is_answered_for_its_backend() {
    let asks = |origin: &'static [u8]| {
        [
            (":method", &b"OPTIONS"[..]),
            (":path", b"/"),
            ("origin", origin),
            ("access-control-request-method", b"PUT"),
        ]
    };
    let host = SimHost::alone();
    let stream = routed(&host, &asks(b"https://a.example"), found(Some(backend("shop", None)), cors()));
    assert_eq!(host.take_done(), [Done::Replied(204, "cors_preflight".to_owned())]);
    assert_eq!(
        host.reply_headers(),
        pairs(&[
            ("vary", b"origin"),
            ("access-control-allow-origin", b"https://a.example"),
            ("access-control-max-age", b"5"),
        ])
    );
    let of = event(&stream);
    assert_eq!((of.verdict, of.reason.as_deref()), (VerdictCode::Allow, Some("cors_preflight")));
    let host = SimHost::alone();
    routed(&host, &asks(b"https://a.example"), found(None, cors()));
    assert_eq!(host.take_done(), [Done::Replied(204, "cors_preflight".to_owned())], "without a backend, too");
    let host = SimHost::alone();
    routed(&host, &asks(b"https://b.example"), found(Some(backend("shop", None)), cors()));
    assert_eq!(host.take_done(), [Done::Replied(204, "cors_preflight".to_owned())]);
    assert_eq!(
        host.reply_headers(),
        pairs(&[("vary", b"origin")]),
        "a stranger is answered, and told nothing"
    );
}

#[test]
fn a_preflight_request_is_answered_and_not_redirected() {
    let asks = [
        (":method", &b"OPTIONS"[..]),
        (":path", b"/"),
        ("origin", b"null"),
        ("access-control-request-method", b"PUT"),
    ];
    let redirect = Redirect { https: Some(true), hostname: None, path: None, port: None, status: 301 };
    let host = SimHost::alone();
    routed(&host, &asks, found(None, Action { redirect: Some(redirect), ..cors() }));
    assert_eq!(host.take_done(), [Done::Replied(204, "cors_preflight".to_owned())]);
}

#[test]
fn what_a_backend_says_of_cors_does_not_count_where_its_route_speaks() {
    let upstreams: [(&str, &[u8]); 4] = [
        (":status", b"200"),
        ("access-control-allow-origin", b"*"),
        ("access-control-allow-credentials", b"true"),
        ("access-control-expose-headers", b"x-secret"),
    ];
    let told = |headers: &[(&str, &[u8])], action: Action| {
        let host = SimHost::alone();
        let mut stream = routed(&host, headers, found(Some(backend("shop", None)), action));
        host.respond(pairs(&upstreams));
        assert_eq!(stream.on_http_response_headers(3, true), proxy_wasm::types::Action::Continue);
        host.response()[1..].to_vec()
    };
    let from = |origin: &'static [u8]| [(":method", &b"GET"[..]), (":path", b"/"), ("origin", origin)];
    let stranger = told(&from(b"https://b.example"), cors());
    assert_eq!(stranger, pairs(&[("vary", b"origin")]));
    let open = Cors { origins: vec!["*".to_owned()], ..Cors::default() };
    let open = || Action { cors: Some(open.clone()), ..Action::default() };
    let all = pairs(&[("access-control-allow-origin", b"*")]);
    assert_eq!(told(&from(b"https://b.example"), open()), all);
    assert_eq!(told(&GET, open()), all, "and what a cache keeps");
    assert_eq!(told(&GET, Action::default()), pairs(&upstreams[1..]), "without CORS it is the backend's");
}

#[test]
fn a_request_that_is_too_long_to_place_is_denied() {
    let host = SimHost::alone();
    let stream = routed(&host, &GET, Found::Route(Err(TooLong)));
    assert_eq!(host.take_done(), [Done::Replied(431, "request_too_long".to_owned())]);
    assert_eq!(event(&stream).reason.as_deref(), Some("request_too_long"));
}

/// An answer's headers, that is `:status` and what the route's actions add to it.
fn edited(method: &'static str, backend: Option<Backend>, action: Action, of_backend: Action) -> HeaderPairs {
    let host = SimHost::alone();
    let from = [
        (":method", method.as_bytes()),
        (":path", b"/"),
        ("origin", b"https://a.example"),
        ("access-control-request-method", b"PUT"),
    ];
    let mut found = found(backend, action);
    if let Found::Route(Ok(Some(answer))) = &mut found {
        answer.backend_action = Some(Arc::new(of_backend));
    }
    let mut stream = routed(&host, &from, found);
    let status = match host.take_done().last() {
        Some(Done::Replied(status, _)) => status.to_string(),
        _ => "200".to_owned(),
    };
    host.respond(pairs(&[(":status", status.as_bytes())]));
    assert_eq!(stream.on_http_response_headers(3, true), proxy_wasm::types::Action::Continue);
    host.response()
}

#[test]
fn a_rule_s_response_headers_stand_on_every_answer_and_a_backendref_s_where_it_is_asked() {
    let set = |name: &str| HeaderEdits { set: lines(&[(name, "1")]), ..HeaderEdits::default() };
    let of = |name: &str| Action { response: set(name), ..Action::default() };
    let redirect = || Redirect { https: Some(true), hostname: None, path: None, port: None, status: 301 };
    let (rule, both) = (vec!["x-rule"], vec!["x-rule", "x-backend"]);
    let shop = || Some(backend("shop", None));
    let own = |headers: HeaderPairs| {
        let names = headers.into_iter().map(|(name, _)| String::from_utf8(name).unwrap());
        names.filter(|name| name.starts_with("x-")).collect::<Vec<_>>()
    };
    let with_cors = |name: &str| Action { response: set(name), ..cors() };
    assert_eq!(own(edited("GET", shop(), of("x-rule"), of("x-backend"))), both);
    assert_eq!(own(edited("GET", None, of("x-rule"), of("x-backend"))), rule, "500: nobody is asked");
    let redirects = Action { redirect: Some(redirect()), ..of("x-backend") };
    assert_eq!(own(edited("GET", None, of("x-rule"), redirects)), both, "its own filters answer");
    assert_eq!(own(edited("OPTIONS", shop(), with_cors("x-rule"), of("x-backend"))), rule);
    assert_eq!(own(edited("OPTIONS", shop(), of("x-rule"), with_cors("x-backend"))), both);
}

#[test]
fn a_page_that_may_read_answers_may_read_a_denial() {
    let response = HeaderEdits { set: lines(&[("x-set", "1")]), ..HeaderEdits::default() };
    assert_eq!(
        edited("GET", None, Action { response, ..cors() }, Action::default()),
        pairs(&[
            (":status", b"500"),
            ("access-control-allow-origin", b"https://a.example"),
            ("vary", b"origin"),
            ("x-set", b"1"),
        ])
    );
}

#[test]
fn no_route_says_what_a_denial_is_or_lets_a_cache_keep_it() {
    let response = HeaderEdits {
        set: lines(&[("cache-control", "public, max-age=3600"), ("x-set", "1")]),
        add: lines(&[("content-type", "text/html")]),
        ..HeaderEdits::default()
    };
    let names = |backend| {
        let action = Action { response: response.clone(), ..Action::default() };
        let headers = edited("GET", backend, action, Action::default());
        headers.into_iter().map(|(name, _)| String::from_utf8(name).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(names(None), [":status", "x-set"]);
    let shop = Some(backend("shop", None));
    assert_eq!(names(shop), [":status", "cache-control", "x-set", "content-type"]);
}

#[test]
fn a_response_is_edited_and_says_who_may_read_it() {
    let host = SimHost::alone();
    let from = [(":method", &b"GET"[..]), (":path", b"/"), ("origin", b"https://a.example")];
    let response = HeaderEdits {
        remove: vec!["server".to_owned()],
        set: lines(&[("x-set", "1")]),
        add: lines(&[("x-add", "2")]),
    };
    let action = Action { response, ..cors() };
    let mut stream = routed(&host, &from, found(Some(backend("shop", None)), action));
    let upstreams: [(&str, &[u8]); 4] =
        [(":status", b"200"), ("server", b"x"), ("access-control-allow-origin", b"*"), ("x-add", b"1")];
    host.respond(pairs(&upstreams));
    assert_eq!(stream.on_http_response_headers(3, true), proxy_wasm::types::Action::Continue);
    assert_eq!(
        host.response(),
        pairs(&[
            (":status", b"200"),
            ("x-add", b"1"),
            ("access-control-allow-origin", b"https://a.example"),
            ("vary", b"origin"),
            ("x-set", b"1"),
            ("x-add", b"2"),
        ])
    );
}
