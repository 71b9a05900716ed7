//! Redirects of HTTPRoutes on a real Envoy: where clients are sent, and that nobody
//! else hears of it.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tidegate_backend::InProcess;
use tidegate_stack::http::{self, Method, PATIENCE, Request};
use tidegate_stack::ports::local;
use tidegate_stack::{NamedBackend, Options, Stack};

/// A redirect of what begins with `prefix`, a request to it, and where it is sent.
/// `HOST` and `PORT` stand for the host without its port and for the listener's port.
struct Case {
    prefix: &'static str,
    redirect: Value,
    target: &'static str,
    location: &'static str,
    status: u16,
}

fn to(redirect: Value, location: &'static str) -> Case {
    Case { prefix: "/", redirect, target: "/a/b?c=d&e", location, status: 302 }
}

fn status(status: u16) -> Case {
    Case { status, ..to(json!({ "statusCode": status }), "http://HOST:PORT/a/b?c=d&e") }
}

fn path(prefix: &'static str, with: &str, target: &'static str, location: &'static str) -> Case {
    let path = json!({ "type": "ReplacePrefixMatch", "replacePrefixMatch": with });
    Case { prefix, redirect: json!({ "path": path }), target, location, status: 302 }
}

fn cases() -> Vec<Case> {
    let full = json!({ "path": { "type": "ReplaceFullPath", "replaceFullPath": "/x/y" } });
    let all = json!({
        "scheme": "https", "hostname": "b.example", "port": 8443, "statusCode": 301,
        "path": { "type": "ReplaceFullPath", "replaceFullPath": "/" },
    });
    vec![
        // The client's own idea of the port does not count: the listener's does.
        to(json!({}), "http://HOST:PORT/a/b?c=d&e"),
        to(json!({ "hostname": "b.example" }), "http://b.example:PORT/a/b?c=d&e"),
        to(json!({ "scheme": "https" }), "https://HOST/a/b?c=d&e"),
        to(json!({ "scheme": "http" }), "http://HOST/a/b?c=d&e"),
        to(json!({ "port": 80 }), "http://HOST/a/b?c=d&e"),
        to(json!({ "port": 443 }), "http://HOST:443/a/b?c=d&e"),
        to(json!({ "port": 8080 }), "http://HOST:8080/a/b?c=d&e"),
        to(json!({ "scheme": "https", "port": 443 }), "https://HOST/a/b?c=d&e"),
        to(json!({ "scheme": "https", "port": 80 }), "https://HOST:80/a/b?c=d&e"),
        to(json!({ "scheme": "http", "port": 443 }), "http://HOST:443/a/b?c=d&e"),
        to(json!({ "scheme": "https", "hostname": "b.example" }), "https://b.example/a/b?c=d&e"),
        to(full, "http://HOST:PORT/x/y?c=d&e"),
        Case { status: 301, ..to(all, "https://b.example:8443/?c=d&e") },
        status(301),
        status(302),
        status(303),
        status(307),
        status(308),
        // The specification's table.
        path("/foo", "/xyz", "/foo/bar", "http://HOST:PORT/xyz/bar"),
        path("/foo", "/xyz/", "/foo/bar", "http://HOST:PORT/xyz/bar"),
        path("/foo/", "/xyz", "/foo/bar", "http://HOST:PORT/xyz/bar"),
        path("/foo/", "/xyz/", "/foo/bar", "http://HOST:PORT/xyz/bar"),
        path("/foo", "/xyz", "/foo", "http://HOST:PORT/xyz"),
        path("/foo", "/xyz", "/foo/", "http://HOST:PORT/xyz/"),
        path("/foo", "", "/foo/bar", "http://HOST:PORT/bar"),
        path("/foo", "", "/foo/", "http://HOST:PORT/"),
        path("/foo", "", "/foo", "http://HOST:PORT/"),
        path("/foo", "/", "/foo/", "http://HOST:PORT/"),
        path("/foo", "/", "/foo", "http://HOST:PORT/"),
        // And besides.
        path("/foo", "/", "/foo/bar?foo=/foo", "http://HOST:PORT/bar?foo=/foo"),
        path("/foo", "/", "/foo?q", "http://HOST:PORT/?q"),
        path("/foo", "/", "/foo//evil.example", "http://HOST:PORT/evil.example"),
        path("/", "/xyz", "/foo%20bar", "http://HOST:PORT/xyz/foo%20bar"),
    ]
}

/// The host of the case `at`, of which there is one route each.
fn host(at: usize) -> String {
    format!("case-{at}.example")
}

fn put(stack: &Stack, at: usize, case: &Case) -> Result<()> {
    let rule = json!({
        "matches": [{ "path": { "type": "PathPrefix", "value": case.prefix } }],
        "filters": [
            { "type": "RequestRedirect", "requestRedirect": case.redirect },
            { "type": "ResponseHeaderModifier",
              "responseHeaderModifier": { "set": [{ "name": "x-set", "value": "too" }] } },
        ],
    });
    stack.put_spec(&format!("case-{at}"), &json!({ "hostnames": [host(at)], "rules": [rule] }))
}

fn location(case: &Case, at: usize, port: u16) -> String {
    case.location.replace("HOST", &host(at)).replace("PORT", &port.to_string())
}

/// A backend's redirect is of its share, and never reaches it.
fn check_backends(stack: &Stack, second: &InProcess) -> Result<()> {
    let rule = |path: &str, redirected: u32, plain: u32| {
        let path_edit = json!({ "type": "ReplacePrefixMatch", "replacePrefixMatch": "/new" });
        let filter = json!({
            "type": "RequestRedirect",
            "requestRedirect": { "hostname": "b.example", "path": path_edit, "statusCode": 308 },
        });
        json!({
            "matches": [{ "path": { "type": "PathPrefix", "value": path } }],
            "backendRefs": [
                { "name": "second", "weight": redirected, "filters": [filter] },
                { "name": "demo", "weight": plain },
            ],
        })
    };
    let rules = json!([rule("/all", 1, 0), rule("/none", 0, 1), rule("/half", 1, 1)]);
    stack.put_spec("backends", &json!({ "rules": rules }))?;
    let port = stack.gate().port();
    stack.everywhere(|worker, at| {
        let answer = worker.send(&Request::get("/all/a?b"))?;
        let to = format!("http://b.example:{port}/new/a?b");
        assert_eq!((answer.status, answer.header("location")), (308, Some(to.as_str())), "{at}");
        let answer = worker.send(&Request::get("/none/a"))?;
        assert_eq!((answer.status, answer.header("location")), (200, None), "{at}");
        let half = [(); 64].map(|()| worker.send(&Request::get("/half")).unwrap().status);
        // That all 64 fall on one side is as likely as 1 in 2^63.
        assert!(half.contains(&308) && half.contains(&200), "{at}: {half:?}");
        Ok(())
    })?;
    assert_eq!(second.seen(), Vec::<Value>::new());
    Ok(())
}

/// The Gateway API's guide: on `http` everybody is sent to https, on `https` there is a
/// backend. The scheme is what the hop says that Envoy trusts.
fn check_the_guide(stack: &Stack) -> Result<()> {
    let put = |name: &str, section: &str, rule: Value| {
        let parents = json!([{ "name": "redirect-gateway", "sectionName": section }]);
        let spec = json!({ "parentRefs": parents, "hostnames": ["redirect.example"], "rules": [rule] });
        stack.put_spec(name, &spec)
    };
    let redirect = json!({ "scheme": "https", "statusCode": 301 });
    let filters = json!([{ "type": "RequestRedirect", "requestRedirect": redirect }]);
    put("http-filter-redirect", "http", json!({ "filters": filters }))?;
    put("https-route", "https", json!({ "backendRefs": [{ "name": "demo" }] }))?;
    stack.everywhere(|worker, at| {
        let ask = || Request::get("/x").header("host", "redirect.example");
        let https = || ask().header("x-forwarded-proto", "https");
        for (request, location) in [
            (ask(), Some("https://redirect.example/x")),
            (ask().header("x-forwarded-proto", "http").from("192.0.2.1"), Some("https://redirect.example/x")),
            (https(), None),
            (https().from("192.0.2.1"), None),
        ] {
            let answer = worker.send(&request)?;
            let status = if location.is_some() { 301 } else { 200 };
            assert_eq!((answer.status, answer.header("location")), (status, location), "{at}: {request:?}");
        }
        Ok(())
    })
}

#[test]
fn clients_are_sent_where_the_specification_says() {
    let second = InProcess::start("second", local(0)).unwrap();
    let mut options = Options::for_test("http-redirects").unwrap();
    options.backends.push(NamedBackend::at("second", second.address()));
    let stack = Stack::start(options).unwrap();
    let cases = cases();
    for (at, case) in cases.iter().enumerate() {
        put(&stack, at, case).unwrap();
    }
    let check = |worker: &mut http::Connection, method: Method, at: usize, words: &str| -> Result<()> {
        let case = &cases[at];
        let request = Request::new(method, case.target).header("host", format!("{}:1234", host(at)));
        let answer = worker.send(&request).with_context(|| format!("{request:?}"))?;
        let expected = location(case, at, stack.gate().port());
        let seen = (answer.status, answer.header("location"), answer.header("x-set"));
        assert_eq!(seen, (case.status, Some(expected.as_str()), Some("too")), "{words}: {}", case.redirect);
        assert!(answer.body.is_empty(), "{}", answer.text());
        Ok(())
    };
    stack
        .everywhere(|worker, words| {
            (0..cases.len()).try_for_each(|at| check(worker, Method::GET, at, words))?;
            check(worker, Method::POST, 0, words)?;
            check(worker, Method::HEAD, 0, words)
        })
        .unwrap();
    stack.recorded(PATIENCE).unwrap();
    let rows = "SELECT verdict, reason, status, path, route, upstream_ms IS NULL, count(*) \
                FROM traffic_events WHERE host LIKE 'case-0.%' OR host LIKE 'case-18.%' GROUP BY route ORDER BY route";
    let rows = stack.sql().unwrap().run(rows).unwrap();
    assert_eq!(
        rows,
        ["redirect|redirect|302|/a/b|case-0|1|12", "redirect|redirect|302|/foo/bar|case-18|1|4"]
    );
    check_backends(&stack, &second).unwrap();
    check_the_guide(&stack).unwrap();
}

/// The port that clients know is another one than Envoy's, as behind a load balancer.
#[test]
fn the_configured_port_counts_for_the_listeners() {
    let mut options = Options::for_test("http-redirects-port").unwrap();
    options.plugin = json!({ "listener_port": 8443 });
    let stack = Stack::start(options).unwrap();
    let case = to(json!({}), "http://HOST:PORT/a/b?c=d&e");
    put(&stack, 0, &case).unwrap();
    let request = Request::get(case.target).header("host", "case-0.example:99");
    let answer = http::send(stack.gate(), &request).unwrap();
    assert_eq!(answer.header("location"), Some(location(&case, 0, 8443).as_str()));
    for (port, status) in [(8443, 200), (stack.gate().port(), 404)] {
        let parents = json!([{ "name": "g", "sectionName": "http", "port": port }]);
        let rules = json!([{ "backendRefs": [{ "name": "demo" }] }]);
        let spec = json!({ "parentRefs": parents, "hostnames": ["port.example"], "rules": rules });
        stack.put_spec("port", &spec).unwrap();
        let request = Request::get("/").header("host", "port.example");
        assert_eq!(http::send(stack.gate(), &request).unwrap().status, status, "{port}");
    }
}
