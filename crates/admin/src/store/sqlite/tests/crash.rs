//! A service that is killed in the middle of its work, many times.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tidegate_policy::flags::Modes;

use super::support::{foreign_connection, select_tables};
use crate::store::sqlite::{Options, SqliteStore};
use crate::store::tests::support::{ban, batch, block_on, gateway, open, post_of};
use crate::store::{Append, Change, MeasuredStage, Measuring, RecordedBefore, RolloutStep, Store};

const DATABASE: &str = "TIDEGATE_TEST_CRASH_DATABASE";
const FROM: &str = "TIDEGATE_TEST_CRASH_FROM";
const POSTS: u64 = 60;
const SOURCES: u128 = 3;
const RUN: u64 = 700;

/// The post with this index: the next run of each source.
fn nth(index: u64) -> Append {
    let first = index * RUN + 1;
    let runs = (0..SOURCES).map(|source| {
        let mut run = batch(source, first, first + RUN - 1);
        for event in &mut run.events {
            event.client = Some(client(event.number));
            (event.modes, event.tables_seq) = (Some(Modes::default()), u64::MAX);
        }
        run
    });
    post_of(runs.collect())
}

fn address(index: u64) -> String {
    format!("10.1.{}.{}", index / 250, index % 250)
}

/// A hundred posts.
fn client(number: u64) -> IpAddr {
    format!("192.0.2.{}", number % 100).parse().unwrap()
}

/// Open events of the numbers that the post with this index completes.
async fn open_some(store: &SqliteStore, index: u64) {
    for source in 0..SOURCES {
        let mut event = open(source, index * RUN + 1 + index % RUN);
        event.event.client = Some(client(event.event.number));
        store.open_event(gateway(1), event).await.unwrap();
    }
}

/// The service that is killed: this program, started with environment variables.
#[test]
#[ignore = "run by the test below, in a process of its own"]
fn service() {
    let Ok(path) = std::env::var(DATABASE) else { return };
    let from: u64 = std::env::var(FROM).unwrap().parse().unwrap();
    block_on(async {
        let options = Options { ingest_every: Duration::ZERO, ..Options::default() };
        let store = SqliteStore::open(&path, options).unwrap();
        let author = "test".into();
        for index in from..POSTS {
            open_some(&store, index).await;
            let (address, post) = (address(index), nth(index));
            let (banned, stored) = tokio::join!(store.commit(ban(&address), &author), store.append(post));
            assert!(banned.is_ok() && stored.is_ok());
            println!("\nstored {index}");
        }
    });
}

/// The same, of bans alone.
#[test]
#[ignore = "run by a test below, in a process of its own"]
fn banning_service() {
    let Ok(path) = std::env::var(DATABASE) else { return };
    let from: u64 = std::env::var(FROM).unwrap().parse().unwrap();
    block_on(async {
        let store = SqliteStore::open(&path, Options::default()).unwrap();
        let author = "test".into();
        for index in from.. {
            store.commit(ban(&address(index)), &author).await.unwrap();
            println!("\nstored {index}");
        }
    });
}

/// Starts the service at post `from` and kills it shortly after it has reported that many stored
/// posts. Returns the first post that was not acknowledged.
fn serve_and_kill(service: &str, path: &Path, from: u64, posts: usize, moment: Duration) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("store::sqlite::tests::crash::{service}"), "--ignored", "--nocapture"])
        .env(DATABASE, path)
        .env(FROM, from.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut next = from;
    let mut told = |line: String| {
        if let Some(index) = line.strip_prefix("stored ") {
            next = index.parse::<u64>().unwrap() + 1;
        }
    };
    (&mut lines).filter(|line| line.starts_with("stored ")).take(posts).for_each(&mut told);
    std::thread::sleep(moment);
    child.kill().unwrap();
    child.wait().unwrap();
    lines.for_each(told);
    next
}

/// Begins to measure a stage of a rollout that all requests count in.
fn begin_measurement(path: &Path) {
    let stage = MeasuredStage {
        run: 1,
        number: 1,
        slice_ms: 1_000,
        spans: tidegate_rollout::figures::Spans::default(),
        shared_flags: Vec::new(),
        scoped_flags: Vec::new(),
        next_shares: Vec::new(),
        before: RecordedBefore::default(),
    };
    let step = RolloutStep {
        name: "r".to_owned(),
        follows: 0,
        state: "{}".to_owned(),
        is_active: true,
        expected_flags: Vec::new(),
        set_flags: Vec::new(),
        measuring: Measuring::Begin(stage),
        notices: Vec::new(),
        summary: None,
    };
    SqliteStore::commit_beside(path, &Change::StepRollout(Arc::new(step)), &"test".into()).unwrap();
}

#[test]
fn nothing_is_lost_and_nothing_twice_when_the_service_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tidegate.db");
    begin_measurement(&path);
    let (mut next, mut kills) = (0, 0u64);
    while next < POSTS {
        // Any moments will do: kills are spread over all of them.
        let moment = Duration::from_micros(kills * 7_919 % 9_000);
        let reached = serve_and_kill("service", &path, next, 1 + (kills % 13) as usize, moment);
        assert!(reached > next, "the service did nothing from {next} on");
        next = reached;
        kills += 1;
    }
    block_on(async {
        let store = SqliteStore::open(&path, Options::default()).unwrap();
        let counts = store.recording().await.unwrap();
        let all = POSTS * RUN * SOURCES as u64;
        assert_eq!((counts.numbered, counts.stored, counts.pending, counts.lost), (all, all, 0, 0));
        let rows: (i64, i64) = foreign_connection(&path)
            .query_row("SELECT count(*), count(DISTINCT hex(source) || number) FROM events", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .unwrap();
        assert_eq!(rows, (i64::try_from(all).unwrap(), i64::try_from(all).unwrap()));
        assert_eq!((counts.open, counts.incomplete), (0, 0));
        let seen = store.top_addresses(1_000).await.unwrap();
        assert_eq!((seen.len(), seen.iter().map(|row| row.count).sum::<u64>()), (100, all));
        let banned: BTreeSet<String> = select_tables(&path).ips.into_keys().collect();
        assert_eq!(banned, (0..POSTS).map(address).collect());
        let figures = store.stage_figures("r", 1, 1).await.unwrap();
        assert_eq!((figures.requests(), figures.whole().control.requests), (all, 0));
        let by_client = figures.clients.values().map(|groups| groups.treated.requests);
        assert_eq!(by_client.sum::<u64>(), all);
    });
}

#[test]
fn after_fifty_kills_every_ban_that_was_acknowledged_is_there_and_the_audit_is_whole() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tidegate.db");
    let mut next = 0;
    for kill in 0..50u64 {
        let moment = Duration::from_micros(kill * 7_919 % 5_000);
        let reached = serve_and_kill("banning_service", &path, next, 1 + (kill % 3) as usize, moment);
        assert!(reached > next, "the service did nothing from {next} on");
        next = reached;
        let check = SqliteStore::check_audit_beside(&path, None).unwrap();
        // One more may be stored whose acknowledgement was not heard.
        assert!(check.faults.is_empty() && check.entries >= next, "after {next}: {check:?}");
    }
    let banned: BTreeSet<String> = select_tables(&path).ips.into_keys().collect();
    assert!((0..next).all(|index| banned.contains(&address(index))), "{next} acknowledged, {banned:?}");
}
