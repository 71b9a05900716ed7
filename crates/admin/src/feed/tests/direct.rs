//! The feed over the real store, while another program writes into the file: direct questions are
//! answered as a plain SELECT would at that moment, and gateways end with the same.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use rusqlite::{Connection, OptionalExtension, params};
use serde_json::Value;
use tidegate_author as author;
use tidegate_policy::UnixSeconds;
use tidegate_policy::address::Prefix;
use tidegate_policy::decide::{CountrySource, GeoFinding, IpFinding, Tables};
use tidegate_policy::flags::{Flag, Flags};
use tidegate_policy::geo::CountryTable;
use tidegate_policy::request::Facts;
use tidegate_policy::wire::sync::SyncAnswer;

use super::gateway::SimGateway;
use super::memory::{document, one_run};
use super::{from, tiny};
use crate::feed::{Feed, FeedOptions, Snapshot, direct_rows};
use crate::store::sqlite::{Options, SqliteStore};
use crate::store::{BanMode, Change, Store, TableStore};

/// 2026-11-23; every expiry that is written here is in 2030 or long past.
const NOW: u32 = 1_795_456_800;
const KEYS: [&str; 9] = [
    "9.9.9.9",
    "9.9.9.9/32",
    "::ffff:9.9.9.9",
    "9.9.0.0/16",
    "10.0.0.3",
    "10.0.0.0/24",
    "2001:db8::/64",
    "2001:db8::1",
    "999.1.1.1",
];
const CLIENTS: [&str; 6] = ["9.9.9.9", "9.9.8.8", "10.0.0.3", "10.0.0.9", "2001:db8::1", "192.0.2.1"];
const NAMES: [&str; 3] = ["a", "b", "c"];
/// What people do with `sqlite3`; `{}` is one of the keys, `[]` one of the names.
const FOREIGN: [&str; 32] = [
    "INSERT OR REPLACE INTO ip_monitor (ip, status) VALUES ('{}', 'banned')",
    "INSERT OR REPLACE INTO ip_monitor (ip, status) VALUES ('{}', 'allowed')",
    "INSERT OR REPLACE INTO ip_monitor (ip, status, expires_at) VALUES ('{}', 'banned', '2030-01-01 00:00:00')",
    "INSERT OR REPLACE INTO ip_monitor (ip, status, expires_at) VALUES ('{}', 'allowed', '2001-01-01 00:00:00')",
    "INSERT OR REPLACE INTO ip_monitor (ip, status) VALUES ('{}', 'blocked')",
    "DELETE FROM ip_monitor WHERE ip = '{}'",
    "UPDATE OR REPLACE ip_monitor SET ip = '{}' WHERE status = 'banned' AND ip < '2'",
    "UPDATE ip_monitor SET status = 'watched' WHERE ip = '{}'",
    "DELETE FROM ip_monitor",
    "DROP TRIGGER ip_monitor_inserted; INSERT OR REPLACE INTO ip_monitor (ip, status) VALUES ('{}', 'banned')",
    "BEGIN; INSERT OR REPLACE INTO ip_monitor (ip, status) VALUES ('{}', 'banned'); DELETE FROM routes; ROLLBACK",
    "BEGIN; DELETE FROM ip_monitor; INSERT INTO ip_monitor (ip, status) VALUES ('{}', 'banned'); DELETE FROM flags; COMMIT",
    "VACUUM",
    "INSERT OR REPLACE INTO flags (name, value) VALUES ('enableRouteCache', 'true')",
    "INSERT OR REPLACE INTO flags (name, value) VALUES ('enableGeoRulesCache', '\"shadow\"')",
    "INSERT OR REPLACE INTO flags (name, value) VALUES ('enableAsyncRecording', '{\"percent\": 20}')",
    "UPDATE flags SET value = 'on'",
    "DELETE FROM flags",
    "INSERT OR REPLACE INTO geo_rules (name, document) VALUES ('[]', '{\"mode\":\"deny\",\"countries\":[\"DE\"]}')",
    "INSERT OR REPLACE INTO geo_rules (name, document) VALUES ('[]', '{\"mode\":\"allow\",\"countries\":[\"DE\"],\"global\":false,\"status\":451}')",
    "INSERT OR REPLACE INTO geo_rules (name, document) VALUES ('[]', '{\"mode\":\"deny\",\"countries\":[\"Germany\"]}')",
    "DELETE FROM geo_rules WHERE name = '[]'",
    "DELETE FROM routes WHERE name = '[]'",
    "UPDATE routes SET document = '{'  WHERE name = '[]'",
    "DELETE FROM geo_countries",
    "INSERT OR REPLACE INTO scoped_bans (ip, status, applies_to) VALUES ('{}', 'banned', '{\"hostnames\":[\"h\"]}')",
    "INSERT OR REPLACE INTO scoped_bans (ip, status, source, applies_to, expires_at) VALUES ('{}', 'watched', '[]', '{\"hostnames\":[\"g\"]}', '2030-01-01')",
    "INSERT OR REPLACE INTO scoped_bans (ip, source, applies_to) VALUES ('{}', '[]', '{\"hostnames\":[\"g\"]}')",
    "UPDATE scoped_bans SET status = 'blocked' WHERE ip = '{}'",
    "UPDATE OR REPLACE scoped_bans SET source = '[]', status = 'watched' WHERE ip = '{}'",
    "INSERT OR REPLACE INTO scoped_bans (ip, source, applies_to) VALUES ('{}', '[]', 'h')",
    "DELETE FROM scoped_bans WHERE ip = '{}'",
];
/// Hosts of requests: the first two are in a scope.
const HOSTS: [&str; 3] = ["h", "g", "x"];

/// Documents by name.
type Documents = BTreeMap<String, String>;

/// The rows in force, as they are, or as before they became invalid.
#[derive(Default)]
struct Kept {
    rules: Documents,
    routes: Documents,
    /// By key, of `scoped_bans` with a space in it.
    ips: BTreeMap<String, IpSaid>,
}

/// Status, expiry and scope of a row.
type IpSaid = (String, Option<String>, Option<String>);

impl Kept {
    fn after(&self, conn: &Connection) -> Self {
        let mut statement =
            conn.prepare(
                "SELECT ip, status, expires_at, NULL FROM ip_monitor UNION ALL
                 SELECT ip || ' ' || source || ' ' || applies_to, status, expires_at, applies_to FROM scoped_bans",
            )
            .unwrap();
        let rows = statement
            .query_map([], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?, row.get(3)?))))
            .unwrap();
        let in_force = |(ip, row): (String, IpSaid)| {
            let is_bad = row.0 == "blocked" || row.2.as_deref() == Some("h");
            let row = if is_bad { self.ips.get(&ip)?.clone() } else { row };
            Some((ip, row))
        };
        Self {
            rules: kept(conn, "geo_rules", |rule| rule.contains("Germany"), &self.rules),
            routes: kept(conn, "routes", |route| route == "{", &self.routes),
            ips: rows.map(Result::unwrap).filter_map(in_force).collect(),
        }
    }
}

#[derive(Clone, Debug)]
enum Op {
    Foreign(usize, usize, usize),
    Route(usize, usize),
    Countries(&'static str, u8),
    Ban(usize),
    Unban(usize),
    Poll,
    Restart,
    /// A caller asks, and drops the request before the answer.
    GoneAway,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        24 => (0..FOREIGN.len(), 0..KEYS.len(), 0..NAMES.len()).prop_map(|(what, key, name)| Op::Foreign(what, key, name)),
        4 => (0..NAMES.len(), 0..2usize).prop_map(|(name, backend)| Op::Route(name, backend)),
        2 => (prop_oneof![Just("DE"), Just("FR")], 2..6u8).prop_map(|(code, last)| Op::Countries(code, last)),
        3 => (0..KEYS.len()).prop_map(Op::Ban),
        2 => (0..KEYS.len()).prop_map(Op::Unban),
        4 => Just(Op::Poll),
        1 => Just(Op::Restart),
        2 => Just(Op::GoneAway),
    ];
    proptest::collection::vec(op, 1..25)
}

fn open(path: &Path) -> Connection {
    let conn = Connection::open(path).unwrap();
    conn.busy_timeout(Duration::from_secs(5)).unwrap();
    conn
}

fn all(conn: &Connection, columns: &str, from: &str) -> Vec<(String, String)> {
    let mut statement = conn.prepare(&format!("SELECT {columns} FROM {from} ORDER BY 1")).unwrap();
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    rows.map(Result::unwrap).collect()
}

/// The rows' status of an address: each row is read by itself, the longest prefix wins.
fn naive_ip(kept: &Kept, client: IpAddr, host: &str) -> IpFinding {
    let is_over = |end: &Option<String>| end.as_deref().is_some_and(|end| end < "2026-11-23");
    let here = format!(r#"{{"hostnames":["{host}"]}}"#);
    let longest_of = |wanted: &str, scope: Option<&str>| {
        let is_said =
            |(status, end, of): &IpSaid| status == wanted && !is_over(end) && of.as_deref() == scope;
        let said = kept.ips.iter().filter(|(_, said)| is_said(said));
        let prefixes = said.filter_map(|(ip, _)| ip.split(' ').next()?.parse::<Prefix>().ok());
        prefixes.filter(|prefix| prefix.contains(client)).max_by_key(Prefix::len)
    };
    let longest = |wanted| longest_of(wanted, None).or_else(|| longest_of(wanted, Some(&here)));
    let allowed = longest("allowed").map(IpFinding::Allowed);
    let banned = || longest("banned").map(IpFinding::Banned);
    let in_shadow = || longest("watched").map(IpFinding::ShadowBanned);
    let found = allowed.or_else(banned).or_else(in_shadow);
    found.unwrap_or(IpFinding::Clear)
}

fn naive_flags(conn: &Connection) -> Flags {
    all(conn, "name, value", "flags").iter().fold(Flags::default(), |flags, (name, value)| {
        let flag = Flag::named(name).unwrap();
        let value: Option<Value> = serde_json::from_str(value).ok();
        let state = value.and_then(|value| author::read_flag(flag, &value).ok());
        flags.with(flag, state.unwrap_or_default())
    })
}

/// The current documents of a table, and the invalid ones as they were `before`.
fn kept(conn: &Connection, table: &str, is_bad: impl Fn(&str) -> bool, before: &Documents) -> Documents {
    let rows = all(conn, "name, document", table).into_iter();
    let said = |(name, document): (String, String)| {
        let said = if is_bad(&document) { before.get(&name)?.clone() } else { document };
        Some((name, said))
    };
    rows.filter_map(said).collect()
}

/// The global rules that deny a client of this country, and whether each rule does.
fn naive_geo(rules: &Documents, country: Option<&str>) -> Vec<(String, bool, bool)> {
    let verdict = |(name, rule): (&String, &String)| match rule.contains("deny") {
        true => (name.clone(), true, country == Some("DE")),
        false => (name.clone(), false, country != Some("DE")),
    };
    rules.iter().map(verdict).collect()
}

fn naive_country(conn: &Connection, client: IpAddr) -> Option<String> {
    let data = conn.query_row("SELECT data FROM geo_countries", [], |row| row.get::<_, Vec<u8>>(0));
    let table = CountryTable::from_bytes(data.optional().unwrap()?).unwrap();
    table.find(client).map(|country| country.to_string())
}

/// The backend of a host: each route is named as its host.
fn naive_route(routes: &Documents, name: &str) -> Option<(String, String)> {
    let document: Value = serde_json::from_str(routes.get(name)?).unwrap();
    let backend = document["spec"]["rules"][0]["backendRefs"][0]["name"].as_str().unwrap();
    Some((name.to_owned(), backend.to_owned()))
}

fn check(tables: &Tables, conn: &Connection, kept: &Kept) {
    for client in CLIENTS.map(|client| client.parse::<IpAddr>().unwrap()) {
        for host in HOSTS {
            let facts = Facts { host: host.as_bytes(), ..from(client) };
            let found = IpFinding::look_up(&facts, tables, || NOW);
            assert_eq!(found, naive_ip(kept, client, host), "{client} {host}");
        }
        let geo = GeoFinding::look_up(Some(client), CountrySource::Table, tables);
        let country = geo.country().map(|country| country.to_string());
        assert_eq!(country, naive_country(conn, client), "{client}");
        let GeoFinding::Rules { country: of, rules } = geo else { panic!("rules") };
        let verdicts = rules.verdicts(of).into_iter();
        let verdicts: Vec<_> = verdicts.map(|rule| (rule.name, rule.global, rule.denies.is_some())).collect();
        assert_eq!(verdicts, naive_geo(&kept.rules, country.as_deref()), "{client}");
    }
    for name in NAMES {
        let facts = Facts { host: name.as_bytes(), path: b"/", method: b"GET", ..Facts::default() };
        let found = tables.routes.find(&facts).unwrap();
        let found = found.map(|found| (found.route.to_owned(), found.backend.unwrap().name.clone()));
        assert_eq!(found, naive_route(&kept.routes, name), "{name}");
    }
    assert_eq!(tables.flags, naive_flags(conn));
}

/// What is answered while the newest tables are not there yet.
async fn check_rows(feed: &Feed, kept: &Kept) {
    for client in CLIENTS.map(|client| client.parse::<IpAddr>().unwrap()) {
        let tables = direct_rows::tables(feed.shared(), Some(client)).await.unwrap();
        for host in HOSTS {
            let facts = Facts { host: host.as_bytes(), ..from(client) };
            let found = IpFinding::look_up(&facts, &tables, || NOW);
            assert_eq!(found, naive_ip(kept, client, host), "{client} {host}");
        }
    }
}

/// All bans, expired ones included, with the only expiry that is written here.
fn naive_bans(kept: &Kept) -> BTreeMap<Prefix, Option<UnixSeconds>> {
    let mut set: BTreeMap<Prefix, Option<UnixSeconds>> = BTreeMap::new();
    let everywhere = kept.ips.iter().filter(|(_, (status, _, scope))| status == "banned" && scope.is_none());
    for (ip, (_, expires, _)) in everywhere {
        let Ok(prefix) = ip.parse::<Prefix>() else { continue };
        let end = expires.as_ref().map(|_| 1_893_456_000);
        let slot = set.entry(prefix).or_insert(end);
        *slot = slot.and(end);
    }
    set
}

async fn ends_right(feed: &Feed, gateway: &mut SimGateway, kept: &Kept) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        feed.current().await;
        if let Some(bytes) = gateway.ask(feed, Duration::from_millis(20)).await {
            gateway.apply(feed, SyncAnswer::from_bytes(&bytes).unwrap());
        }
        let (got, want) = (gateway.banned(), naive_bans(kept));
        if got == want {
            return;
        }
        assert!(Instant::now() < deadline, "got {got:?}, want {want:?}, {:?}", feed.health());
    }
}

async fn run(ops: Vec<Op>) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tidegate.db");
    let options = Options { look_every: Duration::from_millis(5), ..Options::default() };
    let store = Arc::new(SqliteStore::open(&path, options).unwrap());
    let mut feed = Feed::start(store.clone(), tiny()).await.unwrap();
    let mut gateway = SimGateway::new("g");
    let foreign = open(&path);
    let mut in_force = Kept::default();
    for op in ops {
        match op {
            // What cannot be read where nobody noted the move may be in force or not.
            Op::Foreign(6, key, _) if KEYS[key] == "999.1.1.1" => {}
            Op::Foreign(what, key, name) => {
                let sql = FOREIGN[what].replace("{}", KEYS[key]).replace("[]", NAMES[name]);
                // A trigger that was dropped a moment ago cannot be dropped again.
                let _ = foreign.execute_batch(&sql);
            }
            Op::Route(name, backend) => {
                let name = NAMES[name];
                let of_host = format!(r#""spec":{{"hostnames":["{name}"],"#);
                let document = document(name, ["one", "other"][backend]).replace(r#""spec":{"#, &of_host);
                let sql = "INSERT OR REPLACE INTO routes (name, document) VALUES (?1, ?2)";
                foreign.execute(sql, [name, &document]).unwrap();
            }
            Op::Countries(code, last) => {
                let sql = "INSERT OR REPLACE INTO geo_countries (id, source, data) VALUES (1, 'x', ?1)";
                foreign.execute(sql, params![one_run(code, last)]).unwrap();
            }
            Op::Ban(key) => {
                let ip =
                    KEYS[key].parse().map_or("192.0.2.9".to_owned(), |prefix: Prefix| prefix.to_string());
                store
                    .commit(
                        Change::Ban {
                            ip,
                            reason: None,
                            expires_at: None,
                            mode: BanMode::Enforce,
                            applies_to: None,
                            unless_allowed: false,
                        },
                        &"test".into(),
                    )
                    .await
                    .unwrap();
            }
            Op::Unban(key) => {
                store
                    .commit(Change::Unban { keys: vec![KEYS[key].to_owned()] }, &"test".into())
                    .await
                    .unwrap();
            }
            // What is sent meanwhile need not be complete, but must match its digest.
            Op::Poll => drop(gateway.poll(&feed).await),
            Op::Restart => {
                let deadline = Instant::now() + Duration::from_secs(20);
                let former = Snapshot::clone(&feed.snapshot()).former_rows();
                while store.read_tables(&[]).await.unwrap().former != former {
                    assert!(Instant::now() < deadline, "{former:?} is not kept");
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                feed = Feed::start(store.clone(), tiny()).await.unwrap();
            }
            Op::GoneAway => drop(tokio::time::timeout(Duration::ZERO, feed.tables()).await),
        }
        in_force = in_force.after(&foreign);
        check_rows(&feed, &in_force).await;
        check(&feed.tables().await.unwrap(), &foreign, &in_force);
    }
    ends_right(&feed, &mut gateway, &in_force).await;
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 100, ..ProptestConfig::with_cases(40) })]
    #[test]
    fn a_direct_question_is_answered_from_the_database_as_it_stands(ops in ops()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
        runtime.block_on(run(ops));
    }
}

/// While a client bans and unbans as fast as it can and notes what is committed: no answer is
/// older than its question.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_is_older_than_its_question() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tidegate.db");
    let store = Arc::new(SqliteStore::open(&path, Options::default()).unwrap());
    let feed = Feed::start(store, FeedOptions { overlay_min: 30, ..tiny() }).await.unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let mut asking = tokio::task::JoinSet::new();
    for n in 0..8u8 {
        let (feed, over) = (feed.clone(), over.clone());
        let foreign = open(&path);
        asking.spawn(async move {
            let ip = format!("192.0.2.{n}");
            let client: IpAddr = ip.parse().unwrap();
            let sql = [
                format!("INSERT INTO ip_monitor (ip, status) VALUES ('{ip}', 'banned')"),
                format!("DELETE FROM ip_monitor WHERE ip = '{ip}'"),
            ];
            let mut asked = 0usize;
            while !over.load(Ordering::Relaxed) {
                let banned = asked.is_multiple_of(2);
                tokio::task::block_in_place(|| foreign.execute(&sql[asked % 2], [])).unwrap();
                let tables = feed.tables().await.unwrap();
                let found = IpFinding::look_up(&from(client), &tables, || NOW);
                assert_eq!(found != IpFinding::Clear, banned, "{ip}, question {asked}");
                asked += 1;
                over.fetch_or(asked == 60, Ordering::Relaxed);
            }
            asked
        });
    }
    let asked: usize = asking.join_all().await.into_iter().sum();
    assert!(asked >= 60, "{asked} questions");
}
