//! Tables against a list that is searched entry by entry.

use std::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::wire::sync::EntryState::{Absent, Present};

/// Prefixes out of a few corners of the address space, so that they nest, repeat
/// and sit at its ends.
pub(crate) fn any_prefix() -> impl Strategy<Value = Prefix> {
    let v4_bits = prop_oneof![
        Just(0u32),
        Just(u32::MAX),
        any::<u32>(),
        (0u32..4, 0u32..8).prop_map(|(block, host)| 0x0a00_0000 | block << 8 | host),
    ];
    let v6_bits = prop_oneof![
        Just(0u128),
        Just(u128::MAX),
        any::<u128>(),
        (0u128..4, 0u128..8).prop_map(|(block, host)| 0x2001_0db8 << 96 | block << 64 | host),
        (0u128..0x1_0000_0000).prop_map(|v4| 0xffff << 32 | v4),
    ];
    let v4_len = prop_oneof![3 => 0u8..=32, 2 => Just(32u8), 1 => 22u8..=32];
    let v6_len = prop_oneof![3 => 0u8..=128, 2 => Just(128u8), 1 => 60u8..=68];
    prop_oneof![
        (v4_bits, v4_len).prop_map(|(bits, len)| Prefix::v4(bits, len).unwrap()),
        (v6_bits, v6_len).prop_map(|(bits, len)| Prefix::v6(bits, len).unwrap()),
    ]
}

/// Any expiry, often around 100.
pub(crate) fn any_expiry() -> impl Strategy<Value = Option<UnixSeconds>> {
    prop_oneof![Just(None), Just(None), (98u32..103).prop_map(Some), any::<u32>().prop_map(Some)]
}

/// Entries in order, each prefix once.
pub(crate) fn any_entries(absent: bool, max: usize) -> impl Strategy<Value = Vec<Entry>> {
    let state = (any_expiry(), prop::bool::weighted(if absent { 0.3 } else { 0.0 }))
        .prop_map(|(expires, absent)| if absent { Absent } else { Present(expires) });
    prop::collection::btree_map(any_prefix(), state, 0..max)
        .prop_map(|map| map.into_iter().map(|(prefix, state)| Entry { prefix, state }).collect())
}

/// An address at, just before or just behind a prefix, or any.
pub(crate) fn any_address(entries: &[Entry]) -> impl Strategy<Value = IpAddr> + use<> {
    let mut edges: Vec<IpAddr> = vec![IpAddr::from([10, 0, 1, 2])];
    for entry in entries {
        if let Some((bits, len)) = entry.prefix.as_v4() {
            let last = bits | u32::MAX.checked_shr(len.into()).unwrap_or(0);
            let around = [bits, last, bits.wrapping_sub(1), last.wrapping_add(1)];
            edges.extend(around.map(|bits| IpAddr::V4(bits.into())));
            edges.push(IpAddr::V6(std::net::Ipv4Addr::from(last).to_ipv6_mapped()));
        } else if let Some((bits, len)) = entry.prefix.as_v6() {
            let last = bits | u128::MAX.checked_shr(len.into()).unwrap_or(0);
            let around = [bits, last, bits.wrapping_sub(1), last.wrapping_add(1)];
            edges.extend(around.map(|bits| IpAddr::V6(bits.into())));
        }
    }
    prop_oneof![
        4 => prop::sample::select(edges),
        1 => any::<u32>().prop_map(|bits| IpAddr::V4(bits.into())),
        1 => any::<u128>().prop_map(|bits| IpAddr::V6(bits.into())),
    ]
}

pub(crate) fn table(entries: &[Entry]) -> AddressTable {
    AddressTable::from_bytes(AddressTable::encode(entries.iter().copied()).unwrap()).unwrap()
}

/// What the entries say, as the table keeps it.
pub(crate) fn kept(entries: &[Entry]) -> Vec<Entry> {
    let keep = |entry: &Entry| match entry.state {
        Present(Some(0)) => Entry { state: Present(Some(1)), ..*entry },
        _ => *entry,
    };
    entries.iter().map(keep).collect()
}

fn naive_covering(entries: &[Entry], address: IpAddr) -> Vec<Entry> {
    let mut found: Vec<_> = entries.iter().copied().filter(|entry| entry.prefix.contains(address)).collect();
    found.sort_by_key(|entry| std::cmp::Reverse(entry.prefix.len()));
    found
}

fn naive_digest(entries: &[Entry]) -> SetDigest {
    let mut digest = SetDigest::default();
    for entry in entries.iter().rev() {
        if let Present(expires) = entry.state {
            digest.insert(&entry_bytes(&entry.prefix, expires));
        }
    }
    digest
}

proptest! {
    #[test]
    fn a_table_says_what_the_list_says(
        (entries, addresses, others) in any_entries(true, 80).prop_flat_map(|entries| {
            let addresses = prop::collection::vec(any_address(&entries), 20);
            (Just(entries), addresses, prop::collection::vec(any_prefix(), 10))
        }),
    ) {
        let table = table(&entries);
        let entries = kept(&entries);
        prop_assert_eq!(table.len(), entries.len());
        prop_assert_eq!(table.iter().collect::<Vec<_>>(), entries.clone());
        prop_assert_eq!(table.digest(), naive_digest(&entries));
        for address in addresses {
            let found: Vec<_> = table.covering(address).collect();
            prop_assert_eq!(found, naive_covering(&entries, address), "{}", address);
        }
        for prefix in others.into_iter().chain(entries.iter().map(|entry| entry.prefix)) {
            let state = entries.iter().find(|entry| entry.prefix == prefix).map(|entry| entry.state);
            prop_assert_eq!(table.get(&prefix), state, "{}", prefix);
        }
    }
}
