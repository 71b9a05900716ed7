//! Another plugin of the same `vm_id` writes to the filter's keys in shared data.

use super::*;

#[test]
fn what_another_plugin_overwrote_is_loaded_anew_by_the_next_holder() {
    // A chunk of a table, which no manifest will come for that names another.
    for spoil in
        [|value: &mut Vec<u8>| value.clear(), |value: &mut Vec<u8>| value.iter_mut().for_each(|b| *b ^= 1)]
    {
        let mut testbed = Testbed::new(1);
        testbed.feed.ban("9.9.9.9");
        testbed.run(SECOND);
        testbed.sim.overwrite("/routes/0/0", spoil);
        let (worker, root) = testbed.gates[0];
        testbed.sim.trap(worker);
        testbed.run(2 * SECOND);
        let asked = testbed.feed.request(&mut testbed.sim, worker, root, Request::get("/x", "9.9.9.9"));
        assert_eq!(asked.status, 403, "without tables the service is asked");
        testbed.run(5 * SECOND);
        assert_eq!(testbed.get(0, "9.9.9.9").status, 403, "by the tables");
        let given_up = testbed.sim.metric("tidegate.sync.decode_failures");
        assert_eq!(given_up, 2, "as it stood, and as the new holder adopted it");
        let polls = testbed.feed.served["poll"];
        testbed.run(5 * SECOND);
        assert_eq!(testbed.feed.served["poll"], polls, "and then there is peace");
    }
}

#[test]
fn a_vm_that_cannot_load_what_another_plugin_overwrote_gets_it_again() {
    let mut testbed = Testbed::new(2);
    testbed.feed.ban("9.9.9.9");
    testbed.run(SECOND);
    testbed.sim.overwrite("/routes/0/0", Vec::clear);
    let other = 1 - testbed.holder();
    let (worker, root) = testbed.gates[other];
    testbed.sim.trap(worker);
    testbed.run(2 * SECOND);
    testbed.feed.request(&mut testbed.sim, worker, root, Request::get("/x", "9.9.9.9"));
    testbed.run(45 * SECOND);
    assert_eq!(testbed.statuses("9.9.9.9"), [403; 2], "by the tables");
    let full = testbed.sim.metric("tidegate.sync.full_loads");
    testbed.run(60 * SECOND);
    assert_eq!(testbed.sim.metric("tidegate.sync.full_loads"), full, "and then there is peace");
}
