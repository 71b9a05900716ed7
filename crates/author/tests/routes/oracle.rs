//! Random routes and requests: the table against the specification as `explain` has it.

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Value, json};
use tidegate_author::{ObjectRef, PathMatch, Route, Rule, explain};
use tidegate_policy::request::Facts;

use super::{Winner, compile, document, found, listeners, read, table_of, winner};

const HOSTNAMES: &[&str] =
    &["a.example", "x.a.example", "b.example", "*.example", "*.a.example", "*.x.a.example", "example"];
const HOSTS: &[&str] = &[
    "a.example",
    "x.a.example:80",
    "y.x.a.example",
    "B.Example.",
    "example",
    "c.example",
    "other",
    "[::1]:80",
    "",
    "a..example",
    "a.example:abc",
    "a.example:65536",
    "a.example,b.example",
    "u@a.example",
    "[::1",
    "[::1]x",
    "::1",
];
const PATHS: &[&str] = &["/", "/a", "/a/", "/a/b", "/a/b/", "/b", "/ab", "/a/b/c"];
const REGEXES: &[&str] =
    &["/a/.*", "/.*", "/a", "(/[ab])+", "/a/b(/c)?", "/[^/]*/b/?", "/ab?|/b", "(?i)/A/.*"];
const TEMPLATES: &[&str] = &[
    "/",
    "/a",
    "/{x}",
    "/a/{x}",
    "/{x}/b",
    "/{x}/{y}",
    "/{y}/{x}",
    "/{x}/",
    "/a/{x}/",
    "/a/{x}/c",
    "/{x}/b/c",
    "/a/b/{x}",
    "/{x}/{y}/c",
    "/{x}/{y}/{z}",
];
const TARGETS: &[&str] = &[
    "/", "/a", "/a/", "/a/b", "/a/b/", "/a/b/c", "/a/b/c/", "/x/b/c", "/x//c", "/a/x/x", "/b", "/b/b", "/ab",
    "/A/x", "//", "/a//b", "/c", "", "*", "/a\u{e9}",
];
const QUERIES: &[&str] = &[
    "",
    "?",
    "?p=1",
    "?p=2&p=1",
    "?p=1&q=1",
    "?q=1&p=1#x",
    "?q",
    "?p=11",
    "#?p=1",
    "?%70=%31&q=1+2",
    "?q=1%2C2&p=%2",
    "?q=%31%20%32&%71=2",
    "?p=1%2b2",
    "?p=%251",
];
const VALUES: &[&str] = &["1", "2", "11", "1,2", "1 2", "1+2", "%2", "%251", "%1"];
const VALUE_REGEXES: &[&str] = &["1+", ".*", "[12],2", "1|2", "1[ +]2"];

fn condition(names: &'static [&'static str]) -> impl Strategy<Value = Value> {
    let exact =
        (select(names), select(VALUES)).prop_map(|(name, value)| json!({"name": name, "value": value}));
    let regex = (select(names), select(VALUE_REGEXES))
        .prop_map(|(name, value)| json!({"type": "RegularExpression", "name": name, "value": value}));
    prop_oneof![3 => exact, 1 => regex]
}

fn path() -> impl Strategy<Value = Value> {
    let plain = (select(&["Exact", "PathPrefix"][..]), select(PATHS));
    let regex = (Just("RegularExpression"), select(REGEXES));
    let template = (Just("Template"), select(TEMPLATES));
    prop_oneof![4 => plain, 1 => regex, 2 => template]
        .prop_map(|(kind, value)| json!({"type": kind, "value": value}))
}

/// Regexes that overlap: of shapes that say all of them, with tests of elements, or tested whole.
fn regex_path() -> impl Strategy<Value = Value> {
    let elements = [
        "a",
        "b",
        "[ab]",
        "[^/]+",
        "[^/]*",
        "[0-9]+",
        "[a-z]+",
        "(?:a|b/a)",
        "a.",
        "x-[0-9]{2}",
        ".*",
        "(?i:a)",
        r"\xff",
        "(?u:[^/])",
        r"a\b",
        "a?",
        "[a-z0-9]{1,3}",
        "(?:a/?|b)+",
    ];
    let ends = ["", "", "", "/?", "(?:/.*)?", "/.*", "$"];
    (vec(select(elements.to_vec()), 1..4), select(ends.to_vec())).prop_map(|(elements, end)| {
        json!({"type": "RegularExpression", "value": format!("/{}{end}", elements.join("/"))})
    })
}

fn one_match() -> impl Strategy<Value = Value> {
    let method = option::weighted(0.3, select(&["GET", "HEAD", "POST"][..]));
    let headers = prop_oneof![2 => Just(vec![]), 1 => vec(condition(&["x", "Y"]), 0..3)];
    let query = prop_oneof![2 => Just(vec![]), 1 => vec(condition(&["p", "q"]), 0..3)];
    (option::weighted(0.9, path()), method, headers, query).prop_map(|(path, method, headers, query)| {
        json!({"path": path, "method": method, "headers": headers, "queryParams": query})
    })
}

fn regex_match() -> impl Strategy<Value = Value> {
    (one_match(), option::weighted(0.9, regex_path())).prop_map(|(mut wanted, path)| {
        if let Some(path) = path {
            wanted["path"] = path;
        }
        wanted
    })
}

/// Many matches of regexes, and some others, on one host.
fn regex_routes() -> impl Strategy<Value = Vec<Route>> {
    let route = (vec(regex_match(), 1..5), option::of(-1i64..3));
    vec(route, 1..16).prop_map(|routes| {
        let read = |(number, (matches, created)): (usize, (Vec<Value>, _))| {
            let rules = json!([{"matches": matches, "backendRefs": [{"name": "b"}]}]);
            let mut route = read(&document(&format!("r{number}"), &["a.example"], rules));
            route.created = created;
            route
        };
        routes.into_iter().enumerate().map(read).collect()
    })
}

/// Paths of such regexes, some of them longer than any shape, some not UTF-8.
fn regex_target() -> impl Strategy<Value = Vec<u8>> {
    let elements =
        [&b"a"[..], b"b", b"", b"7", b"42", b"ab", b"A", b"x-42", b"a%2Fb", b"\xff", b"\xc3\xa9", b"a\n"];
    let short = vec(select(elements.to_vec()), 1..5);
    let long = (select(elements.to_vec()), 30usize..40).prop_map(|(element, times)| vec![element; times]);
    let path = prop_oneof![9 => short, 1 => long];
    (path, select(&["", "?p=1"][..]))
        .prop_map(|(path, query)| [b"/", path.join(&b'/').as_slice(), query.as_bytes()].concat())
}

fn rule() -> impl Strategy<Value = Value> {
    let backend = (select(&["b0", "b1", "b2"][..]), option::of(0u32..4))
        .prop_map(|(name, weight)| json!({"name": name, "weight": weight}));
    let geo = subsequence(&["g0", "g1", "g2"][..], 0..3).prop_map(|names| {
        let filter = |name| {
            let reference = json!({"group": "tidegate.dev", "kind": "GeoRule", "name": name});
            json!({"type": "ExtensionRef", "extensionRef": reference})
        };
        names.into_iter().map(filter).collect::<Vec<_>>()
    });
    (vec(one_match(), 0..4), vec(backend, 0..4), geo).prop_map(|(matches, backends, filters)| {
        json!({"matches": matches, "backendRefs": backends, "filters": filters})
    })
}

/// References to listeners; `gone` and port 9 are not declared.
fn parent() -> impl Strategy<Value = Value> {
    let section = option::weighted(0.8, select(&["http", "https", "alt", "wide", "one", "gone"][..]));
    (section, option::weighted(0.2, select(&[80, 8080, 9][..])))
        .prop_map(|(section, port)| json!({"name": "g", "sectionName": section, "port": port}))
}

prop_compose! {
    fn route()(
        hostnames in prop_oneof![1 => Just(vec![]), 2 => subsequence(HOSTNAMES, 1..4)],
        parents in prop_oneof![2 => Just(vec![]), 3 => vec(parent(), 1..3)],
        namespace in option::of(select(&["n", "n-1", "default"][..])),
        created in option::of(-1i64..3),
        rules in vec(rule(), 1..4),
    ) -> Route {
        let metadata = json!({"name": "set-later", "namespace": namespace});
        let spec = json!({"parentRefs": parents, "hostnames": hostnames, "rules": rules});
        let mut route = read(&json!({"metadata": metadata, "spec": spec}));
        route.created = created;
        route
    }
}

/// Up to six routes, names in an order of their own, one name in several namespaces.
fn routes() -> impl Strategy<Value = Vec<Route>> {
    let names = Just(vec!["r1", "r1", "r-3", "r4", "a", "z"]).prop_shuffle();
    (vec(route(), 0..7), names).prop_map(|(mut routes, names)| {
        routes.iter_mut().zip(names).for_each(|(route, name)| name.clone_into(&mut route.name));
        let mut ids = BTreeSet::new();
        routes.retain(|route| ids.insert(route.id()));
        routes
    })
}

#[derive(Clone, Debug)]
struct Request {
    method: &'static str,
    host: &'static str,
    target: String,
    https: bool,
    port: u16,
    headers: Vec<(&'static str, &'static str)>,
    random_bits: u32,
}

prop_compose! {
    fn request()(
        method in select(&["GET", "HEAD", "POST", "PURGE", ""][..]),
        host in select(HOSTS),
        path in select(TARGETS),
        query in select(QUERIES),
        https: bool,
        port in select(&[80, 443, 8080][..]),
        headers in vec((select(&["x", "y", "z"][..]), select(VALUES)), 0..4),
        random_bits: u32,
    ) -> Request {
        Request { method, host, target: format!("{path}{query}"), https, port, headers, random_bits }
    }
}

fn expected(routes: &[Route], facts: &Facts<'_>) -> Option<Winner> {
    let first = explain::taken(routes, &listeners(), facts).into_iter().next()?;
    let template = match &first.wanted.path {
        PathMatch::Template(template) => Some(template.pattern().to_owned()),
        _ => None,
    };
    let rule = &first.route.rules[first.rule];
    let backend = backend(rule, facts.random_bits).filter(|_| !first.is_closed);
    Some((first.route.id(), first.rule, template, backend))
}

fn backend(rule: &Rule, random_bits: u32) -> Option<String> {
    let total: u64 = rule.backends.iter().map(|reference| u64::from(reference.weight)).sum();
    let mut point = (u64::from(random_bits) * total) >> 32;
    for reference in &rule.backends {
        match (point.checked_sub(u64::from(reference.weight)), &reference.to) {
            (Some(rest), _) => point = rest,
            (None, ObjectRef::Service(backend)) => return Some(backend.name.clone()),
            (None, ObjectRef::Api(_) | ObjectRef::Foreign(_)) => return None,
        }
    }
    None
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_500))]

    #[test]
    fn the_table_says_what_the_specification_says(routes in routes(), requests in vec(request(), 20)) {
        let table = table_of(&routes);
        for request in requests {
            let headers: Vec<_> = request.headers.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes())).collect();
            let facts = Facts {
                client: None,
                method: request.method.as_bytes(),
                host: request.host.as_bytes(),
                path: request.target.as_bytes(),
                https: request.https,
                port: request.port,
                headers: &headers,
                random_bits: request.random_bits,
            };
            prop_assert_eq!(winner(&table, &facts), expected(&routes, &facts), "{:?}", request);
            if let Some(found) = found(&table, &facts) {
                let route = routes.iter().find(|route| route.id() == found.route);
                // What is closed names no geo rule.
                let of_rule = route.map(|route| route.rules[found.rule].geo.as_slice());
                prop_assert!(of_rule == Some(found.geo) || (found.is_dead_end() && found.geo.is_empty()));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn regexes_win_as_the_specification_says(routes in regex_routes(), targets in vec(regex_target(), 20)) {
        let table = table_of(&routes);
        for target in targets {
            for (method, value) in [(&b"GET"[..], &b"1"[..]), (b"POST", b"\xff")] {
                let headers: &[(&[u8], &[u8])] = &[(b"x", value)];
                let facts = Facts { method, host: b"a.example", path: &target, headers, ..Facts::default() };
                prop_assert_eq!(winner(&table, &facts), expected(&routes, &facts), "{}", target.escape_ascii());
            }
        }
    }
}

proptest! {
    #[test]
    fn the_order_of_the_routes_does_not_matter(
        (routes, shuffled) in routes().prop_flat_map(|routes| (Just(routes.clone()), Just(routes).prop_shuffle())),
    ) {
        prop_assert_eq!(compile(&routes).unwrap(), compile(&shuffled).unwrap());
    }
}
