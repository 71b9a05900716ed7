//! What events are found by.

use crate::query::PageQuery;

/// The page of events.
pub const PATH: &str = "/ui/events";

/// A filter: name in the address and in the API, label, and an example.
pub const FILTERS: [(&str, &str, &str); 10] = [
    ("ip", "Address or block", "203.0.113.0/24"),
    ("host", "Host", "shop.example.com"),
    ("path", "Path begins with", "/api/"),
    ("route", "Route", "shop"),
    ("status", "Status", "404 or 5xx"),
    ("reason", "Reason", "ip_banned"),
    ("country", "Country", "DE"),
    ("method", "Method", "GET"),
    ("since", "Since", "2026-11-30T12:00:00Z or 1h"),
    ("until", "Until", "2026-11-30T13:00:00Z"),
];
/// Filters that are chosen from.
pub const VERDICTS: [&str; 4] = ["allow", "deny", "redirect", "unseen"];
pub const WOULD_DENY: [&str; 2] = ["ip_banned", "geo_denied"];

/// The filters that a page's address has.
pub fn filters(query: &PageQuery) -> PageQuery {
    let names: Vec<&str> =
        FILTERS.iter().map(|(name, ..)| *name).chain(["verdict", "would_deny", "would_deny_rule"]).collect();
    query.only(&names)
}
