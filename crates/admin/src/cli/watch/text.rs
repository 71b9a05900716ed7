//! Looks and the verdict in words.

use super::figures::Measured;
use super::figures::measured;
use super::journal::WatchPlan;
use super::look::{Look, counted};
use super::verdict::Verdict;
use crate::cli::bench::report::percent;
use crate::cli::output::{markdown_table, plain, table};

const FIGURES: [&str; 7] = ["figure", "target", "looks", "met", "worst", "at", "missed since"];
const LOOKS: [&str; 9] =
    ["at", "looked", "requests", "denied", "5xx", "P50, ms", "P95, ms", "P99, ms", "probe"];

/// Characters of a text in a table.
const MAX_SHOWN: usize = 60;

/// A look in one line.
pub fn line(look: &Look, measured: &[Measured]) -> String {
    let not: Vec<String> = measured
        .iter()
        .filter(|one| !one.met)
        .map(|one| format!("{}: {}", one.figure.name(), one.shown))
        .collect();
    let word = match (&look.failed, not.is_empty()) {
        (Some(_), _) => "failed",
        (None, true) => "well",
        (None, false) => "NOT WELL",
    };
    let mut parts = not;
    parts.extend(traffic(look));
    // What missed its target has been said.
    let numbers = measured.iter().filter(|one| one.met && one.number.is_some());
    parts.extend(numbers.map(|one| format!("{} {}", one.figure.name(), one.shown)));
    plain(&format!("{} {word:8} {}", look.at, parts.join(", ")))
}

fn traffic(look: &Look) -> Option<String> {
    look.traffic.as_ref().map(|traffic| match traffic.requests {
        0 => "no requests".to_owned(),
        requests => format!("{requests} requests"),
    })
}

/// The verdict for a terminal.
pub fn verdict(verdict: &Verdict) -> String {
    let because: String = verdict.because.iter().map(|why| plain(why) + "\n").collect();
    format!("{}\n{because}{}", heading(verdict), table(FIGURES, rows(verdict)))
}

/// All of it for a ticket.
pub fn page(plan: &WatchPlan, looks: &[Look], verdict: &Verdict) -> String {
    let because: String = verdict.because.iter().map(|why| format!("- {}\n", plain(why))).collect();
    let because = if because.is_empty() { because } else { format!("\n{because}") };
    let rows_of_looks = (0..looks.len()).map(|at| look_row(&looks[at], counted(&looks[..at]), plan));
    format!(
        "### {}: {}\n{because}\n{}\n{}",
        plain(&plan.server),
        heading(verdict),
        markdown_table(FIGURES, rows(verdict)),
        markdown_table(LOOKS, rows_of_looks)
    )
}

fn heading(verdict: &Verdict) -> String {
    let word = if verdict.stable { "stable" } else { "not stable" };
    let time = |at: &Option<String>| at.clone().unwrap_or_else(|| "-".to_owned());
    let Verdict { looks, failed, not_taken, .. } = verdict;
    let missed = match not_taken {
        0 => String::new(),
        missed => format!(", {missed} more were due while nobody watched"),
    };
    format!(
        "{word}: {looks} looks from {} to {}, of which {failed} failed{missed}",
        time(&verdict.from),
        time(&verdict.to)
    )
}

fn rows(verdict: &Verdict) -> Vec<[String; 7]> {
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let row = verdict.figures.iter().map(|one| {
        let since = match (&one.missed_since, &one.missed_until) {
            (Some(since), Some(until)) => format!("{since}, until {until}"),
            (since, _) => or_dash(since),
        };
        [
            one.figure.name().to_owned(),
            one.target.clone(),
            one.measured.to_string(),
            one.met.to_string(),
            plain(&short(&or_dash(&one.worst))),
            or_dash(&one.worst_at),
            since,
        ]
    });
    row.collect()
}

/// The beginning of a long text; the reasons have all of it.
fn short(text: &str) -> String {
    match text.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

fn look_row(look: &Look, before: Option<&Look>, plan: &WatchPlan) -> [String; 9] {
    let well = measured(look, before, &plan.targets).iter().all(|one| one.met);
    let word = match (&look.failed, well) {
        (Some(_), _) => "failed",
        (None, true) => "well",
        (None, false) => "not well",
    };
    let dash = || "-".to_owned();
    let traffic = look.traffic.as_ref();
    let count = |count: Option<u64>| count.map_or_else(dash, |count| count.to_string());
    let ms = |ms: Option<f64>| ms.map_or_else(dash, |ms| format!("{ms:.3}"));
    let probe = look.probe.as_ref().map(|probe| percent(probe.success() / 100.0));
    [
        look.at.clone(),
        word.to_owned(),
        count(traffic.map(|it| it.requests)),
        count(traffic.map(|it| it.denied)),
        count(traffic.map(|it| it.errors)),
        ms(traffic.and_then(|it| it.p50_ms)),
        ms(traffic.and_then(|it| it.p95_ms)),
        ms(traffic.and_then(|it| it.p99_ms)),
        probe.unwrap_or_else(dash),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::verdict::tests::{guide, look};
    use super::*;

    #[test]
    fn a_look_is_one_line_that_says_first_what_is_wrong() {
        let line = |look: &Look| line(look, &measured(look, None, &guide()));
        let well = line(&look(0, 10.0));
        assert_eq!(
            well,
            "2026-11-30T00:00:00Z well     1000 requests, P50 1.000 ms, P95 10.000 ms, P99 100.000 ms, success 100 %"
        );
        assert!(
            line(&look(0, 140.0)).contains("NOT WELL P95: 140.000 ms, 1000 requests"),
            "{}",
            line(&look(0, 140.0))
        );
        let failed = Look { failed: Some("no\n\u{1b}[2J".to_owned()), ..Look::default() };
        assert_eq!(line(&failed).trim_start(), r"failed   service: no\n\u{1b}[2J");
    }

    #[test]
    fn a_page_has_every_look_and_every_figure() {
        let looks = [look(0, 10.0), look(1, 140.0)];
        let plan = WatchPlan::new((1, 1), "http://127.0.0.1:1".to_owned(), None, guide());
        let page = page(&plan, &looks, &Verdict::of(&looks, 2, &guide()));
        for said in [
            "not stable: 2 looks",
            "- P95 missed its target",
            "| 2026-11-30T01:00:00Z | not well",
            "| < 130 ms",
        ] {
            assert!(page.contains(said), "{said}: {page}");
        }
    }
}
