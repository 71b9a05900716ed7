//! Which rule of which HTTPRoute takes a request, on a real Envoy: the cases of the
//! specification's comments, with the caches and directly, on every worker.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tidegate_stack::http::Request;
use tidegate_stack::{Options, Stack};

/// A rule of this name, which its answers have in `x-rule`: `HEAD` has no body that
/// could say it.
fn rule(name: &str, matches: Value) -> Value {
    json!({
        "matches": matches,
        "filters": [{
            "type": "ResponseHeaderModifier",
            "responseHeaderModifier": { "set": [{ "name": "x-rule", "value": name }] },
        }],
        "backendRefs": [{ "name": "demo" }],
    })
}

/// A rule with one match, on a prefix of its own and `more`.
fn prefix(name: &str, path: &str, more: Value) -> Value {
    let mut one = json!({ "path": { "type": "PathPrefix", "value": path } });
    one.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    rule(name, json!([one]))
}

fn path(name: &str, kind: &str, value: &str) -> Value {
    rule(name, json!([{ "path": { "type": kind, "value": value } }]))
}

fn put(stack: &Stack, route: &str, hostname: Option<&str>, rules: Value) -> Result<()> {
    let hostnames: Vec<_> = hostname.into_iter().collect();
    stack.put_spec(route, &json!({ "hostnames": hostnames, "rules": rules }))
}

/// A request, and the rule that takes it; `None`: none does, and it is 404.
struct Case {
    what: &'static str,
    request: Request,
    host: String,
    rule: Option<&'static str>,
}

fn case(what: &'static str, host: &str, line: &str, rule: impl Into<Option<&'static str>>) -> Case {
    with(what, host, line, &[], rule)
}

fn with(
    what: &'static str,
    host: &str,
    line: &str,
    headers: &[(&str, &str)],
    rule: impl Into<Option<&'static str>>,
) -> Case {
    let (method, target) = line.split_once(' ').expect("a method and a target");
    let mut request = Request::new(method.parse().expect("a method"), target).header("host", host);
    for (name, value) in headers {
        request = request.header(name, value);
    }
    Case { what, request, host: host.to_owned(), rule: rule.into() }
}

fn put_paths(stack: &Stack) -> Result<()> {
    let rules = json!([
        path("abc", "PathPrefix", "/abc"),
        path("slash", "PathPrefix", "/match/"),
        path("exact", "Exact", "/exact"),
        path("exact slash", "Exact", "/exact/slash/"),
        path("regex", "RegularExpression", "/v[0-9]+/items"),
        path("template", "Template", "/repos/{owner}/{repo}/issues"),
        rule("either", json!([{ "path": { "value": "/one" } }, { "path": { "value": "/other" } }])),
    ]);
    put(stack, "paths", Some("paths.example"), rules)
}

fn paths() -> Vec<Case> {
    let at = |what, target: &str, rule: Option<&'static str>| {
        case(what, "paths.example", &format!("GET {target}"), rule)
    };
    vec![
        at("a prefix is the path itself", "/abc", Some("abc")),
        at("with a slash", "/abc/", Some("abc")),
        at("and what is below it", "/abc/def?x=1", Some("abc")),
        at("with a query only", "/abc?abcd", Some("abc")),
        at("but not half an element", "/abcd", None),
        at("nor another case", "/ABC", None),
        at("nor elsewhere", "/x/abc", None),
        at("a prefix's trailing slash does not count", "/match", Some("slash")),
        at("nor when it is there", "/match/", Some("slash")),
        at("nor below", "/match/a", Some("slash")),
        at("nor does it make half elements match", "/matches", None),
        at("exact", "/exact", Some("exact")),
        at("exact has no query", "/exact?a=b", Some("exact")),
        at("exact has no slash more", "/exact/", None),
        at("nor one less", "/exact/slash", None),
        at("exact with its slash", "/exact/slash/", Some("exact slash")),
        at("exact has a case", "/Exact", None),
        at("a regex takes the path", "/v12/items?a=/b", Some("regex")),
        at("the whole of it", "/v12/items/", None),
        at("from its beginning", "/a/v12/items", None),
        at("a regex has a case", "/V12/items", None),
        at("a template", "/repos/a/b/issues", Some("template")),
        at("of whole elements", "/repos/a/b/issue", None),
        at("each of which is there", "/repos/a/issues", None),
        at("and no more", "/repos/a/b/issues/1", None),
        at("any one of a rule's matches", "/one", Some("either")),
        at("is enough", "/other", Some("either")),
    ]
}

fn put_conditions(stack: &Stack) -> Result<()> {
    let header = |name: &str, value: &str| json!({ "name": name, "value": value });
    let rules = json!([
        prefix("get", "/m", json!({ "method": "GET" })),
        prefix("first", "/h", json!({ "headers": [header("X-Kind", "b"), header("x-kind", "other")] })),
        prefix("several", "/many", json!({ "headers": [header("x-many", "1,2")] })),
        prefix(
            "pattern",
            "/pattern",
            json!({ "headers": [{ "type": "RegularExpression", "name": "x-n", "value": "[0-9]+" }] })
        ),
        prefix("query", "/q", json!({ "queryParams": [header("q", "1"), header("q", "2")] })),
        prefix("decoded", "/d", json!({ "queryParams": [header("q", "a b")] })),
        prefix(
            "all",
            "/all",
            json!({ "method": "PUT", "headers": [header("x-a", "1")], "queryParams": [header("b", "2")] })
        ),
    ]);
    put(stack, "conditions", Some("conditions.example"), rules)
}

fn conditions() -> Vec<Case> {
    let at = |what, line: &str, headers: &[(&str, &str)], rule: Option<&'static str>| {
        with(what, "conditions.example", line, headers, rule)
    };
    vec![
        at("a method", "GET /m", &[], Some("get")),
        at("GET does not take HEAD", "HEAD /m", &[], None),
        at("nor POST", "POST /m", &[], None),
        at("of two conditions on a header the first counts", "GET /h", &[("x-kind", "b")], Some("first")),
        at("and not the second", "GET /h", &[("x-kind", "other")], None),
        at("values have a case", "GET /h", &[("x-kind", "B")], None),
        at("values are whole", "GET /h", &[("x-kind", "bb")], None),
        at("the header must be there", "GET /h", &[], None),
        at("a repeated header is all its lines", "GET /h", &[("x-kind", "b"), ("x-kind", "c")], None),
        at("joined", "GET /many", &[("x-many", "1"), ("x-many", "2")], Some("several")),
        at("or one line", "GET /many", &[("x-many", "1,2")], Some("several")),
        at("in their order", "GET /many", &[("x-many", "2"), ("x-many", "1")], None),
        at("a header's regex", "GET /pattern", &[("x-n", "12")], Some("pattern")),
        at("takes the whole value", "GET /pattern", &[("x-n", "12a")], None),
        at("a query parameter", "GET /q?a=&q=1&c", &[], Some("query")),
        at("of two conditions on it the first counts", "GET /q?q=2", &[], None),
        at("of repeated ones the first counts", "GET /q?q=1&q=2", &[], Some("query")),
        at("and not the second", "GET /q?q=2&q=1", &[], None),
        at("names have a case", "GET /q?Q=1", &[], None),
        at("a value is whole", "GET /q?q=11", &[], None),
        at("without a value it is empty", "GET /q?q", &[], None),
        at("a query is compared decoded", "GET /d?q=a%20b", &[], Some("decoded")),
        at("a plus is a space", "GET /d?x&%71=a+b", &[], Some("decoded")),
        at("once", "GET /d?q=a%2520b", &[], None),
        at("all of a match", "PUT /all?b=2", &[("x-a", "1")], Some("all")),
        at("without the method", "GET /all?b=2", &[("x-a", "1")], None),
        at("without the header", "PUT /all?b=2", &[], None),
        at("without the parameter", "PUT /all", &[("x-a", "1")], None),
    ]
}

/// `older` is there first, though its name comes last.
fn put_precedence(stack: &Stack) -> Result<()> {
    let conditions = |names: &[&str]| -> Value {
        names.iter().map(|name| json!({ "name": name, "value": "1" })).collect()
    };
    let host = Some("precedence.example");
    let older = json!([
        prefix("older", "/age", json!({})),
        prefix("prefix kind", "/kind", json!({ "method": "GET", "headers": conditions(&["a", "b"]) })),
        path("regex kind", "RegularExpression", "/kind/.*"),
        prefix("short", "/long", json!({ "method": "GET", "headers": conditions(&["a", "b"]) })),
        prefix("prefix", "/exact", json!({ "method": "GET", "headers": conditions(&["a", "b"]) })),
        prefix("headers", "/method", json!({ "headers": conditions(&["a", "b", "c"]) })),
        prefix("one header", "/headers", json!({ "headers": conditions(&["a"]) })),
        prefix("queries", "/query", json!({ "queryParams": conditions(&["a", "b", "c"]) })),
        prefix("one query", "/queries", json!({ "queryParams": conditions(&["a"]) })),
    ]);
    put(stack, "z-older", host, older)?;
    let younger = json!([
        prefix("younger", "/age", json!({})),
        path("template kind", "Template", "/kind/{one}"),
        path("exact kind", "Exact", "/kind/x"),
        prefix("long", "/long/er", json!({})),
        path("exact", "Exact", "/exact"),
        prefix("method", "/method", json!({ "method": "GET" })),
        prefix("two headers", "/headers", json!({ "headers": conditions(&["a", "b"]) })),
        prefix("a header", "/query", json!({ "headers": conditions(&["a"]) })),
        prefix("two queries", "/queries", json!({ "queryParams": conditions(&["a", "b"]) })),
        prefix("first", "/order", json!({ "method": "GET" })),
        prefix("second", "/order", json!({ "method": "GET" })),
        // The rule as a whole comes later; its second match is the better one.
        rule("early", json!([{ "path": { "value": "/per" } }, { "path": { "value": "/elsewhere" } }])),
        rule("late", json!([{ "path": { "value": "/elsewhere" } }, { "path": { "value": "/per/match" } }])),
    ]);
    put(stack, "a-younger", host, younger)
}

fn precedence() -> Vec<Case> {
    let all = [("a", "1"), ("b", "1"), ("c", "1")];
    let at = |what, target: &str, rule: &'static str| {
        with(what, "precedence.example", &format!("GET {target}?a=1&b=1&c=1"), &all, rule)
    };
    vec![
        at("age before name", "/age", "older"),
        at("an exact path before a template", "/kind/x", "exact kind"),
        at("a template before a regex", "/kind/y", "template kind"),
        at("a regex before a prefix", "/kind/y/z", "regex kind"),
        at("a prefix at last", "/kind", "prefix kind"),
        at("a longer prefix before everything else", "/long/er", "long"),
        at("where it matches", "/long/est", "short"),
        at("an exact path before a prefix", "/exact", "exact"),
        at("where it matches", "/exact/", "prefix"),
        at("a method before any number of headers", "/method", "method"),
        at("the number of headers", "/headers", "two headers"),
        at("a header before any number of query parameters", "/query", "a header"),
        at("the number of query parameters", "/queries", "two queries"),
        at("the order of rules at last", "/order", "first"),
        at("each match by itself", "/per/match", "late"),
        at("and so the other one", "/per", "early"),
    ]
}

/// Routes of one age: their namespaces and names decide. Two have the same name.
fn put_ties(stack: &Stack) -> Result<()> {
    let host = "ties.example";
    put(stack, "tie-b", Some(host), json!([prefix("b", "/", json!({}))]))?;
    put(stack, "tie-c", Some(host), json!([prefix("c", "/a-namespace", json!({}))]))?;
    put(stack, "tie-a", Some(host), json!([prefix("a", "/", json!({}))]))?;
    put(stack, "a-namespace/tie-c", Some(host), json!([prefix("namespace", "/a-namespace", json!({}))]))?;
    let same = "UPDATE routes SET created_at = '2026-01-01 00:00:00.000' WHERE name LIKE '%tie-%'";
    stack.sql()?.run(same)?;
    Ok(())
}

fn ties() -> Vec<Case> {
    vec![
        case("the name, where all else is equal", "ties.example", "GET /", "a"),
        case("a namespace before the name", "ties.example", "GET /a-namespace", "namespace"),
    ]
}

fn put_hostnames(stack: &Stack) -> Result<()> {
    let rules = |name: &str, last: usize| -> Value {
        let paths = ["/host/one", "/host/two", "/host/three", "/host/four"];
        paths[..last].iter().map(|path| prefix(name, path, json!({}))).collect()
    };
    // What comes first in age wins nothing here.
    put(stack, "any", None, rules("any", 4))?;
    put(stack, "far", Some("*.hosts.example"), rules("far", 3))?;
    put(stack, "near", Some("*.b.hosts.example"), rules("near", 2))?;
    put(stack, "exact", Some("a.b.hosts.example"), rules("exact", 1))
}

fn hostnames() -> Vec<Case> {
    let at = |what, host: &str, path: &str, rule: &'static str| {
        case(what, host, &format!("GET /host/{path}"), rule)
    };
    vec![
        at("the whole name", "a.b.hosts.example", "one", "exact"),
        at("then the longest wildcard", "a.b.hosts.example", "two", "near"),
        at("then the shorter one", "a.b.hosts.example", "three", "far"),
        at("then routes without hostnames", "a.b.hosts.example", "four", "any"),
        at("the port does not count", "a.b.hosts.example:8443", "one", "exact"),
        at("nor does case", "A.B.Hosts.Example:80", "one", "exact"),
        at("a wildcard is one label", "x.b.hosts.example", "one", "near"),
        at("or several", "x.y.b.hosts.example:1", "one", "near"),
        at("but not the name itself", "b.hosts.example", "one", "far"),
        at("not even the last one", "hosts.example", "one", "any"),
        at("nor half a label", "xb.hosts.example", "two", "far"),
        at("nor something behind it", "a.b.hosts.example.org", "one", "any"),
        at("an address has no name", "127.0.0.1:80", "one", "any"),
        at("of either family", "[::1]:80", "one", "any"),
        case("nobody's host and path", "a.b.hosts.example", "GET /host/five", None),
    ]
}

#[test]
fn the_rule_that_the_specification_says_takes_a_request() {
    let stack = Stack::start(Options::for_test("http-matches").unwrap()).unwrap();
    put_paths(&stack).unwrap();
    put_conditions(&stack).unwrap();
    put_precedence(&stack).unwrap();
    put_ties(&stack).unwrap();
    put_hostnames(&stack).unwrap();
    let cases: Vec<_> =
        [paths(), conditions(), precedence(), ties(), hostnames()].into_iter().flatten().collect();
    stack
        .everywhere(|worker, at| {
            for Case { what, request, host, rule } in &cases {
                let answer = worker.send(request).context(*what)?;
                assert_eq!(answer.header("x-rule"), *rule, "{what} ({at}): {request:?}");
                let Some(_) = rule else {
                    assert_eq!(answer.status, 404, "{what} ({at})");
                    continue;
                };
                assert_eq!(answer.json()?["host"], **host, "{what} ({at}): forwarded as it came");
            }
            Ok(())
        })
        .unwrap();
    stack.recorded(Duration::from_secs(20)).unwrap();
    let routes = "SELECT DISTINCT route FROM traffic_events WHERE host = 'ties.example' ORDER BY 1";
    assert_eq!(stack.sql().unwrap().run(routes).unwrap(), ["a-namespace/tie-c", "tie-a"]);
}
