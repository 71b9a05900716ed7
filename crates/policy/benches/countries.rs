//! What a country table costs: `cargo bench -p tidegate-policy --bench countries`.
//! With `GEOIP` and `GEOIP6` set to Debian's files of tor-geoipdb, a real one, too.

use std::collections::BTreeSet;
use std::fs;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use divan::Bencher;
use tidegate_policy::geo::{Country, CountryCheck, CountryRange, CountryTable};

const V4_RANGES: usize = 400_000;
const V6_RANGES: usize = 280_000;
/// Boundaries per step: what the step's figure below is for.
const STEP: usize = 10_000;

/// Every range with a gap before it: as many boundaries as ranges can have.
static GAPS: LazyLock<CountryTable> = LazyLock::new(|| table(&ranges(true)));
/// Ranges that follow each other without gaps, as most do in real tables.
static DENSE: LazyLock<CountryTable> = LazyLock::new(|| table(&ranges(false)));
static REAL: LazyLock<Option<CountryTable>> = LazyLock::new(|| {
    let (v4, v6) = (std::env::var("GEOIP").ok()?, std::env::var("GEOIP6").ok()?);
    let read = |path| fs::read_to_string(path).expect("GEOIP and GEOIP6 must be readable");
    let ranges =
        [read(v4), read(v6)].iter().flat_map(|text| text.lines()).filter_map(line).collect::<Vec<_>>();
    Some(table(&ranges))
});

fn main() {
    for (name, table) in
        [("with gaps", Some(&*GAPS)), ("without gaps", Some(&*DENSE)), ("real", REAL.as_ref())]
    {
        if let Some(table) = table {
            let (v4, v6) = table.len();
            println!("{name}: {v4} IPv4 and {v6} IPv6 ranges in {} bytes", table.as_bytes().len());
        }
    }
    divan::main();
}

/// `start,end,CC`; numbers in the file of IPv4.
fn line(text: &str) -> Option<CountryRange> {
    let mut fields = text.split(',');
    let address = |text: &str| match text.parse::<u32>() {
        Ok(bits) => Some(IpAddr::V4(Ipv4Addr::from_bits(bits))),
        Err(_) => text.parse().ok(),
    };
    let (first, last) = (address(fields.next()?)?, address(fields.next()?)?);
    Some(CountryRange { first, last, country: fields.next()?.parse().ok()? })
}

/// splitmix64.
fn random(seed: u64) -> impl Iterator<Item = u64> {
    (1..).map(move |i: u64| {
        let z = (seed << 40).wrapping_add(i).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}

fn country(i: usize) -> Country {
    let code = [b'A' + (i % 240 / 24) as u8, b'A' + (i % 24) as u8];
    Country::new(&code).unwrap()
}

/// Ends of ranges at random /24s and /48s, in order.
fn ends(count: usize, seed: u64, mask: u128, base: u128, shift: u32) -> Vec<u128> {
    let mut ends = BTreeSet::new();
    let mut random = random(seed);
    while ends.len() < count {
        ends.insert(base + ((u128::from(random.next().unwrap()) & mask) << shift));
    }
    ends.into_iter().collect()
}

fn ranges(gaps: bool) -> Vec<CountryRange> {
    let per_range = if gaps { 2 } else { 1 };
    let v4 = ends(V4_RANGES * per_range + 1, 1, (1 << 24) - 1, 0, 8);
    let v6 = ends(V6_RANGES * per_range + 1, 2, (1 << 32) - 1, 0x2a00 << 112, 80);
    let runs = |ends: Vec<u128>, address: fn(u128) -> IpAddr| {
        let pairs = ends.windows(2).step_by(per_range).enumerate();
        let range = |(i, pair): (usize, &[u128])| CountryRange {
            first: address(pair[0]),
            last: address(pair[1] - 1),
            country: country(i),
        };
        pairs.map(range).collect::<Vec<_>>()
    };
    let v4 = runs(v4, |bits| Ipv4Addr::from_bits(bits as u32).into());
    [v4, runs(v6, |bits| Ipv6Addr::from_bits(bits).into())].concat()
}

fn table(ranges: &[CountryRange]) -> CountryTable {
    CountryTable::from_bytes(CountryTable::encode(ranges.iter().copied()).unwrap()).unwrap()
}

fn look_up(bencher: Bencher<'_, '_>, table: &CountryTable, address: fn(u64) -> IpAddr) {
    let addresses: Vec<_> = random(7).take(1 << 20).map(address).collect();
    let mut addresses = addresses.iter().cycle();
    bencher.bench_local(|| table.find(black_box(*addresses.next().unwrap())));
}

fn any_v4(random: u64) -> IpAddr {
    Ipv4Addr::from_bits(random as u32).into()
}

/// Anywhere below 2a00::/16.
fn any_v6(random: u64) -> IpAddr {
    Ipv6Addr::from_bits(0x2a00 << 112 | u128::from(random) << 48).into()
}

#[divan::bench(sample_size = 10_000)]
fn a_generator_alone(bencher: Bencher<'_, '_>) {
    let addresses: Vec<_> = random(7).take(1 << 20).map(any_v4).collect();
    let mut addresses = addresses.iter().cycle();
    bencher.bench_local(|| black_box(*addresses.next().unwrap()));
}

#[divan::bench(sample_size = 10_000)]
fn lookup_v4_with_gaps(bencher: Bencher<'_, '_>) {
    look_up(bencher, &GAPS, any_v4);
}

#[divan::bench(sample_size = 10_000)]
fn lookup_v6_with_gaps(bencher: Bencher<'_, '_>) {
    look_up(bencher, &GAPS, any_v6);
}

#[divan::bench(sample_size = 10_000)]
fn lookup_v4_real(bencher: Bencher<'_, '_>) {
    if let Some(table) = REAL.as_ref() {
        look_up(bencher, table, any_v4);
    }
}

#[divan::bench(sample_size = 10_000)]
fn lookup_v6_real(bencher: Bencher<'_, '_>) {
    if let Some(table) = REAL.as_ref() {
        look_up(bencher, table, any_v6);
    }
}

#[divan::bench(sample_count = 20)]
fn check_whole(bencher: Bencher<'_, '_>) {
    let bytes = || GAPS.as_bytes().to_vec();
    bencher.with_inputs(bytes).bench_values(|bytes| CountryTable::from_bytes(bytes).unwrap());
}

#[divan::bench(sample_count = 20)]
fn check_step(bencher: Bencher<'_, '_>) {
    let check = || CountryCheck::new(GAPS.as_bytes().to_vec()).unwrap();
    bencher.with_inputs(check).bench_refs(|check| assert!(check.step(STEP).unwrap().is_none()));
}

#[divan::bench(sample_count = 5)]
fn encode_whole(bencher: Bencher<'_, '_>) {
    let ranges = ranges(true);
    bencher.bench_local(|| CountryTable::encode(ranges.iter().copied()).unwrap());
}
