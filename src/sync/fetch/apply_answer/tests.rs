use super::*;
use crate::sync::fixtures::empty_bytes;
use tidegate_policy::address::Prefix;
use tidegate_policy::table::{Entry, EntryState, entry_bytes};
use tidegate_policy::wire::sync::WholeUpdate;

const BANS: u32 = 50_000;

fn changes(count: u32) -> Vec<Entry> {
    let prefix = |i: u32| Prefix::v4(i.wrapping_mul(3), 32).unwrap();
    (0..count).map(|i| Entry { prefix: prefix(i), state: EntryState::Present(None) }).collect()
}

fn table(changes: &[Entry]) -> AddressTable {
    let entries = changes.iter().map(|change| Entry { prefix: change.prefix, state: change.state });
    AddressTable::from_bytes(AddressTable::encode(entries).unwrap()).unwrap()
}

fn whole(table: Table, bytes: Vec<u8>) -> WholeUpdate {
    WholeUpdate { table, blob: BlobRef::of(&bytes), bytes: Some(bytes) }
}

fn answer(seq: u64, bans: BansUpdate) -> SyncAnswer {
    SyncAnswer {
        version: Version { epoch: 1, seq },
        refresh: 0,
        server_time_ms: 0,
        ack_wanted: false,
        whole: Table::whole().map(|table| whole(table, empty_bytes(table))).collect(),
        bans: Some(bans),
    }
}

/// Builds to the end; how many steps that took. Every page asked for is served
/// out of `base`.
fn build(mut build: ApplyAnswer, base: &AddressTable) -> (Applied, usize) {
    for steps in 1.. {
        match build.step().unwrap() {
            ApplyStep::More => {}
            ApplyStep::Fetch(..) => build.add_page(base.as_bytes()).unwrap(),
            ApplyStep::Done(built) => return (*built, steps),
        }
    }
    unreachable!()
}

fn first(count: u32) -> (Applied, usize) {
    let (base, changes) = (AddressTable::empty(), changes(count));
    let digest = table(&changes).digest();
    let overlay = OverlayUpdate::Whole(changes);
    let bans = BansUpdate { base: BlobRef::of(base.as_bytes()), fold: None, overlay, digest };
    build(ApplyAnswer::new(answer(1, bans), 0, None).unwrap(), &base)
}

#[test]
fn a_large_overlay_is_applied_named_checked_and_joined_in_steps() {
    let (built, steps) = first(BANS);
    assert_eq!(built.loaded.tables.bans.overlay().len(), BANS as usize);
    let name = BlobRef::of(built.loaded.tables.bans.overlay().as_bytes());
    assert_eq!(built.loaded.blobs[Table::BanOverlay], name);
    // A change counts twice where it is applied, and once each where the table
    // is checked and joined.
    assert!(steps > BANS as usize * 4 / STEP_ENTRIES, "{steps}");
}

/// An answer with these further bans.
fn delta(seq: u64, changes: &[Entry], digest: &mut SetDigest) -> SyncAnswer {
    changes.iter().for_each(|change| digest.insert(&entry_bytes(&change.prefix, None)));
    let base = BlobRef::of(AddressTable::empty().as_bytes());
    let overlay = OverlayUpdate::Delta(changes.to_vec());
    let bans = BansUpdate { base, fold: None, overlay, digest: *digest };
    SyncAnswer { whole: Vec::new(), ..answer(seq, bans) }
}

/// As [`build`], of what needs no pages.
fn built(apply: ApplyAnswer) -> (Applied, usize) {
    build(apply, &AddressTable::empty())
}

#[test]
fn a_change_over_a_large_overlay_costs_what_the_change_is_until_it_is_folded() {
    const MANY: u32 = 100;
    let (first, _) = first(BANS);
    let (mut held, mut digest) = (first.loaded, table(&changes(BANS)).digest());
    let mut folds = 0;
    for n in 0..40 {
        let ban = |i: u32| Prefix::v4(0xe000_0000 + n * MANY + i, 32).unwrap();
        let more: Vec<Entry> =
            (0..MANY).map(|i| Entry { prefix: ban(i), state: EntryState::Present(None) }).collect();
        let answer = delta(u64::from(n) + 2, &more, &mut digest);
        let (next, steps) = built(ApplyAnswer::new(answer, 0, Some(&held)).unwrap());
        let bans = &next.loaded.tables.bans;
        assert_eq!((bans.digest(), bans.get(&ban(0))), (digest, Some(EntryState::Present(None))));
        if next.set.bytes[Table::BanOverlay].is_none() {
            assert!(steps < 12, "{steps} steps");
            assert_eq!(next.loaded.blobs[Table::BanOverlay], held.blobs[Table::BanOverlay]);
            let bytes = next.set.bytes[Table::BanRecent].as_ref().unwrap().len();
            assert!(bytes < 6 * bans.recent().len() + 100, "{bytes} bytes");
        } else {
            folds += 1;
            assert_eq!((bans.recent().len(), bans.overlay().len() as u32), (0, BANS + (n + 1) * MANY));
        }
        held = next.loaded;
    }
    assert_eq!(folds, 1, "in 4,000 changes");
}

/// Memory of this process, MiB: now, and at most so far.
fn memory() -> [u64; 2] {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    ["VmRSS:", "VmHWM:"].map(|name| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
    })
}

#[test]
#[ignore = "takes half a gigabyte and some seconds; prints what the largest base of bans needs"]
fn the_largest_base_is_taken_once() {
    let v4 = (0..10_000_000).map(|i| Prefix::v4(i * 400, 32).unwrap());
    let v6 = (0..5_000_000).map(|i| Prefix::v6((0x2001_0db8 << 96) | (i << 40), 128).unwrap());
    let ban = |prefix| Entry { prefix, state: EntryState::Present(Some(2_000_000_000)) };
    let bytes = AddressTable::encode(v4.chain(v6).map(ban)).unwrap();
    let base = AddressTable::from_bytes(bytes).unwrap();
    let (before, blob) = (memory(), BlobRef::of(base.as_bytes()));
    let overlay = OverlayUpdate::Whole(Vec::new());
    let bans = BansUpdate { base: blob, fold: None, overlay, digest: base.digest() };
    let mut apply = ApplyAnswer::new(answer(1, bans), 0, None).unwrap();
    let built = loop {
        match apply.step().unwrap() {
            ApplyStep::More => {}
            ApplyStep::Fetch(_, offset) => {
                let rest = &base.as_bytes()[usize::try_from(offset).unwrap()..];
                apply.add_page(&rest[..rest.len().min(MAX_PAGE)]).unwrap();
            }
            ApplyStep::Done(built) => break built,
        }
    };
    assert_eq!(built.loaded.tables.bans.digest().count, 15_000_000);
    println!("{} bytes of 15 million bans: {before:?} MiB before, {:?} after", blob.len, memory());
    let [rss, most] = memory();
    assert!(most - before[0] < (blob.len >> 20) + 60 && rss >= before[0], "more than once");
}

#[test]
fn many_recent_bans_are_folded_beside_the_poll() {
    let (first, _) = first(BANS);
    let mut digest = table(&changes(BANS)).digest();
    assert!(ApplyAnswer::fold_of(&first.loaded).is_none());
    let more = changes(BANS + 1_000).split_off(BANS as usize);
    let answer = delta(2, &more, &mut digest);
    let (recent, _) = built(ApplyAnswer::new(answer, 0, Some(&first.loaded)).unwrap());
    assert_eq!(recent.loaded.tables.bans.recent().len(), 1_000);
    let (folded, _) = built(ApplyAnswer::fold_of(&recent.loaded).unwrap());
    let bans = &folded.loaded.tables.bans;
    assert_eq!((bans.recent().len(), bans.overlay().len() as u32), (0, BANS + 1_000));
    assert_eq!((bans.digest(), folded.loaded.tables.version), (digest, recent.loaded.tables.version));
    assert!(folded.set.bytes[Table::BanOverlay].is_some() && folded.set.bytes[Table::BanBase].is_none());
    assert!(ApplyAnswer::fold_of(&folded.loaded).is_none());
}

#[test]
fn a_fold_takes_all_of_its_work_in_steps() {
    let (held, _) = first(BANS);
    let (digest, base) = (table(&changes(BANS)).digest(), table(&changes(BANS)));
    let overlay = OverlayUpdate::Whole(Vec::new());
    let bans = BansUpdate { base: BlobRef::of(base.as_bytes()), fold: Some(Vec::new()), overlay, digest };
    let folding = ApplyAnswer::new(answer(2, bans), 0, Some(&held.loaded)).unwrap();
    let (built, steps) = build(folding, &AddressTable::empty());
    assert_eq!(built.misfolded, 0);
    assert_eq!(built.loaded.tables.bans.base().len(), BANS as usize);
    assert_eq!(built.loaded.tables.bans.digest(), digest);
    // The overlay held: what is recent folded into it, checked, folded itself (twice each), and
    // the new base checked.
    assert!(steps > BANS as usize * 5 / STEP_ENTRIES, "{steps}");
}
