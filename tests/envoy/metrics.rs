//! What Envoy and the admin service export, and what the dashboard, the rules and the
//! documentation make of it: with a real Prometheus where there is one.

mod promql;
mod scraped;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tidegate_stack::faults::Faults;
use tidegate_stack::http::{self, Method, PATIENCE, Request};
use tidegate_stack::ports::{ReservedPorts, local};
use tidegate_stack::programs::repository;
use tidegate_stack::prometheus::{Prometheus, PrometheusBinaries};
use tidegate_stack::{Options, Stack, wait};

use self::scraped::Scraped;

/// Labels that Prometheus adds to what it scrapes.
const OF_PROMETHEUS: [&str; 3] = ["job", "instance", "le"];
/// Series that Prometheus makes itself.
const OWN: [&str; 1] = ["up"];
/// Series that a service has for its listeners with TLS only; the API's tests look at them.
const OF_TLS: &str = "tidegate_admin_certificate_";

fn file(path: &str) -> Result<String> {
    let path = repository().join(path);
    std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

/// The dashboard's expressions, its variables replaced.
fn dashboard() -> Result<Vec<(String, String)>> {
    let dashboard: Value = serde_json::from_str(&file("envoy/grafana/dashboard.json")?)?;
    let mut all = Vec::new();
    for panel in dashboard["panels"].as_array().context("no panels")? {
        let title = panel["title"].as_str().context("a panel without a title")?;
        if panel["type"] != "row" {
            ensure!(
                panel["description"].as_str().is_some_and(|said| !said.is_empty()),
                "{title}: not described"
            );
            ensure!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{title}: no unit");
            ensure!(panel["datasource"]["uid"] == "${datasource}", "{title}: a data source of its own");
        }
        for target in panel["targets"].as_array().into_iter().flatten() {
            all.push(expression(title, target)?);
        }
    }
    Ok(all)
}

/// The expressions of the dashboard's annotations.
fn annotations() -> Result<Vec<(String, String)>> {
    let dashboard: Value = serde_json::from_str(&file("envoy/grafana/dashboard.json")?)?;
    let list = dashboard["annotations"]["list"].as_array().context("no annotations")?;
    list.iter().map(|one| expression(one["name"].as_str().context("no name")?, one)).collect()
}

/// The title and the expression of a part of the dashboard, variables replaced.
fn expression(title: &str, part: &Value) -> Result<(String, String)> {
    let mut expression = part["expr"].as_str().with_context(|| format!("{title}: no expression"))?.to_owned();
    for (variable, value) in
        [("$__rate_interval", "1m"), ("$job", ".*"), ("$instance", ".*"), ("$admin", ".*")]
    {
        expression = expression.replace(variable, value);
    }
    ensure!(!expression.contains('$'), "{title}: an unknown variable in {expression}");
    Ok((title.to_owned(), expression))
}

/// The alerts' expressions.
fn alerts() -> Result<Vec<(String, String)>> {
    let rules: Value = yaml_serde::from_str(&file("envoy/prometheus/rules.yaml")?)?;
    let groups = rules["groups"].as_array().context("no groups")?;
    let rules = groups.iter().flat_map(|group| group["rules"].as_array().into_iter().flatten());
    rules
        .map(|rule| {
            let text = |name: &str| rule[name].as_str().map(str::to_owned);
            let said = &rule["annotations"];
            ensure!(said["summary"].is_string() && said["description"].is_string(), "not described: {rule}");
            Ok((text("alert").context("no name")?, text("expr").context("no expression")?))
        })
        .collect()
}

fn scrape(stack: &Stack) -> Result<Scraped> {
    let mut scraped = Scraped::default();
    scraped.read(stack.envoy_admin(), "/stats/prometheus")?;
    scraped.read(stack.people(), "/metrics")?;
    Ok(scraped)
}

/// A stack of which every kind of request has been seen.
fn start(name: &str) -> Result<Stack> {
    let mut options = Options::for_test(name)?;
    options.faults = Some(Faults::default());
    options.plugin = json!({ "direct": { "timeout": "30s", "budget": "60s" } });
    let stack = Stack::start(options)?;
    let prefix = |path: &str| json!([{ "path": { "type": "PathPrefix", "value": path } }]);
    stack.put_route("all", "/served", "demo")?;
    stack.put_spec(
        "moved",
        &json!({ "rules": [{ "matches": prefix("/moved"), "filters": [
        { "type": "RequestRedirect", "requestRedirect": { "hostname": "example.org" } } ] }] }),
    )?;
    stack.ban("192.0.2.13")?;
    let countries = stack.options().dir.join("countries.csv");
    std::fs::write(&countries, "198.51.100.0,198.51.100.255,KP\n")?;
    stack.import_countries(&countries)?;
    stack.put_geo_rule("embargo", &json!({ "mode": "deny", "countries": ["KP"] }))?;
    stack.put_limit("few", &json!({ "key": "ip", "match": { "route": "all" }, "rate": 2, "per": "day" }))?;
    Ok(stack)
}

/// Requests of each kind, twice over so that something grows while Prometheus looks.
fn traffic(stack: &Stack) -> Result<()> {
    let ask = |client: &str, path: &str, status: u16| -> Result<()> {
        let answer = http::send(stack.gate(), &Request::get(path).from(client))?;
        ensure!(answer.status == status, "{client} {path}: {} {}", answer.status, answer.text());
        Ok(())
    };
    ask("192.0.2.13", "/served", 403)?;
    ask("198.51.100.1", "/served", 403)?;
    ask("192.0.2.1", "/nowhere", 404)?;
    ask("192.0.2.1", "/moved", 302)
}

/// A check in shadow differs from a cache that stands still.
fn mismatch(stack: &Stack) -> Result<()> {
    stack.flags(&json!({ "enableIpBlacklistCache": "shadow" }))?;
    stack.freeze_tables()?;
    stack.api_ok(Method::POST, "/api/admin/ip/ban", Some(&json!({ "ip": "10.0.0.2" })))?;
    let answer = http::send(stack.gate(), &Request::get("/served").from("10.0.0.2"))?;
    ensure!(answer.status == 403, "{}", answer.text());
    stack.thaw_tables()
}

/// The tables of docs/METRICS.md: statistic, series.
fn documented() -> Result<Vec<(String, String)>> {
    let page = file("docs/METRICS.md")?;
    let rows = page.lines().filter(|line| line.starts_with("| `tidegate.") || line.starts_with("| `wasm."));
    rows.map(|row| {
        let mut cells =
            row.split(" | ").map(|cell| cell.trim_start_matches("| ").trim_matches('`').to_owned());
        Ok((cells.next().context("no name")?, cells.next().context("no series")?))
    })
    .collect()
}

#[test]
fn every_metric_is_documented_as_it_is_exported() {
    let stack = start("metrics-documented").unwrap();
    let (stats, scraped) = (stack.stats().unwrap(), scrape(&stack).unwrap());
    let queue = stats.matching(|name| name.starts_with("wasmcustom.tidegate.queue.bytes.")).next().unwrap();
    let queue = queue.0.rsplit('.').next().unwrap();
    let mut listed = BTreeSet::new();
    for (statistic, series) in documented().unwrap() {
        for plugin in ["tidegate", "tidegate_recorder"] {
            let fill = |text: &str| text.replace("<instance>", queue).replace("<plugin>", plugin);
            let (statistic, series) = (fill(&statistic), fill(&series));
            let custom = if statistic.starts_with("wasm.") { "" } else { "wasmcustom." };
            let value = stats.get(&format!("{custom}{statistic}"));
            assert!(value.is_some(), "Envoy has no statistic {statistic}");
            assert!(scraped.value(&series).is_some(), "{statistic} is not exported as {series}");
            listed.insert(series);
        }
    }
    let ours = |name: &str| {
        let is_admin = name.starts_with("tidegate_admin_") || name.starts_with("tidegate_change_");
        name.starts_with("tidegate_") && !is_admin || name.starts_with("envoy_wasm_vm_reload_")
    };
    assert_eq!(scraped.series(ours), listed);
}

#[test]
fn dashboard_and_rules_use_what_is_exported() {
    let stack = start("metrics-used").unwrap();
    traffic(&stack).unwrap();
    stack.recorded(PATIENCE).unwrap();
    let scraped = scrape(&stack).unwrap();
    let all = [dashboard(), annotations(), alerts()].into_iter().flat_map(Result::unwrap);
    let mut looked = 0;
    for (what, expression) in all {
        let used = promql::used(&expression);
        assert!(!used.selectors.is_empty(), "{what}: nothing is selected by {expression}");
        let mut all = BTreeSet::new();
        let is_ours = |name: &str| !OWN.contains(&name) && !name.starts_with(OF_TLS);
        for selector in used.selectors.iter().filter(|one| is_ours(&one.name)) {
            let labels = scraped
                .labels(&selector.name)
                .unwrap_or_else(|| panic!("{what}: nobody exports {}", selector.name));
            for label in selector.labels.iter().filter(|label| !OF_PROMETHEUS.contains(&label.as_str())) {
                assert!(labels.contains(label.as_str()), "{what}: {} has no label {label}", selector.name);
            }
            all.extend(labels);
            looked += 1;
        }
        for label in used.by.iter().filter(|label| !OF_PROMETHEUS.contains(&label.as_str())) {
            assert!(all.contains(label.as_str()), "{what}: nothing in {expression} has the label {label}");
        }
    }
    assert!(looked > 80, "only {looked} selectors were looked at");
}

/// The product's configuration for this stack: its targets, and ten times as fast.
fn configure(stack: &Stack) -> Result<PathBuf> {
    let dir = stack.options().dir.join("prometheus");
    std::fs::create_dir_all(&dir)?;
    let mut config = file("envoy/prometheus/prometheus.yaml")?;
    let (envoy, admin) = (stack.envoy_admin().to_string(), stack.people().to_string());
    for (is, becomes) in [("5s", "500ms"), ("envoy:9901", &envoy), ("admin:9070", &admin)] {
        ensure!(config.contains(is), "the configuration has no {is}");
        config = config.replace(is, becomes);
    }
    std::fs::write(dir.join("rules.yaml"), file("envoy/prometheus/rules.yaml")?)?;
    let path = dir.join("prometheus.yaml");
    std::fs::write(&path, config)?;
    Ok(path)
}

#[test]
fn prometheus_takes_the_files_and_every_panel_has_data() {
    let Some(programs) = PrometheusBinaries::find() else {
        println!(
            "SKIPPED: there is no Prometheus: neither $PROMETHEUS, nor on the PATH, nor in target/tools, where \
             `cargo xtask test` puts Debian's package"
        );
        return;
    };
    let here = repository();
    programs.check(&here.join("envoy/prometheus"), &["check", "config", "prometheus.yaml"]).unwrap();
    programs.check(&here.join("envoy/prometheus"), &["check", "rules", "rules.yaml"]).unwrap();
    programs.check(&here.join("tests/prometheus"), &["test", "rules", "rules_test.yaml"]).unwrap();

    let mut stack = start("metrics-prometheus").unwrap();
    let config = configure(&stack).unwrap();
    let reserved = ReservedPorts::take().unwrap();
    let address = local(reserved.ports().gate);
    let prometheus = Prometheus::start(&programs, &config, address).unwrap();
    traffic(&stack).unwrap();
    let served =
        |client: &str| http::send(stack.gate(), &Request::get("/served").from(client)).unwrap().status;
    let statuses = [(); 3].map(|()| served("192.0.2.2"));
    assert_eq!(statuses, [200, 200, 429]);
    mismatch(&stack).unwrap();
    stack.wait_gateway(PATIENCE).unwrap();

    for (panel, expression) in dashboard().unwrap() {
        wait::until(&format!("{panel} has data: {expression}"), PATIENCE, || {
            Ok((!prometheus.query(&expression)?.is_empty()).then_some(()))
        })
        .unwrap();
    }
    // The figures are those of the traffic.
    for (expression, least) in [
        ("tidegate_requests_allow", 2.0),
        (r#"tidegate_requests_deny{reason="ip_banned"}"#, 2.0),
        (r#"tidegate_requests_deny{reason="geo_denied"}"#, 1.0),
        (r#"tidegate_requests_deny{reason="no_route"}"#, 1.0),
        (r#"tidegate_requests_deny{reason="rate_limited"}"#, 1.0),
        ("tidegate_requests_redirect", 1.0),
        (r#"tidegate_shadow_mismatched{check="ip"}"#, 1.0),
        (r#"tidegate_admin_shadow_lagging_total{check="ip"}"#, 1.0),
        (r#"tidegate_flags_percent{flag="enableRouteCache"} == 100"#, 100.0),
        ("tidegate_change_enforced_seconds_count", 7.0),
        (r#"tidegate_admin_gateways{state="live"}"#, 1.0),
    ] {
        wait::until(&format!("{expression} is at least {least}"), PATIENCE, || {
            let found = prometheus.query(expression)?;
            let value = found.first().and_then(|one| one["value"][1].as_str()?.parse::<f64>().ok());
            Ok(value.filter(|value| *value >= least))
        })
        .unwrap();
    }
    for (alert, expression) in alerts().unwrap() {
        let found = prometheus.query(&expression).unwrap();
        assert!(found.is_empty(), "{alert} on a stack that is well: {found:?}");
    }
    let rules = prometheus.get("/api/v1/rules").unwrap();
    for group in rules["groups"].as_array().unwrap() {
        for rule in group["rules"].as_array().unwrap() {
            assert_eq!(rule["health"], "ok", "{rule}");
        }
    }
    // One for real: the admin service is gone.
    stack.kill_admin();
    wait::until("an alert is pending", Duration::from_secs(60), || {
        let alerts = prometheus.get("/api/v1/alerts")?;
        let alerts = alerts["alerts"].as_array().cloned().unwrap_or_default();
        Ok(alerts.iter().any(|alert| alert["labels"]["alertname"] == "TidegateAdminDown").then_some(()))
    })
    .unwrap();
}
