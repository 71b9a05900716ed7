//! Geo rules beside routes and countries, and the country table.

use serde_json::{Value, json};
use tidegate_policy::wire::event::TrafficEvent;

use crate::command_line::Desk;
use crate::test_gateway::{event, open};
use crate::test_service::{TestService, has};

const EU: &str = "/api/admin/geo-rules/eu";
const COUNTRIES: &str = "/api/admin/geo-countries";
const LIST: (&str, &str) = ("list.csv", "10.0.0.0,10.255.255.255,DE\n");

fn no_de() -> Value {
    json!({"mode": "deny", "countries": ["DE", "FR"]})
}

async fn country(service: &TestService, ip: &str) -> Value {
    service.get(&format!("{COUNTRIES}/{ip}")).await.ok()["country"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_a_route_names_is_missed() {
    let service = TestService::start().await;
    service.import_countries(LIST.0, LIST.1).await;
    service.put_json(EU, &no_de()).await.ok();
    let filter = json!({"type": "ExtensionRef",
        "extensionRef": {"group": "tidegate.dev", "kind": "GeoRule", "name": "eu"}});
    let route = json!({"spec": {"rules": [{"filters": [filter], "backendRefs": [{"name": "demo"}]}]}});
    has(&service.put_json("/api/admin/routes/r", &route).await.ok(), json!({"warnings": null}));
    assert_eq!(service.health_codes("reasons").await, [""; 0]);
    let deleted = service.delete(EU).await.ok();
    assert!(deleted["warnings"][0].as_str().unwrap().contains("the route `r` names this rule"), "{deleted}");
    assert_eq!(service.health_codes("reasons").await, ["geo_rule_missing"]);
    service.put_json(EU, &no_de()).await.ok();
    assert_eq!(service.health_codes("reasons").await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_without_a_country_table_are_said_unless_headers_have_it() {
    let service = TestService::start().await;
    service.put_json(EU, &no_de()).await.ok();
    assert_eq!(service.health_codes("reasons").await, ["countries_missing"]);
    let country = tidegate_policy::geo::Country::new(b"DE");
    assert_eq!(open(&service, TrafficEvent { country, ..event(1) }).await.status, 204);
    assert_eq!(service.health_codes("notes").await, ["countries_by_header"]);
    assert!(!service.health_codes("reasons").await.contains(&"countries_missing".to_owned()));
    service.import_countries(LIST.0, LIST.1).await;
    assert_eq!(service.health_codes("notes").await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_beside_the_running_service_counts_at_once() {
    let service = TestService::start().await;
    let none = service.get(COUNTRIES).await.ok();
    has(&none, json!({"source": null, "ranges": {"v4": 0, "v6": 0}}));
    assert_eq!(country(&service, "10.0.0.1").await, Value::Null);
    let (v4, v6) = (service.dir.path().join("geoip"), service.dir.path().join("geoip6"));
    std::fs::write(&v4, "# IPv4\n167772160,184549375,DE\n184549376,184549631,??\n").unwrap();
    std::fs::write(&v6, "2001:db8::,2001:db8:ffff:ffff:ffff:ffff:ffff:ffff,FR\n").unwrap();
    let args = ["geo", "import", v4.to_str().unwrap(), v6.to_str().unwrap()];
    let (done, said) = service.tidegate(&args).await;
    assert!(done && said.contains("geoip, geoip6: 1 IPv4 and 1 IPv6 ranges of 2 countries"), "{said}");
    assert!(said.contains("left out") && said.contains("??: 1"), "{said}");
    for (ip, wanted) in [
        ("10.0.0.1", json!("DE")),
        ("::ffff:10.255.255.255", json!("DE")),
        ("11.0.0.1", Value::Null),
        ("2001:db8:1::", json!("FR")),
    ] {
        assert_eq!(country(&service, ip).await, wanted, "{ip}");
    }
    let table = service.get(COUNTRIES).await.ok();
    has(&table, json!({"source": "geoip, geoip6", "ranges": {"v4": 1, "v6": 1}}));
    assert!(table["imported_at"].as_str().unwrap().ends_with('Z') && table["bytes"].is_u64(), "{table}");
    has(&service.health().await, json!({"tables": {"countries": {"digest": table["hash"]}}}));
    for bad in ["10.0.0.0%2f8", "nowhere", "10.0.0.256"] {
        service.get(&format!("{COUNTRIES}/{bad}")).await.problem(400, "invalid_parameter");
    }
    // A table replaces the one before it completely.
    service.import_countries("next.csv", "10.0.0.0,10.0.0.255,US\n").await;
    assert_eq!(country(&service, "10.0.0.1").await, "US");
    assert_eq!(country(&service, "10.0.1.1").await, Value::Null);
    let audit = service.get("/api/admin/audit").await.ok();
    has(
        &audit["items"][0],
        json!({"actor": "command line", "kind": "countries",
            "before": {"source": "geoip, geoip6"}, "after": {"source": "next.csv"}}),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_wrong_leaves_the_table_as_it_is() {
    let service = TestService::start().await;
    service.import_countries(LIST.0, LIST.1).await;
    let before = (service.tables().await, country(&service, "10.0.0.1").await);
    // Other errors in files are tested where files are read.
    for (name, content, wanted) in [
        ("overlap.csv", &b"10.0.0.0,10.0.0.9,DE\n10.0.0.9,10.0.0.20,FR\n"[..], "overlap.csv:2"),
        ("cut.mmdb", b"\x00\x00\x01\x00\x00\x02\xab\xcd\xefMaxMind.com\xe9\x5bbinary", "not a whole MaxMind"),
        ("empty.csv", b"", "no range"),
    ] {
        let (done, said) = service.import_countries(name, content).await;
        assert!(!done && said.contains("nothing was changed") && said.contains(wanted), "{name}: {said}");
        assert!(said.contains(name), "{said}");
    }
    let (done, said) = service.tidegate(&["geo", "import", "/nowhere/at/all"]).await;
    assert!(!done && said.contains("/nowhere/at/all"), "{said}");
    assert_eq!((service.tables().await, country(&service, "10.0.0.1").await), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_files_and_folders_go_to_a_service_together() {
    let service = TestService::start().await;
    let desk = Desk::new(&service);
    desk.file("geoip", "10.0.0.0,10.255.255.255,DE\n");
    desk.file(
        "maxmind/GeoLite2-Country-Blocks-IPv4.csv",
        "network,geoname_id,registered_country_geoname_id\n192.0.2.0/24,7,7\n",
    );
    desk.file("maxmind/GeoLite2-Country-Locations-en.csv", "geoname_id,country_iso_code\n7,FR\n");
    let said = desk.tidegate("geo", &["import", "geoip", "maxmind"]).await.done();
    assert!(said.starts_with("geoip, maxmind: 2 IPv4 and 0 IPv6 ranges of 2 countries"), "{said}");
    assert_eq!([country(&service, "10.0.0.1").await, country(&service, "192.0.2.9").await], ["DE", "FR"]);
    let places = ["maxmind/GeoLite2-Country-Blocks-IPv4.csv", "maxmind/GeoLite2-Country-Locations-en.csv"];
    desk.tidegate("geo", &["import", places[0], places[1]]).await.done();
    assert_eq!(country(&service, "10.0.0.1").await, Value::Null);
    desk.file("wrong.csv", "10.0.0.0,10.0.0.9,Atlantis\n");
    let refused = desk.tidegate("geo", &["import", "geoip", "wrong.csv"]).await.failed();
    assert!(refused.contains("nothing was changed") && refused.contains("wrong.csv: line 1"), "{refused}");
}
