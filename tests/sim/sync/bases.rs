//! Bases of bans: loaded in steps, folded instead of fetched.

use super::*;

#[test]
fn a_base_of_a_million_loads_in_steps_while_requests_go_on() {
    let mut testbed = Testbed::new(2);
    testbed.feed.ban("1.1.1.1");
    testbed.run(MS);
    let other = 1 - testbed.holder();
    testbed.feed.ban_many(1_000_000);
    let mut rounds = 0;
    while testbed.get(other, "10.0.0.2").status == 200 {
        assert_eq!(testbed.get(other, "1.1.1.1").status, 403, "the set before");
        rounds += 1;
        assert!(rounds < 2_000, "never loads");
        // What a thread queues for itself is all delivered before it gets to its requests, as Envoy
        // does it.
        let mut delivered = false;
        while testbed.sim.deliver() {
            delivered = true;
        }
        if !delivered && !testbed.feed.answer_all(&mut testbed.sim) {
            testbed.sim.advance(MS);
        }
    }
    assert!(rounds > 20, "{rounds}");
    assert_eq!(testbed.get(other, "10.0.0.3").status, 200);
    testbed.run(SECOND);
    assert_eq!(testbed.statuses("10.0.0.2"), [403; 2]);
    // One more among a million costs no more than a page of the base.
    let pages = testbed.feed.served["page"];
    testbed.feed.ban("2.2.2.2");
    testbed.feed.serve(&mut testbed.sim);
    assert_eq!(testbed.statuses("2.2.2.2"), [403; 2]);
    assert_eq!(testbed.feed.served["page"], pages);
}

#[test]
fn a_new_base_is_folded_and_fetched_only_if_the_fold_differs() {
    let mut testbed = Testbed::new(2);
    for i in 0..50 {
        testbed.feed.ban(&format!("9.9.0.{i}"));
    }
    testbed.run(MS);
    testbed.feed.unban("9.9.0.7");
    testbed.feed.cut_base();
    testbed.feed.ban("1.1.1.1");
    testbed.run(SECOND);
    assert_eq!(testbed.statuses("1.1.1.1"), [403; 2]);
    assert_eq!(testbed.statuses("9.9.0.8"), [403; 2]);
    assert_eq!(testbed.statuses("9.9.0.7"), [200; 2]);
    assert_eq!(testbed.sim.metric("tidegate.sync.misfolds"), 0);
    let pages = testbed.feed.served.get("page").copied();
    testbed.feed.faults.push_back(Fault::Fold);
    testbed.feed.ban("2.2.2.2");
    testbed.feed.cut_base();
    testbed.run(SECOND);
    assert_eq!(testbed.statuses("2.2.2.2"), [403; 2]);
    assert_eq!(testbed.statuses("192.0.2.77"), [200; 2]);
    assert_eq!(testbed.sim.metric("tidegate.sync.misfolds"), 1);
    assert!(testbed.feed.served.get("page").copied() > pages);
}

#[test]
fn recent_bans_become_the_overlay_in_every_vm_and_so_a_base() {
    let mut testbed = Testbed::new(3);
    testbed.feed.ack_wanted = true;
    assert_eq!(testbed.statuses("9.9.0.7"), [200; 3]);
    let entries =
        |testbed: &Testbed, level: &str| testbed.sim.metric(&format!("tidegate.tables.bans_{level}.entries"));
    for i in 0..600 {
        testbed.feed.ban(&format!("9.9.{}.{}", i / 250, i % 250));
    }
    testbed.feed.serve(&mut testbed.sim);
    assert_eq!(testbed.statuses("9.9.0.7"), [403; 3], "before anything is folded");
    testbed.run(2 * SECOND);
    assert_eq!((entries(&testbed, "overlay"), entries(&testbed, "recent")), (600, 0));
    let publishes = testbed.sim.metric("tidegate.sync.publishes");
    testbed.run(SECOND);
    assert_eq!(testbed.sim.metric("tidegate.sync.publishes"), publishes, "and then there is peace");

    testbed.feed.unban("9.9.0.7");
    testbed.feed.ban("1.1.1.1");
    testbed.run(SECOND);
    assert_eq!((entries(&testbed, "overlay"), entries(&testbed, "recent")), (600, 2));
    assert_eq!((testbed.statuses("9.9.0.7"), testbed.statuses("1.1.1.1")), (vec![200; 3], vec![403; 3]));
    testbed.feed.cut_base();
    testbed.feed.ban("2.2.2.2");
    testbed.run(SECOND);
    assert_eq!((entries(&testbed, "base"), entries(&testbed, "recent")), (600, 0));
    assert_eq!((testbed.statuses("9.9.0.7"), testbed.statuses("9.9.2.7")), (vec![200; 3], vec![403; 3]));
    assert_eq!(testbed.sim.metric("tidegate.sync.misfolds"), 0);
    let acked = testbed.feed.acks.last().unwrap().version;
    assert_eq!(acked, testbed.feed.version());
}

#[test]
fn a_page_that_is_spoilt_or_gone_is_asked_for_again() {
    for fault in [Fault::Page, Fault::Gone] {
        let mut testbed = Testbed::new(2);
        testbed.feed.faults.push_back(fault);
        testbed.feed.ban_many(500_000);
        testbed.run(8 * SECOND);
        assert_eq!(testbed.statuses("10.0.0.2"), [403; 2], "{fault:?}");
        assert_eq!(testbed.statuses("10.0.0.3"), [200; 2], "{fault:?}");
        assert!(testbed.feed.faults.is_empty());
    }
}
