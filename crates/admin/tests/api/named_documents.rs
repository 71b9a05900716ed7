//! Tests for every kind of named documents: written, read back, listed, refused, removed,
//! audited. What is special to a kind is tested in its own file.

use serde_json::{Value, json};

use crate::test_service::{TestService, each, has};

/// A kind of named documents.
struct Kind {
    path: &'static str,
    /// Its name in the audit.
    audited_as: &'static str,
    not_found: &'static str,
    /// Its table in health.
    table: Option<&'static str>,
    good: Value,
    other: Value,
    /// Invalid documents, with place and code of the error. Other errors are tested where
    /// documents are read.
    wrong: Vec<(Value, &'static str, &'static str)>,
    /// Names of documents, in order.
    names: [&'static str; 5],
}

const NAMES: [&str; 5] = ["d0", "d1", "d2", "d3", "d4"];

/// `document` with `value` as its field `name`.
fn with(document: &Value, name: &str, value: Value) -> Value {
    let mut document = document.clone();
    document[name] = value;
    document
}

fn routes() -> Kind {
    let rules = |rules: Value| json!({"spec": {"rules": rules}});
    let good = rules(json!([{
        "matches": [{"path": {"type": "PathPrefix", "value": "/hello"}}], "backendRefs": [{"name": "demo"}]
    }]));
    let matching =
        |regex: &str| rules(json!([{"matches": [{"path": {"type": "RegularExpression", "value": regex}}]}]));
    let regex_at = "/spec/rules/0/matches/0/path/value";
    Kind {
        names: NAMES,
        path: "/api/admin/routes",
        audited_as: "route",
        not_found: "route_not_found",
        table: Some("routes"),
        other: rules(json!([{"backendRefs": [{"name": "other"}]}])),
        wrong: vec![
            (with(&good, "metadata", json!({"name": "other"})), "/metadata/name", "name_mismatch"),
            (matching("(a{1,900}){1,900}"), regex_at, "bad_regex"),
            (json!([]), "", "wrong_type"),
            (json!("x"), "", "wrong_type"),
            (json!(null), "", "wrong_type"),
            (json!({"metadata": 5, "spec": {}}), "/metadata", "wrong_type"),
        ],
        good,
    }
}

fn geo_rules() -> Kind {
    let good = json!({"mode": "deny", "countries": ["DE", "FR"]});
    Kind {
        names: NAMES,
        path: "/api/admin/geo-rules",
        audited_as: "geo-rule",
        not_found: "geo_rule_not_found",
        table: Some("geo"),
        other: json!({"mode": "allow", "countries": ["DE"], "global": false, "status": 451}),
        wrong: vec![
            (with(&good, "countries", json!(["DE", "QQ"])), "/countries/1", "invalid"),
            (json!([]), "", "wrong_type"),
        ],
        good,
    }
}

fn backends() -> Kind {
    Kind {
        names: NAMES,
        path: "/api/admin/backends",
        audited_as: "backend",
        not_found: "backend_not_found",
        table: None,
        good: json!({"address": "api.example.com:443", "tls": {"trust": "own"}}),
        other: json!({"address": "127.0.0.1:80", "allow_private": true}),
        wrong: vec![
            (json!({"address": "localhost:80"}), "/address", "private_address"),
            (json!([]), "", "wrong_type"),
        ],
    }
}

fn limits() -> Kind {
    let good = json!({"key": "ip", "rate": 100, "per": "minute"});
    Kind {
        names: NAMES,
        path: "/api/admin/limits",
        audited_as: "limit",
        not_found: "limit_not_found",
        table: Some("limits"),
        other: json!({"key": "global", "rate": 5, "per": "10s", "shadow": true}),
        wrong: vec![(with(&good, "rate", json!(0)), "/rate", "out_of_range"), (json!([]), "", "wrong_type")],
        good,
    }
}

fn listeners() -> Kind {
    Kind {
        names: NAMES,
        path: "/api/admin/listeners",
        audited_as: "listener",
        not_found: "listener_not_found",
        table: None,
        good: json!({"scheme": "https", "port": 8443, "hostname": "*.a.example"}),
        other: json!({"port": 8080}),
        wrong: vec![(json!({"scheme": "tcp"}), "/scheme", "invalid"), (json!([]), "", "wrong_type")],
    }
}

fn pages() -> Kind {
    let good = json!({"html": "<p>{{request_id}}"});
    Kind {
        path: "/api/admin/pages",
        audited_as: "page",
        not_found: "page_not_found",
        table: Some("pages"),
        other: json!({"html": "<h1>{{title}}</h1>"}),
        wrong: vec![
            (with(&good, "html", json!("<p>{{id}}")), "/html", "invalid"),
            (with(&good, "html", json!("x".repeat((64 << 10) + 1))), "/html", "too_long"),
            (json!([]), "", "wrong_type"),
        ],
        names: ["check_unavailable", "geo_denied", "ip_banned", "no_backend", "no_route"],
        good,
    }
}

fn auto_bans() -> Kind {
    let good = json!({"match": {"status": "4xx"}, "threshold": 10, "window": "1m", "ban": {"ttl": "1h"}});
    Kind {
        names: NAMES,
        path: "/api/admin/auto-bans",
        audited_as: "auto-ban",
        not_found: "auto_ban_not_found",
        table: None,
        other: with(&good, "mode", json!("shadow")),
        wrong: vec![
            (with(&good, "match", json!({})), "/match", "required"),
            (with(&good, "window", json!("25h")), "/window", "out_of_range"),
            (json!([]), "", "wrong_type"),
        ],
        good,
    }
}

fn rollouts() -> Kind {
    let stage = json!({"name": "a", "flags": {"enableRouteCache": "shadow"}, "hold": "1m"});
    let good = json!({"stages": [stage]});
    Kind {
        names: NAMES,
        path: "/api/admin/rollouts",
        audited_as: "rollout",
        not_found: "rollout_not_found",
        table: None,
        other: with(&good, "on_failure", json!("pause")),
        wrong: vec![
            (with(&good, "on_failure", json!("stop")), "/on_failure", "invalid"),
            (
                with(&good, "stages", json!([with(&stage, "hold", json!("long"))])),
                "/stages/0/hold",
                "invalid",
            ),
            (json!([]), "", "wrong_type"),
        ],
        good,
    }
}

fn kinds() -> [Kind; 8] {
    [routes(), geo_rules(), backends(), limits(), listeners(), pages(), auto_bans(), rollouts()]
}

/// A service without the documents that are there from the start.
async fn start() -> TestService {
    let service = TestService::start().await;
    for name in ["http", "https"] {
        service.delete(&format!("/api/admin/listeners/{name}")).await.ok();
    }
    service
}

impl Kind {
    fn at(&self, name: &str) -> String {
        format!("{}/{name}", self.path)
    }

    /// A document as answers show it: with its name, an HTTPRoute's in its metadata.
    fn shown(&self, document: &Value, name: &str) -> Value {
        match self.audited_as {
            "route" => with(document, "metadata", json!({"name": name})),
            _ => with(document, "name", json!(name)),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_is_read_back_as_it_was_written_until_it_is_removed() {
    let service = start().await;
    for kind in kinds() {
        let (path, name) = (kind.path, kind.names[0]);
        let one = kind.at(name);
        assert_eq!(service.get(path).await.ok(), json!({"items": []}), "{path}");
        let written = service.put_json(&one, &kind.good).await.ok();
        assert!(written["name"] == name && written["version"].is_string(), "{written}");
        let shown = kind.shown(&kind.good, name);
        assert_eq!(service.get(&one).await.ok(), shown);
        // What an answer shows can be put back.
        service.put_json(&one, &shown).await.ok();
        assert_eq!(service.get(&one).await.ok(), shown);
        service.put_json(&one, &kind.other).await.ok();
        assert_eq!(service.get(path).await.ok(), json!({"items": [kind.shown(&kind.other, name)]}));
        if let Some(table) = kind.table {
            has(&service.health().await["tables"][table], json!({"entries": 1}));
        }
        let removed = service.delete(&format!("{one}?wait_applied=5s")).await.ok();
        has(&removed, json!({"name": name, "applied": {"of": 0}}));
        service.get(&one).await.problem(404, kind.not_found);
        service.delete(&one).await.problem(404, kind.not_found);
        let audit = service.get("/api/admin/audit").await.ok();
        let newest = &audit["items"][0];
        has(newest, json!({"kind": kind.audited_as, "name": name, "actor": "admin", "after": null}));
        assert!(newest["before"].is_object(), "{audit}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_named_and_nothing_changes() {
    let service = start().await;
    for kind in kinds() {
        let kept = kind.at(kind.names[0]);
        service.put_json(&kept, &kind.good).await.ok();
        let before = service.tables().await;
        for (document, pointer, code) in &kind.wrong {
            let answer = service.put_json(&kept, document).await;
            answer.wrong_field(422, "invalid_field", pointer, code);
        }
        service.put_json(&kind.at("Not_A_Name"), &kind.good).await.problem(422, "invalid_field");
        service.put(&kept, "").await.problem(400, "empty_body");
        service.put(&kept, "{").await.problem(400, "invalid_json");
        let misspelt = format!("{kept}?wait=1s");
        service.put_json(&misspelt, &kind.good).await.problem(400, "invalid_parameter");
        let large = with(&kind.good, "metadata", json!({"annotations": {"x": "y".repeat(1 << 20)}}));
        service.put_json(&kept, &large).await.problem(413, "body_too_large");
        assert_eq!(service.tables().await, before, "{kept}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_has_pages_in_the_order_of_names() {
    let service = start().await;
    for kind in kinds() {
        for name in kind.names.iter().rev() {
            service.put_json(&kind.at(name), &kind.good).await.ok();
        }
        let whole = service.get(kind.path).await.ok();
        let shown: Vec<_> = kind.names.iter().map(|name| kind.shown(&kind.good, name)).collect();
        assert_eq!(each(&whole["items"], Value::clone), shown);
        for limit in [1, 2, 5] {
            assert_eq!(service.pages(kind.path, limit).await, shown, "{limit}");
        }
        for bad in ["limit=0", "limit=10001", "cursor=x"] {
            service.get(&format!("{}?{bad}", kind.path)).await.problem(400, "invalid_parameter");
        }
    }
}
