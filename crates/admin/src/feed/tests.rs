//! The feed with a store in memory, and gateways that do what the filter does.

mod behaviour;
mod direct;
mod documents;
mod full_table;
mod gateway;
mod memory;
mod property;
mod slips;
mod sources;
mod tables;

use std::net::IpAddr;
use std::sync::Arc;

use tidegate_policy::request::Facts;

use super::{Feed, FeedOptions};
use memory::Memory;

/// Options with which a few rows are enough to reach every limit.
fn tiny() -> FeedOptions {
    FeedOptions {
        overlay_min: 3,
        overlay_fraction: 2,
        overlay_max: 20,
        overlay_limit: 12,
        ..FeedOptions::default()
    }
}

/// A request of this client, of which nothing else is known.
fn from(client: IpAddr) -> Facts<'static> {
    Facts { client: Some(client), ..Facts::default() }
}

async fn start(store: &Arc<Memory>, options: FeedOptions) -> Feed {
    Feed::start(store.clone(), options).await.unwrap()
}
