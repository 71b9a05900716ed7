//! Header modifiers of HTTPRoutes on a real Envoy, to the byte, and the headers that
//! are between the gate and Envoy: nobody else says them, and nobody else sees them.

use crate::raw_backend::{Head, RawBackend};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use tidegate_backend::InProcess;
use tidegate_stack::http::{self, Method, PATIENCE, Request, raw};
use tidegate_stack::ports::local;
use tidegate_stack::{NamedBackend, Options, Stack};

/// What the backend answers with.
const ANSWERED: &[u8] = b"X-Gone: 1\r\nx-GONE: 2\r\nX-Set: 1\r\nx-set: 2\r\nX-Add: a\r\nx-bytes: caf\xe9\r\n\
    X-Kept: 1\r\nX-Kept: 2\r\nset-cookie: a=1\r\nx-rule: old\r\nserver: backend\r\n";
/// What the client asks with.
const ASKED: &[u8] = b"X-Gone: 1\r\nx-gone: 2\r\nX-GONE: 3\r\nX-Set: 1\r\nx-SET: 2\r\nX-Add: a\r\n\
    x-bytes: \xff\xfe\x80\r\nX-Kept: 1\r\nx-kept: 2\r\nuser-agent: mine\r\nx-rule: old\r\n";

/// The stack ends before its backends do.
struct Fixture {
    stack: Stack,
    /// Where routes send requests.
    raw: RawBackend,
    /// Where clients would like to send them.
    other: InProcess,
}

fn start(name: &str) -> Result<Fixture> {
    let (raw, other) = (RawBackend::start(ANSWERED)?, InProcess::start("other", local(0))?);
    let mut options = Options::for_test(name)?;
    options.plugin = json!({ "performance_headers": "never" });
    options.backends.push(NamedBackend::at("raw", raw.address()));
    options.backends.push(NamedBackend::at("other", other.address()));
    Ok(Fixture { stack: Stack::start(options)?, raw, other })
}

impl Fixture {
    /// Sends a request with these lines: what the backend saw, and what came back.
    fn exchange(&self, path: &str, lines: &[u8]) -> Result<(Head, Head)> {
        let begin = format!("GET {path} HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n");
        let answer = raw(self.stack.gate(), &[begin.as_bytes(), lines, b"\r\n"].concat(), PATIENCE, 1 << 20)?;
        let answer = Head::read(&mut answer.as_slice()).context("no whole answer")?;
        let mut seen = self.raw.take_seen();
        anyhow::ensure!(seen.len() == 1, "{path}: {answer:?}, after {seen:?}");
        Ok((seen.remove(0), answer))
    }

    /// With the caches and directly, so often that both workers are asked.
    fn in_both_modes(&self, mut check: impl FnMut(&str) -> Result<()>) -> Result<()> {
        for (on, how) in [(true, "caches"), (false, "directly")] {
            self.stack.all_flags(on)?;
            (0..4).try_for_each(|_| check(how))?;
        }
        Ok(())
    }
}

fn lines(pairs: &[(&str, &str)]) -> Value {
    pairs.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect()
}

/// The same changes of the request and of the response.
fn modifiers(changes: &Value) -> Value {
    json!([
        { "type": "RequestHeaderModifier", "requestHeaderModifier": changes },
        { "type": "ResponseHeaderModifier", "responseHeaderModifier": changes },
    ])
}

fn put_modifiers(stack: &Stack) -> Result<()> {
    let of_rule = json!({
        "remove": ["X-Gone", "x-absent"],
        "set": lines(&[("x-Set", "new"), ("x-fresh", "caf\u{e9}"), ("x-rule", "rule"), ("x-dropped", "rule"), ("server", "rule")]),
        "add": lines(&[("X-Add", "b,c"), ("x-first", "1"), ("user-agent", "yours"), ("set-cookie", "b=2")]),
    });
    let of_backend = json!({
        "remove": ["x-dropped"],
        "set": lines(&[("x-rule", "backend")]),
        "add": lines(&[("x-add", "d"), ("x-first", "2")]),
    });
    let rule = json!({
        "filters": modifiers(&of_rule),
        "backendRefs": [
            { "name": "raw", "filters": modifiers(&of_backend) },
            { "name": "other", "weight": 0, "filters": modifiers(&json!({ "set": lines(&[("x-kept", "no")]) })) },
        ],
    });
    stack.put_spec("modified", &json!({ "rules": [rule] }))
}

/// What both messages have in common after their changes. `bytes`: what this one came
/// with in `x-bytes`.
fn assert_modified(head: &Head, bytes: &[u8], what: &str) {
    let joined = |name: &str| head.joined(name);
    assert_eq!(joined("x-gone"), None, "{what}: every spelling is removed");
    assert_eq!(head.values("x-set"), [b"new"], "{what}: every spelling is replaced, by one line");
    assert_eq!(joined("x-add").as_deref(), Some("a,b,c,d"), "{what}: added to what was there");
    assert_eq!(joined("x-first").as_deref(), Some("1,2"), "{what}: added where nothing was");
    assert_eq!(head.values("x-fresh"), ["caf\u{e9}".as_bytes()], "{what}: set where nothing was");
    assert_eq!(head.values("x-rule"), [b"backend"], "{what}: the backendRef's come after the rule's");
    assert_eq!(joined("x-dropped"), None, "{what}: and see them");
    assert_eq!(head.values("x-bytes"), [bytes], "{what}: to the byte");
    assert_eq!(joined("x-kept").as_deref(), Some("1,2"), "{what}: not named, not touched");
}

/// What clients might say to the gate, to Envoy, or to a backend in their name.
const SPOOFED: [(&str, &str); 15] = [
    ("x-tidegate-cluster", "other"),
    ("X-Tidegate-Cluster", "other"),
    ("x-tidegate-mirror-1", "other"),
    ("x-tidegate-mirror-1-host", "127.0.0.1"),
    ("x-tidegate-route", "other"),
    ("x-tidegate-client", "192.0.2.1"),
    ("x-tidegate-else", "1"),
    ("x-envoy-upstream-rq-timeout-ms", "1"),
    ("x-envoy-upstream-rq-per-try-timeout-ms", "1"),
    ("x-envoy-retry-on", "5xx"),
    ("x-envoy-max-retries", "3"),
    ("x-envoy-retriable-status-codes", "200,503"),
    ("x-envoy-original-path", "/evil"),
    ("x-envoy-original-host", "evil.example"),
    ("X-Envoy-Decorator-Operation", "evil"),
];

fn spoofed(mut request: Request) -> Request {
    for (name, value) in SPOOFED {
        request = request.header(name, value);
    }
    request
}

/// A route that makes the gate tell Envoy everything that it can.
fn put_steered(stack: &Stack) -> Result<()> {
    let rule = |path: &str, backend: &str, more: Value| {
        let mut rule = json!({
            "matches": [{ "path": { "type": "PathPrefix", "value": path } }],
            "backendRefs": [{ "name": backend }],
        });
        rule.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        rule
    };
    let steered = json!({
        "filters": [
            { "type": "RequestMirror", "requestMirror": { "backendRef": { "name": "demo" } } },
            { "type": "URLRewrite", "urlRewrite": {
                "hostname": "b.example", "path": { "type": "ReplaceFullPath", "replaceFullPath": "/x" } } },
        ],
        "timeouts": { "request": "20s", "backendRequest": "10s" },
        "retry": { "attempts": 1, "codes": [503] },
    });
    let rules = json!([
        rule("/steered", "raw", steered),
        rule("/plain", "raw", json!({})),
        rule("/", "demo", json!({})),
        rule("/status", "other", json!({})),
    ]);
    stack.put_spec("steered", &json!({ "rules": rules }))
}

#[test]
fn what_steers_envoy_is_said_by_the_gate_alone_and_seen_by_nobody() {
    let fixture = start("http-headers-steering").unwrap();
    let Fixture { stack, other, .. } = &fixture;
    put_steered(stack).unwrap();
    let lines: String = SPOOFED.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    fixture
        .in_both_modes(|how| {
            for path in ["/plain", "/steered"] {
                let (seen, answer) = fixture.exchange(path, lines.as_bytes())?;
                for (message, head) in [("the request", &seen), ("the response", &answer)] {
                    for prefix in ["x-tidegate-", "x-envoy-"] {
                        assert_eq!(head.names_with(prefix), Vec::<&str>::new(), "{message}, {path}, {how}");
                    }
                }
                let line = if path == "/plain" { "GET /plain HTTP/1.1" } else { "GET /x HTTP/1.1" };
                assert_eq!(seen.first, line, "{how}");
            }
            assert_eq!(other.seen(), Vec::<Value>::new(), "nor was it asked, {how}");
            let slow = http::send(stack.gate(), &spoofed(Request::get("/slow?ms=300")))?;
            assert_eq!(slow.status, 200, "no time limit of the client's, {how}");
            Ok(())
        })
        .unwrap();
    let before = other.seen().len();
    let failed = http::send(stack.gate(), &spoofed(Request::get("/status/503"))).unwrap();
    assert_eq!((failed.status, other.seen().len() - before), (503, 1), "no retry of the client's");
    stack.recorded(PATIENCE).unwrap();
    let rows = "SELECT DISTINCT path FROM traffic_events WHERE route = 'steered' ORDER BY path";
    assert_eq!(stack.sql().unwrap().run(rows).unwrap(), ["/plain", "/slow", "/status/503", "/steered"]);
}

/// The problem of a route with these changes of requests or responses.
fn refusal(stack: &Stack, kind: &str, field: &str, changes: &Value) -> Result<Vec<(String, String)>> {
    let filter = json!({ "type": kind, field: changes });
    let rule = json!({ "filters": [filter], "backendRefs": [{ "name": "raw" }] });
    let route = json!({ "metadata": { "name": "modified" }, "spec": { "rules": [rule] } });
    let answer = stack.api(Method::PUT, "/api/admin/routes/modified", Some(&route))?;
    assert_eq!(answer.status, 422, "{changes}: {}", answer.text());
    let said = answer.json()?;
    let text = |error: &Value, key: &str| error[key].as_str().unwrap_or_default().to_owned();
    let errors = said["errors"].as_array().context("errors")?;
    Ok(errors.iter().map(|error| (text(error, "pointer"), text(error, "code"))).collect())
}

/// Headers that are not a route's to say are refused, and nothing changes.
fn check_refusals(fixture: &Fixture) {
    let before = fixture.stack.api_ok(Method::GET, "/api/admin/routes/modified", None).unwrap();
    for (kind, field) in [
        ("RequestHeaderModifier", "requestHeaderModifier"),
        ("ResponseHeaderModifier", "responseHeaderModifier"),
    ] {
        let place = |rest: &str| format!("/spec/rules/0/filters/0/{field}/{rest}");
        for (name, code) in [
            ("Host", "reserved"),
            ("connection", "reserved"),
            ("Content-Length", "reserved"),
            ("transfer-encoding", "reserved"),
            ("te", "reserved"),
            ("Upgrade", "reserved"),
            ("X-Tidegate-Cluster", "reserved"),
            ("x-tidegate-mirror-1", "reserved"),
            ("x-envoy-retry-on", "reserved"),
            ("X-Envoy-Original-Path", "reserved"),
            (":path", "invalid"),
            ("a b", "invalid"),
        ] {
            let line = lines(&[(name, "1")]);
            for (change, pointer) in [("set", "set/0/name"), ("add", "add/0/name"), ("remove", "remove/0")] {
                let changes = if change == "remove" { json!([name]) } else { line.clone() };
                let said = refusal(&fixture.stack, kind, field, &json!({ change: changes })).unwrap();
                assert_eq!(said, [(place(pointer), code.to_owned())], "{name}");
            }
        }
        let said = |changes: &Value| refusal(&fixture.stack, kind, field, changes).unwrap();
        let value = said(&json!({ "set": lines(&[("x-a", "1\r\nx-tidegate-cluster: other")]) }));
        assert_eq!(value, [(place("set/0/value"), "invalid".to_owned())]);
        let twice = said(&json!({ "set": lines(&[("x-a", "1")]), "remove": ["X-A"] }));
        assert_eq!(twice, [(place("remove/0"), "conflict".to_owned())]);
    }
    let after = fixture.stack.api_ok(Method::GET, "/api/admin/routes/modified", None).unwrap();
    assert_eq!(after, before);
}

#[test]
fn headers_are_set_added_and_removed_on_the_way_there_and_back_but_for_some() {
    let fixture = start("http-headers").unwrap();
    put_modifiers(&fixture.stack).unwrap();
    check_refusals(&fixture);
    fixture
        .in_both_modes(|how| {
            let (seen, answer) = fixture.exchange("/a", ASKED)?;
            assert_modified(&seen, b"\xff\xfe\x80", &format!("request, {how}"));
            assert_eq!(seen.joined("user-agent").as_deref(), Some("mine,yours"), "{how}");
            assert_modified(&answer, b"caf\xe9", &format!("response, {how}"));
            assert_eq!(answer.values("set-cookie"), [b"a=1", b"b=2"], "cookies are never one line, {how}");
            assert_eq!(answer.values("server"), [b"rule"], "not Envoy's name, {how}");
            Ok(())
        })
        .unwrap();
    assert_eq!(fixture.other.seen(), Vec::<Value>::new());
}
