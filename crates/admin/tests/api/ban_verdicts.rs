//! Of random bans, lists and requests: gateways' tables, the check of a gateway in direct mode and explain find
//! what the rows and lists say, each read by itself.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use reqwest::Method;
use serde_json::{Value, json};
use tidegate_policy::address::Prefix;
use tidegate_policy::bans;
use tidegate_policy::check::Check;
use tidegate_policy::decide::{CountrySource, IpFinding, Tables};
use tidegate_policy::request::Facts;
use tidegate_policy::table::AddressTable;
use tidegate_policy::tables::{Table, TableDecoder, TableSet};
use tidegate_policy::wire::check::{Answer, Found, Question, path};
use tidegate_policy::wire::sync::{BlobRef, OverlayUpdate, SyncAnswer};

use crate::test_gateway::{SYNC, TestGateway};
use crate::test_service::{Answered, TestService, until};

/// Keys of rows; the second is another spelling of the first.
const KEYS: [&str; 7] =
    ["11.0.0.1", "11.0.0.1/32", "11.0.0.2", "11.0.0.0/24", "11.0.0.0/16", "2a01:1::1", "2a01:1::/32"];
const CLIENTS: [&str; 6] = ["11.0.0.1", "11.0.0.2", "11.0.0.9", "11.0.7.7", "2a01:1::1", "12.0.0.1"];
/// What requests name, and the name in it.
const HOSTS: [(&str, &str); 5] = [
    ("a.example", "a.example"),
    ("A.Example.:80", "a.example"),
    ("b.example", "b.example"),
    ("x.b.example", "x.b.example"),
    ("c.example", "c.example"),
];
const PATHS: [&str; 2] = ["/o/1", "/x"];
/// Hostnames and routes of scopes.
const SCOPES: [(&[&str], &[&str]); 6] = [
    (&["a.example"], &[]),
    (&["*.b.example", "c.example"], &[]),
    (&[], &["orders"]),
    (&[], &["orders", "team/tagged"]),
    (&["b.example"], &["orders"]),
    (&["b.example"], &["team/tagged", "none"]),
];
const STATUSES: [&str; 4] = ["banned", "banned", "watched", "allowed"];
/// Ends, and whether they are to come.
const ENDS: [(Option<&str>, bool); 4] =
    [(None, true), (None, true), (Some("2020-01-01"), false), (Some("2099-01-01"), true)];
/// The header by which requests take the route `team/tagged`, where `orders` does not take them.
const TAG: (&str, &str) = ("x-tag", "1");

/// A scope by its index.
type ScopeIndex = Option<usize>;

#[derive(Clone, Debug)]
struct Row {
    status: &'static str,
    scope: ScopeIndex,
    end: (Option<&'static str>, bool),
}

#[derive(Clone, Debug)]
struct Source {
    is_shadow: bool,
    scope: ScopeIndex,
    entries: Vec<&'static str>,
}

#[derive(Clone, Debug)]
struct Request {
    client: &'static str,
    host: (&'static str, &'static str),
    path: &'static str,
    is_tagged: bool,
}

#[derive(Clone, Debug)]
struct World {
    rows: BTreeMap<&'static str, Row>,
    sources: [Source; 2],
    requests: Vec<Request>,
}

fn any_scope() -> impl Strategy<Value = ScopeIndex> {
    prop::option::weighted(0.7, 0..SCOPES.len())
}

fn any_world() -> impl Strategy<Value = World> {
    let row = (select(&STATUSES[..]), any_scope(), select(&ENDS[..])).prop_map(|(status, scope, end)| Row {
        // The allow list is not narrowed.
        scope: scope.filter(|_| status != "allowed"),
        status,
        end,
    });
    let source = || {
        let entries = prop::collection::vec(select(&KEYS[..]), 1..4);
        (any::<bool>(), any_scope(), entries).prop_map(|(is_shadow, scope, entries)| Source {
            is_shadow,
            scope,
            entries,
        })
    };
    let request = (select(&CLIENTS[..]), select(&HOSTS[..]), select(&PATHS[..]), any::<bool>())
        .prop_map(|(client, host, path, is_tagged)| Request { client, host, path, is_tagged });
    let rows = prop::collection::btree_map(select(&KEYS[..]), row, 0..6);
    (rows, [source(), source()], prop::collection::vec(request, 12))
        .prop_map(|(rows, sources, requests)| World { rows, sources, requests })
}

fn scope_json(scope: ScopeIndex) -> Option<Value> {
    let (hostnames, routes) = SCOPES[scope?];
    let mut json = json!({});
    for (field, names) in [("hostnames", hostnames), ("routes", routes)] {
        if !names.is_empty() {
            json[field] = json!(names);
        }
    }
    Some(json)
}

impl Request {
    /// By the documents of [`start`].
    fn route(&self) -> Option<&'static str> {
        match (self.host.1, self.path) {
            ("b.example", "/o/1") => Some("orders"),
            _ => self.is_tagged.then_some("team/tagged"),
        }
    }

    fn is_in(&self, scope: ScopeIndex) -> bool {
        let Some((hostnames, routes)) = scope.map(|scope| SCOPES[scope]) else { return true };
        let is_of = |hostname: &&str| match hostname.strip_prefix("*.") {
            Some(parent) => self.host.1.strip_suffix(parent).is_some_and(|labels| labels.ends_with('.')),
            None => *hostname == self.host.1,
        };
        (hostnames.is_empty() || hostnames.iter().any(is_of))
            && (routes.is_empty() || self.route().is_some_and(|route| routes.contains(&route)))
    }

    fn headers(&self) -> Vec<(&[u8], &[u8])> {
        self.is_tagged.then_some((TAG.0.as_bytes(), TAG.1.as_bytes())).into_iter().collect()
    }
}

impl World {
    /// Status, prefix and scope of all that is in force.
    fn entries(&self) -> impl Iterator<Item = (&'static str, Prefix, ScopeIndex)> + '_ {
        let rows = self.rows.iter().filter(|(_, row)| row.end.1);
        let rows = rows.map(|(key, row)| (row.status, key.parse().unwrap(), row.scope));
        let of_sources = self.sources.iter().flat_map(|source| {
            let status = if source.is_shadow { "watched" } else { "banned" };
            source.entries.iter().map(move |entry| (status, entry.parse().unwrap(), source.scope))
        });
        rows.chain(of_sources)
    }

    /// An entry of the allow list, else a ban, else one in shadow: of each first what applies everywhere, then
    /// what the request is in, the longest.
    fn naive(&self, request: &Request) -> IpFinding {
        let client: IpAddr = request.client.parse().unwrap();
        let longest = |wanted: &str, is_scoped: bool| {
            let here = self.entries().filter(|(status, prefix, scope)| {
                *status == wanted
                    && scope.is_some() == is_scoped
                    && prefix.contains(client)
                    && request.is_in(*scope)
            });
            here.map(|(_, prefix, _)| prefix).max_by_key(Prefix::len)
        };
        let of = |status| longest(status, false).or_else(|| longest(status, true));
        let banned = || of("banned").map(IpFinding::Banned);
        let watched = || of("watched").map(IpFinding::ShadowBanned);
        let allowed = of("allowed").map(IpFinding::Allowed);
        allowed.or_else(banned).or_else(watched).unwrap_or(IpFinding::Clear)
    }

    /// Makes this the state of the service.
    async fn write(&self, service: &TestService, files: &Path) {
        let quoted = |text: Option<&str>| text.map_or_else(|| "NULL".to_owned(), |text| format!("'{text}'"));
        let rows = self.rows.iter().map(|(key, row)| {
            let scope = scope_json(row.scope).map(|scope| scope.to_string());
            let (table, more, scope) = match scope {
                None => ("ip_monitor", "", String::new()),
                Some(scope) => ("scoped_bans", ", applies_to", format!(", '{scope}'")),
            };
            let (status, end) = (row.status, quoted(row.end.0));
            format!("INSERT INTO {table} (ip, status, expires_at{more}) VALUES ('{key}', '{status}', {end}{scope});")
        });
        let rows: String = rows.collect();
        service.sql(&format!("BEGIN; DELETE FROM ip_monitor; DELETE FROM scoped_bans; {rows} COMMIT;"));
        // The lists are checked against the allow list as it is now.
        explained(service, &self.requests[0]).await;
        for (number, source) in self.sources.iter().enumerate() {
            let file = format!("{number}.txt");
            std::fs::write(files.join(&file), source.entries.join("\n")).unwrap();
            let mode = if source.is_shadow { "shadow" } else { "enforce" };
            let mut document = json!({"path": file, "interval": "30d", "mode": mode});
            if let Some(scope) = scope_json(source.scope) {
                document["applies_to"] = scope;
            }
            service.put_json(&format!("/api/admin/sources/s{number}"), &document).await.ok();
            service.post(&format!("/api/admin/sources/s{number}/refresh?force=true"), "").await.ok();
        }
    }
}

async fn start(files: &Path) -> TestService {
    let service = TestService::start_with_files(files).await;
    let backends = json!([{"name": "demo", "port": 80}]);
    let orders = json!({"hostnames": ["b.example"],
        "rules": [{"matches": [{"path": {"value": "/o"}}], "backendRefs": backends}]});
    let tagged = json!({"rules": [{"matches": [{"headers": [{"name": TAG.0, "value": TAG.1}]}],
        "backendRefs": backends}]});
    for (namespace, name, spec) in [("default", "orders", orders), ("team", "tagged", tagged)] {
        let document = json!({"metadata": {"name": name, "namespace": namespace}, "spec": spec});
        service.put_json(&format!("/api/admin/routes/{namespace}/{name}"), &document).await.ok();
    }
    service
}

/// What explain says, and by which version of the tables.
async fn explained(service: &TestService, request: &Request) -> (IpFinding, String) {
    let Request { client, host, path, is_tagged } = request;
    let header = if *is_tagged { format!("&header={}:{}", TAG.0, TAG.1) } else { String::new() };
    let target = format!("/api/admin/explain?ip={client}&host={}&path={path}{header}", host.0);
    let answer = service.get(&target).await.ok();
    let check = &answer["checks"]["ip"];
    let entry = || check["entry"].as_str().unwrap().parse().unwrap();
    let found = match check["says"].as_str().unwrap() {
        "allowed" => IpFinding::Allowed(entry()),
        "banned" => IpFinding::Banned(entry()),
        "watched" => IpFinding::ShadowBanned(entry()),
        _ => IpFinding::Clear,
    };
    (found, answer["version"].as_str().unwrap().to_owned())
}

/// What the check of a gateway in direct mode finds.
async fn direct(service: &TestService, facts: &Facts<'_>) -> IpFinding {
    let question = Question::new(Check::Ip, 7, facts, CountrySource::Table);
    let answer = service.post_as_gateway(path(Check::Ip), question.to_bytes().unwrap()).await;
    match Answer::from_bytes(answer.binary()).unwrap().found {
        Found::Ip(found) => found,
        other => panic!("{other:?}"),
    }
}

/// The tables of a gateway that begins now.
async fn tables(service: &TestService, answer: &SyncAnswer) -> Tables {
    let mut set = TableSet::empty();
    for update in &answer.whole {
        let bytes = match &update.bytes {
            Some(bytes) => bytes.clone(),
            None => blob(service, update.blob).await,
        };
        decode(update.table, bytes, &mut set);
    }
    let update = answer.bans.as_ref().unwrap();
    decode(Table::BanBase, blob(service, update.base).await, &mut set);
    let OverlayUpdate::Whole(changes) = &update.overlay else {
        panic!("a delta to a gateway without tables")
    };
    let overlay = bans::apply(&AddressTable::empty(), changes).unwrap();
    set.ban_overlay = AddressTable::from_bytes(overlay).unwrap();
    Tables::new(answer.version, set)
}

async fn blob(service: &TestService, blob: BlobRef) -> Vec<u8> {
    let page = Answered::to(service.as_gateway(Method::GET, &format!("{SYNC}/blob/{}", blob.hash))).await;
    assert_eq!(page.binary().len() as u64, blob.len);
    page.bytes
}

fn decode(table: Table, bytes: Vec<u8>, set: &mut TableSet) {
    let mut decoder = TableDecoder::new(table, &Arc::new(bytes)).unwrap();
    while !decoder.step(set).unwrap() {}
}

async fn check(service: &TestService, files: &Path, world: &World) -> Result<(), TestCaseError> {
    world.write(service, files).await;
    let (_, version) = explained(service, &world.requests[0]).await;
    let answer = until("gateways get what explain knows", async || {
        let answer = TestGateway::default().sync(service, "0s").await;
        (answer.version.to_string() == version).then_some(answer)
    })
    .await;
    let tables = tables(service, &answer).await;
    let now = u32::try_from(jiff::Timestamp::now().as_second()).unwrap();
    for request in &world.requests {
        let headers = request.headers();
        let facts = Facts {
            client: request.client.parse().ok(),
            method: b"GET",
            host: request.host.0.as_bytes(),
            path: request.path.as_bytes(),
            headers: &headers,
            ..Facts::default()
        };
        let wanted = world.naive(request);
        prop_assert_eq!(IpFinding::look_up(&facts, &tables, || now), wanted, "cached: {:?}", request);
        prop_assert_eq!(direct(service, &facts).await, wanted, "direct: {:?}", request);
        prop_assert_eq!(explained(service, request).await.0, wanted, "explain: {:?}", request);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn cache_database_and_explain_find_what_rows_and_lists_say() {
    let files = tempfile::tempdir().unwrap();
    let service = start(files.path()).await;
    let runtime = tokio::runtime::Handle::current();
    let mut runner = TestRunner::new(Config { cases: 30, max_shrink_iters: 300, ..Config::default() });
    tokio::task::block_in_place(|| {
        let checked =
            runner.run(&any_world(), |world| runtime.block_on(check(&service, files.path(), &world)));
        if let Err(failed) = checked {
            panic!("{failed}");
        }
    });
}
