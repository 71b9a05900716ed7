//! Requests seen per address: only of the most frequent addresses, so that the number of clients
//! does not make it large.

use std::collections::HashMap;

use serde::Serialize;
use tidegate_policy::address::Prefix;
use utoipa::ToSchema;

use super::{AddressReport, AddressStatus, Entry};
use crate::api::app_state::AppState;
use crate::problem::ApiResult;
use crate::store::AddressCount;
use crate::time;

/// All that the store keeps.
const ALL: usize = usize::MAX;

/// Requests from an address, or from the known addresses of a block.
#[derive(Clone, Serialize, Debug, PartialEq, Eq, ToSchema)]
pub struct RequestsSeen {
    /// Number of requests; too high by `over` at most.
    count: u64,
    over: u64,
    last_seen: String,
}

impl From<AddressCount> for RequestsSeen {
    fn from(row: AddressCount) -> Self {
        Self { count: row.count, over: row.over, last_seen: time::sql_to_rfc3339(row.last_seen) }
    }
}

impl RequestsSeen {
    /// The sum of both.
    fn plus(self, other: Self) -> Self {
        Self {
            count: self.count.saturating_add(other.count),
            over: self.over.saturating_add(other.over),
            last_seen: self.last_seen.max(other.last_seen),
        }
    }

    /// The known requests from `prefix`; `None`: none.
    pub async fn of(app: &AppState, prefix: &Prefix) -> ApiResult<Option<Self>> {
        if is_host(prefix) {
            return Ok(app.store.address_count(&prefix.to_string()).await?.map(Self::from));
        }
        let all = app.store.top_addresses(ALL).await?;
        let within = all.into_iter().filter(|row| row.ip.parse().is_ok_and(|ip| prefix.contains(ip)));
        Ok(within.map(Self::from).reduce(Self::plus))
    }
}

fn is_host(prefix: &Prefix) -> bool {
    prefix.len() == if prefix.as_v4().is_some() { 32 } else { 128 }
}

/// Fills in the requests of entries for single addresses; those of blocks are only in the answer
/// for one block.
pub async fn fill(app: &AppState, items: &mut [Entry]) -> ApiResult<()> {
    if items.is_empty() {
        return Ok(());
    }
    let rows = app.store.top_addresses(ALL).await?;
    let by_ip: HashMap<String, AddressCount> = rows.into_iter().map(|row| (row.ip.clone(), row)).collect();
    for item in items {
        // One address may have several entries, of different status.
        item.requests_seen = by_ip.get(&item.ip).cloned().map(RequestsSeen::from);
    }
    Ok(())
}

/// The addresses that most requests came from.
#[derive(Serialize, Debug, ToSchema)]
pub struct Top {
    items: Vec<AddressReport>,
}

/// Answers at most `limit` of them.
pub async fn top(app: &AppState, limit: usize) -> ApiResult<Top> {
    let rows = app.store.top_addresses(limit).await?;
    let (snapshot, now) = (app.current().await, time::now_seconds());
    let known = |row: AddressCount| {
        let prefix: Prefix = row.ip.parse().ok()?;
        Some(AddressReport {
            address: AddressStatus::of(&snapshot, &prefix, now),
            requests_seen: Some(row.into()),
            entries: None,
        })
    };
    Ok(Top { items: rows.into_iter().filter_map(known).collect() })
}
