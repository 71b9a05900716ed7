//! Tables against a list that is searched entry by entry.

use std::net::IpAddr;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::UnixSeconds;
use crate::address::Prefix;
use crate::codec::{FormatError, MAX_BAN_BASE};
use crate::digest::SetDigest;
use crate::table::EntryState::{Absent, Present};
use layout::{HEADER, TableLayout};

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
    prop_oneof![
        6 => Just(None),
        3 => (98u32..103).prop_map(Some),
        2 => any::<u32>().prop_map(Some),
        1 => Just(Some(0)),
    ]
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

/// The entries, as the table keeps them.
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
        (entries, addresses, others) in any_entries(true, 150).prop_flat_map(|entries| {
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

fn entry(prefix: &str, state: EntryState) -> Entry {
    Entry { prefix: prefix.parse().unwrap(), state }
}

/// All prefixes around an address and the siblings beside them, deepest last.
fn every_length(address: IpAddr, bits: u8) -> Vec<Entry> {
    let at = |len: u8| match address {
        IpAddr::V4(v4) => Prefix::v4(v4.to_bits(), len),
        IpAddr::V6(v6) => Prefix::v6(v6.to_bits(), len),
    };
    let beside = |len: u8| match address {
        IpAddr::V4(v4) => Prefix::v4(v4.to_bits() ^ 1 << (32 - len), len),
        IpAddr::V6(v6) => Prefix::v6(v6.to_bits() ^ 1 << (128 - len), len),
    };
    let mut prefixes: Vec<_> = (0..=bits).filter_map(at).chain((1..=bits).filter_map(beside)).collect();
    prefixes.sort();
    prefixes.into_iter().map(|prefix| Entry { prefix, state: Present(None) }).collect()
}

#[test]
fn every_length_of_a_nest_is_found() {
    for (address, bits) in [("170.85.204.51", 32u8), ("2001:db8:5555:aaaa:3333:cccc:f0f0:5a5a", 128)] {
        let address = address.parse().unwrap();
        let table = table(&every_length(address, bits));
        let lengths: Vec<_> = table.covering(address).map(|entry| entry.prefix.len()).collect();
        assert_eq!(lengths, (0..=bits).rev().collect::<Vec<_>>());
        for beside in table.iter().filter(|entry| !entry.prefix.contains(address)) {
            let inside = match (beside.prefix.as_v4(), beside.prefix.as_v6()) {
                (Some((first, _)), _) => IpAddr::V4(first.into()),
                (_, Some((first, _))) => IpAddr::V6(first.into()),
                _ => unreachable!(),
            };
            let found: Vec<_> = table.covering(inside).collect();
            assert_eq!(found, naive_covering(&table.iter().collect::<Vec<_>>(), inside));
        }
    }
}

#[test]
fn bytes_per_entry_are_what_the_layout_promises() {
    let bans = |count: u32, expires| {
        let entries = (0..count).map(|i| Entry {
            prefix: Prefix::v4(i.wrapping_mul(64), 26 + (i % 7) as u8).unwrap(),
            state: Present(expires),
        });
        AddressTable::encode(entries.collect::<Vec<_>>().into_iter()).unwrap().len()
    };
    assert_eq!(bans(16_000, None), HEADER + 16_000 * 21 / 4);
    assert_eq!(bans(16_000, Some(9)), HEADER + 16_000 * 37 / 4);
    assert_eq!(AddressTable::encode(std::iter::empty()).unwrap(), AddressTable::empty().as_bytes());
    assert_eq!(bans(16_000, Some(9)), AddressTable::most_bytes(16_000, 0));
    assert!(AddressTable::most_bytes(usize::MAX, usize::MAX) > MAX_BAN_BASE);
    assert!(AddressTable::most_bytes(10_000_000, 5_000_000) <= MAX_BAN_BASE);
}

proptest! {
    #[test]
    fn no_table_is_longer_than_was_said(entries in any_entries(true, 60)) {
        let v4 = entries.iter().filter(|entry| entry.prefix.as_v4().is_some()).count();
        let most = AddressTable::most_bytes(v4, entries.len() - v4);
        prop_assert!(table(&entries).as_bytes().len() <= most);
    }
}

#[test]
fn entries_out_of_order_are_not_encoded() {
    for wrong in [
        ["2.0.0.0", "1.0.0.0"],
        ["1.0.0.0", "1.0.0.0"],
        ["1.0.0.0/16", "1.0.0.0/8"],
        ["::", "1.0.0.0"],
        ["2::/32", "2::/16"],
    ] {
        let entries = wrong.map(|prefix| entry(prefix, Present(None)));
        let error = AddressTable::encode(entries.into_iter()).unwrap_err();
        assert_eq!(error, FormatError::Malformed("entries out of order or repeated"), "{wrong:?}");
    }
}

/// `bytes` read as a table without any check of the entries, when the header fits.
fn unchecked(bytes: &[u8]) -> Option<AddressTable> {
    let header = layout::TableHeader::read(bytes).ok()?;
    let layout = TableLayout::new(&header.shape).ok()?;
    let bytes = Arc::new(bytes.to_vec());
    (layout.len == bytes.len()).then(|| AddressTable {
        bytes,
        shape: header.shape,
        layout,
        digest: SetDigest::default(),
    })
}

/// `bytes` with the digest that its entries have, so that it is not the digest
/// that catches what is wrong with them.
fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(table) = unchecked(&bytes) {
        let entries: Vec<_> = table.iter().collect();
        let digest = naive_digest(&entries);
        bytes[20..36].copy_from_slice(&digest.sum.to_le_bytes());
    }
    bytes
}

/// The result of the check, in steps of `entries`.
fn check(bytes: &[u8], entries: usize) -> Result<AddressTable, FormatError> {
    let mut check = TableCheck::new(bytes.to_vec())?;
    loop {
        if let Some(table) = check.step(entries)? {
            return Ok(table);
        }
    }
}

#[test]
fn each_lie_is_found_by_its_own_check() {
    let expiring = sealed_of(&[("10.0.0.0/8", Some(5)), ("10.1.0.0/16", None), ("11.0.0.0", Some(7))]);
    let v6 = sealed_of(&[("2001:db8::/32", None), ("2001:db8::1", None)]);
    let twice = sealed_of(&[("10.0.0.0/8", None), ("10.0.0.0/9", None)]);
    let v4_meta = HEADER + 3 * 4 + 4;
    let v6_meta = HEADER + 2 * 16 + 4;
    let set = |bytes: &[u8], at: usize, value: &[u8]| {
        let mut bytes = bytes.to_vec();
        bytes[at..at + value.len()].copy_from_slice(value);
        sealed(bytes)
    };
    let mapped = 0xffff_0102_0304u128.to_le_bytes();
    let not_canonical = FormatError::Malformed("a prefix that is not in its canonical form");
    let disorder = FormatError::Malformed("entries out of order or repeated");
    let nesting = FormatError::Malformed("whether an entry is covered by another");
    let cases = [
        ("host bits", set(&expiring, HEADER, &[1]), not_canonical.clone()),
        ("length 33", set(&expiring, v4_meta + 2, &[33]), not_canonical.clone()),
        ("v4-mapped", set(&sealed_of(&[("::1", None)]), HEADER, &mapped), not_canonical.clone()),
        ("repeated", set(&twice, HEADER + 2 * 4 + 4 + 1, &[8 | 0x40]), disorder.clone()),
        ("descending", set(&expiring, HEADER, &[0, 0, 0, 11]), disorder),
        ("a cover denied", set(&expiring, v4_meta + 1, &[16]), nesting.clone()),
        ("a cover invented", set(&expiring, v4_meta + 2, &[32 | 0x40]), nesting),
        (
            "anchor",
            set(&expiring, HEADER + 12, &[0; 4]),
            FormatError::Malformed("which entry covers another"),
        ),
        ("flags", set(&v6, v6_meta + 1, &[4]), FormatError::Malformed("flags of an entry")),
        (
            "absent, expires",
            set(&expiring, v4_meta, &[8 | 0x80]),
            FormatError::Malformed("an absent entry that expires"),
        ),
        ("expiring", set(&expiring, 8, &[1]), FormatError::Malformed("number of entries that expire")),
        ("v4 count", set(&expiring, 4, &[2]), FormatError::Malformed("table length does not fit its header")),
        ("version", set(&expiring, 0, &[2]), FormatError::Version { found: 2, known: 1 }),
        ("magic", set(&expiring, 1, b"x"), FormatError::Malformed("not an address table")),
    ];
    for (lie, bytes, error) in cases {
        assert_eq!(AddressTable::from_bytes(bytes).err(), Some(error), "{lie}");
    }
    let mut bytes = expiring;
    bytes[20] ^= 1;
    assert_eq!(AddressTable::from_bytes(bytes).err(), Some(FormatError::Malformed("table digest")));
}

fn sealed_of(entries: &[(&str, Option<UnixSeconds>)]) -> Vec<u8> {
    let entries: Vec<_> = entries.iter().map(|(prefix, expires)| entry(prefix, Present(*expires))).collect();
    table(&entries).as_bytes().to_vec()
}

#[test]
fn an_anchor_that_leads_nowhere_or_onward_is_refused() {
    // 40 entries below one /8: three blocks, the second and third anchored at entry 0.
    let mut entries = vec![entry("10.0.0.0/8", Present(None))];
    entries.extend(
        (0..40).map(|i| Entry { prefix: Prefix::v4(0x0a01_0000 + i, 32).unwrap(), state: Present(None) }),
    );
    let bytes = table(&entries).as_bytes().to_vec();
    let anchors = HEADER + 41 * 4;
    for (block, anchor) in [(1, 1u32), (1, 16), (2, 40), (2, u32::MAX), (0, 0), (1, 4_000_000)] {
        let mut bytes = bytes.clone();
        bytes[anchors + block * 4..][..4].copy_from_slice(&anchor.to_le_bytes());
        assert_eq!(
            AddressTable::from_bytes(bytes).err(),
            Some(FormatError::Malformed("which entry covers another")),
            "{block} {anchor}"
        );
    }
}

#[test]
fn absurd_counts_cost_nothing() {
    for field in [4, 8, 12, 16] {
        let mut bytes = AddressTable::empty().as_bytes().to_vec();
        bytes[field..field + 4].copy_from_slice(&[0xff; 4]);
        assert!(AddressTable::from_bytes(bytes).is_err());
    }
    assert!(AddressTable::from_bytes(Vec::new()).is_err());
}

/// How a table's bytes are corrupted.
#[derive(Clone, Debug)]
enum Harm {
    Flip(prop::sample::Index, u8),
    Cut(prop::sample::Index),
    Append(Vec<u8>),
    /// A whole field of four bytes becomes that of another place.
    Copy(prop::sample::Index, prop::sample::Index),
    Swap(prop::sample::Index, prop::sample::Index),
}

fn any_harm() -> impl Strategy<Value = Harm> {
    use prop::sample::Index;
    prop_oneof![
        4 => (any::<Index>(), 0u8..8).prop_map(|(at, bit)| Harm::Flip(at, 1 << bit)),
        1 => any::<Index>().prop_map(Harm::Cut),
        1 => any::<Vec<u8>>().prop_map(Harm::Append),
        2 => any::<(Index, Index)>().prop_map(|(from, to)| Harm::Copy(from, to)),
        2 => any::<(Index, Index)>().prop_map(|(one, other)| Harm::Swap(one, other)),
    ]
}

fn harmed(mut bytes: Vec<u8>, harm: &Harm) -> Vec<u8> {
    let words = bytes.len() / 4;
    match harm {
        _ if words == 0 => {}
        Harm::Flip(at, bits) => bytes[at.index(words * 4)] ^= bits,
        Harm::Cut(at) => bytes.truncate(at.index(words * 4)),
        Harm::Append(more) => bytes.extend(more),
        Harm::Copy(from, to) => {
            let from = from.index(words) * 4;
            bytes.copy_within(from..from + 4, to.index(words) * 4);
        }
        Harm::Swap(one, other) => {
            let (one, other) = (one.index(words) * 4, other.index(words) * 4);
            (0..4).for_each(|i| bytes.swap(one + i, other + i));
        }
    }
    bytes
}

/// Bytes that are accepted are exactly the encoding of their entries, and the search
/// finds these.
fn assert_sound(bytes: &[u8], addresses: &[IpAddr], step: usize) -> Result<bool, TestCaseError> {
    let whole = AddressTable::from_bytes(bytes.to_vec());
    let stepwise = check(bytes, step);
    prop_assert_eq!(
        whole.as_ref().map(AddressTable::digest).map_err(Clone::clone),
        stepwise.as_ref().map(AddressTable::digest).map_err(Clone::clone)
    );
    let Ok(table) = whole else { return Ok(false) };
    let entries: Vec<_> = table.iter().collect();
    prop_assert_eq!(entries.len(), table.len());
    prop_assert_eq!(AddressTable::encode(entries.iter().copied()).unwrap(), bytes);
    prop_assert_eq!(table.digest(), naive_digest(&entries));
    for address in addresses {
        let found: Vec<_> = table.covering(*address).collect();
        prop_assert_eq!(found, naive_covering(&entries, *address), "{}", address);
    }
    Ok(true)
}

proptest! {
    #[test]
    fn a_harmed_table_is_refused_or_says_what_it_says(
        (entries, addresses) in any_entries(true, 60).prop_flat_map(|entries| {
            let addresses = prop::collection::vec(any_address(&entries), 5);
            (Just(entries), addresses)
        }),
        harms in prop::collection::vec(any_harm(), 1..4),
        step in 0usize..30,
    ) {
        let intact = table(&entries).as_bytes().to_vec();
        prop_assert!(assert_sound(&intact, &addresses, step)?);
        let bytes = harms.iter().fold(intact.clone(), harmed);
        let accepted = assert_sound(&bytes, &addresses, step)?;
        // The digest is of what is present: an absent entry can turn into another.
        let present = entries.iter().all(|entry| entry.state != Absent);
        prop_assert!(!accepted || !present || bytes == intact, "harm that the digest let pass");
        assert_sound(&sealed(bytes), &addresses, step)?;
    }

    #[test]
    fn any_bytes_behind_a_fitting_header_are_refused_or_sound(
        v4 in 0u32..4, v6 in 0u32..3, body in prop::collection::vec(any::<u8>(), 100), step in 0usize..4,
    ) {
        let count = |entries| layout::Count { entries, expiring: 0 };
        let shape = Shape { v4: count(v4), v6: count(v6) };
        let len = TableLayout::new(&shape).unwrap().len;
        let mut bytes = layout::TableHeader { shape, sum: 0 }.to_bytes().to_vec();
        bytes.extend(body.iter().cycle().take(len - HEADER));
        assert_sound(&sealed(bytes), &["10.0.0.1".parse().unwrap()], step)?;
    }
}
