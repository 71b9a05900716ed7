//! `bench dashboard`: bytes and time of each page of the dashboard over a large database.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tidegate_admin::store::sqlite::{Options, SqliteStore};
use tidegate_admin::store::{Append, RecorderFigures, Store};
use tidegate_policy::wire::event::{Batch, TrafficEvent, VmId};
use tidegate_policy::wire::sync::Gateway;
use tidegate_stack::http::{Connection, Method, Request, Response};
use tidegate_stack::sql::Shell;
use tidegate_stack::{FlagsAtStart, Programs, Stack};

use crate::ingest::made_event;
use crate::rounds::{ensure_not_interrupted, millis, say};
use crate::scene::{self, large};
use crate::table::Table;

/// Routes; the first ten of them have the traffic.
const ROUTES: usize = 10_000;
/// Requests that statistics have, in a week, and by how many keys.
const REQUESTS: u64 = 10_000_000;
const KEYS: u64 = 100;
/// Events of a post.
const POST: u64 = 2_000;
/// Over how long before now events are spread, milliseconds.
const SPREAD: u64 = 86_400_000;
/// Queries that are longer are left out of the table.
const LONG: usize = 30;
/// A client of the events; a ban of it is in shadow.
const CLIENT: &str = "10.0.0.7";

/// Options of `bench dashboard`.
#[derive(clap::Args)]
pub struct DashboardArgs {
    /// Events that are stored one by one, besides the statistics of 10 million.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(10_000..=10_000_000))]
    events: u64,
    /// How often each page is asked for.
    #[arg(long, default_value_t = 21, value_parser = clap::value_parser!(u32).range(3..=1_000))]
    asked: u32,
}

/// Runs it.
pub fn run(args: &DashboardArgs, programs: &Programs) -> Result<()> {
    let mut options = scene::options("dashboard", programs)?;
    options.flags = FlagsAtStart::Off;
    options.workers = 1;
    // No event is removed for the room that it takes.
    options.admin_args = ["--events-max-bytes", "20000000000"].map(Into::into).into();
    let database = options.dir.join("tidegate.db");
    fill(&database, args.events)?;
    let stack = Stack::start(options)?;
    ensure!(stack.db() == database, "the service has another database: {}", stack.db().display());
    stack.put_geo_rule("embargo", &json!({ "mode": "deny", "countries": ["KP"], "shadow": true }))?;
    say(format_args!(
        "\n{} bans, {ROUTES} routes, statistics of {REQUESTS} requests and {} events; each page {} times:\n",
        large::BANS,
        args.events,
        args.asked
    ));
    let mut visitor = Visitor::sign_in(&stack)?;
    let mut table = Table::new(&["page", "bytes", "as sent", "median, ms", "slowest, ms"]);
    for path in pages(&stack)? {
        ensure_not_interrupted()?;
        table.row(visitor.measure(&path, args.asked)?);
    }
    say(&table);
    let files = visitor.files()?;
    say(format_args!(
        "A browser's first page needs {files} bytes of style, script and icon besides; it keeps them."
    ));
    Ok(())
}

/// Makes the database, before anything runs on it.
fn fill(database: &Path, events: u64) -> Result<()> {
    say(format_args!("Filling {} …", database.display()));
    let rows = SqliteStore::make_week_beside(database, KEYS, REQUESTS)?;
    store_events(database, events)?;
    let mut shell = Shell::open(database)?;
    let statements = [
        format!(
            "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {} - 1) \
             INSERT INTO ip_monitor (ip, status, reason) \
             SELECT (20 + (i >> 18)) || '.' || ((i >> 10) & 255) || '.' || ((i >> 2) & 255) || '.' || ((i & 3) * 5), \
                    'banned', 'on list ' || (i % 7) FROM n",
            large::BANS
        ),
        format!(
            "INSERT INTO ip_monitor (ip, status, reason) VALUES ('{CLIENT}', 'watched', 'one of many events')"
        ),
        format!("INSERT INTO routes (name, document) VALUES {}", routes().join(", ")),
    ];
    for statement in &statements {
        let said = shell.run(statement)?;
        ensure!(said.is_empty(), "{said:?}");
    }
    say(format_args!("{rows} rows of statistics"));
    Ok(())
}

/// Routes as rows.
fn routes() -> Vec<String> {
    let row = |number: usize| {
        let document = json!({
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "metadata": { "name": format!("route-{number}") },
            "spec": { "hostnames": [format!("shop-{}.example", number / 100)], "rules": [{
                "matches": [{ "path": { "type": "PathPrefix", "value": format!("/part-{number}") } }],
                "backendRefs": [{ "name": "demo" }],
            }] },
        });
        format!("('route-{number}', '{document}')")
    };
    (0..ROUTES).map(row).collect()
}

/// Stores events one by one, without counting them: statistics are there already.
fn store_events(database: &Path, events: u64) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let options = Options { statistics: false, events_max_bytes: u64::MAX >> 2, ..Options::default() };
    let store = SqliteStore::open(database, options)?;
    runtime.block_on(async {
        for post in 0..events / POST {
            ensure_not_interrupted()?;
            store.append(made_post(post, events)).await?;
        }
        Ok(())
    })
}

fn made_post(post: u64, all: u64) -> Append {
    let first = post * POST + 1;
    let made = |number: u64| {
        let event = made_event(0, number);
        // The oldest first.
        let age = SPREAD - SPREAD * number / all.max(1);
        TrafficEvent { time_ms: event.time_ms.saturating_sub(age), ..event }
    };
    let batch = Batch {
        source: VmId(1),
        first,
        numbered_hi: first + POST - 1,
        events: (first..first + POST).map(made).collect(),
        ..Batch::default()
    };
    Append {
        gateway: Gateway::new(b"bench", 0),
        sources: Vec::new(),
        dropped: Vec::new(),
        batches: vec![batch],
        recorder: RecorderFigures::default(),
        untold: false,
        ban_sources: HashMap::new(),
    }
}

/// The pages, the first one first.
fn pages(stack: &Stack) -> Result<Vec<String>> {
    let events = stack.api_ok(Method::GET, "/api/admin/events?limit=1&status=403", None)?;
    let event: &Value = &events["items"][0];
    let text = |field: &str| event[field].as_str().unwrap_or_default().replace(':', "%3A");
    let one = format!(
        "/ui/events/one?source={}&number={}&at={}",
        text("source"),
        event["number"],
        text("timestamp")
    );
    let mut pages: Vec<String> = [
        "/ui/",
        "/ui/?span=24h",
        "/ui/?span=7d",
        "/ui/rollout",
        "/ui/gateways",
        "/ui/health",
        "/ui/events",
        "/ui/events?verdict=deny",
        "/ui/events?ip=10.0.0.7",
        "/ui/paths",
        "/ui/paths?span=7d",
        "/ui/paths/one?route=route-1&template=%2Fpart-1%2F%7Bid%7D&method=GET",
        "/ui/bans",
        "/ui/bans?status=watched",
        "/ui/bans/address?ip=20.0.0.5",
        "/ui/bans/ban",
        "/ui/bans/import",
        "/ui/sources",
        "/ui/auto-bans",
        "/ui/allow-list",
        "/ui/geo",
        "/ui/limits",
        "/ui/routes",
        "/ui/routes/route-1",
        "/ui/routes?new=1",
        "/ui/backends",
        "/ui/explain?host=shop-50.example&path=%2Fpart-5000%2Fa&ip=20.0.0.5",
        "/ui/audit",
        "/ui/tokens",
    ]
    .map(str::to_owned)
    .into();
    pages.insert(9, one);
    Ok(pages)
}

/// Somebody who is signed in, on one connection.
struct Visitor {
    connection: Connection,
    cookie: String,
}

impl Visitor {
    fn sign_in(stack: &Stack) -> Result<Self> {
        let mut connection = Connection::open(stack.people())?;
        let body = format!("token={}", stack.token()).into_bytes();
        let form = Request::new(Method::POST, "/ui/sign-in").body("application/x-www-form-urlencoded", body);
        let answer = connection.send(&form)?;
        let cookie = answer.header("set-cookie").and_then(|set| set.split(';').next());
        let cookie = cookie.with_context(|| format!("not signed in: {}", answer.text()))?.to_owned();
        Ok(Self { connection, cookie })
    }

    fn get(&mut self, path: &str, encoding: &str) -> Result<Response> {
        let request = Request::get(path).header("cookie", &self.cookie).header("accept-encoding", encoding);
        let answer = self.connection.send(&request)?;
        if answer.status != 200 {
            bail!("{path} is answered {}: {}", answer.status, answer.text());
        }
        Ok(answer)
    }

    /// A row of the table: as a browser asks, whose answers may be packed.
    fn measure(&mut self, path: &str, asked: u32) -> Result<[String; 5]> {
        let whole = self.get(path, "identity")?.body.len();
        let mut took = Vec::new();
        let mut sent = 0;
        for _ in 0..asked {
            let begun = Instant::now();
            sent = self.get(path, "gzip")?.body.len();
            took.push(begun.elapsed());
        }
        took.sort_unstable();
        let ms =
            |time: Option<&Duration>| time.map_or_else(String::new, |time| format!("{:.1}", millis(*time)));
        let middle = ms(took.get(took.len() / 2));
        let (name, query) = path.split_once('?').unwrap_or((path, ""));
        let name = if query.len() > LONG { format!("{name}?…") } else { path.to_owned() };
        Ok([name, whole.to_string(), sent.to_string(), middle, ms(took.last())])
    }

    /// Bytes of what the first page names, as they are sent.
    fn files(&mut self) -> Result<usize> {
        let page = self.get("/ui/", "identity")?.text();
        let mut names: Vec<&str> = page.split('"').filter(|text| text.starts_with("/ui/assets/")).collect();
        names.sort_unstable();
        names.dedup();
        let mut bytes = 0;
        for name in names {
            bytes += self.get(name, "gzip")?.body.len();
        }
        Ok(bytes)
    }
}
