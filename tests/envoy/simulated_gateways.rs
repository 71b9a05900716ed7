//! `tidegate-load gateways`: a few simulated gateways follow a real admin service through all its steps.

use tidegate_load::{Figures, GatewaysArgs, run};
use tidegate_stack::Programs;

#[test]
fn they_follow_bans_a_restart_and_a_list() {
    let programs = Programs::find().unwrap();
    let dir = tidegate_stack::programs::repository().join("target/tests/simulated-gateways");
    let tidegate = Some(programs.admin);
    let args = GatewaysArgs { count: 20, bans: 3, watch: 1, rate: 5, list: 2_000, tidegate, dir };
    let Figures { bans, downloads_after_restart, downloads_of_newcomer, bad_answers } = run(&args).unwrap();
    assert_eq!((bans, bad_answers), (3, 0));
    // After a restart digests are compared; who holds nothing downloads the base of bans.
    assert_eq!((downloads_after_restart, downloads_of_newcomer), (0, 1));
}
