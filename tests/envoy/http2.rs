//! Clients of HTTP/2: many requests at once down one connection, and so in one VM, each
//! decided by itself, and each a row.

pub mod connection;
mod resets;

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::Result;
use tidegate_stack::http::Request;
use tidegate_stack::{Options, Stack, wait};

use crate::beside::requests_beside;
use connection::Connection;

const BANNED: &str = "192.0.2.13";
const WELCOME: &str = "192.0.2.14";
/// Under what the gate lets be open at once on one connection.
const STREAMS: usize = 100;
const ROUNDS: usize = 10;
const LIMIT: Duration = Duration::from_secs(60);

/// Every third is banned; requests name who sent them.
fn requests(path: &str) -> Vec<Request> {
    (0..STREAMS)
        .map(|number| {
            let client = if number % 3 == 0 { BANNED } else { WELCOME };
            Request::get(&format!("{path}/{client}/{number}")).from(client)
        })
        .collect()
}

fn statuses(connection: &Connection, requests: &[Request]) -> Result<Vec<u16>> {
    Ok(connection.send(requests)?.finish()?.iter().map(|answer| answer.status).collect())
}

fn each_stream_is_decided(stack: &Stack, flags: bool, path: &str) -> Result<()> {
    stack.all_flags(flags)?;
    let connection = Connection::open(stack.gate())?;
    let wanted: Vec<u16> = (0..STREAMS).map(|number| if number % 3 == 0 { 403 } else { 200 }).collect();
    for _ in 0..ROUNDS {
        assert_eq!(statuses(&connection, &requests(path))?, wanted, "{path}");
    }
    let after = stack.recorded(LIMIT)?;
    assert!(after.is_whole(), "{after:?}");
    let mut sql = stack.sql()?;
    for (client, status) in [(BANNED, 403), (WELCOME, 200)] {
        let rows = format!(
            "SELECT count(*) FROM traffic_events WHERE path LIKE '{path}/{client}/%' \
             AND client_ip = '{client}' AND status = {status}"
        );
        let sent = ROUNDS * wanted.iter().filter(|wanted| **wanted == status).count();
        assert_eq!(sql.number(&rows)?, sent as u64, "{path} {client}");
    }
    let all = format!("SELECT count(*) FROM traffic_events WHERE path LIKE '{path}/%'");
    assert_eq!(sql.number(&all)?, (ROUNDS * STREAMS) as u64);
    Ok(())
}

/// While every check is asked: else each would leave questions that nobody waits for.
fn what_is_reset_at_once_is_not_asked_about(stack: &Stack) -> Result<()> {
    // Under what a connection is closed for.
    const RESETS: u32 = 45;
    let figures = || -> Result<[u64; 2]> {
        let stats = stack.stats()?;
        let names = ["http.gate.downstream_rq_rx_reset", "cluster.tidegate-admin.upstream_rq_total"];
        Ok(names.map(|name| stats.get(name).unwrap_or_default()))
    };
    let [reset_before, asked_before] = figures()?;
    let connection = resets::reset(stack.gate(), "/reset", RESETS)?;
    let asked = wait::until("all are reset", LIMIT, || {
        let [reset, asked] = figures()?;
        Ok((reset >= reset_before + u64::from(RESETS)).then_some(asked - asked_before))
    })?;
    drop(connection);
    // Polls and posts of events are among them.
    assert!(asked < 30, "{asked} calls for {RESETS} streams that were reset");
    let after = stack.recorded(LIMIT)?;
    assert!(after.is_whole(), "{after:?}");
    Ok(())
}

/// What neighbours wait for connections that reset up to 250 streams each, of which Envoy closes them at 50, while
/// every check is asked: printed. `TIDEGATE_TEST_RESETS=40` does it 40 times with 50 connections at once, of
/// which the figures in docs/OPERATIONS.md are.
fn neighbours_of_resets_are_answered(stack: &Stack) -> Result<()> {
    let rounds = std::env::var("TIDEGATE_TEST_RESETS").ok().and_then(|text| text.parse::<u64>().ok());
    let (rounds, at_once) = rounds.map_or((1, 5), |rounds| (rounds, 50));
    let ended =
        || -> Result<u64> { Ok(stack.stats()?.get("http.gate.downstream_cx_destroy").unwrap_or_default()) };
    let began = Instant::now();
    let resets = || {
        (0..rounds).try_for_each(|_| {
            let before = ended()?;
            let open = (0..at_once).map(|_| resets::reset(stack.gate(), "/reset", 250));
            let _open = open.collect::<Result<Vec<_>>>()?;
            wait::until("they are closed", LIMIT, || Ok((ended()? >= before + at_once).then_some(())))
        })
    };
    requests_beside(stack, &format!("beside {} resets", rounds * at_once * 250), resets)?;
    let took = began.elapsed();
    requests_beside(stack, "without resets", || {
        std::thread::sleep(took);
        Ok(())
    })?;
    assert!(stack.recorded(LIMIT)?.is_whole());
    Ok(())
}

/// Over HTTP/1.1 what ends before its headers are whole reaches no filter either.
fn what_the_codec_refuses_is_a_row(stack: &Stack) -> Result<()> {
    let requests =
        || -> Result<u64> { Ok(stack.stats()?.get("http.gate.downstream_rq_total").unwrap_or_default()) };
    let rows = || stack.sql()?.number("SELECT count(*) FROM traffic_events");
    stack.recorded(LIMIT)?;
    let before = requests()?;
    assert_eq!(rows()?, before, "before");
    let (connection, sent) = resets::refused(stack.gate(), "/after-the-refused")?;
    wait::until("the last of them is there", LIMIT, || {
        let found = "SELECT count(*) FROM traffic_events WHERE path = '/after-the-refused'";
        Ok((stack.sql()?.number(found)? == 1).then_some(()))
    })?;
    drop(connection);
    let mut half = TcpStream::connect(stack.gate())?;
    half.write_all(b"GET /half HTTP/1.1\r\nhost: a.ex")?;
    wait::until("all have begun", LIMIT, || Ok((requests()? > before + u64::try_from(sent)?).then_some(())))?;
    drop(half);
    wait::until("all have a row", LIMIT, || Ok((rows()? >= requests()?).then_some(())))?;
    let after = stack.recorded(LIMIT)?;
    assert!(after.is_whole() && after.exact, "{after:?}");
    assert_eq!(rows()?, requests()?, "each once");
    let refused = "SELECT count(*) FROM traffic_events WHERE verdict = 'unseen' AND path IS NULL \
                   AND status IS NULL AND client_ip = '127.0.0.1'";
    assert!(stack.sql()?.number(refused)? >= 6);
    Ok(())
}

#[test]
fn each_stream_is_decided_and_recorded() {
    let stack = Stack::start_serving(Options::for_test("http2").unwrap()).unwrap();
    each_stream_is_decided(&stack, true, "/cached").unwrap();
    // Each waits for questions, and its answer for its event.
    each_stream_is_decided(&stack, false, "/asked").unwrap();
    what_is_reset_at_once_is_not_asked_about(&stack).unwrap();
    neighbours_of_resets_are_answered(&stack).unwrap();
    what_the_codec_refuses_is_a_row(&stack).unwrap();
    let connection = Connection::open(stack.gate()).unwrap();
    let hosts = ["a.example:x", "a.example,b.example", "[::1]:80"];
    let requests = hosts.map(|host| Request::get("/host").header("host", host));
    assert_eq!(statuses(&connection, &requests).unwrap(), [400, 400, 200]);
    stack.recorded(LIMIT).unwrap();
    let rows = "SELECT host, reason FROM traffic_events WHERE path = '/host' ORDER BY host";
    let rows = stack.sql().unwrap().run(rows).unwrap();
    assert_eq!(rows, ["[::1]:80|", "a.example,b.example|bad_host", "a.example:x|bad_host"]);
}

#[test]
fn a_ban_meets_the_next_stream_of_an_open_connection() {
    let stack = Stack::start_serving(Options::for_test("http2-ban").unwrap()).unwrap();
    let connection = Connection::open(stack.gate()).unwrap();
    let late = "192.0.2.15";
    let slow: Vec<_> = (0..20).map(|_| Request::get("/slow?ms=3000").from(late)).collect();
    let under_way = connection.send(&slow).unwrap();
    wait::until("all are at the backend", LIMIT, || {
        Ok((stack.stats()?.get("cluster.demo.upstream_rq_active") == Some(20)).then_some(()))
    })
    .unwrap();
    stack.ban(late).unwrap();
    let next: Vec<_> = (0..20).map(|_| Request::get("/").from(late)).collect();
    assert!(statuses(&connection, &next).unwrap().iter().all(|status| *status == 403));
    assert!(under_way.finish().unwrap().iter().all(|answer| answer.status == 200), "they were let in");
}
