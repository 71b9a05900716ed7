//! `docs/ROLLOUT.md`, run as it stands.

use tidegate_stack::{FlagsAtStart, Options, Stack, page};

#[test]
fn the_page_is_true() {
    let mut options = Options::for_test("rollout").unwrap();
    options.flags = FlagsAtStart::Off;
    let mut stack = Stack::start(options).unwrap();
    let compared = page::run(&mut stack, "ROLLOUT.md", None).unwrap();
    assert!(compared >= 20, "only {compared} outputs were compared");
}
