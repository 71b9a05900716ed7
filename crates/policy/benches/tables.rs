//! What address and ban tables cost at one million entries:
//! `cargo bench -p tidegate-policy --bench tables`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::LazyLock;

use divan::{Bencher, black_box};
use tidegate_policy::address::Prefix;
use tidegate_policy::bans::{BanTable, FoldBase, JoinDigest, apply};
use tidegate_policy::digest::BlobHash;
use tidegate_policy::table::{AddressTable, Entry, EntryState, TableCheck};

const MILLION: usize = 1_000_000;
/// Entries per step: what the steps' figures below are for.
const STEP: usize = 10_000;
/// The overlay at which the admin service cuts a new base of a million.
const LARGEST_OVERLAY: usize = MILLION / 8;

/// One in 20 is a /24, the others are single addresses.
static PLAIN: LazyLock<AddressTable> = LazyLock::new(|| bans(MILLION, 1, |_| None));
static EXPIRING: LazyLock<AddressTable> = LazyLock::new(|| bans(MILLION, 1, |i| Some(2_000_000_000 + i)));
/// All of it below 0.0.0.0/0 and the /4s, expired: the walk goes to the end.
static NESTED: LazyLock<AddressTable> = LazyLock::new(|| {
    let mut entries: Vec<_> = PLAIN.iter().collect();
    entries.push(entry(Prefix::v4(0, 0), Some(1)));
    entries.extend((0..16u32).map(|i| entry(Prefix::v4(i << 28, 4), Some(1))));
    table(entries)
});
static V6: LazyLock<AddressTable> = LazyLock::new(|| {
    table(random(3).take(MILLION).map(|r| entry(Prefix::v6(v6_bits(r), 64), None)).collect())
});
static SMALL_OVERLAY: LazyLock<AddressTable> = LazyLock::new(|| bans(2_000, 2, |_| None));
static LARGE_OVERLAY: LazyLock<AddressTable> = LazyLock::new(|| bans(LARGEST_OVERLAY, 2, |_| None));

fn main() {
    for (name, table) in [("1 M v4", &*PLAIN), ("1 M v4, all with expiry", &*EXPIRING), ("1 M v6", &*V6)] {
        println!("{name}: {} entries in {} bytes", table.len(), table.as_bytes().len());
    }
    divan::main();
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

fn entry(prefix: Option<Prefix>, expires: Option<u32>) -> Entry {
    Entry { prefix: prefix.unwrap(), state: EntryState::Present(expires) }
}

fn v6_bits(random: u64) -> u128 {
    0x2000 << 112 | u128::from(random) << 49
}

fn table(mut entries: Vec<Entry>) -> AddressTable {
    entries.sort_by_key(|entry| entry.prefix);
    entries.dedup_by_key(|entry| entry.prefix);
    AddressTable::from_bytes(AddressTable::encode(entries.into_iter()).unwrap()).unwrap()
}

fn bans(count: usize, seed: u64, expires: impl Fn(u32) -> Option<u32>) -> AddressTable {
    let mut bans = BTreeMap::new();
    for r in random(seed) {
        if bans.len() == count {
            break;
        }
        let len = if r % 20 == 0 { 24 } else { 32 };
        bans.insert(Prefix::v4((r >> 32) as u32, len), expires((r >> 16) as u32 & 0xffff));
    }
    table(bans.into_iter().map(|(prefix, expires)| entry(prefix, expires)).collect())
}

/// Addresses that have an entry, in random order.
fn hits(table: &AddressTable) -> Vec<IpAddr> {
    let entries: Vec<_> = table.iter().collect();
    let address = |entry: &Entry| match (entry.prefix.as_v4(), entry.prefix.as_v6()) {
        (Some((bits, _)), _) => IpAddr::V4(bits.into()),
        (_, Some((bits, _))) => IpAddr::V6(bits.into()),
        _ => unreachable!(),
    };
    random(7).take(1 << 20).map(|r| address(&entries[r as usize % entries.len()])).collect()
}

/// Random addresses; about 1 in 80 has an entry in [`PLAIN`].
fn misses() -> Vec<IpAddr> {
    random(8).take(1 << 20).map(|r| IpAddr::V4((r as u32).into())).collect()
}

fn look_up(bencher: Bencher<'_, '_>, table: &BanTable, addresses: Vec<IpAddr>) {
    let mut addresses = addresses.iter().cycle();
    bencher.bench_local(|| table.covering(*addresses.next().unwrap(), || black_box(1_900_000_000)));
}

fn alone(base: &AddressTable) -> BanTable {
    BanTable::new(base.clone(), AddressTable::empty())
}

#[divan::bench(sample_size = 10_000)]
fn a_generator_alone(bencher: Bencher<'_, '_>) {
    let addresses = misses();
    let mut addresses = addresses.iter().cycle();
    bencher.bench_local(|| black_box(*addresses.next().unwrap()));
}

#[divan::bench(sample_size = 10_000)]
fn lookup_hit(bencher: Bencher<'_, '_>) {
    look_up(bencher, &alone(&PLAIN), hits(&PLAIN));
}

#[divan::bench(sample_size = 10_000)]
fn lookup_miss(bencher: Bencher<'_, '_>) {
    look_up(bencher, &alone(&PLAIN), misses());
}

#[divan::bench(sample_size = 10_000)]
fn lookup_hit_expiring(bencher: Bencher<'_, '_>) {
    look_up(bencher, &alone(&EXPIRING), hits(&EXPIRING));
}

#[divan::bench(sample_size = 10_000)]
fn lookup_miss_all_nested(bencher: Bencher<'_, '_>) {
    look_up(bencher, &alone(&NESTED), misses());
}

#[divan::bench(sample_size = 10_000)]
fn lookup_hit_v6(bencher: Bencher<'_, '_>) {
    look_up(bencher, &alone(&V6), hits(&V6));
}

#[divan::bench(sample_size = 10_000)]
fn lookup_miss_with_overlay(bencher: Bencher<'_, '_>) {
    look_up(bencher, &BanTable::new(PLAIN.clone(), SMALL_OVERLAY.clone()), misses());
}

#[divan::bench(sample_count = 20)]
fn check_whole(bencher: Bencher<'_, '_>) {
    let bytes = || EXPIRING.as_bytes().to_vec();
    bencher.with_inputs(bytes).bench_values(|bytes| AddressTable::from_bytes(bytes).unwrap());
}

#[divan::bench(sample_count = 20)]
fn check_step(bencher: Bencher<'_, '_>) {
    let check = || TableCheck::new(EXPIRING.as_bytes().to_vec()).unwrap();
    bencher.with_inputs(check).bench_refs(|check| assert!(check.step(STEP).unwrap().is_none()));
}

#[divan::bench(sample_count = 20)]
fn encode_whole() -> Vec<u8> {
    AddressTable::encode(EXPIRING.iter()).unwrap()
}

#[divan::bench(sample_count = 20)]
fn join_largest_overlay() -> BanTable {
    BanTable::new(PLAIN.clone(), LARGE_OVERLAY.clone())
}

#[divan::bench(sample_count = 20)]
fn join_step(bencher: Bencher<'_, '_>) {
    let join = || JoinDigest::new(PLAIN.clone(), LARGE_OVERLAY.clone(), AddressTable::empty());
    bencher.with_inputs(join).bench_refs(|join| assert!(join.step(STEP).is_none()));
}

fn one_change() -> [Entry; 1] {
    [Entry { prefix: "203.0.113.7".parse().unwrap(), state: EntryState::Present(None) }]
}

#[divan::bench(sample_count = 100)]
fn apply_to_small_overlay() -> Vec<u8> {
    apply(&SMALL_OVERLAY, &one_change()).unwrap()
}

#[divan::bench(sample_count = 20)]
fn apply_to_largest_overlay() -> Vec<u8> {
    apply(&LARGE_OVERLAY, &one_change()).unwrap()
}

/// One ban over a base of a million and an overlay of the largest size.
#[divan::bench(sample_count = 100)]
fn one_ban_over_largest_overlay(bencher: Bencher<'_, '_>) {
    let table = BanTable::new(PLAIN.clone(), LARGE_OVERLAY.clone());
    bencher.bench_local(|| table.with_changes(&one_change()).unwrap());
}

#[divan::bench(sample_count = 20)]
fn apply_largest_overlay_whole() -> Vec<u8> {
    let changes: Vec<_> = LARGE_OVERLAY.iter().collect();
    apply(&AddressTable::empty(), &changes).unwrap()
}

#[divan::bench(sample_count = 20)]
fn fold_whole(bencher: Bencher<'_, '_>) {
    bencher.bench_local(|| fold(&mut FoldBase::new(&EXPIRING, &LARGE_OVERLAY), usize::MAX));
}

fn fold(fold: &mut FoldBase, entries: usize) -> (Vec<u8>, BlobHash) {
    loop {
        if let Some(done) = fold.step(entries).unwrap() {
            return done;
        }
    }
}

/// One sample is a whole fold: the slowest step of each is what is shown.
#[divan::bench(sample_count = 1, sample_size = 1)]
fn fold_slowest_step(bencher: Bencher<'_, '_>) {
    bencher.bench_local(|| {
        let mut fold = FoldBase::new(&EXPIRING, &LARGE_OVERLAY);
        let mut slowest = std::time::Duration::ZERO;
        loop {
            let begun = std::time::Instant::now();
            let done = fold.step(STEP).unwrap().is_some();
            slowest = slowest.max(begun.elapsed());
            if done {
                break;
            }
        }
        println!("slowest step of a fold, {STEP} entries each: {slowest:?}");
    });
}
