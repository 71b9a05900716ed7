//! Backends of the API on a real Envoy: requests go where its configuration knows
//! nothing of, in the clear and over TLS, and nowhere else.

use std::net::{Ipv6Addr, SocketAddr};
use std::time::Instant;

use crate::grpc;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use tidegate_backend::{Authority, InProcess, Served};
use tidegate_stack::http::{self, Connection, Method, PATIENCE, Request, Response};
use tidegate_stack::load::Load;
use tidegate_stack::ports::{Refusing, local};
use tidegate_stack::programs::public_authorities;
use tidegate_stack::{Options, Stack, Trust, wait};

/// Backends that the API is told of one by one, and `demo`, which Envoy's configuration
/// has.
struct Scene {
    stack: Stack,
    far: InProcess,
    near: InProcess,
    /// With the certificates of an authority that Envoy trusts as `lab`: for
    /// `vault.test` and `bank.test`.
    vault: InProcess,
    /// With one for `vault.test`, of an authority that nobody trusts.
    impostor: InProcess,
    /// With a good one, for `bank.test`, whoever is asked for.
    bank: InProcess,
    /// Speaks HTTP/2 without TLS, and nothing else.
    grpc: Served,
}

impl Scene {
    fn start() -> Result<Self> {
        let mut options = Options::for_test("backends")?;
        let lab = Authority::new(&options.dir.join("lab.pem"))?;
        let other = Authority::new(&options.dir.join("other.pem"))?;
        options.trusts.push(Trust { name: "lab".to_owned(), authorities: lab.file().to_owned() });
        Ok(Self {
            stack: Stack::start_serving(options)?,
            far: InProcess::start("far", local(0))?,
            near: InProcess::start("near", local(0))?,
            vault: InProcess::start_tls("vault", &lab, &["vault.test", "bank.test"])?,
            impostor: InProcess::start_tls("impostor", &other, &["vault.test"])?,
            bank: InProcess::start_tls_as("bank", &lab, "bank.test")?,
            grpc: grpc::start_server()?,
        })
    }

    /// Makes or replaces a backend, and a route that sends it what begins with its name.
    fn put(&self, name: &str, address: SocketAddr, tls: Option<Value>) -> Result<()> {
        self.put_document(name, &document(&address.to_string(), tls))
    }

    fn put_document(&self, name: &str, document: &Value) -> Result<()> {
        self.stack.put_backend(name, document)?;
        self.route(name)
    }

    fn route(&self, name: &str) -> Result<()> {
        let path = json!({ "type": "PathPrefix", "value": format!("/{name}") });
        let rule = json!({ "matches": [{ "path": path }], "backendRefs": [of_api(name)] });
        self.stack.put_spec(name, &json!({ "rules": [rule] }))
    }

    /// Removes backend and route.
    fn delete(&self, name: &str) -> Result<()> {
        self.stack.delete_route(name)?;
        self.stack.api_ok(Method::DELETE, &format!("/api/admin/backends/{name}?wait_applied=30s"), None)?;
        Ok(())
    }

    /// Every worker sends what begins with this to the backend `expected`; what that saw.
    fn assert_reaches(&self, path: &str, expected: &str) -> Result<Value> {
        let mut seen = Value::Null;
        for mut worker in self.stack.connection_per_worker()? {
            for _ in 0..5 {
                let answer = worker.send(&Request::get(path).header("host", "shop.example:8080"))?;
                assert_eq!(answer.status, 200, "{path}: {}", answer.text());
                seen = answer.json()?;
                assert_eq!(seen["backend"], expected, "{path}");
                assert_eq!(seen["host"], "shop.example:8080", "the client's Host is kept");
            }
        }
        Ok(seen)
    }

    /// No worker lets it reach anybody.
    fn assert_fails(&self, path: &str, status: u16) -> Result<Response> {
        let mut last = None;
        for mut worker in self.stack.connection_per_worker()? {
            let answer = worker.send(&Request::get(path))?;
            assert_eq!(answer.status, status, "{path}: {}", answer.text());
            last = Some(answer);
        }
        last.context("no worker")
    }
}

fn document(address: &str, tls: Option<Value>) -> Value {
    let mut document = json!({ "address": address, "allow_private": true });
    if let Some(tls) = tls {
        document["tls"] = tls;
    }
    document
}

fn of_api(name: &str) -> Value {
    json!({ "group": "tidegate.dev", "kind": "Backend", "name": name })
}

fn lab(sni: &str) -> Option<Value> {
    Some(json!({ "sni": sni, "trust": "lab" }))
}

/// Added, moved, removed: by the API alone.
fn a_backend_takes_requests_while_it_is_there(scene: &Scene) -> Result<()> {
    let configured = || -> Result<Vec<Option<u64>>> {
        let stats = scene.stack.stats()?;
        let changes = ["cluster_added", "cluster_modified", "cluster_removed"]
            .map(|of| format!("cluster_manager.{of}"));
        Ok(changes.iter().map(|name| stats.get(name)).collect())
    };
    let (started, before) = (scene.stack.started(), configured()?);
    scene.route("moving")?;
    assert_eq!(scene.assert_fails("/moving", 500)?.json()?["code"], "no_backend", "it is not there yet");
    let began = Instant::now();
    scene.stack.put_backend("moving", &document(&scene.far.address().to_string(), None))?;
    println!("a backend is enforced by every worker {:?} after it was asked for", began.elapsed());
    scene.assert_reaches("/moving", "far")?;
    scene.put("moving", scene.near.address(), None)?;
    scene.assert_reaches("/moving", "near")?;
    assert!(before[0] > Some(0), "{before:?}");
    assert_eq!(configured()?, before, "Envoy was not told of a cluster");
    assert_eq!(scene.stack.started(), started, "nothing was restarted");

    let target = "/api/admin/backends/moving";
    let needed = scene.stack.api(Method::DELETE, target, None)?;
    assert_eq!((needed.status, needed.json()?["code"].as_str()), (409, Some("backend_in_use")));
    scene.assert_reaches("/moving", "near")?;
    scene.delete("moving")?;
    assert_eq!(scene.stack.api(Method::GET, target, None)?.status, 404);
    scene.assert_reaches("/moving", "demo")?;
    Ok(())
}

/// A reference to a Service means the API's backend, if there is one of that name.
fn a_name_means_the_backend_of_the_api(scene: &Scene) -> Result<()> {
    scene.stack.put_route("by-name", "/by-name", "demo")?;
    scene.assert_reaches("/by-name", "demo")?;
    scene.stack.put_backend("demo", &document(&scene.far.address().to_string(), None))?;
    scene.assert_reaches("/by-name", "far")?;
    scene.stack.delete_route("by-name")?;
    // Envoy has one of that name, so nobody needs the API's.
    let target = "/api/admin/backends/demo?wait_applied=30s";
    scene.stack.api_ok(Method::DELETE, target, None)?;
    scene.assert_reaches("/", "demo")?;
    Ok(())
}

fn a_private_address_must_be_allowed(scene: &Scene) -> Result<()> {
    scene.put("guarded", scene.far.address(), None)?;
    for address in
        [scene.near.address().to_string(), "localhost:80".to_owned(), "169.254.169.254:80".to_owned()]
    {
        let answer = scene.stack.api(
            Method::PUT,
            "/api/admin/backends/guarded",
            Some(&json!({ "address": address })),
        )?;
        let problem = answer.json()?;
        assert_eq!(answer.status, 422, "{address}: {problem}");
        let error = &problem["errors"][0];
        assert_eq!((&error["code"], &error["pointer"]), (&json!("private_address"), &json!("/address")));
    }
    scene.assert_reaches("/guarded", "far")?;
    Ok(())
}

/// A route to the gate itself: the request comes back, and not for long.
fn a_request_does_not_go_in_circles(scene: &Scene) -> Result<()> {
    scene.put("circle", scene.stack.gate(), None)?;
    let denied = || {
        Ok::<_, anyhow::Error>(scene.stack.stats()?.sum(|name| name.ends_with("requests.deny.loop_detected")))
    };
    let before = denied()?;
    let answer = http::send(scene.stack.gate(), &Request::get("/circle"))?;
    assert_eq!((answer.status, answer.json()?["code"].as_str()), (508, Some("loop_detected")));
    let rows = "SELECT status, coalesce(reason, ''), count(*) FROM traffic_events WHERE path = '/circle' GROUP BY 1, 2 ORDER BY 3";
    scene.stack.recorded(PATIENCE)?;
    assert_eq!(scene.stack.sql()?.run(rows)?, ["508|loop_detected|1", "508||4"]);
    wait::until("it is counted", PATIENCE, || Ok((denied()? == before + 1).then_some(())))?;
    scene.delete("circle")
}

fn names_and_v6_are_addresses_too(scene: &Scene) -> Result<()> {
    let port = scene.far.address().port();
    scene.put_document("named", &document(&format!("LocalHost:{port}"), None))?;
    scene.assert_reaches("/named", "far")?;
    match InProcess::start("six", SocketAddr::from((Ipv6Addr::LOCALHOST, 0))) {
        Ok(six) => {
            scene.put("six", six.address(), None)?;
            scene.assert_reaches("/six", "six")?;
            scene.delete("six")
        }
        Err(error) => {
            println!("IPv6 not run: {error:#}");
            Ok(())
        }
    }
}

/// Whatever the client speaks, and a copy of its request too.
fn a_backend_is_spoken_to_in_its_protocol(scene: &Scene) -> Result<()> {
    let h2c = |backend: &InProcess| json!({ "address": backend.address().to_string(), "protocol": "h2c", "allow_private": true });
    scene.put("far", scene.far.address(), None)?;
    assert_eq!(scene.assert_reaches("/far", "far")?["protocol"], "HTTP/1.1");
    scene.put_document("far", &h2c(&scene.far))?;
    assert_eq!(scene.assert_reaches("/far", "far")?["protocol"], "HTTP/2.0");
    scene.stack.put_backend("copied", &h2c(&scene.near))?;
    let mirror = json!({ "type": "RequestMirror", "requestMirror": { "backendRef": of_api("copied") } });
    let path = json!({ "type": "PathPrefix", "value": "/copied" });
    let rule = json!({ "matches": [{ "path": path }], "filters": [mirror], "backendRefs": [of_api("far")] });
    scene.stack.put_spec("copied", &json!({ "rules": [rule] }))?;
    let target = format!("/copied/{}", scene.near.seen().len());
    assert_eq!(http::send(scene.stack.gate(), &Request::get(&target))?.json()?["backend"], "far");
    let copies = scene.near.wait_seen(1, |seen| seen["path"] == *target)?;
    assert_eq!(copies[0]["protocol"], "HTTP/2.0", "{}", copies[0]);
    scene.delete("copied")
}

fn grpc_goes_both_ways(scene: &Scene) -> Result<()> {
    let address = scene.grpc.address().to_string();
    let document = json!({ "address": address, "appProtocol": "kubernetes.io/h2c", "allow_private": true });
    scene.stack.put_backend("grpc", &document)?;
    let path = json!({ "type": "PathPrefix", "value": "/test.Echo" });
    let rule = json!({ "matches": [{ "path": path }], "backendRefs": [of_api("grpc")] });
    scene.stack.put_spec("grpc", &json!({ "rules": [rule] }))?;
    let client = grpc::Client::open(scene.stack.gate())?;
    for message in [vec![], b"one".to_vec(), vec![7; 300_000]] {
        assert_eq!(client.unary("/test.Echo/Once", &message)?, message);
    }
    let messages: Vec<_> = (0u8..20).map(|at| vec![at; usize::from(at) * 4_000]).collect();
    client.both_ways("/test.Echo/Stream", &messages)?;
    assert_eq!(client.status("/test.Echo/Fail", "192.0.2.1")?, "5", "the backend's");
    scene.stack.ban("192.0.2.77")?;
    assert_eq!(
        client.status("/test.Echo/Once", "192.0.2.77")?,
        "7",
        "the gate's 403 as Envoy says it in gRPC"
    );
    Ok(())
}

fn only_who_is_trusted_by_that_name_is_reached(scene: &Scene) -> Result<()> {
    scene.put("vault", scene.vault.address(), lab("vault.test"))?;
    let seen = scene.assert_reaches("/vault", "vault")?;
    assert_eq!(seen["sni"], "vault.test");
    // Where the machine has no public authorities, the stack has no such cluster.
    let public = if public_authorities().is_some() { 503 } else { 500 };
    let told = || [&scene.vault, &scene.impostor, &scene.bank].map(|backend| backend.seen().len());
    let before = told();
    for (name, backend, tls, status) in [
        // Its authority is private, and this one asks for the public ones.
        ("public", &scene.vault, json!({ "sni": "vault.test" }), public),
        ("impostor", &scene.impostor, json!({ "sni": "vault.test", "trust": "lab" }), 503),
        ("other-name", &scene.bank, json!({ "sni": "vault.test", "trust": "lab" }), 503),
        ("elsewhere", &scene.vault, json!({ "sni": "other.test", "trust": "lab" }), 503),
        ("no-tls-there", &scene.far, json!({ "sni": "vault.test", "trust": "lab" }), 503),
        ("unknown-trust", &scene.vault, json!({ "sni": "vault.test", "trust": "nobody" }), 500),
    ] {
        scene.put(name, backend.address(), Some(tls))?;
        scene.assert_fails(&format!("/{name}"), status)?;
        scene.delete(name)?;
    }
    assert_eq!(told(), before, "nobody was told anything");
    // The certificate is as good as any, for who asks for its name.
    scene.put("bank", scene.bank.address(), lab("bank.test"))?;
    scene.assert_reaches("/bank", "bank")?;
    let refusing = Refusing::new()?;
    scene.put("refusing", refusing.address(), None)?;
    scene.assert_fails("/refusing", 503)?;
    scene.delete("refusing")
}

/// One connection's requests go to one backend after the other, also to two of one
/// address: what was said of one request is not said of the next.
fn requests_of_a_connection_are_apart(scene: &Scene) -> Result<()> {
    scene.put("far", scene.far.address(), None)?;
    scene.put("near", scene.near.address(), None)?;
    scene.put("vault", scene.vault.address(), lab("vault.test"))?;
    scene.put("bank", scene.vault.address(), lab("bank.test"))?;
    for (how, on) in [("caches", true), ("directly", false)] {
        scene.stack.all_flags(on)?;
        for mut worker in scene.stack.connection_per_worker()? {
            for round in 0..5 {
                for (path, backend, sni) in [
                    ("/far", "far", Value::Null),
                    ("/", "demo", Value::Null),
                    ("/vault", "vault", json!("vault.test")),
                    ("/near", "near", Value::Null),
                    ("/bank", "vault", json!("bank.test")),
                    ("/", "demo", Value::Null),
                    ("/bank", "vault", json!("bank.test")),
                    ("/vault", "vault", json!("vault.test")),
                ] {
                    let seen = worker.send(&Request::get(path))?.json()?;
                    assert_eq!(
                        (&seen["backend"], &seen["sni"]),
                        (&json!(backend), &sni),
                        "{path}, {how}, {round}"
                    );
                    let names = seen["headers"].as_object().context("no headers")?.keys();
                    let ours: Vec<_> = names
                        .filter(|name| name.starts_with("x-tidegate-") || name.starts_with("x-envoy-"))
                        .collect();
                    assert!(ours.is_empty(), "{path}: {ours:?}");
                }
            }
        }
    }
    scene.stack.all_flags(true)
}

fn bodies_arrive_whole(scene: &Scene) -> Result<()> {
    for path in ["/far", "/vault"] {
        let request = Request::new(Method::POST, path).body("application/octet-stream", vec![7; 3_000_000]);
        let seen = http::send(scene.stack.gate(), &request)?.json()?;
        assert_eq!((&seen["method"], &seen["body_bytes"]), (&json!("POST"), &json!(3_000_000)), "{path}");
    }
    Ok(())
}

/// Requests go on while their backend moves, and each goes to the old place or the new.
fn a_move_breaks_no_request(scene: &Scene) -> Result<()> {
    scene.put("moved", scene.far.address(), None)?;
    let load = Load::start(scene.stack.gate(), 4, None, |_| Request::get("/moved"));
    for round in 1..=10 {
        let until = load.sent() + 50;
        wait::until("the load is under way", PATIENCE, || Ok((load.sent() >= until).then_some(())))?;
        let (place, name) = if round % 2 == 0 { (&scene.far, "far") } else { (&scene.near, "near") };
        scene.stack.put_backend("moved", &document(&place.address().to_string(), None))?;
        assert_eq!(http::send(scene.stack.gate(), &Request::get("/moved"))?.json()?["backend"], name);
    }
    let tally = load.stop();
    assert_eq!(tally.status(200), tally.total(), "{tally:?}");
    scene.delete("moved")
}

/// More backends than the 1,024 that Envoy's cache of hosts takes by default. Nobody
/// listens there, so that nobody holds a thousand connections.
fn there_may_be_many(scene: &Scene) -> Result<()> {
    const ROUTES: usize = 70;
    const RULES: usize = 16;
    let nobody = Refusing::new()?;
    let mut sql = scene.stack.sql()?;
    sql.run("BEGIN")?;
    for route in 0..ROUTES {
        let mut rules = Vec::new();
        for rule in 0..RULES {
            let name = format!("many-{route}-{rule}");
            let document = document(&format!("127.1.{route}.{}:{}", rule + 1, nobody.address().port()), None);
            sql.run(&format!("INSERT INTO backends (name, document) VALUES ('{name}', '{document}')"))?;
            let path = json!({ "type": "Exact", "value": format!("/{name}") });
            rules.push(json!({ "matches": [{ "path": path }], "backendRefs": [of_api(&name)] }));
        }
        let name = format!("many-{route}");
        let document = json!({ "metadata": { "name": name }, "spec": { "rules": rules } });
        sql.run(&format!("INSERT INTO routes (name, document) VALUES ('{name}', '{document}')"))?;
    }
    sql.run("COMMIT")?;
    scene.stack.wait_enforced()?;
    let mut worker = Connection::open(scene.stack.gate())?;
    for (route, rule) in (0..ROUTES).flat_map(|route| (0..RULES).map(move |rule| (route, rule))) {
        let answer = worker.send(&Request::get(&format!("/many-{route}-{rule}")))?;
        assert!(answer.status == 503 && answer.text().contains("connection failure"), "{}", answer.text());
    }
    sql.run("DELETE FROM routes WHERE name LIKE 'many-%'")?;
    sql.run("DELETE FROM backends WHERE name LIKE 'many-%'")?;
    Ok(())
}

/// Connections to backends are kept, and none breaks a request.
fn connections_are_used_again(scene: &Scene) -> Result<()> {
    const PATHS: [&str; 4] = ["/far", "/near", "/vault", "/bank"];
    let opened = || -> Result<u64> {
        let name =
            |name: &str| name.starts_with("cluster.tidegate-dynamic") && name.ends_with(".upstream_cx_total");
        Ok(scene.stack.stats()?.sum(name))
    };
    let before = opened()?;
    let load = Load::start(scene.stack.gate(), 8, Some(2_000), |at| {
        Request::get(PATHS[usize::try_from(at).unwrap_or_default() % PATHS.len()])
    });
    let tally = load.finish();
    assert_eq!((tally.status(200), tally.total()), (2_000, 2_000), "{tally:?}");
    // Eight clients have at most eight requests under way, to any of four, on two workers.
    let opened = opened()? - before;
    assert!(opened <= 8 * 4 * 2, "{opened} connections for 2,000 requests");
    Ok(())
}

#[test]
fn requests_reach_backends_that_envoys_configuration_does_not_know() {
    let scene = Scene::start().unwrap();
    a_backend_takes_requests_while_it_is_there(&scene).unwrap();
    a_name_means_the_backend_of_the_api(&scene).unwrap();
    a_private_address_must_be_allowed(&scene).unwrap();
    a_request_does_not_go_in_circles(&scene).unwrap();
    names_and_v6_are_addresses_too(&scene).unwrap();
    a_backend_is_spoken_to_in_its_protocol(&scene).unwrap();
    grpc_goes_both_ways(&scene).unwrap();
    only_who_is_trusted_by_that_name_is_reached(&scene).unwrap();
    requests_of_a_connection_are_apart(&scene).unwrap();
    bodies_arrive_whole(&scene).unwrap();
    connections_are_used_again(&scene).unwrap();
    a_move_breaks_no_request(&scene).unwrap();
    there_may_be_many(&scene).unwrap();
    // By the database's word.
    scene.stack.all_flags(false).unwrap();
    a_backend_takes_requests_while_it_is_there(&scene).unwrap();
    names_and_v6_are_addresses_too(&scene).unwrap();
    a_backend_is_spoken_to_in_its_protocol(&scene).unwrap();
    grpc_goes_both_ways(&scene).unwrap();
    only_who_is_trusted_by_that_name_is_reached(&scene).unwrap();
    bodies_arrive_whole(&scene).unwrap();
    let whole = scene.stack.recorded(PATIENCE).unwrap();
    assert!(whole.is_whole(), "{whole:?}");
    let rows = scene
        .stack
        .sql()
        .unwrap()
        .run("SELECT DISTINCT reason FROM traffic_events WHERE path = '/unknown-trust' AND status = 500");
    assert_eq!(rows.unwrap(), ["unknown_backend"]);
}
