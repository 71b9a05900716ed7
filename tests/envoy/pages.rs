//! Pages of the documentation, typed into a shell as they stand, against a real stack.

use tidegate_stack::http::{self, Request};
use tidegate_stack::{FlagsAtStart, Options, Stack, page};

/// A stack as `cargo xtask up` leaves it: all flags off, and one route to the demo backend.
fn up(name: &str) -> Stack {
    let mut options = Options::for_test(name).unwrap();
    options.flags = FlagsAtStart::Off;
    let stack = Stack::start(options).unwrap();
    stack.put_route("demo", "/", "demo").unwrap();
    stack
}

#[test]
fn the_readme_is_true() {
    let mut stack = up("readme");
    let typed = page::run(&mut stack, "README.md", Some("## Three things to try")).unwrap();
    let [ban, sql, flags] = &typed.printed[..] else { panic!("{:?}", typed.printed) };
    assert!(ban.starts_with("200\n") && ban.contains("ip_banned"), "{ban}");
    // The last request first, with the client that the insert banned.
    assert!(sql.contains("5.6.7.8|/hello|403|") && sql.contains("|ip_banned"), "{sql}");
    let caches: Vec<&str> = flags.lines().filter(|line| line.contains("x-performance-cache")).collect();
    let [before, after] = caches[..] else { panic!("{flags}") };
    assert!(before.contains("ip=direct") && after.contains("ip=hit"), "{flags}");
}

#[test]
fn getting_started_is_true() {
    let mut stack = up("getting-started");
    let typed = page::run(&mut stack, "docs/GETTING-STARTED.md", None).unwrap();
    assert_eq!(typed.compared, 4);
}

#[test]
fn the_rollout_is_true() {
    let mut options = Options::for_test("rollout").unwrap();
    options.flags = FlagsAtStart::Off;
    let mut stack = Stack::start(options).unwrap();
    let typed = page::run(&mut stack, "docs/ROLLOUT.md", None).unwrap();
    assert!(typed.compared >= 20, "only {} outputs were compared", typed.compared);
}

/// The gateway follows each way back by itself.
#[test]
fn the_ways_back_are_true() {
    let mut stack = up("rollback");
    let typed = page::run(&mut stack, "docs/ROLLBACK.md", None).unwrap();
    assert_eq!(typed.compared, 5);
}

/// Routes from files, and the gate follows.
#[test]
fn import_and_export_are_true_and_what_was_applied_serves() {
    let mut stack = Stack::start(Options::for_test("apply").unwrap()).unwrap();
    let status = |stack: &Stack, path: &str| http::send(stack.gate(), &Request::get(path)).unwrap().status;
    assert_eq!(status(&stack, "/shop/orders"), 404);
    let typed = page::run(&mut stack, "docs/ROUTES.md", Some("## Import and export")).unwrap();
    assert!(typed.compared >= 3, "only {} outputs were compared", typed.compared);
    // The page's last word on each path; every worker has it.
    for mut worker in stack.connection_per_worker().unwrap() {
        for (path, wanted) in [("/shop/orders/7", 200), ("/shop/people", 200), ("/shop/users", 404)] {
            assert_eq!(worker.send(&Request::get(path)).unwrap().status, wanted, "{path}");
        }
    }
}
