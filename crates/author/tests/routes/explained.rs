//! The criterion by which a match comes before another.

use serde_json::{Value, json};
use tidegate_author::explain::{self, Criterion};
use tidegate_author::{PathMatch, Route};
use tidegate_policy::request::Facts;

use super::{document, read};

const HEADERS: &[(&[u8], &[u8])] = &[(b"x", b"1")];

/// A route of one rule with one match.
fn route(name: &str, hostnames: &[&str], wanted: &Value) -> Route {
    read(&document(name, hostnames, json!([{"matches": [wanted]}])))
}

/// The criterion between two routes, of which the first comes before the second.
fn between(first: &Route, second: &Route) -> Criterion {
    let path = b"/a/b?q=1";
    let facts = Facts { method: b"GET", host: b"x.a.example", path, headers: HEADERS, ..Facts::default() };
    let taken = explain::taken([second, first], &super::listeners(), &facts);
    let [one, other] = &taken[..] else { panic!("{taken:?}") };
    assert_eq!((&one.route.name, &other.route.name), (&first.name, &second.name));
    explain::precedence(one, other).1
}

#[test]
fn each_criterion_decides_where_those_before_it_do_not() {
    let path = |kind: &str, value: &str| json!({"path": {"type": kind, "value": value}});
    let conditions = json!([{"name": "x", "value": "1"}]);
    let query = json!([{"name": "q", "value": "1"}]);
    let whole = |method: Value, headers: &Value, query: &Value| json!({"method": method, "headers": headers, "queryParams": query});
    let none = json!([]);
    for (by, one, other) in [
        (Criterion::PathType, path("Exact", "/a/b"), path("Template", "/a/b")),
        (Criterion::PathType, path("Template", "/{x}/{y}"), path("RegularExpression", "/a/b")),
        (Criterion::PathType, path("RegularExpression", "/.*"), path("PathPrefix", "/a/b")),
        (Criterion::PathLength, path("PathPrefix", "/a"), path("PathPrefix", "/")),
        (Criterion::Literals, path("Template", "/a/{x}"), path("Template", "/{x}/{y}")),
        (Criterion::Literals, path("Template", "/a/{x}"), path("Template", "/{x}/b")),
        (Criterion::Method, whole(json!("GET"), &none, &none), whole(json!(null), &conditions, &query)),
        (Criterion::Headers, whole(json!(null), &conditions, &none), whole(json!(null), &none, &query)),
        (Criterion::Query, whole(json!(null), &none, &query), whole(json!(null), &none, &none)),
        (Criterion::Name, path("Template", "/{x}/b"), path("Template", "/{y}/b")),
    ] {
        assert_eq!(between(&route("a", &[], &one), &route("b", &[], &other)), by, "{one} and {other}");
    }
    let (exact, wide) = (path("PathPrefix", "/"), path("Exact", "/a/b"));
    let by_host = |one: &[&str], other: &[&str]| between(&route("b", one, &exact), &route("a", other, &wide));
    assert_eq!(by_host(&["x.a.example", "*.example"], &["*.a.example"]), Criterion::Hostname);
    assert_eq!(by_host(&["*.a.example"], &["*.example"]), Criterion::Hostname);
    assert_eq!(by_host(&["*.example"], &[]), Criterion::Hostname);
    let aged = |name, created| Route { created, ..route(name, &[], &exact) };
    assert_eq!(between(&aged("b", Some(1)), &aged("a", Some(2))), Criterion::Age);
    assert_eq!(between(&aged("b", Some(1)), &aged("a", None)), Criterion::Age);
}

#[test]
fn within_a_route_the_order_decides() {
    let rules = json!([{"matches": [{"method": "PUT"}, {}]}, {}]);
    let route = read(&document("r", &[], rules));
    let taken = explain::taken([&route], &super::listeners(), &Facts { path: b"/", ..Facts::default() });
    assert_eq!(taken.iter().map(|one| (one.rule, one.place)).collect::<Vec<_>>(), [(0, 1), (1, 0)]);
    assert_eq!(explain::precedence(&taken[0], &taken[1]).1, Criterion::Order);
    assert!(matches!(&taken[0].wanted.path, PathMatch::Prefix(prefix) if prefix == "/"));
}
