//! A phase's figures, beside the targets of the rollout.

use std::fmt::Write;

use tidegate_stack::operator::{Checked, Recording};

use crate::measure::Outcome;
use crate::table::Table;

/// Milliseconds, with all flags on.
pub const P50: f64 = 90.0;
/// Milliseconds, with all flags on.
pub const P95: f64 = 130.0;
/// Milliseconds, with all flags on.
pub const P99: f64 = 180.0;
/// Percent, always.
const SUCCESS: f64 = 99.9;
/// Percent, always.
const COMPLETENESS: f64 = 99.5;
/// Percent, with the route cache on.
const ROUTE_HITS: f64 = 95.0;
/// Percent, with the IP cache on.
const IP_HITS: f64 = 90.0;

/// Which targets hold in a phase, beside success and completeness.
#[derive(Clone, Copy, Default)]
pub struct Targets {
    /// P50, P95 and P99.
    pub latency: bool,
    /// Hit ratio of the routes.
    pub route: bool,
    /// Hit ratio of the bans.
    pub ip: bool,
}

/// What one phase showed: latencies in milliseconds, shares in percent.
pub struct Measured {
    /// The phase.
    pub name: &'static str,
    targets: Targets,
    requests: u64,
    /// P50, P95, P99.
    pub latency: [f64; 3],
    success: f64,
    route_hits: Option<f64>,
    ip_hits: Option<f64>,
    geo_hits: Option<f64>,
    completeness: f64,
}

/// A figure with the target that holds for it, if one does.
struct Held {
    value: Option<f64>,
    decimals: usize,
    target: Option<Target>,
}

#[derive(Clone, Copy)]
enum Target {
    Under(f64),
    Over(f64),
}

impl Measured {
    /// From the load's outcome and the recording's figures around it.
    #[expect(clippy::cast_precision_loss, reason = "counts of one run")]
    pub fn new(
        name: &'static str,
        targets: Targets,
        outcome: &Outcome,
        before: &Recording,
        after: &Recording,
    ) -> Self {
        let total = outcome.total().max(1) as f64;
        let stored = after.stored.saturating_sub(before.stored) as f64;
        let hits = |check: fn(&Recording) -> Checked| {
            check(after).hit_ratio_since(&check(before)).map(|ratio| ratio * 100.0)
        };
        Self {
            name,
            targets,
            requests: outcome.total(),
            latency: [0.5, 0.95, 0.99].map(|share| outcome.quantile(share)),
            success: outcome.right as f64 / total * 100.0,
            route_hits: hits(|recording| recording.checks.route),
            ip_hits: hits(|recording| recording.checks.ip),
            geo_hits: hits(|recording| recording.checks.geo),
            // A load of more rows than requests would hide one that is missing.
            completeness: (stored / total * 100.0).min(100.0),
        }
    }

    fn figures(&self) -> [Held; 8] {
        let latency = |index: usize, target| Held {
            value: Some(self.latency[index]),
            decimals: 1,
            target: self.targets.latency.then_some(Target::Under(target)),
        };
        let share = |value, target| Held { value, decimals: 2, target };
        let over = |holds: bool, target| holds.then_some(Target::Over(target));
        [
            latency(0, P50),
            latency(1, P95),
            latency(2, P99),
            share(Some(self.success), over(true, SUCCESS)),
            share(self.route_hits, over(self.targets.route, ROUTE_HITS)),
            share(self.ip_hits, over(self.targets.ip, IP_HITS)),
            share(self.geo_hits, None),
            share(Some(self.completeness), over(true, COMPLETENESS)),
        ]
    }
}

impl Held {
    fn met(&self) -> Option<bool> {
        let value = self.value.unwrap_or(f64::NAN);
        self.target.map(|target| match target {
            Target::Under(limit) => value < limit,
            Target::Over(limit) => value > limit,
        })
    }

    fn figure(&self) -> String {
        self.value.map_or_else(|| "-".to_owned(), |value| format!("{value:.*}", self.decimals))
    }

    fn marked(&self) -> String {
        let figure = self.figure();
        match self.met() {
            Some(true) => format!("{figure} ✓"),
            Some(false) => format!("{figure} ✗"),
            None => figure,
        }
    }
}

const HEADINGS: [&str; 10] = [
    "phase",
    "requests",
    "P50, ms",
    "P95, ms",
    "P99, ms",
    "success, %",
    "route hits, %",
    "IP hits, %",
    "geo hits, %",
    "recorded, %",
];

/// All phases, and the targets in the last row.
pub fn table(measured: &[Measured]) -> Table {
    let mut table = Table::new(&HEADINGS);
    for phase in measured {
        let figures = phase.figures().map(|held| held.marked());
        table.row([phase.name.to_owned(), phase.requests.to_string()].into_iter().chain(figures));
    }
    let targets = [
        format!("< {P50}"),
        format!("< {P95}"),
        format!("< {P99}"),
        format!("> {SUCCESS}"),
        format!("> {ROUTE_HITS}"),
        format!("> {IP_HITS}"),
        "-".to_owned(),
        format!("> {COMPLETENESS}"),
    ];
    table.row(["target".to_owned(), String::new()].into_iter().chain(targets));
    table
}

/// Whether the targets are met, in one line.
pub fn summary(measured: &[Measured]) -> String {
    let met: Vec<bool> = measured.iter().flat_map(Measured::figures).filter_map(|held| held.met()).collect();
    let good = met.iter().filter(|met| **met).count();
    format!(
        "✓ meets its target, ✗ misses it: {good} of {} are met. Latency has targets with all flags on, hit ratios while their cache is on.\n",
        met.len()
    )
}

/// The same figures for programs; a share that there was none of is empty.
pub fn csv(measured: &[Measured]) -> String {
    let mut csv = String::from(
        "phase,requests,p50_ms,p95_ms,p99_ms,success_percent,route_hit_percent,ip_hit_percent,geo_hit_percent,recorded_percent\n",
    );
    for phase in measured {
        // No name has a quote, and one has a comma. A `String` takes everything.
        let _ = write!(csv, "\"{}\",{}", phase.name, phase.requests);
        for held in phase.figures() {
            let figure = held.value.map(|value| format!("{value:.3}")).unwrap_or_default();
            let _ = write!(csv, ",{figure}");
        }
        csv.push('\n');
    }
    csv
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(latency: f64, right: u64, wrong: u64) -> Measured {
        let outcome =
            Outcome { right, wrong, micros: vec![(latency * 1_000.0) as u32; 100], ..Outcome::default() };
        let recording = |stored| Recording { numbered: stored, stored, ..Recording::default() };
        let mut after = recording(1_990);
        after.checks.route.asked = 1_000;
        after.checks.route.cache = 960;
        let targets = Targets { latency: true, route: true, ip: true };
        Measured::new("all, on", targets, &outcome, &recording(1_000), &after)
    }

    #[test]
    fn targets_are_met_or_missed() {
        let met = |measured: &Measured| measured.figures().map(|held| held.met());
        let good = measured(89.9, 1_000, 0);
        let some = Some(true);
        assert_eq!(met(&good), [some, some, some, some, some, Some(false), None, Some(false)]);
        let bad = measured(180.0, 998, 2);
        assert_eq!(met(&bad)[..4], [Some(false); 4]);
        assert!(summary(&[good, bad]).contains("6 of 14"));
    }

    #[test]
    fn tables_and_csv_have_every_figure() {
        let all = [measured(89.9, 1_000, 0)];
        let table = table(&all).to_string();
        assert!(
            table.contains("89.9 ✓") && table.contains("96.00 ✓") && table.contains("99.00 ✗"),
            "{table}"
        );
        let csv = csv(&all);
        let lines: Vec<_> = csv.lines().collect();
        assert_eq!(lines[1], "\"all, on\",1000,89.900,89.900,89.900,100.000,96.000,,,99.000");
        assert_eq!(lines[0].split(',').count(), HEADINGS.len());
    }
}
