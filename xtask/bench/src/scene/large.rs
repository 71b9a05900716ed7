//! Tables as large as they come, for a stack that has the usual ones already.

use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tidegate_stack::Stack;
use tidegate_stack::http::Method;
use tidegate_stack::programs::repository;
use tidegate_stack::wait;

/// Banned addresses, none of which asks.
pub const BANS: u32 = 1_000_000;
/// Ranges of the country table, as many as a list of the whole Internet has.
pub const RANGES_V4: u32 = 385_000;
pub const RANGES_V6: u32 = 275_000;
/// Addresses of a range of IPv4, and how many there are until the next one.
const RANGE_V4: u32 = 8_192;
const OPERATIONS: &str = "crates/author/benches/data/github-api-operations.txt";
/// How long the gate may take to load it.
const PATIENCE: Duration = Duration::from_secs(180);

/// Adds a million bans, 660,000 ranges of countries, and the operations of GitHub's API as routes.
pub fn enlarge(stack: &Stack) -> Result<()> {
    put_bans(stack)?;
    put_countries(stack)?;
    put_operations(stack)
}

/// The bans, by SQL in one transaction, until the gate has them.
pub fn put_bans(stack: &Stack) -> Result<()> {
    let rows = stack.sql()?.run(&format!(
        "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {BANS} - 1) \
         INSERT INTO ip_monitor (ip, status) \
         SELECT (20 + (i >> 18)) || '.' || ((i >> 10) & 255) || '.' || ((i >> 2) & 255) || '.' || ((i & 3) * 5), 'banned' \
         FROM n"
    ))?;
    ensure!(rows.is_empty(), "{rows:?}");
    wait(stack, "bans", BANS)
}

/// The country table, instead of the one that is there, until the gate has it.
pub fn put_countries(stack: &Stack) -> Result<()> {
    let file = stack.options().dir.join("countries-large.csv");
    std::fs::write(&file, countries())?;
    stack.import_countries(&file)?;
    wait(stack, "countries", RANGES_V4 + RANGES_V6)
}

/// GitHub's operations.
fn put_operations(stack: &Stack) -> Result<()> {
    let file = repository().join(OPERATIONS);
    let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    put_routes(stack, &operations(&text)?)
}

/// Routes, by SQL in one transaction, until the gate has them.
pub fn put_routes(stack: &Stack, routes: &[Value]) -> Result<()> {
    let row = |route: &Value| {
        let name = route["metadata"]["name"].as_str().unwrap_or_default();
        format!("('{name}', '{}')", route.to_string().replace('\'', "''"))
    };
    let rows: Vec<String> = routes.iter().map(row).collect();
    let rows =
        stack.sql()?.run(&format!("INSERT INTO routes (name, document) VALUES {}", rows.join(", ")))?;
    ensure!(rows.is_empty(), "{rows:?}");
    wait(stack, "routes", u32::try_from(routes.len())?)
}

/// Waits until the gate enforces at least so many entries of a table. What `warmup` answers is by tables that the
/// admin service has read already: very many rows come later.
fn wait(stack: &Stack, table: &str, entries: u32) -> Result<()> {
    wait::until(&format!("the gate has {entries} {table}"), PATIENCE, || {
        let warm = stack.api_ok(Method::POST, "/api/admin/optimization/warmup?wait=30s", None)?;
        let is_read = warm["tables"][table]["count"].as_u64() >= Some(entries.into());
        Ok((is_read && warm["applied"]["gateways"] == 1).then_some(()))
    })
}

/// The countries of the usual scene, and no two neighbours alike, so that none are made one.
fn countries() -> String {
    let mut csv = String::from("10.1.0.0,10.1.255.255,DE\n10.9.0.0,10.9.255.255,AQ\n");
    let code = |n: u32| ["FR", "IT", "PL", "SE", "JP"][n as usize % 5];
    // A `String` takes everything.
    for n in 0..RANGES_V4 {
        let start = 0x0b00_0000 + n * RANGE_V4;
        let [start, end] = [start, start + RANGE_V4 - 1].map(Ipv4Addr::from);
        let _ = writeln!(csv, "{start},{end},{}", code(n));
    }
    for n in 0..RANGES_V6 {
        let start = (0x2a00_u128 << 112) + (u128::from(n) << 84);
        let [start, end] = [start, start + (1 << 84) - 1].map(Ipv6Addr::from);
        let _ = writeln!(csv, "{start},{end},{}", code(n));
    }
    csv
}

/// A route for each line `METHOD PATH`: by template, but for a path that has two names in an element.
fn operations(text: &str) -> Result<Vec<Value>> {
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let route = |(n, line): (usize, &str)| {
        let (method, path) = line.split_once(' ').with_context(|| format!("not an operation: {line}"))?;
        let (kind, value) = if path.contains("}.") {
            ("RegularExpression", pattern(path))
        } else {
            ("Template", path.to_owned())
        };
        Ok(json!({
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "metadata": { "name": format!("operation-{n}") },
            "spec": { "rules": [{
                "matches": [{ "path": { "type": kind, "value": value }, "method": method }],
                "backendRefs": [{ "name": "demo" }],
            }] },
        }))
    };
    lines.enumerate().map(route).collect()
}

fn pattern(path: &str) -> String {
    let element = |element: &str| {
        if element.starts_with('{') { "[^/]+".to_owned() } else { element.replace('.', r"\.") }
    };
    path.split('/').map(element).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_country_table_is_as_large_as_stated() {
        let csv = countries();
        assert_eq!(csv.lines().count(), 660_002);
        let last = csv.lines().nth(RANGES_V4 as usize + 1).unwrap();
        let end: Ipv4Addr = last.split(',').nth(1).unwrap().parse().unwrap();
        assert!(!end.is_multicast() && end.octets()[0] < 224, "{end}");
    }

    #[test]
    fn operations_are_routes_by_template() {
        let routes = operations("# a comment\nGET /repos/{owner}\nGET /compare/{base}...{head}\n").unwrap();
        let path = |at: usize| &routes[at]["spec"]["rules"][0]["matches"][0]["path"];
        assert_eq!(*path(0), json!({ "type": "Template", "value": "/repos/{owner}" }));
        assert_eq!(*path(1), json!({ "type": "RegularExpression", "value": "/compare/[^/]+" }));
        assert_eq!(routes.len(), 2);
    }
}
