//! What a browser logs: errors of pages, and which hosts it asked.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::chromium::Session;

/// Fails if a page had an error, violated its policy, or asked another host than the service.
pub fn check(session: &Session<'_>, service: SocketAddr) -> Result<()> {
    let console = entries(session, "browser")?;
    let wrong: Vec<&Value> = console.iter().filter(|entry| is_wrong(entry)).collect();
    ensure!(wrong.is_empty(), "the browser's log: {wrong:#?}");
    let hosts = asked(&entries(session, "performance")?)?;
    let ours = format!("http://{service}/");
    ensure!(hosts.contains(&ours), "the log of requests has none of ours: {hosts:?}");
    ensure!(hosts.len() == 1, "pages asked other hosts: {hosts:?}");
    Ok(())
}

fn entries(session: &Session<'_>, kind: &str) -> Result<Vec<Value>> {
    let log = session.command("se/log", json!({ "type": kind }))?;
    Ok(log.as_array().context("a log is a list")?.clone())
}

/// Pages that refuse something answer so; Chromium logs each status from 400 on as an error.
fn is_wrong(entry: &Value) -> bool {
    let message = entry["message"].as_str().unwrap_or_default();
    let is_refusal = entry["source"] == "network" && message.contains("responded with a status of 4");
    let is_page = !message.contains("/ui/assets/");
    let is_bad = entry["level"] == "SEVERE" || message.contains("Content Security Policy");
    is_bad && !(is_refusal && is_page)
}

/// Schemes and hosts of what was asked for, as the DevTools protocol told.
fn asked(log: &[Value]) -> Result<BTreeSet<String>> {
    let mut hosts = BTreeSet::new();
    for entry in log {
        let message: Value = serde_json::from_str(entry["message"].as_str().context("no message")?)?;
        let message = &message["message"];
        if message["method"] != "Network.requestWillBeSent" {
            continue;
        }
        let asked = message["params"]["request"]["url"].as_str().context("a request without an URL")?;
        // What the browser shows before the first page.
        if asked.starts_with("data:") || asked.starts_with("chrome:") {
            continue;
        }
        let host = asked.split_once("://").map(|(scheme, rest)| {
            let host = rest.split(['/', '?']).next().unwrap_or_default();
            format!("{scheme}://{host}/")
        });
        hosts.insert(host.unwrap_or_else(|| asked.to_owned()));
    }
    Ok(hosts)
}
