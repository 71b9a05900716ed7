//! Geo rules and the country table.

use axum::body::Body;
use serde_json::{Value, json};
use tidegate_policy::wire::event::{OpenEvent, Source, TrafficEvent};

use crate::running::{Answered, Running};

const RULES: &str = "/api/admin/geo-rules";
const COUNTRIES: &str = "/api/admin/geo-countries";
const HEALTH: &str = "/api/admin/optimization/health";

fn no_de() -> Value {
    json!({"mode": "deny", "countries": ["DE", "FR"]})
}

async fn put(running: &Running, name: &str, document: &Value) -> Answered {
    running.put(&format!("{RULES}/{name}"), document.to_string()).await
}

async fn reasons(running: &Running, list: &str) -> Vec<String> {
    let health = running.get(HEALTH).await.ok();
    let codes = health[list].as_array().unwrap().iter();
    codes.map(|reason| reason["code"].as_str().unwrap().to_owned()).collect()
}

/// Imports what `content` says, from a file of this name.
async fn import(running: &Running, name: &str, content: impl AsRef<[u8]>) -> (bool, String) {
    let path = running.dir.path().join(name);
    std::fs::write(&path, content).unwrap();
    running.tidegate(&["geo", "import", path.to_str().unwrap()]).await
}

async fn country(running: &Running, ip: &str) -> Value {
    running.get(&format!("{COUNTRIES}/{ip}")).await.ok()["country"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_is_read_back_as_it_was_written() {
    let running = Running::start().await;
    assert_eq!(running.get(RULES).await.ok(), json!({"items": []}));
    let written = put(&running, "no-de", &no_de()).await.ok();
    assert!(written["name"] == "no-de" && written["version"].is_string(), "{written}");
    let mut shown = no_de();
    shown["name"] = json!("no-de");
    assert_eq!(running.get(&format!("{RULES}/no-de")).await.ok(), shown);
    // What was shown can be put back.
    put(&running, "no-de", &shown).await.ok();
    put(&running, "eu", &json!({"mode": "allow", "countries": ["DE"], "global": false, "status": 451}))
        .await
        .ok();
    let list = running.get(&format!("{RULES}?limit=1")).await.ok();
    assert_eq!(list["items"][0]["name"], "eu");
    let rest = running.get(&format!("{RULES}?cursor={}", list["next"].as_str().unwrap())).await.ok();
    assert_eq!(rest, json!({"items": [shown]}));
    let health = running.get(HEALTH).await.ok();
    assert_eq!(health["tables"]["geo"]["entries"], 2, "{health}");
    running.delete(&format!("{RULES}/eu")).await.ok();
    for answer in [running.get(&format!("{RULES}/eu")).await, running.delete(&format!("{RULES}/eu")).await] {
        answer.problem(404, "geo_rule_not_found");
    }
    let waited = running.delete(&format!("{RULES}/no-de?wait_applied=5s")).await.ok();
    assert_eq!(waited["applied"]["of"], 0, "{waited}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_rule_is_named_and_nothing_changes() {
    let running = Running::start().await;
    put(&running, "kept", &no_de()).await.ok();
    let before = running.tables().await;
    let changed = |field: &str, value: Value| {
        let mut document = no_de();
        document[field] = value;
        document
    };
    let cases = [
        (json!({"mode": "deny"}), "/countries", "required"),
        (json!({"countries": ["DE"]}), "/mode", "required"),
        (changed("mode", json!("block")), "/mode", "invalid"),
        (changed("countries", json!(["DE", "QQ"])), "/countries/1", "invalid"),
        (changed("countries", json!(["Germany"])), "/countries/0", "invalid"),
        (changed("countries", json!("DE")), "/countries", "wrong_type"),
        (changed("status", json!(404)), "/status", "invalid"),
        (changed("name", json!("other")), "/name", "invalid"),
        (changed("country", json!("DE")), "/country", "unknown_field"),
        (json!([]), "", "wrong_type"),
    ];
    for (document, pointer, code) in cases {
        let problem = put(&running, "kept", &document).await.problem(422, "invalid_field");
        let error = &problem["errors"][0];
        assert_eq!(
            (&error["pointer"], &error["code"]),
            (&json!(pointer), &json!(code)),
            "{document}: {problem}"
        );
    }
    put(&running, "Not_A_Name", &no_de()).await.problem(422, "invalid_field");
    running.put(&format!("{RULES}/kept"), "").await.problem(400, "empty_body");
    running
        .put(&format!("{RULES}/kept?wait=1s"), no_de().to_string())
        .await
        .problem(400, "invalid_parameter");
    assert_eq!(running.tables().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_a_route_names_is_missed() {
    let running = Running::start().await;
    import(&running, "list.csv", "10.0.0.0,10.255.255.255,DE\n").await;
    put(&running, "eu", &no_de()).await.ok();
    let filter = json!({"type": "ExtensionRef",
        "extensionRef": {"group": "tidegate.dev", "kind": "GeoRule", "name": "eu"}});
    let route = json!({"spec": {"rules": [{"filters": [filter], "backendRefs": [{"name": "demo"}]}]}});
    let written = running.put("/api/admin/routes/r", route.to_string()).await.ok();
    assert_eq!(written["warnings"], Value::Null, "{written}");
    assert!(reasons(&running, "reasons").await.is_empty());
    let deleted = running.delete(&format!("{RULES}/eu")).await.ok();
    assert!(deleted["warnings"][0].as_str().unwrap().contains("the route `r` names this rule"), "{deleted}");
    assert_eq!(reasons(&running, "reasons").await, ["geo_rule_missing"]);
    put(&running, "eu", &no_de()).await.ok();
    running.get(RULES).await.ok();
    assert!(reasons(&running, "reasons").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_without_a_country_table_are_said_unless_headers_have_it() {
    let running = Running::start().await;
    put(&running, "no-de", &no_de()).await.ok();
    running.get(RULES).await.ok();
    assert_eq!(reasons(&running, "reasons").await, ["countries_missing"]);
    let country = tidegate_policy::geo::Country::new(b"DE");
    let event = TrafficEvent { number: 1, time_ms: 1_795_456_800_000, country, ..TrafficEvent::default() };
    let open = OpenEvent { source: Source(7), event }.to_bytes().unwrap();
    let post = running.as_gateway(axum::http::Method::POST, "/api/data-plane/v1/events?sync=1");
    assert_eq!(running.send(post.body(Body::from(open)).unwrap()).await.status, 204);
    assert_eq!(reasons(&running, "notes").await, ["countries_by_header"]);
    assert!(!reasons(&running, "reasons").await.contains(&"countries_missing".to_owned()));
    import(&running, "list.csv", "10.0.0.0,10.255.255.255,DE\n").await;
    running.get(RULES).await.ok();
    assert!(reasons(&running, "notes").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_beside_the_running_service_counts_at_once() {
    let running = Running::start().await;
    let none = running.get(COUNTRIES).await.ok();
    assert_eq!((&none["source"], &none["ranges"]), (&Value::Null, &json!({"v4": 0, "v6": 0})), "{none}");
    assert_eq!(country(&running, "10.0.0.1").await, Value::Null);
    let (v4, v6) = (running.dir.path().join("geoip"), running.dir.path().join("geoip6"));
    std::fs::write(&v4, "# IPv4\n167772160,184549375,DE\n184549376,184549631,??\n").unwrap();
    std::fs::write(&v6, "2001:db8::,2001:db8:ffff:ffff:ffff:ffff:ffff:ffff,FR\n").unwrap();
    let args = ["geo", "import", v4.to_str().unwrap(), v6.to_str().unwrap()];
    let (done, said) = running.tidegate(&args).await;
    assert!(done && said.contains("geoip, geoip6: 1 IPv4 and 1 IPv6 ranges of 2 countries"), "{said}");
    assert!(said.contains("left out") && said.contains("??: 1"), "{said}");
    assert_eq!(country(&running, "10.0.0.1").await, "DE");
    let table = running.get(COUNTRIES).await.ok();
    assert_eq!(
        (&table["source"], &table["ranges"]),
        (&json!("geoip, geoip6"), &json!({"v4": 1, "v6": 1})),
        "{table}"
    );
    assert!(table["imported_at"].as_str().unwrap().ends_with('Z') && table["bytes"].is_u64(), "{table}");
    let health = running.get(HEALTH).await.ok();
    assert_eq!(health["tables"]["countries"]["digest"], table["hash"], "{health}");
    let cases =
        [("::ffff:10.255.255.255", json!("DE")), ("11.0.0.1", Value::Null), ("2001:db8:1::", json!("FR"))];
    for (ip, wanted) in cases {
        assert_eq!(country(&running, ip).await, wanted, "{ip}");
    }
    for bad in ["10.0.0.0%2f8", "nowhere", "10.0.0.256"] {
        running.get(&format!("{COUNTRIES}/{bad}")).await.problem(400, "invalid_parameter");
    }
    // A table replaces the one before it, whole.
    import(&running, "next.csv", "10.0.0.0,10.0.0.255,US\n").await;
    assert_eq!(country(&running, "10.0.0.1").await, "US");
    assert_eq!(country(&running, "10.0.1.1").await, Value::Null);
    let audit = running.get("/api/admin/audit").await.ok();
    let newest = &audit["items"][0];
    assert_eq!((&newest["by"], &newest["what"]), (&json!("command line"), &json!("countries")), "{audit}");
    assert_eq!(
        (&newest["from"]["source"], &newest["to"]["source"]),
        (&json!("geoip, geoip6"), &json!("next.csv"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_wrong_leaves_the_table_as_it_is() {
    let running = Running::start().await;
    import(&running, "good.csv", "10.0.0.0,10.255.255.255,DE\n").await;
    let before = (running.tables().await, country(&running, "10.0.0.1").await);
    let cases: [(&str, &[u8], &[&str]); 6] = [
        (
            "overlap.csv",
            b"10.0.0.0,10.0.0.9,DE\n10.0.0.9,10.0.0.20,FR\n",
            &["overlap.csv:2", "overlap.csv:1", "overlaps"],
        ),
        (
            "reversed.csv",
            b"1.0.0.0,1.0.0.9,DE\n10.0.0.9,10.0.0.0,DE\n",
            &["reversed.csv", "line 2", "reversed"],
        ),
        ("address.csv", b"1.0.0.0,1.0.0.300,DE\n", &["address.csv", "line 1", "`1.0.0.300`"]),
        ("code.csv", b"1.0.0.0,1.0.0.9,Germany\n", &["code.csv", "line 1", "`Germany`"]),
        (
            "cut.mmdb",
            b"\x00\x00\x01\x00\x00\x02\xab\xcd\xefMaxMind.com\xe9\x5bbinary",
            &["cut.mmdb", "not a whole MaxMind database"],
        ),
        ("empty.csv", b"", &["empty.csv", "no range"]),
    ];
    for (name, content, wanted) in cases {
        let (done, said) = import(&running, name, content).await;
        assert!(!done && said.contains("nothing was changed"), "{name}: {said}");
        assert!(wanted.iter().all(|wanted| said.contains(wanted)), "{name}: {said}");
    }
    let (done, said) = running.tidegate(&["geo", "import", "/nowhere/at/all"]).await;
    assert!(!done && said.contains("/nowhere/at/all"), "{said}");
    assert_eq!((running.tables().await, country(&running, "10.0.0.1").await), before);
}
