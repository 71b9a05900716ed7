//! `bench ingest`: events per second into SQLite, with statistics, with automatic bans, and without either; and how long answers
//! take from what a week of traffic leaves in statistics.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tidegate_admin::store::sqlite::{Options, SqliteStore};
use tidegate_admin::store::{Append, RecorderFigures, StatsFilter, Store, TopOf, time_text};
use tidegate_author::{AutoBan, read_auto_ban};
use tidegate_policy::check::{Answered, PerCheck};
use tidegate_policy::flags::Modes;
use tidegate_policy::wire::event::{Batch, TrafficEvent, VerdictCode, VmId};
use tidegate_policy::wire::sync::Gateway;

use crate::rounds::{ensure_not_interrupted, millis, say, spread};
use crate::table::Table;

/// VMs that send, each a post after the other.
const SOURCES: u64 = 4;
/// Events of a post.
const POST: u64 = 2_000;
/// Paths of the week, and requests to them.
const KEYS: u64 = 100;
const REQUESTS: u64 = 100_000_000;
/// How often each answer is asked for.
const ASKED: usize = 21;

/// Options of `bench ingest`.
#[derive(clap::Args)]
pub struct IngestArgs {
    /// Rounds; each measures every case once.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Events of one measurement.
    #[arg(long, default_value_t = 400_000, value_parser = clap::value_parser!(u64).range(10_000..=5_000_000))]
    events: u64,
}

/// What is counted beside the events.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Case {
    Plain,
    Statistics,
    AutoBans,
}

impl Case {
    const ALL: [Self; 3] = [Self::Plain, Self::Statistics, Self::AutoBans];
}

/// A rule that looks at denials, and one that counts every request; nobody reaches their thresholds.
fn rules() -> Result<Vec<Arc<AutoBan>>> {
    let rule = |name: &str, share: Value| {
        let document = json!({"match": {"status": ["4xx", "5xx"], "reason": ["ip_banned", "rate_limited"]},
            "threshold": 1_000_000, "window": "1m", "share": share, "ban": {"ttl": "1h"}});
        read_auto_ban(name, &document).map(Arc::new).map_err(|errors| anyhow::anyhow!("{errors:?}"))
    };
    Ok(vec![rule("denied", json!(null))?, rule("share", json!(50))?])
}

/// Runs it.
pub fn run(args: &IngestArgs) -> Result<()> {
    let dir = directory()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut rates: [Vec<f64>; Case::ALL.len()] = Default::default();
    for round in 0..args.rounds as usize {
        // None is always the first.
        for at in 0..Case::ALL.len() {
            let case = Case::ALL[(round + at) % Case::ALL.len()];
            ensure_not_interrupted()?;
            let rate = runtime.block_on(ingest(&dir.join("tidegate.db"), args.events, case))?;
            rates[case as usize].push(rate);
        }
    }
    let mut table = Table::new(&["with", "events/s", "range"]);
    for (name, rates) in ["neither", "statistics", "statistics and 2 rules"].into_iter().zip(&rates) {
        let [median, lowest, highest] = spread(rates);
        table.row([name.to_owned(), format!("{median:.0}"), format!("{lowest:.0} to {highest:.0}")]);
    }
    say(format_args!(
        "\nEvents into SQLite, {} events of {SOURCES} VMs in posts of {POST}, medians of {} rounds:\n\n{table}",
        args.events, args.rounds
    ));
    let answers = runtime.block_on(answers(&dir.join("week.db")))?;
    std::fs::remove_dir_all(&dir).context("remove the databases")?;
    say(format_args!("{answers}"));
    Ok(())
}

/// An empty directory beside the programs: on a disk, and not in memory.
fn directory() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let dir = program.parent().context("a program is in a directory")?.join("bench-ingest");
    if dir.exists() {
        std::fs::remove_dir_all(&dir).context("remove what an earlier run left")?;
    }
    std::fs::create_dir_all(&dir)?;
    Ok(dir)
}

/// Events per second of one run.
async fn ingest(path: &Path, events: u64, case: Case) -> Result<f64> {
    for end in ["", "-wal", "-shm", ".lock"] {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        let _ = std::fs::remove_file(name);
    }
    let statistics = case != Case::Plain;
    let store = Arc::new(SqliteStore::open(path, Options { statistics, ..Options::default() })?);
    if case == Case::AutoBans {
        store.set_auto_bans(rules()?);
    }
    let posts: Vec<Vec<Append>> = (0..SOURCES)
        .map(|source| (0..events / SOURCES / POST).map(|post| made_post(source, post)).collect())
        .collect();
    let count = posts.iter().map(Vec::len).sum::<usize>() as u64 * POST;
    let begun = Instant::now();
    let senders: Vec<_> = posts
        .into_iter()
        .map(|posts| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for post in posts {
                    store.append(post).await?;
                }
                anyhow::Ok(())
            })
        })
        .collect();
    for sender in senders {
        sender.await??;
    }
    Ok(count as f64 / begun.elapsed().as_secs_f64())
}

fn made_post(source: u64, post: u64) -> Append {
    let first = post * POST + 1;
    let events: Vec<_> = (first..first + POST).map(|number| made_event(source, number)).collect();
    let batch = Batch {
        source: VmId(u128::from(source) + 1),
        first,
        numbered_hi: first + POST - 1,
        events,
        ..Batch::default()
    };
    Append {
        gateway: Gateway::new(b"bench", source),
        sources: Vec::new(),
        dropped: Vec::new(),
        batches: vec![batch],
        recorder: RecorderFigures::default(),
        untold: false,
        ban_sources: HashMap::new(),
    }
}

/// A request of now: of 50,000 clients to 30 routes, one in twenty denied.
pub fn made_event(source: u64, number: u64) -> TrafficEvent {
    let mut random = fastrand::Rng::with_seed(source << 40 | number);
    let is_denied = random.u8(..20) == 0;
    let route = random.u8(..30);
    TrafficEvent {
        number,
        time_ms: u64::try_from(time_text::now_ms()).unwrap_or_default(),
        method: Some(if random.u8(..4) == 0 { b"POST".to_vec() } else { b"GET".to_vec() }),
        host: Some(b"shop.example".to_vec()),
        path: Some(format!("/api/v1/items/{}/details", random.u32(..100_000)).into_bytes()),
        client: Some(std::net::Ipv4Addr::from_bits(0x0a00_0000 + random.u32(..50_000)).into()),
        verdict: if is_denied { VerdictCode::Deny } else { VerdictCode::Allow },
        reason: is_denied.then(|| "ip_banned".to_owned()),
        rule: is_denied.then(|| "10.0.0.0/24".to_owned()),
        route: Some(format!("route-{route}")),
        template: Some("/api/v1/items/{id}/details".to_owned()),
        status: Some(if is_denied { 403 } else { 200 }),
        duration_us: Some(1_000 + random.u64(..50_000)),
        upstream_us: Some(800 + random.u64(..40_000)),
        gate_us: Some(random.u64(..200)),
        bytes_in: Some(0),
        bytes_out: Some(random.u64(..20_000)),
        user_agent: Some(format!("Mozilla/5.0 (X11; Linux x86_64; rv:{}.0)", random.u8(..40)).into_bytes()),
        tables_seq: 42,
        modes: Some(Modes::default()),
        answered: PerCheck::from_fn(|_| Answered::Cache),
        ..TrafficEvent::default()
    }
}

/// How long answers about a week take.
async fn answers(path: &Path) -> Result<String> {
    let rows = SqliteStore::make_week_beside(path, KEYS, REQUESTS)?;
    let store = SqliteStore::open(path, Options::default())?;
    let now = time_text::now_ms() / 1_000;
    let week = || StatsFilter { since: now - 7 * 86_400, until: now + 60, ..StatsFilter::default() };
    let mut took: [Vec<Duration>; 3] = Default::default();
    let mut requests = 0;
    for _ in 0..ASKED {
        ensure_not_interrupted()?;
        let begun = Instant::now();
        requests = store.path_stats(week()).await?.total.requests;
        took[0].push(begun.elapsed());
        let begun = Instant::now();
        store.timeline(week(), 60).await?;
        took[1].push(begun.elapsed());
        let begun = Instant::now();
        store.top_values(TopOf::Path, (now - 7 * 86_400, now), 20).await?;
        took[2].push(begun.elapsed());
    }
    let mut table = Table::new(&["answer", "median, ms", "slowest, ms"]);
    for (name, took) in ["paths", "timeline", "top"].into_iter().zip(&mut took) {
        took.sort_unstable();
        let ms = |at: usize| format!("{:.1}", millis(took[at]));
        table.row([name.to_owned(), ms(ASKED / 2), ms(ASKED - 1)]);
    }
    Ok(format!(
        "\nAnswers about a week of {requests} requests to {KEYS} paths, {rows} rows of statistics:\n\n{table}"
    ))
}
