//! Entries end by the admin service's clock, whatever clocks are set to meanwhile.

use super::*;

const DAY_MS: i64 = 24 * 3_600_000;

#[test]
fn entries_expire_by_the_admin_services_clock() {
    let mut testbed = Testbed::new(1);
    let now = u32::try_from(testbed.sim.wall_ms() / 1000).unwrap();
    testbed.feed.ban_until("9.9.9.9", Some(now + 5));
    testbed.run(MS);
    assert_eq!(testbed.get(0, "9.9.9.9").status, 403);
    testbed.run(3 * SECOND);
    assert_eq!(testbed.get(0, "9.9.9.9").status, 403);
    testbed.run(2 * SECOND);
    assert_eq!(testbed.get(0, "9.9.9.9").status, 200);
    testbed.feed.clock_ahead_ms = 60_000;
    testbed.feed.ban_until("8.8.8.8", Some(now + 30));
    testbed.run(MS);
    assert_eq!(testbed.get(0, "8.8.8.8").status, 200, "over by the clock that counts");
}

#[test]
fn bans_neither_lapse_nor_stay_after_the_services_clock_was_set() {
    for wrong_ms in [DAY_MS, -DAY_MS] {
        let mut testbed = Testbed::new(2);
        let now = u32::try_from(testbed.sim.wall_ms() / 1000).unwrap();
        testbed.feed.ban_until("9.9.9.9", Some(now + 60));
        // While its clock is wrong, the tables change.
        testbed.feed.clock_ahead_ms = wrong_ms;
        testbed.feed.ban("8.8.8.8");
        testbed.run(SECOND);
        let by_wrong_clock = if wrong_ms > 0 { 200 } else { 403 };
        assert_eq!(testbed.statuses("9.9.9.9"), [by_wrong_clock; 2], "as the service itself would say");
        // It is put right, and nothing changes.
        testbed.feed.clock_ahead_ms = 0;
        testbed.run(A_POLL);
        assert_eq!(testbed.statuses("9.9.9.9"), [403; 2], "{wrong_ms}: for the rest of its minute");
        testbed.run(50 * SECOND);
        assert_eq!(testbed.statuses("9.9.9.9"), [200; 2], "{wrong_ms}: and no longer");
    }
}

#[test]
fn bans_neither_lapse_nor_stay_after_the_gateways_clock_was_set() {
    for wrong_ms in [DAY_MS, -DAY_MS] {
        let mut testbed = Testbed::new(2);
        testbed.sim.set_clock_ahead(wrong_ms);
        let now = u32::try_from(testbed.sim.wall_ms() / 1000).unwrap();
        testbed.feed.ban_until("9.9.9.9", Some(now + 60));
        testbed.run(SECOND);
        assert_eq!(testbed.statuses("9.9.9.9"), [403; 2]);
        // The clock is put right while the service is away.
        testbed.feed.up = false;
        testbed.sim.set_clock_ahead(0);
        testbed.run(58 * SECOND);
        assert_eq!(testbed.statuses("9.9.9.9"), [403; 2], "{wrong_ms}");
        testbed.run(2 * SECOND);
        assert_eq!(testbed.statuses("9.9.9.9"), [200; 2], "{wrong_ms}");
    }
}
