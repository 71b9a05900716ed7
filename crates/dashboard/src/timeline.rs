//! Requests and their times over a span of time, as charts, with the changes that were made in it.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::try_join;
use jiff::Timestamp;
use maud::{Markup, html};
use serde::Deserialize;

use crate::answers::{Change, Items, Percentiles};
use crate::api::{ApiClient, ApiError};
use crate::chart::{Kind, Mark, Series, TimeChart, mark_list};
use crate::flag_state::State;
use crate::query::PageQuery;
use crate::show::number::{grouped, millis, rate};
use crate::show::text::visible;

/// What P50, P95 and P99 of the whole are aimed at, milliseconds: docs/ROLLOUT.md.
const TARGETS: [f64; 3] = [90.0, 130.0, 180.0];
/// What the gate's own time is: docs/STATISTICS.md.
pub const GATE_TIME: &str =
    "What a request waited for the gate. One that was decided from the tables at once counts as 0.";
/// Kinds of changes that are marked.
const MARKED: &str = "flag,import,restore,rollout-step";
/// How a rollout is called as the author of what it does by itself; its name is behind it.
const ROLLOUTS: &str = "rollouts/";
/// Marks of a chart, at most.
const MAX_MARKS: u32 = 50;

/// How far back a page looks, and in what steps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// In the page's address.
    pub name: &'static str,
    /// In words.
    pub words: &'static str,
    /// Its length.
    pub seconds: i64,
    /// Length of a step, as the API has it.
    step_name: &'static str,
    /// Length of a step, seconds.
    step: i64,
}

impl Span {
    const ALL: [Self; 4] = [
        Self::new("1h", "last hour", 3_600, ("1m", 60)),
        Self::new("6h", "last 6 hours", 6 * 3_600, ("5m", 300)),
        Self::new("24h", "last 24 hours", 86_400, ("15m", 900)),
        Self::new("7d", "last 7 days", 7 * 86_400, ("1h", 3_600)),
    ];

    const fn new(
        name: &'static str,
        words: &'static str,
        seconds: i64,
        (step_name, step): (&'static str, i64),
    ) -> Self {
        Self { name, words, seconds, step_name, step }
    }

    /// The span that a page's address asks for; the last hour where it does not.
    pub fn of(query: &PageQuery) -> Self {
        Self::ALL.into_iter().find(|span| span.name == query.get("span")).unwrap_or(Self::ALL[0])
    }

    /// When it began, at `now`: the beginning of a step, so that none is cut off.
    pub fn since(self, now: Timestamp) -> Timestamp {
        Timestamp::from_second(self.first(now)).unwrap_or(now)
    }

    /// Links to the same page with the other spans.
    pub fn choices(self, path: &str, query: &PageQuery) -> Markup {
        html! {
            nav.actions.spans aria-label="Time shown" {
                @for span in Self::ALL {
                    a.button href={ (path) (query.with("span", span.name).text()) }
                        aria-current=[(span == self).then_some("true")] { (span.words) }
                }
                span.quiet data-zone { "Times: UTC" }
            }
        }
    }

    fn first(self, now: Timestamp) -> i64 {
        let last = now.as_second().div_euclid(self.step) * self.step;
        last - (self.seconds / self.step - 1) * self.step
    }

    /// Beginnings of its steps, the one of now as the last.
    fn times(self, now: Timestamp) -> Vec<i64> {
        (0..self.seconds / self.step).map(|index| self.first(now) + index * self.step).collect()
    }
}

/// Requests of a step, or of a longer time where the service keeps no shorter ones any more.
#[derive(Deserialize)]
struct Point {
    at: Option<Timestamp>,
    seconds: i64,
    allow: u64,
    deny: u64,
    redirect: u64,
    unseen: u64,
    #[serde(default)]
    duration_ms: Percentiles,
    #[serde(default)]
    gate_ms: Percentiles,
}

/// Requests by step, and changes.
pub struct Timeline {
    span: Span,
    times: Vec<i64>,
    /// By the beginnings of all steps that it covers.
    points: HashMap<i64, Arc<Point>>,
    marks: Vec<Mark>,
}

impl Timeline {
    /// Asks for the requests within `span` before `now`. `filter`: further parameters of `stats/timeline`, each
    /// with `&` in front.
    pub async fn ask(api: &ApiClient, span: Span, now: Timestamp, filter: &str) -> Result<Self, ApiError> {
        let since = span.since(now);
        let timeline = format!("stats/timeline?since={since}&step={}{filter}", span.step_name);
        let changes = format!("audit?kind={MARKED}&since={since}&limit={MAX_MARKS}");
        let (points, changes) =
            try_join!(api.get::<Items<Point>>(&timeline), api.get::<Items<Change>>(&changes))?;
        Ok(Self {
            span,
            times: span.times(now),
            points: by_step(points.items, span.step),
            marks: marks(&changes.items),
        })
    }

    /// All charts, or what to do where there is nothing to draw.
    pub fn show(&self) -> Markup {
        if self.points.is_empty() {
            return self.nothing();
        }
        html! {
            div.card { (self.requests()) (mark_list(&self.marks)) }
            div.columns {
                div.card { (self.times_of("Whole time of a request", |point| point.duration_ms, (&TARGETS, ""))) }
                div.card { (self.times_of("The gate's own time", |point| point.gate_ms, (&[], GATE_TIME))) }
            }
        }
    }

    fn nothing(&self) -> Markup {
        html! {
            div.card {
                p.empty {
                    "No request was recorded in the " (self.span.words) ". Send one through the gate, and it is here within seconds; \
                     or look further back."
                }
                (mark_list(&self.marks))
            }
        }
    }

    fn requests(&self) -> Markup {
        let series = |name, ink, of| Series { name, ink, is_dashed: false, values: self.rates(of) };
        self.chart(
            "Requests by verdict",
            vec![
                series("allowed", "allow", |point| point.allow),
                series("denied", "deny", |point| point.deny),
                series("redirected", "redirect", |point| point.redirect),
                series("not seen by the filter", "unseen", |point| point.unseen),
            ],
            &[],
        )
        .show()
    }

    /// Requests per second; 0 where there were none.
    #[expect(clippy::cast_precision_loss, reason = "a chart has some hundred pixels")]
    fn rates(&self, of: fn(&Point) -> u64) -> Vec<Option<f64>> {
        let rate =
            |at| self.points.get(at).map_or(0.0, |point| of(point) as f64 / point.seconds.max(1) as f64);
        self.times.iter().map(|at| Some(rate(at))).collect()
    }

    fn times_of(
        &self,
        title: &'static str,
        of: fn(&Point) -> Percentiles,
        (targets, note): (&[f64], &str),
    ) -> Markup {
        let series = |name, ink, which: fn(Percentiles) -> Option<f64>| Series {
            name,
            ink,
            is_dashed: false,
            values: self
                .times
                .iter()
                .map(|at| self.points.get(at).and_then(|point| which(of(point))))
                .collect(),
        };
        let series = vec![
            series("P50", "p50", |times| times.p50),
            series("P95", "p95", |times| times.p95),
            series("P99", "p99", |times| times.p99),
        ];
        let chart = self.chart(title, series, targets);
        TimeChart {
            is_wide: false,
            unit: "milliseconds, by their logarithm",
            kind: Kind::LogLines,
            format: millis,
            note,
            ..chart
        }
        .show()
    }

    fn chart<'a>(
        &'a self,
        title: &'a str,
        series: Vec<Series<'static>>,
        targets: &'a [f64],
    ) -> TimeChart<'a> {
        TimeChart {
            is_wide: true,
            title,
            unit: "requests per second",
            kind: Kind::Stacked,
            times: &self.times,
            step: self.span.step,
            series,
            targets,
            marks: &self.marks,
            note: "",
            format: rate,
        }
    }
}

/// Points by the steps that each covers.
fn by_step(points: Vec<Point>, step: i64) -> HashMap<i64, Arc<Point>> {
    let mut by_step = HashMap::new();
    for point in points {
        let Some(first) = point.at.map(Timestamp::as_second) else { continue };
        let steps = (point.seconds / step).max(1);
        let point = Arc::new(point);
        for index in 0..steps {
            by_step.insert(first + index * step, Arc::clone(&point));
        }
    }
    by_step
}

/// Changes as marks. What a rollout sets is told by its step, which is written with the same author in the same moment.
fn marks(changes: &[Change]) -> Vec<Mark> {
    let is_step = |change: &&Change| change.kind == "rollout-step";
    let is_of_step = |flag: &Change| {
        let is_it = |step: &Change| (step.at, &step.actor) == (flag.at, &flag.actor);
        flag.kind == "flag" && changes.iter().filter(is_step).any(is_it)
    };
    changes.iter().filter(|change| !is_of_step(change)).map(mark).collect()
}

fn mark(change: &Change) -> Mark {
    let by = if change.actor.starts_with(ROLLOUTS) { "itself" } else { &change.actor };
    Mark { at: change.at.as_second(), text: visible(&format!("{}, by {by}", what(change))) }
}

/// A change in words.
fn what(change: &Change) -> String {
    let Change { kind, name, after, .. } = change;
    let count = |field: &str| grouped(after["counts"][field].as_u64().unwrap_or_default());
    match (kind.as_str(), name.as_str()) {
        ("flag", flag) => format!("{flag} {}", State::read(Some(after)).words()),
        // It says in which stage.
        ("rollout-step", name) => format!("rollout {name} {}", after["says"].as_str().unwrap_or("went on")),
        // The name of an import is that of its source.
        ("import", source) => {
            let list = if source == "*" { "a list".to_owned() } else { format!("the list {source}") };
            format!("{list} imported, {} added, {} removed", count("added"), count("removed"))
        }
        ("restore", backup) => format!("the backup {backup} restored"),
        (kind, name) => format!("{kind} {name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_counts_in_each_of_its_steps() {
        let hour: Point = serde_json::from_value(serde_json::json!({
            "at": "2026-11-30T12:00:00Z", "seconds": 3_600, "allow": 7_200, "deny": 0, "redirect": 0, "unseen": 0,
        }))
        .unwrap();
        let first = hour.at.unwrap().as_second();
        let points = by_step(vec![hour], 900);
        assert_eq!(points.len(), 4);
        assert!((0..4).all(|index| points.contains_key(&(first + index * 900))));
    }

    #[test]
    fn changes_of_all_kinds_are_marked_in_words() {
        let change = |kind: &str, name: &str, after: serde_json::Value| {
            let change = serde_json::json!({
                "at": "2026-11-30T12:00:00Z", "actor": "op", "kind": kind, "name": name, "after": after,
            });
            mark(&serde_json::from_value(change).unwrap()).text
        };
        let counts = serde_json::json!({"counts": {"added": 1_234, "removed": 5}});
        let marked = [
            change("flag", "enableRouteCache", serde_json::json!({"percent": 25})),
            change("flag", "enableRouteCache", serde_json::json!("shadow")),
            change("import", "drop", counts.clone()),
            change("import", "*", counts),
            change("restore", "b\u{202e}", serde_json::json!({})),
            change(
                "rollout-step",
                "guide",
                serde_json::json!({"says": "stage entered in stage \"half\": flags set"}),
            ),
        ];
        assert_eq!(
            marked,
            [
                "enableRouteCache on for 25 % of the clients, by op",
                "enableRouteCache shadow, by op",
                "the list drop imported, 1,234 added, 5 removed, by op",
                "a list imported, 1,234 added, 5 removed, by op",
                "the backup b\\u{202e} restored, by op",
                "rollout guide stage entered in stage \"half\": flags set, by op",
            ]
        );
        for kind in ["flag", "import", "restore", "rollout-step"] {
            assert!(MARKED.split(',').any(|marked| marked == kind), "{kind}");
        }
    }

    #[test]
    fn a_step_of_a_rollout_stands_for_the_flags_that_it_sets() {
        let change = |at: &str, actor: &str, kind: &str| {
            let change = serde_json::json!({
                "at": at, "actor": actor, "kind": kind, "name": "guide",
                "after": if kind == "flag" { serde_json::json!(true) } else { serde_json::json!({"says": "completed"}) },
            });
            serde_json::from_value::<Change>(change).unwrap()
        };
        let (now, later) = ("2026-11-30T12:00:00.5Z", "2026-11-30T12:00:00.6Z");
        let changes = [
            change(now, "rollouts/guide", "rollout-step"),
            change(now, "rollouts/guide", "flag"),
            change(now, "op", "flag"),
            change(later, "rollouts/guide", "flag"),
        ];
        let texts: Vec<String> = marks(&changes).into_iter().map(|mark| mark.text).collect();
        assert_eq!(texts, ["rollout guide completed, by itself", "guide on, by op", "guide on, by itself"]);
    }

    #[test]
    fn the_charts_of_an_hour_are_short() {
        let span = Span::ALL[0];
        let now: Timestamp = "2026-11-30T12:34:56Z".parse().unwrap();
        let times = span.times(now);
        let point = |at: &i64| {
            let percentiles = serde_json::json!({"p50": 12.3, "p95": 45.6, "p99": 78.9});
            let point = serde_json::json!({
                "at": Timestamp::from_second(*at).unwrap(), "seconds": 60, "allow": 123_456 + at % 777, "deny": 4_567 + at % 99,
                "redirect": 890, "unseen": 12, "duration_ms": percentiles, "gate_ms": percentiles,
            });
            (*at, Arc::new(serde_json::from_value::<Point>(point).unwrap()))
        };
        let points = times.iter().map(point).collect();
        let mark = |at: &i64| Mark {
            at: *at,
            text: "enableIpBlacklistCache on for 25 % of the clients, by operator".to_owned(),
        };
        let marks = times.iter().rev().take(10).map(mark).collect();
        let shown = Timeline { span, times, points, marks }.show().into_string();
        // The first page may have 100 KB, and its charts are most of it.
        assert!(shown.len() < 75_000, "{} bytes", shown.len());
    }

    #[test]
    fn what_is_empty_says_what_to_do() {
        let now = Timestamp::UNIX_EPOCH;
        let span = Span::ALL[0];
        let nothing = Timeline { span, times: span.times(now), points: HashMap::new(), marks: Vec::new() };
        let shown = nothing.show().into_string();
        assert!(shown.contains("Send one through the gate") && !shown.contains("<svg"), "{shown}");
    }

    #[test]
    fn a_span_has_whole_steps_up_to_now() {
        let now: Timestamp = "2026-11-30T12:34:56Z".parse().unwrap();
        for span in Span::ALL {
            let times = span.times(now);
            assert_eq!(times.len() as i64, span.seconds / span.step);
            let last = *times.last().unwrap();
            assert!(last <= now.as_second() && now.as_second() < last + span.step, "{span:?}");
            assert_eq!(times[0], span.since(now).as_second());
            assert!(times.iter().all(|at| at % span.step == 0), "{span:?}");
        }
        assert_eq!(Span::of(&PageQuery::read("span=7d")).words, "last 7 days");
        assert_eq!(Span::of(&PageQuery::read("span=x")).name, "1h");
    }
}
