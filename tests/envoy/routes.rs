//! Routes on a real Envoy: a change moves requests on every worker, without a
//! restart and without a change of Envoy's configuration.

use anyhow::{Result, ensure};
use serde_json::json;
use tidegate_backend::InProcess;
use tidegate_stack::http::{self, Connection, Method, Request};
use tidegate_stack::ports::local;
use tidegate_stack::{NamedBackend, Options, Stack};

/// Two backends, `demo` and `second`, and no route.
fn start(name: &str, recorder: bool) -> Result<(Stack, InProcess)> {
    let second = InProcess::start("second", local(0))?;
    let mut options = Options::for_test(name)?;
    options.recorder = recorder;
    options.backends.push(NamedBackend::at("second", second.address()));
    Ok((Stack::start(options)?, second))
}

/// Which backend answers; asked on 50 fresh connections, all must agree.
fn backend_of(stack: &Stack, target: &str) -> Result<String> {
    let mut names = Vec::new();
    for _ in 0..50 {
        let answer = http::send(stack.gate(), &Request::get(target))?;
        ensure!(answer.status == 200, "{target} answered {}: {}", answer.status, answer.text());
        names.push(answer.json()?["backend"].as_str().unwrap_or_default().to_owned());
    }
    names.dedup();
    ensure!(names.len() == 1, "{target} went to several backends: {names:?}");
    Ok(names.remove(0))
}

fn routes_move(name: &str, recorder: bool) -> Result<()> {
    let (stack, _second) = start(name, recorder)?;
    let none = http::send(stack.gate(), &Request::get("/hello"))?;
    assert_eq!((none.status, none.json()?["code"].as_str()), (404, Some("no_route")));

    stack.put_route("all", "/", "demo")?;
    assert_eq!(backend_of(&stack, "/hello")?, "demo");
    let before = stack.started();

    stack.put_route("moved", "/hello", "second")?;
    assert_eq!(backend_of(&stack, "/hello")?, "second");
    assert_eq!(backend_of(&stack, "/hello/more?x=1")?, "second");
    assert_eq!(backend_of(&stack, "/hellos")?, "demo", "a prefix is whole elements");
    let mut kept = stack.connection_per_worker()?;
    for connection in &mut kept {
        assert_eq!(connection.send(&Request::get("/hello"))?.json()?["backend"], "second");
    }

    stack.delete_route("moved")?;
    assert_eq!(backend_of(&stack, "/hello")?, "demo");
    for connection in &mut kept {
        assert_eq!(connection.send(&Request::get("/hello"))?.json()?["backend"], "demo");
    }
    assert_eq!(stack.started(), before, "nothing was restarted");
    Ok(())
}

#[test]
fn a_route_moves_requests_on_every_worker() {
    routes_move("routes", true).unwrap();
}

#[test]
fn a_route_moves_requests_without_the_recorder() {
    routes_move("routes-bare", false).unwrap();
}

#[test]
fn matches_are_those_of_the_gateway_api() {
    let (stack, _second) = start("routes-matches", true).unwrap();
    stack.put_route("all", "/", "demo").unwrap();
    let route = json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": { "name": "picky" },
        "spec": {
            "hostnames": ["*.example.com"],
            "rules": [{
                "matches": [{
                    "path": { "type": "RegularExpression", "value": "/v[0-9]+/items" },
                    "method": "POST",
                    "headers": [{ "name": "X-Kind", "value": "b" }],
                    "queryParams": [{ "name": "q", "value": "1" }],
                }],
                "backendRefs": [{ "name": "second" }],
            }],
        },
    });
    stack.api_ok(Method::PUT, "/api/admin/routes/picky?wait_applied=10s", Some(&route)).unwrap();
    let fits = |host: &str, method: Method, target: &str, kind: &str| {
        let request = Request::new(method, target).header("host", host).header("x-kind", kind);
        let mut connection = Connection::open(stack.gate()).unwrap();
        connection.send(&request).unwrap().json().unwrap()["backend"] == "second"
    };
    assert!(fits("a.example.com:8080", Method::POST, "/v12/items?q=1", "b"));
    assert!(!fits("example.com", Method::POST, "/v12/items?q=1", "b"), "a wildcard is not the name itself");
    assert!(!fits("a.example.com", Method::GET, "/v12/items?q=1", "b"));
    assert!(!fits("a.example.com", Method::POST, "/v/items?q=1", "b"));
    assert!(!fits("a.example.com", Method::POST, "/v12/items?q=2", "b"));
    assert!(!fits("a.example.com", Method::POST, "/v12/items?q=1", "B"));
}

#[test]
fn a_backend_that_does_not_exist_is_500() {
    let (stack, _second) = start("routes-nowhere", true).unwrap();
    stack.put_route("nowhere", "/", "no-such-cluster").unwrap();
    let answer = http::send(stack.gate(), &Request::get("/")).unwrap();
    assert_eq!(answer.status, 500, "{}", answer.text());
}

#[test]
fn a_client_cannot_choose_the_cluster() {
    let (stack, _second) = start("routes-spoof", true).unwrap();
    stack.put_route("all", "/", "demo").unwrap();
    let request = Request::get("/")
        .header("x-tidegate-cluster", "second")
        .header("x-tidegate-else", "x")
        .header("x-envoy-upstream-rq-timeout-ms", "1");
    let answer = http::send(stack.gate(), &request).unwrap().json().unwrap();
    assert_eq!(answer["backend"], "demo");
    assert_eq!(answer["headers"]["x-tidegate-cluster"], json!(null), "nor does a backend see ours");
    assert_eq!(answer["headers"]["x-tidegate-else"], json!(null));
    assert_eq!(answer["headers"]["x-envoy-upstream-rq-timeout-ms"], json!(null));
}
