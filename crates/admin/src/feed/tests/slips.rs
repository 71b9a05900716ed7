//! Rows that somebody makes unreadable by SQL keep their meaning. Time is paused.

use std::sync::Arc;
use std::time::Duration;

use tidegate_policy::UnixSeconds;
use tokio::time::sleep;

use super::memory::{Memory, document, named, row};
use super::{start, tiny};
use crate::feed::{Feed, RowStatus, Snapshot};
use crate::store::{DocumentKind, DocumentRow, IpRow, StoreTable};

const IP: &str = "192.0.2.1";
const ROUTES: StoreTable = StoreTable::Documents(DocumentKind::Route);

/// Whether an address is banned, or allowed, and until when.
fn status(snapshot: &Snapshot, ip: &str) -> Option<(RowStatus, Option<UnixSeconds>)> {
    let listed = snapshot.covering(ip.parse().unwrap()).next()?;
    Some((listed.status, listed.expires))
}

fn whys(snapshot: &Snapshot) -> Vec<String> {
    snapshot.quarantine().map(|bad| bad.why.to_string()).collect()
}

/// The feed of a service that was started again.
async fn restarted(store: &Arc<Memory>) -> Feed {
    sleep(Duration::from_millis(50)).await;
    start(store, tiny()).await
}

#[tokio::test(start_paused = true)]
async fn a_slip_leaves_what_the_row_said_before_in_force() {
    let end = Some("2099-01-01");
    let slips = [
        row(IP, "bannned", end),
        row(IP, "banned", Some("2099-12-31 25:00")),
        row(IP, "banned", Some("3600")),
        row(IP, "alowed", None),
        row(IP, "allowed", Some("whenever")),
    ];
    for status_before in [RowStatus::Banned, RowStatus::Allowed] {
        for slip in &slips {
            let store = Arc::new(Memory::default());
            store.put([row(IP, status_before.name(), end)]);
            let feed = start(&store, tiny()).await;
            let before = status(&feed.snapshot(), IP);
            assert_eq!(before, Some((status_before, Some(4_070_908_800))));
            store.put([slip.clone()]);
            let snapshot = feed.current().await;
            assert_eq!(status(&snapshot, IP), before, "{slip:?}");
            let why = whys(&snapshot);
            assert!(why.len() == 1 && why[0].ends_with("; what it said before stays in force"), "{why:?}");
            // Compared with the store, and read anew.
            sleep(Duration::from_secs(700)).await;
            assert_eq!((feed.health().notices.len(), whys(&feed.snapshot())), (0, why.clone()), "{slip:?}");
            store.cut_log();
            store.ban("192.0.2.9");
            assert_eq!((status(&*feed.current().await, IP), whys(&feed.snapshot())), (before, why.clone()));
            // Another slip, and another service.
            store.put([row(IP, "", Some("sometime"))]);
            feed.current().await;
            let again = restarted(&store).await;
            assert_eq!(status(&again.snapshot(), IP), before, "{slip:?}");
            // Mended, then deleted.
            store.put([row(IP, "watched", None)]);
            let mended = again.current().await;
            assert_eq!((status(&mended, IP), whys(&mended).len()), (Some((RowStatus::Watched, None)), 0));
            store.put([slip.clone()]);
            again.current().await;
            store.delete(IP);
            let deleted = again.current().await;
            assert_eq!((status(&deleted, IP), whys(&deleted).len()), (None, 0));
            sleep(Duration::from_millis(50)).await;
            assert!(store.rows().former.is_empty());
        }
    }
}

/// Nothing is known of what the row said before, whether it is new or was changed while no service
/// ran: what can be read of it denies, and allows nothing.
#[tokio::test(start_paused = true)]
async fn a_ban_whose_end_cannot_be_read_is_one_without_end() {
    let store = Arc::new(Memory::default());
    let others = [row("192.0.2.2", "allowed", Some("soon")), row("192.0.2.3", "blocked", None)];
    store.put([row(IP, "Banned", Some("soon"))].into_iter().chain(others));
    let feed = start(&store, tiny()).await;
    for feed in [&feed, &restarted(&store).await] {
        let snapshot = feed.snapshot();
        let said = [IP, "192.0.2.2", "192.0.2.3"].map(|ip| status(&snapshot, ip));
        assert_eq!(said, [Some((RowStatus::Banned, None)), None, None]);
    }
    assert!(whys(&feed.snapshot())[0].ends_with("a ban without end"), "{:?}", whys(&feed.snapshot()));
    sleep(Duration::from_secs(700)).await;
    assert_eq!(feed.health().notices, []);
}

/// A key is a column like others.
#[tokio::test(start_paused = true)]
async fn a_key_that_is_changed_into_an_unreadable_one_leaves_the_row_in_force() {
    let store = Arc::new(Memory::default());
    store.ban(IP);
    store.put_document(DocumentKind::Route, "r", document("r", "demo"));
    let mut feed = start(&store, tiny()).await;
    let holds = |feed: &Feed| {
        let snapshot = feed.snapshot();
        let routes: Vec<String> = snapshot.routes.in_force.keys().map(ToString::to_string).collect();
        (status(&snapshot, IP).is_some(), routes, whys(&snapshot).len())
    };
    let kept = (true, vec!["r".to_owned()], 2);
    // From one slip to the next.
    for (from, to) in [(IP, "192.0.2.333"), ("192.0.2.333", "192.0.2.1/33")] {
        store.rename(StoreTable::Ip, from, to);
    }
    store.rename(ROUTES, "r", "s");
    feed.current().await;
    assert_eq!(holds(&feed), kept);
    sleep(Duration::from_secs(700)).await;
    assert_eq!((feed.health().notices.len(), holds(&feed)), (0, kept.clone()));
    store.cut_log();
    store.ban("192.0.2.9");
    feed.current().await;
    assert_eq!(holds(&feed), kept);
    feed = restarted(&store).await;
    assert_eq!(holds(&feed), kept);
    // The first is mended, and means another address; the other is deleted.
    store.rename(StoreTable::Ip, "192.0.2.1/33", "192.0.2.3");
    store.delete_document(DocumentKind::Route, "s");
    let snapshot = feed.current().await;
    assert_eq!(holds(&feed), (false, Vec::new(), 0));
    assert_eq!(status(&snapshot, "192.0.2.3"), Some((RowStatus::Banned, None)));
    // In place of a row that stayed in force there is a new one.
    store.rename(StoreTable::Ip, "192.0.2.3", "nowhere");
    store.put([row("192.0.2.3", "allowed", None)]);
    assert_eq!(status(&*feed.current().await, "192.0.2.3"), Some((RowStatus::Allowed, None)));
    store.delete("nowhere");
    assert_eq!(status(&*feed.current().await, "192.0.2.3"), Some((RowStatus::Allowed, None)));
    // What is deleted is gone at once, whatever is written beside it.
    store.delete("192.0.2.9");
    store.put([IpRow { ip: "192.0.2.999".into(), ..row(IP, "banned", None) }]);
    assert_eq!(status(&*feed.current().await, "192.0.2.9"), None);
}

/// Of two routes for the same requests the older one gets them, so a time that cannot be read
/// would hand them to the other.
#[tokio::test(start_paused = true)]
async fn a_slip_in_the_age_of_a_route_changes_nothing() {
    let store = Arc::new(Memory::default());
    let aged = |name: &str, backend: &str, created_at: &str| DocumentRow {
        created_at: Some(created_at.to_owned()),
        ..named(name, document(name, backend))
    };
    store.put_row(DocumentKind::Route, aged("old", "closed", "2026-01-01"));
    store.put_row(DocumentKind::Route, aged("young", "open", "1795456800"));
    let feed = start(&store, tiny()).await;
    let winner = async |feed: &Feed| {
        let tables = feed.tables().await.unwrap();
        let facts = tidegate_policy::request::Facts { path: b"/", method: b"GET", ..Default::default() };
        tables.routes.find(&facts).unwrap().unwrap().route.to_owned()
    };
    assert_eq!(winner(&feed).await, "old");
    store.put_row(DocumentKind::Route, aged("old", "closed", "last year"));
    assert_eq!(winner(&feed).await, "old");
    let why = whys(&feed.snapshot());
    assert!(why[0].starts_with("created_at `last year` is not a time"), "{why:?}");
    assert_eq!(winner(&restarted(&store).await).await, "old");
    // New, it holds as the youngest.
    store.delete_document(DocumentKind::Route, "old");
    feed.current().await;
    store.put_row(DocumentKind::Route, aged("old", "closed", "last year"));
    assert_eq!(winner(&feed).await, "young");
    assert_eq!(feed.snapshot().routes.in_force.len(), 2);
}
