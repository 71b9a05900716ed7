//! What requests took before a flag was set, and after.

use std::collections::BTreeMap;

use futures_util::future::try_join_all;
use futures_util::try_join;
use jiff::{SignedDuration, Timestamp};
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::Value;

use crate::answers::{Items, PathStats};
use crate::api::{ApiClient, ApiError};
use crate::error::PageError;
use crate::flag_state::State;
use crate::show::number::{count, optional_millis, percent};
use crate::show::text::foreign;
use crate::show::time;
use crate::timeline::GATE_TIME;

/// How much time is looked at on each side, seconds.
const SIDE: i64 = 600;
/// Statistics are by the minute for two hours (docs/STATISTICS.md): what is older cannot be told apart from what
/// was before or after.
const OLDEST: i64 = 2 * 3_600 - SIDE;
/// Changes before the last ones that are shown.
const EARLIER: usize = 10;
/// Changes that are asked for: the last of each flag is not one of the earlier ones.
const ASKED: usize = 50;

/// The last change of a flag, as the API tells it.
#[derive(Deserialize)]
pub struct LastChange {
    pub at: Timestamp,
    pub by: String,
    pub from: Option<Value>,
    pub to: Option<Value>,
}

/// Requests before and after the last change of a flag.
pub struct FlagEffect {
    /// The flag.
    pub flag: String,
    before: PathStats,
    after: PathStats,
    window: Window,
}

#[derive(Deserialize)]
struct Paths {
    total: PathStats,
}

/// Asks for the effects of the last changes.
pub async fn ask(
    api: &ApiClient,
    changed: &BTreeMap<String, Option<LastChange>>,
) -> Result<Vec<FlagEffect>, PageError> {
    let now = Timestamp::now().as_second();
    let recent = changed.iter().filter_map(|(flag, change)| {
        let at = change.as_ref()?.at.as_second();
        // Of a change in this minute or the last there is no whole minute after it.
        (120..OLDEST).contains(&(now - at)).then_some((flag, Window::around(at, None, Some(now))))
    });
    Ok(try_join_all(recent.map(|(flag, window)| effect(api, flag, window))).await?)
}

async fn effect(api: &ApiClient, flag: &str, window: Window) -> Result<FlagEffect, ApiError> {
    let path = |(from, until): (i64, i64)| {
        let moment = |at| Timestamp::from_second(at).unwrap_or_default();
        format!("stats/paths?since={}&until={}&limit=1", moment(from), moment(until))
    };
    let (before, after) = (path(window.before), path(window.after));
    let (before, after) = try_join!(api.get::<Paths>(&before), api.get::<Paths>(&after))?;
    Ok(FlagEffect { flag: flag.to_owned(), before: before.total, after: after.total, window })
}

/// Whole minutes before and after a change, Unix seconds: the minute of the change has requests of both.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Window {
    before: (i64, i64),
    after: (i64, i64),
}

impl Window {
    /// Around a change at `at`, not beyond the minutes of what came before (`since`) and what comes next (`until`).
    fn around(at: i64, since: Option<i64>, until: Option<i64>) -> Self {
        let minute = |at: i64| at.div_euclid(60) * 60;
        let (change, begin) = (minute(at), minute(at) + 60);
        let since = since.map_or(i64::MIN, |at| minute(at) + 60).max(change - SIDE).min(change);
        let until = until.map_or(i64::MAX, minute).min(begin + SIDE).max(begin);
        Self { before: (since, change), after: (begin, until) }
    }

    fn is_empty(self) -> bool {
        self.before.0 == self.before.1 || self.after.0 == self.after.1
    }

    /// `10 min before, 3 min after`.
    fn words(self) -> String {
        let minutes = |(from, until): (i64, i64)| SignedDuration::from_secs(until - from).as_mins();
        format!("{} min before, {} min after", minutes(self.before), minutes(self.after))
    }
}

/// A change of a flag, as the audit has it.
#[derive(Deserialize)]
struct FlagChange {
    at: Timestamp,
    actor: String,
    name: String,
    #[serde(default)]
    before: Option<Value>,
    #[serde(default)]
    after: Option<Value>,
}

/// Changes of flags before the last one of each, with requests before and after. Made once for a page: they stay
/// as they are.
pub async fn earlier(api: &ApiClient) -> Result<Markup, PageError> {
    let now = Timestamp::now();
    let since = Timestamp::from_second(now.as_second() - OLDEST).unwrap_or_default();
    let changes: Items<FlagChange> = api.get(&format!("audit?kind=flag&since={since}&limit={ASKED}")).await?;
    let shown = windows(&changes.items);
    let effects = shown.iter().map(|(change, window)| effect(api, &change.name, *window));
    let effects = try_join_all(effects).await?;
    Ok(html! {
        @if !shown.is_empty() {
            section.card aria-labelledby="earlier-heading" {
                h2 #earlier-heading { "Earlier changes of the last two hours" }
                p.quiet { "Each compared with the minutes around it, up to the next change of any flag. Changes within the same minutes cannot be told apart, and are left out." }
                @for ((change, _), effect) in shown.iter().zip(&effects) {
                    details.data {
                        summary {
                            code { (foreign(&change.name)) } " from " (State::read(change.before.as_ref()).tag()) " to "
                            (State::read(change.after.as_ref()).tag()) ", " (time::relative(&change.at.to_string(), now)) " by " (foreign(&change.actor))
                        }
                        (effect.show())
                    }
                }
            }
        }
    })
}

/// Those of `changes`, the newest first, that are not the last of their flag, with the time around each.
fn windows(changes: &[FlagChange]) -> Vec<(&FlagChange, Window)> {
    let at = |change: &FlagChange| change.at.as_second();
    let earlier = changes.iter().enumerate().filter_map(|(index, change)| {
        let newer = &changes[..index];
        newer.iter().find(|other| other.name == change.name)?;
        let next = newer.iter().rev().map(at).find(|next| *next > at(change));
        let before = changes[index + 1..].iter().map(at).find(|before| *before < at(change));
        Some((change, Window::around(at(change), before, next)))
    });
    earlier.filter(|(_, window)| !window.is_empty()).take(EARLIER).collect()
}

impl FlagEffect {
    /// Both as a table.
    pub fn show(&self) -> Markup {
        html! {
            div.scroll tabindex="0" role="group" aria-label={ "Before and after a change of " (self.flag) } {
                table {
                    caption { "Requests around this change: " (self.window.words()) }
                    thead { tr {
                        th { "When" } th.number { "Requests" } th.number { "Success" } th.number { "From caches" }
                        th.number { "P50" } th.number { "P95" } th.number { "P99" } th.number title=(GATE_TIME) { "Gate's own P95" }
                    } }
                    tbody { (row("before", &self.before)) (row("after", &self.after)) }
                }
            }
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "some digits of it are shown")]
fn row(name: &str, stats: &PathStats) -> Markup {
    let right = stats.requests.saturating_sub(stats.status.server_errors);
    let success = (stats.requests > 0).then(|| percent(right as f64 / stats.requests as f64));
    let dash = || "–".to_owned();
    html! {
        tr {
            th scope="row" { (name) }
            td.number { (count(stats.requests)) }
            td.number { (success.unwrap_or_else(dash)) }
            td.number { (stats.cached_share.map_or_else(dash, percent)) }
            td.number { (optional_millis(stats.duration_ms.p50)) }
            td.number { (optional_millis(stats.duration_ms.p95)) }
            td.number { (optional_millis(stats.duration_ms.p99)) }
            td.number { (optional_millis(stats.gate_ms.p95)) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(at: i64, name: &str) -> FlagChange {
        let at = Timestamp::from_second(at).unwrap();
        FlagChange { at, actor: "op".to_owned(), name: name.to_owned(), before: None, after: None }
    }

    #[test]
    fn a_change_has_whole_minutes_up_to_its_neighbours() {
        let window = |before, after| Window { before, after };
        assert_eq!(Window::around(6_030, None, None), window((5_400, 6_000), (6_060, 6_660)));
        assert_eq!(Window::around(6_030, Some(5_890), Some(6_200)), window((5_940, 6_000), (6_060, 6_180)));
        assert_eq!(window((5_940, 6_000), (6_060, 6_180)).words(), "1 min before, 2 min after");
        // In the same minute, or the one before: there is nothing between them.
        for neighbour in [6_001, 5_950] {
            assert!(Window::around(6_030, Some(neighbour), None).is_empty());
        }
        assert!(Window::around(6_030, None, Some(6_100)).is_empty());
    }

    #[test]
    fn earlier_changes_are_those_that_another_of_the_flag_followed() {
        let changes = [change(9_000, "a"), change(7_500, "a"), change(7_200, "b"), change(6_000, "a")];
        let found: Vec<_> =
            windows(&changes).into_iter().map(|(change, window)| (change.at.as_second(), window)).collect();
        let expected = [
            (7_500, Window { before: (7_260, 7_500), after: (7_560, 8_160) }),
            (6_000, Window { before: (5_400, 6_000), after: (6_060, 6_660) }),
        ];
        assert_eq!(found, expected);
    }
}
