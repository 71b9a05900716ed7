//! CORS of HTTPRoutes on a real Envoy: what pages of other sites are told, of a
//! backend that has ideas of its own.

use crate::raw_backend::RawBackend;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use tidegate_stack::http::{Connection, Method, PATIENCE, Request, Response};
use tidegate_stack::{NamedBackend, Options, Stack};

/// What the backend says of itself: that everybody may, with everything.
const BACKENDS_OWN: &[u8] = b"access-control-allow-origin: *\r\naccess-control-allow-credentials: true\r\n\
    access-control-expose-headers: x-secret\r\nx-secret: 1\r\nvary: accept\r\n";

const LISTED: &str = "listed.example";
const PRIVATE: &str = "private.example";
const OPEN: &str = "open.example";
const OPEN_PRIVATE: &str = "open-private.example";
const BARE: &str = "bare.example";
const ELSEWHERE: &str = "elsewhere.example";
const BACKEND: &str = "backend.example";
const NONE: &str = "none.example";
const LIMITED: &str = "limited.example";

fn filter(cors: &Value) -> Value {
    json!({ "type": "CORS", "cors": cors })
}

fn put_routes(stack: &Stack) -> Result<()> {
    let put = |host: &str, filters: Value, backends: Value| {
        let rule = json!({ "filters": filters, "backendRefs": backends });
        let name = host.split('.').next().unwrap_or(host);
        stack.put_spec(name, &json!({ "hostnames": [host], "rules": [rule] }))
    };
    let raw = || json!([{ "name": "raw" }]);
    let listed = json!({
        "allowOrigins": ["https://a.test", "https://*.bar.com", "http://a.test:8080"],
        "allowMethods": ["PUT", "GET"],
        "allowHeaders": ["X-One", "x-two"],
        "exposeHeaders": ["X-Three", "x-four"],
        "maxAge": 60,
    });
    put(LISTED, json!([filter(&listed)]), raw())?;
    let mut private = listed;
    private["allowCredentials"] = json!(true);
    put(PRIVATE, json!([filter(&private)]), raw())?;
    let any = |credentials: bool| {
        json!({
            "allowOrigins": ["*"], "allowMethods": ["*"], "allowHeaders": ["*"], "exposeHeaders": ["*"],
            "allowCredentials": credentials,
        })
    };
    put(OPEN, json!([filter(&any(false))]), raw())?;
    put(OPEN_PRIVATE, json!([filter(&any(true))]), raw())?;
    put(BARE, json!([filter(&json!({ "allowOrigins": ["https://a.test"] }))]), raw())?;
    let redirect = json!({ "type": "RequestRedirect", "requestRedirect": { "hostname": "b.example" } });
    put(ELSEWHERE, json!([redirect, filter(&any(false))]), json!([]))?;
    let of_backend = json!([{ "name": "raw", "filters": [filter(&any(false))] }]);
    put(BACKEND, json!([filter(&private)]), of_backend)?;
    put(NONE, json!([]), raw())
}

/// A preflight request of a page from `origin`, for PUT.
fn preflight(host: &str, origin: &str) -> Request {
    let request = Request::new(Method::OPTIONS, "/a").header("host", host).header("origin", origin);
    request.header("access-control-request-method", "PUT")
}

fn simple(host: &str, origin: &str) -> Request {
    Request::get("/a").header("host", host).header("origin", origin)
}

/// What an answer says of CORS, in the order of the names: no line twice.
fn cors(answer: &Response) -> Vec<String> {
    let mut lines: Vec<_> = answer
        .headers
        .iter()
        .filter_map(|(name, value)| {
            let name = name.as_str().strip_prefix("access-control-")?;
            Some(format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())))
        })
        .collect();
    lines.sort();
    lines
}

/// Requests, and what they are told.
fn answers() -> Vec<(&'static str, Request, Vec<&'static str>)> {
    let asking = |request: Request| request.header("access-control-request-headers", "x-b, X-A");
    vec![
        (
            "all that is configured, exactly so",
            preflight(LISTED, "https://a.test"),
            vec![
                "allow-headers: X-One, x-two",
                "allow-methods: PUT, GET",
                "allow-origin: https://a.test",
                "expose-headers: X-Three, x-four",
                "max-age: 60",
            ],
        ),
        (
            "with credentials",
            asking(preflight(PRIVATE, "https://x.y.bar.com")),
            vec![
                "allow-credentials: true",
                "allow-headers: X-One, x-two",
                "allow-methods: PUT, GET",
                "allow-origin: https://x.y.bar.com",
                "expose-headers: X-Three, x-four",
                "max-age: 60",
            ],
        ),
        (
            "stars, where they may be said",
            asking(preflight(OPEN, "https://any.test:1")),
            vec![
                "allow-headers: *",
                "allow-methods: *",
                "allow-origin: *",
                "expose-headers: *",
                "max-age: 5",
            ],
        ),
        (
            "what was asked for, where they may not",
            asking(preflight(OPEN_PRIVATE, "https://any.test:1")),
            vec![
                "allow-credentials: true",
                "allow-headers: x-b, X-A",
                "allow-methods: PUT",
                "allow-origin: https://any.test:1",
                "max-age: 5",
            ],
        ),
        (
            "nothing of headers, where none were asked for",
            preflight(OPEN_PRIVATE, "null"),
            vec!["allow-credentials: true", "allow-methods: PUT", "allow-origin: null", "max-age: 5"],
        ),
        (
            "little, where little is configured",
            preflight(BARE, "https://a.test"),
            vec!["allow-origin: https://a.test", "max-age: 5"],
        ),
        (
            "a backendRef's word, not its rule's",
            preflight(BACKEND, "https://any.test"),
            vec![
                "allow-headers: *",
                "allow-methods: *",
                "allow-origin: *",
                "expose-headers: *",
                "max-age: 5",
            ],
        ),
        (
            "before a redirect, which no browser follows here",
            preflight(ELSEWHERE, "https://any.test"),
            vec![
                "allow-headers: *",
                "allow-methods: *",
                "allow-origin: *",
                "expose-headers: *",
                "max-age: 5",
            ],
        ),
    ]
}

fn simple_answers() -> Vec<(&'static str, Request, Vec<&'static str>)> {
    let exposed = "expose-headers: X-Three, x-four";
    vec![
        (
            "a page may read it, without credentials whatever the backend says",
            simple(LISTED, "https://a.test"),
            vec!["allow-origin: https://a.test", exposed],
        ),
        (
            "with credentials",
            simple(PRIVATE, "https://x.bar.com"),
            vec!["allow-credentials: true", "allow-origin: https://x.bar.com", exposed],
        ),
        (
            "what a cache may have for a page",
            Request::get("/a").header("host", OPEN),
            vec!["allow-origin: *", "expose-headers: *"],
        ),
        ("everybody", simple(OPEN, "https://any.test"), vec!["allow-origin: *", "expose-headers: *"]),
        (
            "everybody, by name",
            simple(OPEN_PRIVATE, "https://any.test"),
            vec!["allow-credentials: true", "allow-origin: https://any.test"],
        ),
        (
            "a backendRef's word",
            simple(BACKEND, "https://a.test"),
            vec!["allow-origin: *", "expose-headers: *"],
        ),
        ("a stranger, whatever the backend says", simple(LISTED, "https://b.test"), vec![]),
        ("no page", Request::get("/a").header("host", LISTED), vec![]),
        (
            "OPTIONS that is no preflight",
            Request::new(Method::OPTIONS, "/a").header("host", LISTED).header("origin", "https://a.test"),
            vec!["allow-origin: https://a.test", exposed],
        ),
        (
            "nor is GET one",
            simple(LISTED, "https://a.test").header("access-control-request-method", "PUT"),
            vec!["allow-origin: https://a.test", exposed],
        ),
        (
            "a route without CORS leaves it to the backend",
            preflight(NONE, "https://a.test"),
            vec!["allow-credentials: true", "allow-origin: *", "expose-headers: x-secret"],
        ),
    ]
}

/// Origins of which `LISTED` knows which it takes.
const ORIGINS: [(&str, bool); 14] = [
    ("https://a.test", true),
    ("https://a.test:443", true),
    ("HTTPS://A.Test", true),
    ("http://a.test", false),
    ("https://a.test:8443", false),
    ("http://a.test:8080", true),
    ("https://x.bar.com", true),
    ("https://x.y.bar.com", true),
    ("https://bar.com", false),
    ("https://xbar.com", false),
    ("https://x.bar.com:8443", false),
    ("https://x.bar.com.evil.test", false),
    ("https://evil.test/.bar.com", false),
    ("null", false),
];

fn check_preflights(worker: &mut Connection, raw: &RawBackend, at: &str) -> Result<()> {
    for (what, request, told) in answers() {
        let answer = worker.send(&request).context(what)?;
        assert_eq!(answer.status, 204, "{what} ({at})");
        assert_eq!(cors(&answer), told, "{what} ({at})");
        assert_eq!(answer.header("vary"), Some("origin"), "{what} ({at})");
    }
    for (origin, taken) in ORIGINS {
        let answer = worker.send(&preflight(LISTED, origin))?;
        assert_eq!(answer.status, 204, "{origin}: answered, be it strange or not ({at})");
        assert_eq!(cors(&answer).len(), if taken { 5 } else { 0 }, "{origin} ({at}): {:?}", cors(&answer));
        let echoed = answer.header("access-control-allow-origin");
        assert_eq!(echoed, taken.then_some(origin), "{at}");
    }
    assert_eq!(raw.take_seen(), [], "no backend hears of a preflight request ({at})");
    Ok(())
}

fn check_simple(worker: &mut Connection, raw: &RawBackend, at: &str) -> Result<()> {
    for (what, request, told) in simple_answers() {
        let answer = worker.send(&request).context(what)?;
        assert_eq!((answer.status, raw.take_seen().len()), (200, 1), "{what}: forwarded ({at})");
        assert_eq!(cors(&answer), told, "{what} ({at})");
        assert_eq!(answer.header("x-secret"), Some("1"), "{what} ({at})");
    }
    let vary = |answer: &Response| {
        let lines = answer.headers.get_all("vary").iter();
        lines.map(|line| String::from_utf8_lossy(line.as_bytes()).into_owned()).collect::<Vec<_>>().join(",")
    };
    let listed = worker.send(&simple(LISTED, "https://b.test"))?;
    assert_eq!(vary(&listed), "accept,origin", "a cache must not give it to another page ({at})");
    let open = worker.send(&simple(OPEN, "https://b.test"))?;
    assert_eq!(vary(&open), "accept", "the same for all ({at})");
    let redirected = worker.send(&simple(ELSEWHERE, "https://b.test"))?;
    assert_eq!((redirected.status, cors(&redirected)[0].as_str()), (302, "allow-origin: *"), "{at}");
    raw.take_seen();
    Ok(())
}

/// The browser's questions use up no limit, and a page can read that it is over one; the response
/// headers of the route stand on every answer.
fn check_limit(stack: &Stack) -> Result<()> {
    let set = json!({ "set": [{ "name": "strict-transport-security", "value": "max-age=1" }] });
    let edit = json!({ "type": "ResponseHeaderModifier", "responseHeaderModifier": set });
    let cors = filter(&json!({ "allowOrigins": ["https://a.test"], "allowMethods": ["PUT"] }));
    let rule = json!({ "filters": [cors, edit], "backendRefs": [{ "name": "raw" }] });
    stack.put_spec("limited", &json!({ "hostnames": [LIMITED], "rules": [rule] }))?;
    let limit = json!({ "key": "global", "match": { "route": "limited" }, "rate": 2, "per": "day" });
    stack.put_limit("limited", &limit)?;
    let mut gate = Connection::open(stack.gate())?;
    let put = Request::new(Method::PUT, "/a").header("host", LIMITED).header("origin", "https://a.test");
    for allowed in [200, 200, 429, 429] {
        for (request, status) in [(preflight(LIMITED, "https://a.test"), 204), (put.clone(), allowed)] {
            let answer = gate.send(&request)?;
            assert_eq!(answer.status, status);
            assert_eq!(answer.header("access-control-allow-origin"), Some("https://a.test"), "{status}");
            assert_eq!(answer.header("strict-transport-security"), Some("max-age=1"), "{status}");
        }
    }
    Ok(())
}

#[test]
fn pages_of_other_sites_may_what_the_route_says() {
    let raw = RawBackend::start(BACKENDS_OWN).unwrap();
    let mut options = Options::for_test("http-cors").unwrap();
    options.backends.push(NamedBackend::at("raw", raw.address()));
    let stack = Stack::start(options).unwrap();
    put_routes(&stack).unwrap();
    stack
        .everywhere(|worker, at| {
            check_preflights(worker, &raw, at)?;
            check_simple(worker, &raw, at)
        })
        .unwrap();
    check_limit(&stack).unwrap();
    stack.recorded(PATIENCE).unwrap();
    let rows = "SELECT DISTINCT verdict, reason, status FROM traffic_events WHERE method = 'OPTIONS' \
                AND route = 'listed' ORDER BY status";
    assert_eq!(stack.sql().unwrap().run(rows).unwrap(), ["allow||200", "allow|cors_preflight|204"]);
}
