//! Clients of HTTP/3, at the listener of `envoy/http3.yaml`: each request is decided as
//! over HTTP/1.1, and is one row, although Envoy does not call `on_log` for it.

mod client;
mod listener;

use std::sync::Arc;

use anyhow::Result;
use serde_json::json;
use tidegate_backend::{Authority, InProcess};
use tidegate_stack::http::{self, Method, PATIENCE, Request};
use tidegate_stack::ports::local;
use tidegate_stack::programs::repository;
use tidegate_stack::{NamedBackend, Options, Stack, wait};

use crate::http2::connection::Connection;
use client::{Client, NAME};
use listener::Http3;

const BANNED: &str = "192.0.2.13";
const WELCOME: &str = "192.0.2.14";
const REQUESTS: usize = 100;

fn start(name: &str, adjust: impl FnOnce(&mut Options)) -> Result<(Stack, Client)> {
    let mut options = Options::for_test(name)?;
    let authority = Authority::new(&options.dir.join("authority.pem"))?;
    options.control = Some(Arc::new(Http3(authority.files(NAME)?)));
    adjust(&mut options);
    let stack = Stack::start_serving(options)?;
    let client = Client::start(&stack, authority.file())?;
    Ok((stack, client))
}

/// What the gate counts: requests of HTTP/3, allowed, denied because banned, numbered.
fn counts(stack: &Stack) -> Result<[u64; 4]> {
    let stats = stack.stats()?;
    let sum = |end: &str| stats.sum(|name| name.ends_with(end));
    Ok([
        sum("http.gate.downstream_rq_http3_total"),
        sum("tidegate.requests.allow"),
        sum("tidegate.requests.deny.ip_banned"),
        sum("tidegate.events.numbered"),
    ])
}

/// A third is banned; four connections at once, with all streams of each.
fn each_request_is_a_row(stack: &Stack, client: &Client, flags: bool, path: &str) -> Result<()> {
    stack.all_flags(flags)?;
    stack.recorded(PATIENCE)?;
    let before = counts(stack)?;
    let connections: Result<Vec<_>> = (0..4).map(|_| Connection::open(client.address())).collect();
    let connections = connections?;
    let sent: Vec<Vec<Request>> = (0..4)
        .map(|connection| {
            let numbers = (0..REQUESTS).filter(|number| number % 4 == connection);
            let request = |number| {
                let from = if number % 3 == 0 { BANNED } else { WELCOME };
                Request::new(Method::POST, &format!("{path}/{number}?secret=1"))
                    .body("text/plain", "12345")
                    .header("user-agent", "http3")
                    .from(from)
            };
            numbers.map(request).collect()
        })
        .collect();
    let under_way: Result<Vec<_>> = connections.iter().zip(&sent).map(|(to, sent)| to.send(sent)).collect();
    let mut statuses = Vec::new();
    for answers in under_way? {
        statuses.extend(answers.finish()?.iter().map(|answer| answer.status));
    }
    let many = |status: u16| statuses.iter().filter(|other| **other == status).count();
    assert_eq!((many(200), many(403)), (66, 34), "{statuses:?}");

    let whole = stack.recorded(PATIENCE)?;
    assert!(whole.is_whole(), "{whole:?}");
    let after = counts(stack)?;
    let counted: Vec<u64> = after.iter().zip(before).map(|(after, before)| after - before).collect();
    assert_eq!(counted, [100, 66, 34, 100], "{before:?} {after:?}");
    let mut sql = stack.sql()?;
    let kinds = sql.run(&format!(
        "SELECT client_ip, verdict, coalesce(reason, ''), status, count(*), count(DISTINCT path) \
         FROM traffic_events WHERE path LIKE '{path}/%' GROUP BY 1, 2, 3, 4 ORDER BY 1"
    ))?;
    let wanted = [format!("{BANNED}|deny|ip_banned|403|34|34"), format!("{WELCOME}|allow||200|66|66")];
    assert_eq!(kinds, wanted);
    let odd = sql.number(&format!(
        "SELECT count(*) FROM traffic_events WHERE path LIKE '{path}/%' AND NOT (method = 'POST' AND \
         user_agent = 'http3' AND duration_ms > 0 AND (bytes_in = 5 OR verdict = 'deny' AND bytes_in <= 5) AND \
         bytes_out > 100 AND complete)"
    ))?;
    assert_eq!(odd, 0, "every row has what is known of its request");
    Ok(())
}

#[test]
fn a_hundred_requests_are_a_hundred_rows() {
    let (stack, client) = start("http3", |_| ()).unwrap();
    each_request_is_a_row(&stack, &client, true, "/cached").unwrap();
    // Each waits for questions, and its answer for its event.
    each_request_is_a_row(&stack, &client, false, "/asked").unwrap();
}

#[test]
fn a_hundred_requests_are_a_hundred_rows_without_the_recorder() {
    let (stack, client) = start("http3-bare", |options| options.recorder = false).unwrap();
    each_request_is_a_row(&stack, &client, true, "/cached").unwrap();
    each_request_is_a_row(&stack, &client, false, "/asked").unwrap();
}

/// Of bodies, whatever is before and around them.
#[test]
fn a_row_has_the_bytes_of_the_bodies_over_every_http() {
    let (stack, client) = start("http3-bytes", |_| ()).unwrap();
    let post = |path: &str| {
        let request = Request::new(Method::POST, path).body("text/plain", vec![b'b'; 2_000]);
        request.header("x-long", vec![b'x'; 4_000]).from(WELCOME)
    };
    let over_http2 = |address, path: &str| {
        let connection = Connection::open(address).unwrap();
        let answers = connection.send(&[post(path)]).unwrap().finish().unwrap();
        answers[0].body.len()
    };
    let over_http1 = |address, path: &str| http::send(address, &post(path)).unwrap().body.len();
    let answers = [
        ("/bytes/1", over_http1(stack.gate(), "/bytes/1")),
        ("/bytes/2", over_http2(stack.gate(), "/bytes/2")),
        ("/bytes/3", over_http2(client.address(), "/bytes/3")),
    ];
    assert!(stack.recorded(PATIENCE).unwrap().is_whole());
    let rows =
        "SELECT path, bytes_in, bytes_out FROM traffic_events WHERE path LIKE '/bytes/%' ORDER BY path";
    let rows = stack.sql().unwrap().run(rows).unwrap();
    assert_eq!(rows, answers.map(|(path, body)| format!("{path}|2000|{body}")));
}

#[test]
fn bans_limits_and_routes_hold() {
    let shop = InProcess::start("shop", local(0)).unwrap();
    let port = shop.address().port();
    let (stack, client) = start("http3-rules", |options| {
        options.backends.push(NamedBackend { name: "shop".into(), host: "127.0.0.1".into(), port });
    })
    .unwrap();
    stack.put_route("shop", "/shop", "shop").unwrap();
    let held = |section: &str| {
        let rule =
            json!({ "matches": [{ "path": { "value": "/held" } }], "backendRefs": [{ "name": "shop" }] });
        json!({ "parentRefs": [{ "name": "g", "sectionName": section }], "rules": [rule] })
    };
    stack.put_spec("held", &held("https")).unwrap();
    for flags in [true, false] {
        stack.all_flags(flags).unwrap();
        let mut connection = http::Connection::open(client.address()).unwrap();
        let mut ask = |path: &str, from: &str| -> http::Response {
            connection.send(&Request::get(path).from(from)).unwrap()
        };
        assert_eq!(ask("/shop/1", WELCOME).json().unwrap()["backend"], "shop");
        assert_eq!(ask("/other", WELCOME).json().unwrap()["backend"], "demo");
        // No hop says the scheme, so the connection does.
        for (address, backend) in [(client.address(), "shop"), (stack.gate(), "demo")] {
            let request = Request::get("/held").header("x-forwarded-proto", "-").from(WELCOME);
            assert_eq!(http::send(address, &request).unwrap().json().unwrap()["backend"], backend);
        }

        let late = "192.0.2.15";
        assert_eq!(ask("/", late).status, 200);
        stack.ban(late).unwrap();
        let denied = ask("/", late);
        assert_eq!((denied.status, &denied.json().unwrap()["code"]), (403, &json!("ip_banned")));
        stack.unban(late).unwrap();
        assert_eq!(ask("/", late).status, 200);

        stack.put_limit("day", &json!({ "key": "ip", "rate": 5, "per": "day" })).unwrap();
        let limited = if flags { "203.0.113.1" } else { "203.0.113.2" };
        let statuses: Vec<u16> = (0..7).map(|_| ask("/", limited).status).collect();
        assert_eq!(statuses, [200, 200, 200, 200, 200, 429, 429]);
        stack.delete_limit("day").unwrap();
    }
    let whole = stack.recorded(PATIENCE).unwrap();
    assert!(whole.is_whole(), "{whole:?}");
}

/// Waits until so many requests are at the backend.
fn at_the_backend(stack: &Stack, many: u64) -> Result<()> {
    wait::until("requests come to the backend, or are gone from it", PATIENCE, || {
        let active = stack.stats()?.get("cluster.demo.upstream_rq_active");
        Ok((active == Some(many)).then_some(()))
    })
}

#[test]
fn a_request_that_its_client_resets_is_one_row() {
    let (stack, client) = start("http3-reset", |_| ()).unwrap();
    let slow: Vec<_> = (0..5).map(|_| Request::get("/slow?ms=30000").from(WELCOME)).collect();
    for flags in [true, false] {
        stack.all_flags(flags).unwrap();
        let connection = Connection::open(client.address()).unwrap();
        let under_way = connection.send(&slow).unwrap();
        at_the_backend(&stack, 5).unwrap();
        drop(under_way);
        drop(connection);
        at_the_backend(&stack, 0).unwrap();
    }
    // All of a connection that ends.
    let connection = Connection::open(client.address()).unwrap();
    let _under_way = connection.send(&slow).unwrap();
    at_the_backend(&stack, 5).unwrap();
    client.stop();
    let whole = stack.recorded(PATIENCE).unwrap();
    assert!(whole.is_whole(), "{whole:?}");
    let rows = stack.sql().unwrap().run(
        "SELECT verdict, status IS NULL, count(*) FROM traffic_events WHERE path = '/slow' GROUP BY 1, 2",
    );
    assert_eq!(rows.unwrap(), ["allow|1|15"]);
}

#[test]
fn the_guide_has_the_listener_as_it_is() {
    let guide = std::fs::read_to_string(repository().join("docs/DEPLOY.md")).unwrap();
    let (_, listener) = listener::LISTENER.split_once("listeners.\n").unwrap();
    assert!(guide.contains(&format!("```yaml\n{listener}```\n")));
}
