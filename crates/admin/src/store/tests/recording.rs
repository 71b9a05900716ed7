//! Events: each is stored and counted once.

use tidegate_policy::check::{Answered, Check, PerCheck};
use tidegate_policy::flags::{Mode, Modes};
use tidegate_policy::wire::event::{DropReason, DroppedRange, Mismatch, SourceState, VmId};

use super::support::{batch, batch_of, checked_event, gateway, on_each_store, open, post_of, report};
use crate::store::{Appended, CheckCounts};

#[test]
fn a_batch_is_stored_once() {
    on_each_store(async |store| {
        let first = store.append(post_of(vec![batch(7, 1, 5)])).await.unwrap();
        assert_eq!(first, Appended { stored: 5, duplicates: 0, refused: 0 });
        let again = store.append(post_of(vec![batch(7, 3, 8)])).await.unwrap();
        assert_eq!(again, Appended { stored: 3, duplicates: 3, refused: 0 });
        assert!(store.covers(VmId(7), 8).await.unwrap());
        assert!(!store.covers(VmId(7), 9).await.unwrap());
        let counts = store.recording().await.unwrap();
        assert_eq!((counts.numbered, counts.stored, counts.duplicates), (8, 8, 3));
        assert_eq!((counts.pending, counts.lost, counts.unclosed), (0, 0, 0));
    });
}

#[test]
fn what_is_missing_is_pending_then_lost_then_here_after_all() {
    on_each_store(async |store| {
        store.append(post_of(vec![batch(7, 4, 5)])).await.unwrap();
        store.append(report(7, 6, SourceState::Alive)).await.unwrap();
        let counts = store.recording().await.unwrap();
        assert_eq!((counts.numbered, counts.stored, counts.pending, counts.lost), (6, 2, 4, 0));
        assert_eq!((counts.alive, counts.unclosed), (1, 0));
        store.append(report(7, 6, SourceState::Dead)).await.unwrap();
        let counts = store.recording().await.unwrap();
        assert_eq!((counts.pending, counts.lost, counts.alive, counts.unclosed), (0, 4, 0, 1));
        let mut late = batch(7, 1, 3);
        (late.numbered_hi, late.closing) = (6, true);
        store.append(post_of(vec![late])).await.unwrap();
        let counts = store.recording().await.unwrap();
        assert_eq!((counts.stored, counts.pending, counts.lost, counts.unclosed), (5, 0, 1, 0));
    });
}

#[test]
fn an_open_event_waits_for_its_end_and_is_counted_with_it() {
    on_each_store(async |store| {
        store.open_event(gateway(1), open(7, 2)).await.unwrap();
        store.open_event(gateway(1), open(7, 2)).await.unwrap();
        let counts = store.recording().await.unwrap();
        assert_eq!((counts.numbered, counts.stored, counts.open), (2, 0, 1));
        assert_eq!((counts.pending, counts.lost, counts.alive), (2, 0, 1));
        assert_eq!((counts.checks, store.top_addresses(9).await.unwrap()), (PerCheck::default(), vec![]));
        assert_eq!(store.gateways_with_open_sources().await.unwrap(), [gateway(1)]);

        let events = || vec![1, 2].into_iter().map(|n| checked_event(n, "192.0.2.1", Modes::default()));
        let whole = || post_of(vec![batch_of(7, events().collect())]);
        let appended = store.append(whole()).await.unwrap();
        assert_eq!(appended, Appended { stored: 2, duplicates: 0, refused: 0 });
        let counts = store.recording().await.unwrap();
        assert_eq!((counts.numbered, counts.stored, counts.open, counts.pending), (2, 2, 0, 0));
        assert_eq!(counts.checks.ip.direct, 2);
        assert_eq!(store.address_count("192.0.2.1").await.unwrap().unwrap().count, 2);

        // A post that is late or repeated changes nothing.
        store.open_event(gateway(1), open(7, 2)).await.unwrap();
        assert_eq!(store.append(whole()).await.unwrap(), Appended { stored: 0, duplicates: 2, refused: 0 });
        let after = store.recording().await.unwrap();
        assert_eq!((after.checks, after.open, after.stored), (counts.checks, 0, 2));
        assert_eq!(store.address_count("::ffff:192.0.2.1").await.unwrap().unwrap().count, 2);
    });
}

#[test]
fn an_open_event_is_not_lost_with_its_source() {
    on_each_store(async |store| {
        store.open_event(gateway(1), open(7, 3)).await.unwrap();
        store.append(report(7, 4, SourceState::Dead)).await.unwrap();
        let counts = store.recording().await.unwrap();
        assert_eq!((counts.numbered, counts.stored, counts.open), (4, 0, 1));
        assert_eq!((counts.pending, counts.lost, counts.unclosed), (1, 3, 1));
    });
}

#[test]
fn checks_are_counted_by_who_answered_and_what_shadow_found() {
    let mismatch = |check, direct_seq, cached_seq| Mismatch {
        check,
        direct: "banned".to_owned(),
        cached: "not banned".to_owned(),
        direct_seq,
        cached_seq,
    };
    let shadow = Modes { ip: Mode::Shadow, geo: Mode::Cached, ..Modes::default() };
    let mut events: Vec<_> = (1..=5).map(|n| checked_event(n, "192.0.2.1", shadow)).collect();
    events[0].mismatches = vec![mismatch(Check::Ip, 9, 8)];
    events[1].mismatches = vec![mismatch(Check::Ip, 9, 9)];
    events[2].answered = PerCheck { ip: Answered::Fallback, geo: Answered::Cache, route: Answered::Nobody };
    events[3].answered = PerCheck::default();
    events[4].modes = None;
    on_each_store(async |store| {
        store.append(post_of(vec![batch_of(7, events.clone())])).await.unwrap();
        let checks = store.recording().await.unwrap().checks;
        let of_two = CheckCounts { direct: 2, ..CheckCounts::default() };
        assert_eq!(checks.ip, CheckCounts { fallback: 1, compared: 2, mismatched: 2, lagging: 1, ..of_two });
        assert_eq!(checks.geo, CheckCounts { cache: 1, ..of_two });
        assert_eq!(checks.route, CheckCounts { unavailable: 1, ..of_two });
    });
}

#[test]
fn addresses_are_listed_by_how_often_they_were_seen() {
    on_each_store(async |store| {
        let clients = ["192.0.2.1", "2001:db8::1", "192.0.2.1", "::ffff:192.0.2.2", "192.0.2.1"];
        let events = (1..).zip(clients).map(|(n, client)| checked_event(n, client, Modes::default()));
        store.append(post_of(vec![batch_of(7, events.collect())])).await.unwrap();
        let seen = store.top_addresses(2).await.unwrap();
        let rows: Vec<_> = seen.iter().map(|row| (row.ip.as_str(), row.count, row.over)).collect();
        assert_eq!(rows, [("192.0.2.1", 3, 0), ("192.0.2.2", 1, 0)]);
        assert_eq!(seen[0].last_seen, "2026-11-23 18:00:01.005");
        assert_eq!(store.top_addresses(9).await.unwrap().len(), 3);
        assert_eq!(store.address_count("2001:db8::1").await.unwrap().unwrap().count, 1);
        for unknown in ["192.0.2.9", "nobody"] {
            assert_eq!(store.address_count(unknown).await.unwrap(), None);
        }
    });
}

#[test]
fn what_no_source_can_have_numbered_is_refused_and_named() {
    on_each_store(async |store| {
        store.append(post_of(vec![batch(7, 1, 5)])).await.unwrap();
        let too_many = 1 << 45;
        let mut wrong = batch(8, 1, 3);
        wrong.numbered_hi = too_many;
        let range = DroppedRange { source: VmId(9), first: 5, last: too_many, reason: DropReason::Expired };
        let mut post = report(7, too_many, SourceState::Alive);
        post.batches = vec![wrong, batch(7, 6, 9)];
        post.dropped = vec![range];
        let appended = store.append(post).await.unwrap();
        assert_eq!(appended, Appended { stored: 4, duplicates: 0, refused: 3 });
        assert!(!store.open_event(gateway(1), open(7, too_many)).await.unwrap());
        let counts = store.recording().await.unwrap();
        assert_eq!((counts.numbered, counts.stored, counts.refused, counts.gaps), (9, 9, 4, vec![]));
        let last = counts.last_refused.unwrap();
        assert_eq!(
            (last.source, last.gateway.as_str(), last.number),
            (VmId(7), "node-1;0000000000000001", too_many)
        );

        // What is possible is believed, and named.
        let possible = 100_000 * 30 * 86_400;
        store.append(report(7, possible, SourceState::Alive)).await.unwrap();
        let counts = store.recording().await.unwrap();
        assert_eq!((counts.numbered, counts.refused), (possible, 4));
        assert_eq!(
            (counts.gaps[0].source, counts.gaps[0].numbered, counts.gaps[0].stored),
            (VmId(7), possible, 9)
        );
    });
}
