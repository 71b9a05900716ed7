//! What `bench gate` prints.

use super::GateArgs;
use super::cases::{Case, CaseName};
use super::slices::CONNECTIONS;
use crate::intervals::Interval;
use crate::rounds::{say, spread};
use crate::table::Table;

/// An interval is narrow enough if the figure is known to this share of itself,
const SHARE: f64 = 0.10;
/// or to so many microseconds.
const MICROS: f64 = 2.0;
/// How far from zero a second Envoy without a filter may read, if its interval does not contain zero: as much
/// comes from where its memory happens to lie.
const SAME: f64 = 1.0;

/// Tables and what to think of them.
pub fn print(args: &GateArgs, bare: &Case, cases: &[Case]) {
    say(format_args!(
        "\nEnvoy's processor time per request ({}), {} slices of 0.2 s, 1 worker, {CONNECTIONS} connections; medians with \
         their intervals of 95 %:\n\n{}",
        if args.upstream { "sent on to a backend" } else { "answered by Envoy itself" },
        args.slices,
        table(bare, cases),
    ));
    if let Some(table) = beside(cases) {
        say(format_args!(
            "The builds of the filter beside that of this checkout, in the same rounds:\n\n{table}"
        ));
    }
    for line in settling(cases) {
        say(line);
    }
    let lacks: Vec<String> =
        cases.iter().filter_map(|case| lack(case.name, &case.told(), &case.slices.over)).collect();
    if lacks.is_empty() {
        say(format_args!("This run can tell: {}.\n", criterion()));
    } else {
        say(format_args!(
            "**This run cannot tell**: {}. Wanted is that {}: run it on a machine that does nothing else, or with more \
             --slices.\n",
            lacks.join("; "),
            criterion()
        ));
    }
}

fn criterion() -> String {
    format!(
        "every interval is within {:.0} % or {MICROS:.0} µs of its median, whichever is more, and a second Envoy without a \
         filter reads zero, give or take its interval or {SAME:.0} µs",
        100.0 * SHARE
    )
}

/// Why the figures `over` of a case do not tell; `None`: they do.
fn lack(name: CaseName, told: &str, over: &[f64]) -> Option<String> {
    let interval = Interval::of_median(over);
    let Interval { median, low, high } = interval;
    if interval.half_width() > (SHARE * median.abs()).max(MICROS) {
        return Some(format!("{told}: from {low:+.1} to {high:+.1} is too wide"));
    }
    let drifts = name == CaseName::SecondBare && !interval.contains(0.0) && median.abs() > SAME;
    drifts.then(|| format!("{told}: {median:+.1} where there is no difference"))
}

fn table(bare: &Case, cases: &[Case]) -> Table {
    let mut table = Table::new(&[
        "case",
        "CPU per request, µs",
        "over bare, µs",
        "95 %",
        "in no-ops",
        "95 %",
        "requests/s",
    ]);
    let noop = cases.iter().find(|case| case.name == CaseName::Noop);
    let micros = |case: &Case| format!("{:.1}", spread(&case.slices.micros)[0]);
    let rate = |case: &Case| format!("{:.0}", spread(&case.slices.rates)[0]);
    let empty = String::new;
    table.row([
        "Envoy without a filter".to_owned(),
        micros(bare),
        empty(),
        empty(),
        empty(),
        empty(),
        rate(bare),
    ]);
    for case in cases {
        let over = Interval::of_median(&case.slices.over);
        let ratio = noop
            .filter(|_| !matches!(case.name, CaseName::SecondBare | CaseName::Noop))
            .map(|noop| Interval::of_ratio(&case.slices.over, &noop.slices.over));
        table.row([
            case.told(),
            micros(case),
            format!("{:+.1}", over.median),
            format!("{:+.1} to {:+.1}", over.low, over.high),
            ratio.map_or_else(empty, |ratio| format!("{:.2}", ratio.median)),
            ratio.map_or_else(empty, |ratio| format!("{:.2} to {:.2}", ratio.low, ratio.high)),
            rate(case),
        ]);
    }
    table
}

/// Each case with another build beside the same case with this checkout's; `None`: there are none.
fn beside(cases: &[Case]) -> Option<Table> {
    let mut table = Table::new(&["case", "more than this checkout, µs", "95 %", "so it is"]);
    let others: Vec<&Case> = cases.iter().filter(|case| case.module.is_some()).collect();
    for case in &others {
        let ours = cases.iter().find(|ours| ours.name == case.name && ours.module.is_none())?;
        let more = Interval::of_difference(&case.slices.over, &ours.slices.over);
        table.row([
            case.told(),
            format!("{:+.1}", more.median),
            format!("{:+.1} to {:+.1}", more.low, more.high),
            told(&more).to_owned(),
        ]);
    }
    (!others.is_empty()).then_some(table)
}

fn told(more: &Interval) -> &'static str {
    if more.contains(0.0) {
        "not told apart"
    } else if more.median > 0.0 {
        "dearer"
    } else {
        "cheaper"
    }
}

/// How much of the cost comes after the last answer, and what comes after that.
fn settling(cases: &[Case]) -> Vec<String> {
    let median = |values: &[f64]| spread(values)[0];
    let one = |case: &&Case| {
        format!(
            "{}: {:.1} µs of it were used in the 0.12 s after the last answer; in the next 0.12 s, which are not in it, {:.1}.",
            case.told(),
            median(&case.slices.settling),
            median(&case.slices.beyond)
        )
    };
    let mut lines: Vec<String> =
        cases.iter().filter(|case| case.hands_over_later()).map(|case| one(&case)).collect();
    if let Some(last) = lines.last_mut() {
        last.push('\n');
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lacks(name: CaseName, over: impl IntoIterator<Item = f64>) -> Option<String> {
        lack(name, "it", &over.into_iter().collect::<Vec<_>>())
    }

    #[test]
    fn a_run_says_when_it_cannot_tell() {
        let around =
            |middle: f64, width: f64| (0..60).map(move |n| middle + width * (f64::from(n) - 29.5) / 30.0);
        assert_eq!(lacks(CaseName::Gate, around(40.0, 10.0)), None);
        let wide = lacks(CaseName::Gate, around(40.0, 30.0)).unwrap();
        assert!(wide.starts_with("it: from +3") && wide.ends_with("is too wide"), "{wide}");
        assert_eq!(lacks(CaseName::SecondBare, around(0.1, 3.0)), None);
        let drift = lacks(CaseName::SecondBare, around(3.0, 3.0)).unwrap();
        assert_eq!(drift, "it: +3.0 where there is no difference");
        assert_eq!(lacks(CaseName::Noop, around(3.0, 3.0)), None, "a filter costs something");
    }

    #[test]
    fn two_builds_are_told_apart_or_not() {
        let interval = |low, median, high| Interval { median, low, high };
        assert_eq!(told(&interval(-1.0, 0.5, 2.0)), "not told apart");
        assert_eq!(told(&interval(0.5, 1.0, 2.0)), "dearer");
        assert_eq!(told(&interval(-2.0, -1.0, -0.5)), "cheaper");
    }
}
