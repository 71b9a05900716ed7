//! `explain`: how a request would be handled, without sending it.

use serde_json::{Value, json};

use crate::test_service::{TestService, each, has};

fn path(kind: &str, value: &str) -> Value {
    json!({"path": {"type": kind, "value": value}})
}

async fn put_route(service: &TestService, name: &str, rules: Value) {
    let document = json!({"spec": {"rules": rules}});
    service.put_json(&format!("/api/admin/routes/{name}"), &document).await.ok();
}

/// Requests an explanation with these parameters, which are encoded here.
async fn explain(service: &TestService, params: &[(&str, &str)]) -> Value {
    let path = service.people("/api/admin/explain");
    let url = reqwest::Url::parse_with_params(&path, params).unwrap();
    service.get(&url.as_str()[service.people("").len()..]).await.ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_winner_is_named_and_why_the_others_lost() {
    let service = TestService::start().await;
    let with_header = json!({"path": {"type": "Template", "value": "/orders/{number}"},
        "headers": [{"name": "x-v", "value": "2"}]});
    put_route(
        &service,
        "orders",
        json!([
            {"matches": [path("PathPrefix", "/orders"), path("Template", "/orders/{id}")],
             "backendRefs": [{"name": "old"}]},
            {"name": "second", "matches": [with_header], "backendRefs": [{"name": "new", "port": 80}]},
        ]),
    )
    .await;
    put_route(&service, "all", json!([{"backendRefs": [{"name": "rest"}]}])).await;

    let said =
        explain(&service, &[("path", "/orders/7?x=1"), ("header", "X-V: 2"), ("host", "a.example:80")]).await;
    has(
        &said["decision"],
        json!({"verdict": "allow", "route": "orders", "template": "/orders/{number}",
            "status": null, "backend": {"name": "new"}}),
    );
    let matches = &said["checks"]["route"]["matches"];
    let short = each(matches, |one| json!([one["route"], one["rule"], one["match"], one["lost_by"]]));
    let expected = [
        json!(["orders", 1, 0, null]),
        json!(["orders", 0, 1, "headers"]),
        json!(["orders", 0, 0, "path_type"]),
        json!(["all", 0, 0, "path_type"]),
    ];
    assert_eq!(short, expected);
    has(&matches[0], json!({"wins": true, "rule_name": "second"}));
    let path = json!({"type": "Template", "value": "/orders/{id}"});
    has(&matches[1], json!({"wins": false, "why": "it asks for fewer headers", "path": path}));

    let said = explain(&service, &[("path", "/orders/7")]).await;
    assert_eq!(said["decision"]["backend"]["name"], "old");
    service.delete("/api/admin/routes/all").await.ok();
    let said = explain(&service, &[("path", "/other")]).await;
    has(&said["decision"], json!({"status": 404, "reason": "no_route"}));
    assert_eq!(said["checks"]["route"]["matches"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_check_says_what_it_finds_and_the_first_denial_decides() {
    let service = TestService::start().await;
    service.import_countries("list.csv", "10.1.0.0,10.1.255.255,DE\n").await;
    let geo = json!({"type": "ExtensionRef", "extensionRef":
        {"group": "tidegate.dev", "kind": "GeoRule", "name": "law"}});
    let lost = json!({"type": "ExtensionRef", "extensionRef":
        {"group": "tidegate.dev", "kind": "GeoRule", "name": "lost"}});
    put_route(&service, "r", json!([{"filters": [geo, lost], "backendRefs": [{"name": "b"}]}])).await;
    for (name, rule) in [
        ("all", json!({"mode": "deny", "countries": ["FR"]})),
        ("law", json!({"mode": "deny", "countries": ["DE"], "global": false, "status": 451})),
        ("other", json!({"mode": "deny", "countries": ["DE"], "global": false})),
    ] {
        service.put_json(&format!("/api/admin/geo-rules/{name}"), &rule).await.ok();
    }
    let ban = r#"{"ip": "10.1.0.0/16", "reason": "scraper", "expires_at": "2099-01-01T00:00:00Z"}"#;
    service.post("/api/admin/ip/ban", ban).await.ok();

    let asked = [("path", "/"), ("ip", "10.1.2.3")];
    let said = explain(&service, &asked).await;
    assert_eq!(
        said["decision"],
        json!({"verdict": "deny", "status": 403, "reason": "ip_banned", "rule": "10.1.0.0/16",
            "route": null, "template": null, "backend": null})
    );
    assert_eq!(
        said["checks"]["ip"],
        json!({"says": "banned", "entry": "10.1.0.0/16", "reason": "scraper", "until": "2099-01-01T00:00:00Z"})
    );
    let rule = |name: &str, global: bool, holds: bool, says: &str, status: Value| {
        json!({
        "name": name, "global": global, "holds": holds, "says": says, "status": status, "shadow": false})
    };
    assert_eq!(
        said["checks"]["geo"],
        json!({"country": "DE", "rules": [
            rule("all", true, true, "allow", json!(null)),
            rule("law", false, true, "deny", json!(451)),
            rule("lost", false, true, "missing", json!(500)),
            rule("other", false, false, "deny", json!(403)),
        ]})
    );

    service.post("/api/admin/ip/unban", r#"{"ip": "10.1.0.0/16"}"#).await.ok();
    let decided = async |more: &[(&str, &str)]| {
        let said = explain(&service, &[&asked[..], more].concat()).await;
        let decision = &said["decision"];
        format!("{} {} {}", decision["status"], decision["reason"], decision["rule"])
    };
    assert_eq!(decided(&[]).await, "451 \"geo_denied\" \"law\"");
    assert_eq!(decided(&[("country", "FR")]).await, "403 \"geo_denied\" \"all\"");
    assert_eq!(decided(&[("country", "US")]).await, "500 \"no_geo_rule\" \"lost\"");
    service.sql("INSERT INTO ip_monitor (ip, status) VALUES ('10.1.2.3', 'allowed')");
    assert_eq!(decided(&[("country", "FR")]).await, "null null \"10.1.2.3\"", "skips all of them");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_filters_do_is_told_for_each_backend() {
    let service = TestService::start().await;
    let set = |name: &str, value: &str| json!({"name": name, "value": value});
    let rules = json!([
        {"matches": [path("PathPrefix", "/old")], "filters": [{"type": "RequestRedirect", "requestRedirect":
            {"scheme": "https", "statusCode": 301, "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/new"}}}]},
        {"matches": [path("PathPrefix", "/a")],
         "filters": [
            {"type": "URLRewrite", "urlRewrite": {"hostname": "in.example",
                "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}}},
            {"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [set("x-a", "1")], "remove": ["x-b"]}},
         ],
         "timeouts": {"request": "500ms"},
         "backendRefs": [
            {"name": "one", "weight": 3},
            {"name": "none", "weight": 0},
            {"group": "tidegate.dev", "kind": "Backend", "name": "missing", "weight": 1},
         ]},
    ]);
    put_route(&service, "r", rules).await;
    let redirect =
        explain(&service, &[("path", "/old/x?q"), ("host", "a.example:10000"), ("port", "10000")]).await;
    let effects = json!({"location": "https://a.example/new/x?q"});
    has(&redirect["decision"], json!({"verdict": "redirect", "status": 301}));
    assert_eq!(redirect["decision"]["effects"], effects);

    let said = explain(&service, &[("path", "/a/b?q"), ("method", "POST")]).await;
    let effects = json!({
        "host": "in.example",
        "path": "/b?q",
        "request_headers": [{"action": "remove", "name": "x-b"}, {"action": "set", "name": "x-a", "value": "1"}],
        "request_timeout_ms": 500,
    });
    assert_eq!(said["decision"]["effects"], effects, "{said}");
    let short = each(&said["checks"]["route"]["backends"], |one| {
        format!("{} {} {}", one["weight"], one["outcome"]["backend"]["name"], one["outcome"]["reason"])
    });
    assert_eq!(short, ["3 \"one\" null", "1 null \"no_backend\""]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_nobody_knows_is_told_of() {
    let service = TestService::start_with(Default::default(), &["demo"]).await;
    let mirror = json!({"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "copy"}}});
    let backends = json!([{"name": "nocluster"}, {"name": "demo"}]);
    put_route(&service, "r", json!([{"filters": [mirror], "backendRefs": backends}])).await;
    let said = explain(&service, &[("path", "/")]).await;
    // As in the event of such a request.
    has(
        &said["decision"],
        json!({"verdict": "allow", "status": 500, "reason": "unknown_backend", "backend": {"known": false}}),
    );
    assert_eq!(said["decision"]["effects"]["mirrors"][0]["known"], false);
    let known = json!({"status": null, "backend": {"known": true}});
    has(&said["checks"]["route"]["backends"][1]["outcome"], known.clone());
    service.put("/api/admin/backends/nocluster", r#"{"address": "a.test:80"}"#).await.ok();
    let said = explain(&service, &[("path", "/")]).await;
    has(&said["decision"], known);

    let anybody = TestService::start().await;
    put_route(&anybody, "r", json!([{"backendRefs": [{"name": "nocluster"}]}])).await;
    let said = explain(&anybody, &[("path", "/")]).await;
    // The clusters are not known.
    has(&said["decision"], json!({"status": null, "backend": {"known": null}}));
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_told_of_where_they_count_and_backends_with_their_addresses() {
    let service = TestService::start().await;
    let backend = json!({"address": "192.0.2.1:8443", "tls": {"sni": "b.example"}, "allow_private": true});
    service.put_json("/api/admin/backends/b", &backend).await.ok();
    put_route(
        &service,
        "r",
        json!([{"matches": [path("PathPrefix", "/a")], "backendRefs": [{"name": "b"}]}]),
    )
    .await;
    for (name, limit) in [
        ("all", json!({"key": "global", "rate": 5, "per": "10s", "shadow": true})),
        ("by-tenant", json!({"key": "header:x-tenant", "match": {"route": "r"}, "rate": 1, "per": "second"})),
        ("elsewhere", json!({"key": "ip", "match": {"cidr": "10.0.0.0/8"}, "rate": 1, "per": "second"})),
    ] {
        service.put_json(&format!("/api/admin/limits/{name}"), &limit).await.ok();
    }
    let names = async |params: &[(&str, &str)]| {
        let said = explain(&service, params).await;
        (each(&said["checks"]["limits"], |limit| limit["name"].as_str().unwrap().to_owned()), said)
    };
    let asked = [("path", "/a"), ("ip", "192.0.2.7"), ("header", "X-Tenant: t")];
    let (limits, said) = names(&asked).await;
    assert_eq!(limits, ["all", "by-tenant"]);
    assert_eq!(
        said["checks"]["limits"][0],
        json!({"name": "all", "key": "global", "rate": 5, "per_s": 10, "burst": 5, "shadow": true})
    );
    assert_eq!(
        said["decision"]["backend"],
        json!({"name": "b", "namespace": null, "port": null, "address": "192.0.2.1:8443", "tls": true, "known": true})
    );
    assert_eq!(names(&asked[..2]).await.0, ["all", "by-tenant"], "by the address in the header's place");
    assert_eq!(names(&asked[..1]).await.0, ["all"], "by neither");
    assert_eq!(names(&[("path", "/b"), asked[1]]).await.0, [""; 0], "what no route takes is not counted");
    service.sql("INSERT INTO ip_monitor (ip, status) VALUES ('192.0.2.7', 'allowed')");
    assert_eq!(names(&asked).await.0, [""; 0], "exempt");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_browsers_are_answered_is_told_and_why_they_are_not() {
    let service = TestService::start().await;
    let cors = json!({"type": "CORS", "cors": {"allowOrigins": ["https://a.example"]}});
    let edit = json!({"type": "ResponseHeaderModifier", "responseHeaderModifier":
        {"set": [{"name": "x-a", "value": "1"}]}});
    let law = json!({"type": "ExtensionRef", "extensionRef":
        {"group": "tidegate.dev", "kind": "GeoRule", "name": "law"}});
    let rule = |wanted: Value| json!({"matches": [wanted], "filters": [cors, edit, law], "backendRefs": [{"name": "b"}]});
    put_route(&service, "r", json!([rule(path("PathPrefix", "/a"))])).await;
    let get = json!({"path": {"value": "/get"}, "method": "GET"});
    let told = service.put_json("/api/admin/routes/get", &json!({"spec": {"rules": [rule(get)]}})).await.ok();
    assert!(told["warnings"][0].as_str().unwrap().contains("OPTIONS, not GET"), "{told}");
    service
        .put_json("/api/admin/geo-rules/law", &json!({"mode": "deny", "countries": ["DE"], "global": false}))
        .await
        .ok();
    service.put_json("/api/admin/limits/l", &json!({"key": "global", "rate": 5, "per": "10s"})).await.ok();

    let of = async |method: &str, path: &str| {
        let headers = ["origin: https://a.example", "access-control-request-method: GET"];
        let asked = [
            ("path", path),
            ("method", method),
            ("country", "DE"),
            ("header", headers[0]),
            ("header", headers[1]),
        ];
        explain(&service, &asked).await
    };
    let preflight = of("OPTIONS", "/a").await;
    let effects = json!({"response_headers": [{"action": "set", "name": "x-a", "value": "1"}], "cors": true});
    has(&preflight["decision"], json!({"status": 204, "reason": "cors_preflight", "effects": effects}));
    assert_eq!(
        (&preflight["checks"]["limits"], &preflight["checks"]["geo"]["rules"][0]["holds"]),
        (&json!([]), &json!(false))
    );
    let denied = of("GET", "/a").await;
    has(&denied["decision"], json!({"status": 403, "reason": "geo_denied", "effects": effects}));
    for method in ["GET", "OPTIONS"] {
        let told = of(method, "/get").await;
        let warning = told["checks"]["route"]["warnings"][0].as_str().unwrap_or_default().to_owned();
        assert!(warning.starts_with("get: /spec/rules/0/matches/0: no preflight request matches"), "{told}");
    }
    for host in ["a.example:x", ""] {
        let told = explain(&service, &[("path", "/get"), ("host", host)]).await;
        has(
            &told["decision"],
            json!({"verdict": "deny", "status": 400, "reason": "bad_host", "route": null}),
        );
        has(&told["checks"]["route"], json!({"listeners": [], "matches": [], "more": 0}));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parameter_that_no_request_could_have_is_named() {
    let service = TestService::start().await;
    for (query, parameter, code) in [
        ("", "path", "required"),
        ("path=a", "path", "invalid"),
        ("path=/a%20b", "path", "invalid"),
        ("path=/&path=/", "path", "repeated"),
        ("path=/&ip=1.2.3", "ip", "invalid"),
        ("path=/&ip=1.2.3.0/24", "ip", "invalid"),
        ("path=/&method=G%20T", "method", "invalid"),
        ("path=/&method=", "method", "invalid"),
        ("path=/&host=a%0Ab", "host", "invalid"),
        ("path=/&header=x", "header", "invalid"),
        ("path=/&header=:path:x", "header", "invalid"),
        ("path=/&header=host:x", "header", "invalid"),
        ("path=/&header=x-tidegate-cluster:x", "header", "invalid"),
        ("path=/&header=x:a%0Ab", "header", "invalid"),
        ("path=/&country=D", "country", "invalid"),
        ("path=/&scheme=ftp", "scheme", "invalid"),
        ("path=/&port=0", "port", "invalid"),
        ("path=/&query=x", "query", "unknown_parameter"),
    ] {
        let problem =
            service.get(&format!("/api/admin/explain?{query}")).await.problem(400, "invalid_parameter");
        let error = &problem["errors"][0];
        assert_eq!(
            (error["parameter"].as_str(), error["code"].as_str()),
            (Some(parameter), Some(code)),
            "{query}"
        );
    }
    let long = format!("path=/{}", "a".repeat(8 << 10));
    service.get(&format!("/api/admin/explain?{long}")).await.problem(400, "invalid_parameter");
    let many = "&header=x:1".repeat(101);
    let problem =
        service.get(&format!("/api/admin/explain?path=/{many}")).await.problem(400, "invalid_parameter");
    assert_eq!(problem["errors"][0]["code"], "too_many");
    service.post("/api/admin/explain?path=/", "").await.problem(405, "method_not_allowed");
}
