//! What several tests publish: a set that bans nobody and routes nothing.

use std::rc::Rc;

use tidegate_policy::table::AddressTable;
use tidegate_policy::wire::sync::Version;

use super::Keys;
use super::intake::name_of;
use super::manifest::{CHUNK, Part, PerPart};
use super::publish::{Bytes, Outcome, Publish, Set};
use crate::host::fake::Fake;

pub fn empty_set(epoch: u64, seq: u64, refresh: u64) -> Set {
    let bytes = |part| match part {
        Part::Routes => Bytes::Raw(Rc::new(tidegate_host_sim::empty_routes())),
        _ => Bytes::Table(AddressTable::empty()),
    };
    let name = |part| match bytes(part) {
        Bytes::Raw(bytes) => name_of(&bytes),
        Bytes::Table(table) => name_of(table.as_bytes()),
    };
    Set {
        version: Version { epoch, seq },
        refresh,
        clock_ms: 0,
        blobs: PerPart::from_fn(name),
        bytes: PerPart::from_fn(|part| Some(bytes(part))),
    }
}

pub fn publish(host: &Fake, keys: &Keys, set: Set) {
    let mut publish = Publish::new(1, Rc::new(set), CHUNK);
    let outcome = std::iter::from_fn(|| Some(publish.step(host, keys))).find_map(|outcome| outcome);
    assert!(matches!(outcome, Some(Outcome::Done(_))), "{outcome:?}");
}
