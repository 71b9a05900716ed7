//! Bans on a real Envoy: by the API and by SQL, of addresses and blocks, on every
//! worker.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use tidegate_stack::http::{Connection, Method, Request};
use tidegate_stack::{Options, Stack, wait};

fn start(name: &str, recorder: bool) -> Result<Stack> {
    let mut options = Options::for_test(name)?;
    options.recorder = recorder;
    let stack = Stack::start(options)?;
    stack.put_route("all", "/", "demo")?;
    Ok(stack)
}

/// 200 requests from `client` over 50 fresh connections: all banned, or none.
fn all_banned(stack: &Stack, client: &str) -> Result<bool> {
    let request = Request::get("/banned").from(client);
    let (mut banned, mut passed) = (0, 0);
    // All open at once: Envoy balances by open connections, so one after the other
    // could all go to one worker.
    let connections: Result<Vec<_>> = (0..50).map(|_| Connection::open(stack.gate())).collect();
    for mut connection in connections? {
        for _ in 0..4 {
            let answer = connection.send(&request)?;
            match answer.status {
                403 => {
                    ensure!(
                        answer.json()?["code"] == "ip_banned",
                        "403 for another reason: {}",
                        answer.text()
                    );
                    banned += 1;
                }
                200 => passed += 1,
                other => anyhow::bail!("{client} got {other}: {}", answer.text()),
            }
        }
    }
    ensure!(banned == 200 || passed == 200, "{client}: {banned} were banned, {passed} passed");
    Ok(banned == 200)
}

/// Every worker of Envoy had connections: else the checks above say little.
fn every_worker_was_asked(stack: &Stack) -> Result<()> {
    let listener = format!("listener.127.0.0.1_{}.worker_", stack.gate().port());
    let stats = stack.stats()?;
    let workers: Vec<_> =
        stats.matching(|name| name.starts_with(&listener) && name.ends_with("downstream_cx_total")).collect();
    ensure!(workers.len() == 2 && workers.iter().all(|(_, total)| *total > 10), "{workers:?}");
    Ok(())
}

fn bans_by_api(name: &str, recorder: bool) -> Result<()> {
    let stack = start(name, recorder)?;
    for (ban, inside, outside) in [
        ("198.51.100.7", ["198.51.100.7", "::ffff:198.51.100.7"], ["198.51.100.6", "198.51.100.8"]),
        ("203.0.113.0/24", ["203.0.113.0", "203.0.113.255"], ["203.0.112.255", "203.0.114.0"]),
        (
            "2001:db8:1:2::/64",
            ["2001:db8:1:2::", "2001:db8:1:2:ffff::1"],
            ["2001:db8:1:1::1", "2001:db8:1:3::"],
        ),
    ] {
        assert!(!all_banned(&stack, inside[0])?, "{ban} before");
        stack.ban(ban)?;
        for client in inside {
            assert!(all_banned(&stack, client)?, "{client} in {ban}");
        }
        for client in outside {
            assert!(!all_banned(&stack, client)?, "{client} beside {ban}");
        }
        stack.unban(ban)?;
        assert!(!all_banned(&stack, inside[0])?, "{ban} after");
    }
    every_worker_was_asked(&stack)
}

#[test]
fn a_ban_holds_on_every_worker() {
    bans_by_api("bans", true).unwrap();
}

#[test]
fn a_ban_holds_without_the_recorder() {
    bans_by_api("bans-bare", false).unwrap();
}

#[test]
fn a_ban_with_an_end_lets_go_by_itself() {
    let stack = start("bans-ttl", true).unwrap();
    stack.ban_with(&json!({ "ip": "192.0.2.66", "ttl": "2s" })).unwrap();
    let mut workers = stack.connection_per_worker().unwrap();
    let request = Request::get("/").from("192.0.2.66");
    for worker in &mut workers {
        assert_eq!(worker.send(&request).unwrap().status, 403);
    }
    wait::until("the ban ends", Duration::from_secs(10), || {
        let mut statuses = Vec::new();
        for worker in &mut workers {
            statuses.push(worker.send(&request)?.status);
        }
        Ok(statuses.iter().all(|status| *status == 200).then_some(()))
    })
    .unwrap();
}

fn bans_by_sql(name: &str, recorder: bool) -> Result<()> {
    let stack = start(name, recorder)?;
    let mut sql = stack.sql()?;
    let mut workers = stack.connection_per_worker()?;
    let mut all_answer = |client: &str, status: u16| {
        wait::until(&format!("{client} gets {status} on every worker"), Duration::from_secs(10), || {
            let mut fits = true;
            for worker in &mut workers {
                fits &= worker.send(&Request::get("/").from(client))?.status == status;
            }
            Ok(fits.then_some(()))
        })
    };
    all_answer("5.6.7.8", 200)?;
    sql.run("INSERT INTO ip_monitor (ip, status, updated_at) VALUES ('5.6.7.8','banned',datetime('now'))")?;
    all_answer("5.6.7.8", 403)?;
    assert!(all_banned(&stack, "5.6.7.8")?);
    // The same prefix written twice: it is banned while any row says so.
    sql.run("INSERT INTO ip_monitor (ip, status) VALUES ('5.6.7.8/32', 'banned')")?;
    sql.run("DELETE FROM ip_monitor WHERE ip = '5.6.7.8'")?;
    sql.run("INSERT INTO ip_monitor (ip, status) VALUES ('6.6.6.6', 'banned')")?;
    all_answer("6.6.6.6", 403)?;
    assert!(all_banned(&stack, "5.6.7.8")?, "the other row still says so");
    // A row that is no address bans nobody and stops nothing.
    sql.run("INSERT INTO ip_monitor (ip, status) VALUES ('999.1.1.1', 'banned')")?;
    sql.run("UPDATE ip_monitor SET ip = '7.7.7.7' WHERE ip = '6.6.6.6'")?;
    all_answer("7.7.7.7", 403)?;
    all_answer("6.6.6.6", 200)?;
    let health = stack.api_ok(Method::GET, "/api/admin/optimization/health", None)?;
    assert!(health["quarantine"].to_string().contains("999.1.1.1"), "{health}");
    // One that is made unreadable bans as before.
    sql.run("UPDATE ip_monitor SET status = 'bannd', expires_at = 'soon' WHERE ip = '7.7.7.7'")?;
    wait::until("the slip is noticed", Duration::from_secs(10), || {
        let health = stack.api_ok(Method::GET, "/api/admin/optimization/health", None)?;
        Ok(health["quarantine"].to_string().contains("7.7.7.7").then_some(()))
    })?;
    assert!(all_banned(&stack, "7.7.7.7")?);
    sql.run("DELETE FROM ip_monitor")?;
    all_answer("7.7.7.7", 200)?;
    assert!(!all_banned(&stack, "5.6.7.8")?);
    Ok(())
}

#[test]
fn a_ban_by_sql_holds_on_every_worker() {
    bans_by_sql("bans-sql", true).unwrap();
}

#[test]
fn a_ban_by_sql_holds_without_the_recorder() {
    bans_by_sql("bans-sql-bare", false).unwrap();
}
