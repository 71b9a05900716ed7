//! The gates of a stage: what each measured, its limit, and how far it is from failing.

use maud::{Markup, html};
use tidegate_rollout::gates::{GateResult, Unit, Verdict, milliseconds, name, value};
use tidegate_rollout::plan::Stage;

use super::status::RunStatus;
use crate::chart::{ShareBar, share_bar};
use crate::show::number::grouped;
use crate::show::sentence::sentence;
use crate::show::text::in_table;

/// Below this share of its room a gate is near to failing.
const NEAR: f64 = 0.2;
/// Bounds beyond it come from so little data that they say nothing.
const UNBOUNDED: f64 = 1e11;

/// The gates of the stage that a run is in or ended in. `planned`: the stage, by its plan.
pub fn show(status: &RunStatus, planned: Option<&Stage>) -> Markup {
    let heading =
        if status.phase.is_measuring() { "Gates of this stage" } else { "Gates, as they were at last" };
    html! {
        section.card aria-labelledby="gates-heading" {
            h2 #gates-heading { (heading) }
            @match (status.gates.as_slice(), planned) {
                ([], Some(stage)) if stage.gates.is_empty() => {
                    p.empty { "This stage has no gates: it passes once it was held and its requests have come." }
                },
                ([], planned) => {
                    p.empty { "They were not looked at yet. What must hold:" }
                    @if let Some(stage) = planned { ul { @for gate in &stage.gates { li { (in_table(&name(gate))) } } } }
                },
                (results, _) => (table(results)),
            }
        }
    }
}

fn table(results: &[GateResult]) -> Markup {
    html! {
        div.scroll tabindex="0" role="group" aria-label="Gates" {
            table.rows #gates {
                caption { "Room: how far the measured figure is from the limit. 100 % is as far as can be, 0 % is at the limit." }
                thead { tr { th { "Gate" } th { "State" } th.number { "Measured" } th.number { "Limit" } th { "Room" } th { "What it found" } } }
                tbody { @for result in results { (row(result)) } }
            }
        }
    }
}

fn row(result: &GateResult) -> Markup {
    html! {
        tr {
            td.name data-label="Gate" { (in_table(&result.name)) }
            td data-label="State" { (state(result)) }
            td.number data-label="Measured" { (measured(result)) }
            td.number data-label="Limit" {
                (if result.is_minimum { "at least " } else { "at most " }) (value(result.unit, result.limit))
            }
            td.room data-label="Room" { (room(result)) }
            td.long data-label="Found" {
                (sentence(&result.says))
                @if result.requests > 0 { div.quiet { "of " (grouped(result.requests)) " requests" } }
            }
        }
    }
}

/// Whether it holds, as a tag.
pub fn state(result: &GateResult) -> Markup {
    let (class, word) = match (result.verdict, result.is_met, result.measured) {
        (Verdict::Fails, ..) => ("bad", "fails"),
        (_, true, _) => ("good", "holds"),
        (_, false, None) => ("plain", "waits for data"),
        _ => ("warn", "does not hold yet"),
    };
    html! { span class={ "tag " (class) } { (word) } }
}

fn measured(result: &GateResult) -> Markup {
    let Some(measured) = result.measured else { return html! { span.none { "–" } } };
    html! {
        (value(result.unit, measured))
        @if let Some(bounds) = bounds(result) { div.quiet { (bounds) } }
        @if let Some(control) = result.control {
            div.quiet { "control " (match result.unit { Unit::Times => milliseconds(control), unit => value(unit, control) }) }
        }
    }
}

/// Between what bounds it is; `None`: it is exact, or nothing is known of them.
fn bounds(result: &GateResult) -> Option<String> {
    let (low, high) = result.bounds?;
    let says = |bound: f64| (bound.abs() < UNBOUNDED).then(|| value(result.unit, bound));
    match (says(low), says(high)) {
        (Some(low), Some(high)) => Some(format!("{low} to {high}")),
        (Some(low), None) => Some(format!("at least {low}")),
        (None, Some(high)) => Some(format!("at most {high}")),
        (None, None) => None,
    }
}

/// How far it is from failing, as a bar and in words.
fn room(result: &GateResult) -> Markup {
    let Some(room) = result.room else { return html! { span.none { "nothing measured yet" } } };
    let (ink, words) = match room {
        room if room < 0.0 => ("deny", "over the limit".to_owned()),
        room if room < NEAR => ("shadow", format!("{:.0} %", room * 100.0)),
        room => ("cached", format!("{:.0} %", room * 100.0)),
    };
    // What is over its limit is a whole bar, in red.
    let amount = if room < 0.0 { 1.0 } else { room };
    html! { (words) (share_bar(&[ShareBar { name: &words, ink, amount }], 1.0, &format!("Room: {words}"))) }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn result(changes: Value) -> GateResult {
        let mut all = json!({
            "name": "<total> P95", "kind": "latency", "verdict": "undecided", "is_met": true, "unit": "times",
            "measured": 1.05, "limit": 1.1, "is_minimum": false, "bounds": [0.98, 1e12], "control": 20_000.0, "room": 0.5,
            "requests": 1_200, "says": "1.05 x the control's",
        });
        all.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        serde_json::from_value(all).unwrap()
    }

    #[test]
    fn a_gate_is_told_with_figure_limit_and_room() {
        let text = row(&result(json!({}))).into_string();
        for part in [
            "&lt;total&gt;",
            "1.05 x",
            "at most 1.10 x",
            "at least 0.98 x",
            "control 20.0 ms",
            "50 %",
            "aria-label=\"Room: 50 %\"",
            "of 1,200 requests",
            "holds",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let text = row(&result(json!({"verdict": "fails", "is_met": false, "room": -0.3}))).into_string();
        assert!(
            text.contains("over the limit") && text.contains("ink-deny") && text.contains("fails"),
            "{text}"
        );
        let text = row(&result(json!({"is_met": false, "measured": null, "room": null}))).into_string();
        assert!(text.contains("waits for data") && text.contains("nothing measured yet"), "{text}");
        let text = row(&result(json!({"is_met": false, "room": 0.1}))).into_string();
        assert!(text.contains("does not hold yet") && text.contains("ink-shadow"), "{text}");
    }
}
