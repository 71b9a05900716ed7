//! Lists of bans on a real Envoy: imported, and fetched by a source.

use std::fmt::Write;
use std::net::Ipv4Addr;

use anyhow::Result;
use serde_json::{Value, json};
use tidegate_stack::http::{self, Method, Request, Response};
use tidegate_stack::list_server::ListServer;
use tidegate_stack::{Options, Stack};

/// Lines of the list.
const LINES: u32 = 100_000;

/// Addresses from 20.0.0.0 on, each seventh.
fn address(n: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits((20 << 24) + n * 7)
}

fn list(lines: std::ops::Range<u32>) -> String {
    lines.fold(String::new(), |mut list, n| {
        let _ = writeln!(list, "{}", address(n));
        list
    })
}

fn import(stack: &Stack, query: &str, list: String) -> Result<Response> {
    let target = format!("/api/admin/bans/import?source=list&wait_applied=30s{query}");
    let request = Request::new(Method::POST, &target).bearer(stack.token()).body("text/plain", list);
    http::send(stack.admin_api(), &request)
}

/// The statuses that every worker answers these clients with.
fn statuses(stack: &Stack, clients: &[Ipv4Addr]) -> Result<Vec<u16>> {
    let mut all = Vec::new();
    for worker in &mut stack.connection_per_worker()? {
        for client in clients {
            all.push(worker.send(&Request::get("/").from(&client.to_string()))?.status);
        }
    }
    Ok(all)
}

fn taken(answer: &Response, counts: Value) -> Result<()> {
    let said = answer.json()?;
    assert_eq!(answer.status, 200, "{said}");
    for (name, count) in counts.as_object().unwrap() {
        assert_eq!(&said[name], count, "{name}: {said}");
    }
    assert_eq!((&said["applied"]["gateways"], &said["applied"]["of"]), (&json!(1), &json!(1)), "{said}");
    Ok(())
}

fn imported_bans() -> Result<()> {
    let stack = Stack::start(Options::for_test("bans-import")?)?;
    stack.put_route("all", "/", "demo")?;
    stack.all_flags(true)?;
    let listed: Vec<Ipv4Addr> = (0..LINES).step_by(3_331).map(address).collect();
    let beside: Vec<Ipv4Addr> = listed.iter().map(|ip| Ipv4Addr::from_bits(ip.to_bits() + 1)).collect();
    all(200, &statuses(&stack, &listed)?);

    taken(&import(&stack, "", list(0..LINES))?, json!({ "added": LINES, "kept": 0 }))?;
    all(403, &statuses(&stack, &listed)?);
    all(200, &statuses(&stack, &beside)?);

    // One wrong line of strict changes nothing.
    let wrong = format!("{}nonsense\n", list(LINES..2 * LINES));
    let refused = import(&stack, "&mode=replace&strict=true", wrong)?;
    assert_eq!((refused.status, &refused.json()?["code"]), (422, &json!("list_refused")));
    stack.wait_enforced()?;
    all(403, &statuses(&stack, &listed)?);
    all(200, &statuses(&stack, &[address(LINES), address(2 * LINES - 1)])?);

    // What the list no longer has is let in.
    let half = LINES / 2;
    taken(
        &import(&stack, "&mode=replace", list(half..LINES + 10))?,
        json!({ "added": 10, "kept": half, "removed": half }),
    )?;
    all(200, &statuses(&stack, &listed[..15])?);
    all(403, &statuses(&stack, &listed[16..])?);
    all(403, &statuses(&stack, &[address(LINES + 9)])?);
    Ok(())
}

fn all(status: u16, found: &[u16]) {
    assert!(found.iter().all(|it| *it == status), "{status}: {found:?}");
}

fn fetched_bans() -> Result<()> {
    let (stack, server) = (Stack::start(Options::for_test("ban-source")?)?, ListServer::start()?);
    stack.put_route("all", "/", "demo")?;
    let document = json!({ "url": server.url(), "allow_private": true, "interval": "30d" });
    stack.api_ok(Method::PUT, "/api/admin/sources/list?wait_applied=5s", Some(&document))?;
    let refresh = |list: String, query: &str| {
        server.serve(list);
        let target = format!("/api/admin/sources/list/refresh?wait_applied=30s{query}");
        stack.api_ok(Method::POST, &target, None)
    };
    let [gone, kept, new] = [0, 50, LINES].map(address);
    // With the caches, and by questions to the service.
    for cached in [true, false] {
        stack.all_flags(cached)?;
        let first = refresh(list(0..LINES), "&force=true")?;
        assert_eq!(first["applied"]["gateways"], 1, "{first}");
        all(403, &statuses(&stack, &[gone, kept])?);
        all(200, &statuses(&stack, &[new])?);
        let changed = refresh(list(10..LINES + 10), "")?;
        assert_eq!((&changed["added"], &changed["removed"]), (&json!(10), &json!(10)), "{changed}");
        all(403, &statuses(&stack, &[kept, new])?);
        all(200, &statuses(&stack, &[gone])?);
        // An empty list is held back, and lets nobody in.
        refresh(String::new(), "")?;
        all(403, &statuses(&stack, &[kept, new])?);
    }
    stack.api_ok(Method::DELETE, "/api/admin/sources/list?wait_applied=30s", None)?;
    all(200, &statuses(&stack, &[gone, kept, new])?);
    Ok(())
}

#[test]
fn a_source_is_enforced_and_its_changes_follow() {
    fetched_bans().unwrap();
}

#[test]
fn an_imported_list_is_enforced_whole_and_replaced() {
    imported_bans().unwrap();
}
