//! Routes from files: what `docs/ROUTES.md` says of `tidegate routes`, typed as it
//! stands, and the gate follows.

use tidegate_stack::http::{self, Request};
use tidegate_stack::{Options, Stack, page};

#[test]
fn the_page_is_true_and_what_was_applied_serves() {
    let mut stack = Stack::start(Options::for_test("apply").unwrap()).unwrap();
    let status = |stack: &Stack, path: &str| http::send(stack.gate(), &Request::get(path)).unwrap().status;
    assert_eq!(status(&stack, "/shop/orders"), 404);
    let compared = page::run(&mut stack, "ROUTES.md", Some("## Import and export")).unwrap();
    assert!(compared >= 3, "only {compared} outputs were compared");
    // The page's last word on each path; every worker has it.
    for mut worker in stack.connection_per_worker().unwrap() {
        for (path, wanted) in [("/shop/orders/7", 200), ("/shop/people", 200), ("/shop/users", 404)] {
            assert_eq!(worker.send(&Request::get(path)).unwrap().status, wanted, "{path}");
        }
    }
}
