//! Retries on a real Envoy: what is tried again, how often, and what comes of it at the
//! end. Tries are counted where they arrive.

use crate::hang_up_backend::HangUpBackend;
use anyhow::Result;
use serde_json::{Value, json};
use tidegate_backend::InProcess;
use tidegate_stack::http::{self, Method, PATIENCE, Request};
use tidegate_stack::load::Load;
use tidegate_stack::ports::{Refusing, local};
use tidegate_stack::{NamedBackend, Options, Stack};

/// A backend that can fail with statuses, and some that fail without.
struct Scene {
    stack: Stack,
    demo: InProcess,
    hangs_up: [(&'static str, HangUpBackend); 4],
    _refusing: Refusing,
}

fn rule(case: &str, backend: &str, retry: Value) -> Value {
    let matches = json!([{ "headers": [{ "name": "x-case", "value": case }] }]);
    let mut rule = json!({ "matches": matches, "backendRefs": [{ "name": backend }] });
    if !retry.is_null() {
        rule["retry"] = retry;
    }
    rule
}

impl Scene {
    fn start() -> Result<Self> {
        let (demo, refusing) = (InProcess::start("demo", local(0))?, Refusing::new()?);
        let hangs_up = [
            // Answers the third try; the second one of each has no such luck.
            ("hangs-up", HangUpBackend::start(2)?),
            ("hangs-up-direct", HangUpBackend::start(2)?),
            ("hopeless", HangUpBackend::start(u32::MAX)?),
            ("hopeless-direct", HangUpBackend::start(u32::MAX)?),
        ];
        let mut options = Options::for_test("http-retries")?;
        options.backends.push(NamedBackend::at("demo", demo.address()));
        options.backends.push(NamedBackend::at("refusing", refusing.address()));
        options
            .backends
            .extend(hangs_up.iter().map(|(name, hangs_up)| NamedBackend::at(name, hangs_up.address())));
        let stack = Stack::start_serving(options)?;
        let twice = json!({ "attempts": 2 });
        let mut limited = rule("limited", "demo", twice.clone());
        limited["timeouts"] = json!({ "backendRequest": "200ms" });
        let mut rules = vec![
            rule("by default", "demo", json!({ "codes": [503] })),
            rule("never", "demo", json!({ "attempts": 0, "codes": [503] })),
            rule("listed", "demo", json!({ "attempts": 2, "codes": [500, 503] })),
            rule("no codes", "demo", twice.clone()),
            limited,
            rule("refusing", "refusing", json!({ "attempts": 3 })),
            rule("refusing, once", "refusing", Value::Null),
            rule("hopeless, once", "hopeless", Value::Null),
        ];
        let mut of_api = rule("of the api", "far", json!({ "codes": [503] }));
        of_api["backendRefs"] = json!([{ "group": "tidegate.dev", "kind": "Backend", "name": "far" }]);
        rules.push(of_api);
        rules.extend(hangs_up.iter().map(|(name, _)| rule(name, name, twice.clone())));
        let far = json!({ "address": demo.address().to_string(), "allow_private": true });
        stack.put_backend("far", &far)?;
        stack.put_spec("retries", &json!({ "rules": rules }))?;
        Ok(Self { stack, demo, hangs_up, _refusing: refusing })
    }

    /// What the client gets at the end.
    fn status(&self, request: Request, case: &str) -> Result<u16> {
        Ok(http::send(self.stack.gate(), &request.header("x-case", case))?.status)
    }

    /// What the demo backend has seen of one request.
    fn tries(&self, target: &str) -> Vec<Value> {
        self.demo.seen().into_iter().filter(|seen| seen["path"] == target).collect()
    }

    /// What a client gets when the backend fails `times` with `failure`, and how often
    /// the backend was asked.
    fn flaky(&self, key: &str, case: &str, times: u32, failure: u16) -> Result<(u16, usize)> {
        let key = format!("{key}-{}-{times}", case.replace(' ', "-"));
        let target = format!("/flaky?times={times}&status={failure}&key={key}-{failure}");
        Ok((self.status(Request::get(&target), case)?, self.tries(&target).len()))
    }

    fn taken(&self, name: &str) -> u32 {
        self.hangs_up.iter().find(|(other, _)| *other == name).map_or(0, |(_, hangs_up)| hangs_up.taken())
    }

    /// Connections to the backend that refuses them, by Envoy's count: nobody else sees
    /// them.
    fn refused(&self) -> Result<u64> {
        Ok(self.stack.stats()?.get("cluster.refusing.upstream_cx_connect_fail").unwrap_or_default())
    }
}

fn statuses_are_tried_again_where_they_are_listed(scene: &Scene, key: &str) -> Result<()> {
    for (case, times, failure, expected) in [
        ("no such case", 1, 503, (503, 1)),
        // One attempt, unless another number is given: the first try is none.
        ("by default", 1, 503, (200, 2)),
        ("by default", 2, 503, (503, 2)),
        ("never", 1, 503, (503, 1)),
        ("listed", 2, 503, (200, 3)),
        ("listed", 2, 500, (200, 3)),
        // The backend's own status, once there are no tries left.
        ("listed", 3, 503, (503, 3)),
        ("listed", 3, 500, (500, 3)),
        ("listed", 1, 502, (502, 1)),
        ("listed", 1, 404, (404, 1)),
        ("no codes", 1, 503, (503, 1)),
    ] {
        let came = scene.flaky(key, case, times, failure)?;
        assert_eq!(came, expected, "{case}: {times} times {failure}, {key}");
    }
    Ok(())
}

fn every_try_is_the_whole_request(scene: &Scene, key: &str) -> Result<()> {
    let target = format!("/flaky?times=2&status=503&key=post-{key}");
    let request = Request::new(Method::POST, &target).body("text/plain", vec![b'x'; 50_000]);
    assert_eq!(scene.status(request, "listed")?, 200);
    let tries = scene.tries(&target);
    assert_eq!(tries.len(), 3);
    for seen in &tries {
        assert_eq!((&seen["method"], &seen["body_bytes"]), (&json!("POST"), &json!(50_000)));
        assert_eq!(seen["headers"], tries[0]["headers"]);
    }
    // One that is too long to be kept for another try is sent once.
    let target = format!("/flaky?times=1&status=503&key=long-{key}");
    let request = Request::new(Method::POST, &target).body("text/plain", vec![b'x'; 3_000_000]);
    assert_eq!((scene.status(request, "listed")?, scene.tries(&target).len()), (503, 1));
    let names = tries[0]["headers"].as_object().into_iter().flat_map(|headers| headers.keys());
    let ours: Vec<_> =
        names.filter(|name| name.starts_with("x-envoy-") || name.starts_with("x-tidegate-")).collect();
    assert!(ours.is_empty(), "{ours:?}");
    Ok(())
}

fn connections_that_fail_are_tried_again(scene: &Scene, hangs_up: &str, hopeless: &str) -> Result<()> {
    let get = || Request::get("/");
    // They end before there is an answer.
    assert_eq!((scene.status(get(), hangs_up)?, scene.taken(hangs_up)), (200, 3));
    assert_eq!((scene.status(get(), hopeless)?, scene.taken(hopeless)), (503, 3));
    let before = scene.taken("hopeless");
    assert_eq!((scene.status(get(), "hopeless, once")?, scene.taken("hopeless")), (503, before + 1));
    // They never begin.
    let before = scene.refused()?;
    assert_eq!((scene.status(get(), "refusing")?, scene.refused()?), (503, before + 4));
    assert_eq!((scene.status(get(), "refusing, once")?, scene.refused()?), (503, before + 5));
    Ok(())
}

fn tries_that_take_too_long_are_tried_again(scene: &Scene, key: &str) -> Result<()> {
    let target = format!("/slow?ms=60000&key={key}");
    assert_eq!(scene.status(Request::get(&target), "limited")?, 504);
    assert_eq!(scene.tries(&target).len(), 3);
    Ok(())
}

/// Many requests at a time fail once, at a cluster of Envoy's and at a backend of the
/// API: none of them is left with its failure.
fn retries_do_not_crowd_each_other_out(scene: &Scene) -> Result<()> {
    for case in ["listed", "of the api"] {
        let load = Load::start(scene.stack.gate(), 32, Some(640), move |at| {
            let key = format!("{}-{at}", case.replace(' ', "-"));
            Request::get(&format!("/flaky?times=1&status=503&key={key}")).header("x-case", case)
        });
        let tally = load.finish();
        assert_eq!((tally.status(200), tally.total()), (640, 640), "{case}: {tally:?}");
    }
    Ok(())
}

#[test]
fn what_fails_is_tried_again_as_the_route_says() {
    let scene = Scene::start().unwrap();
    for (key, on, hangs_up, hopeless) in
        [("cached", true, "hangs-up", "hopeless"), ("direct", false, "hangs-up-direct", "hopeless-direct")]
    {
        scene.stack.all_flags(on).unwrap();
        statuses_are_tried_again_where_they_are_listed(&scene, key).unwrap();
        every_try_is_the_whole_request(&scene, key).unwrap();
        connections_that_fail_are_tried_again(&scene, hangs_up, hopeless).unwrap();
        tries_that_take_too_long_are_tried_again(&scene, key).unwrap();
    }
    scene.stack.all_flags(true).unwrap();
    retries_do_not_crowd_each_other_out(&scene).unwrap();
    // One event, however many tries.
    let whole = scene.stack.recorded(PATIENCE).unwrap();
    assert!(whole.is_whole(), "{whole:?}");
    let rows = "SELECT count(*) FROM traffic_events WHERE path = '/slow' AND status = 504";
    assert_eq!(scene.stack.sql().unwrap().number(rows).unwrap(), 2);
}
