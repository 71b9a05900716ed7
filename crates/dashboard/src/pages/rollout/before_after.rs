//! What requests took before a flag was set, and after.

use std::collections::BTreeMap;

use futures_util::future::try_join_all;
use futures_util::try_join;
use jiff::{SignedDuration, Timestamp};
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::Value;

use crate::answers::PathStats;
use crate::api::ApiClient;
use crate::error::PageError;
use crate::show::number::{count, optional_millis, percent};
use crate::timeline::GATE_TIME;

/// How much time is looked at on each side, seconds.
const SIDE: i64 = 600;
/// Statistics are by the minute for two hours (docs/STATISTICS.md): what is older cannot be told apart from what
/// was before or after.
const OLDEST: i64 = 2 * 3_600 - SIDE;

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
    /// Minutes that `after` has by now.
    minutes_after: i64,
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
    let now = Timestamp::now();
    let recent = changed.iter().filter_map(|(flag, change)| {
        let at = change.as_ref()?.at;
        let age = now.as_second() - at.as_second();
        // Of a change in this minute or the last there is no whole minute after it.
        (120..OLDEST).contains(&age).then_some((flag, at))
    });
    Ok(try_join_all(recent.map(|(flag, at)| effect(api, flag, at))).await?)
}

async fn effect(api: &ApiClient, flag: &str, at: Timestamp) -> Result<FlagEffect, crate::api::ApiError> {
    // The minute of the change has requests of both.
    let minute = at.as_second().div_euclid(60) * 60;
    let path = |from: i64, until: i64| {
        let moment = |at| Timestamp::from_second(at).unwrap_or_default();
        format!("stats/paths?since={}&until={}&limit=1", moment(from), moment(until))
    };
    let (before, after) = (path(minute - SIDE, minute), path(minute + 60, minute + 60 + SIDE));
    let (before, after) = try_join!(api.get::<Paths>(&before), api.get::<Paths>(&after))?;
    let minutes_after = (Timestamp::now().as_second() - minute - 60).clamp(0, SIDE) / 60;
    Ok(FlagEffect { flag: flag.to_owned(), before: before.total, after: after.total, minutes_after })
}

impl FlagEffect {
    /// Both as a table.
    pub fn show(&self) -> Markup {
        let minutes = SignedDuration::from_secs(SIDE).as_mins();
        html! {
            div.scroll tabindex="0" role="group" aria-label={ "Before and after the last change of " (self.flag) } {
                table {
                    caption { "Requests of the " (minutes) " minutes before this change, and of the first " (self.minutes_after) " after it" }
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
