//! Requests that bans in shadow would have denied, by ban.

use std::collections::HashMap;

use jiff::Timestamp;
use serde::Serialize;
use tidegate_policy::decide::Reason;
use utoipa::ToSchema;

use super::Entry;
use crate::api::app_state::AppState;
use crate::feed::RowStatus;
use crate::problem::ApiResult;
use crate::store::{TopOf, TopValue, would_deny_value};
use crate::time;

/// Requests of these last days are counted: frequent values are kept so long.
const DAYS: i64 = 30;
/// Seconds of a day.
const DAY: i64 = 86_400;

/// Requests that a ban in shadow would have denied.
#[derive(Clone, Serialize, Debug, PartialEq, Eq, ToSchema)]
pub struct ShadowHits {
    requests: u64,
    /// How much `requests` may be too high.
    over: u64,
    /// How much it may be too low.
    under: u64,
    last_seen: Option<String>,
}

impl From<&TopValue> for ShadowHits {
    fn from(value: &TopValue) -> Self {
        let last_seen = Timestamp::from_millisecond(value.last_ms).ok().map(time::rfc3339);
        Self { requests: value.count, over: value.over, under: value.under, last_seen }
    }
}

/// Fills in the hits of the bans in shadow that had any in the last days.
pub fn fill(app: &AppState, items: &mut [Entry]) -> impl Future<Output = ApiResult<()>> {
    let in_shadow = items.iter_mut().filter(|item| item.status == RowStatus::Watched.name());
    let in_shadow: Vec<&mut Entry> = in_shadow.collect();
    async move {
        if in_shadow.is_empty() {
            return Ok(());
        }
        let now = time::now().as_second();
        let values = app.store.top_values(TopOf::WouldDeny, (now - DAYS * DAY, now + 1), usize::MAX).await?;
        let by_value: HashMap<&str, &TopValue> =
            values.iter().map(|value| (value.value.as_str(), value)).collect();
        for item in in_shadow {
            let value = would_deny_value(Reason::IpBanned.code(), &item.ip);
            item.would_deny = by_value.get(value.as_str()).map(|value| ShadowHits::from(*value));
        }
        Ok(())
    }
}
