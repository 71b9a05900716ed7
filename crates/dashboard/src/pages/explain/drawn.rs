//! The answer, drawn as the list of checks in the order in which a gateway asks them.

use maud::{Markup, html};

use super::answer::{CountingLimit, Effects, Explanation, GeoCheck, HeaderChange, IpCheck, Match, Outcome};
use super::answer::{RouteCheck, Share};
use crate::api::encoded;
use crate::editor::path_of;
use crate::pages::bans::entries::{applies_to, status_tag};
use crate::pages::bans::urls::page_of;
use crate::show::number::grouped;
use crate::show::sentence::sentence;
use crate::show::text::{foreign, in_table, optional};
use crate::show::{country, time};

/// A check, for the mark at the one that decides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Check {
    Ip,
    Geo,
    Route,
}

/// The check that made the gate answer itself; `None`: it lets the request go on.
fn decided_by(decision: &Outcome) -> Option<Check> {
    let reason = decision.reason.as_deref()?;
    Some(match reason {
        "ip_banned" => Check::Ip,
        "geo_denied" | "no_geo_rule" => Check::Geo,
        _ => Check::Route,
    })
}

/// The whole answer.
pub fn show(answer: &Explanation) -> Markup {
    let decided = decided_by(&answer.decision);
    let class = if answer.decision.verdict == "deny" { "bad" } else { "plain" };
    let mark = |check| (decided == Some(check)).then_some(class);
    html! {
        section #verdict aria-labelledby="verdict-heading" {
            h2 #verdict-heading { "What would happen" }
            (verdict(&answer.decision))
            p.quiet { "By the tables of version " code { (answer.version) } ", as a gateway with default settings decides. No request was sent." }
        }
        ol.checks {
            (check("Host and listener", None, listeners(&answer.checks.route)))
            (check("Allow list and bans", mark(Check::Ip), ip(&answer.checks.ip)))
            (check("Geo rules", mark(Check::Geo), geo(&answer.checks.geo)))
            (check("Route", mark(Check::Route), route(&answer.checks.route)))
            (check("Limits", None, limits(&answer.checks.limits)))
            (check("Backend", None, backends(&answer.decision, &answer.checks.route.backends)))
        }
    }
}

/// A check; `decides`: the class of the mark, where it is the one that decides.
fn check(title: &str, decides: Option<&str>, found: Markup) -> Markup {
    html! {
        li class=[decides.map(|class| format!("decides {class}"))] {
            section.card {
                h3 { (title) @if let Some(class) = decides { " " span class={ "tag " (class) } { "this decides" } } }
                (found)
            }
        }
    }
}

/// The outcome in a sentence.
fn verdict(decision: &Outcome) -> Markup {
    let (class, word) = match decision.verdict.as_str() {
        "deny" => ("error", "Denied"),
        "redirect" => ("note", "Redirected"),
        _ if decision.status.is_some_and(|status| status >= 500) => ("error", "Let through, and fails"),
        _ => ("good", "Allowed"),
    };
    html! {
        div class={ "finding " (class) } {
            p {
                strong { (word) }
                @if let Some(status) = decision.status { " with status " strong { (status) } }
                @if let Some(reason) = &decision.reason { ", " code { (reason) } }
                @if let Some(rule) = &decision.rule { ", by " code { (in_table(rule)) } }
                @if let Some(backend) = &decision.backend { ": it goes to " code { (in_table(&backend.name)) } }
                "."
            }
            @if let Some(location) = &decision.effects.location { p { "To " code { (foreign(location)) } "." } }
        }
        @if let Some(why) = &decision.would_deny {
            div.finding.warning {
                p {
                    "In shadow: were it enforced, it would be denied, " code { (why) }
                    @if let Some(rule) = &decision.would_deny_rule { ", by " code { (in_table(rule)) } }
                    "."
                }
            }
        }
    }
}

fn listeners(route: &RouteCheck) -> Markup {
    html! {
        @if route.listeners.is_empty() {
            p { "It comes by no listener that is declared, or its host cannot be read." }
        } @else {
            p { "It comes by " @for (index, name) in route.listeners.iter().enumerate() { @if index > 0 { ", " } code { (in_table(name)) } } "." }
        }
    }
}

fn ip(found: &IpCheck) -> Markup {
    let (class, words) = match found.says.as_str() {
        "banned" => ("bad", "banned"),
        "allowed" => ("good", "on the allow list: bans, geo rules and limits are skipped"),
        "watched" => ("warn", "banned in shadow: it passes, and is recorded"),
        _ => ("plain", "no entry covers the address"),
    };
    html! {
        p { span class={ "tag " (class) } { (words) } }
        @if let Some(entry) = &found.entry {
            dl.facts {
                dt { "Entry" } dd { code { (in_table(entry)) } }
                dt { "Reason" } dd { (optional(found.reason.as_deref())) }
                @if let Some(source) = &found.source { dt { "Source" } dd { (in_table(source)) } }
                @if let Some(scope) = &found.applies_to { dt { "Applies" } dd { (applies_to(scope)) } }
                @if let Some(until) = &found.until { dt { "Until" } dd { (time::moment(until)) } }
            }
        }
        @if !found.elsewhere.is_empty() {
            p { "Bans that cover the address, and not this request:" }
            ul #elsewhere {
                @for ban in &found.elsewhere {
                    li {
                        a href=(page_of(&ban.entry)) { (foreign(&ban.entry)) } " " (status_tag(&ban.status))
                        @if let Some(scope) = &ban.applies_to { " " (applies_to(scope)) }
                        @if let Some(reason) = &ban.reason { ": " (in_table(reason)) }
                    }
                }
            }
        }
    }
}

fn geo(found: &GeoCheck) -> Markup {
    html! {
        p {
            "Country: "
            @match &found.country {
                Some(code) => { strong { (in_table(country::name(code))) } " (" (in_table(code)) ")" }
                None => "not known",
            }
        }
        @if found.rules.is_empty() { p.quiet { "There is no geo rule." } } @else {
            div.scroll tabindex="0" role="group" aria-label="Geo rules" {
                table.rows {
                    thead { tr { th { "Rule" } th { "Holds" } th { "Says" } } }
                    tbody {
                        @for rule in &found.rules {
                            tr {
                                td data-label="Rule" { (rule_name(&rule.name, &rule.says)) @if rule.shadow { " " span.tag.warn { "shadow" } } }
                                td data-label="Holds" { @if !rule.holds { "no: the route does not name it" } @else if rule.global { "for every request" } @else { "the route names it" } }
                                td data-label="Says" { (rule_says(&rule.says, rule.status, rule.holds && !rule.shadow)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn rule_name(name: &str, says: &str) -> Markup {
    html! {
        @if says == "missing" { (in_table(name)) } @else { a href={ "/ui/geo/" (encoded(name)) } { (in_table(name)) } }
    }
}

fn rule_says(says: &str, status: Option<u16>, counts: bool) -> Markup {
    let class = match (says, counts) {
        ("allow", _) => "good",
        (_, true) => "bad",
        _ => "plain",
    };
    html! {
        span class={ "tag " (class) } { (says) @if let Some(status) = status { " " (status) } }
        @if says == "missing" { " there is no such rule" }
    }
}

fn route(found: &RouteCheck) -> Markup {
    html! {
        @for warning in &found.warnings { div.finding.warning { p { (sentence(warning)) } } }
        @if found.matches.is_empty() {
            p { "No route takes it. " a href="/ui/routes" { "Routes" } }
        } @else {
            div.scroll tabindex="0" role="group" aria-label="Matches that take the request" {
                table.rows #matches {
                    thead { tr { th { "Route, rule" } th { "Host" } th { "Path" } th { "Also needs" } th { "Result" } } }
                    tbody { @for one in &found.matches { (match_row(one)) } }
                }
            }
            @if found.more > 0 { p.quiet { "and " (grouped(found.more)) " more that lose" } }
        }
    }
}

fn match_row(one: &Match) -> Markup {
    html! {
        tr {
            td data-label="Route, rule" {
                a href={ "/ui/routes/" (path_of(&one.route)) } { (in_table(&one.route)) }
                ", " @if let Some(name) = &one.rule_name { (in_table(name)) } @else { "rule " (one.rule + 1) }
                @if one.closed { div { span.tag.warn { "its listener is not declared: 500" } } }
            }
            td data-label="Host" { @match &one.hostname { Some(host) => (in_table(host)), None => span.quiet { "every host" } } }
            td.long data-label="Path" { code { (in_table(&one.path.value)) } " " span.quiet { (one.path.r#type) } }
            td data-label="Also needs" {
                @if let Some(method) = &one.method { code { (method) } " " }
                @for (number, noun) in [(one.headers, "header"), (one.query, "query parameter")] {
                    @match number { 0 => {}, 1 => { div { "1 " (noun) } } number => { div { (number) " " (noun) "s" } } }
                }
            }
            td data-label="Result" {
                @if one.wins { span.tag.good { "wins" } }
                @else { span.tag.plain { "loses" } @if let Some(why) = &one.why { " " (foreign(why)) } }
            }
        }
    }
}

fn limits(limits: &[CountingLimit]) -> Markup {
    html! {
        @if limits.is_empty() { p { "No limit counts it." } } @else {
            ul {
                @for limit in limits {
                    li {
                        a href={ "/ui/limits/" (encoded(&limit.name)) } { (in_table(&limit.name)) }
                        ": " (grouped(limit.rate)) " in " (time::span(limit.per_s)) ", " (grouped(limit.burst)) " at once, counted by " code { (in_table(&limit.key)) }
                        @if limit.shadow { " " span.tag.warn { "shadow" } }
                    }
                }
            }
            p.quiet { "Each gateway counts its own requests, so whether one has any left is not said here." }
        }
    }
}

fn backends(decision: &Outcome, shares: &[Share]) -> Markup {
    let total: u64 = shares.iter().map(|share| share.weight).sum();
    let reaches_one = shares.iter().any(|share| share.outcome.backend.is_some());
    html! {
        @if let Some(template) = &decision.template { p { "Path as the route has it: " code { (in_table(template)) } } }
        @if !reaches_one {
            p { "It goes to no backend." }
            (effects(&decision.effects))
        } @else if let [_] = shares {
            (backend(decision))
            (effects(&decision.effects))
        } @else {
            p { "One is drawn by weight:" }
            @for share in shares {
                h4 { (grouped(share.weight)) " of " (grouped(total)) }
                (backend(&share.outcome))
                (effects(&share.outcome.effects))
            }
        }
    }
}

fn backend(outcome: &Outcome) -> Markup {
    let Some(to) = &outcome.backend else {
        return html! {
            p { (outcome.verdict) @if let Some(status) = outcome.status { " " (status) } @if let Some(reason) = &outcome.reason { " " code { (reason) } } }
        };
    };
    html! {
        dl.facts {
            dt { "Backend" }
            dd {
                (in_table(&to.name))
                @if let Some(namespace) = &to.namespace { " of namespace " (in_table(namespace)) }
                @if to.known == Some(false) { " " span.tag.bad { "nobody knows it: 500" } }
            }
            @if let Some(address) = &to.address {
                dt { "Address" } dd { code { (in_table(address)) } @if to.tls == Some(true) { ", with TLS" } }
            }
        }
    }
}

/// What the filters of rule and backend change.
fn effects(effects: &Effects) -> Markup {
    let times = [("Whole request", effects.request_timeout_ms), ("Each try", effects.backend_timeout_ms)];
    html! {
        dl.facts {
            @for (name, value) in [("Host becomes", &effects.host), ("Path becomes", &effects.path)] {
                @if let Some(value) = value { dt { (name) } dd { code { (foreign(value)) } } }
            }
            (headers("Request headers", &effects.request_headers))
            (headers("Response headers", &effects.response_headers))
            @for (name, ms) in times {
                @if let Some(ms) = ms { dt { (name) } dd { "at most " (grouped(ms)) " ms" } }
            }
            @if let Some(retry) = &effects.retry {
                dt { "Tried again" }
                dd { "up to " (retry.attempts) " times" @if !retry.codes.is_empty() { " after " (codes(&retry.codes)) } }
            }
            @for mirror in &effects.mirrors {
                dt { "Copied to" } dd { (in_table(&mirror.name)) ", " (grouped(mirror.numerator)) " of " (grouped(mirror.denominator)) " requests" }
            }
            @if let Some(may) = effects.cors {
                dt { "CORS" } dd { "pages of its origin " @if may { "may" } @else { "may not" } " read the answer" }
            }
        }
    }
}

fn codes(codes: &[u16]) -> String {
    codes.iter().map(u16::to_string).collect::<Vec<_>>().join(", ")
}

fn headers(name: &str, changes: &[HeaderChange]) -> Markup {
    html! {
        @if !changes.is_empty() {
            dt { (name) }
            dd {
                @for change in changes {
                    div {
                        (change.action) " " code { (in_table(&change.name)) }
                        @if let Some(value) = &change.value { ": " code { (in_table(value)) } }
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

    #[test]
    fn the_check_that_decides_is_marked() {
        let answer: Explanation = serde_json::from_value(json!({
            "version": "a.1",
            "decision": {"verdict": "deny", "status": 403, "reason": "ip_banned", "rule": "192.0.2.0/24",
                "route": null, "template": null, "backend": null,
                "would_deny": "geo_denied", "would_deny_rule": "<eu>"},
            "checks": {
                "ip": {"says": "banned", "entry": "192.0.2.0/24", "reason": "<b>", "until": null,
                    "applies_to": {"hostnames": ["a.example"]}, "elsewhere": [
                        {"entry": "192.0.2.9", "status": "watched", "applies_to": {"routes": ["<r>"]}, "reason": null}]},
                "geo": {"country": "DE", "rules": [
                    {"name": "eu", "global": true, "holds": true, "says": "deny", "status": 451, "shadow": true}]},
                "route": {"listeners": ["http"], "more": 0, "backends": [], "warnings": [], "matches": [
                    {"route": "t/r", "rule": 0, "rule_name": null, "match": 0, "wins": true, "lost_by": null,
                     "why": null, "hostname": null, "path": {"type": "Exact", "value": "/"}, "method": null,
                     "headers": 1, "query": 0}]},
                "limits": [],
            },
        }))
        .unwrap();
        let shown = show(&answer).into_string();
        assert_eq!(shown.matches("this decides").count(), 1);
        assert!(shown.contains("<h3>Allow list and bans <span class=\"tag bad\">this decides"), "{shown}");
        assert!(
            shown.contains("&lt;b&gt;") && shown.contains("&lt;eu&gt;") && !shown.contains("<b>"),
            "{shown}"
        );
        let scopes = shown.replace("<bdi class=\"foreign\">", "").replace("</bdi>", "");
        assert!(
            scopes.contains("only for hostnames a.example") && scopes.contains("only for routes &lt;r&gt;")
        );
        assert!(shown.contains("href=\"/ui/routes/t/r\"") && shown.contains("Germany"), "{shown}");
    }

    #[test]
    fn what_passes_is_decided_by_no_check() {
        let outcome = |reason: serde_json::Value| {
            serde_json::from_value::<Outcome>(json!({"verdict": "allow", "reason": reason})).unwrap()
        };
        assert_eq!(decided_by(&outcome(json!(null))), None);
        assert_eq!(decided_by(&outcome(json!("no_geo_rule"))), Some(Check::Geo));
        assert_eq!(decided_by(&outcome(json!("no_route"))), Some(Check::Route));
    }
}
