//! What routes cost: their table's bytes, loading it, finding the rule that wins,
//! beside the matcher that tries everything:
//! `cargo bench -p tidegate-policy --features author --bench routes`.
//! The operations of a public API are read from the file that
//! `TIDEGATE_OPERATIONS` names, METHOD and path template a line.

#[path = "../tests/routes/linear.rs"]
mod linear;

use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use serde_json::{Value, json};
use tidegate_policy::author::{self, Route};
use tidegate_policy::decide::Facts;
use tidegate_policy::route::RouteTable;

const COUNTS: &[usize] = &[10, 1_000, 10_000];

fn main() {
    for &count in COUNTS {
        print_size(&format!("{count} prefix routes"), &compile(&prefixes(count)).unwrap());
    }
    if let Some(routes) = operations() {
        let bytes = compile(&routes).unwrap();
        print_size(&format!("{} operations as regexes", routes.len()), &bytes);
    }
    divan::main();
}

fn print_size(what: &str, bytes: &[u8]) {
    println!("{what}: {} bytes", bytes.len());
}

fn read(document: &Value) -> Route {
    author::read(document).unwrap()
}

fn documents(count: usize) -> Vec<Value> {
    let document = |i: usize| {
        let path = format!("/api/team-{}/service-{i}", i % 100);
        json!({"metadata": {"name": format!("route-{i}")}, "spec": {
            "hostnames": ["api.example.com"],
            "rules": [{
                "matches": [{"path": {"type": "PathPrefix", "value": path}}],
                "backendRefs": [{"name": format!("service-{}", i % 500), "port": 80}],
            }],
        }})
    };
    (0..count).map(document).collect()
}

/// Prefix routes on one host.
fn prefixes(count: usize) -> Vec<Route> {
    documents(count).iter().map(read).collect()
}

/// As many routes, each on a host of its own.
fn hosts(count: usize) -> Vec<Route> {
    let mut routes = prefixes(count);
    routes
        .iter_mut()
        .enumerate()
        .for_each(|(i, route)| route.hostnames = vec![format!("host-{i}.example.com")]);
    routes
}

fn operation_documents() -> Option<Vec<Value>> {
    let text = std::fs::read_to_string(std::env::var_os("TIDEGATE_OPERATIONS")?).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let document = |(i, line): (usize, &str)| {
        let (method, template) = line.split_once(' ').unwrap();
        let elements = template.split('/').map(|element| match element.find('{') {
            Some(at) => format!("{}[^/]+", &element[..at]),
            None => element.replace('.', r"\."),
        });
        let pattern = elements.collect::<Vec<_>>().join("/");
        let kind = if template.contains('{') { "RegularExpression" } else { "Exact" };
        let value = if kind == "Exact" { template } else { &pattern };
        json!({"metadata": {"name": format!("operation-{i}")}, "spec": {"rules": [{
            "matches": [{"path": {"type": kind, "value": value}, "method": method}],
            "backendRefs": [{"name": "api"}],
        }]}})
    };
    Some(lines.enumerate().map(document).collect())
}

/// Operations of a public API: exact paths, and regexes for those with
/// parameters.
fn operations() -> Option<Vec<Route>> {
    Some(operation_documents()?.iter().map(read).collect())
}

fn compile(routes: &[Route]) -> Result<Vec<u8>, author::CompileError> {
    author::compile(routes, &author::Backends::new())
}

fn table_of(routes: &[Route]) -> RouteTable {
    RouteTable::from_bytes(&compile(routes).unwrap()).unwrap()
}

const HEADERS: &[(&[u8], &[u8])] = &[
    (b"accept", b"*/*"),
    (b"user-agent", b"curl/8"),
    (b"x-request-id", b"1b4e28ba-2fa1-11d2-883f-0016d3cca427"),
];

fn get<'r>(host: &'r str, path: &'r str) -> Facts<'r> {
    Facts {
        method: b"GET",
        host: host.as_bytes(),
        path: path.as_bytes(),
        headers: HEADERS,
        ..Facts::default()
    }
}

/// Requests that go through all routes in a scattered order, so that the table
/// is not always in the nearest cache.
fn scattered(count: usize) -> Vec<(String, String)> {
    let one = |n: usize| {
        let i = n.wrapping_mul(7_919) % count;
        (format!("host-{i}.example.com"), format!("/api/team-{}/service-{i}/items/42?page=7", i % 100))
    };
    (0..1_024).map(one).collect()
}

/// Nanoseconds per request over scattered requests: divan shows the time of all
/// 1,024.
fn all(bencher: Bencher<'_, '_>, table: &RouteTable, requests: &[(String, String)], host: Option<&str>) {
    for (own, path) in requests {
        assert!(table.find(&get(host.unwrap_or(own), path)).is_some(), "{own}{path}");
    }
    bencher.counter(divan::counter::ItemsCount::new(requests.len())).bench_local(|| {
        for (own, path) in requests {
            black_box(table.find(black_box(&get(host.unwrap_or(own), path))));
        }
    });
}

#[divan::bench(args = COUNTS)]
fn find_1024_by_prefix(bencher: Bencher<'_, '_>, count: usize) {
    all(bencher, &table_of(&prefixes(count)), &scattered(count), Some("api.example.com"));
}

#[divan::bench(args = COUNTS)]
fn find_1024_by_host(bencher: Bencher<'_, '_>, count: usize) {
    all(bencher, &table_of(&hosts(count)), &scattered(count), None);
}

#[divan::bench(args = COUNTS)]
fn find_by_prefix(bencher: Bencher<'_, '_>, count: usize) {
    let table = table_of(&prefixes(count));
    let facts = get("api.example.com", "/api/team-7/service-7/items/42?page=7");
    assert!(table.find(&facts).is_some());
    bencher.bench_local(|| black_box(&table).find(black_box(&facts)));
}

#[divan::bench(args = COUNTS)]
fn find_nothing(bencher: Bencher<'_, '_>, count: usize) {
    let table = table_of(&prefixes(count));
    let facts = get("api.example.com", "/api/team-7/other/items/42?page=7");
    assert!(table.find(&facts).is_none());
    bencher.bench_local(|| black_box(&table).find(black_box(&facts)));
}

#[divan::bench(args = COUNTS)]
fn find_by_trying_all(bencher: Bencher<'_, '_>, count: usize) {
    let routes = prefixes(count);
    let facts = get("api.example.com", "/api/team-7/service-7/items/42?page=7");
    bencher.bench_local(|| linear::find(black_box(&routes), black_box(&facts)));
}

#[divan::bench(args = ["/repos/a/b/issues/7", "/users/octocat", "/gists/1/comments/2", "/user/repos", "/nothing"])]
fn find_operation_by_regex(bencher: Bencher<'_, '_>, path: &str) {
    let Some(routes) = operations() else { return };
    let table = table_of(&routes);
    let facts = get("api.example.com", path);
    bencher.bench_local(|| black_box(&table).find(black_box(&facts)));
}

#[divan::bench(args = COUNTS, sample_count = 20)]
fn load(bencher: Bencher<'_, '_>, count: usize) {
    let bytes = compile(&prefixes(count)).unwrap();
    bencher.counter(BytesCount::of_slice(&bytes)).bench_local(|| RouteTable::from_bytes(black_box(&bytes)));
}

#[divan::bench(sample_count = 20)]
fn load_operations(bencher: Bencher<'_, '_>) {
    let Some(routes) = operations() else { return };
    let bytes = compile(&routes).unwrap();
    bencher.counter(BytesCount::of_slice(&bytes)).bench_local(|| RouteTable::from_bytes(black_box(&bytes)));
}

#[divan::bench(args = COUNTS, sample_count = 5)]
fn read_and_compile(bencher: Bencher<'_, '_>, count: usize) {
    let documents = documents(count);
    bencher.bench_local(|| compile(&documents.iter().map(read).collect::<Vec<_>>()));
}

#[divan::bench(sample_count = 5)]
fn read_and_compile_operations(bencher: Bencher<'_, '_>) {
    let Some(documents) = operation_documents() else { return };
    bencher.bench_local(|| compile(&documents.iter().map(read).collect::<Vec<_>>()));
}
