//! The table against a list that is searched range by range, and against random bytes.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::*;
use crate::codec::FormatError;
use crate::geo::country::Country;
use layout::{CountryHeader, CountryLayout, CountryView};

fn country(code: &str) -> Country {
    code.parse().unwrap()
}

fn range(first: &str, last: &str, code: &str) -> CountryRange {
    CountryRange { first: first.parse().unwrap(), last: last.parse().unwrap(), country: country(code) }
}

fn bytes_of(ranges: &[CountryRange]) -> Vec<u8> {
    CountryTable::encode(ranges.iter().copied()).unwrap()
}

fn table_of(ranges: &[CountryRange]) -> CountryTable {
    CountryTable::from_bytes(bytes_of(ranges)).unwrap()
}

fn find(table: &CountryTable, address: &str) -> Option<String> {
    table.find(address.parse().unwrap()).map(|country| country.to_string())
}

/// What a table must find: the range with the address.
fn linear(ranges: &[CountryRange], address: IpAddr) -> Option<Country> {
    let address = address.to_canonical();
    let holds = |range: &&CountryRange| {
        range.first.is_ipv4() == address.is_ipv4() && range.first <= address && address <= range.last
    };
    ranges.iter().find(holds).map(|range| range.country)
}

/// Ranges that say something of everything.
fn some() -> Vec<CountryRange> {
    vec![
        range("0.0.0.0", "0.255.255.255", "AU"),
        range("1.0.0.0", "1.0.0.255", "AU"),
        range("1.0.1.0", "1.0.3.255", "CN"),
        range("9.9.9.9", "9.9.9.9", "US"),
        range("255.255.255.0", "255.255.255.255", "DE"),
        range("2001:db8::", "2001:db8::ffff", "DE"),
        range("2001:db8::1:0", "2001:db8::1:ffff", "FR"),
        range("2001:db8::3:0", "2001:db8:0:1::7", "DE"),
        range("2a00::", "2a0f:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "EU"),
        range("ffff::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "T1"),
    ]
}

#[test]
fn each_address_is_where_its_range_says() {
    let table = table_of(&some());
    for (address, wanted) in [
        ("0.0.0.0", Some("AU")),
        ("1.0.0.255", Some("AU")),
        ("1.0.1.0", Some("CN")),
        ("1.0.4.0", None),
        ("9.9.9.8", None),
        ("9.9.9.9", Some("US")),
        ("::ffff:9.9.9.9", Some("US")),
        ("9.9.9.10", None),
        ("255.255.254.255", None),
        ("255.255.255.255", Some("DE")),
        ("::", None),
        ("2001:db7:ffff:ffff:ffff:ffff:ffff:ffff", None),
        ("2001:db8::", Some("DE")),
        ("2001:db8::ffff", Some("DE")),
        ("2001:db8::1:0", Some("FR")),
        ("2001:db8::2:0", None),
        ("2001:db8::3:0", Some("DE")),
        ("2001:db8::ffff:ffff:ffff:ffff", Some("DE")),
        ("2001:db8:0:1::7", Some("DE")),
        ("2001:db8:0:1::8", None),
        ("2a08::1", Some("EU")),
        ("2a10::", None),
        ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Some("T1")),
    ] {
        assert_eq!(find(&table, address).as_deref(), wanted, "{address}");
    }
    // 0.0.0.0/8 and 1.0.0.0/24 are adjacent, and one run.
    assert_eq!(table.len(), (4, 5));
}

#[test]
fn no_ranges_are_the_empty_table() {
    let empty = CountryTable::empty();
    assert_eq!(bytes_of(&[]), empty.as_bytes());
    assert!(empty.is_empty() && table_of(&[]).is_empty());
    assert_eq!((find(&empty, "1.2.3.4"), find(&empty, "2001:db8::1")), (None, None));
}

#[test]
fn ranges_that_make_no_table_are_refused() {
    for bad in [
        [range("1.0.0.0", "1.0.0.255", "AU"), range("1.0.0.255", "1.0.1.0", "CN")],
        [range("1.0.0.0", "1.0.0.255", "AU"), range("1.0.0.0", "1.0.0.255", "AU")],
        [range("2.0.0.0", "2.0.0.255", "AU"), range("1.0.0.0", "1.0.0.255", "AU")],
        [range("2.0.0.0", "1.0.0.255", "AU"), range("3.0.0.0", "3.0.0.255", "AU")],
        [range("2001::", "2002::", "AU"), range("1.0.0.0", "1.0.0.255", "AU")],
        [range("2001::", "2002::", "AU"), range("2002::", "2003::", "CN")],
        [range("1.0.0.0", "2002::", "AU"), range("2003::", "2004::", "CN")],
        [range("::ffff:1.0.0.0", "::ffff:1.0.0.255", "AU"), range("2003::", "2004::", "CN")],
    ] {
        let encoded = CountryTable::encode(bad.into_iter());
        assert!(matches!(encoded, Err(FormatError::Malformed(_))), "{bad:?}");
    }
}

#[test]
fn more_countries_than_a_byte_counts() {
    let letters = || b'A'..=b'Z';
    let codes = letters().flat_map(|first| letters().map(move |second| [first, second]));
    let codes: BTreeSet<Country> = codes.filter_map(|code| Country::new(&code)).collect();
    for count in [255, 256, codes.len()] {
        let ranges: Vec<_> = (0u32..)
            .zip(codes.iter().take(count))
            .map(|(i, &country)| {
                let address = Ipv4Addr::from_bits(i << 8).into();
                CountryRange { first: address, last: address, country }
            })
            .collect();
        let table = table_of(&ranges);
        assert!(ranges.iter().all(|range| table.find(range.first) == Some(range.country)), "{count}");
        // CountryHeader, codes, and a boundary at both ends of each.
        let place = if count > 255 { 2 } else { 1 };
        assert_eq!(table.as_bytes().len(), 20 + 2 * count + 2 * count * (4 + place));
    }
}

#[test]
fn it_is_checked_in_steps_that_get_on() {
    let mut check = CountryCheck::new(bytes_of(&some())).unwrap();
    let mut steps = 0;
    let table = loop {
        steps += 1;
        if let Some(table) = check.step(0).unwrap() {
            break table;
        }
    };
    assert_eq!(table.len(), (4, 5));
    // 6 and 8 boundaries, and the end.
    assert_eq!(steps, 6 + 8 + 1);
}

#[test]
fn every_cut_is_an_error() {
    let bytes = bytes_of(&some());
    for len in 0..bytes.len() {
        assert!(CountryTable::from_bytes(bytes[..len].to_vec()).is_err(), "{len} bytes");
    }
    let longer = [bytes.as_slice(), &[0]].concat();
    assert!(CountryTable::from_bytes(longer).is_err());
}

#[test]
fn a_header_that_promises_too_much_allocates_nothing() {
    let bytes = [&[1u8], &b"tgc"[..], &[0xff; 16]].concat();
    assert!(matches!(CountryCheck::new(bytes), Err(FormatError::TooLong { .. })));
    let other = [&[2u8], &b"tgc"[..], &[0; 16]].concat();
    assert!(matches!(CountryCheck::new(other), Err(FormatError::Version { found: 2, .. })));
}

/// Looks up addresses at, before and after the values of every column.
fn search(table: &CountryTable) {
    for window in table.as_bytes().windows(16).step_by(2) {
        let bits = u128::from_le_bytes(*window.first_chunk().unwrap());
        for bits in [bits.wrapping_sub(1), bits, bits.wrapping_add(1)] {
            let _ = table.find(Ipv6Addr::from_bits(bits).into());
            let _ = table.find(Ipv4Addr::from_bits(bits as u32).into());
        }
    }
}

/// The ranges of a table, found by looking up every boundary that the bytes could have.
/// Written again they must give the same bytes.
fn laid_out_again(table: &CountryTable) -> Vec<u8> {
    let view = CountryView::new(&table.bytes, &table.layout);
    let mut fine = (0..).map_while(|i| view.fine(i)).peekable();
    let v4 = (0..).map_while(|i| view.v4(i)).collect::<Vec<_>>();
    let v6 = (0usize..)
        .map_while(|i| view.v6(i).map(|(upper, place)| (i, upper, place)))
        .map(|(i, upper, place)| {
            let lower = fine.next_if(|(index, _)| *index as usize == i).map_or(0, |(_, lower)| lower);
            (u128::from(upper) << 64 | u128::from(lower), place)
        })
        .collect::<Vec<_>>();
    let ranges = |boundaries: Vec<(u128, u16)>, max: u128, address: fn(u128) -> IpAddr| {
        let nexts: Vec<_> = boundaries.iter().skip(1).map(|(next, _)| next - 1).chain([max]).collect();
        let ranges = boundaries.into_iter().zip(nexts).filter_map(move |((first, place), last)| {
            let country = view.country(place)?;
            Some(CountryRange { first: address(first), last: address(last), country })
        });
        ranges.collect::<Vec<_>>()
    };
    let v4 = ranges(v4, u32::MAX.into(), |bits| Ipv4Addr::from_bits(bits as u32).into());
    let v6 = ranges(v6, u128::MAX, |bits| Ipv6Addr::from_bits(bits).into());
    bytes_of(&[v4, v6].concat())
}

/// Ends of ranges near each other, near the ends of all addresses, and near those
/// of a /64.
fn any_v6() -> impl Strategy<Value = u128> {
    let upper =
        prop_oneof![0u64..4, Just(0x2001_0db8_0000_0000), Just(u64::MAX - 1), Just(u64::MAX), any::<u64>()];
    let lower = prop_oneof![4 => Just(0u64), 1 => Just(u64::MAX), 3 => 0u64..6, 1 => any::<u64>()];
    // Not v4-mapped: upper 0 and lower 0xffff_xxxx_xxxx hardly ever comes up.
    (upper, lower).prop_map(|(upper, lower)| u128::from(upper) << 64 | u128::from(lower))
}

fn any_v4() -> impl Strategy<Value = u32> {
    prop_oneof![0u32..12, u32::MAX - 6..=u32::MAX, 0x0a00_0000u32..0x0a00_0008, any::<u32>()]
}

/// Ranges in order, out of the addresses that come two by two.
fn ranges_of<A: Ord + Copy>(ends: Vec<A>, codes: &[&str], address: fn(A) -> IpAddr) -> Vec<CountryRange> {
    let ends: Vec<A> = ends.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
    let ends = ends.as_chunks::<2>().0.iter().zip(codes.iter().cycle());
    ends.map(|([first, last], code)| CountryRange {
        first: address(*first),
        last: address(*last),
        country: country(code),
    })
    .collect()
}

fn any_ranges() -> impl Strategy<Value = Vec<CountryRange>> {
    let codes = vec(select(&["DE", "FR", "US", "T1"][..]), 1..5);
    (vec(any_v4(), 0..30), vec(any_v6(), 0..40), codes).prop_map(|(v4, v6, codes)| {
        let v4 = ranges_of(v4, &codes, |bits| Ipv4Addr::from_bits(bits).into());
        let v6 = ranges_of(v6, &codes, |bits| Ipv6Addr::from_bits(bits).into());
        let mapped = |range: &CountryRange| range.last.to_canonical().is_ipv4();
        [v4, v6.into_iter().filter(|range| !mapped(range)).collect()].concat()
    })
}

/// Each range cut in two where that is possible.
fn cut(ranges: &[CountryRange]) -> Vec<CountryRange> {
    let halves = |range: &CountryRange| match (range.first, range.last) {
        (IpAddr::V4(first), IpAddr::V4(last)) if first < last => {
            let next = Ipv4Addr::from_bits(first.to_bits() + 1);
            vec![CountryRange { last: first.into(), ..*range }, CountryRange { first: next.into(), ..*range }]
        }
        (IpAddr::V6(first), IpAddr::V6(last)) if first < last => {
            let next = Ipv6Addr::from_bits(first.to_bits() + 1);
            vec![CountryRange { last: first.into(), ..*range }, CountryRange { first: next.into(), ..*range }]
        }
        _ => vec![*range],
    };
    ranges.iter().flat_map(halves).collect()
}

/// Addresses at, before and after every end of a range.
fn near(ranges: &[CountryRange]) -> Vec<IpAddr> {
    let ends = ranges.iter().flat_map(|range| [range.first, range.last]);
    ends.flat_map(|end| match end {
        IpAddr::V4(v4) => {
            [-1, 0, 1].map(|d| IpAddr::from(Ipv4Addr::from_bits(v4.to_bits().wrapping_add_signed(d))))
        }
        IpAddr::V6(v6) => {
            [-1, 0, 1].map(|d| IpAddr::from(Ipv6Addr::from_bits(v6.to_bits().wrapping_add_signed(d))))
        }
    })
    .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_table_says_what_the_ranges_say(
        ranges in any_ranges(),
        v4 in vec(any_v4(), 20),
        v6 in vec(any_v6(), 20),
    ) {
        let table = table_of(&ranges);
        let v4 = v4.into_iter().map(|bits| Ipv4Addr::from_bits(bits).into());
        let v6 = v6.into_iter().map(|bits| Ipv6Addr::from_bits(bits).into());
        for address in near(&ranges).into_iter().chain(v4).chain(v6) {
            prop_assert_eq!(table.find(address), linear(&ranges, address), "{}", address);
        }
        prop_assert_eq!(bytes_of(&cut(&ranges)), table.as_bytes(), "cut otherwise");
        prop_assert_eq!(laid_out_again(&table), table.as_bytes());
    }

    #[test]
    fn any_bytes_are_a_table_or_an_error(
        counts in [0u8..4, 0u8..4, 0u8..3, 0u8..3],
        body in vec(prop_oneof![0u8..5, any::<u8>(), Just(b'A'), Just(b'D')], 0..80),
    ) {
        let header = counts.into_iter().flat_map(|count| u32::from(count).to_le_bytes());
        let header: Vec<u8> = [1].into_iter().chain(*b"tgc").chain(header).collect();
        let len = CountryLayout::new(&CountryHeader::read(&header).unwrap()).unwrap().len;
        let mut bytes = [header, body].concat();
        bytes.resize(len, 0);
        if let Ok(table) = CountryTable::from_bytes(bytes) {
            search(&table);
            prop_assert_eq!(laid_out_again(&table), table.as_bytes());
        }
    }

    #[test]
    fn changed_bytes_are_a_table_or_an_error(
        ranges in any_ranges(),
        changes in vec((any::<Index>(), any::<u8>()), 1..6),
        cut in option::weighted(0.1, any::<Index>()),
    ) {
        let mut bytes = bytes_of(&ranges);
        for (at, other) in changes {
            let at = at.index(bytes.len());
            bytes[at] = other;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(table) = CountryTable::from_bytes(bytes) {
            search(&table);
            prop_assert_eq!(laid_out_again(&table), table.as_bytes(), "what is accepted is what is laid out");
        }
    }
}
