//! Searching the stored events.

use tidegate_policy::check::Check;
use tidegate_policy::wire::event::{Mismatch, TrafficEvent};

use super::support::{foreign_connection, test_store};
use crate::store::tests::support::{batch_of, block_on, gateway, open, post_of};
use crate::store::{EventFilter, EventTail, MismatchFilter, Store};

/// One of the check `ip` for every tenth event, and one of `route` besides for every twentieth, of tables that were
/// behind.
fn mismatches(number: u64) -> Vec<Mismatch> {
    let of = |check, cached_seq| {
        let [direct, cached] = ["one", "other"].map(str::to_owned);
        Mismatch { check, direct, cached, direct_seq: 9, cached_seq }
    };
    let found = [(10, of(Check::Ip, 9)), (20, of(Check::Route, 8))];
    found.into_iter().filter(|(of, _)| number.is_multiple_of(*of)).map(|(_, found)| found).collect()
}

fn mismatched(check: Option<Check>, lagging: Option<bool>) -> EventFilter {
    EventFilter { mismatch: Some(MismatchFilter { check, lagging }), ..EventFilter::default() }
}

fn event(number: u64) -> TrafficEvent {
    TrafficEvent {
        number,
        time_ms: 1_795_456_801_000 + number / 2,
        path: Some(format!("/p/{number}").into_bytes()),
        host: Some(if number.is_multiple_of(3) {
            b"Shop.example:8443".to_vec()
        } else {
            b"shop.examples".to_vec()
        }),
        client: Some([192, 0, 2, (number % 4) as u8].into()),
        status: Some(if number.is_multiple_of(5) { 404 } else { 200 }),
        mismatches: mismatches(number),
        ..TrafficEvent::default()
    }
}

#[test]
fn pages_are_all_events_newest_first_whatever_their_size() {
    let home = test_store();
    block_on(async {
        home.store.append(post_of(vec![batch_of(7, (1..=60).map(event).collect())])).await.unwrap();
        for (filter, wanted) in [
            (EventFilter::default(), (1..=60).collect::<Vec<u64>>()),
            (
                EventFilter { status: Some(400..=499), ..EventFilter::default() },
                (1..=12).map(|n| n * 5).collect(),
            ),
            (
                EventFilter { host: Some("shop.example".into()), ..EventFilter::default() },
                (1..=20).map(|n| n * 3).collect(),
            ),
            (
                EventFilter { client: Some("192.0.2.2/31".parse().unwrap()), ..EventFilter::default() },
                (1..=60).filter(|n| n % 4 >= 2).collect(),
            ),
            (mismatched(None, None), (1..=6).map(|n| n * 10).collect()),
            (mismatched(Some(Check::Ip), Some(false)), (1..=6).map(|n| n * 10).collect()),
            (mismatched(None, Some(true)), (1..=3).map(|n| n * 20).collect()),
            (mismatched(Some(Check::Ip), Some(true)), vec![]),
            (EventFilter { path_prefix: Some("/p/6".into()), ..EventFilter::default() }, vec![6, 60]),
            (
                EventFilter {
                    since: Some("2026-11-23 18:00:01.010".into()),
                    until: Some("2026-11-23 18:00:01.012".into()),
                    ..EventFilter::default()
                },
                (20..24).collect(),
            ),
        ] {
            for limit in [1, 7, 60, 1_000] {
                let (mut found, mut from) = (Vec::new(), None);
                loop {
                    let page = home.store.events(&filter, from, limit).await.unwrap();
                    assert!(page.rows.len() <= limit);
                    found.extend(page.rows.iter().map(|row| row.number));
                    from = page.next;
                    if from.is_none() {
                        break;
                    }
                }
                assert!(found.iter().rev().eq(&wanted), "{filter:?}, {limit}: {found:?}");
            }
        }
    });
}

#[test]
fn who_follows_gets_each_ended_event_once_and_is_told_what_it_missed() {
    let home = test_store();
    block_on(async {
        let all = EventFilter::default();
        let start = home.store.events_after(&all, None, 10).await.unwrap();
        assert_eq!(start, EventTail::default());
        home.store.open_event(gateway(1), open(7, 2)).await.unwrap();
        home.store.append(post_of(vec![batch_of(7, (1..=30).map(event).collect())])).await.unwrap();
        let (mut found, mut last) = (Vec::new(), 0);
        while found.len() < 30 {
            let tail = home.store.events_after(&all, Some(last), 7).await.unwrap();
            assert_eq!(tail.skipped, 0);
            found.extend(tail.rows.iter().map(|row| row.number));
            last = tail.last;
        }
        assert_eq!(found, (1..=30).collect::<Vec<_>>());
        assert_eq!(home.store.events_after(&all, Some(last), 7).await.unwrap().rows, []);
        // Retention has removed what it did not read in time.
        let conn = foreign_connection(&home.path);
        conn.execute_batch("DELETE FROM events WHERE number <= 10").unwrap();
        let first: i64 = conn.query_row("SELECT min(id) FROM events", [], |row| row.get(0)).unwrap();
        let tail = home.store.events_after(&all, Some(first as u64 - 6), 100).await.unwrap();
        assert_eq!((tail.skipped, tail.rows.len(), tail.rows[0].number), (5, 20, 11));
    });
}

#[test]
fn events_that_differed_are_found_by_their_own_index() {
    let home = test_store();
    let conn = foreign_connection(&home.path);
    let plan: String = conn
        .query_row(
            "EXPLAIN QUERY PLAN SELECT id FROM events
             WHERE mismatches IS NOT NULL AND timestamp >= ?1 AND timestamp <= ?2 AND (timestamp < ?2 OR id <= ?3)
             ORDER BY timestamp DESC, id DESC",
            ["", "~", "0"],
            |row| row.get(3),
        )
        .unwrap();
    assert!(plan.contains("INDEX events_mismatched (timestamp>? AND timestamp<?)"), "{plan}");
}
