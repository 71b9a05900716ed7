//! Mirrors on a real Envoy: who gets a copy, what is in it, and that nobody else sees
//! anything of that.

use crate::binomial::likely_range;
use crate::hang_up_backend::HangUpBackend;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use tidegate_backend::{Authority, InProcess};
use tidegate_stack::http::{self, Connection, Method, PATIENCE, Request};
use tidegate_stack::ports::{Refusing, Silent, local};
use tidegate_stack::{NamedBackend, Options, Stack, Trust, wait};

/// Clusters of Envoy's that get copies.
const COPIES: [&str; 4] = ["first", "second", "third", "fourth"];

/// A backend, mirrors that answer, and mirrors that do not.
struct Scene {
    stack: Stack,
    demo: InProcess,
    copies: [InProcess; 4],
    /// Backends of the API, one in the clear and one with TLS.
    shadow: InProcess,
    vault: InProcess,
    _bad: (Silent, Refusing, HangUpBackend),
}

/// A rule for requests of this case, that go to the demo backend.
fn rule(case: &str, filters: &[Value]) -> Value {
    json!({
        "matches": [{ "headers": [{ "name": "x-case", "value": case }] }],
        "filters": filters,
        "backendRefs": [{ "name": "demo" }],
    })
}

/// A filter that mirrors to `to`; all of the requests, or this part of them.
fn mirror(to: &Value, part: &Value) -> Value {
    let mut settings = json!({ "backendRef": to });
    if let (Value::Object(settings), Value::Object(part)) = (&mut settings, part) {
        settings.extend(part.clone());
    }
    json!({ "type": "RequestMirror", "requestMirror": settings })
}

fn all_to(name: &str) -> Value {
    mirror(&json!({ "name": name }), &Value::Null)
}

fn of_api(name: &str) -> Value {
    json!({ "group": "tidegate.dev", "kind": "Backend", "name": name })
}

fn rules() -> Value {
    let part = |name: &str, part: Value| mirror(&json!({ "name": name }), &part);
    let rewrite = json!({ "type": "URLRewrite", "urlRewrite": {
        "hostname": "inner.example",
        "path": { "type": "ReplaceFullPath", "replaceFullPath": "/inner" },
    } });
    let set = json!({ "type": "RequestHeaderModifier", "requestHeaderModifier": {
        "set": [{ "name": "x-set", "value": "by the gate" }],
    } });
    let mut slow = rule("silent", &[all_to("silent")]);
    // Were it waited for, the client would get 504.
    slow["timeouts"] = json!({ "request": "2s" });
    let mut chosen = rule("chosen", &[all_to("first")]);
    chosen["backendRefs"] = json!([
        { "name": "demo", "weight": 0, "filters": [all_to("second")] },
        { "name": "fourth", "weight": 1, "filters": [all_to("third")] },
    ]);
    let mut of_api_to_api = rule("api to api", &[mirror(&of_api("vault"), &Value::Null)]);
    of_api_to_api["backendRefs"] = json!([of_api("shadow")]);
    json!([
        rule("one", &[all_to("first")]),
        rule("four", &COPIES.map(all_to)),
        rule(
            "parts",
            &[
                part("first", json!({ "percent": 25 })),
                part("second", json!({ "fraction": { "numerator": 1, "denominator": 3 } })),
                part("third", json!({ "percent": 0 })),
                part("fourth", json!({ "percent": 100 })),
            ],
        ),
        rule("rewritten", &[rewrite, set, all_to("first")]),
        rule("api", &[mirror(&of_api("shadow"), &Value::Null), mirror(&of_api("vault"), &Value::Null)]),
        rule("refusing", &[all_to("refusing")]),
        rule("hangs-up", &[all_to("hangs-up")]),
        rule("unknown", &[all_to("no-such-cluster"), all_to("first")]),
        slow,
        chosen,
        of_api_to_api,
    ])
}

impl Scene {
    fn start() -> Result<Self> {
        let mut options = Options::for_test("http-mirrors")?;
        let authority = Authority::new(&options.dir.join("lab.pem"))?;
        options.trusts.push(Trust { name: "lab".to_owned(), authorities: authority.file().to_owned() });
        let demo = InProcess::start("demo", local(0))?;
        let copies = COPIES.map(|name| InProcess::start(name, local(0)));
        let copies = copies.into_iter().collect::<Result<Vec<_>>>()?;
        let copies: [InProcess; 4] = copies.try_into().ok().context("not four copies")?;
        let shadow = InProcess::start("shadow", local(0))?;
        let vault = InProcess::start_tls("vault", &authority, &["vault.test"])?;
        let (silent, refusing, hangs_up) =
            (Silent::new()?, Refusing::new()?, HangUpBackend::start(u32::MAX)?);
        let addresses = copies.iter().map(InProcess::address).chain([
            demo.address(),
            silent.address()?,
            refusing.address(),
            hangs_up.address(),
        ]);
        let names = COPIES.into_iter().chain(["demo", "silent", "refusing", "hangs-up"]);
        options.backends.extend(names.zip(addresses).map(|(name, address)| NamedBackend::at(name, address)));
        let stack = Stack::start_serving(options)?;
        let document =
            |backend: &InProcess| json!({ "address": backend.address().to_string(), "allow_private": true });
        stack.put_backend("shadow", &document(&shadow))?;
        let mut with_tls = document(&vault);
        with_tls["tls"] = json!({ "sni": "vault.test", "trust": "lab" });
        stack.put_backend("vault", &with_tls)?;
        stack.put_spec("mirrors", &json!({ "rules": rules() }))?;
        Ok(Self { stack, demo, copies, shadow, vault, _bad: (silent, refusing, hangs_up) })
    }

    /// Sends it, and answers with who answered, which must be with 200.
    fn send(&self, case: &str, request: Request) -> Result<String> {
        let answer = http::send(self.stack.gate(), &request.header("x-case", case))?;
        assert_eq!(answer.status, 200, "{case}: {}", answer.text());
        Ok(answer.json()?["backend"].as_str().unwrap_or_default().to_owned())
    }

    /// Waits until no copy is under way any more.
    fn wait_quiet(&self) -> Result<()> {
        wait::until("all copies have been delivered", PATIENCE, || {
            let stats = self.stack.stats()?;
            let busy = ["upstream_rq_active", "upstream_rq_pending_active"]
                .map(|gauge| stats.get(&format!("cluster.tidegate-mirrors.{gauge}")).unwrap_or_default());
            Ok((busy == [0, 0]).then_some(()))
        })
    }

    /// How many requests with `key` in their path each copy has seen by now.
    fn counts(&self, key: &str) -> [u32; 4] {
        self.copies.each_ref().map(|copy| u32::try_from(seen(copy, key).len()).unwrap_or(u32::MAX))
    }
}

fn seen(backend: &InProcess, key: &str) -> Vec<Value> {
    backend.seen().into_iter().filter(|seen| has(seen, key)).collect()
}

fn has(seen: &Value, key: &str) -> bool {
    seen["path"].as_str().is_some_and(|path| path.contains(key))
}

/// The copy has all that the backend has, and both have nothing of the gate's.
fn assert_same(backend: &InProcess, copy: &InProcess, key: &str) -> Result<Value> {
    let [original] = &seen(backend, key)[..] else { panic!("{key}: {:?}", backend.seen()) };
    let copies = copy.wait_seen(1, |seen| has(seen, key))?;
    let [copy] = &copies[..] else { panic!("{key}: {copies:?}") };
    for field in ["method", "path", "host", "headers", "body_bytes"] {
        assert_eq!(copy[field], original[field], "{field} of {key}");
    }
    let names = copy["headers"].as_object().context("no headers")?.keys();
    let ours: Vec<_> =
        names.filter(|name| name.starts_with("x-tidegate-") || name.starts_with("x-envoy-")).collect();
    assert!(ours.is_empty(), "{ours:?}");
    Ok(copy.clone())
}

fn a_copy_is_the_whole_request(scene: &Scene, key: &str) -> Result<()> {
    let key = format!("whole-{key}");
    let request = Request::new(Method::PUT, &format!("/a%20b?x=1&y=%2F&key={key}"))
        .header("host", "shop.example:8080")
        .header("x-line", "one")
        .header("x-line", b"caf\xe9")
        .body("text/plain", vec![b'x'; 3_000_000]);
    assert_eq!(scene.send("one", request)?, "demo");
    let copy = assert_same(&scene.demo, &scene.copies[0], &key)?;
    assert_eq!((&copy["method"], &copy["body_bytes"]), (&json!("PUT"), &json!(3_000_000)));
    assert_eq!(copy["host"], "shop.example:8080");
    Ok(())
}

/// A copy is made of what the backend gets: it has the new path.
fn a_copy_is_made_after_rewrites(scene: &Scene, key: &str) -> Result<()> {
    let key = format!("rewritten-{key}");
    assert_eq!(scene.send("rewritten", Request::get(&format!("/outer?key={key}")))?, "demo");
    let copy = assert_same(&scene.demo, &scene.copies[0], &key)?;
    assert_eq!(copy["path"], format!("/inner?key={key}"));
    assert_eq!((&copy["host"], &copy["headers"]["x-set"]), (&json!("inner.example"), &json!("by the gate")));
    Ok(())
}

fn each_mirror_gets_each_request_once(scene: &Scene, key: &str) -> Result<()> {
    let target = |case: &str| format!("/each?key={case}-{key}");
    for _ in 0..10 {
        let request = Request::new(Method::POST, &target("four")).body("text/plain", "12345");
        assert_eq!(scene.send("four", request)?, "demo");
        // The rule's, and that of the backend that was chosen.
        assert_eq!(scene.send("chosen", Request::get(&target("chosen")))?, "fourth");
    }
    scene.wait_quiet()?;
    assert_eq!(scene.counts(&target("four")), [10; 4]);
    let bodies = scene.copies.iter().flat_map(|copy| seen(copy, &target("four")));
    assert!(bodies.into_iter().all(|seen| seen["body_bytes"] == 5));
    assert_eq!(scene.counts(&target("chosen")), [10, 0, 10, 10]);
    assert_eq!(seen(&scene.demo, &target("chosen")), Vec::<Value>::new());
    Ok(())
}

fn a_part_is_as_large_as_it_says(scene: &Scene, key: &str) -> Result<()> {
    const COUNT: u32 = 600;
    let mut workers = scene.stack.connection_per_worker()?;
    for at in 0..COUNT {
        let request = Request::get(&format!("/part-{key}?at={at}.")).header("x-case", "parts");
        let worker = at as usize % workers.len();
        assert_eq!(workers[worker].send(&request)?.json()?["backend"], "demo");
    }
    scene.wait_quiet()?;
    let path = format!("/part-{key}?");
    let [quarter, third, none, all] = scene.counts(&path);
    assert_eq!((none, all), (0, COUNT));
    assert!(likely_range(COUNT, 0.25).contains(&quarter), "{quarter} of {COUNT}");
    assert!(likely_range(COUNT, 1.0 / 3.0).contains(&third), "{third} of {COUNT}");
    // Whether one gets a request says nothing of the other.
    let firsts = seen(&scene.copies[0], &path);
    let paths: Vec<_> = firsts.iter().map(|seen| &seen["path"]).collect();
    let both = seen(&scene.copies[1], &path).iter().filter(|seen| paths.contains(&&seen["path"])).count();
    let both = u32::try_from(both)?;
    assert!(likely_range(COUNT, 1.0 / 12.0).contains(&both), "{both} of {COUNT} to both");
    Ok(())
}

fn backends_of_the_api_get_copies(scene: &Scene, key: &str) -> Result<()> {
    let request = |key: &str| {
        let target = format!("/api?key={key}");
        Request::new(Method::POST, &target).header("host", "shop.example").body("text/plain", "12345")
    };
    let from_static = format!("static-{key}");
    assert_eq!(scene.send("api", request(&from_static))?, "demo");
    assert_same(&scene.demo, &scene.shadow, &from_static)?;
    assert_eq!(assert_same(&scene.demo, &scene.vault, &from_static)?["sni"], "vault.test");
    // Where the request goes and where its copy goes are not mixed up.
    let from_api = format!("dynamic-{key}");
    assert_eq!(scene.send("api to api", request(&from_api))?, "shadow");
    let copy = assert_same(&scene.shadow, &scene.vault, &from_api)?;
    assert_eq!((&copy["sni"], &copy["host"]), (&json!("vault.test"), &json!("shop.example")));
    Ok(())
}

fn what_a_mirror_answers_never_shows(scene: &Scene, key: &str) -> Result<()> {
    // It fails at the mirror only: the backend has had its failure.
    let target = format!("/flaky?times=1&status=500&key=mirror-{key}");
    assert_eq!(http::send(scene.demo.address(), &Request::get(&target))?.status, 500);
    let failures = || -> Result<u64> {
        Ok(scene.stack.stats()?.get("cluster.first.upstream_rq_500").unwrap_or_default())
    };
    let before = failures()?;
    assert_eq!(scene.send("one", Request::get(&target))?, "demo");
    wait::until("the mirror fails", PATIENCE, || Ok((failures()? == before + 1).then_some(())))?;
    for case in ["refusing", "hangs-up", "silent", "unknown"] {
        let mut connection = Connection::open(scene.stack.gate())?;
        for _ in 0..5 {
            let request = Request::get(&format!("/bad?key={case}-{key}")).header("x-case", case);
            let answer = connection.send(&request)?;
            assert_eq!((answer.status, &answer.json()?["backend"]), (200, &json!("demo")), "{case}");
        }
    }
    // One that there is not takes nothing from the next.
    scene.copies[0].wait_seen(5, |seen| has(seen, &format!("key=unknown-{key}")))?;
    Ok(())
}

fn a_client_cannot_mirror(scene: &Scene, key: &str) -> Result<()> {
    let target = format!("/spoof?key={key}");
    let request = Request::get(&target)
        .header("x-tidegate-mirror-1", "tidegate-dynamic")
        .header("x-tidegate-mirror-1-host", "127.0.0.1")
        .header("x-tidegate-mirror-1-port", scene.shadow.address().port().to_string())
        .header("x-tidegate-mirror-2", "second");
    assert_eq!(scene.send("no such case", request.clone())?, "demo");
    assert_eq!(scene.send("one", request)?, "demo");
    scene.wait_quiet()?;
    assert_eq!(scene.counts(&target), [1, 0, 0, 0]);
    assert_eq!(seen(&scene.shadow, &target), Vec::<Value>::new());
    Ok(())
}

#[test]
fn copies_go_where_routes_say_and_nobody_sees_it() {
    let scene = Scene::start().unwrap();
    // The second time by the database's word.
    for (key, on) in [("cached", true), ("direct", false)] {
        scene.stack.all_flags(on).unwrap();
        a_copy_is_the_whole_request(&scene, key).unwrap();
        a_copy_is_made_after_rewrites(&scene, key).unwrap();
        each_mirror_gets_each_request_once(&scene, key).unwrap();
        a_part_is_as_large_as_it_says(&scene, key).unwrap();
        backends_of_the_api_get_copies(&scene, key).unwrap();
        a_client_cannot_mirror(&scene, key).unwrap();
        what_a_mirror_answers_never_shows(&scene, key).unwrap();
    }
    // Copies are no requests of clients.
    let whole = scene.stack.recorded(PATIENCE).unwrap();
    assert!(whole.is_whole(), "{whole:?}");
    let stats = scene.stack.stats().unwrap();
    assert_eq!(stats.get("http.gate.downstream_rq_completed"), Some(whole.numbered));
}
