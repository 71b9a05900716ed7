//! Documents: what is accepted, and what is refused with which pointer.

use serde_json::{Value, json};
use tidegate_author::{
    self as author, DocumentError, MAX_PROBLEMS, Method, ObjectRef, PathMatch, ValueMatch,
};

fn problems(document: &Value) -> Vec<DocumentError> {
    author::read(document).err().unwrap_or_default()
}

/// A valid document, with one change.
fn with(pointer: &str, value: Value) -> Value {
    let mut document = json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": "r", "namespace": "n"},
        "spec": {
            "parentRefs": [{"name": "gate"}],
            "hostnames": ["a.example"],
            "rules": [{
                "name": "first",
                "matches": [{
                    "path": {"type": "Exact", "value": "/a"},
                    "method": "GET",
                    "headers": [{"name": "x", "value": "1"}],
                    "queryParams": [{"name": "p", "value": "1"}],
                }],
                "filters": [],
                "backendRefs": [{"name": "b", "port": 80, "weight": 1}],
            }, {}],
        },
    });
    match document.pointer_mut(pointer) {
        Some(place) => *place = value,
        None => {
            let (parent, field) = pointer.rsplit_once('/').unwrap();
            document.pointer_mut(parent).unwrap()[field] = value;
        }
    }
    document
}

#[test]
fn each_bad_field_is_named_with_its_reason() {
    let (one, of_rule) = ("/spec/rules/0/matches/0", "/spec/rules/0");
    let long = |len| json!("a".repeat(len));
    let cases = [
        ("/apiVersion".into(), json!("gateway.networking.k8s.io/v1alpha2"), "invalid"),
        ("/kind".into(), json!("GRPCRoute"), "invalid"),
        ("/other".into(), json!(1), "unknown_field"),
        ("/metadata".into(), json!(null), "required"),
        ("/metadata".into(), json!([]), "wrong_type"),
        ("/metadata/nam".into(), json!("x"), "unknown_field"),
        ("/metadata/name".into(), json!(null), "required"),
        ("/metadata/name".into(), json!(""), "invalid"),
        ("/metadata/name".into(), json!("A"), "invalid"),
        ("/metadata/name".into(), json!("a..b"), "invalid"),
        ("/metadata/name".into(), long(254), "too_long"),
        ("/metadata/namespace".into(), json!("a.b"), "invalid"),
        ("/metadata/namespace".into(), long(64), "too_long"),
        ("/spec".into(), json!(null), "required"),
        ("/spec".into(), json!(3), "wrong_type"),
        ("/spec/hostname".into(), json!("a"), "unknown_field"),
        ("/spec/useDefaultGateways".into(), json!("All"), "not_supported"),
        ("/spec/parentRefs".into(), json!({}), "wrong_type"),
        ("/spec/parentRefs/0/name".into(), json!(null), "required"),
        ("/spec/parentRefs/0/port".into(), json!(0), "out_of_range"),
        ("/spec/parentRefs/0/sectionName".into(), json!(""), "invalid"),
        ("/spec/parentRefs/0/sectionName".into(), json!("Web"), "invalid"),
        ("/spec/parentRefs/0/kind".into(), json!("Service"), "not_supported"),
        ("/spec/parentRefs/0/kind".into(), json!("Mesh"), "not_supported"),
        ("/spec/parentRefs/0/group".into(), json!("networking.istio.io"), "not_supported"),
        ("/spec/hostnames".into(), json!(vec!["a"; 17]), "too_many"),
        ("/spec/hostnames/0".into(), json!(5), "wrong_type"),
        ("/spec/hostnames/0".into(), json!(""), "invalid"),
        ("/spec/hostnames/0".into(), json!("a.example:80"), "invalid"),
        ("/spec/hostnames/0".into(), json!("192.0.2.1"), "invalid"),
        ("/spec/hostnames/0".into(), json!("::1"), "invalid"),
        ("/spec/hostnames/0".into(), json!("a.*.example"), "invalid"),
        ("/spec/hostnames/0".into(), json!("*"), "invalid"),
        ("/spec/hostnames/0".into(), json!("*a.example"), "invalid"),
        ("/spec/hostnames/0".into(), json!("A.example"), "invalid"),
        ("/spec/hostnames/0".into(), json!("a.example."), "invalid"),
        ("/spec/hostnames/0".into(), json!("-a.example"), "invalid"),
        ("/spec/hostnames/0".into(), json!("a_b.example"), "invalid"),
        ("/spec/rules".into(), json!([]), "invalid"),
        ("/spec/rules".into(), json!({}), "wrong_type"),
        ("/spec/rules".into(), json!(vec![json!({}); 17]), "too_many"),
        ("/spec/rules".into(), json!(vec![json!({"matches": vec![json!({}); 43]}); 3]), "too_many"),
        ("/spec/rules/1".into(), json!({"name": "first"}), "invalid"),
        (format!("{of_rule}/match"), json!([]), "unknown_field"),
        (format!("{of_rule}/name"), json!("First"), "invalid"),
        (format!("{of_rule}/sessionPersistence"), json!({}), "not_supported"),
        (format!("{of_rule}/filters"), json!({}), "wrong_type"),
        (format!("{of_rule}/matches"), json!(vec![json!({}); 65]), "too_many"),
        (format!("{one}/paths"), json!({}), "unknown_field"),
        (format!("{one}/method"), json!("get"), "invalid"),
        (format!("{one}/method"), json!("PURGE"), "invalid"),
        (format!("{one}/path/type"), json!("Prefix"), "invalid"),
        (format!("{one}/path/type"), json!("ImplementationSpecific"), "invalid"),
        (format!("{one}/path/value"), json!(""), "invalid"),
        (format!("{one}/path/value"), json!("a"), "invalid"),
        (format!("{one}/path/value"), json!("/a//b"), "invalid"),
        (format!("{one}/path/value"), json!("/a/./b"), "invalid"),
        (format!("{one}/path/value"), json!("/a/../b"), "invalid"),
        (format!("{one}/path/value"), json!("/a/.."), "invalid"),
        (format!("{one}/path/value"), json!("/a/."), "invalid"),
        (format!("{one}/path/value"), json!("/a%2fb"), "invalid"),
        (format!("{one}/path/value"), json!("/a%2Fb"), "invalid"),
        (format!("{one}/path/value"), json!("/a#b"), "invalid"),
        (format!("{one}/path/value"), json!("/a?b"), "invalid"),
        (format!("{one}/path/value"), json!("/a%2"), "invalid"),
        (format!("{one}/path/value"), json!("/a b"), "invalid"),
        (format!("{one}/path/value"), json!("/{a}"), "invalid"),
        (format!("{one}/path/value"), json!("/é"), "invalid"),
        (format!("{one}/path/value"), json!(format!("/{}", "a".repeat(1024))), "too_long"),
        (format!("{one}/headers"), json!(vec![json!({"name": "x", "value": "1"}); 17]), "too_many"),
        (format!("{one}/headers/0/name"), json!(":path"), "invalid"),
        (format!("{one}/headers/0/name"), json!("a b"), "invalid"),
        (format!("{one}/headers/0/name"), json!("X-Tidegate-Cluster"), "invalid"),
        (format!("{one}/headers/0/name"), json!("Transfer-Encoding"), "invalid"),
        (format!("{one}/headers/0/name"), json!(null), "required"),
        (format!("{one}/headers/0/name"), long(257), "too_long"),
        (format!("{one}/headers/0/value"), json!(null), "required"),
        (format!("{one}/headers/0/value"), json!(1), "wrong_type"),
        (format!("{one}/headers/0/value"), json!(""), "invalid"),
        (format!("{one}/headers/0/value"), json!("a\r\nb"), "invalid"),
        (format!("{one}/headers/0/value"), json!(" a"), "invalid"),
        (format!("{one}/headers/0/value"), long(4097), "too_long"),
        (format!("{one}/headers/0/type"), json!("Prefix"), "invalid"),
        (format!("{one}/queryParams"), json!(vec![json!({"name": "x", "value": "1"}); 17]), "too_many"),
        (format!("{one}/queryParams/0/name"), json!(""), "invalid"),
        (format!("{one}/queryParams/0/value"), long(1025), "too_long"),
        (format!("{of_rule}/backendRefs"), json!(vec![json!({"name": "b"}); 17]), "too_many"),
        (format!("{of_rule}/backendRefs/0/name"), json!(null), "required"),
        (format!("{of_rule}/backendRefs/0/name"), json!("a b"), "invalid"),
        (format!("{of_rule}/backendRefs/0/name"), json!("a\nb"), "invalid"),
        (format!("{of_rule}/backendRefs/0/kind"), json!(5), "wrong_type"),
        (format!("{of_rule}/backendRefs/0/namespace"), json!("A"), "invalid"),
        (format!("{of_rule}/backendRefs/0/port"), json!(0), "out_of_range"),
        (format!("{of_rule}/backendRefs/0/port"), json!(65_536), "out_of_range"),
        (format!("{of_rule}/backendRefs/0/port"), json!(-1), "out_of_range"),
        (format!("{of_rule}/backendRefs/0/port"), json!("80"), "wrong_type"),
        (format!("{of_rule}/backendRefs/0/weight"), json!(1_000_001), "out_of_range"),
        (format!("{of_rule}/backendRefs/0/weight"), json!(0.5), "wrong_type"),
    ];
    for (pointer, value, code) in cases {
        let found = problems(&with(&pointer, value.clone()));
        let found: Vec<_> = found.iter().map(|problem| (problem.pointer.as_str(), problem.code)).collect();
        assert_eq!(found, [(pointer.as_str(), code)], "{value}");
    }
    for version in ["v1", "v1beta1"] {
        let version = json!(format!("gateway.networking.k8s.io/{version}"));
        assert_eq!(problems(&with("/apiVersion", version)), [], "the document is right without a change");
    }
}

#[test]
fn a_bad_template_is_named_with_its_reason() {
    let place = "/spec/rules/0/matches/0/path";
    let found = |value: Value| problems(&with(place, json!({"type": "Template", "value": value})));
    let long = "/{a}".repeat(257);
    for (value, code, says) in [
        (json!(5), "wrong_type", ""),
        (json!(long), "too_long", ""),
        (json!(""), "invalid", "must begin with /"),
        (json!("a/{b}"), "invalid", "must begin with /"),
        (json!("/{a}/b/{a}"), "invalid", "two elements are called {a}"),
        (json!("/v{a}"), "invalid", "v{a} must be a whole element like {name}"),
        (json!("/{a.b}"), "invalid", "{a.b} must be a whole element"),
        (json!("/{a}//b"), "invalid", "must not contain //"),
        (json!("/{a}/b?c"), "invalid", "must not contain ?"),
        (json!("/a".repeat(33)), "invalid", "has 33 elements, at most 32 are allowed"),
    ] {
        let found = found(value.clone());
        let [problem] = &found[..] else { panic!("{value}: {found:?}") };
        assert_eq!((problem.pointer.as_str(), problem.code), (format!("{place}/value").as_str(), code));
        assert!(problem.message.starts_with(says) || says.is_empty(), "{value}: {}", problem.message);
    }
    assert_eq!(found(json!("/repos/{owner}/{repo}")), []);
    assert_eq!(found(json!(null)), [], "/ is the default");
}

/// A filter that names a geo rule.
fn geo_rule(name: &str) -> Value {
    json!({"type": "ExtensionRef", "extensionRef": {"group": "tidegate.dev", "kind": "GeoRule", "name": name}})
}

#[test]
fn a_rule_names_geo_rules_each_once_and_in_order() {
    let filters = json!([geo_rule("no-embargo"), geo_rule("eu.only"), geo_rule("no-embargo")]);
    let route = author::read(&with("/spec/rules/0/filters", filters)).unwrap();
    assert_eq!(route.rules[0].geo, ["no-embargo", "eu.only"]);
    assert!(route.rules[1].geo.is_empty());
    let filters = json!([geo_rule("a"), {"type": "ExternalAuth"}, {"type": "ExtensionRef"}]);
    let found = problems(&with("/spec/rules/0/filters", filters));
    let found: Vec<_> = found.iter().map(|problem| (problem.pointer.as_str(), problem.code)).collect();
    let of_rule = "/spec/rules/0/filters";
    assert_eq!(
        found,
        [
            (format!("{of_rule}/1").as_str(), "not_supported"),
            (format!("{of_rule}/2/extensionRef").as_str(), "required")
        ]
    );
}

#[test]
fn a_bad_extension_ref_is_named_with_its_reason() {
    let place = "/spec/rules/0/filters/0/extensionRef";
    for (field, value, code) in [
        ("group", json!("example.com"), "not_supported"),
        ("group", json!(""), "not_supported"),
        ("group", json!(null), "required"),
        ("kind", json!("RateLimit"), "not_supported"),
        ("kind", json!(null), "required"),
        ("kind", json!(1), "wrong_type"),
        ("name", json!(null), "required"),
        ("name", json!("EU"), "invalid"),
        ("name", json!("a b"), "invalid"),
        ("name", json!(""), "invalid"),
        ("name", json!("a".repeat(254)), "too_long"),
        ("namespace", json!("n"), "unknown_field"),
    ] {
        let mut filter = geo_rule("r");
        filter["extensionRef"][field] = value.clone();
        let found = problems(&with("/spec/rules/0/filters", json!([filter])));
        let named: Vec<_> = found.iter().map(|problem| (problem.pointer.clone(), problem.code)).collect();
        assert_eq!(named, [(format!("{place}/{field}"), code)], "{value}");
        if code == "not_supported" {
            assert!(found[0].message.contains("GeoRule") && found[0].message.contains("tidegate.dev"));
        }
    }
    let mut filter = geo_rule("r");
    filter["cors"] = json!({});
    let found = problems(&with("/spec/rules/0/filters", json!([filter])));
    assert_eq!((found[0].pointer.as_str(), found[0].code), ("/spec/rules/0/filters/0/cors", "conflict"));
    let many: Vec<_> = (0..17).map(|i| geo_rule(&format!("r{i}"))).collect();
    let found = problems(&with("/spec/rules/0/filters", json!(many)));
    assert_eq!((found[0].pointer.as_str(), found[0].code), ("/spec/rules/0/filters", "too_many"));
}

#[test]
fn all_problems_are_named_at_once_up_to_a_limit() {
    let document = json!({
        "metadata": {"name": "A"},
        "spec": {"hostnames": ["b", "C"], "rules": [
            {"matches": [{"path": {"value": "x"}}, {"method": "get"}], "backendRefs": [{"weight": -1}], "x": 1},
            {"sessionPersistence": {}},
        ]},
    });
    let mut found: Vec<_> = problems(&document).into_iter().map(|problem| problem.pointer).collect();
    found.sort();
    assert_eq!(
        found,
        [
            "/metadata/name",
            "/spec/hostnames/1",
            "/spec/rules/0/backendRefs/0/name",
            "/spec/rules/0/backendRefs/0/weight",
            "/spec/rules/0/matches/0/path/value",
            "/spec/rules/0/matches/1/method",
            "/spec/rules/0/x",
            "/spec/rules/1/sessionPersistence",
        ]
    );
    let odd = problems(&json!({"metadata": {"name": "r", "a/b~c": 1}, "spec": {}}));
    assert_eq!(odd[0].pointer, "/metadata/a~1b~0c");
    let many: serde_json::Map<_, _> = (0..1_000).map(|i| (format!("x{i}"), json!(i))).collect();
    assert_eq!(problems(&Value::Object(many)).len(), MAX_PROBLEMS);
}

#[test]
fn what_is_no_object_is_one_problem() {
    for document in [json!(null), json!([]), json!("x"), json!(5), json!(true)] {
        let found = problems(&document);
        assert_eq!(
            (found.len(), found[0].pointer.as_str(), found[0].code),
            (1, "", "wrong_type"),
            "{document}"
        );
    }
}

#[test]
fn what_kubectl_shows_is_taken() {
    let document = json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {
            "name": "shop.v1",
            "namespace": "shops",
            "uid": "3fa9ee0a-1a5e-4b5c-a7de-000000000000",
            "resourceVersion": "123",
            "generation": 4,
            "creationTimestamp": "2026-01-02T03:04:05Z",
            "labels": {"a": "b"},
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}"},
            "managedFields": [{"manager": "kubectl"}],
            "ownerReferences": [],
            "finalizers": null,
        },
        "spec": {
            "parentRefs": [
                {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "gate", "namespace": "infra",
                 "sectionName": "https", "port": 443},
                {"kind": "ListenerSet", "name": "more"},
            ],
            "hostnames": ["shop.example", "*.shop.example"],
            "rules": [
                {
                    "matches": [{"path": {"type": "PathPrefix", "value": "/v1/%C3%A9!$&'()*+,;=:@-._~"}}],
                    "backendRefs": [{"group": "", "kind": "Service", "name": "shop", "port": 8080, "weight": 0}],
                    "filters": null,
                },
                {
                    "matches": [{
                        "path": {"type": "RegularExpression", "value": "/a/.*"},
                        "headers": [{"type": "RegularExpression", "name": "User-Agent", "value": ".*bot.*"}],
                        "queryParams": [{"type": "Exact", "name": "Q", "value": "a b"}],
                        "method": "PATCH",
                    }],
                },
            ],
        },
        "status": {"parents": [{"anything": 1}]},
    });
    let route = author::read(&document).unwrap();
    assert_eq!(
        (route.name.as_str(), route.namespace.as_deref(), route.created),
        ("shop.v1", Some("shops"), None)
    );
    assert_eq!(route.hostnames, ["shop.example", "*.shop.example"]);
    let [reference] = route.rules[0].backends.as_slice() else { panic!("one backend") };
    assert_eq!(reference.weight, 0);
    assert!(matches!(&reference.to, ObjectRef::Service(backend) if backend.port == Some(8080)));
    let wanted = &route.rules[1].matches[0];
    assert!(matches!(&wanted.path, PathMatch::Regex(regex) if regex.pattern() == "/a/.*"));
    assert_eq!(wanted.method, Some(Method::Patch));
    assert_eq!(wanted.headers[0].name, "user-agent");
    assert_eq!(wanted.query[0].name, "Q");
    assert_eq!(wanted.query[0].value, ValueMatch::Exact("a b".to_owned()));
}

#[test]
fn what_is_left_out_is_the_specifications_default() {
    let everything = PathMatch::Prefix("/".to_owned());
    for rules in [json!(null), json!([{}]), json!([{"matches": []}]), json!([{"matches": [{}]}])] {
        let document = json!({"metadata": {"name": "r"}, "spec": {"rules": rules}});
        let route = author::read(&document).unwrap();
        assert_eq!(route.rules.len(), 1);
        assert_eq!(route.rules[0].matches.len(), 1);
        assert_eq!(route.rules[0].matches[0].path, everything);
        assert!(route.rules[0].backends.is_empty());
    }
    let paths = json!([{"matches": [{"path": {}}, {"path": {"type": "Exact"}}, {"path": {"value": "/x"}}]}]);
    let route = author::read(&super::document("r", &[], paths)).unwrap();
    let paths: Vec<_> = route.rules[0].matches.iter().map(|wanted| wanted.path.clone()).collect();
    assert_eq!(paths, [everything, PathMatch::Exact("/".to_owned()), PathMatch::Prefix("/x".to_owned())]);
    let weights = json!([{"backendRefs": [{"name": "a"}, {"name": "b", "weight": 5}]}]);
    let route = author::read(&super::document("r", &[], weights)).unwrap();
    assert_eq!(route.rules[0].backends.iter().map(|reference| reference.weight).collect::<Vec<_>>(), [1, 5]);
}
