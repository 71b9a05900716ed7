//! What ingest costs. Not a test of anything: figures are printed, none is
//! asserted. `cargo test --release -p tidegate-admin --lib -- --ignored --nocapture speed`

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use tidegate_policy::check::{Answered, PerCheck};
use tidegate_policy::flags::{Mode, Modes};
use tidegate_policy::wire::event::{Batch, OpenEvent, Source, TrafficEvent, VerdictCode};

use super::support::test_store;
use crate::store::Store;
use crate::store::tests::support::{block_on, gateway, post_of};

const RUN: u64 = 500;
const BATCHES: u64 = 8;
const POSTS: u64 = 100;

fn event(number: u64, client: u32) -> TrafficEvent {
    TrafficEvent {
        number,
        time_ms: 1_795_456_801_000 + number,
        method: Some(b"GET".to_vec()),
        host: Some(b"shop.example.com".to_vec()),
        path: Some(format!("/api/items/{}", number % 1_000).into_bytes()),
        client: Some(IpAddr::V4(Ipv4Addr::from_bits(client))),
        verdict: VerdictCode::Allow,
        route: Some("shop".to_owned()),
        status: Some(200),
        duration_us: Some(1_500),
        upstream_us: Some(1_200),
        bytes_in: Some(300),
        bytes_out: Some(5_000),
        user_agent: Some(b"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36".to_vec()),
        tables_seq: 7,
        modes: Some(Modes {
            ip: Mode::Cached,
            geo: Mode::Cached,
            route: Mode::Cached,
            parallel: true,
            async_recording: true,
        }),
        answered: PerCheck::from_fn(|_| Answered::Cache),
        ..TrafficEvent::default()
    }
}

/// Clients of request `i`: one in two from the same hundred.
fn usual(i: u64) -> u32 {
    let hash = i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    let among = if hash.is_multiple_of(2) { 100 } else { 50_000 };
    u32::try_from(hash / 2 % among).unwrap()
}

/// A new client each time: what a scan with forged addresses would be.
fn never_again(i: u64) -> u32 {
    u32::try_from(i).unwrap()
}

fn ingest(what: &str, client: fn(u64) -> u32) {
    block_on(async {
        let home = test_store();
        let posts: Vec<_> = (0..POSTS)
            .map(|post| {
                let batch = |source: u64| {
                    let first = post * RUN + 1;
                    let events = (first..first + RUN).map(|n| event(n, client((n * BATCHES) + source)));
                    Batch {
                        source: Source(source.into()),
                        first,
                        numbered_hi: first + RUN - 1,
                        events: events.collect(),
                        ..Batch::default()
                    }
                };
                post_of((0..BATCHES).map(batch).collect())
            })
            .collect();
        let begun = Instant::now();
        for post in posts {
            home.store.append(post).await.unwrap();
        }
        let all = RUN * BATCHES * POSTS;
        println!("{what}: {:.0} events/s", all as f64 / begun.elapsed().as_secs_f64());
    });
}

#[test]
#[ignore = "a measurement"]
fn speed_of_ingest() {
    for _ in 0..3 {
        ingest("usual clients", usual);
        ingest("a new client each time", never_again);
    }
}

#[test]
#[ignore = "a measurement"]
fn speed_of_open_events() {
    block_on(async {
        let home = test_store();
        let begun = Instant::now();
        let one = async |lane: u64| {
            for number in 1..=200 {
                let open = OpenEvent { source: Source(lane.into()), event: event(number, usual(number)) };
                home.store.open_event(gateway(1), open).await.unwrap();
            }
        };
        let lanes: Vec<_> = (0..16).map(one).collect();
        futures_of(lanes).await;
        println!("open events, 16 at a time: {:.0}/s", 3_200.0 / begun.elapsed().as_secs_f64());
    });
}

/// Runs all of them at the same time.
async fn futures_of(futures: Vec<impl Future<Output = ()>>) {
    let mut all: Vec<_> = futures.into_iter().map(Box::pin).collect();
    std::future::poll_fn(|context| {
        all.retain_mut(|future| future.as_mut().poll(context).is_pending());
        if all.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}
