//! A rule of automatic bans: its document in words, and what it has done.

use std::collections::BTreeMap;

use maud::{Markup, html};
use serde::Deserialize;
use serde_json::Value;

use crate::editor::{DocumentKind, Effect};
use crate::show::number::count;
use crate::show::text::{in_table, visible};
use crate::show::time::span;

/// The page of all rules.
pub const PATH: &str = "/ui/auto-bans";

/// Rules in the editor.
pub const RULES: DocumentKind = DocumentKind {
    collection: "auto-bans",
    command: "auto-bans",
    page: PATH,
    noun: "automatic ban",
    names: "logins; letters a to z, digits, - and ., up to 58",
    template: "\
apiVersion: tidegate.dev/v1
kind: AutoBan
spec:
  match:
    status: [401, 403]
  threshold: 10
  window: 1m
  share: 50
  ban:
    ttl: 1h
    factor: 2
    max_ttl: 7d
  mode: shadow
",
    has_status: false,
    effect: Effect::Later("The service counts requests by it from now on."),
};

/// Conditions of `match`, and the words before their values.
const CONDITIONS: [(&str, &str); 5] = [
    ("status", "status"),
    ("reason", "denied as"),
    ("route", "route"),
    ("template", "path"),
    ("method", "method"),
];

/// What a rule has done.
#[derive(Deserialize)]
pub struct Outcomes {
    pub name: String,
    mode: String,
    threshold: u64,
    window_s: u64,
    outcomes: BTreeMap<String, u64>,
    pub counters: u64,
    pub max_counters: u64,
    pub dropped: u64,
    pub late: u64,
}

impl Outcomes {
    /// How often this became of those who reached the threshold.
    pub fn of(&self, outcome: &str) -> u64 {
        self.outcomes.get(outcome).copied().unwrap_or_default()
    }

    /// Bans that it made, in force or in shadow.
    pub fn bans(&self) -> u64 {
        self.of("banned") + self.of("watched")
    }

    /// Whether its bans hold, as a tag.
    pub fn mode(&self) -> Markup {
        match self.mode.as_str() {
            "shadow" => html! { span.tag.warn title="Its bans deny nobody" { "in shadow" } },
            _ => html! { span.tag.good { "enforced" } },
        }
    }
}

/// Where a document has its fields.
pub fn spec(document: &Value) -> &Value {
    document.get("spec").unwrap_or(document)
}

/// Which requests count, in words: `status 401 or 403, method POST`.
pub fn counts_what(document: &Value) -> Markup {
    let conditions: Vec<String> = CONDITIONS
        .iter()
        .filter_map(|(field, words)| {
            let value = spec(document)["match"].get(field)?;
            let values: Vec<String> = match value {
                Value::Array(values) => values.iter().map(text_of).collect(),
                value => vec![text_of(value)],
            };
            Some(format!("{words} {}", values.join(" or ")))
        })
        .collect();
    in_table(&conditions.join(", "))
}

fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// When it bans, in words: `10 requests within 1 min, over 50 % of all`.
pub fn after(document: &Value, outcomes: &Outcomes) -> Markup {
    html! {
        (count(outcomes.threshold)) " requests within " (span(outcomes.window_s))
        @if let Some(share) = spec(document)["share"].as_f64() { ", over " (share) " % of all" }
    }
}

/// How long its bans are, in words.
pub fn how_long(document: &Value) -> Markup {
    let ban = &spec(document)["ban"];
    let text = |field: &str| ban.get(field).map(text_of);
    html! {
        @if let Some(ttl) = text("ttl") { (visible(&ttl)) }
        @if let Some(factor) = text("factor") { ", each further one " (visible(&factor)) " times as long" }
        @if let Some(most) = text("max_ttl") { ", up to " (visible(&most)) }
    }
}
