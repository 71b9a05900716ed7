//! What several tests publish: a set of empty tables.

use std::rc::Rc;
use std::sync::Arc;

use tidegate_policy::flags::Flags;
use tidegate_policy::tables::{PerTable, Table};
use tidegate_policy::version::Version;
use tidegate_policy::wire::sync::BlobRef;

use super::Keys;
use super::publish::{Publish, PublishEnd, PublishSet};
use super::shared::manifest::CHUNK;
use super::shared::service_clock::ServiceClock;
use tidegate_host_sim::SimHost;

/// An empty table; of the flags, all on.
pub fn empty_bytes(table: Table) -> Vec<u8> {
    match table {
        Table::Flags => Flags::all_on().to_bytes().unwrap(),
        table => table.empty_bytes().unwrap(),
    }
}

pub fn empty_set(epoch: u64, seq: u64, refresh: u64) -> PublishSet {
    let bytes = PerTable::from_fn(|table| Some(Arc::new(empty_bytes(table))));
    PublishSet {
        version: Version { epoch, seq },
        refresh,
        clock: ServiceClock::default(),
        blobs: PerTable::from_fn(|table| BlobRef::of(&empty_bytes(table))),
        bytes,
    }
}

pub fn publish(host: &SimHost, keys: &Keys, set: PublishSet) {
    let mut publish = Publish::new(1, Rc::new(set), CHUNK);
    let outcome = std::iter::from_fn(|| Some(publish.step(host, keys))).find_map(|outcome| outcome);
    assert!(matches!(outcome, Some(PublishEnd::Done(_))), "{outcome:?}");
}
