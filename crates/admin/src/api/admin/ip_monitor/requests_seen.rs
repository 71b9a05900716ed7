//! Requests seen per address: of the most frequent addresses only, so that no
//! number of clients makes it large.

use std::collections::HashMap;

use serde::Serialize;
use tidegate_policy::address::Prefix;

use super::{Item, Known, Standing};
use crate::api::app_state::Context;
use crate::problem::Answer;
use crate::store::AddressCount;
use crate::time;

/// As many as the store may keep: all that it has.
const ALL: usize = usize::MAX;

/// Requests from an address, or from those of a block that are known.
#[derive(Clone, Serialize, Debug, PartialEq, Eq)]
pub struct Seen {
    /// How many, too high by `over` at most.
    count: u64,
    over: u64,
    last_seen: String,
}

impl From<AddressCount> for Seen {
    fn from(row: AddressCount) -> Self {
        Self { count: row.count, over: row.over, last_seen: time::shown(row.last_seen) }
    }
}

impl Seen {
    /// Both together.
    fn plus(self, other: Self) -> Self {
        Self {
            count: self.count.saturating_add(other.count),
            over: self.over.saturating_add(other.over),
            last_seen: self.last_seen.max(other.last_seen),
        }
    }

    /// What is known of requests from `prefix`; `None`: nothing.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn of(context: &Context, prefix: &Prefix) -> Answer<Option<Self>> {
        if is_host(prefix) {
            return Ok(context.store.seen_one(&prefix.to_string()).await?.map(Self::from));
        }
        let all = context.store.seen(ALL).await?;
        let within = all.into_iter().filter(|row| row.ip.parse().is_ok_and(|ip| prefix.contains(ip)));
        Ok(within.map(Self::from).reduce(Self::plus))
    }
}

fn is_host(prefix: &Prefix) -> bool {
    prefix.len() == if prefix.as_v4().is_some() { 32 } else { 128 }
}

/// Says of each entry what is known of requests from its very address; of blocks
/// the single answer does.
///
/// # Errors
/// When the store cannot be read.
pub async fn fill(context: &Context, items: &mut [Item]) -> Answer<()> {
    if items.is_empty() {
        return Ok(());
    }
    let rows = context.store.seen(ALL).await?;
    let by_ip: HashMap<String, AddressCount> = rows.into_iter().map(|row| (row.ip.clone(), row)).collect();
    for item in items {
        // One address may have several entries, of different status.
        item.requests_seen = by_ip.get(&item.ip).cloned().map(Seen::from);
    }
    Ok(())
}

/// The addresses that most requests came from.
#[derive(Serialize, Debug)]
pub struct Top {
    items: Vec<Known>,
}

/// Answers at most `limit` of them.
///
/// # Errors
/// When the store cannot be read.
pub async fn top(context: &Context, limit: usize) -> Answer<Top> {
    let rows = context.store.seen(limit).await?;
    let (snapshot, now) = (context.current().await, time::now_seconds());
    let known = |row: AddressCount| {
        let prefix: Prefix = row.ip.parse().ok()?;
        Some(Known { standing: Standing::of(&snapshot, &prefix, now), requests_seen: Some(row.into()) })
    };
    Ok(Top { items: rows.into_iter().filter_map(known).collect() })
}
