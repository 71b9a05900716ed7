//! Time is paused: it advances only when all tasks wait.

use std::time::Duration;

use tidegate_policy::version::Version;
use tidegate_policy::wire::formats::{self, Formats};
use tidegate_policy::wire::sync::{Ack, Gateway};
use tokio::time::{Instant, sleep};

use super::{FORGOTTEN_AFTER, Gateways, Goal};

const EPOCH: u64 = 7;

fn version(seq: u64) -> Version {
    Version { epoch: EPOCH, seq }
}

fn ack(seq: u64) -> Ack {
    Ack { version: version(seq), refresh: 0, live: 2, stale: 0 }
}

fn gateway(node: &str, process: u64) -> Gateway {
    Gateway::new(node.as_bytes(), process)
}

fn registry() -> Gateways {
    let gateways = Gateways::new();
    gateways.set_epoch(EPOCH);
    gateways
}

async fn numbers(gateways: &Gateways, seq: u64) -> (usize, usize, usize) {
    let applied = gateways.waiter().reached(version(seq), Duration::ZERO).await;
    (applied.gateways, applied.of, applied.lost)
}

#[tokio::test(start_paused = true)]
async fn without_gateways_there_is_nothing_to_wait_for() {
    let applied = registry().waiter().reached(version(1), Duration::from_secs(2)).await;
    assert_eq!((applied.of, applied.elapsed), (0, Duration::ZERO));
    assert!(applied.all());
}

#[tokio::test(start_paused = true)]
async fn the_last_ack_answers_and_time_does_too() {
    let gateways = registry();
    let polls = [gateway("a", 1), gateway("b", 1)].map(|name| gateways.poll(&name));
    let started = Instant::now();
    let acks = async {
        sleep(Duration::from_millis(100)).await;
        gateways.ack(&gateway("a", 1), ack(5));
        sleep(Duration::from_millis(100)).await;
        gateways.ack(&gateway("b", 1), Ack { stale: 1, ..ack(5) });
        sleep(Duration::from_millis(100)).await;
        gateways.ack(&gateway("b", 1), ack(6));
    };
    let (applied, ()) = tokio::join!(gateways.waiter().reached(version(5), Duration::from_secs(2)), acks);
    assert_eq!((applied.gateways, applied.of), (2, 2));
    assert_eq!(started.elapsed(), Duration::from_millis(300), "a stale VM is not counted on");
    assert_eq!(applied.elapsed, started.elapsed());

    let applied = gateways.waiter().reached(version(6), Duration::from_secs(2)).await;
    assert_eq!((applied.gateways, applied.of), (1, 2));
    assert_eq!(applied.elapsed, Duration::from_secs(2));
    drop(polls);
}

#[tokio::test(start_paused = true)]
async fn acks_do_not_go_back_within_an_epoch() {
    let gateways = registry();
    let name = gateway("a", 1);
    let _poll = gateways.poll(&name);
    gateways.ack(&name, ack(5));
    gateways.ack(&name, ack(4));
    assert_eq!(gateways.list()[0].ack, Some(ack(5)));
    gateways.set_epoch(8);
    let new = Ack { version: Version { epoch: 8, seq: 1 }, ..ack(0) };
    gateways.ack(&name, new);
    gateways.ack(&name, ack(6));
    assert_eq!(gateways.list()[0].ack, Some(new), "a late ack of the former epoch");
}

#[tokio::test(start_paused = true)]
async fn a_gateway_without_a_poll_is_lost_then_forgotten() {
    let gateways = registry();
    let name = gateway("a", 1);
    drop(gateways.poll(&name));
    gateways.ack(&name, ack(1));
    sleep(Duration::from_secs(3)).await;
    assert_eq!(numbers(&gateways, 1).await, (1, 1, 0));
    sleep(Duration::from_millis(1)).await;
    assert_eq!(numbers(&gateways, 1).await, (0, 0, 1));
    assert!(gateways.list()[0].lost);
    sleep(FORGOTTEN_AFTER).await;
    assert_eq!(numbers(&gateways, 1).await, (0, 0, 0));

    let poll = gateways.poll(&name);
    sleep(FORGOTTEN_AFTER).await;
    assert_eq!(numbers(&gateways, 1).await, (0, 1, 0), "an open poll is a sign of life");
    assert!(gateways.forget(&name) && !gateways.forget(&name));
    assert!(gateways.list().is_empty());
    drop(poll);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_does_not_wait_for_one_who_is_lost_meanwhile() {
    let gateways = registry();
    drop(gateways.poll(&gateway("a", 1)));
    let applied = gateways.waiter().reached(version(1), Duration::from_secs(30)).await;
    assert_eq!((applied.of, applied.lost), (0, 1));
    assert!(applied.elapsed < Duration::from_secs(4), "{:?}", applied.elapsed);
}

#[tokio::test(start_paused = true)]
async fn nobody_is_lost_because_the_service_is_late() {
    let gateways = registry();
    drop(gateways.poll(&gateway("a", 1)));
    gateways.note_delay(Duration::from_secs(2));
    sleep(Duration::from_secs(5)).await;
    assert_eq!(numbers(&gateways, 1).await, (0, 1, 0), "its next poll may be here");
    sleep(Duration::from_millis(1)).await;
    assert_eq!(numbers(&gateways, 1).await, (0, 0, 1));
    // A ban of a moment ago does not wait for it either.
    drop(gateways.poll(&gateway("a", 1)));
    for _ in 0..200 {
        gateways.note_delay(Duration::from_millis(1));
    }
    sleep(Duration::from_millis(3_010)).await;
    assert_eq!(numbers(&gateways, 1).await, (0, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn many_waiters_look_together_and_miss_no_ack() {
    let gateways = registry();
    let names: Vec<_> = (0..1_000).map(|n| gateway(&format!("g{n}"), 1)).collect();
    let _polls: Vec<_> = names.iter().map(|name| gateways.poll(name)).collect();
    let waiting: Vec<_> = (1..=20)
        .map(|seq| tokio::spawn(gateways.waiter().reached(version(seq), Duration::from_secs(30))))
        .collect();
    for seq in 1..=20 {
        for name in &names {
            gateways.ack(name, ack(seq));
        }
        sleep(Duration::from_millis(3)).await;
    }
    for (waiter, seq) in waiting.into_iter().zip(1..) {
        let applied = waiter.await.unwrap();
        assert!(applied.all() && applied.of == 1_000, "{applied:?}");
        let longest = Duration::from_millis(3 * seq + 20);
        assert!(applied.elapsed <= longest, "version {seq}: {:?}", applied.elapsed);
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_process_takes_its_nodes_place() {
    let gateways = registry();
    drop(gateways.poll(&gateway("a", 1)));
    let new = gateways.poll(&gateway("a", 2));
    assert_eq!(gateways.list().len(), 1);
    // The old one's last messages change nothing.
    gateways.ack(&gateway("a", 1), ack(9));
    assert_eq!(numbers(&gateways, 9).await, (0, 1, 0));

    // One that drains while its successor starts counts until it ends.
    let newest = gateways.poll(&gateway("a", 3));
    assert_eq!(gateways.list().len(), 2);
    drop(new);
    let applied = gateways.waiter().reached(version(9), Duration::from_secs(30));
    let acks = async { gateways.ack(&gateway("a", 3), ack(9)) };
    let (applied, ()) = tokio::join!(applied, acks);
    assert_eq!((applied.gateways, applied.of, applied.lost), (1, 1, 0));
    assert!(applied.elapsed < Duration::from_secs(1));
    drop(newest);
}

#[tokio::test(start_paused = true)]
async fn a_new_epoch_answers_the_waiters() {
    let gateways = registry();
    let _poll = gateways.poll(&gateway("a", 1));
    let end = async {
        sleep(Duration::from_secs(1)).await;
        gateways.set_epoch(8);
    };
    let (applied, ()) = tokio::join!(gateways.waiter().reached(version(1), Duration::from_secs(30)), end);
    assert_eq!((applied.gateways, applied.of, applied.elapsed), (0, 1, Duration::from_secs(1)));
}

#[tokio::test(start_paused = true)]
async fn acks_are_wanted_as_long_as_somebody_waits() {
    let gateways = registry();
    assert!(!gateways.want());
    let (one, other) = (gateways.waiter(), gateways.waiter());
    drop(one);
    assert!(gateways.want());
    other.reached(version(1), Duration::ZERO).await;
    assert!(!gateways.want());
}

#[tokio::test(start_paused = true)]
async fn a_gateway_whose_vms_do_not_serve_enforces_trivially() {
    let gateways = registry();
    let name = gateway("a", 1);
    let _poll = gateways.poll(&name);
    gateways.ack(&name, Ack { live: 0, ..ack(1) });
    assert_eq!(numbers(&gateways, 1).await, (1, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_refresh_is_waited_for_apart_from_the_version() {
    let gateways = registry();
    let polls = [gateway("a", 1), gateway("b", 1)].map(|name| gateways.poll(&name));
    for name in ["a", "b"] {
        gateways.ack(&gateway(name, 1), ack(5));
    }
    let goal = Goal { version: version(5), refresh: 3 };
    let acks = async {
        sleep(Duration::from_millis(100)).await;
        gateways.ack(&gateway("a", 1), Ack { refresh: 3, ..ack(5) });
        gateways.ack(&gateway("b", 1), Ack { refresh: 2, ..ack(6) });
        sleep(Duration::from_millis(100)).await;
        gateways.ack(&gateway("b", 1), Ack { refresh: 4, ..ack(7) });
    };
    let (applied, ()) = tokio::join!(gateways.waiter().reached(goal, Duration::from_secs(2)), acks);
    assert_eq!((applied.gateways, applied.of, applied.elapsed), (2, 2, Duration::from_millis(200)));
    // A higher number of another epoch does not count.
    let goal = Goal { version: version(8), refresh: 3 };
    assert_eq!(gateways.waiter().reached(goal, Duration::ZERO).await.gateways, 0);
    drop(polls);
}

#[tokio::test(start_paused = true)]
async fn a_poll_is_asked_for_the_ack_of_a_refresh() {
    let gateways = registry();
    let name = gateway("a", 1);
    let poll = gateways.poll(&name);
    gateways.ack(&name, ack(5));
    let newest = Goal { version: version(5), refresh: 1 };
    let waiting = gateways.waiter().reached(newest, Duration::from_secs(2));
    let asking = async {
        sleep(Duration::from_millis(100)).await;
        assert!(!poll.misses_ack(&version(5).into()));
        assert!(poll.misses_ack(&newest));
        assert!(poll.ack_wanted(newest));
        assert!(!poll.misses_ack(&newest), "once");
        gateways.ack(&name, Ack { refresh: 1, ..ack(5) });
    };
    let (applied, ()) = tokio::join!(waiting, asking);
    assert_eq!((applied.gateways, applied.of), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn whoever_posts_events_counts_and_has_applied_nothing() {
    let gateways = registry();
    let name = gateway("a", 1);
    gateways.note_heard(&name);
    assert_eq!(numbers(&gateways, 1).await, (0, 1, 0));
    sleep(Duration::from_secs(2)).await;
    gateways.note_heard(&name);
    sleep(Duration::from_secs(3)).await;
    assert_eq!(numbers(&gateways, 1).await, (0, 1, 0));
    assert_eq!(gateways.list()[0].silent_for, Duration::from_secs(5), "since its last poll");
    sleep(Duration::from_millis(1)).await;
    assert_eq!(numbers(&gateways, 1).await, (0, 0, 1));
    gateways.note_heard(&name);
    assert_eq!(numbers(&gateways, 1).await, (0, 1, 0));
    let poll = gateways.poll(&name);
    gateways.ack(&name, ack(1));
    assert_eq!(numbers(&gateways, 1).await, (1, 1, 0));
    drop(poll);

    // The last events of a process that was replaced do not bring it back.
    let _new = gateways.poll(&gateway("a", 2));
    gateways.note_heard(&name);
    assert_eq!(numbers(&gateways, 1).await, (0, 1, 0));
    assert_eq!(gateways.list().len(), 1);
}

/// The histogram of enforcement, as metrics text.
fn enforced(gateways: &Gateways) -> String {
    let mut page = crate::metrics::MetricsPage::default();
    page.metric(&crate::metrics::CHANGE_ENFORCED_SECONDS, gateways.enforced());
    page.encode()
}

#[tokio::test(start_paused = true)]
async fn a_version_counts_from_its_making_to_the_ack_of_each_gateway() {
    let gateways = registry();
    let (a, b) = (gateway("a", 1), gateway("b", 1));
    let _polls = [&a, &b].map(|name| gateways.poll(name));
    assert_eq!(gateways.unenforced(), None);
    gateways.note_version(version(4));
    sleep(Duration::from_millis(30)).await;
    gateways.note_version(version(5));
    sleep(Duration::from_millis(10)).await;
    assert_eq!(gateways.unenforced(), Some(Duration::from_millis(40)));
    gateways.ack(&a, ack(5));
    assert_eq!(gateways.unenforced(), Some(Duration::from_millis(40)), "b does not");
    gateways.ack(&b, ack(4));
    assert_eq!(gateways.unenforced(), Some(Duration::from_millis(10)));
    gateways.ack(&b, Ack { stale: 1, ..ack(5) });
    assert_eq!(gateways.unenforced(), Some(Duration::from_millis(10)), "a VM of b is not heard of");
    sleep(Duration::from_secs(1)).await;
    gateways.ack(&b, ack(5));
    assert_eq!(gateways.unenforced(), None);
    // 40 and 10 ms by a, 40 and 1,010 ms by b.
    let said = enforced(&gateways);
    for line in [
        "tidegate_change_enforced_seconds_count 4",
        "tidegate_change_enforced_seconds_bucket{le=\"0.005\"} 0",
        "tidegate_change_enforced_seconds_bucket{le=\"0.02\"} 1",
        "tidegate_change_enforced_seconds_bucket{le=\"0.05\"} 3",
        "tidegate_change_enforced_seconds_bucket{le=\"1.0\"} 3",
        "tidegate_change_enforced_seconds_bucket{le=\"2.5\"} 4",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_made_before_a_gateway_came_or_in_another_epoch_does_not_count() {
    let gateways = registry();
    gateways.note_version(version(3));
    sleep(Duration::from_secs(60)).await;
    let a = gateway("a", 1);
    let poll = gateways.poll(&a);
    assert_eq!(gateways.unenforced(), None, "it fetches all of it, and holds nobody up");
    gateways.ack(&a, ack(3));
    gateways.note_version(Version { epoch: 999, seq: 9 });
    assert_eq!(gateways.unenforced(), None);
    gateways.note_version(version(4));
    drop(poll);
    sleep(Duration::from_secs(2)).await;
    assert_eq!(gateways.unenforced(), Some(Duration::from_secs(2)));
    sleep(Duration::from_secs(2)).await;
    assert_eq!(gateways.unenforced(), None, "lost: nobody knows what it enforces");
    gateways.set_epoch(8);
    gateways.ack(&a, Ack { version: Version { epoch: 8, seq: 4 }, ..ack(4) });
    assert!(
        enforced(&gateways).contains("tidegate_change_enforced_seconds_count 0"),
        "{}",
        enforced(&gateways)
    );
}

#[tokio::test(start_paused = true)]
async fn who_cannot_read_a_table_enforces_no_version() {
    let gateways = registry();
    let a = gateway("a", 1);
    gateways.note_formats(&a, &formats::formats().replace("routes=", "routes=9").parse().unwrap());
    let _poll = gateways.poll(&a);
    gateways.note_version(version(4));
    sleep(Duration::from_secs(2)).await;
    gateways.ack(&a, ack(4));
    assert_eq!(numbers(&gateways, 4).await, (0, 1, 0));
    assert_eq!(gateways.unenforced(), Some(Duration::from_secs(2)));
    assert!(
        enforced(&gateways).contains("tidegate_change_enforced_seconds_count 0"),
        "{}",
        enforced(&gateways)
    );
    gateways.note_formats(&a, &Formats::default());
    gateways.note_version(version(5));
    gateways.ack(&a, ack(5));
    assert_eq!(gateways.unenforced(), None);
}
