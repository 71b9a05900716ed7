//! The list of all pages: for pictures, for axe-core, and for readers of all kinds.

use anyhow::{Context, Result};
use serde_json::Value;
use tidegate_stack::Stack;
use tidegate_stack::http::Method;

use crate::filled::Filled;

/// A page.
pub struct Page {
    /// What its pictures are called.
    pub name: &'static str,
    /// Path and query.
    pub path: String,
    /// What its heading begins with.
    pub heading: &'static str,
    /// The least role that sees it.
    pub role: &'static str,
}

/// All pages of a stack that is filled.
///
/// # Errors
/// There is no event to show.
pub fn all(stack: &Stack, _: &Filled) -> Result<Vec<Page>> {
    let events = stack.api_ok(Method::GET, "/api/admin/events?verdict=deny&limit=1", None)?;
    let event = &events["items"][0];
    let text = |field: &str| event[field].as_str().map(str::to_owned);
    let source = text("source").context("no event was recorded")?;
    let one = format!(
        "/ui/events/one?source={source}&number={}&at={}",
        event["number"],
        text("timestamp").unwrap_or_default().replace(':', "%3A")
    );
    let page = |name, path: &str, heading| Page { name, path: path.to_owned(), heading, role: "read" };
    let for_operators = |name, path: &str, heading| Page { role: "operate", ..page(name, path, heading) };
    let for_admins = |name, path: &str, heading| Page { role: "admin", ..page(name, path, heading) };
    Ok(vec![
        page("overview", "/ui/", "Overview"),
        page("rollout", "/ui/rollout", "Rollout"),
        for_operators("rollout-all-off", "/ui/rollout/all-off", "All flags off?"),
        page("rollouts", "/ui/rollouts", "Automatic rollouts"),
        page("rollouts-one", "/ui/rollouts/recording", "Rollout recording"),
        page("rollouts-failed", "/ui/rollouts/bans", "Rollout bans"),
        page("rollouts-not-started", "/ui/rollouts/routes", "Rollout routes"),
        for_admins("rollouts-new", "/ui/rollouts?new=1&speed=10000", "New rollout"),
        for_operators("rollouts-abort", "/ui/rollouts/recording?ask=abort", "Abort the rollout recording?"),
        page("gateways", "/ui/gateways", "Gateways"),
        page("health", "/ui/health", "Health"),
        page("events", "/ui/events", "Events"),
        page("events-following", "/ui/events?follow=1&verdict=deny", "Events"),
        page("event", &one, "One event"),
        page("paths", "/ui/paths", "Paths"),
        page("path", &path_of(stack)?, "One path"),
        page("bans", "/ui/bans", "Bans"),
        page("address", "/ui/bans/address?ip=203.0.113.77", "Address 203.0.113.77"),
        for_operators("ban", "/ui/bans/ban", "Ban an address"),
        for_operators("import", "/ui/bans/import", "Import a list of bans"),
        page("sources", "/ui/sources", "Sources"),
        page("source", "/ui/sources/scanners", "Source scanners"),
        page("auto-bans", "/ui/auto-bans", "Automatic bans"),
        page("auto-ban", "/ui/auto-bans/scanners", "scanners"),
        page("allow-list", "/ui/allow-list", "Allow list"),
        page("routes", "/ui/routes", "Routes"),
        page("route", "/ui/routes/moved", "Route moved"),
        for_admins("route-new", "/ui/routes?new=1", "New route"),
        for_admins("route-remove", "/ui/routes/moved?remove=1", "Remove the route moved?"),
        page("backends", "/ui/backends", "Backends"),
        page("backend", "/ui/backends/orders", "orders"),
        page("limits", "/ui/limits", "Limits"),
        page("limit", "/ui/limits/per-client", "per-client"),
        page("geo", "/ui/geo", "Geo"),
        page("geo-rule", "/ui/geo/where-we-sell", "where-we-sell"),
        page("explain", "/ui/explain?host=shop.example.com&path=%2Fshop%2Fbasket&ip=198.51.100.7", "Explain"),
        page("audit", "/ui/audit", "Audit"),
        for_admins("tokens", "/ui/tokens", "Tokens"),
        for_admins("token-revoke", "/ui/tokens/revoke?name=on-call", "Revoke a token?"),
    ])
}

/// The page of the path with the most requests.
fn path_of(stack: &Stack) -> Result<String> {
    let paths = stack.api_ok(Method::GET, "/api/admin/stats/paths?limit=1", None)?;
    let path: &Value = &paths["items"][0];
    let text = |field: &str| path[field].as_str().unwrap_or_default().replace('/', "%2F");
    Ok(format!(
        "/ui/paths/one?route={}&template={}&method={}",
        text("route"),
        text("template"),
        text("method")
    ))
}
