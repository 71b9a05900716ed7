//! What several tests publish: a set that bans nobody and routes nothing.

use std::rc::Rc;

use tidegate_policy::flags::Flags;
use tidegate_policy::geo::{CountryTable, GeoRules};
use tidegate_policy::limit::Limits;
use tidegate_policy::table::AddressTable;
use tidegate_policy::version::Version;
use tidegate_policy::wire::sync::WholeTable;

use super::Keys;
use super::load::decode_table::name_of;
use super::publish::{Bytes, Outcome, Publish, Set};
use super::shared::manifest::{CHUNK, PerPart};
use tidegate_host_sim::SimHost;

/// A table that says nothing; the flags are all on.
pub fn empty_whole(table: WholeTable) -> Vec<u8> {
    match table {
        WholeTable::Flags => Flags::all_on().to_bytes().unwrap(),
        WholeTable::Allow => AddressTable::empty().as_bytes().to_vec(),
        WholeTable::Geo => GeoRules::default().to_bytes().unwrap(),
        WholeTable::Countries => CountryTable::encode(std::iter::empty()).unwrap(),
        WholeTable::Routes => tidegate_host_sim::empty_routes(),
        WholeTable::Limits => Limits::default().to_bytes().unwrap(),
    }
}

pub fn empty_set(epoch: u64, seq: u64, refresh: u64) -> Set {
    let mut bytes = PerPart::from_fn(|_| Bytes::Table(AddressTable::empty()));
    for table in WholeTable::ALL {
        *bytes.get_mut(table.into()) = Bytes::Raw(Rc::new(empty_whole(table)));
    }
    let name = |part| name_of(bytes.get(part).as_slice());
    Set {
        version: Version { epoch, seq },
        refresh,
        clock_ms: 0,
        blobs: PerPart::from_fn(name),
        bytes: PerPart::from_fn(|part| Some(bytes.get(part).clone())),
    }
}

pub fn publish(host: &SimHost, keys: &Keys, set: Set) {
    let mut publish = Publish::new(1, Rc::new(set), CHUNK);
    let outcome = std::iter::from_fn(|| Some(publish.step(host, keys))).find_map(|outcome| outcome);
    assert!(matches!(outcome, Some(Outcome::Done(_))), "{outcome:?}");
}
