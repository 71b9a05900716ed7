//! A limit that several gateways share, on real Envoys: the additions of
//! `envoy/ratelimit.yaml`, and a service that counts.

mod service;

use std::sync::Arc;

use anyhow::Result;
use serde_json::{Value, json};
use tidegate_stack::http::{Connection, Request};
use tidegate_stack::{Options, Stack};

use service::{Limited, Service};

/// Requests of one client on one route that may pass, over all gateways.
const ALLOWED: u32 = 30;

/// A gateway with an admin service of its own: all that the two have in common is
/// the service that counts.
fn gateway(name: &str, service: &Service) -> Result<Stack> {
    let mut options = Options::for_test(name)?;
    options.control = Some(Arc::new(Limited(service.address())));
    let stack = Stack::start(options)?;
    stack.put_route("shop", "/shop", "demo")?;
    stack.put_route("news", "/news", "demo")?;
    Ok(stack)
}

/// Sends as many requests; the answers.
fn ask(connection: &mut Connection, target: &str, client: &str, times: u32) -> Result<Vec<(u16, Value)>> {
    let request = Request::get(target).header("x-forwarded-for", client);
    (0..times)
        .map(|_| {
            let answer = connection.send(&request)?;
            Ok((answer.status, answer.json().unwrap_or_default()))
        })
        .collect()
}

fn passed(answers: &[(u16, Value)]) -> usize {
    answers.iter().filter(|(status, _)| *status == 200).count()
}

#[test]
fn two_gateways_share_one_limit() {
    let service = Service::start(ALLOWED).unwrap();
    let stacks = [gateway("global-limit-a", &service).unwrap(), gateway("global-limit-b", &service).unwrap()];
    let mut connections: Vec<_> = stacks.iter().map(|stack| stack.connection_per_worker().unwrap()).collect();
    let mut answers = Vec::new();
    // In turn, on every worker of both.
    for _ in 0..ALLOWED / 2 {
        for connection in connections.iter_mut().flatten() {
            answers.extend(ask(connection, "/shop", "192.0.2.1", 1).unwrap());
        }
    }
    assert_eq!(answers.len(), 60);
    assert_eq!(passed(&answers), 30, "{answers:?}");
    assert!(answers[..30].iter().all(|(status, _)| *status == 200), "the first ones pass");
    assert!(answers[30..].iter().all(|(status, _)| *status == 429), "the others are over the limit");

    // Nobody else's requests were counted with those.
    for connections in &mut connections {
        let [first, ..] = &mut connections[..] else { panic!("no worker") };
        assert_eq!(passed(&ask(first, "/shop", "192.0.2.2", 10).unwrap()), 10, "another client");
        assert_eq!(passed(&ask(first, "/news", "192.0.2.1", 10).unwrap()), 10, "another route");
    }
    let descriptor = |route: &str, client: &str| {
        vec![("route".to_owned(), route.to_owned()), ("client".to_owned(), client.to_owned())]
    };
    let hits = service.hits();
    assert_eq!(hits.get(&descriptor("shop", "192.0.2.1")), Some(&60));
    assert_eq!(hits.get(&descriptor("shop", "192.0.2.2")), Some(&20));
    assert_eq!(hits.get(&descriptor("news", "192.0.2.1")), Some(&20));
}

#[test]
fn addresses_of_one_network_of_version_6_are_one_client_and_backends_see_no_descriptor() {
    let service = Service::start(2).unwrap();
    let stack = gateway("global-limit-v6", &service).unwrap();
    let [first, ..] = &mut stack.connection_per_worker().unwrap()[..] else { panic!("no worker") };
    let mut statuses = Vec::new();
    for client in ["2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8:0:1::1"] {
        // A client that names itself, and another's route, is not believed.
        let request = Request::get("/shop")
            .header("x-forwarded-for", client)
            .header("x-tidegate-client", "192.0.2.9")
            .header("x-tidegate-route", "news");
        let answer = first.send(&request).unwrap();
        statuses.push(answer.status);
        if answer.status == 200 {
            let headers = answer.json().unwrap()["headers"].clone();
            assert_eq!([&headers["x-tidegate-route"], &headers["x-tidegate-client"]], [&json!(null); 2]);
        }
    }
    assert_eq!(statuses, [200, 200, 429, 200]);
}

#[test]
fn a_service_that_is_gone_lets_everybody_pass() {
    let service = Service::start(0).unwrap();
    let stack = gateway("global-limit-gone", &service).unwrap();
    let [first, ..] = &mut stack.connection_per_worker().unwrap()[..] else { panic!("no worker") };
    let mut statuses = |times| -> Vec<u16> {
        ask(first, "/shop", "192.0.2.1", times).unwrap().into_iter().map(|(status, _)| status).collect()
    };
    assert_eq!(statuses(3), [429; 3]);
    drop(service);
    assert_eq!(statuses(3), [200; 3]);
    assert_eq!(stack.stats().unwrap().get("cluster.demo.ratelimit.error"), Some(3));
}
