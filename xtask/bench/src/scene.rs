//! What every measurement runs on: a stack with routes, bans, geo rules and a
//! country table, and the requests that go with them.

pub mod large;

use std::fmt::Write;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tidegate_stack::http::Method;
use tidegate_stack::programs::repository;
use tidegate_stack::{Options, PortChoice, Programs, Stack};

use crate::measure::Shot;

/// HTTPRoutes, all to the demo backend.
const ROUTES: usize = 50;
/// Banned addresses, none of which asks.
const BANS: usize = 10_000;
/// Ranges of the country table, in none of which is a client.
const RANGES: u32 = 50_000;
/// Requests of [`mixed`].
const MIXED: u64 = 2_000;

/// Where results are.
pub fn dir() -> PathBuf {
    repository().join("target/bench")
}

/// A stack on free ports, with its files in an emptied folder of its own.
pub fn options(name: &str, programs: &Programs) -> Result<Options> {
    Ok(Options {
        // Few connections: each worker gets its share.
        exact_balance: true,
        ..Options::new(emptied(name)?, PortChoice::Free, programs.clone())
    })
}

/// A folder of this name for results, empty.
pub fn emptied(name: &str) -> Result<PathBuf> {
    let dir = dir().join(name);
    if dir.exists() {
        std::fs::remove_dir_all(&dir).with_context(|| format!("cannot empty {}", dir.display()))?;
    }
    std::fs::create_dir_all(&dir)?;
    Ok(dir)
}

/// Fills the database, and waits until the gate has it.
pub fn fill(stack: &Stack) -> Result<()> {
    for route in 0..ROUTES {
        let name = format!("svc-{route:02}");
        let document = json!({
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "metadata": { "name": name },
            "spec": { "rules": [{
                "matches": [{ "path": { "type": "PathPrefix", "value": format!("/{name}") } }],
                "backendRefs": [{ "name": "demo" }],
            }] },
        });
        put(stack, &format!("/api/admin/routes/{name}"), &document)?;
    }
    put(stack, "/api/admin/geo-rules/bench", &json!({ "mode": "deny", "countries": ["AQ"] }))?;
    stack.sql()?.run(&format!(
        "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {BANS} - 1) \
         INSERT INTO ip_monitor (ip, status, updated_at) \
         SELECT '100.64.' || (i / 256) || '.' || (i % 256), 'banned', datetime('now') FROM n \
         UNION ALL SELECT '10.1.255.' || i, 'banned', datetime('now') FROM n WHERE i < 16"
    ))?;
    let file = stack.options().dir.join("countries.csv");
    std::fs::write(&file, countries())?;
    stack.import_countries(&file)?;
    let warm = stack.api_ok(Method::POST, "/api/admin/optimization/warmup?wait=30s", None)?;
    ensure!(warm["applied"]["gateways"] == 1 && warm["applied"]["of"] == 1, "the gate is not warm: {warm}");
    Ok(())
}

fn put(stack: &Stack, target: &str, document: &serde_json::Value) -> Result<()> {
    stack.api_ok(Method::PUT, target, Some(document)).map(drop)
}

/// Clients of 10.1/16 are in Germany, those of 10.9/16 in Antarctica; the rest is
/// there to be searched through.
fn countries() -> String {
    let mut csv = String::from("10.1.0.0,10.1.255.255,DE\n10.9.0.0,10.9.255.255,AQ\n");
    for range in 0..RANGES {
        let start = 0x1400_0000 + range * 1024;
        let code = ["FR", "IT", "PL"][range as usize % 3];
        // A `String` takes everything.
        let _ = writeln!(
            csv,
            "{},{},{code}",
            std::net::Ipv4Addr::from(start),
            std::net::Ipv4Addr::from(start + 1023)
        );
    }
    csv
}

/// Requests that all pass, from 256 clients.
pub fn passing() -> Vec<Shot> {
    (0..256).map(|n| allowed(n, n)).collect()
}

/// 96 in 100 pass, from 1,000 clients to all routes; 2 are of banned clients, 1
/// from a denied country, 1 has no route. Always the same ones.
pub fn mixed() -> Vec<Shot> {
    let shot = |path: String, client: String, status| Shot { path, client: Some(client), status };
    (0..MIXED)
        // 37 and 100 have no common divisor: all of a hundred, spread.
        .map(|n| match n * 37 % 100 {
            0 | 50 => shot("/svc-01/banned".to_owned(), format!("10.1.255.{}", n % 16), 403),
            25 => shot("/svc-02/geo".to_owned(), format!("10.9.0.{}", n % 200), 403),
            75 => shot(format!("/nowhere/{n}"), format!("10.1.0.{}", n % 250), 404),
            _ => allowed(n, n % 1_000),
        })
        .collect()
}

fn allowed(n: u64, client: u64) -> Shot {
    Shot {
        path: format!("/svc-{:02}/items/{n}?ref=home", n % ROUTES as u64),
        client: Some(format!("10.1.{}.{}", client / 250, client % 250)),
        status: 200,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mixture_is_as_stated() {
        let shots = mixed();
        let count = |status: u16, start: &str| {
            let is = |shot: &&Shot| shot.status == status && shot.path.starts_with(start);
            shots.iter().filter(is).count()
        };
        assert_eq!(shots.len(), 2_000);
        assert_eq!(count(403, "/svc-01/banned"), 40);
        assert_eq!(count(403, "/svc-02/geo"), 20);
        assert_eq!(count(404, "/nowhere"), 20);
        assert_eq!(count(200, "/svc-"), 1_920);
        let first = shots.iter().take(200).filter(|shot| shot.status != 200).count();
        assert_eq!(first, 8, "spread, not in one place");
    }

    #[test]
    fn ranges_do_not_overlap() {
        let csv = countries();
        let address = |text: &str| text.parse::<std::net::Ipv4Addr>().unwrap();
        let mut last = std::net::Ipv4Addr::UNSPECIFIED;
        for line in csv.lines() {
            let [start, end, _] = line.split(',').collect::<Vec<_>>()[..] else { panic!("{line}") };
            assert!(last < address(start) && address(start) < address(end), "{line}");
            last = address(end);
        }
        assert_eq!(csv.lines().count(), 50_002);
    }
}
