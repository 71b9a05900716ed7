//! A report as Markdown.

use std::fmt::Write;

use tidegate_policy::check::Check;

use super::Report;
use crate::figures::{Completeness, Group};
use crate::gates::{GateResult, milliseconds, percent, value};
use crate::plan::span;
use crate::run::{GroupSummary, Note, Percentiles, Phase, StageRecord};
use crate::time::rfc3339;

pub(super) fn page(report: &Report) -> String {
    let mut page = String::new();
    head(&mut page, report);
    overview(&mut page, report);
    for record in report.stages.iter().chain(&report.current) {
        stage(&mut page, record);
    }
    notes(&mut page, &report.notes);
    page
}

// Writing to a string does not fail.
macro_rules! line {
    ($page:expr, $($text:tt)*) => { { let _ = writeln!($page, $($text)*); } };
}

fn head(page: &mut String, report: &Report) {
    line!(page, "# Rollout {}, run {}: {}\n", text(&report.name), report.run, phase(&report.phase));
    if !report.description.is_empty() {
        line!(page, "{}\n", text(&report.description));
    }
    match &report.phase {
        Phase::Paused { by, reason } => {
            line!(page, "Paused{}: {}\n", by_whom(by.as_deref()), text(&reason.says));
        }
        Phase::RolledBack { reason } => {
            line!(page, "**The flags are what they were before the run.** {}\n", text(&reason.says));
        }
        Phase::Aborted { by } => {
            let says = report.notes.last().map_or("", |note| note.says.as_str());
            line!(page, "**Aborted by {}.** {}\n", text(by), text(says));
        }
        Phase::Running | Phase::WaitingForApproval | Phase::Completed => {}
    }
    let ended = report.ended.as_ref().map_or_else(|| "not ended yet".to_owned(), |at| format!("ended {at}"));
    line!(
        page,
        "Started by {} {}, {ended}. Stages: {}.\n",
        text(&report.started_by),
        report.began,
        report.plan.len()
    );
}

fn overview(page: &mut String, report: &Report) {
    line!(page, "| stage | flags | control | treated | held | decision |");
    line!(page, "| --- | --- | ---: | ---: | ---: | --- |");
    for record in report.stages.iter().chain(&report.current) {
        line!(
            page,
            "| {} | {} | {} | {} | {} | {} |",
            text(&record.name),
            flags(record),
            record.groups.control.requests,
            record.groups.treated.requests,
            span(record.held_ms),
            decision(record),
        );
    }
    let last = report.stages.iter().chain(&report.current).map(|record| record.stage).max();
    let first_open = last.map_or(0, |last| last.saturating_add(1));
    for name in report.plan.iter().skip(first_open) {
        line!(page, "| {} | | | | | not begun |", text(name));
    }
    line!(page, "");
}

fn stage(page: &mut String, record: &StageRecord) {
    line!(page, "## {}: {}\n", text(&record.name), decision(record));
    let left = record.left_ms.map_or_else(|| "now".to_owned(), rfc3339);
    line!(
        page,
        "Flags: {}. From {} to {left}, held {} of {}{}.\n",
        flags(record),
        rfc3339(record.entered_ms),
        span(record.held_ms),
        span(record.hold_ms),
        by_whom(record.by.as_deref()),
    );
    if !record.says.is_empty() {
        line!(page, "{}\n", text(&record.says));
    }
    figures(page, record);
    if record.gates.is_empty() {
        line!(page, "No gates.\n");
        return;
    }
    line!(page, "| gate | | measured | limit | room | |");
    line!(page, "| --- | --- | ---: | ---: | ---: | --- |");
    for gate in &record.gates {
        gate_row(page, gate);
    }
    line!(page, "");
}

/// Both groups' figures; without a control group those of the one.
fn figures(page: &mut String, record: &StageRecord) {
    let has_control = record.groups.control.requests > 0;
    let columns = if has_control {
        "| | control | treated |\n| --- | ---: | ---: |"
    } else {
        "| | all |\n| --- | ---: |"
    };
    line!(page, "{columns}");
    let mut row = |name: &str, of: &dyn Fn(&GroupSummary) -> String| {
        let treated = of(record.groups.get(Group::Treated));
        if has_control {
            line!(page, "| {name} | {} | {treated} |", of(record.groups.get(Group::Control)));
        } else {
            line!(page, "| {name} | {treated} |");
        }
    };
    row("requests", &|group| group.requests.to_string());
    row("gate, P50 / P95 / P99", &|group| percentiles(&group.gate));
    row("total, P50 / P95 / P99", &|group| percentiles(&group.total));
    row("success", &|group| share(group.succeeded, group.requests));
    row("5xx", &|group| share(group.server_errors, group.requests));
    row("denied", &|group| share(group.denied, group.requests));
    for check in Check::ALL {
        let hits = |group: &GroupSummary| {
            let checks = group.checks.get(check);
            share(checks.cached, checks.answers())
        };
        row(&format!("{} from the cache", check.name()), &hits);
    }
    row("mismatches / compared", &|group| {
        let of = |figure: fn(&crate::figures::CheckFigures) -> u64| {
            Check::ALL.into_iter().map(|check| figure(group.checks.get(check))).fold(0, u64::saturating_add)
        };
        format!("{} / {}", of(|checks| checks.mismatched), of(|checks| checks.compared))
    });
    line!(page, "");
    let seen = &record.observed;
    line!(
        page,
        "Completeness {}; events waiting {}, dropped {}; gateways {}, lost {}, lagging {}.\n",
        completeness(seen.completeness),
        seen.queue_depth,
        seen.dropped,
        seen.gateways,
        seen.lost,
        seen.lagging,
    );
}

fn gate_row(page: &mut String, gate: &GateResult) {
    let measured = gate.measured.map_or_else(|| "-".to_owned(), |measured| value(gate.unit, measured));
    let sign = if gate.is_minimum { ">=" } else { "<=" };
    let room = gate.room.map_or_else(|| "-".to_owned(), |room| format!("{:.0} %", room * 100.0));
    let verdict = match gate.verdict.name() {
        "fails" => "**fails**",
        name => name,
    };
    let limit = value(gate.unit, gate.limit);
    line!(
        page,
        "| {} | {verdict} | {measured} | {sign} {limit} | {room} | {} |",
        text(&gate.name),
        text(&gate.says)
    );
}

fn notes(page: &mut String, notes: &[Note]) {
    line!(page, "## What happened\n");
    line!(page, "| when | what | stage | by | |");
    line!(page, "| --- | --- | --- | --- | --- |");
    for note in notes {
        line!(
            page,
            "| {} | {} | {} | {} | {} |",
            rfc3339(note.at_ms),
            note.kind.name().replace('_', " "),
            text(&note.stage),
            note.by.as_deref().map_or_else(|| "the rollout".to_owned(), text),
            text(&note.says),
        );
    }
}

fn phase(phase: &Phase) -> String {
    phase.name().replace('_', " ")
}

fn decision(record: &StageRecord) -> String {
    record.decision.map_or_else(|| "going on".to_owned(), |decision| decision.name().replace('_', " "))
}

fn by_whom(by: Option<&str>) -> String {
    by.map_or_else(String::new, |by| format!(" by {}", text(by)))
}

fn flags(record: &StageRecord) -> String {
    let flags = record.flags.iter().map(|(name, state)| format!("`{name}: {state}`"));
    flags.collect::<Vec<_>>().join(", ")
}

fn percentiles(times: &Percentiles) -> String {
    let of = |us: Option<u64>| us.map_or_else(|| "-".to_owned(), |us| milliseconds(us as f64));
    format!("{} / {} / {}", of(times.p50), of(times.p95), of(times.p99))
}

fn share(part: u64, of: u64) -> String {
    if of == 0 { "-".to_owned() } else { percent(part as f64 / of as f64) }
}

fn completeness(completeness: Option<Completeness>) -> String {
    match completeness {
        None => "not known".to_owned(),
        Some(Completeness { ratio, exact: true }) => percent(ratio),
        Some(Completeness { ratio, exact: false }) => format!("at most {}", percent(ratio)),
    }
}

/// Text within a table: on one line, and nothing in it is Markdown or HTML.
fn text(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '|' | '*' | '_' | '`' | '[' | ']' | '\\' | '#' => {
                safe.push('\\');
                safe.push(c);
            }
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '&' => safe.push_str("&amp;"),
            c if c.is_control() => safe.push(' '),
            c => safe.push(c),
        }
    }
    safe
}
