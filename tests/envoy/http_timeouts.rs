//! Timeouts of routes on a real Envoy: what they cut, what they leave, what they span.

use anyhow::Result;
use serde_json::{Value, json};
use tidegate_backend::InProcess;
use tidegate_stack::http::{self, PATIENCE, Request, Response};
use tidegate_stack::ports::{Silent, local};
use tidegate_stack::{NamedBackend, Options, Stack, wait};

/// Longer than anybody here waits.
const SLOW: &str = "/slow?ms=60000";

/// A backend that can be slow, and one that never says a word.
struct Scene {
    stack: Stack,
    demo: InProcess,
    _silent: Silent,
}

impl Scene {
    fn start() -> Result<Self> {
        let (demo, silent) = (InProcess::start("demo", local(0))?, Silent::new()?);
        let mut options = Options::for_test("http-timeouts")?;
        options.backends.push(NamedBackend::at("demo", demo.address()));
        options.backends.push(NamedBackend::at("silent", silent.address()?));
        let stack = Stack::start_serving(options)?;
        let rule = |case: &str, timeouts: Value| {
            json!({
                "matches": [{ "headers": [{ "name": "x-case", "value": case }] }],
                "timeouts": timeouts,
                "backendRefs": [{ "name": "demo" }],
            })
        };
        let mut silent_rule = rule("silent", json!({ "request": "500ms" }));
        silent_rule["backendRefs"] = json!([{ "name": "silent" }]);
        let mut spanning = rule("spanning", json!({ "request": "1s", "backendRequest": "300ms" }));
        spanning["retry"] = json!({ "attempts": 30 });
        stack.put_spec(
            "timeouts",
            &json!({ "rules": [
                rule("request", json!({ "request": "500ms" })),
                rule("none", json!({ "request": "0s", "backendRequest": "0s" })),
                rule("try", json!({ "backendRequest": "300ms" })),
                silent_rule,
                spanning,
            ] }),
        )?;
        Ok(Self { stack, demo, _silent: silent })
    }

    fn send(&self, case: &str, target: &str) -> Result<Response> {
        http::send(self.stack.gate(), &Request::get(target).header("x-case", case))
    }

    /// It takes too long, and the backend sees so many requests for it.
    fn assert_cut(&self, case: &str, key: &str) -> Result<usize> {
        let target = format!("{SLOW}&key={case}-{key}");
        let answer = self.send(case, &target)?;
        assert_eq!(answer.status, 504, "{case}: {}", answer.text());
        assert_eq!(answer.text(), "upstream request timeout", "{case}: it is Envoy's answer");
        Ok(self.demo.seen().iter().filter(|seen| seen["path"] == target.as_str()).count())
    }

    /// A machine that stands still can make any answer late, so it may be asked for
    /// again.
    fn assert_passes(&self, case: &str) -> Result<()> {
        wait::until("a fast answer is not cut", PATIENCE, || {
            let status = self.send(case, "/fast")?.status;
            assert!([200, 504].contains(&status), "{case}: {status}");
            Ok((status == 200).then_some(()))
        })
    }
}

fn timeouts_hold(scene: &Scene, key: &str) -> Result<()> {
    assert_eq!(scene.assert_cut("request", key)?, 1, "nobody said that it is to be tried again");
    scene.assert_passes("request")?;
    assert_eq!(scene.assert_cut("silent", key)?, 0, "of another backend");
    // One try is limited, also where the request is not.
    assert_eq!(scene.assert_cut("try", key)?, 1, "nor here");
    scene.assert_passes("try")?;
    // Tries begin 300 ms after one another at the least: at 0, 300, 600, 900 ms, and no
    // more of the thirty.
    let tries = scene.assert_cut("spanning", key)?;
    assert!((1..=4).contains(&tries), "{tries} tries of 300 ms within a second");
    scene.assert_passes("spanning")?;
    // Zero is no limit, and no limit is none.
    for case in ["none", "no such case"] {
        assert_eq!(scene.send(case, "/slow?ms=700")?.status, 200, "{case}");
    }
    Ok(())
}

#[test]
fn requests_take_as_long_as_their_routes_let_them() {
    let scene = Scene::start().unwrap();
    timeouts_hold(&scene, "cached").unwrap();
    // By the database's word.
    scene.stack.all_flags(false).unwrap();
    timeouts_hold(&scene, "direct").unwrap();
    // What limits Envoy is not for backends.
    let seen = scene.demo.seen();
    let names = seen.iter().filter_map(|seen| seen["headers"].as_object()).flat_map(serde_json::Map::keys);
    let ours: Vec<_> =
        names.filter(|name| name.starts_with("x-envoy-") || name.starts_with("x-tidegate-")).collect();
    assert!(ours.is_empty(), "{ours:?}");
    let whole = scene.stack.recorded(PATIENCE).unwrap();
    assert!(whole.is_whole(), "{whole:?}");
    let cut =
        "SELECT count(*) FROM traffic_events WHERE status = 504 AND route = 'timeouts' AND path = '/slow'";
    assert_eq!(scene.stack.sql().unwrap().number(cut).unwrap(), 8, "one event, however many tries");
}
