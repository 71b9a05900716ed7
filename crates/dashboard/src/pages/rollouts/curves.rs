//! What both groups of a stage measured over time, as charts.

use jiff::Timestamp;
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::Value;
use tidegate_rollout::run::StageRecord;

use crate::answers::Percentiles;
use crate::chart::{Kind, Series, TimeChart};
use crate::show::number::{millis, rate};
use crate::timeline::GATE_TIME;

/// Points of a chart, about.
const POINTS: u64 = 60;
/// Points of a chart, at most: a stage may wait far longer than it is held.
const MOST: usize = 400;
/// Steps that a chart may have, seconds.
const STEPS: [u64; 15] = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 21_600];

/// What a stage measured over time.
#[derive(Deserialize)]
pub struct Curves {
    /// The document that the run goes by.
    pub plan: Value,
    began: Option<Timestamp>,
    slice_ms: u64,
    slices: Vec<Slice>,
}

#[derive(Deserialize)]
struct Slice {
    slice: usize,
    control: Group,
    treated: Group,
}

#[derive(Deserialize)]
struct Group {
    requests: u64,
    succeeded: u64,
    denied: u64,
    gate_ms: Percentiles,
    total_ms: Percentiles,
}

/// How long a step is, seconds, so that a stage has about [`POINTS`] until it ended or now.
pub fn step(stage: Option<&StageRecord>, now: Timestamp) -> u64 {
    let Some(stage) = stage else { return STEPS[0] };
    let until_ms = stage.left_ms.unwrap_or_else(|| u64::try_from(now.as_millisecond()).unwrap_or(0));
    let seconds = until_ms.saturating_sub(stage.entered_ms) / 1_000;
    STEPS.into_iter().find(|step| seconds / step <= POINTS).unwrap_or(STEPS[14])
}

impl Curves {
    /// The charts. `goes_on`: the stage is measured up to `now`.
    pub fn show(&self, goes_on: bool, now: Timestamp) -> Markup {
        let times = self.times(goes_on, now);
        html! {
            section aria-labelledby="curves-heading" {
                h2 #curves-heading { "Both groups over the stage" }
                @if self.slices.is_empty() {
                    div.card { p.empty { "No request has counted yet: one counts that began with the flags of this stage. Send one through the gate." } }
                } @else {
                    div.columns {
                        div.card { (self.times_of(&times, "Whole time of a request", |group| group.total_ms, "")) }
                        div.card { (self.times_of(&times, "The gate's own time", |group| group.gate_ms, GATE_TIME)) }
                        div.card { (self.shares(&times, "Requests without success", |group| group.requests - group.succeeded.min(group.requests), "Answered with 5xx, or left by the client before an answer.")) }
                        div.card { (self.shares(&times, "Requests denied", |group| group.denied, "By the gate: a cache that denies more than the database is wrong.")) }
                    }
                    div.card { (self.requests(&times)) }
                }
            }
        }
    }

    fn step(&self) -> i64 {
        i64::try_from(self.slice_ms / 1_000).unwrap_or(1).max(1)
    }

    /// Beginnings of the slices, Unix seconds, from the first to the last one.
    fn times(&self, goes_on: bool, now: Timestamp) -> Vec<i64> {
        let began_ms = self.began.unwrap_or(now).as_millisecond();
        let slice_ms = i64::try_from(self.slice_ms).unwrap_or(i64::MAX).max(1);
        let last = self.slices.last().map_or(0, |slice| slice.slice);
        let until = usize::try_from((now.as_millisecond() - began_ms) / slice_ms).unwrap_or(0);
        let count = last.max(if goes_on { until } else { 0 }).saturating_add(1).min(MOST);
        let at = |index: usize| {
            began_ms.saturating_add(slice_ms.saturating_mul(i64::try_from(index).unwrap_or(i64::MAX))) / 1_000
        };
        (0..count).map(at).collect()
    }

    /// Whether there is a control group.
    fn has_control(&self) -> bool {
        self.slices.iter().any(|slice| slice.control.requests > 0)
    }

    /// One value for each time.
    fn values(
        &self,
        times: &[i64],
        of: impl Fn(&Slice) -> &Group,
        value: impl Fn(&Group) -> Option<f64>,
    ) -> Vec<Option<f64>> {
        let mut values = vec![None; times.len()];
        for slice in &self.slices {
            if let Some(place) = values.get_mut(slice.slice) {
                *place = value(of(slice));
            }
        }
        values
    }

    /// A line for each group, that of the control dashed; one where there is no control. `names`: of both, of the
    /// treated first.
    fn lines(
        &self,
        times: &[i64],
        (names, ink): ([&'static str; 2], &'static str),
        value: impl Fn(&Group) -> Option<f64>,
    ) -> Vec<Series<'static>> {
        let treated = self.values(times, |slice| &slice.treated, &value);
        let mut lines = vec![Series { name: names[0], ink, is_dashed: false, values: treated }];
        if self.has_control() {
            let control = self.values(times, |slice| &slice.control, &value);
            lines.push(Series { name: names[1], ink, is_dashed: true, values: control });
        }
        lines
    }

    fn times_of(&self, times: &[i64], title: &str, of: fn(&Group) -> Percentiles, note: &str) -> Markup {
        let line = |names, ink, which: fn(Percentiles) -> Option<f64>| {
            self.lines(times, (names, ink), move |group| which(of(group)))
        };
        let series = [
            line(["P50 treated", "P50 control"], "p50", |times| times.p50),
            line(["P95 treated", "P95 control"], "p95", |times| times.p95),
            line(["P99 treated", "P99 control"], "p99", |times| times.p99),
        ]
        .concat();
        let chart = self.chart(times, title, series);
        TimeChart {
            unit: "milliseconds, by their logarithm",
            kind: Kind::LogLines,
            note,
            format: millis,
            ..chart
        }
        .show()
    }

    fn shares(&self, times: &[i64], title: &str, part: fn(&Group) -> u64, note: &str) -> Markup {
        #[expect(clippy::cast_precision_loss, reason = "a chart has some hundred pixels")]
        let share =
            |group: &Group| (group.requests > 0).then(|| part(group) as f64 / group.requests as f64 * 100.0);
        let series = self.lines(times, (["treated", "control"], "p50"), share);
        TimeChart { note, ..self.chart(times, title, series) }.show()
    }

    fn requests(&self, times: &[i64]) -> Markup {
        #[expect(clippy::cast_precision_loss, reason = "a chart has some hundred pixels")]
        let rate_of = |group: &Group| Some(group.requests as f64 * 1_000.0 / self.slice_ms.max(1) as f64);
        let treated = self.values(times, |slice| &slice.treated, rate_of);
        let control = self.values(times, |slice| &slice.control, rate_of);
        let area = |name, ink, values| Series { name, ink, is_dashed: false, values };
        let series = vec![area("treated", "cached", treated), area("control", "direct", control)];
        let chart = self.chart(times, "Requests by group", series);
        TimeChart { is_wide: true, unit: "requests per second", kind: Kind::Stacked, format: rate, ..chart }
            .show()
    }

    fn chart<'a>(&self, times: &'a [i64], title: &'a str, series: Vec<Series<'static>>) -> TimeChart<'a> {
        TimeChart {
            is_wide: false,
            title,
            unit: "percent of the group's",
            kind: Kind::Lines,
            times,
            step: self.step(),
            series,
            targets: &[],
            marks: &[],
            note: "",
            format: percent_points,
        }
    }
}

/// A share of a hundred, with as many digits as it needs.
fn percent_points(value: f64) -> String {
    let text = format!("{value:.2}");
    format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn curves(control: u64) -> Curves {
        let group = |requests: u64| {
            json!({
                "requests": requests, "succeeded": requests, "server_errors": 0, "denied": requests / 10,
                "gate_ms": {"p50": 0.1, "p95": 0.2, "p99": 0.3},
                "total_ms": if requests > 0 { json!({"p50": 5.0, "p95": 9.0, "p99": 12.0}) } else { json!({"p50": null, "p95": null, "p99": null}) },
            })
        };
        serde_json::from_value(json!({
            "run": 1, "stage": "half", "plan": {}, "began": "2026-11-30T12:00:00.250Z", "slice_ms": 2_000,
            "slices": [{"slice": 0, "control": group(control), "treated": group(100)},
                       {"slice": 3, "control": group(control), "treated": group(50)}],
        }))
        .unwrap()
    }

    #[test]
    fn there_is_a_line_for_each_group_if_there_are_two() {
        let now: Timestamp = "2026-11-30T12:00:20Z".parse().unwrap();
        let text = curves(40).show(true, now).into_string();
        for part in ["P95 control", "P95 treated", "12:00:06", "25/s", "10 %"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!curves(0).show(true, now).into_string().contains("P95 control"));
        assert_eq!([curves(1).times(true, now).len(), curves(1).times(false, now).len()], [10, 4]);
        let nothing = Curves { slices: Vec::new(), ..curves(1) }.show(false, now).into_string();
        assert!(nothing.contains("No request has counted yet") && !nothing.contains("<svg"), "{nothing}");
    }

    #[test]
    fn shares_have_the_digits_that_they_need() {
        assert_eq!([0.0, 0.05, 2.0, 12.5].map(percent_points), ["0 %", "0.05 %", "2 %", "12.5 %"]);
    }
}
