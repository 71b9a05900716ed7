//! `tidegate bench compare`: how the second of two saved results differs from the first.

use std::path::PathBuf;

use serde::Serialize;

use super::report::percent;
use super::result::BenchResult;
use crate::cli::documents::CommandResult;
use crate::cli::output::{ReportArgs, markdown_table, table};
use crate::sample_difference::{BEYOND, Difference, quantile_difference, share_difference};

/// Options of `tidegate bench compare`.
#[derive(clap::Args, Debug)]
pub struct CompareArgs {
    /// The first result, as `bench --save` wrote it.
    first: PathBuf,
    /// The second one: how it differs from the first is said.
    second: PathBuf,
    #[command(flatten)]
    output: ReportArgs,
}

const QUANTILES: [(&str, f64); 4] = [("P50", 0.5), ("P90", 0.9), ("P95", 0.95), ("P99", 0.99)];
const HEADINGS: [&str; 6] = ["figure", "first", "second", "difference", "95 % interval", "could tell"];

/// How two results differ.
#[derive(Serialize, Debug)]
struct Comparison {
    /// How the intervals were made, and their confidence.
    method: &'static str,
    confidence: f64,
    /// What was measured in another way, so that the results may differ by it.
    measured_differently: Vec<String>,
    figures: Vec<Figure>,
}

/// How a figure differs: second minus first.
#[derive(Serialize, Debug)]
struct Figure {
    figure: &'static str,
    /// `ms`, or `percent`.
    unit: &'static str,
    first: Option<f64>,
    second: Option<f64>,
    difference: Option<f64>,
    low: Option<f64>,
    high: Option<f64>,
    /// The smallest difference that four of five such comparisons would tell from none.
    smallest: Option<f64>,
    verdict: FigureVerdict,
    sentence: String,
}

#[derive(Serialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "snake_case")]
enum FigureVerdict {
    /// The second is lower.
    Lower,
    /// The second is higher.
    Higher,
    /// Chance explains the difference.
    NoDifference,
    /// Too few requests to say anything.
    TooFew,
}

/// Runs it.
///
/// # Errors
/// When one of the files is no result; then it is named, with the field.
pub fn run(args: &CompareArgs) -> anyhow::Result<CommandResult> {
    let (first, second) = (BenchResult::read(&args.first)?, BenchResult::read(&args.second)?);
    let comparison = Comparison::of(&first, &second);
    args.output.print(&comparison, || comparison.text(), || comparison.markdown())?;
    Ok(CommandResult::Done)
}

impl Comparison {
    fn of(first: &BenchResult, second: &BenchResult) -> Self {
        let times = QUANTILES.map(|(name, share)| Figure::of_times(name, share, first, second));
        let success = Figure::of_success(first, second);
        Self {
            method: "times: bootstrap of each quantile with 2,000 resamples; success: Newcombe's interval of two shares",
            confidence: 0.95,
            measured_differently: measured_differently(first, second),
            figures: times.into_iter().chain([success]).collect(),
        }
    }

    fn rows(&self) -> Vec<[String; 6]> {
        self.figures.iter().map(Figure::row).collect()
    }

    fn sentences(&self) -> Vec<String> {
        let differently = self
            .measured_differently
            .iter()
            .map(|what| format!("Not the same in both, and part of any difference: {what}."));
        let figures = self.figures.iter().map(|figure| figure.sentence.clone());
        let limits = [
            "\"Could tell\" is the smallest difference that four of five comparisons with so many requests tell from none."
                .to_owned(),
            "The intervals have the chance in them that is between requests, and nothing of what else changed between the two \
             runs: on a machine with other work, measure each several times, or in turn as `bench proxy-vs-direct` does."
                .to_owned(),
        ];
        differently.chain(figures).chain(limits).collect()
    }

    fn text(&self) -> String {
        let sentences: String = self.sentences().iter().map(|line| format!("{line}\n")).collect();
        format!("{}{sentences}", table(HEADINGS, self.rows()))
    }

    fn markdown(&self) -> String {
        let sentences: String = self.sentences().iter().map(|line| format!("- {line}\n")).collect();
        format!("{}\n{sentences}", markdown_table(HEADINGS, self.rows()))
    }
}

/// What makes two results hard to compare.
fn measured_differently(first: &BenchResult, second: &BenchResult) -> Vec<String> {
    let host = |result: &BenchResult| result.host.clone().unwrap_or_else(|| "the URL's".to_owned());
    let statuses = |result: &BenchResult| {
        let all: Vec<String> = result.status.keys().map(u16::to_string).collect();
        if all.is_empty() { "none".to_owned() } else { all.join(", ") }
    };
    let fields = [
        ("url", first.url.clone(), second.url.clone()),
        ("host", host(first), host(second)),
        ("connections", first.connections.to_string(), second.connections.to_string()),
        ("statuses", statuses(first), statuses(second)),
    ];
    let different = fields.into_iter().filter(|(_, first, second)| first != second);
    different.map(|(name, first, second)| format!("{name} ({first}; {second})")).collect()
}

impl Figure {
    fn of_times(name: &'static str, share: f64, first: &BenchResult, second: &BenchResult) -> Self {
        let found = quantile_difference(&first.latency.sample(), &second.latency.sample(), share);
        let found = found.map(|found| scaled(found, 1.0 / 1_000.0));
        let too_few = || {
            let needed = (BEYOND / share.min(1.0 - share)).round();
            format!("{name}: nothing can be said with under {needed:.0} answers in both.")
        };
        let values = [first, second].map(|result| result.latency.quantile(share));
        Self::new(name, "ms", values, found, too_few)
    }

    fn of_success(first: &BenchResult, second: &BenchResult) -> Self {
        let counts = [first, second].map(|result| (result.successes(), result.requests));
        let found = share_difference(counts[0], counts[1]).map(|found| scaled(found, 100.0));
        let values = [first, second].map(|result| result.success().map(|share| share * 100.0));
        Self::new("success", "percent", values, found, || "success: one of them has no requests.".to_owned())
    }

    fn new(
        figure: &'static str,
        unit: &'static str,
        [first, second]: [Option<f64>; 2],
        found: Option<Difference>,
        too_few: impl FnOnce() -> String,
    ) -> Self {
        let verdict = match found {
            None => FigureVerdict::TooFew,
            Some(found) if found.may_be_none() => FigureVerdict::NoDifference,
            Some(found) if found.low > 0.0 => FigureVerdict::Higher,
            Some(_) => FigureVerdict::Lower,
        };
        let sentence = found.map_or_else(too_few, |found| sentence(figure, unit, verdict, &found));
        Self {
            figure,
            unit,
            first,
            second,
            difference: found.map(|found| found.value),
            low: found.map(|found| found.low),
            high: found.map(|found| found.high),
            smallest: found.map(|found| found.smallest),
            verdict,
            sentence,
        }
    }

    fn row(&self) -> [String; 6] {
        let value = |value: Option<f64>| match (value, self.unit) {
            (None, _) => "-".to_owned(),
            (Some(value), "ms") => format!("{value:.3}"),
            (Some(value), _) => percent(value / 100.0),
        };
        let signed =
            |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:+.3}"));
        let interval = match (self.low, self.high) {
            (Some(_), Some(_)) => format!("{} to {}", signed(self.low), signed(self.high)),
            _ => "-".to_owned(),
        };
        let smallest = self.smallest.map_or_else(|| "-".to_owned(), |smallest| format!("{smallest:.3}"));
        let unit = if self.unit == "ms" { ", ms" } else { "" };
        let name = format!("{}{unit}", self.figure);
        [name, value(self.first), value(self.second), signed(self.difference), interval, smallest]
    }
}

fn scaled(of: Difference, by: f64) -> Difference {
    Difference { value: of.value * by, low: of.low * by, high: of.high * by, smallest: of.smallest * by }
}

fn sentence(figure: &str, unit: &str, verdict: FigureVerdict, found: &Difference) -> String {
    let (unit, words) =
        if unit == "ms" { ("ms", ["faster", "slower"]) } else { ("points", ["lower", "higher"]) };
    let [lower, higher] = words;
    let Difference { value, low, high, smallest } = found;
    let word = match verdict {
        FigureVerdict::Lower => lower,
        FigureVerdict::Higher => higher,
        FigureVerdict::NoDifference | FigureVerdict::TooFew => {
            return format!(
                "{figure}: no difference can be told; with a confidence of 95 % it is between {low:+.3} and {high:+.3} {unit}. One \
                 of {smallest:.3} {unit} would have been told four times out of five."
            );
        }
    };
    let (value, ends) = (value.abs(), [low.abs(), high.abs()]);
    let [least, most] = [ends[0].min(ends[1]), ends[0].max(ends[1])];
    format!(
        "{figure}: the second is {word} by {value:.3} {unit}; with a confidence of 95 % by {least:.3} to {most:.3} {unit}."
    )
}

#[cfg(test)]
mod tests {
    use super::super::result::tests::of_times;
    use super::*;

    /// Times spread evenly over a millisecond.
    fn run(from_us: u64, count: u64) -> BenchResult {
        of_times((0..count).map(|number| from_us + number * 7_919 % 1_000))
    }

    #[test]
    fn differences_are_said_in_words() {
        let slower = Comparison::of(&run(5_000, 2_000), &run(5_300, 2_000));
        let p50 = &slower.figures[0];
        assert_eq!(
            (p50.verdict, slower.figures[4].verdict),
            (FigureVerdict::Higher, FigureVerdict::NoDifference)
        );
        assert!(p50.sentence.starts_with("P50: the second is slower by 0.3"), "{}", p50.sentence);
        let faster = Comparison::of(&run(5_300, 2_000), &run(5_000, 2_000));
        assert!(faster.figures[0].sentence.contains("is faster by 0.3"), "{:?}", faster.figures[0]);
        let same = Comparison::of(&run(5_000, 2_000), &run(5_000, 2_000));
        assert!(same.figures.iter().all(|figure| figure.verdict == FigureVerdict::NoDifference), "{same:?}");
        assert!(same.text().contains("no difference can be told") && same.measured_differently.is_empty());
        assert!(same.markdown().contains("| P99, ms"));
    }

    #[test]
    fn what_cannot_be_told_is_not_told() {
        let few = Comparison::of(&run(5_000, 100), &run(9_000, 2_000));
        let verdicts: Vec<_> = few.figures.iter().map(|figure| figure.verdict).collect();
        assert_eq!(verdicts[..2], [FigureVerdict::Higher; 2]);
        assert_eq!(verdicts[2..4], [FigureVerdict::TooFew; 2]);
        assert!(few.text().contains("P99: nothing can be said with under 1000 answers"), "{}", few.text());
    }

    #[test]
    fn what_was_measured_differently_is_named() {
        let first = run(5_000, 100);
        let mut second = first.clone();
        (second.connections, second.host) = (9, Some("shop.example.com".to_owned()));
        second.status = [(200, 99), (503, 1)].into();
        let comparison = Comparison::of(&first, &second);
        let wanted = ["host (the URL's; shop.example.com)", "connections (2; 9)", "statuses (200; 200, 503)"];
        assert_eq!(comparison.measured_differently, wanted);
        assert!(comparison.text().contains("connections (2; 9)"));
    }
}
