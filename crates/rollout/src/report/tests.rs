use serde_json::json;

use super::report;
use crate::figures::{Completeness, Observed};
use crate::plan::Plan;
use crate::run::tests::world::{Traffic, World, well};
use crate::run::{Command, start};

/// A run whose first stage passes, whose second one is approved, and whose third one fails.
fn world() -> World {
    let share = |percent: u8| json!({"enableRouteCache": {"percent": percent}});
    let gates = json!([
        {"latency": {"of": "total", "percentile": 95, "at_most": "130ms"}},
        {"success": {"at_least": 0.999}},
        {"completeness": {"at_least": 0.995}},
    ]);
    let plan = json!({"description": "Routes | bans <b>first</b>", "stages": [
        {"name": "routes: shadow", "flags": {"enableRouteCache": "shadow"}, "hold": "2s", "min_requests": 100, "gates": [
            {"mismatches": {"at_most": 0, "compared_at_least": 50}}, {"dropped": {"at_most": 0}}]},
        {"name": "routes: a tenth", "flags": share(10), "hold": "4s", "approve": true, "gates": gates},
        {"name": "routes: half", "flags": share(50), "hold": "4s", "gates": gates},
        {"name": "routes: all", "flags": {"enableRouteCache": true}, "hold": "4s"}]});
    let mut world = World::new(&plan);
    world.observed = Observed { completeness: Some(Completeness { ratio: 0.9991, exact: false }), ..well() };
    world.start().unwrap();
    looks(&mut world, 9, Traffic::Good);
    looks(&mut world, 17, Traffic::Good);
    world.command(Command::Approve).unwrap();
    looks(&mut world, 12, Traffic::Good);
    looks(&mut world, 2, Traffic::Broken);
    world
}

fn looks(world: &mut World, looks: u32, traffic: Traffic) {
    for _ in 0..looks {
        world.pass_time(250);
        world.requests(30, traffic);
        world.look();
    }
}

#[test]
fn a_page_has_all_that_a_ticket_needs() {
    let run = world().run().unwrap();
    let page = report(&run, None).to_markdown();
    let wanted = include_str!("example.md");
    assert!(page == wanted, "the page is now:\n{page}");
}

#[test]
fn a_run_that_goes_on_shows_its_stage_as_it_stands() {
    let mut world = world();
    world.start().unwrap();
    looks(&mut world, 3, Traffic::Good);
    let run = world.run().unwrap();
    let report = report(&run, Some(&world.figures));
    assert_eq!((report.run, report.stages.len(), report.ended.as_ref()), (2, 0, None));
    let current = report.current.as_ref().unwrap();
    assert_eq!((current.name.as_str(), current.groups.treated.requests), ("routes: shadow", 90));
    let page = report.to_markdown();
    for part in
        ["# Rollout p, run 2: running", "not ended yet", "going on", "| routes: all | | | | | not begun |"]
    {
        assert!(page.contains(part), "{part} is not in\n{page}");
    }
}

#[test]
fn there_is_a_report_before_anything_was_seen() {
    let plan = Plan::read(
        "p",
        &json!({"stages": [{"name": "a", "flags": {"enableRouteCache": true}, "hold": "0s"}]}),
    );
    let now = crate::run::Now { ms: u64::MAX, flags: Default::default() };
    let step = start(&plan.unwrap(), None, "ann", &now).unwrap();
    let page = report(&step.run, None).to_markdown();
    assert!(page.contains("| a | `enableRouteCache: true` | 0 | 0 | 0s | going on |"), "{page}");
}
