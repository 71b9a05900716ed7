//! The levels of the ban table against a list of their entries together.

use std::cell::Cell;
use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::table::EntryState::{Absent, Present};
use crate::table::tests::{any_address, any_entries, any_expiry, any_prefix, kept, table};

fn entry(prefix: &str, state: EntryState) -> Entry {
    Entry { prefix: prefix.parse().unwrap(), state }
}

fn ban(prefix: &str, expires: Option<UnixSeconds>) -> Option<Ban> {
    Some(Ban { prefix: prefix.parse().unwrap(), expires })
}

fn bans(base: &[Entry], overlay: &[Entry]) -> BanTable {
    BanTable::new(table(base), table(overlay))
}

/// The entries of all levels together.
fn merged(levels: &[&[Entry]]) -> Vec<Entry> {
    let all = levels.iter().copied().flatten().map(|entry| (entry.prefix, entry.state));
    let map: BTreeMap<_, _> = all.collect();
    map.into_iter()
        .filter(|(_, state)| *state != Absent)
        .map(|(prefix, state)| Entry { prefix, state })
        .collect()
}

/// The ban that covers the address, and whether finding it reads the clock.
fn naive(entries: &[Entry], address: IpAddr, now: UnixSeconds) -> (Option<Ban>, bool) {
    let mut covering: Vec<_> = entries.iter().filter(|entry| entry.prefix.contains(address)).collect();
    covering.sort_by_key(|entry| std::cmp::Reverse(entry.prefix.len()));
    let mut asked = false;
    for entry in covering {
        let Present(expires) = entry.state else { continue };
        asked |= expires.is_some();
        if expires.is_none_or(|expires| now < expires) {
            return (Some(Ban { prefix: entry.prefix, expires }), asked);
        }
    }
    (None, asked)
}

fn fold(table: &BanTable, entries: usize) -> (Vec<u8>, BlobHash) {
    assert!(table.recent().is_empty());
    let mut fold = FoldBase::new(table.base(), table.overlay());
    loop {
        if let Some(done) = fold.step(entries).unwrap() {
            assert!(fold.step(entries).is_err(), "a fold ends once");
            return done;
        }
    }
}

/// A base, and an overlay that repeats some of its prefixes.
fn base_and_overlay() -> impl Strategy<Value = (Vec<Entry>, Vec<Entry>)> {
    any_entries(false, 60).prop_flat_map(|base| {
        let same: Vec<_> = base.iter().map(|entry| entry.prefix).collect();
        let repeated = prop::sample::subsequence(same.clone(), 0..=same.len());
        let states = prop::collection::vec(any_state(), same.len());
        (Just(base), any_entries(true, 20), repeated, states).prop_map(|(base, other, repeated, states)| {
            let mut overlay: BTreeMap<_, _> = repeated.into_iter().zip(states).collect();
            overlay.extend(other.into_iter().map(|entry| (entry.prefix, entry.state)));
            (base, overlay.into_iter().map(|(prefix, state)| Entry { prefix, state }).collect())
        })
    })
}

/// As [`base_and_overlay`], and recent changes that repeat some prefixes of both.
fn three_levels() -> impl Strategy<Value = [Vec<Entry>; 3]> {
    base_and_overlay().prop_flat_map(|(base, overlay)| {
        let known = base.iter().chain(&overlay).map(|entry| entry.prefix).collect();
        (Just(base), Just(overlay), any_changes(known)).prop_map(|(base, overlay, changes)| {
            let recent: BTreeMap<_, _> = changes.iter().map(|entry| (entry.prefix, entry.state)).collect();
            let recent = recent.into_iter().map(|(prefix, state)| Entry { prefix, state }).collect();
            [base, overlay, recent]
        })
    })
}

fn any_state() -> impl Strategy<Value = EntryState> {
    prop_oneof![Just(Absent), any_expiry().prop_map(Present)]
}

fn any_changes(known: Vec<Prefix>) -> impl Strategy<Value = Vec<Entry>> {
    let prefix = if known.is_empty() {
        any_prefix().boxed()
    } else {
        prop_oneof![any_prefix(), prop::sample::select(known)].boxed()
    };
    let change = (prefix, any_state()).prop_map(|(prefix, state)| Entry { prefix, state });
    prop::collection::vec(change, 0..30)
}

#[test]
fn an_expired_ban_uncovers_the_shorter_one_behind_it() {
    let base = [entry("10.0.0.0/8", Present(None)), entry("10.1.0.0/16", Present(Some(200)))];
    let overlay = [entry("10.1.2.0/24", Present(Some(100)))];
    let bans = bans(&base, &overlay);
    let at = |now| bans.covering("10.1.2.3".parse().unwrap(), || now);
    assert_eq!(at(99), ban("10.1.2.0/24", Some(100)));
    assert_eq!(at(100), ban("10.1.0.0/16", Some(200)));
    assert_eq!(at(200), ban("10.0.0.0/8", None));
    assert_eq!(bans.covering("::ffff:10.2.0.0".parse().unwrap(), || panic!()), ban("10.0.0.0/8", None));
    assert_eq!(bans.covering("11.0.0.0".parse().unwrap(), || panic!()), None);
}

#[test]
fn a_tombstone_hides_its_own_prefix_only() {
    let base = ["10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24"].map(|prefix| entry(prefix, Present(None)));
    let bans = bans(&base, &[entry("10.1.0.0/16", Absent), entry("10.1.2.3", Absent)]);
    let of = |address: &str| bans.covering(address.parse().unwrap(), || panic!("nothing expires"));
    assert_eq!(of("10.1.2.3"), ban("10.1.2.0/24", None));
    assert_eq!(of("10.1.3.0"), ban("10.0.0.0/8", None));
    assert_eq!(bans.get(&"10.1.0.0/16".parse().unwrap()), None);
    assert_eq!(bans.get(&"10.1.2.0/24".parse().unwrap()), Some(Present(None)));
}

#[test]
fn the_last_change_of_a_prefix_counts_and_absence_stays_noted() {
    let overlay = table(&[entry("1.1.1.1", Present(None)), entry("3.3.3.3", Absent)]);
    let change = |prefix, state| {
        let Entry { prefix, state } = entry(prefix, state);
        Entry { prefix, state }
    };
    let changes = [
        change("2.2.2.2", Present(Some(5))),
        change("1.1.1.1", Absent),
        change("2.2.2.2", Absent),
        change("::1", Present(None)),
        change("2.2.2.2", Present(Some(7))),
    ];
    let applied = AddressTable::from_bytes(apply(&overlay, &changes).unwrap()).unwrap();
    let want = [
        entry("1.1.1.1", Absent),
        entry("2.2.2.2", Present(Some(7))),
        entry("3.3.3.3", Absent),
        entry("::1", Present(None)),
    ];
    assert_eq!(applied.iter().collect::<Vec<_>>(), want);
}

#[test]
fn nothing_folds_to_nothing() {
    let (bytes, hash) = fold(&BanTable::empty(), 1);
    assert_eq!(bytes, AddressTable::empty().as_bytes());
    assert_eq!(hash, BlobHash::of(&bytes));
}

proptest! {
    #[test]
    fn the_levels_say_what_the_list_says(
        (levels, addresses) in three_levels().prop_flat_map(|levels| {
            let all = levels.concat();
            (Just(levels), prop::collection::vec(any_address(&all), 20))
        }),
        now in 97u32..104,
        step in 0usize..20,
    ) {
        let [base, overlay, recent] = &levels;
        let mut join = JoinDigest::new(table(base), table(overlay), table(recent));
        let bans = loop {
            if let Some(joined) = join.step(step) { break joined; }
        };
        let together = kept(&merged(&[base, overlay, recent]));
        for address in addresses {
            let reads = Cell::new(0);
            let found = bans.covering(address, || { reads.set(reads.get() + 1); now });
            let (want, asked) = naive(&together, address, now);
            prop_assert_eq!(found, want, "{}", address);
            prop_assert_eq!(reads.get(), u32::from(asked), "{}", address);
        }
        for Entry { prefix, .. } in levels.concat() {
            let want = together.iter().find(|entry| entry.prefix == prefix).map(|entry| entry.state);
            prop_assert_eq!(bans.get(&prefix), want, "{}", prefix);
        }
        prop_assert_eq!(bans.digest(), table(&together).digest());
        let over = JoinDigest::with_recent(&BanTable::new(table(base), table(overlay)), table(recent));
        prop_assert_eq!(over.finish().digest(), bans.digest());
        let without = JoinDigest::with_recent(&bans, AddressTable::empty()).finish();
        prop_assert_eq!(without.digest(), table(&merged(&[base, overlay])).digest());
    }

    #[test]
    fn recent_changes_are_folded_into_the_overlay([base, overlay, recent] in three_levels(), step in 0usize..20) {
        let mut fold = FoldRecent::new(&table(&overlay), &table(&recent));
        let bytes = loop {
            if let Some(bytes) = fold.step(step).unwrap() { break bytes; }
        };
        prop_assert_eq!(&bytes, &apply(&table(&overlay), &recent).unwrap());
        let folded = BanTable::new(table(&base), AddressTable::from_bytes(bytes).unwrap());
        prop_assert_eq!(folded.digest(), table(&merged(&[&base, &overlay, &recent])).digest());
    }

    #[test]
    fn change_by_change_it_is_the_map_with_the_changes(
        (base, changes) in base_and_overlay().prop_flat_map(|(base, other)| {
            let known = base.iter().chain(&other).map(|entry| entry.prefix).collect::<Vec<_>>();
            (Just(base), prop::collection::vec(any_changes(known), 1..8))
        }),
    ) {
        let mut bans = BanTable::new(table(&base), AddressTable::empty());
        let mut want = base.clone();
        for changes in changes {
            bans = bans.with_changes(&changes).unwrap();
            want = merged(&[&want, &changes]);
            prop_assert_eq!(bans.digest(), table(&want).digest());
            prop_assert!(is_recent(bans.recent(), bans.overlay()));
        }
        for Entry { prefix, state } in kept(&want) {
            prop_assert_eq!(bans.get(&prefix), Some(state));
        }
    }

    #[test]
    fn a_fold_is_the_encoding_of_what_both_say((base, overlay) in base_and_overlay(), step in 0usize..50) {
        let bans = bans(&base, &overlay);
        let together = table(&merged(&[&base, &overlay]));
        let (bytes, hash) = fold(&bans, step);
        prop_assert_eq!(&bytes, together.as_bytes());
        prop_assert_eq!(hash, BlobHash::of(&bytes));
        prop_assert_eq!(fold(&bans, usize::MAX), (bytes, hash));
    }

    #[test]
    fn the_digest_is_that_of_the_entries_however_they_came(
        ((base, overlay), changes) in base_and_overlay().prop_flat_map(|(base, overlay)| {
            let known = base.iter().chain(&overlay).map(|entry| entry.prefix).collect();
            (Just((base, overlay)), any_changes(known))
        }),
        cut in 0usize..30,
        step in 0usize..20,
    ) {
        let (base, overlay) = (table(&base), table(&overlay));
        let (first, second) = changes.split_at(cut.min(changes.len()));
        let at_once = AddressTable::from_bytes(apply(&overlay, &changes).unwrap()).unwrap();
        let half = AddressTable::from_bytes(apply(&overlay, first).unwrap()).unwrap();
        let in_pieces = apply(&half, second).unwrap();
        prop_assert_eq!(&in_pieces, at_once.as_bytes());

        let mut want: BTreeMap<_, _> = base.iter().chain(overlay.iter()).map(|e| (e.prefix, e.state)).collect();
        want.extend(changes.iter().map(|change| (change.prefix, change.state)));
        want.retain(|_, state| *state != Absent);
        let want: Vec<_> = want.into_iter().map(|(prefix, state)| Entry { prefix, state }).collect();

        let mut join = JoinDigest::new(base.clone(), at_once.clone(), AddressTable::empty());
        let joined = loop {
            if let Some(joined) = join.step(step) { break joined; }
        };
        prop_assert_eq!(joined.digest(), table(&want).digest());
        prop_assert_eq!(BanTable::new(base, at_once).digest(), joined.digest());
        let folded = AddressTable::from_bytes(fold(&joined, usize::MAX).0).unwrap();
        prop_assert_eq!(folded.digest(), joined.digest());
    }

    #[test]
    fn changes_in_steps_are_the_map_with_the_changes(
        (overlay, changes) in any_entries(true, 30).prop_flat_map(|overlay| {
            let known = overlay.iter().map(|entry| entry.prefix).collect();
            (Just(overlay), any_changes(known))
        }),
        step in 0usize..20,
    ) {
        let mut apply = ApplyChanges::new(&table(&overlay), &changes);
        let bytes = loop {
            if let Some(bytes) = apply.step(step).unwrap() { break bytes; }
        };
        let mut want: BTreeMap<_, _> = overlay.iter().map(|entry| (entry.prefix, entry.state)).collect();
        want.extend(changes.iter().map(|change| (change.prefix, change.state)));
        let want: Vec<_> = want.into_iter().map(|(prefix, state)| Entry { prefix, state }).collect();
        let want = table(&want);
        prop_assert_eq!(&bytes, want.as_bytes());
    }
}
