//! Rewrites of HTTPRoutes on a real Envoy: what the backend sees of host and path,
//! and what is recorded.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tidegate_stack::http::{PATIENCE, Request};
use tidegate_stack::{Options, Stack};

/// Rewrites of what begins with `prefix`, by the rule and by its backendRef, a
/// request, and what the backend sees. `HOST` stands for the host as it was sent.
struct Case {
    prefix: &'static str,
    rule: Value,
    backend: Value,
    target: &'static str,
    path: &'static str,
    host: &'static str,
}

fn full(path: &str) -> Value {
    json!({ "path": { "type": "ReplaceFullPath", "replaceFullPath": path } })
}

fn replaced(with: &str) -> Value {
    json!({ "path": { "type": "ReplacePrefixMatch", "replacePrefixMatch": with } })
}

fn by_rule(prefix: &'static str, rule: Value, target: &'static str, path: &'static str) -> Case {
    Case { prefix, rule, backend: Value::Null, target, path, host: "HOST" }
}

fn by_backend(prefix: &'static str, backend: Value, target: &'static str, path: &'static str) -> Case {
    Case { prefix, rule: Value::Null, backend, target, path, host: "HOST" }
}

fn cases() -> Vec<Case> {
    let named = |host: &str| json!({ "hostname": host });
    let mut both = replaced("/xyz");
    both["hostname"] = json!("b.example");
    vec![
        by_rule("/foo", full("/x/y"), "/foo/bar?a=b&c", "/x/y?a=b&c"),
        by_rule("/", full(""), "/foo?a", "/?a"),
        // The specification's table.
        by_rule("/foo", replaced("/xyz"), "/foo/bar", "/xyz/bar"),
        by_rule("/foo", replaced("/xyz/"), "/foo/bar", "/xyz/bar"),
        by_rule("/foo/", replaced("/xyz"), "/foo/bar", "/xyz/bar"),
        by_rule("/foo/", replaced("/xyz/"), "/foo/bar", "/xyz/bar"),
        by_rule("/foo", replaced("/xyz"), "/foo", "/xyz"),
        by_rule("/foo", replaced("/xyz"), "/foo/", "/xyz/"),
        by_rule("/foo", replaced(""), "/foo/bar", "/bar"),
        by_rule("/foo", replaced(""), "/foo/", "/"),
        by_rule("/foo", replaced(""), "/foo", "/"),
        by_rule("/foo", replaced("/"), "/foo/", "/"),
        by_rule("/foo", replaced("/"), "/foo", "/"),
        // And besides.
        by_rule("/strip", replaced("/"), "/strip/three", "/three"),
        by_rule("/foo", replaced("/"), "/foo?a=/foo", "/?a=/foo"),
        by_rule("/foo", replaced("/"), "/foo//bar", "/bar"),
        by_rule("/foo", replaced("/xyz/"), "/foo//bar//", "/xyz/bar/"),
        by_rule("/", replaced("/xyz"), "/", "/xyz/"),
        by_rule("/", replaced("/xyz"), "/a%20b", "/xyz/a%20b"),
        // Hosts.
        Case { host: "b.example", ..by_rule("/", named("b.example"), "/a?b", "/a?b") },
        Case { host: "b.example", ..by_rule("/foo", both.clone(), "/foo/bar", "/xyz/bar") },
        // On backendRefs, alone and after the rule's.
        by_backend("/foo", full("/x"), "/foo/bar?a", "/x?a"),
        by_backend("/foo", replaced("/"), "/foo/bar", "/bar"),
        Case { host: "b.example", ..by_backend("/foo", both, "/foo", "/xyz") },
        Case { rule: named("c.example"), host: "c.example", ..by_backend("/foo", full("/x"), "/foo", "/x") },
        Case { rule: named("c.example"), host: "b.example", ..by_backend("/", named("b.example"), "/", "/") },
        Case { rule: full("/rule"), ..by_backend("/foo", replaced("/xyz"), "/foo/bar", "/xyz/bar") },
    ]
}

fn host(at: usize) -> String {
    format!("case-{at}.example:8080")
}

/// Filters with this rewrite, if it is one, and with a header that says who adds it.
fn filters(rewrite: &Value, who: &str) -> Value {
    let add = json!({ "add": [{ "name": "x-by", "value": who }] });
    let mut filters = vec![json!({ "type": "RequestHeaderModifier", "requestHeaderModifier": add })];
    if !rewrite.is_null() {
        filters.push(json!({ "type": "URLRewrite", "urlRewrite": rewrite }));
    }
    filters.into()
}

fn put(stack: &Stack, at: usize, case: &Case) -> Result<()> {
    let rule = json!({
        "matches": [{ "path": { "type": "PathPrefix", "value": case.prefix } }],
        "filters": filters(&case.rule, "rule"),
        "backendRefs": [{ "name": "demo", "filters": filters(&case.backend, "backend") }],
    });
    let hostname = format!("case-{at}.example");
    stack.put_spec(&format!("case-{at}"), &json!({ "hostnames": [hostname], "rules": [rule] }))
}

#[test]
fn backends_see_what_the_specification_says() {
    let stack = Stack::start(Options::for_test("http-rewrites").unwrap()).unwrap();
    let cases = cases();
    for (at, case) in cases.iter().enumerate() {
        put(&stack, at, case).unwrap();
    }
    stack
        .everywhere(|worker, words| {
            for (at, case) in cases.iter().enumerate() {
                let request = Request::get(case.target).header("host", host(at)).header("x-by", "client");
                let seen = worker.send(&request)?.json().with_context(|| format!("{request:?}"))?;
                let expected = (json!(case.path), json!(case.host.replace("HOST", &host(at))));
                assert_eq!(
                    (&seen["path"], &seen["host"]),
                    (&expected.0, &expected.1),
                    "{words}: {request:?}"
                );
                assert_eq!(seen["headers"]["x-by"], "client, rule, backend", "{words}");
                assert_eq!(seen["headers"]["x-envoy-original-path"], Value::Null, "{words}");
            }
            Ok(())
        })
        .unwrap();
    // Recorded is what the client asked for, after Envoy has put slashes in order.
    stack.recorded(PATIENCE).unwrap();
    let mut sql = stack.sql().unwrap();
    for (at, case) in cases.iter().enumerate() {
        let asked = case.target.split('?').next().unwrap().replace("//", "/");
        let rows = sql
            .run(&format!(
                "SELECT DISTINCT host, path, verdict FROM traffic_events WHERE route = 'case-{at}'"
            ))
            .unwrap();
        assert_eq!(rows, [format!("{}|{asked}|allow", host(at))]);
    }
}
