use super::*;
use crate::sync::fixtures::empty_bytes;
use tidegate_policy::address::Prefix;
use tidegate_policy::table::{Entry, EntryState};
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
    // The overlay held: applied to, checked, joined, folded (twice each), and
    // the new base checked.
    assert!(steps > BANS as usize * 6 / STEP_ENTRIES, "{steps}");
}
