//! What was decided in a run, and by what figures.

use jiff::Timestamp;
use maud::{Markup, html};
use tidegate_rollout::report::Report;
use tidegate_rollout::run::{Decision, Note, StageRecord};

use super::gates::state;
use super::groups::table;
use super::stages::span;
use crate::show::sentence::sentence;
use crate::show::text::{foreign, in_table};
use crate::show::time;

/// Decisions that are shown: the last ones.
const SHOWN: usize = 40;
/// Notes that are shown: the last ones.
const NOTES: usize = 100;

/// The decisions, oldest first, so that what a reader has opened stays open.
pub fn show(report: &Report) -> Markup {
    let left_out = report.stages.len().saturating_sub(SHOWN);
    html! {
        section.card aria-labelledby="decisions-heading" {
            h2 #decisions-heading { "Decisions so far" }
            @if report.stages.is_empty() { p.empty { "Nothing was decided yet. Each stage is here with its figures once it has passed or failed." } }
            @if left_out > 0 { p.quiet { "The first " (left_out) " are in the report." } }
            @for record in report.stages.iter().skip(left_out) { (decided(record)) }
            (notes(&report.notes))
        }
    }
}

fn decided(record: &StageRecord) -> Markup {
    html! {
        details.entry {
            summary {
                (record.left_ms.map_or_else(Markup::default, moment)) " " strong { (in_table(&record.name)) } " "
                @if let Some(decision) = record.decision { (tag(decision)) }
                @if let Some(by) = &record.by { " by " (foreign(by)) }
                " " span.quiet { (sentence(&record.says)) }
            }
            p.quiet { "Held " (span(record.held_ms)) " of " (span(record.hold_ms)) "." }
            (table(&record.groups))
            @if !record.gates.is_empty() {
                ul.gate-list {
                    @for gate in &record.gates { li { (state(gate)) " " (in_table(&gate.name)) ": " (sentence(&gate.says)) } }
                }
            }
        }
    }
}

fn tag(decision: Decision) -> Markup {
    let (class, word) = match decision {
        Decision::Passed => ("good", "passed"),
        Decision::Paused => ("warn", "paused"),
        Decision::RolledBack => ("bad", "rolled back"),
        Decision::StageRolledBack => ("bad", "stage rolled back"),
        Decision::Aborted => ("plain", "aborted"),
    };
    html! { span class={ "tag " (class) } { (word) } }
}

fn moment(ms: u64) -> Markup {
    let at = i64::try_from(ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    at.map_or_else(Markup::default, |at| time::moment(&at.to_string()))
}

/// All that happened, the newest last.
fn notes(notes: &[Note]) -> Markup {
    let left_out = notes.len().saturating_sub(NOTES);
    html! {
        details.data {
            summary { "All that happened: " (notes.len()) }
            @if left_out > 0 { p.quiet { "The first " (left_out) " are in the report." } }
            ul {
                @for note in notes.iter().skip(left_out) {
                    li {
                        (moment(note.at_ms)) " " (note.kind.name().replace('_', " "))
                        @if !note.stage.is_empty() { " in " (in_table(&note.stage)) }
                        @if let Some(by) = &note.by { " by " (foreign(by)) }
                        ": " (sentence(&note.says))
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
    fn a_decision_is_told_with_who_decided_and_why() {
        let group = json!({
            "requests": 10, "succeeded": 10, "server_errors": 0, "denied": 0,
            "gate": {"p50": 1, "p95": 2, "p99": 3}, "total": {"p50": 1, "p95": 2, "p99": 3},
            "checks": {"ip": {"cached": 0, "direct": 0, "fallback": 0, "unavailable": 0, "compared": 0, "mismatched": 0},
                       "geo": {"cached": 0, "direct": 0, "fallback": 0, "unavailable": 0, "compared": 0, "mismatched": 0},
                       "route": {"cached": 0, "direct": 0, "fallback": 0, "unavailable": 0, "compared": 0, "mismatched": 0}},
        });
        let record: StageRecord = serde_json::from_value(json!({
            "stage": 0, "name": "<half>", "measurement": 1, "flags": {}, "entered_ms": 0, "left_ms": 90_000, "held_ms": 60_000,
            "hold_ms": 60_000, "min_requests": 1, "decision": "rolled_back", "says": "success: 98 %", "by": "op",
            "groups": {"control": group, "treated": group}, "gates": [],
            "observed": {"completeness": null, "queue_depth": 0, "dropped": 0, "gateways": 1, "lost": 0, "lagging": 0,
                         "recorder_absent": false, "oldest_tables_ms": null},
        }))
        .unwrap();
        let text = decided(&record).into_string();
        for part in [
            "&lt;half&gt;",
            "rolled back",
            "success: 98 %",
            "op",
            "1970-01-01 00:01:30",
            "Held 1 min of 1 min.",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
