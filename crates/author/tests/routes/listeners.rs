//! Routes that are held to listeners.

use serde_json::{Value, json};
use tidegate_author::{self as author, Backends, Listener, Listeners, Route};
use tidegate_policy::request::Facts;
use tidegate_policy::route::RouteTable;

use super::{document, found, listeners, read, table_of};

/// A route that has the same rule as all others, for these listeners and hostnames.
fn held(name: &str, parents: Value, hostnames: &[&str]) -> Route {
    let mut document = document(name, hostnames, json!([{"backendRefs": [{"name": name}]}]));
    document["spec"]["parentRefs"] = parents;
    read(&document)
}

fn at(section: &str) -> Value {
    json!({"name": "g", "sectionName": section})
}

/// Which route takes a request, and whether it has a backend for it.
fn winner<'t>(table: &'t RouteTable, scheme: &str, port: u16, host: &str) -> Option<(&'t str, bool)> {
    let https = scheme == "https";
    let facts = Facts { path: b"/", host: host.as_bytes(), https, port, ..Facts::default() };
    found(table, &facts).map(|found| (found.route, found.backend.is_some()))
}

#[test]
fn the_guides_redirect_and_its_backend_are_each_on_their_listener() {
    let host = ["redirect.example"];
    let redirect = json!([{"filters": [
        {"type": "RequestRedirect", "requestRedirect": {"scheme": "https", "statusCode": 301}}
    ]}]);
    let mut redirect = document("redirect", &host, redirect);
    redirect["spec"]["parentRefs"] = json!([at("http")]);
    let shop = held("https-route", json!([at("https")]), &host);
    for age in [1, 3] {
        // Whichever is the older.
        let redirect = Route { created: Some(age), ..read(&redirect) };
        let table = table_of(&[redirect, Route { created: Some(2), ..shop.clone() }]);
        assert!(table.asks_scheme() && !table.asks_port());
        assert_eq!(winner(&table, "http", 80, host[0]), Some(("redirect", false)));
        assert_eq!(winner(&table, "https", 443, host[0]), Some(("https-route", true)));
    }
}

#[test]
fn parents_are_alternatives_and_ports_count() {
    let both = |section: &str, port: u16| json!({"name": "g", "sectionName": section, "port": port});
    let table = table_of(&[
        held("both", json!([at("https"), at("alt")]), &["both.example"]),
        held("any", json!([{"name": "g"}, at("http")]), &["any.example"]),
        held("port", json!([{"name": "g", "port": 8080}]), &["port.example", "a.example"]),
        held("narrow", json!([both("http", 8000)]), &["narrow.example"]),
    ]);
    assert!(table.asks_port());
    for (scheme, port, host, wanted) in [
        ("https", 443, "both.example", Some("both")),
        ("http", 8080, "both.example", Some("both")),
        ("http", 80, "both.example", None),
        ("http", 1, "any.example", Some("any")),
        ("https", 1, "any.example", Some("any")),
        ("http", 8080, "port.example", Some("port")),
        ("http", 8080, "a.example", Some("port")),
        ("http", 8000, "port.example", None),
        ("http", 8000, "narrow.example", Some("narrow")),
        ("https", 8000, "narrow.example", None),
        ("http", 80, "narrow.example", None),
    ] {
        let found = winner(&table, scheme, port, host);
        assert_eq!(found, wanted.map(|route| (route, true)), "{scheme} {port} {host}");
    }
}

#[test]
fn hostnames_of_listener_and_route_are_what_they_have_in_common() {
    let table = table_of(&[
        held("every", json!([at("wide")]), &[]),
        held("wider", json!([at("wide")]), &["*.example", "other.example"]),
        held("narrower", json!([at("wide")]), &["x.a.example"]),
        held("elsewhere", json!([at("one")]), &["*.a.example"]),
    ]);
    for (host, wanted) in [
        ("x.a.example", Some("narrower")),
        ("y.a.example", Some("every")),
        ("a.example", None),
        ("other.example", None),
        ("", None),
    ] {
        assert_eq!(winner(&table, "https", 8080, host), wanted.map(|route| (route, true)), "{host}");
    }
}

/// The table of routes on listeners of a name, a port and a hostname each.
fn table_on(declared: &[(&str, u16, &str)], routes: &[Route]) -> RouteTable {
    let listener =
        |port, hostname: &str| Listener { https: Some(false), port, hostname: Some(hostname.into()) };
    let named =
        |(name, port, hostname): &(&str, u16, &str)| ((*name).to_owned(), listener(Some(*port), hostname));
    let listeners: Listeners = declared.iter().map(named).collect();
    assert!(routes.iter().all(|route| route.listener_problems(&listeners).is_empty()));
    let bytes = author::compile(routes, &Backends::new(), &listeners).unwrap();
    RouteTable::from_bytes(&bytes).unwrap()
}

/// The conformance tests `HTTPRouteListenerHostnameMatching` and `...PortMatching`.
#[test]
fn listeners_of_a_gateway_match_as_in_the_conformance_tests() {
    let on = |name, sections: &[&str]| held(name, sections.iter().map(|section| at(section)).collect(), &[]);
    let table = table_on(
        &[("l1", 80, "bar.com"), ("l2", 80, "foo.bar.com"), ("l3", 80, "*.bar.com"), ("l4", 80, "*.foo.com")],
        &[on("v1", &["l1"]), on("v2", &["l2"]), on("v3", &["l3", "l4"])],
    );
    for (host, wanted) in [
        ("bar.com", Some("v1")),
        ("foo.bar.com", Some("v2")),
        ("baz.bar.com", Some("v3")),
        ("multiple.prefixes.bar.com", Some("v3")),
        ("multiple.prefixes.foo.com", Some("v3")),
        ("foo.com", None),
        ("no.matching.host", None),
    ] {
        assert_eq!(winner(&table, "http", 80, host).map(|found| found.0), wanted, "{host}");
    }
    let at_port = |name, section: Option<&str>, port: u16| {
        held(name, json!([{"name": "g", "sectionName": section, "port": port}]), &[])
    };
    let table = table_on(
        &[
            ("l1", 80, "foo.com"),
            ("l2", 8080, "foo.com"),
            ("l3", 8080, "bar.com"),
            ("l4", 8090, "foo.com"),
            ("l5", 8090, "bar.com"),
        ],
        &[at_port("v1", None, 80), at_port("v2", None, 8080), at_port("v3", Some("l4"), 8090)],
    );
    for (port, host, wanted) in [
        (80, "foo.com", Some("v1")),
        (8080, "foo.com:8080", Some("v2")),
        (8080, "bar.com:8080", Some("v2")),
        (8090, "foo.com:8090", Some("v3")),
        (8090, "bar.com:8090", None),
    ] {
        assert_eq!(winner(&table, "http", port, host).map(|found| found.0), wanted, "{port} {host}");
    }
}

#[test]
fn what_is_held_to_an_unknown_listener_is_closed_and_goes_to_no_wider_route() {
    let table = table_of(&[
        held("closed", json!([at("gone")]), &["a.example"]),
        held("half", json!([at("gone"), at("https")]), &["b.example"]),
        held("wide", json!([]), &[]),
    ]);
    for (scheme, host, wanted) in [
        ("http", "a.example", ("closed", false)),
        ("https", "a.example", ("closed", false)),
        ("http", "b.example", ("half", false)),
        ("https", "b.example", ("half", true)),
        ("http", "c.example", ("wide", true)),
    ] {
        assert_eq!(winner(&table, scheme, 80, host), Some(wanted), "{scheme} {host}");
    }
    assert_eq!(table.len(), 3);
}

#[test]
fn a_reference_that_holds_to_nothing_is_named_and_what_would_help() {
    let problems = |parents: Value, hostnames: &[&str]| {
        let problems = held("r", parents, hostnames).listener_problems(&listeners());
        problems.into_iter().map(|one| (one.pointer, one.code, one.message)).collect::<Vec<_>>()
    };
    let all = json!([at("http"), {"name": "g", "port": 8080}, {"name": "g"}, at("wide")]);
    assert_eq!(problems(all, &["x.a.example"]), []);
    // Each is judged by itself, and one that holds is enough.
    let (one, wide) =
        (json!([at("one"), at("wide")]), held("r", json!([at("one"), at("wide")]), &["a.example"]));
    assert_eq!(problems(one.clone(), &["a.example"]), []);
    let warnings = author::warnings(&wide, &listeners());
    assert!(
        matches!(&warnings[..], [one] if one.starts_with("/spec/parentRefs/1/sectionName: ")),
        "{warnings:?}"
    );
    let neither = problems(one, &["b.example"]);
    assert!(
        neither
            .iter()
            .map(|(pointer, ..)| pointer.as_str())
            .eq(["/spec/parentRefs/0/sectionName", "/spec/parentRefs/1/sectionName"])
    );
    let port =
        |section: Option<&str>, port: u16| json!([{"name": "g", "sectionName": section, "port": port}]);
    for (parents, hostnames, field, code, says) in [
        (
            json!([at("web")]),
            &[][..],
            "sectionName",
            "unknown_listener",
            r#"listeners/web {"scheme": "https"} (or "http", if its clients use no TLS)"#,
        ),
        (json!([at("websecure")]), &[], "sectionName", "unknown_listener", r#"{"scheme": "https"}; there"#),
        (json!([at("http-1")]), &[], "sectionName", "unknown_listener", r#"{"scheme": "http"}; there"#),
        (json!([at("tls-1")]), &[], "sectionName", "unknown_listener", r#"{"scheme": "https"}"#),
        (port(Some("web"), 80), &[], "sectionName", "unknown_listener", r#"{"scheme": "http", "port": 80}"#),
        (port(None, 81), &[], "port", "unknown_listener", r#"listeners/NAME {"port": 81}"#),
        (port(Some("alt"), 81), &[], "sectionName", "conflict", "has the port 8080, and not 81: change"),
        (json!([at("wide")]), &["a.example", "*.b.example"], "sectionName", "conflict", "*.a.example only"),
    ] {
        let found = problems(parents.clone(), hostnames);
        let [(pointer, found_code, message)] = found.as_slice() else { panic!("{parents}: {found:?}") };
        assert_eq!((pointer.as_str(), *found_code), (format!("/spec/parentRefs/0/{field}").as_str(), code));
        assert!(message.contains(says), "{message}");
    }
    assert!(
        problems(json!([at("web")]), &[])[0].2.ends_with("there are `alt`, `http`, `https`, `one`, `wide`")
    );
}

#[test]
fn a_listener_says_what_its_requests_have_in_common() {
    let read = |document: Value| author::read_listener("l", &document);
    let full = read(json!({"name": "l", "scheme": "https", "port": 8443, "hostname": "*.a.example"}));
    let hostname = Some("*.a.example".to_owned());
    assert_eq!(full, Ok(Listener { https: Some(true), port: Some(8443), hostname }));
    assert_eq!(read(json!({})), Ok(Listener::default()));
    for (document, pointer, code) in [
        (json!([]), "", "wrong_type"),
        (json!({"protocol": "HTTP"}), "/protocol", "unknown_field"),
        (json!({"scheme": "HTTP"}), "/scheme", "invalid"),
        (json!({"port": 0}), "/port", "out_of_range"),
        (json!({"port": "80"}), "/port", "wrong_type"),
        (json!({"hostname": "a.example:80"}), "/hostname", "invalid"),
        (json!({"name": "m"}), "/name", "invalid"),
    ] {
        let problems = read(document.clone()).unwrap_err();
        let problems: Vec<_> = problems.iter().map(|one| (one.pointer.as_str(), one.code)).collect();
        assert_eq!(problems, [(pointer, code)], "{document}");
    }
    assert_eq!(author::read_listener("Not_A_Name", &json!({})).unwrap_err()[0].pointer, "/name");
}
