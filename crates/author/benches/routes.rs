//! What routes cost: their table's bytes, making and loading it, finding the rule
//! that wins, beside the matcher that tries everything:
//! `cargo bench -p tidegate-author --bench routes`.

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use serde_json::{Value, json};
use tidegate_author::{self as author, Route, explain};
use tidegate_policy::request::Facts;
use tidegate_policy::route::{RouteLoad, RouteTable};

/// METHOD and path template a line, without those that begin with `#`.
const OPERATIONS: &str = include_str!("data/github-api-operations.txt");
/// Bytes of regexes in one step of a load: what a worker does between two looks at
/// its requests.
const REGEXES_AT_A_TIME: usize = 128 << 10;

/// Which routes are looked at.
#[derive(Clone, Copy, Debug)]
enum Routes {
    /// So many, each with a prefix of its own, on one host.
    Prefixes(usize),
    /// So many, each on a host of its own.
    Hosts(usize),
    /// So many, each with a template of its own, on one host.
    Templates(usize),
    /// The operations of GitHub's API as templates, a route each; one is a regex.
    Operations,
    /// The same with regexes in the templates' place.
    OperationsAsRegexes,
    /// So many, each with a regex of its own, of which one element is left to test, on one host.
    Regexes(usize),
    /// So many, each with a regex of its own, all of which every path has the shape of, on one host.
    ShapelessRegexes(usize),
}

use Routes::{Hosts, Operations, OperationsAsRegexes, Prefixes, Regexes, ShapelessRegexes, Templates};

const ALL: &[Routes] = &[
    Prefixes(10),
    Prefixes(1_000),
    Prefixes(10_000),
    Hosts(10),
    Hosts(1_000),
    Hosts(10_000),
    Templates(10),
    Templates(1_000),
    Templates(10_000),
    Operations,
    OperationsAsRegexes,
    Regexes(10_000),
    ShapelessRegexes(256),
    ShapelessRegexes(1_000),
];

fn main() {
    for routes in ALL {
        println!("{routes:?}: {} bytes", routes.bytes().len());
    }
    divan::main();
}

impl Routes {
    fn documents(self) -> Vec<Value> {
        match self {
            Prefixes(count) | Hosts(count) | Templates(count) | Regexes(count) | ShapelessRegexes(count) => {
                (0..count).map(|i| self.document(i)).collect()
            }
            Operations | OperationsAsRegexes => {
                operations().enumerate().map(|(i, of)| self.operation(i, of)).collect()
            }
        }
    }

    fn document(self, i: usize) -> Value {
        let (kind, value) = match self {
            Templates(_) => ("Template", format!("/api/team-{}/{{tenant}}/service-{i}/{{id}}", i % 100)),
            Regexes(_) => {
                let pattern = format!("/api/team-{}/[^/]+/service-{i}/[0-9]+", i % 100);
                ("RegularExpression", pattern)
            }
            ShapelessRegexes(_) => ("RegularExpression", format!("/.*/service-{i}/.*[0-9]")),
            _ => ("PathPrefix", format!("/api/team-{}/service-{i}", i % 100)),
        };
        let host = if matches!(self, Hosts(_)) { host(i) } else { host(0) };
        json!({"metadata": {"name": format!("route-{i}")}, "spec": {
            "hostnames": [host],
            "rules": [{
                "matches": [{"path": {"type": kind, "value": value}}],
                "backendRefs": [{"name": format!("service-{}", i % 500), "port": 80}],
            }],
        }})
    }

    fn operation(self, i: usize, (method, template): (&str, &str)) -> Value {
        let elements = template.split('/').map(|element| match element.starts_with('{') {
            true => "[^/]+".to_owned(),
            false => element.replace('.', r"\."),
        });
        // `/repos/{owner}/{repo}/compare/{base}...{head}` has two names in an element.
        let (kind, value) = match self {
            Operations if !template.contains("}.") => ("Template", template.to_owned()),
            _ => ("RegularExpression", elements.collect::<Vec<_>>().join("/")),
        };
        json!({"metadata": {"name": format!("operation-{i}")}, "spec": {"rules": [{
            "matches": [{"path": {"type": kind, "value": value}, "method": method}],
            "backendRefs": [{"name": "api"}],
        }]}})
    }

    fn read(self) -> Vec<Route> {
        self.documents().iter().map(|document| author::read(document).unwrap()).collect()
    }

    fn bytes(self) -> Vec<u8> {
        compile(&self.read()).unwrap()
    }

    /// Requests that go through all routes in a scattered order, so that the table
    /// is not always in the nearest cache.
    fn requests(self) -> Vec<Sent> {
        let scattered = |count: usize| (0..1_024).map(move |n: usize| n.wrapping_mul(7_919) % count);
        let get = |host, path| Sent { method: "GET", host, path };
        match self {
            Prefixes(count) | Hosts(count) => scattered(count)
                .map(|i| {
                    let of = if matches!(self, Hosts(_)) { i } else { 0 };
                    get(host(of), format!("/api/team-{}/service-{i}/items/42?page=7", i % 100))
                })
                .collect(),
            Templates(count) | Regexes(count) | ShapelessRegexes(count) => scattered(count)
                .map(|i| get(host(0), format!("/api/team-{}/acme/service-{i}/42?page=7", i % 100)))
                .collect(),
            Operations | OperationsAsRegexes => {
                let all: Vec<_> = operations().collect();
                let sent = |i: usize| {
                    let filled =
                        all[i].1.split('/').map(|part| if part.starts_with('{') { "x-42" } else { part });
                    let path = filled.collect::<Vec<_>>().join("/");
                    Sent { method: all[i].0, host: "api.example.com".to_owned(), path }
                };
                scattered(all.len()).map(sent).collect()
            }
        }
    }
}

fn compile(routes: &[Route]) -> Result<Vec<u8>, author::CompileError> {
    author::compile(routes, &author::Backends::new(), &author::Listeners::new())
}

fn host(i: usize) -> String {
    format!("host-{i}.example.com")
}

fn operations() -> impl Iterator<Item = (&'static str, &'static str)> {
    OPERATIONS.lines().filter(|line| !line.starts_with('#')).map(|line| line.split_once(' ').unwrap())
}

/// A request.
struct Sent {
    method: &'static str,
    host: String,
    path: String,
}

impl Sent {
    fn facts(&self) -> Facts<'_> {
        Facts {
            method: self.method.as_bytes(),
            host: self.host.as_bytes(),
            path: self.path.as_bytes(),
            headers: HEADERS,
            ..Facts::default()
        }
    }
}

const HEADERS: &[(&[u8], &[u8])] = &[
    (b"accept", b"*/*"),
    (b"user-agent", b"curl/8"),
    (b"x-request-id", b"1b4e28ba-2fa1-11d2-883f-0016d3cca427"),
];

/// The time of all 1,024 requests; divan shows requests per second below it.
#[divan::bench(args = ALL)]
fn find_1024(bencher: Bencher<'_, '_>, routes: &Routes) {
    let (table, requests) = (RouteTable::from_bytes(&routes.bytes()).unwrap(), routes.requests());
    for sent in &requests {
        assert!(table.find(&sent.facts()).unwrap().is_some(), "{} {}{}", sent.method, sent.host, sent.path);
    }
    bencher.counter(ItemsCount::new(requests.len())).bench_local(|| {
        for sent in &requests {
            let _ = black_box(table.find(black_box(&sent.facts())));
        }
    });
}

/// The same request over and over, by the matcher that tries everything.
#[divan::bench(args = ALL, sample_count = 20)]
fn find_by_trying_all(bencher: Bencher<'_, '_>, routes: &Routes) {
    let (read, requests) = (routes.read(), routes.requests());
    let facts = requests[1].facts();
    bencher
        .bench_local(|| explain::taken(black_box(&read), &author::Listeners::new(), black_box(&facts)).len());
}

/// A path that begins like many and is nobody's.
#[divan::bench(args = ALL)]
fn find_nothing(bencher: Bencher<'_, '_>, routes: &Routes) {
    let table = RouteTable::from_bytes(&routes.bytes()).unwrap();
    let path = match routes {
        Operations | OperationsAsRegexes => "/repos/a/b/nothing",
        _ => "/api/team-7/other/items/42?page=7",
    };
    let sent = Sent { method: "GET", host: host(0), path: path.to_owned() };
    assert!(table.find(&sent.facts()).unwrap().is_none());
    bencher.bench_local(|| black_box(&table).find(black_box(&sent.facts())));
}

/// Every choice of open elements of a path of eight: 256 templates take it, and
/// none of the most specific may.
#[divan::bench]
fn find_the_last_of_256_templates(bencher: Bencher<'_, '_>) {
    let element = |choice: u32, i: u32| match choice >> i & 1 {
        0 => "/a".to_owned(),
        _ => format!("/{{e{i}}}"),
    };
    let document = |choice: u32| {
        let path: String = (0..8).map(|i| element(choice, i)).collect();
        let method = if choice == 255 { "GET" } else { "PUT" };
        json!({"metadata": {"name": format!("r{choice}")}, "spec": {"rules": [{
            "matches": [{"path": {"type": "Template", "value": path}, "method": method}]}]}})
    };
    let routes: Vec<_> = (0..256).map(|choice| author::read(&document(choice)).unwrap()).collect();
    let table = RouteTable::from_bytes(&compile(&routes).unwrap()).unwrap();
    let sent = Sent { method: "GET", host: host(0), path: "/a".repeat(8) };
    assert_eq!(table.find(&sent.facts()).unwrap().unwrap().route, "r255");
    bencher.bench_local(|| black_box(&table).find(black_box(&sent.facts())));
}

/// All of a load.
#[divan::bench(args = ALL, sample_count = 50)]
fn load(bencher: Bencher<'_, '_>, routes: &Routes) {
    let bytes = routes.bytes();
    bencher.counter(BytesCount::of_slice(&bytes)).bench_local(|| RouteTable::from_bytes(black_box(&bytes)));
}

/// The steps of a load of the largest tables: what a worker does without a look at
/// its requests. Without regexes there are fewer, with them there are more.
#[divan::bench(args = [0, 1, 2, 3, 4, 5], consts = [0, 1, 2, 3, 4], sample_count = 50)]
fn load_step<const OF: usize>(bencher: Bencher<'_, '_>, step: usize) {
    const LARGE: [Routes; 5] =
        [Prefixes(10_000), Templates(10_000), OperationsAsRegexes, Regexes(10_000), ShapelessRegexes(1_000)];
    let bytes = LARGE[OF].bytes();
    if step == 0 {
        bencher.bench_local(|| RouteLoad::new(black_box(&bytes)));
        return;
    }
    let before = || {
        let mut load = RouteLoad::new(&bytes).unwrap();
        let over = (1..step).any(|_| load.step(REGEXES_AT_A_TIME).unwrap().is_some());
        (load, over)
    };
    bencher
        .with_inputs(before)
        .bench_local_values(|(mut load, over)| if over { None } else { load.step(REGEXES_AT_A_TIME).ok() });
}

/// From documents to a table, as the admin service does it when one changes.
#[divan::bench(args = ALL, sample_count = 5)]
fn read_and_compile(bencher: Bencher<'_, '_>, routes: &Routes) {
    let documents = routes.documents();
    bencher.bench_local(|| {
        let read: Vec<_> = documents.iter().map(|document| author::read(document).unwrap()).collect();
        compile(&read)
    });
}

/// From routes to a table: what is left where the others are read already.
#[divan::bench(args = ALL, sample_count = 5)]
fn compile_alone(bencher: Bencher<'_, '_>, routes: &Routes) {
    let read = routes.read();
    bencher.bench_local(|| compile(black_box(&read)));
}
