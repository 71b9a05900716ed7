//! Single properties of the feed. Time is paused: it advances only when all tasks wait.

use std::sync::Arc;
use std::time::Duration;

use tidegate_policy::address::Prefix;
use tidegate_policy::decide::IpFinding;
use tidegate_policy::tables::Table;
use tidegate_policy::version::Version;
use tidegate_policy::wire::sync::{Ack, Gateway, OverlayUpdate, SyncAnswer};
use tokio::time::{Instant, sleep};

use super::gateway::SimGateway;
use super::memory::{Memory, document, row};
use super::{from, start, tiny};
use crate::feed::{Feed, FeedOptions, RowStatus};
use crate::store::{DocumentKind, StoreTable, TableStore};

async fn settle(feed: &Feed) {
    feed.current().await;
    sleep(Duration::from_millis(50)).await;
}

async fn banned(store: &Memory, feed: &Feed, range: std::ops::Range<u8>) {
    for last in range {
        store.ban(&format!("192.0.2.{last}"));
        settle(feed).await;
    }
}

#[tokio::test(start_paused = true)]
async fn one_ban_among_many_costs_one_key() {
    let store = Arc::new(Memory::default());
    store.put((0..1_000).map(|n| row(&format!("10.0.{}.{}", n / 250, n % 250), "banned", None)));
    let feed = start(&store, FeedOptions::default()).await;
    let mut gateway = SimGateway::new("g");
    let first = gateway.poll(&feed).await.unwrap();
    assert!(matches!(&first.bans.unwrap().overlay, OverlayUpdate::Whole(changes) if changes.is_empty()));
    assert_eq!(gateway.banned().len(), 1_000);
    assert!(gateway.poll(&feed).await.is_none());

    store.ban("192.0.2.1");
    settle(&feed).await;
    let bytes = gateway.ask(&feed, Duration::ZERO).await.unwrap();
    assert!(bytes.len() < 150, "{} bytes for one ban", bytes.len());
    let answer = gateway.poll(&feed).await.unwrap();
    assert_eq!(answer.whole, []);
    assert!(matches!(&answer.bans.unwrap().overlay, OverlayUpdate::Delta(changes) if changes.len() == 1));
    assert_eq!(gateway.banned().len(), 1_001);
}

#[tokio::test(start_paused = true)]
async fn a_gateway_folds_its_base_when_a_new_one_is_cut() {
    let store = Arc::new(Memory::default());
    let feed = start(&store, tiny()).await;
    let (mut follower, mut laggard) = (SimGateway::new("follower"), SimGateway::new("laggard"));
    laggard.poll(&feed).await;
    for last in 0..30 {
        banned(&store, &feed, last..last + 1).await;
        follower.poll(&feed).await;
    }
    assert!(follower.folded > 2, "{} folds", follower.folded);
    assert_eq!(follower.fetched, 1, "the first base only");
    // Across several bases at once.
    laggard.poll(&feed).await;
    assert_eq!((laggard.folded, laggard.fetched), (1, 1));
    assert_eq!(laggard.banned(), follower.banned());
}

#[tokio::test(start_paused = true)]
async fn what_is_too_old_to_fold_is_fetched_and_old_bases_go() {
    let store = Arc::new(Memory::default());
    store.ban("192.0.2.255");
    let feed = start(&store, tiny()).await;
    let mut gateway = SimGateway::new("g");
    gateway.poll(&feed).await;
    let first = feed.snapshot().tables.base;
    banned(&store, &feed, 0..10).await;
    assert!(feed.blob(first.hash, 0).is_some(), "kept for those that are fetching it");
    sleep(Duration::from_secs(16 * 60)).await;
    banned(&store, &feed, 10..30).await;
    sleep(Duration::from_secs(2)).await;
    assert!(feed.blob(first.hash, 0).is_none());
    gateway.poll(&feed).await;
    assert_eq!((gateway.folded, gateway.fetched), (0, 2));
    assert_eq!(gateway.banned().len(), 31);
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_what_is_equal_is_not_sent() {
    let store = Arc::new(Memory::default());
    store.put_document(DocumentKind::Route, "r", document("r", "demo"));
    store.put([row("192.0.2.1", "banned", None), row("192.0.2.2", "allowed", None)]);
    let feed = start(&store, FeedOptions::default()).await;
    let mut gateway = SimGateway::new("g");
    gateway.poll(&feed).await;
    banned(&store, &feed, 3..5).await;
    gateway.poll(&feed).await;

    // Its base and overlay together equal the new base.
    let restarted = start(&store, FeedOptions::default()).await;
    assert_ne!(restarted.version().epoch, feed.version().epoch);
    let answer = gateway.poll(&restarted).await.unwrap();
    assert_eq!((answer.whole, gateway.folded, gateway.fetched), (vec![], 1, 1));
    assert_eq!(answer.bans.unwrap().fold, Some(vec![]));
    assert_eq!(gateway.banned().len(), 3);

    // Now it holds exactly that base.
    let again = start(&store, FeedOptions::default()).await;
    let answer = gateway.poll(&again).await.unwrap();
    assert_eq!((answer.whole, answer.bans), (vec![], None));
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_a_change_in_between_is_folded_not_fetched() {
    let store = Arc::new(Memory::default());
    banned(&store, &start(&store, tiny()).await, 0..100).await;
    let feed = start(&store, tiny()).await;
    let mut gateways = [SimGateway::new("a"), SimGateway::new("b"), SimGateway::new("c")];
    for gateway in &mut gateways {
        gateway.poll(&feed).await;
    }
    drop(feed);
    store.ban("198.51.100.1");
    store.delete("192.0.2.7");
    let restarted = start(&store, tiny()).await;
    gateways[0].poll(&restarted).await;
    // Later, when another base has been cut as well.
    for last in 101..180 {
        banned(&store, &restarted, last..last + 1).await;
    }
    gateways[1].poll(&restarted).await;
    // Changes that were not logged while the service was down cannot be guessed.
    store.change_unseen(|rows| drop(rows.ips.remove("192.0.2.8")));
    let again = start(&store, tiny()).await;
    for gateway in &mut gateways {
        gateway.poll(&again).await;
    }
    let figures = gateways.each_ref().map(|g| (g.folded, g.misfolded, g.fetched, g.banned().len()));
    assert_eq!(figures, [(1, 1, 2, 178), (1, 1, 2, 178), (0, 1, 2, 178)]);
}

#[tokio::test(start_paused = true)]
async fn an_unknown_version_is_answered_in_full_and_at_once() {
    let store = Arc::new(Memory::default());
    store.ban("192.0.2.1");
    let feed = start(&store, FeedOptions::default()).await;
    let version = feed.version();
    let unknown = [
        None,
        Some(Version { epoch: version.epoch ^ 1, ..version }),
        Some(Version { seq: version.seq + 1, ..version }),
    ];
    for since in unknown {
        let mut gateway = SimGateway::new("g");
        gateway.since = since;
        let answer = gateway.poll(&feed).await.expect("an answer");
        assert_eq!((answer.whole.len(), gateway.banned().len()), (Table::whole().count(), 1), "{since:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_change_goes_at_once_and_a_burst_goes_together() {
    let store = Arc::new(Memory::default());
    let options = FeedOptions { pace_each: Duration::from_micros(200), ..FeedOptions::default() };
    let feed = start(&store, options).await;
    let mut gateway = SimGateway::new("g");
    gateway.poll(&feed).await;
    // The number of waiting polls sets the pace: 100 polls, one answer in 20 ms.
    let crowd: Vec<_> = (0..100)
        .map(|n| {
            let (feed, mut other) = (feed.clone(), SimGateway::new(&format!("g{n}")));
            tokio::spawn(async move {
                loop {
                    let bytes = other.ask(&feed, Duration::from_secs(25)).await;
                    bytes.into_iter().for_each(|bytes| {
                        let answer = SyncAnswer::from_bytes(&bytes).unwrap();
                        (other.since, other.refresh) = (Some(answer.version), Some(answer.refresh));
                    });
                }
            })
        })
        .collect();
    sleep(Duration::from_secs(1)).await;
    let before = Instant::now();
    store.ban("192.0.2.1");
    let bytes = gateway.ask(&feed, Duration::from_secs(25)).await.unwrap();
    assert_eq!(before.elapsed(), Duration::ZERO);
    gateway.apply(&feed, SyncAnswer::from_bytes(&bytes).unwrap());

    let writer = tokio::spawn({
        let store = store.clone();
        async move {
            for n in 0..1_000 {
                store.ban(&format!("10.0.{}.{}", n / 250, n % 250));
                sleep(Duration::from_millis(1)).await;
            }
        }
    });
    let mut answers = 0;
    while before.elapsed() < Duration::from_secs(2) {
        if let Some(bytes) = gateway.ask(&feed, Duration::from_millis(100)).await {
            gateway.apply(&feed, SyncAnswer::from_bytes(&bytes).unwrap());
            answers += 1;
        }
    }
    writer.await.unwrap();
    assert!((30..=52).contains(&answers), "{answers} answers in a second");
    assert_eq!(gateway.banned().len(), 1_001);
    crowd.iter().for_each(tokio::task::JoinHandle::abort);
}

/// More gateways than get large answers at once: with the next poll, which has no news, another one's turn comes.
#[tokio::test(start_paused = true)]
async fn large_answers_go_to_some_at_once_and_soon_to_all() {
    let store = Arc::new(Memory::default());
    let feed = start(&store, FeedOptions::default()).await;
    let mut gateways: Vec<_> = (0..100).map(|n| SimGateway::new(&format!("g{n}"))).collect();
    for gateway in &mut gateways {
        gateway.poll(&feed).await;
    }
    let before = Instant::now();
    store.put(
        (0..60_000).map(|n| row(&format!("10.{}.{}.{}", n / 62_500, n / 250 % 250, n % 250), "banned", None)),
    );
    let polling: Vec<_> = gateways
        .into_iter()
        .map(|mut gateway| {
            let feed = feed.clone();
            tokio::spawn(async move {
                let bytes = gateway.ask(&feed, Duration::from_secs(25)).await.expect("an answer");
                let answer = SyncAnswer::from_bytes(&bytes).unwrap();
                (gateway.since, gateway.refresh) = (Some(answer.version), Some(answer.refresh));
                let got = before.elapsed();
                assert_eq!(gateway.ask(&feed, Duration::from_millis(100)).await, None);
                (bytes.len(), got)
            })
        })
        .collect();
    for polling in polling {
        let (length, got) = polling.await.unwrap();
        assert!(length > 300_000 && got < Duration::from_secs(1), "{length} bytes after {got:?}");
    }
}

async fn wait_for_answer(gateway: &mut SimGateway, feed: &Feed) {
    if let Some(bytes) = gateway.ask(feed, Duration::from_secs(25)).await {
        gateway.apply(feed, SyncAnswer::from_bytes(&bytes).unwrap());
    }
}

/// When a gateway gets a second change, with 99 others of which so many are slow to poll again.
async fn second_answer(slow: usize) -> Duration {
    let store = Arc::new(Memory::default());
    let options = FeedOptions { pace_each: Duration::from_micros(200), ..FeedOptions::default() };
    let feed = start(&store, options).await;
    let mut gateways: Vec<_> = (0..100).map(|n| SimGateway::new(&format!("g{n}"))).collect();
    for gateway in &mut gateways {
        gateway.poll(&feed).await;
    }
    let mut fast = gateways.pop().unwrap();
    let others = gateways.into_iter().enumerate().map(|(n, mut other)| {
        let feed = feed.clone();
        let pause = if n < slow { Duration::from_secs(10) } else { Duration::ZERO };
        tokio::spawn(async move {
            loop {
                wait_for_answer(&mut other, &feed).await;
                sleep(pause).await;
            }
        })
    });
    let others: Vec<_> = others.collect();
    let following = tokio::spawn({
        let feed = feed.clone();
        async move {
            let before = Instant::now();
            while fast.banned().len() < 2 {
                wait_for_answer(&mut fast, &feed).await;
            }
            before.elapsed()
        }
    });
    sleep(Duration::from_secs(1)).await;
    store.ban("192.0.2.1");
    sleep(Duration::from_millis(5)).await;
    store.ban("192.0.2.2");
    let took = following.await.unwrap();
    others.iter().for_each(tokio::task::JoinHandle::abort);
    took.saturating_sub(Duration::from_secs(1))
}

#[tokio::test(start_paused = true)]
async fn answers_wait_until_most_gateways_poll_again_and_not_for_long() {
    // 100 polls: 20 ms, and four times as long until 90 are back.
    let taken = [second_answer(0).await, second_answer(9).await, second_answer(50).await];
    let around = |taken: Duration, ms: u128| (ms..ms + 8).contains(&taken.as_millis());
    assert!(around(taken[0], 20) && around(taken[1], 20) && around(taken[2], 100), "{taken:?}");
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_encoded_once_for_all_who_hold_the_same() {
    let store = Arc::new(Memory::default());
    let feed = start(&store, FeedOptions::default()).await;
    let (one, other) = (SimGateway::new("one"), SimGateway::new("other"));
    let bytes = one.ask(&feed, Duration::ZERO).await.unwrap();
    let same = other.ask(&feed, Duration::ZERO).await.unwrap();
    assert_eq!(bytes.as_ptr(), same.as_ptr());
    // But it contains the time.
    sleep(Duration::from_secs(1)).await;
    let later = other.ask(&feed, Duration::ZERO).await.unwrap();
    assert_ne!(bytes.as_ptr(), later.as_ptr());
}

#[tokio::test(start_paused = true)]
async fn more_at_once_than_an_overlay_holds_becomes_a_base() {
    let store = Arc::new(Memory::default());
    let feed = start(&store, tiny()).await;
    let mut gateway = SimGateway::new("g");
    gateway.poll(&feed).await;
    store.put((0..200).map(|n| row(&format!("10.0.0.{n}"), "banned", None)));
    settle(&feed).await;
    let answer = gateway.poll(&feed).await.unwrap().bans.unwrap();
    assert!(
        answer.fold.is_none()
            && matches!(answer.overlay, OverlayUpdate::Whole(changes) if changes.is_empty())
    );
    assert_eq!((gateway.fetched, gateway.banned().len()), (2, 200));
}

#[tokio::test(start_paused = true)]
async fn a_bad_row_is_shown_and_the_others_go_on() {
    let store = Arc::new(Memory::default());
    let feed = start(&store, tiny()).await;
    store.put([
        row("999.1.1.1", "banned", None),
        row("192.0.2.1", "blocked", None),
        row("192.0.2.2", "banned", Some("soon")),
        row("192.0.2.3", "banned", None),
    ]);
    store.put_document(DocumentKind::Route, "good", document("good", "demo"));
    store.put_document(DocumentKind::Route, "bad", r#"{"metadata":{"name":"bad"},"spec":{"rulez":[]}}"#);
    store.put_document(DocumentKind::Route, "alias", document("other", "demo"));
    let snapshot = feed.current().await;
    let shown: Vec<(StoreTable, String)> =
        snapshot.quarantine().map(|bad| (bad.table, bad.key.to_string())).collect();
    let ip = |key: &str| (StoreTable::Ip, key.to_owned());
    let routes = |key: &str| (StoreTable::Documents(DocumentKind::Route), key.to_owned());
    let want = [ip("192.0.2.1"), ip("192.0.2.2"), ip("999.1.1.1"), routes("alias"), routes("bad")];
    assert_eq!(shown, want);
    assert!(snapshot.quarantine().any(|bad| bad.why.contains("rulez")));
    assert_eq!((snapshot.count(RowStatus::Banned), snapshot.routes.in_force.len()), (2, 1));

    // Repaired, changed to another status, deleted.
    store.put([row("192.0.2.1", "banned", None), row("192.0.2.3", "allowed", None)]);
    store.delete("999.1.1.1");
    store.delete_document(DocumentKind::Route, "bad");
    let snapshot = feed.current().await;
    assert_eq!(snapshot.quarantine().len(), 2);
    assert_eq!((snapshot.count(RowStatus::Banned), snapshot.count(RowStatus::Allowed)), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn the_world_says_what_covers_an_address_and_why() {
    let store = Arc::new(Memory::default());
    store.put([
        row("192.0.2.0/24", "watched", None),
        row("::ffff:192.0.2.1", "banned", None),
        row("192.0.2.1/32", "banned", Some("2026-11-23 18:00:00")),
        row("192.0.0.0/16", "allowed", None),
        row("2001:db8::/32", "banned", None),
    ]);
    let feed = start(&store, tiny()).await;
    let snapshot = feed.snapshot();
    let of = |address: &str| -> Vec<String> {
        let listed = snapshot.covering(address.parse().unwrap());
        listed.map(|listed| format!("{} {}", listed.prefix, listed.status.name())).collect()
    };
    assert_eq!(of("192.0.2.1"), ["192.0.2.1 banned", "192.0.2.0/24 watched", "192.0.0.0/16 allowed"]);
    assert_eq!(of("::ffff:192.0.3.1"), ["192.0.0.0/16 allowed"]);
    assert_eq!(of("2001:db8:1::1"), ["2001:db8::/32 banned"]);
    assert!(of("198.51.100.1").is_empty());
    let listed = snapshot.listed(&"192.0.2.1".parse().unwrap(), RowStatus::Banned).unwrap();
    assert_eq!((listed.expires, listed.keys.len()), (None, 2));
    let all: Vec<Prefix> = snapshot.list(None, None).map(|listed| listed.prefix).collect();
    let rest: Vec<Prefix> = snapshot.list(None, Some(all[1])).map(|listed| listed.prefix).collect();
    assert_eq!(rest, all[2..]);
    assert_eq!(snapshot.list(Some(RowStatus::Watched), None).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_slips_past_everything_is_found_and_said() {
    let store = Arc::new(Memory::default());
    store.ban("192.0.2.1");
    let feed = start(&store, tiny()).await;
    let mut gateway = SimGateway::new("g");
    gateway.poll(&feed).await;
    let before = feed.version();
    sleep(Duration::from_secs(700)).await;
    assert_eq!((feed.version(), feed.health().notices.len()), (before, 0), "nothing to find yet");

    store.change_unseen(|rows| drop(rows.ips.remove("192.0.2.1")));
    sleep(Duration::from_secs(700)).await;
    assert_ne!(feed.version().epoch, before.epoch);
    let notices = feed.health().notices;
    assert!(notices.iter().any(|notice| notice.text.contains("192.0.2.1")), "{notices:?}");
    gateway.poll(&feed).await;
    assert!(gateway.banned().is_empty());

    store.put_document(DocumentKind::Route, "r", document("r", "demo"));
    settle(&feed).await;
    let before = feed.version();
    store.change_unseen(|rows| {
        rows.documents[DocumentKind::Route].get_mut("r").unwrap().document = document("r", "other");
    });
    sleep(Duration::from_secs(70)).await;
    assert_ne!(feed.version().epoch, before.epoch);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_is_said_and_then_followed_again() {
    let store = Arc::new(Memory::default());
    let feed = start(&store, tiny()).await;
    store.set_broken(true);
    store.ban("192.0.2.1");
    settle(&feed).await;
    assert!(feed.health().trouble.unwrap().contains("disk I/O error"));
    assert!(feed.caught_up().await.is_err(), "what there was before would not do");
    assert_eq!(feed.current().await.count(RowStatus::Banned), 0, "where it would");
    store.set_broken(false);
    assert_eq!(feed.caught_up().await.unwrap().count(RowStatus::Banned), 1);
    sleep(Duration::from_secs(2)).await;
    assert_eq!((feed.health().trouble, feed.snapshot().count(RowStatus::Banned)), (None, 1));
    assert!(store.read_tables(&[StoreTable::Ip]).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_refresh_reaches_every_gateway_once() {
    let store = Arc::new(Memory::default());
    let feed = start(&store, tiny()).await;
    let mut between_polls = SimGateway::new("between");
    between_polls.poll(&feed).await;
    // From before a restart of the service: only a higher number is new to it.
    between_polls.refresh = Some(7);
    assert!(between_polls.poll(&feed).await.is_none());
    let mut silent = SimGateway::new("silent");
    silent.poll(&feed).await;
    silent.refresh = None;
    let waiting = silent.ask(&feed, Duration::from_secs(25));
    let ordered = async {
        sleep(Duration::from_secs(1)).await;
        feed.refresh().await.unwrap().0.refresh
    };
    let (answer, id) = tokio::join!(waiting, ordered);
    assert!(id > 7);
    assert_eq!(SyncAnswer::from_bytes(&answer.unwrap()).unwrap().refresh, id);
    let answer = between_polls.poll(&feed).await.unwrap();
    assert_eq!((answer.refresh, answer.bans.is_none(), answer.whole.len()), (id, true, 0));
    assert!(between_polls.poll(&feed).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_refresh_takes_over_what_slipped_past_everything() {
    let store = Arc::new(Memory::default());
    store.ban("192.0.2.1");
    let feed = start(&store, tiny()).await;
    let mut gateway = SimGateway::new("g");
    gateway.poll(&feed).await;
    let before = feed.version();
    let (goal, snapshot) = feed.refresh().await.unwrap();
    assert_eq!((goal.version, snapshot.count(RowStatus::Banned)), (before, 1), "nothing differs");
    assert!(feed.health().notices.is_empty());

    store.change_unseen(|rows| drop(rows.ips.remove("192.0.2.1")));
    let (next, snapshot) = feed.refresh().await.unwrap();
    assert!(next.refresh > goal.refresh && next.version.epoch != before.epoch);
    assert_eq!((snapshot.version, snapshot.count(RowStatus::Banned)), (next.version, 0));
    assert!(feed.health().notices.iter().any(|notice| notice.text.contains("192.0.2.1")));
    settle(&feed).await;
    assert_eq!(gateway.poll(&feed).await.unwrap().refresh, next.refresh);
    assert!(gateway.banned().is_empty());

    store.set_broken(true);
    assert!(feed.refresh().await.is_err());
    store.set_broken(false);
    settle(&feed).await;
    assert!(gateway.poll(&feed).await.is_none(), "what failed was not ordered");
    assert_eq!(feed.refresh().await.unwrap().0.refresh, next.refresh + 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_says_that_an_ack_is_wanted_and_one_that_came_before_is_followed_by_another() {
    let store = Arc::new(Memory::default());
    let feed = start(&store, tiny()).await;
    let mut gateway = SimGateway::new("g");
    assert!(!gateway.poll(&feed).await.unwrap().ack_wanted);
    let name = Gateway::new(b"g", 1);
    let _there = feed.gateways().poll(&name);

    let waiter = feed.gateways().waiter();
    let seq = store.ban("192.0.2.1");
    let version = feed.reached(seq, Duration::from_secs(1)).await.unwrap();
    sleep(Duration::from_millis(5)).await;
    assert!(gateway.poll(&feed).await.unwrap().ack_wanted);
    feed.gateways().ack(&name, Ack { version, live: 2, ..Ack::default() });
    let applied = waiter.reached(version, Duration::from_secs(2)).await;
    assert_eq!((applied.gateways, applied.of, applied.lost, applied.version), (1, 1, 0, version));

    // It gets the next change while no waiter exists, and does not ack by itself.
    store.ban("192.0.2.2");
    settle(&feed).await;
    assert!(!gateway.poll(&feed).await.unwrap().ack_wanted);
    let version = feed.version();
    let polling = async {
        // A poll that opens just after a waiter came is not answered for it.
        assert!(feed.gateways().want());
        assert!(gateway.ask(&feed, Duration::from_millis(10)).await.is_none());
        let bytes = gateway.ask(&feed, Duration::from_secs(25)).await.unwrap();
        let answer = SyncAnswer::from_bytes(&bytes).unwrap();
        assert!(answer.ack_wanted && answer.bans.is_none() && answer.version == version);
        // Once, not again and again.
        assert!(gateway.ask(&feed, Duration::from_millis(500)).await.is_none());
        feed.gateways().ack(&name, Ack { version, live: 2, ..Ack::default() });
    };
    let (applied, ()) =
        tokio::join!(feed.gateways().waiter().reached(version, Duration::from_secs(2)), polling);
    assert!(applied.all());
}

#[tokio::test(start_paused = true)]
async fn a_restore_mints_an_epoch_and_answers_those_who_wait() {
    let store = Arc::new(Memory::default());
    store.ban("192.0.2.1");
    let remembered = store.rows().clone();
    store.ban("192.0.2.2");
    let feed = start(&store, tiny()).await;
    let mut gateway = SimGateway::new("g");
    gateway.poll(&feed).await;
    let before = feed.version();
    let _there = feed.gateways().poll(&gateway.name);
    let waiting = feed.gateways().waiter().reached(before, Duration::from_secs(1_000));
    let started = Instant::now();
    let restore = async {
        sleep(Duration::from_secs(1)).await;
        store.restore(remembered);
    };
    let (applied, ()) = tokio::join!(waiting, restore);
    assert!(started.elapsed() < Duration::from_secs(10));
    assert_eq!((applied.gateways, applied.of), (0, 1));
    assert_ne!(feed.version().epoch, before.epoch);
    // Only what differs is sent: no base is fetched for it.
    gateway.poll(&feed).await;
    assert_eq!((gateway.banned().len(), gateway.fetched), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn tasks_end_with_the_last_handle() {
    let store = Arc::new(Memory::default());
    let feed = start(&store, tiny()).await;
    assert!(Arc::strong_count(&store) > 1);
    drop(feed.clone());
    store.ban("192.0.2.1");
    settle(&feed).await;
    assert_eq!(feed.snapshot().count(RowStatus::Banned), 1, "the other handle goes on");
    drop(feed);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(Arc::strong_count(&store), 1);
}

/// After a restore, or while an import is applied, which takes seconds.
#[tokio::test(start_paused = true)]
async fn while_all_tables_are_read_again_direct_questions_are_answered_by_those_before_and_the_rows() {
    let store = Arc::new(Memory::default());
    store.ban("192.0.2.1");
    store.put_document(DocumentKind::Route, "r", document("r", "demo"));
    let feed = start(&store, FeedOptions::default()).await;
    let is_banned = async |feed: &Feed, ip: &str| {
        let tables = feed.tables_about(Some(ip.parse().unwrap())).await.unwrap();
        assert_eq!(tables.routes.len(), 1);
        (IpFinding::look_up(&from(ip.parse().unwrap()), &tables, || 0) != IpFinding::Clear, tables.version)
    };
    let before = feed.version();
    assert_eq!(is_banned(&feed, "192.0.2.1").await, (true, before));
    let mut restored = store.rows().clone();
    restored.ips.clear();
    store.set_slow(true);
    store.restore(restored);
    store.put([row("192.0.2.2", "banned", None), row("192.0.2.0/28", "banned", None)]);
    store.put([row("192.0.2.3/32", "allowed", None)]);
    let began = Instant::now();
    for _ in 0..100 {
        for (ip, banned) in [("192.0.2.1", true), ("192.0.2.2", true), ("192.0.2.77", false)] {
            let (is_banned, version) = is_banned(&feed, ip).await;
            assert_eq!((is_banned, version.epoch), (banned, before.epoch), "{ip}");
        }
    }
    assert!(began.elapsed() < Duration::from_secs(1), "only the first waits");
    let allowed = feed.tables_about(Some("192.0.2.3".parse().unwrap())).await.unwrap();
    assert!(!allowed.allow.is_empty());
    assert_eq!(feed.version(), before);

    store.set_slow(false);
    settle(&feed).await;
    let (is_banned, version) = is_banned(&feed, "192.0.2.2").await;
    assert_eq!((is_banned, version), (true, feed.version()));
    assert_ne!(version.epoch, before.epoch);
}
