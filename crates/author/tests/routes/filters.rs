//! Filters, timeouts and retries: what is accepted, what is refused with which pointer,
//! and the actions of the rule that wins.

use serde_json::{Value, json};
use tidegate_author as author;
use tidegate_policy::request::Facts;
use tidegate_policy::route::action::{Action, HeaderEdits, PathEdit, Redirect, Retry, Timeouts};
use tidegate_policy::route::{RouteTable, Target};

use super::{document, found, read, table_of};

/// A document of one rule on `/a`.
fn of_rule(fields: Value) -> Value {
    let mut rule = json!({"matches": [{"path": {"value": "/a"}}]});
    for (name, value) in fields.as_object().unwrap() {
        rule[name] = value.clone();
    }
    document("r", &[], json!([rule]))
}

/// The only problem of a document, as `pointer code`, below its only rule.
fn problem(fields: Value) -> String {
    let document = of_rule(fields);
    let found = author::read(&document).err().unwrap_or_default();
    let said: Vec<_> = found
        .iter()
        .map(|problem| format!("{} {}", problem.pointer.replace("/spec/rules/0", ""), problem.code))
        .collect();
    said.join(", ")
}

fn filter(kind: &str, field: &str, settings: Value) -> Value {
    json!({"type": kind, field: settings})
}

fn one_filter(kind: &str, field: &str, settings: Value) -> String {
    problem(json!({"filters": [filter(kind, field, settings)]}))
}

/// The action in the table for a request to `/a`.
fn action_of(fields: Value) -> Action {
    let table = table_of(&[read(&of_rule(fields))]);
    let facts = Facts { path: b"/a", ..Facts::default() };
    let found = found(&table, &facts).unwrap();
    found.action.map(|action| Action::clone(action)).unwrap_or_default()
}

#[test]
fn a_filter_has_the_field_of_its_type_and_no_other() {
    assert_eq!(problem(json!({"filters": [5]})), "/filters/0 wrong_type");
    assert_eq!(problem(json!({"filters": [{"type": "Rewrite"}]})), "/filters/0/type invalid");
    assert_eq!(problem(json!({"filters": [{"type": "CORS"}]})), "/filters/0/cors required");
    assert_eq!(
        problem(json!({"filters": [{"type": "ExternalAuth", "externalAuth": {}}]})),
        "/filters/0 not_supported"
    );
    let two = json!({"type": "CORS", "cors": {}, "urlRewrite": {}});
    assert_eq!(problem(json!({"filters": [two]})), "/filters/0/urlRewrite conflict");
    let geo = json!({"type": "ExtensionRef", "extensionRef": {"group": "tidegate.dev", "kind": "GeoRule", "name": "g"}});
    let of_backend = json!({"backendRefs": [{"name": "b", "filters": [geo]}]});
    assert_eq!(problem(of_backend), "/backendRefs/0/filters/0 not_supported");
}

#[test]
fn filters_that_exclude_each_other_are_refused() {
    let rewrite = || filter("URLRewrite", "urlRewrite", json!({"hostname": "b.example"}));
    let redirect = || filter("RequestRedirect", "requestRedirect", json!({"scheme": "https"}));
    assert_eq!(problem(json!({"filters": [rewrite(), redirect()]})), "/filters/1 conflict");
    assert_eq!(problem(json!({"filters": [rewrite(), rewrite()]})), "/filters/1 conflict");
    assert_eq!(problem(json!({"filters": [redirect()], "backendRefs": [{"name": "b"}]})), " conflict");
    let of_backend = json!({"backendRefs": [{"name": "b", "filters": [redirect(), rewrite()]}]});
    assert_eq!(problem(of_backend), "/backendRefs/0/filters/1 conflict");
}

#[test]
fn headers_that_no_route_may_set_are_refused() {
    let edit = |name: &str, value: &str| json!({"set": [{"name": name, "value": value}]});
    let of = |settings| one_filter("RequestHeaderModifier", "requestHeaderModifier", settings);
    let place = "/filters/0/requestHeaderModifier";
    for name in [
        "host",
        "Host",
        "x-tidegate-cluster",
        "X-Envoy-Retry-On",
        "Transfer-Encoding",
        "connection",
        "CDN-Loop",
    ] {
        assert_eq!(of(edit(name, "1")), format!("{place}/set/0/name reserved"), "{name}");
        assert_eq!(of(json!({"remove": [name]})), format!("{place}/remove/0 reserved"), "{name}");
    }
    for name in [":path", "a b", "a\r\n"] {
        assert_eq!(of(edit(name, "1")), format!("{place}/set/0/name invalid"), "{name:?}");
    }
    for value in ["a\r\nb: c", "a\n", "\0", " a"] {
        assert_eq!(of(edit("x", value)), format!("{place}/set/0/value invalid"), "{value:?}");
    }
    let both = json!({"set": [{"name": "X-A", "value": "1"}], "add": [{"name": "x-a", "value": "2"}]});
    assert_eq!(of(both), format!("{place}/add/0/name conflict"));
    assert_eq!(of(json!({"remove": ["a", "A"]})), format!("{place}/remove/1 conflict"));
    let many: Vec<_> = (0..17).map(|i| json!({"name": format!("x{i}"), "value": "1"})).collect();
    assert_eq!(of(json!({"add": many})), format!("{place}/add too_many"));
}

#[test]
fn header_edits_reach_the_rule_in_lower_case() {
    let settings = json!({
        "set": [{"name": "X-Set", "value": "1"}], "add": [{"name": "X-Add", "value": "a, b"}], "remove": ["X-Gone"],
    });
    let edits = HeaderEdits {
        remove: vec!["x-gone".to_owned()],
        set: vec![("x-set".to_owned(), "1".to_owned())],
        add: vec![("x-add".to_owned(), "a, b".to_owned())],
    };
    let filters = json!([
        filter("RequestHeaderModifier", "requestHeaderModifier", settings.clone()),
        filter("ResponseHeaderModifier", "responseHeaderModifier", settings),
    ]);
    let action = action_of(json!({"filters": filters, "backendRefs": [{"name": "b"}]}));
    assert_eq!((action.request, action.response), (edits.clone(), edits));
}

#[test]
fn a_redirect_is_read_with_its_defaults() {
    let of =
        |settings| action_of(json!({"filters": [filter("RequestRedirect", "requestRedirect", settings)]}));
    let plain = Redirect { https: None, hostname: None, path: None, port: None, status: 302 };
    assert_eq!(of(json!({})).redirect, Some(plain.clone()));
    let full = json!({
        "scheme": "https", "hostname": "b.example", "port": 8443, "statusCode": 308,
        "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/b"},
    });
    let path = PathEdit::Prefix { matched: "/a".to_owned(), with: "/b".to_owned() };
    let hostname = Some("b.example".to_owned());
    let wanted = Redirect { https: Some(true), hostname, path: Some(path), port: Some(8443), status: 308 };
    assert_eq!(of(full).redirect, Some(wanted));
    let refused = |settings| one_filter("RequestRedirect", "requestRedirect", settings);
    let place = "/filters/0/requestRedirect";
    assert_eq!(refused(json!({"scheme": "ftp"})), format!("{place}/scheme invalid"));
    assert_eq!(refused(json!({"hostname": "*.example"})), format!("{place}/hostname invalid"));
    assert_eq!(refused(json!({"port": 0})), format!("{place}/port out_of_range"));
    assert_eq!(refused(json!({"statusCode": 304})), format!("{place}/statusCode invalid"));
    assert_eq!(refused(json!({"statusCode": 200})), format!("{place}/statusCode out_of_range"));
}

#[test]
fn a_path_edit_fits_its_rules_matches() {
    let rewrite = |path| json!([filter("URLRewrite", "urlRewrite", json!({"path": path}))]);
    let prefix = || rewrite(json!({"type": "ReplacePrefixMatch", "replacePrefixMatch": "/b"}));
    let place = "/filters/0/urlRewrite/path";
    assert_eq!(problem(json!({"filters": prefix()})), "");
    let two = json!([{"path": {"value": "/a"}}, {"path": {"value": "/b"}}]);
    for matches in [two, json!([{"path": {"type": "Exact", "value": "/a"}}])] {
        let fields = json!({"filters": prefix(), "matches": matches});
        assert_eq!(problem(fields), format!("{place} conflict"));
    }
    let of_backend = json!({
        "matches": [{"path": {"type": "Exact", "value": "/a"}}], "backendRefs": [{"name": "b", "filters": prefix()}],
    });
    assert_eq!(problem(of_backend), format!("/backendRefs/0{place} conflict"));
    let full = json!({"type": "ReplaceFullPath", "replaceFullPath": "/b?c"});
    assert_eq!(problem(json!({"filters": rewrite(full)})), format!("{place}/replaceFullPath invalid"));
    let none = json!({"type": "ReplaceFullPath"});
    assert_eq!(problem(json!({"filters": rewrite(none)})), format!("{place}/replaceFullPath required"));
    let both = json!({"type": "ReplaceFullPath", "replaceFullPath": "/", "replacePrefixMatch": "/"});
    assert_eq!(problem(json!({"filters": rewrite(both)})), format!("{place}/replacePrefixMatch conflict"));
}

#[test]
fn mirrors_have_a_part_and_a_cluster() {
    let mirror = |settings| filter("RequestMirror", "requestMirror", settings);
    let to = |name: &str| json!({"name": name, "port": 80});
    let filters = json!([
        mirror(json!({"backendRef": to("m0")})),
        mirror(json!({"backendRef": to("m1"), "percent": 20})),
        mirror(json!({"backendRef": to("m2"), "fraction": {"numerator": 25, "denominator": 50}})),
        mirror(json!({"backendRef": to("m3"), "fraction": {"numerator": 7}})),
    ]);
    let action = action_of(json!({"filters": filters, "backendRefs": [{"name": "b"}]}));
    let parts: Vec<_> = action.mirrors.iter().map(|mirror| (mirror.numerator, mirror.denominator)).collect();
    assert_eq!(parts, [(1, 1), (20, 100), (25, 50), (7, 100)]);
    let refused = |settings| one_filter("RequestMirror", "requestMirror", settings);
    let place = "/filters/0/requestMirror";
    assert_eq!(refused(json!({})), format!("{place}/backendRef required"));
    assert_eq!(
        refused(json!({"backendRef": to("m"), "percent": 101})),
        format!("{place}/percent out_of_range")
    );
    let both = json!({"backendRef": to("m"), "percent": 1, "fraction": {"numerator": 1}});
    assert_eq!(refused(both), format!("{place}/fraction conflict"));
    let over = json!({"backendRef": to("m"), "fraction": {"numerator": 3, "denominator": 2}});
    assert_eq!(refused(over), format!("{place}/fraction/numerator out_of_range"));
    assert_eq!(
        refused(json!({"backendRef": to("tidegate-admin")})),
        format!("{place}/backendRef/name reserved")
    );
    let five: Vec<_> = (0..5).map(|i| mirror(json!({"backendRef": to(&format!("m{i}"))}))).collect();
    assert_eq!(problem(json!({"filters": five})), "/filters/4/requestMirror too_many");
}

#[test]
fn no_backend_has_more_mirrors_than_a_request_may_have() {
    let mirrors = |count: usize| {
        vec![filter("RequestMirror", "requestMirror", json!({"backendRef": {"name": "m"}})); count]
    };
    let both = |rule, backend| {
        problem(
            json!({"filters": mirrors(rule), "backendRefs": [{"name": "a"}, {"name": "b", "filters": mirrors(backend)}]}),
        )
    };
    assert_eq!(both(3, 1), "");
    assert_eq!(both(3, 2), "/backendRefs too_many");
}

#[test]
fn what_is_wrong_beside_a_number_is_said_too() {
    let retry = json!({"retry": {"attempts": 101, "codes": [399]}});
    assert_eq!(problem(retry), "/retry/attempts out_of_range, /retry/codes/0 out_of_range");
    let cors = json!({"maxAge": 0, "allowMethods": ["get"]});
    let place = "/filters/0/cors";
    assert_eq!(
        one_filter("CORS", "cors", cors),
        format!("{place}/maxAge out_of_range, {place}/allowMethods/0 invalid")
    );
    let backend = json!({"name": "b", "weight": -1, "filters": [{"type": "ExternalAuth"}]});
    assert_eq!(
        problem(json!({"backendRefs": [backend]})),
        "/backendRefs/0/weight out_of_range, /backendRefs/0/filters/0 not_supported"
    );
}

#[test]
fn timeouts_and_retries_are_durations_and_numbers() {
    let action = action_of(json!({
        "timeouts": {"request": "1s", "backendRequest": "500ms"}, "retry": {"attempts": 3, "codes": [500, 503]},
    }));
    assert_eq!(action.timeouts, Timeouts { request_ms: 1_000, backend_ms: 500 });
    assert_eq!(action.retry, Some(Retry { attempts: 3, codes: vec![500, 503] }));
    assert_eq!(action_of(json!({"retry": {}})).retry, Some(Retry { attempts: 1, codes: vec![] }));
    assert_eq!(action_of(json!({"timeouts": {"request": "0s"}})), Action::default());
    assert_eq!(problem(json!({"timeouts": {"request": "1"}})), "/timeouts/request invalid");
    assert_eq!(problem(json!({"timeouts": {"request": "99999h"}})), "/timeouts/request out_of_range");
    let longer = json!({"timeouts": {"request": "1s", "backendRequest": "2s"}});
    assert_eq!(problem(longer), "/timeouts/backendRequest conflict");
    assert_eq!(problem(json!({"timeouts": {"request": "0s", "backendRequest": "2s"}})), "");
    assert_eq!(problem(json!({"retry": {"attempts": -1}})), "/retry/attempts out_of_range");
    assert_eq!(problem(json!({"retry": {"codes": [200]}})), "/retry/codes/0 out_of_range");
    assert_eq!(problem(json!({"retry": {"backoff": "1s"}})), "/retry/backoff not_supported");
    assert_eq!(
        problem(json!({"sessionPersistence": {"type": "Cookie"}})),
        "/sessionPersistence not_supported"
    );
}

#[test]
fn cors_is_read_with_its_defaults() {
    let of = |settings| action_of(json!({"filters": [filter("CORS", "cors", settings)]})).cors.unwrap();
    let plain =
        of(json!({"allowOrigins": ["HTTPS://A.example:443", "http://*.b.example:8080", "http://127.0.0.1"]}));
    assert_eq!(plain.origins, ["https://a.example", "http://*.b.example:8080", "http://127.0.0.1"]);
    assert_eq!((plain.max_age, plain.credentials, plain.methods.len()), (5, false, 0));
    let refused = |settings| one_filter("CORS", "cors", settings);
    let place = "/filters/0/cors";
    for origin in
        ["a.example", "ftp://a.example", "https://a.example/", "https://a.*.example", "https://a:0", ""]
    {
        let found = refused(json!({"allowOrigins": [origin]}));
        assert_eq!(found, format!("{place}/allowOrigins/0 invalid"), "{origin}");
    }
    assert_eq!(
        refused(json!({"allowOrigins": ["*", "https://a"]})),
        format!("{place}/allowOrigins conflict")
    );
    assert_eq!(refused(json!({"allowMethods": ["get"]})), format!("{place}/allowMethods/0 invalid"));
    assert_eq!(refused(json!({"allowHeaders": ["a b"]})), format!("{place}/allowHeaders/0 invalid"));
    assert_eq!(refused(json!({"maxAge": 0})), format!("{place}/maxAge out_of_range"));
    assert_eq!(refused(json!({"allowCredentials": "yes"})), format!("{place}/allowCredentials wrong_type"));
}

/// Name and target of the backend for `/a`, in namespace `namespace`.
fn backend_of(reference: Value, namespace: Option<&str>) -> Option<(String, Option<u16>)> {
    let mut document = of_rule(json!({"backendRefs": [reference]}));
    document["metadata"]["namespace"] = json!(namespace);
    let target = Target { host: "10.0.0.1".to_owned(), port: 8080, h2c: false, tls: None };
    let backends = [("shop".to_owned(), target)].into();
    let table = author::compile(&[read(&document)], &backends, &super::listeners()).unwrap();
    let table = RouteTable::from_bytes(&table).unwrap();
    let found = found(&table, &Facts { path: b"/a", ..Facts::default() }).unwrap();
    let backend = found.backend?;
    Some((backend.name.clone(), backend.target.as_ref().map(|target| target.port)))
}

#[test]
fn a_reference_names_a_backend_of_the_api_or_a_cluster() {
    let named = |name: &str, port| Some((name.to_owned(), port));
    assert_eq!(backend_of(json!({"name": "shop", "port": 80}), None), named("shop", Some(8080)));
    assert_eq!(backend_of(json!({"name": "demo"}), None), named("demo", None));
    assert_eq!(
        backend_of(json!({"name": "shop"}), Some("n")),
        named("shop", None),
        "a Service of a namespace"
    );
    assert_eq!(backend_of(json!({"name": "shop", "namespace": "n"}), None), named("shop", None));
    // What gives no namespace is in `default`.
    assert_eq!(backend_of(json!({"name": "shop"}), Some("default")), named("shop", Some(8080)));
    assert_eq!(
        backend_of(json!({"name": "shop", "namespace": "default"}), Some("n")),
        named("shop", Some(8080))
    );
    let api = |name: &str| json!({"group": "tidegate.dev", "kind": "Backend", "name": name});
    assert_eq!(backend_of(api("shop"), Some("n")), named("shop", Some(8080)));
    let of = |namespace: &str| {
        of_rule(json!({"backendRefs": [{
        "group": "tidegate.dev", "kind": "Backend", "name": "shop", "namespace": namespace}]}))
    };
    let refused = author::read(&of("n")).unwrap_err();
    assert_eq!(
        (refused[0].pointer.as_str(), refused[0].code),
        ("/spec/rules/0/backendRefs/0/namespace", "not_supported")
    );
    assert!(author::read(&of("default")).is_ok());
    assert_eq!(backend_of(api("none"), None), None);
    assert_eq!(backend_of(json!({"kind": "ServiceImport", "name": "shop"}), None), None);
}

#[test]
fn mirrors_are_resolved_as_backends_are_and_strangers_get_nothing() {
    let mirror = |reference| filter("RequestMirror", "requestMirror", json!({"backendRef": reference}));
    let api = json!({"group": "tidegate.dev", "kind": "Backend", "name": "shop"});
    let filters =
        json!([mirror(api), mirror(json!({"name": "m"})), mirror(json!({"kind": "Strange", "name": "x"}))]);
    let mut document = of_rule(json!({"filters": filters, "backendRefs": [{"name": "b"}]}));
    document["metadata"]["namespace"] = json!("n");
    let target = Target { host: "10.0.0.1".to_owned(), port: 8080, h2c: false, tls: None };
    let table =
        author::compile(&[read(&document)], &[("shop".to_owned(), target)].into(), &super::listeners())
            .unwrap();
    let table = RouteTable::from_bytes(&table).unwrap();
    let found = found(&table, &Facts { path: b"/a", ..Facts::default() }).unwrap();
    let mirrors = &found.action.unwrap().mirrors;
    let said: Vec<_> = mirrors
        .iter()
        .map(|mirror| {
            let backend = &mirror.backend;
            (backend.name.as_str(), backend.namespace.as_deref(), backend.target.is_some())
        })
        .collect();
    assert_eq!(said, [("shop", None, true), ("m", Some("n"), false)]);
}

#[test]
fn a_backend_that_cannot_answer_keeps_its_share() {
    let backends = json!([{"name": "a", "weight": 1}, {"kind": "Strange", "name": "b", "weight": 1}]);
    let table = table_of(&[read(&of_rule(json!({"backendRefs": backends})))]);
    let at =
        |random_bits| found(&table, &Facts { path: b"/a", random_bits, ..Facts::default() }).unwrap().backend;
    assert!(at(0).is_some() && at(u32::MAX / 2 - 1).is_some());
    assert!(at(u32::MAX / 2 + 1).is_none() && at(u32::MAX).is_none());
}

#[test]
fn filters_of_a_backend_come_after_the_rules() {
    let set = |value: &str| {
        let settings = json!({"set": [{"name": "x", "value": value}]});
        json!([filter("RequestHeaderModifier", "requestHeaderModifier", settings)])
    };
    let backends = json!([{"name": "a", "filters": set("backend")}, {"name": "b"}]);
    let table = table_of(&[read(&of_rule(json!({"filters": set("rule"), "backendRefs": backends})))]);
    let at = |random_bits| {
        let found = found(&table, &Facts { path: b"/a", random_bits, ..Facts::default() }).unwrap();
        found.actions().map(|action| action.request.set[0].1.clone()).collect::<Vec<_>>()
    };
    assert_eq!(at(0), ["rule", "backend"]);
    assert_eq!(at(u32::MAX), ["rule"]);
}
