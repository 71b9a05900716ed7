//! `tidegate bench proxy-vs-direct`: a gate and its backend in turn.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::ensure;
use reqwest::Url;
use serde::Serialize;

use super::load::{Load, LoadArgs, longest};
use super::result::BenchResult;
use super::url_under_load::{ReachArgs, UrlUnderLoad, http_url};
use crate::cli::documents::CommandResult;
use crate::cli::output::{ReportArgs, markdown_table, table};
use crate::sample_difference::{MedianDifference, median_difference};

/// Options of `tidegate bench proxy-vs-direct`.
#[derive(clap::Args, Debug)]
pub struct PairArgs {
    /// What is asked through the gate.
    #[arg(value_parser = http_url)]
    gate: Url,
    /// The same, straight from its backend.
    #[arg(value_parser = http_url)]
    backend: Url,
    /// Rounds, up to 100; in each both are asked, and who is first changes. From 6 on there is an interval.
    #[arg(long, value_name = "COUNT", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Requests to each of both in each round, up to 100,000.
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 200,
          value_parser = clap::value_parser!(u64).range(1..=100_000))]
    requests: u64,
    /// Connections to each.
    #[arg(short = 'c', long, value_name = "COUNT", default_value_t = 4,
          value_parser = clap::value_parser!(u64).range(1..=1_000))]
    connections: u64,
    /// No request of a round begins later than this after its first one to the same of both.
    #[arg(long = "for", value_name = "SPAN", default_value = "60s", value_parser = longest)]
    longest: Duration,
    #[command(flatten)]
    reach: ReachArgs,
    #[command(flatten)]
    output: ReportArgs,
}

/// Quantiles of each round.
const QUANTILES: [(&str, f64); 3] = [("p50", 0.5), ("p95", 0.95), ("p99", 0.99)];
const HEADINGS: [&str; 5] = ["asked", "P50, ms", "P95, ms", "P99, ms", "requests/s"];

/// What both showed.
#[derive(Serialize, Debug)]
struct PairReport {
    gate: Side,
    backend: Side,
    rounds: u32,
    requests: u64,
    connections: u64,
    /// Gate minus backend, milliseconds: the median of the rounds, and its interval of 95 %.
    added_ms: Vec<Added>,
}

/// What one of both showed.
#[derive(Serialize, Debug)]
struct Side {
    url: String,
    /// Answers by status, of all rounds.
    status: BTreeMap<u16, u64>,
    /// Medians of the rounds.
    p50_ms: f64,
    p95_ms: f64,
    p99_ms: f64,
    requests_per_second: f64,
}

/// What the gate adds to a quantile.
#[derive(Serialize, Debug)]
struct Added {
    quantile: &'static str,
    median: f64,
    low: f64,
    high: f64,
    /// Whether there are enough rounds for an interval; otherwise `low` and `high` are the lowest and the highest round.
    interval: bool,
}

/// Runs it.
///
/// # Errors
/// When a request fails, or both do not answer with the same statuses: then there is nothing to compare.
pub async fn run(args: &PairArgs) -> anyhow::Result<CommandResult> {
    let load = LoadArgs::new(args.requests, args.connections, args.longest);
    let gate = Load::new(UrlUnderLoad::new(&args.gate, &args.reach).await?, load);
    let backend = Load::new(UrlUnderLoad::new(&args.backend, &args.reach).await?, load);
    let (mut of_gate, mut of_backend) = (Vec::new(), Vec::new());
    for round in 0..args.rounds {
        if round % 2 == 0 {
            of_gate.push(whole(&gate).await?);
            of_backend.push(whole(&backend).await?);
        } else {
            of_backend.push(whole(&backend).await?);
            of_gate.push(whole(&gate).await?);
        }
    }
    let report = PairReport::of(&of_gate, &of_backend, args);
    let (gate, backend): (Vec<_>, Vec<_>) =
        (report.gate.status.keys().collect(), report.backend.status.keys().collect());
    ensure!(
        gate == backend,
        "the gate answered with {gate:?} and its backend with {backend:?}: their times are not of the same; ask for what both \
         answer alike"
    );
    args.output.print(&report, || report.text(), || report.markdown())?;
    Ok(CommandResult::Done)
}

/// A round of one of both, every request of which was answered.
async fn whole(load: &Load) -> anyhow::Result<BenchResult> {
    let result = load.run().await?;
    if let Some((kind, of)) = result.errors.iter().next() {
        anyhow::bail!(
            "{}: {} of {} requests failed ({}: {}), and their times are not known",
            load.url().url,
            result.requests - result.answers(),
            result.requests,
            kind.name(),
            of.first
        );
    }
    Ok(result)
}

impl PairReport {
    fn of(gate: &[BenchResult], backend: &[BenchResult], args: &PairArgs) -> Self {
        let added = QUANTILES.iter().filter_map(|(quantile, share)| {
            let MedianDifference { median, low, high, has_interval } = added(gate, backend, *share)?;
            Some(Added { quantile, median, low, high, interval: has_interval })
        });
        Self {
            gate: Side::of(&args.gate, gate),
            backend: Side::of(&args.backend, backend),
            rounds: args.rounds,
            requests: args.requests,
            connections: args.connections,
            added_ms: added.collect(),
        }
    }

    fn rows(&self) -> Vec<[String; 5]> {
        let [p50, p95, p99] =
            [0, 1, 2].map(|index| self.added_ms.get(index).map_or_else(String::new, Added::shown));
        let difference = ["the gate adds".to_owned(), p50, p95, p99, String::new()];
        vec![self.backend.row("backend"), self.gate.row("gate"), difference]
    }

    fn sentences(&self) -> [String; 2] {
        let Self { rounds, requests, connections, .. } = self;
        let statuses = |side: &Side| {
            side.status
                .iter()
                .map(|(status, count)| format!("{count} times {status}"))
                .collect::<Vec<_>>()
                .join(", ")
        };
        let interval = match self.added_ms.first() {
            Some(Added { interval: true, .. }) => "with the interval of at least 95 % of the sign test",
            _ => "with the lowest and the highest round: from 6 rounds on there is an interval",
        };
        [
            format!(
                "{rounds} rounds of {requests} requests to each over {connections} connections, who is first changing; medians of \
                 the rounds. What the gate adds is the median of the differences within each round, {interval}."
            ),
            format!(
                "Closed loop, HTTP/1.1: each connection sends its next request when the last one is answered. All requests were \
                 answered: by the backend {}, by the gate {}.",
                statuses(&self.backend),
                statuses(&self.gate)
            ),
        ]
    }

    fn text(&self) -> String {
        let [first, second] = self.sentences();
        format!("{}{first}\n{second}\n", table(HEADINGS, self.rows()))
    }

    fn markdown(&self) -> String {
        let [first, second] = self.sentences();
        let asked = format!("Gate: {}, backend: {}.", self.gate.url, self.backend.url);
        format!("{}\n{asked}\n{first}\n{second}\n", markdown_table(HEADINGS, self.rows()))
    }
}

/// What the gate adds to a quantile, milliseconds.
fn added(gate: &[BenchResult], backend: &[BenchResult], share: f64) -> Option<MedianDifference> {
    let pairs = gate.iter().zip(backend);
    let differences = pairs
        .filter_map(|(gate, backend)| Some(gate.latency.quantile(share)? - backend.latency.quantile(share)?));
    median_difference(&differences.collect::<Vec<_>>())
}

impl Side {
    fn of(url: &Url, rounds: &[BenchResult]) -> Self {
        let median = |figure: &dyn Fn(&BenchResult) -> Option<f64>| {
            let values: Vec<f64> = rounds.iter().filter_map(figure).collect();
            median_difference(&values).map_or(0.0, |found| found.median)
        };
        let mut status = BTreeMap::new();
        for (one, count) in rounds.iter().flat_map(|round| &round.status) {
            *status.entry(*one).or_default() += count;
        }
        let ms = |share| median(&|round| round.latency.quantile(share));
        Self {
            url: url.to_string(),
            status,
            p50_ms: ms(0.5),
            p95_ms: ms(0.95),
            p99_ms: ms(0.99),
            requests_per_second: median(&BenchResult::rate),
        }
    }

    fn row(&self, name: &str) -> [String; 5] {
        let [p50, p95, p99] = [self.p50_ms, self.p95_ms, self.p99_ms].map(|ms| format!("{ms:.3}"));
        [name.to_owned(), p50, p95, p99, format!("{:.0}", self.requests_per_second)]
    }
}

impl Added {
    fn shown(&self) -> String {
        format!("{:+.3} ({:+.3} to {:+.3})", self.median, self.low, self.high)
    }
}

#[cfg(test)]
mod tests {
    use super::super::result::tests::of_times;
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        pair: PairArgs,
    }

    /// What both have in common in a round is not in the difference.
    #[test]
    fn the_difference_is_of_each_round() {
        let args = Cli::parse_from(["x", "http://127.0.0.1:1/", "http://127.0.0.1:2/"]).pair;
        let rounds = |more: u64| -> Vec<BenchResult> {
            (0..10).map(|round| of_times([1_000 * (round * 7 % 10 + 1) + more; 20])).collect()
        };
        let report = PairReport::of(&rounds(250), &rounds(0), &args);
        let Added { median, low, high, interval, .. } = report.added_ms[0];
        for ms in [median, low, high] {
            assert!((ms - 0.25).abs() < 0.02, "{report:?}");
        }
        assert!(interval && report.text().contains("the gate adds"), "{report:?}");
        assert!(report.markdown().contains("| gate"));
        let few = PairReport::of(&rounds(250)[..3], &rounds(0)[..3], &args);
        assert!(!few.added_ms[0].interval && few.text().contains("from 6 rounds on"));
    }
}
