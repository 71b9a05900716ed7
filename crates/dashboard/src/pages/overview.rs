//! The first page: is it well, what changed, and what do requests get.

mod answers;

use axum::response::Response;
use jiff::Timestamp;
use maud::{Markup, html};

use crate::answers::{CheckCounts, Finding, Recording};
use crate::error::PageError;
use crate::page::{Page, command};
use crate::pages::rollouts::Rollout;
use crate::part::Part;
use crate::query::PageQuery;
use crate::show::number::{bytes, count, grouped, optional_millis, percent, rate};
use crate::show::sentence::sentence;
use crate::show::text::foreign;
use crate::show::time;
use crate::timeline::{GATE_TIME, Span};
use crate::visitor::Visitor;
use answers::{Answers, Gateways};

/// Answers the page.
pub async fn page(visitor: Visitor, query: PageQuery) -> Result<Response, PageError> {
    let span = Span::of(&query);
    let parts = parts(&visitor, &query).await?;
    let body = html! {
        (span.choices("/ui/", &query))
        @for part in &parts { (part.in_page()) }
    };
    let live = format!("/ui/live/overview?span={}", span.name);
    Page { title: "Overview", menu: "/ui/", live: &live, body }.show(&visitor)
}

/// The parts of the page.
pub async fn parts(visitor: &Visitor, query: &PageQuery) -> Result<Vec<Part>, PageError> {
    let span = Span::of(query);
    let now = Timestamp::now();
    let answers = Answers::ask(&visitor.api, span, now).await?;
    Ok(vec![
        Part::new("rollouts", rollouts(&answers.rollouts)),
        Part::new("findings", findings(&answers.findings)),
        Part::new("figures", figures(&answers, span)),
        Part::new("charts", answers.timeline.show()),
        Part::new("gateways", gateways(&answers.gateways)),
    ])
}

/// Rollouts that go on or were taken back.
fn rollouts(rollouts: &[Rollout]) -> Markup {
    html! { @for rollout in rollouts { (rollout.in_short()) } }
}

/// What is wrong, the worst first, each with what mends it.
pub fn findings(findings: &[Finding]) -> Markup {
    html! {
        section aria-labelledby="findings-heading" {
            h2 #findings-heading { "Is it well?" }
            @if findings.is_empty() { p.notice { "Nothing is wrong." } }
            @for finding in findings {
                div class={ "finding " (finding.severity) } {
                    p { strong { (finding.word()) ": " } (sentence(finding.detail.trim_end_matches('.'))) "." }
                    @if !finding.mend.is_empty() { p { "What to do: " (sentence(finding.mend.trim_end_matches('.'))) "." } }
                }
            }
            (command("tidegate doctor"))
        }
    }
}

fn figures(answers: &Answers, span: Span) -> Markup {
    let total = &answers.total;
    #[expect(clippy::cast_precision_loss, reason = "three digits of it are shown")]
    let per_second = total.requests as f64 / span.seconds as f64;
    html! {
        h2 { "Requests, " (span.words) }
        dl.figures {
            div { dt { "Requests" } dd { (count(total.requests)) small { (rate(per_second)) " on average" } } }
            div { dt { "Denied" } dd { (count(total.denied)) small { (share_of(total.denied, total.requests)) } } }
            div {
                dt { "Success" }
                dd { (success(answers)) small { (grouped(total.status.server_errors)) " answers with 5xx; target over 99.9 %" } }
            }
            div {
                dt title=(GATE_TIME) { "The gate's own time, P95" }
                dd { (optional_millis(total.gate_ms.p95)) small { "P50 " (optional_millis(total.gate_ms.p50)) ", P99 " (optional_millis(total.gate_ms.p99)) "; a request that waited for nothing counts as 0" } }
            }
            div {
                dt { "Whole time, P95" }
                dd { (optional_millis(total.duration_ms.p95)) small { "target under 130 ms" } }
            }
            div {
                dt { "Decided by caches alone" }
                dd { (total.cached_share.map_or_else(|| "–".to_owned(), percent)) small { (hit_ratios(&answers.recording)) } }
            }
        }
        h2 { "Recording, since the beginning" }
        dl.figures { (completeness(&answers.recording)) }
    }
}

fn success(answers: &Answers) -> String {
    let total = &answers.total;
    if total.requests == 0 {
        return "–".to_owned();
    }
    share_of(total.requests.saturating_sub(total.status.server_errors), total.requests)
}

#[expect(clippy::cast_precision_loss, reason = "some digits of it are shown")]
fn share_of(part: u64, whole: u64) -> String {
    if whole == 0 { "–".to_owned() } else { percent(part as f64 / whole as f64) }
}

/// The share of each check's answers that came from caches.
fn hit_ratios(recording: &Recording) -> String {
    let ratio = |check: &CheckCounts| check.hit_ratio.map_or_else(|| "–".to_owned(), percent);
    let checks = &recording.checks;
    format!(
        "by check, since the beginning: route {}, ip {}, geo {}",
        ratio(&checks.route),
        ratio(&checks.ip),
        ratio(&checks.geo)
    )
}

fn completeness(recording: &Recording) -> Markup {
    if recording.numbered == 0 {
        return html! {
            div { dt { "Completeness" } dd { "–" small { "no request was recorded yet; target over 99.5 %" } } }
        };
    }
    let words = match (recording.exact, recording.silent, recording.unclosed) {
        (true, ..) => "exact: every gateway told how many it counted".to_owned(),
        (false, silent, _) if silent > 0 => format!("at most: {silent} gateways are not heard of"),
        (false, _, unclosed) if unclosed > 0 => {
            format!("at most: {} VMs ended without their last number", grouped(unclosed))
        }
        _ => "at most: not every gateway told of all its requests".to_owned(),
    };
    let dropped: u64 = recording.dropped.values().sum();
    html! {
        div { dt { "Completeness" } dd { (percent(recording.completeness)) small { (words) "; target over 99.5 %" } } }
        div { dt { "Stored" } dd { (count(recording.stored)) small { "of " (grouped(recording.numbered)) " that gateways have counted" } } }
        div { dt { "Dropped or lost" } dd { (count(dropped + recording.lost)) small { (grouped(dropped)) " dropped, " (grouped(recording.lost)) " lost" } } }
        div {
            dt { "Waiting at the recorders" }
            dd { (bytes(recording.queue.waiting_bytes)) small { "the oldest for " (time::span(recording.queue.oldest_ms / 1_000)) } }
        }
    }
}

fn gateways(Gateways { version, items: gateways }: &Gateways) -> Markup {
    html! {
        section.card aria-labelledby="gateways-heading" {
            h2 #gateways-heading { "Gateways" }
            @if gateways.is_empty() {
                p.empty { "No gateway has reported yet. Start an Envoy with the filter: " code { "docs/DEPLOY.md" } "." }
            } @else {
                div.scroll {
                    table.rows {
                        thead { tr {
                            th { "Node" } th { "State" } th { "Newest tables" } th.number { "Workers" }
                            th.number { "Last heard of" }
                        } }
                        tbody {
                            @for gateway in gateways {
                                tr {
                                    td data-label="Node" { (foreign(&gateway.node)) }
                                    td data-label="State" { (gateway.state()) }
                                    td data-label="Newest tables" { (gateway.enforces_tag(version)) }
                                    td.number data-label="Workers" { (gateway.vms) }
                                    td.number data-label="Heard of" { (time::span(gateway.silent_for_ms / 1_000)) " ago" }
                                }
                            }
                        }
                    }
                }
                p { a href="/ui/gateways" { "More about gateways" } }
            }
        }
    }
}
