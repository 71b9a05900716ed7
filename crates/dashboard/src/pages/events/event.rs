//! One recorded request: as a row of a table, and in full.

use axum::http::StatusCode;
use axum::response::Response;
use jiff::{SignedDuration, Timestamp};
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::Value;

use super::filters::PATH;
use crate::answers::Items;
use crate::api::encoded;
use crate::error::PageError;
use crate::page::{Page, command};
use crate::query::PageQuery;
use crate::role::Role;
use crate::show::number::{bytes, optional_millis};
use crate::show::shell::shell_word;
use crate::show::text::{foreign, in_table, optional};
use crate::show::time;
use crate::timeline::GATE_TIME;
use crate::visitor::Visitor;

/// A request as it was recorded.
#[derive(Deserialize)]
pub struct Event {
    timestamp: String,
    node: String,
    source: String,
    number: u64,
    method: Option<String>,
    host: Option<String>,
    path: Option<String>,
    route: Option<String>,
    template: Option<String>,
    client_ip: Option<String>,
    country: Option<String>,
    verdict: String,
    reason: Option<String>,
    rule: Option<String>,
    shadow_limit: Option<String>,
    would_deny: Option<String>,
    would_deny_rule: Option<String>,
    status: Option<u16>,
    duration_ms: Option<f64>,
    upstream_ms: Option<f64>,
    #[serde(default)]
    gate_ms: Option<f64>,
    bytes_in: Option<u64>,
    bytes_out: Option<u64>,
    user_agent: Option<String>,
    tunnel: bool,
    tables_seq: u64,
    modes: Option<String>,
    answered: Option<String>,
    mismatches: Option<Value>,
    complete: bool,
}

impl Event {
    /// The event as a row of the list.
    pub fn row(&self) -> Markup {
        html! {
            tr {
                td.keep data-label="Time" { a href=(self.link()) { (time::moment(&self.timestamp)) } }
                td.keep data-label="Client" { (optional(self.client_ip.as_deref())) @if let Some(country) = &self.country { " " span.quiet { (foreign(country)) } } }
                td.long data-label="Request" { (optional(self.method.as_deref())) " " (optional(self.host.as_deref())) (optional(self.path.as_deref())) }
                td.number data-label="Status" { (self.status.map_or_else(|| "–".to_owned(), |status| status.to_string())) }
                td data-label="Verdict" { (self.verdict_tag()) }
                td data-label="Why" { (self.why()) }
                td data-label="Route" { (optional(self.route.as_deref())) }
                td.number data-label="Duration" { (optional_millis(self.duration_ms)) }
            }
        }
    }

    /// The page of this event.
    fn link(&self) -> String {
        format!(
            "/ui/events/one?source={}&number={}&at={}",
            self.source,
            self.number,
            encoded(&self.timestamp)
        )
    }

    fn verdict_tag(&self) -> Markup {
        let class = match self.verdict.as_str() {
            "allow" => "good",
            "deny" => "bad",
            _ => "plain",
        };
        html! { span class={ "tag " (class) } { (foreign(&self.verdict)) } }
    }

    /// Why it was denied, or would have been.
    fn why(&self) -> Markup {
        html! {
            @if let Some(reason) = &self.reason { (foreign(reason)) " " }
            @if let Some(rule) = &self.rule { span.quiet { (in_table(rule)) " " } }
            @if let Some(reason) = &self.would_deny {
                span class="tag warn" { "shadow: " (foreign(reason)) }
                " " (optional(self.would_deny_rule.as_deref()))
            }
            @if let Some(limit) = &self.shadow_limit { span class="tag warn" { "shadow limit: " (foreign(limit)) } }
        }
    }
}

/// Answers one event in full. `source` and `number` name it, `at` says where to look.
pub async fn page(visitor: Visitor, query: PageQuery) -> Result<Response, PageError> {
    let event = find(&visitor, &query).await?.ok_or_else(|| {
        let detail = "It was removed by retention, or the link is not whole.";
        PageError::refused(StatusCode::NOT_FOUND, "This event is not there", detail)
    })?;
    let body = html! {
        (actions(&visitor, &event))
        div.columns {
            section.card aria-labelledby="request-heading" { h2 #request-heading { "Request" } (request(&event)) }
            section.card aria-labelledby="decision-heading" { h2 #decision-heading { "Decision" } (decision(&event)) }
        }
        section.card aria-labelledby="outcome-heading" { h2 #outcome-heading { "Outcome" } (outcome(&event)) }
        @if let Some(mismatches) = &event.mismatches {
            section.card aria-labelledby="mismatch-heading" {
                h2 #mismatch-heading { "Shadow answered differently" }
                pre.diff tabindex="0" { (foreign(&pretty(mismatches))) }
            }
        }
    };
    Page { title: "One event", menu: PATH, live: "", body }.show(&visitor)
}

async fn find(visitor: &Visitor, query: &PageQuery) -> Result<Option<Event>, PageError> {
    let (Ok(at), Ok(number)) = (query.get("at").parse::<Timestamp>(), query.get("number").parse::<u64>())
    else {
        return Ok(None);
    };
    let until = at.checked_add(SignedDuration::from_millis(1)).unwrap_or(at);
    let mut cursor = String::new();
    loop {
        let path = format!("events?since={at}&until={until}&limit=1000{cursor}");
        let page: Items<Event> = visitor.api.get(&path).await?;
        let is_it = |event: &Event| event.source == query.get("source") && event.number == number;
        if let Some(found) = page.items.into_iter().find(is_it) {
            return Ok(Some(found));
        }
        match page.next {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return Ok(None),
        }
    }
}

/// Where to go from here.
fn actions(visitor: &Visitor, event: &Event) -> Markup {
    let part = |name: &str, value: &Option<String>| {
        value.as_deref().map(|value| format!("&{name}={}", encoded(value))).unwrap_or_default()
    };
    let explain =
        [("method", &event.method), ("host", &event.host), ("path", &event.path), ("ip", &event.client_ip)]
            .map(|(name, value)| part(name, value))
            .concat();
    let path = [("route", &event.route), ("template", &event.template), ("method", &event.method)]
        .map(|(name, value)| part(name, value))
        .concat();
    html! {
        div.actions.spans {
            @if let Some(ip) = &event.client_ip {
                a.button href={ "/ui/bans/address?ip=" (encoded(ip)) } { @if visitor.may(Role::Operate) { "This address, ban" } @else { "This address" } }
                a.button href={ (PATH) "?ip=" (encoded(ip)) } { "Its other requests" }
            }
            a.button href={ "/ui/explain?" (explain.trim_start_matches('&')) } { "Explain: what would happen now" }
            @if event.route.is_some() { a.button href={ "/ui/paths/one?" (path.trim_start_matches('&')) } { "Statistics of its path" } }
        }
        @if let Some(ip) = &event.client_ip { (command(&format!("tidegate events --ip {}", shell_word(ip)))) }
    }
}

fn request(event: &Event) -> Markup {
    html! {
        dl.facts {
            dt { "Time" } dd { (time::moment(&event.timestamp)) }
            dt { "Client" } dd { (optional(event.client_ip.as_deref())) }
            dt { "Country" } dd { (optional(event.country.as_deref())) }
            dt { "Method" } dd { (optional(event.method.as_deref())) }
            dt { "Host" } dd { (whole(event.host.as_deref())) }
            dt { "Path" } dd { (whole(event.path.as_deref())) }
            dt { "User agent" } dd { (whole(event.user_agent.as_deref())) }
            dt { "Gateway" } dd { (foreign(&event.node)) }
        }
    }
}

fn decision(event: &Event) -> Markup {
    html! {
        dl.facts {
            dt { "Verdict" } dd { (event.verdict_tag()) }
            dt { "Reason" } dd { (whole(event.reason.as_deref())) }
            dt { "What decided" } dd { (whole(event.rule.as_deref())) }
            dt { "Route" } dd { (whole(event.route.as_deref())) }
            dt { "Template" } dd { (whole(event.template.as_deref())) }
            dt { "Shadow would have denied" } dd { (whole(event.would_deny.as_deref())) @if event.would_deny_rule.is_some() { " by " (whole(event.would_deny_rule.as_deref())) } }
            dt { "Limit in shadow" } dd { (whole(event.shadow_limit.as_deref())) }
            dt { "How checks were answered" } dd { (whole(spaced(&event.answered).as_deref())) }
            dt { "Modes of the flags" } dd { (whole(spaced(&event.modes).as_deref())) }
            dt { "Tables of change" } dd { (event.tables_seq) }
        }
    }
}

fn outcome(event: &Event) -> Markup {
    let size = |number: Option<u64>| number.map_or_else(|| "–".to_owned(), bytes);
    html! {
        dl.facts {
            dt { "Status" } dd { (event.status.map_or_else(|| "none was sent".to_owned(), |status| status.to_string())) }
            dt { "Whole time" } dd { (optional_millis(event.duration_ms)) @if event.tunnel { " (a tunnel)" } }
            dt { "Behind the gate" } dd { (optional_millis(event.upstream_ms)) }
            dt title=(GATE_TIME) { "The gate's own time" } dd { (gate_time(event.gate_ms)) }
            dt { "Bodies" } dd { (size(event.bytes_in)) " in, " (size(event.bytes_out)) " out" }
            dt { "Recorded" } dd { @if event.complete { "to its end" } @else { "its end has not come yet" } }
            dt { "Number" } dd { (event.number) " of " code { (event.source) } }
        }
    }
}

fn gate_time(ms: Option<f64>) -> Markup {
    match ms {
        Some(0.0) => html! { "0 ms: it was decided from the tables at once" },
        ms => html! { (optional_millis(ms)) },
    }
}

/// A text of somebody else, all of it.
fn whole(text: Option<&str>) -> Markup {
    text.filter(|text| !text.is_empty()).map_or_else(|| html! { span.none { "–" } }, foreign)
}

/// A list with blanks behind its commas, so that it can be broken there.
fn spaced(list: &Option<String>) -> Option<String> {
    list.as_deref().map(|text| text.replace(',', ", "))
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}
