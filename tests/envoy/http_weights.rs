//! Weights on a real Envoy: each backend's share of the requests, and the shares that
//! nobody can answer.

use std::collections::BTreeMap;

use crate::binomial::likely_range;
use anyhow::Result;
use serde_json::{Value, json};
use tidegate_backend::InProcess;
use tidegate_stack::http::{Connection, PATIENCE, Request};
use tidegate_stack::ports::local;
use tidegate_stack::{NamedBackend, Options, Stack, wait};

/// Two backends, `demo` and `second`; what no rule below takes goes to `demo`.
fn start() -> Result<(Stack, InProcess)> {
    let second = InProcess::start("second", local(0))?;
    let mut options = Options::for_test("http-weights")?;
    options.backends.push(NamedBackend::at("second", second.address()));
    let stack = Stack::start_serving(options)?;
    let rule = |prefix: &str, backends: Value| json!({ "matches": [{ "path": { "type": "PathPrefix", "value": prefix } }], "backendRefs": backends });
    let bucket = json!({ "group": "example.com", "kind": "Bucket", "name": "b" });
    let nobody = json!({ "group": "tidegate.dev", "kind": "Backend", "name": "nobody" });
    stack.put_spec(
        "weights",
        &json!({ "rules": [
            rule("/ninety", json!([{ "name": "demo", "weight": 90 }, { "name": "second", "weight": 10 }])),
            rule("/default", json!([{ "name": "demo" }, { "name": "second", "weight": 3 }])),
            rule("/off", json!([{ "name": "demo", "weight": 1 }, { "name": "second", "weight": 0 }])),
            rule("/zero", json!([{ "name": "demo", "weight": 0 }, { "name": "second", "weight": 0 }])),
            rule("/empty", json!([])),
            json!({ "matches": [{ "path": { "value": "/absent" } }] }),
            rule("/unknown", json!([{ "name": "no-such-cluster" }])),
            rule("/foreign", json!([bucket])),
            rule("/half-unknown", json!([{ "name": "demo" }, { "name": "no-such-cluster" }])),
            rule("/half-foreign", json!([{ "name": "demo" }, bucket])),
            rule("/half-nobody", json!([{ "name": "demo" }, nobody])),
        ] }),
    )?;
    Ok((stack, second))
}

/// Who answers `count` requests: a backend by its name, or nobody with a status and, if
/// the gate gave it, a code.
fn answers(workers: &mut [Connection], path: &str, count: u32) -> Result<BTreeMap<String, u32>> {
    let mut answers = BTreeMap::new();
    for at in 0..count {
        let worker = at as usize % workers.len();
        let answer = workers[worker].send(&Request::get(path))?;
        // What Envoy answers itself is no JSON.
        let body = answer.json().unwrap_or_default();
        let who = match answer.status {
            200 => body["backend"].as_str().unwrap_or_default().to_owned(),
            status => format!("{status} {}", body["code"].as_str().unwrap_or_default()),
        };
        *answers.entry(who).or_default() += 1;
    }
    Ok(answers)
}

/// Two of them share the requests, `first` with this probability, as well as chance
/// lets them.
fn assert_share(
    workers: &mut [Connection],
    path: &str,
    count: u32,
    first: (&str, f64),
    other: &str,
) -> Result<()> {
    let answers = answers(workers, path, count)?;
    let of = |who: &str| answers.get(who).copied().unwrap_or_default();
    assert_eq!(of(first.0) + of(other), count, "{path}: {answers:?}");
    let range = likely_range(count, first.1);
    assert!(range.contains(&of(first.0)), "{path}: {answers:?}, not {range:?} of {}", first.0);
    Ok(())
}

/// One answers all of them.
fn assert_all(workers: &mut [Connection], path: &str, who: &str) -> Result<()> {
    let answers = answers(workers, path, 20)?;
    assert_eq!(answers.into_iter().collect::<Vec<_>>(), [(who.to_owned(), 20)], "{path}");
    Ok(())
}

fn shares_hold(stack: &Stack, count: u32) -> Result<()> {
    let workers = &mut stack.connection_per_worker()?;
    assert_share(workers, "/ninety", count, ("second", 0.1), "demo")?;
    // A weight that is not given is 1.
    assert_share(workers, "/default", 100, ("demo", 0.25), "second")?;
    assert_all(workers, "/off", "demo")?;
    // Each of these wins its match, though `demo` would answer.
    assert_all(workers, "/zero", "500 no_backend")?;
    assert_all(workers, "/empty", "500 no_backend")?;
    assert_all(workers, "/absent", "500 no_backend")?;
    assert_all(workers, "/foreign", "500 no_backend")?;
    assert_all(workers, "/unknown", "500 ")?;
    // What cannot answer keeps its share: nobody else gets it.
    assert_share(workers, "/half-unknown", 100, ("500 ", 0.5), "demo")?;
    assert_share(workers, "/half-foreign", 100, ("500 no_backend", 0.5), "demo")?;
    assert_share(workers, "/half-nobody", 100, ("500 no_backend", 0.5), "demo")
}

/// What is recorded of those that nobody answered: Envoy's answer has the reason that
/// the gate gives it, and is counted.
fn unknown_backends_are_named(stack: &Stack) -> Result<()> {
    let whole = stack.recorded(PATIENCE)?;
    assert!(whole.is_whole(), "{whole:?}");
    let rows = stack.sql()?.run(
        "SELECT path, verdict, reason FROM traffic_events WHERE status = 500 GROUP BY 1, 2, 3 ORDER BY 1",
    )?;
    let unknown = ["/half-unknown|allow|unknown_backend", "/unknown|allow|unknown_backend"];
    let denied = ["/absent", "/empty", "/foreign", "/half-foreign", "/half-nobody", "/zero"];
    let mut expected: Vec<_> = denied.iter().map(|path| format!("{path}|deny|no_backend")).collect();
    expected.extend(unknown.map(str::to_owned));
    expected.sort();
    assert_eq!(rows, expected);
    let recorded =
        stack.sql()?.number("SELECT count(*) FROM traffic_events WHERE reason = 'unknown_backend'")?;
    wait::until("what was recorded is counted, too", PATIENCE, || {
        let counted = stack.stats()?.get("wasmcustom.tidegate.requests.unknown_backend");
        Ok((counted == Some(recorded)).then_some(()))
    })
}

#[test]
fn shares_of_requests_are_as_weights_say() {
    let (stack, _second) = start().unwrap();
    shares_hold(&stack, 2_000).unwrap();
    // By the database's word.
    stack.all_flags(false).unwrap();
    shares_hold(&stack, 200).unwrap();
    unknown_backends_are_named(&stack).unwrap();
}
