//! What bans that apply at some hostnames cost a request, by how many there are, beside as many that apply
//! everywhere: `cargo bench -p tidegate-policy --bench scoped_bans`.

use std::net::IpAddr;

use divan::{Bencher, black_box};
use tidegate_policy::address::Prefix;
use tidegate_policy::bans::BanTable;
use tidegate_policy::decide::{IpFinding, Tables};
use tidegate_policy::request::Facts;
use tidegate_policy::scope::Scope;
use tidegate_policy::scoped_bans::{ScopedBan, ScopedBans, ScopedBansCheck};
use tidegate_policy::table::{AddressTable, Entry, EntryState};
use tidegate_policy::tables::TableSet;
use tidegate_policy::version::Version;

/// Addresses with a ban.
const COUNTS: [u32; 4] = [0, 10, 1_000, 1_000_000];
/// Bans of one address, each of a hostname.
const OF_ONE: [u8; 3] = [1, 16, 255];
const SCOPES: u8 = 255;
const HOST: &[u8] = b"www.h7.example:8443";

fn main() {
    println!("a million: {} bytes", bytes(1_000_000).len());
    divan::main();
}

fn scope(n: u8) -> Scope {
    Scope { hostnames: vec![format!("*.h{n}.example")], routes: vec![] }
}

/// The bytes of a ban of each of `count` addresses, with scopes in turn.
fn bytes(count: u32) -> Vec<u8> {
    let bans: Vec<_> = (0..count)
        .map(|n| {
            let scope = u8::try_from(n % u32::from(SCOPES)).unwrap();
            (address(n), [ScopedBan { scope, shadow: false, expires: None }])
        })
        .collect();
    let all = bans.iter().map(|(prefix, bans)| (*prefix, &bans[..]));
    ScopedBans::encode((0..SCOPES).map(scope).collect(), all).unwrap()
}

fn with_scopes(bytes: &[u8]) -> Tables {
    let scoped_bans = ScopedBansCheck::new(bytes).unwrap().step(usize::MAX).unwrap().unwrap();
    Tables::new(Version::default(), TableSet { scoped_bans, ..TableSet::empty() })
}

/// As many bans that apply everywhere.
fn everywhere(count: u32) -> Tables {
    let entry = |n| Entry { prefix: address(n), state: EntryState::Present(None) };
    let bytes = AddressTable::encode((0..count).map(entry)).unwrap();
    let base = AddressTable::from_bytes(bytes).unwrap();
    let mut tables = Tables::new(Version::default(), TableSet::empty());
    tables.bans = BanTable::new(base, AddressTable::empty());
    tables
}

/// The addresses from 11.0.0.0 on, every second one.
fn address(n: u32) -> Prefix {
    Prefix::v4(0x0b00_0000 + 2 * n, 32).unwrap()
}

/// Looks up clients in a scattered order, of an address that is banned or, one further, of one that is not.
fn look_up(bencher: Bencher<'_, '_>, tables: &Tables, count: u32, further: u32) {
    let mut n = 0_u32;
    bencher.bench_local(|| {
        n = n.wrapping_mul(0x9e37_79b1).wrapping_add(12_345);
        let bits = 0x0b00_0000 + 2 * (n % count.max(1)) + further;
        let facts =
            Facts { client: Some(IpAddr::V4(bits.into())), host: HOST, path: b"/", ..Facts::default() };
        IpFinding::look_up(black_box(&facts), tables, || 0)
    });
}

#[divan::bench(args = COUNTS, sample_size = 10_000)]
fn no_ban_beside_scoped_ones(bencher: Bencher<'_, '_>, count: u32) {
    look_up(bencher, &with_scopes(&bytes(count)), count, 1);
}

#[divan::bench(args = COUNTS, sample_size = 10_000)]
fn no_ban_beside_others(bencher: Bencher<'_, '_>, count: u32) {
    look_up(bencher, &everywhere(count), count, 1);
}

#[divan::bench(args = COUNTS, sample_size = 10_000)]
fn a_scoped_ban(bencher: Bencher<'_, '_>, count: u32) {
    look_up(bencher, &with_scopes(&bytes(count)), count, 0);
}

#[divan::bench(args = COUNTS, sample_size = 10_000)]
fn a_ban_everywhere(bencher: Bencher<'_, '_>, count: u32) {
    look_up(bencher, &everywhere(count), count, 0);
}

/// None of the address's bans is of the request's host but the last.
#[divan::bench(args = OF_ONE, sample_size = 10_000)]
fn several_scoped_bans_of_one_address(bencher: Bencher<'_, '_>, count: u8) {
    let mut scopes: Vec<Scope> =
        (10..=u8::MAX).chain(0..7).cycle().take(usize::from(count)).map(scope).collect();
    if let Some(last) = scopes.last_mut() {
        *last = scope(7);
    }
    let bans: Vec<_> = (0..count).map(|scope| ScopedBan { scope, shadow: false, expires: None }).collect();
    let bytes = ScopedBans::encode(scopes, [(address(0), &bans[..])].into_iter()).unwrap();
    look_up(bencher, &with_scopes(&bytes), 1, 0);
}

#[divan::bench(sample_count = 20)]
fn loading_a_million(bencher: Bencher<'_, '_>) {
    let bytes = bytes(1_000_000);
    bencher.bench_local(|| ScopedBansCheck::new(&bytes).unwrap().step(usize::MAX).unwrap());
}

#[divan::bench(sample_count = 20)]
fn writing_a_million(bencher: Bencher<'_, '_>) {
    bencher.bench_local(|| bytes(1_000_000).len());
}
