//! Entries of bans and of the allow list, as tables have them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::Value;

use super::urls::page_of;
use crate::api::encoded;
use crate::show::number::count;
use crate::show::text::{foreign, in_table, optional, visible};
use crate::show::time;

/// Before it in a source's name: a rule of automatic bans.
const RULE: &str = "auto.";

/// An entry for an address or a block.
#[derive(Deserialize)]
pub struct Entry {
    /// The address or block.
    pub ip: String,
    pub status: String,
    pub reason: Option<String>,
    /// Whose lists have it, with commas between the names.
    pub source: Option<String>,
    /// The documents of sources that have it.
    #[serde(default)]
    pub sources: Vec<String>,
    pub since: Option<String>,
    pub until: Option<String>,
    #[serde(default)]
    pub expired: bool,
    #[serde(default)]
    pub left_out: bool,
    /// Keys of its rows; none of what only sources have.
    #[serde(default)]
    pub rows: Vec<String>,
    pub requests_seen: Option<RequestsSeen>,
    pub would_deny: Option<ShadowHits>,
    /// Hostnames or routes that it is held to; `None`: it applies everywhere.
    pub applies_to: Option<Value>,
}

/// What the API answers to a ban or an allowance.
#[derive(Deserialize)]
pub struct WrittenEntry {
    pub ip: String,
    pub until: Option<String>,
    pub version: String,
    /// Of a ban: where it applies, if not everywhere.
    pub applies_to: Option<Value>,
    /// What may not be what is meant.
    #[serde(default)]
    pub warnings: Vec<String>,
}

impl WrittenEntry {
    /// What was done, with until when, and for what the address that was typed was taken.
    pub fn notice(&self, typed: &str, done: &str) -> String {
        let ip = &self.ip;
        let until = self.until.as_ref().map(|until| format!(" until {until}")).unwrap_or_default();
        let taken = if typed == ip { String::new() } else { format!(" {typed} was taken as {ip}.") };
        let places = self.applies_to.as_ref().map(|scope| format!(", {}", applies_to_text(scope)));
        format!("{ip} {done}{until}{}.{taken}", places.unwrap_or_default())
    }
}

/// Requests from an address.
#[derive(Deserialize)]
pub struct RequestsSeen {
    pub count: u64,
    pub over: u64,
    pub last_seen: String,
}

/// Requests that a ban in shadow would have denied.
#[derive(Deserialize)]
pub struct ShadowHits {
    pub requests: u64,
}

impl Entry {
    /// Whether rows have it, which can be removed; what only sources have cannot.
    pub fn is_own(&self) -> bool {
        !self.rows.is_empty()
    }

    /// Its status, and whether it counts.
    pub fn state(&self) -> Markup {
        html! {
            @if self.expired { (ended_tag(&self.status)) } @else { (status_tag(&self.status)) }
            @if self.left_out { " " span.tag.bad title="The table is full: it has no effect" { "no room" } }
            @if let Some(scope) = &self.applies_to { div.quiet { (applies_to(scope)) } }
        }
    }

    /// Who has it, with links to what a page has.
    pub fn origin(&self) -> Markup {
        let names = self.source.iter().flat_map(|names| names.split(',')).filter(|name| !name.is_empty());
        let names: Vec<&str> = names.collect();
        if names.is_empty() && self.sources.is_empty() {
            return html! { span.quiet.keep { "by hand" } };
        }
        let others = self.sources.iter().map(String::as_str).filter(|name| !names.contains(name));
        html! {
            @for name in names.iter().copied().chain(others) {
                div { (source_link(name, self.sources.iter().any(|known| known == name))) }
            }
        }
    }

    /// Until when, in words.
    pub fn end(&self, now: Timestamp) -> Markup {
        time::optional_relative(self.until.as_deref(), now, "for ever")
    }

    /// Requests that it would have denied in the last 30 days, where it is in shadow.
    pub fn hits(&self) -> Markup {
        match (&self.would_deny, self.status.as_str()) {
            (Some(hits), _) => count(hits.requests),
            (None, "watched") => html! { "0" },
            _ => html! { span.none { "–" } },
        }
    }
}

/// The name of a source, as a link where there is a page.
fn source_link(name: &str, is_document: bool) -> Markup {
    html! {
        @match name.strip_prefix(RULE) {
            Some(rule) => a href={ "/ui/auto-bans/" (encoded(rule)) } { "rule " (in_table(rule)) },
            None if is_document => a href={ "/ui/sources/" (encoded(name)) } { (in_table(name)) },
            None => (in_table(name)),
        }
    }
}

/// A status as a tag.
pub fn status_tag(status: &str) -> Markup {
    let (class, word) = match status {
        "banned" => ("bad", "banned"),
        "watched" => ("warn", "in shadow"),
        "allowed" => ("good", "allowed"),
        "none" => ("plain", "no entry"),
        other => ("plain", other),
    };
    html! { span class={ "tag " (class) } { (word) } }
}

/// The tag of an entry that has ended; it is listed for an hour more.
fn ended_tag(status: &str) -> Markup {
    let was = match status {
        "watched" => "was in shadow",
        "allowed" => "was allowed",
        _ => "was banned",
    };
    html! { span.tag.plain title="It ended, and holds for nobody any more" { "ended" } div.quiet { (was) } }
}

/// Where an entry applies: `only for hostnames a.example and routes shop`.
pub fn applies_to(scope: &Value) -> Markup {
    html! {
        "only for "
        @for (index, (name, values)) in names_of(scope).iter().enumerate() {
            @if index > 0 { " and " }
            (visible(name)) " " (in_table(values))
        }
    }
}

/// The same as a text.
fn applies_to_text(scope: &Value) -> String {
    let fields: Vec<String> =
        names_of(scope).iter().map(|(name, values)| format!("{name} {values}")).collect();
    format!("only for {}", fields.join(" and "))
}

/// The fields of a scope, with their values.
fn names_of(scope: &Value) -> BTreeMap<&str, String> {
    let texts = |value: &Value| {
        let texts: Vec<String> = match value {
            Value::Array(items) => items.iter().map(text_of).collect(),
            one => vec![text_of(one)],
        };
        texts.join(", ")
    };
    let fields = scope.as_object().into_iter().flatten();
    fields.map(|(name, value)| (name.as_str(), texts(value))).collect()
}

fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// A table of entries of the list.
pub fn table(entries: &[Entry], now: Timestamp) -> Markup {
    html! {
        div.scroll tabindex="0" role="group" aria-label="Entries" {
            table.rows #entries {
                thead { tr {
                    th { "Address or block" } th { "Status" } th { "Reason" } th { "From" } th { "Since" } th { "Until" }
                    th.number { "Requests seen" } th.number { "Would have denied" }
                } }
                tbody {
                    @for entry in entries {
                        tr class=[entry.expired.then_some("ended")] {
                            td.address data-label="Address" { a href=(page_of(&entry.ip)) { (foreign(&entry.ip)) } }
                            td data-label="Status" { (entry.state()) }
                            td.long data-label="Reason" { (optional(entry.reason.as_deref())) }
                            td data-label="From" { (entry.origin()) }
                            td.keep data-label="Since" { (time::optional_relative(entry.since.as_deref(), now, "–")) }
                            td.keep data-label="Until" { (entry.end(now)) }
                            td.number data-label="Requests seen" {
                                @match &entry.requests_seen {
                                    Some(seen) => (count(seen.count)),
                                    None => span.none { "–" },
                                }
                            }
                            td.number data-label="Would deny" { (entry.hits()) }
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entry(fields: Value) -> Entry {
        let mut entry = json!({"ip": "203.0.113.0/24", "status": "banned", "rows": ["203.0.113.0/24"]});
        entry.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        serde_json::from_value(entry).unwrap()
    }

    #[test]
    fn an_entry_says_where_it_comes_from() {
        let origin = |fields| entry(fields).origin().into_string();
        assert!(origin(json!({})).contains("by hand"));
        let both = origin(json!({"source": "mine,auto.logins", "sources": ["drop"]}));
        assert!(both.contains("href=\"/ui/auto-bans/logins\"") && both.contains("href=\"/ui/sources/drop\""));
        assert!(both.contains("mine") && !both.contains("/ui/sources/mine"), "{both}");
        let once = origin(json!({"source": "drop", "sources": ["drop"]}));
        assert_eq!(once.matches("/ui/sources/drop").count(), 1, "{once}");
    }

    #[test]
    fn what_has_ended_is_no_ban_any_more() {
        let state = |fields| entry(fields).state().into_string();
        assert!(state(json!({})).contains("tag bad"));
        let ended = state(json!({"expired": true}));
        assert!(
            ended.contains("ended") && ended.contains("was banned") && !ended.contains("tag bad"),
            "{ended}"
        );
    }

    #[test]
    fn an_address_that_is_written_otherwise_is_said() {
        let written = WrittenEntry {
            ip: "11.0.0.0/8".to_owned(),
            until: Some("2026-11-30T12:00:00Z".to_owned()),
            version: String::new(),
            applies_to: None,
            warnings: Vec::new(),
        };
        assert_eq!(
            written.notice("11.1.1.1/8", "is banned"),
            "11.0.0.0/8 is banned until 2026-11-30T12:00:00Z. 11.1.1.1/8 was taken as 11.0.0.0/8."
        );
        assert_eq!(written.notice("11.0.0.0/8", "is banned").matches("11.0.0.0/8").count(), 1);
    }

    #[test]
    fn an_entry_that_is_held_to_hosts_says_so() {
        let scope = json!({"hostnames": ["a.example", "<b>"], "routes": ["shop"]});
        let text = entry(json!({"applies_to": scope})).state().into_string();
        let text = text.replace("<bdi class=\"foreign\">", "").replace("</bdi>", "");
        assert!(text.contains("only for hostnames a.example, &lt;b&gt; and routes shop"), "{text}");
    }

    #[test]
    fn shadow_hits_are_shown_of_what_is_in_shadow() {
        let hits = |fields| entry(fields).hits().into_string();
        assert_eq!(hits(json!({"status": "watched"})), "0");
        assert_eq!(hits(json!({"status": "watched", "would_deny": {"requests": 1_234}})), "1,234");
        assert!(hits(json!({})).contains('–'));
    }
}
