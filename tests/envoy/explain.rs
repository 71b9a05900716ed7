//! What the admin service explains is what the gate does: random requests over
//! random routes, on a real Envoy.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tidegate_backend::InProcess;
use tidegate_host_sim::TestRng;
use tidegate_stack::http::{Connection, Method, Request, Response};
use tidegate_stack::ports::local;
use tidegate_stack::{NamedBackend, Options, Stack};

const WORLDS: u64 = 5;
/// For each set of routes.
const REQUESTS: u64 = 200;
const ROUTES: usize = 12;

const BANS: [&str; 2] = ["10.1.0.0/16", "2001:db8:bad::/48"];
const ALLOWED: [&str; 1] = ["10.1.2.3"];
const COUNTRIES: [(&str, &str, &str); 3] = [
    ("10.0.0.0", "10.0.255.255", "DE"),
    ("10.1.0.0", "10.1.255.255", "FR"),
    ("2001:db8::", "2001:db8:0:ffff:ffff:ffff:ffff:ffff", "KP"),
];
const CLIENTS: [&str; 8] = [
    "10.0.0.1",
    "10.0.0.2",
    "10.1.0.1",
    "10.1.2.3",
    "192.0.2.1",
    "192.0.2.2",
    "2001:db8::1",
    "2001:db8:bad::1",
];
const HOSTNAMES: [&str; 5] = ["a.example", "x.a.example", "b.example", "*.example", "*.a.example"];
const HOSTS: [&str; 6] =
    ["a.example", "x.a.example:8080", "y.x.a.example", "B.EXAMPLE", "c.example", "other"];
const PATHS: [&str; 6] = ["/", "/a", "/a/", "/a/b", "/b", "/ab"];
const TEMPLATES: [&str; 7] = ["/{x}", "/a/{x}", "/{x}/b", "/{x}/{y}", "/a/{x}/c", "/{x}/b/c", "/{x}/{y}/{z}"];
const REGEXES: [&str; 4] = ["/a/.*", "/a", "(/[ab])+", "/[^/]*/b/?"];
const TARGETS: [&str; 12] =
    ["/", "/a", "/a/", "/a/b", "/a/b/", "/a/b/c", "/a/x/c", "/x/b/c", "/b", "/b/b", "/ab", "/c/d/e"];
const QUERIES: [&str; 5] = ["", "", "?p=1", "?p=2&p=1", "?q=1&p=1"];
const METHODS: [Method; 3] = [Method::GET, Method::POST, Method::DELETE];

fn geo_rules() -> [(&'static str, Value); 3] {
    [
        ("embargo", json!({ "mode": "deny", "countries": ["KP"] })),
        ("dach", json!({ "mode": "allow", "countries": ["DE"], "global": false, "unknown": "allow" })),
        ("law", json!({ "mode": "deny", "countries": ["DE"], "global": false, "status": 451 })),
    ]
}

fn route(rng: &mut TestRng, name: &str) -> Value {
    let rules: Vec<_> = (0..1 + rng.below(3)).map(|index| rule(rng, &format!("{name}/{index}"))).collect();
    json!({ "spec": { "hostnames": rng.some(&HOSTNAMES, 2), "rules": rules } })
}

/// A rule that says in the answers which it is.
fn rule(rng: &mut TestRng, tag: &str) -> Value {
    let matches: Vec<_> = (0..1 + rng.below(2)).map(|_| one_match(rng)).collect();
    let set = |name: &str| json!({ "set": [{ "name": name, "value": tag }] });
    let mut filters =
        vec![json!({ "type": "ResponseHeaderModifier", "responseHeaderModifier": set("x-rule") })];
    if rng.percent(30) {
        let name = rng.pick(&["dach", "law", "lost"]);
        filters.push(json!({ "type": "ExtensionRef",
            "extensionRef": { "group": "tidegate.dev", "kind": "GeoRule", "name": name } }));
    }
    if rng.percent(15) {
        let path = replacement(rng, &matches);
        filters.push(json!({ "type": "RequestRedirect",
            "requestRedirect": { "statusCode": rng.pick(&[301, 302]), "path": path } }));
        return json!({ "matches": matches, "filters": filters });
    }
    if rng.percent(30) {
        filters.push(json!({ "type": "URLRewrite",
            "urlRewrite": { "hostname": "in.example", "path": replacement(rng, &matches) } }));
    }
    if rng.percent(40) {
        filters.push(json!({ "type": "RequestHeaderModifier", "requestHeaderModifier": set("x-by") }));
    }
    json!({ "matches": matches, "filters": filters, "backendRefs": backends(rng) })
}

/// Another path; of a prefix only where that is what the rule matches.
fn replacement(rng: &mut TestRng, matches: &[Value]) -> Value {
    match matches {
        [one] if one["path"]["type"] == "PathPrefix" => {
            json!({ "type": "ReplacePrefixMatch", "replacePrefixMatch": rng.pick(&["/", "/new", "/new/"]) })
        }
        _ => json!({ "type": "ReplaceFullPath", "replaceFullPath": "/full" }),
    }
}

fn backends(rng: &mut TestRng) -> Vec<Value> {
    let all = [
        json!({ "name": "demo" }),
        json!({ "name": "second" }),
        json!({ "name": "missing", "kind": "Backend", "group": "tidegate.dev" }),
    ];
    let mut some = if rng.percent(50) { vec![all[0].clone()] } else { rng.some(&all, 3) };
    some.iter_mut().for_each(|backend| backend["weight"] = rng.below(4).into());
    some
}

fn one_match(rng: &mut TestRng) -> Value {
    let (kind, value) = match rng.below(10) {
        0 => ("RegularExpression", rng.pick(&REGEXES)),
        1..4 => ("Template", rng.pick(&TEMPLATES)),
        4..6 => ("Exact", rng.pick(&PATHS)),
        _ => ("PathPrefix", rng.pick(&PATHS)),
    };
    let method = if rng.percent(25) { json!(rng.pick(&["GET", "POST"])) } else { Value::Null };
    let condition = |name: &str, percent: usize, rng: &mut TestRng| match rng.percent(percent) {
        true => json!([{ "name": name, "value": rng.pick(&["1", "2"]) }]),
        false => json!([]),
    };
    let (headers, query) = (condition("X-Kind", 25, rng), condition("p", 20, rng));
    json!({ "path": { "type": kind, "value": value }, "method": method, "headers": headers, "queryParams": query })
}

/// One request.
#[derive(Debug)]
struct Ask {
    agent: String,
    client: &'static str,
    method: Method,
    host: &'static str,
    target: String,
    kind: &'static str,
}

impl Ask {
    fn random(rng: &mut TestRng, agent: String) -> Self {
        Self {
            agent,
            client: rng.pick(&CLIENTS),
            method: METHODS[rng.below(METHODS.len())].clone(),
            host: rng.pick(&HOSTS),
            target: [rng.pick(&TARGETS), rng.pick(&QUERIES)].concat(),
            kind: rng.pick(&["", "1", "2"]),
        }
    }

    fn request(&self) -> Request {
        let request = Request::new(self.method.clone(), &self.target)
            .from(self.client)
            .header("host", self.host)
            .header("user-agent", &self.agent);
        if self.kind.is_empty() { request } else { request.header("x-kind", self.kind) }
    }

    /// What the admin service says of it.
    fn explained(&self, stack: &Stack) -> Result<Value> {
        let port = stack.gate().port().to_string();
        let kind = ["x-kind:", self.kind].concat();
        let mut params = vec![
            ("method", self.method.as_str()),
            ("host", self.host),
            ("path", &self.target),
            ("ip", self.client),
            ("port", &port),
        ];
        if !self.kind.is_empty() {
            params.push(("header", &kind));
        }
        let escaped = |text: &str| text.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
        let query: Vec<_> =
            params.iter().map(|(name, value)| [name, "=", &escaped(value)].concat()).collect();
        stack.api_ok(Method::GET, &format!("/api/admin/explain?{}", query.join("&")), None)
    }
}

/// What became of a request, as far as client and backend see it.
#[derive(PartialEq, Eq, Debug, Default)]
struct Outcome {
    status: u16,
    /// Of the problem.
    code: Option<String>,
    location: Option<String>,
    /// Who answered, and what it saw: path, host, the header of its rule.
    backend: Option<[Option<String>; 4]>,
    /// Which rule changed the answer.
    rule: Option<String>,
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

impl Outcome {
    fn seen(response: &Response) -> Result<Self> {
        let header = |name| response.header(name).map(str::to_owned);
        let body = if response.body.is_empty() { Value::Null } else { response.json()? };
        let saw = || [&body["backend"], &body["path"], &body["host"], &body["headers"]["x-by"]].map(text);
        Ok(Self {
            status: response.status,
            code: text(&body["code"]),
            location: header("location"),
            backend: body["backend"].is_string().then(saw),
            rule: header("x-rule"),
        })
    }

    fn explained(ask: &Ask, outcome: &Value) -> Self {
        let effects = &outcome["effects"];
        let set = |list: &str, name: &str| {
            let edits = effects[list].as_array().into_iter().flatten();
            edits.filter(|edit| edit["name"] == name).find_map(|edit| text(&edit["value"]))
        };
        let status = outcome["status"].as_u64().map_or(200, |status| status as u16);
        let saw = |backend| {
            let path = text(&effects["path"]).or_else(|| Some(ask.target.clone()));
            let host = text(&effects["host"]).or_else(|| Some(ask.host.to_owned()));
            [Some(backend), path, host, set("request_headers", "x-by")]
        };
        Self {
            status,
            code: text(&outcome["reason"]).filter(|_| outcome["verdict"] == "deny"),
            location: text(&effects["location"]),
            backend: text(&outcome["backend"]["name"]).map(saw),
            rule: set("response_headers", "x-rule"),
        }
    }
}

/// How the row of a request tells it.
fn row(outcome: &Value) -> String {
    let column = |name: &str| text(&outcome[name]).unwrap_or_default();
    ["verdict", "reason", "rule", "route", "template"].map(column).join("|")
}

fn start() -> Result<(Stack, InProcess)> {
    let second = InProcess::start("second", local(0))?;
    let mut options = Options::for_test("explain")?;
    options.backends.push(NamedBackend::at("second", second.address()));
    let stack = Stack::start(options)?;
    let mut sql = stack.sql()?;
    for (prefixes, status) in [(&BANS[..], "banned"), (&ALLOWED[..], "allowed")] {
        for prefix in prefixes {
            sql.run(&format!("INSERT INTO ip_monitor (ip, status) VALUES ('{prefix}', '{status}')"))?;
        }
    }
    for (name, rule) in geo_rules() {
        stack.put_geo_rule(name, &rule)?;
    }
    let lines = COUNTRIES.map(|(first, last, country)| format!("{first},{last},{country}\n"));
    let file = stack.options().dir.join("countries.csv");
    std::fs::write(&file, lines.concat())?;
    stack.import_countries(&file)?;
    Ok((stack, second))
}

/// Sends a request and holds what became of it against what is explained; how its
/// row must tell it.
fn compare(stack: &Stack, worker: &mut Connection, ask: &Ask) -> Result<String> {
    let explained = ask.explained(stack)?;
    let seen = Outcome::seen(&worker.send(&ask.request())?)?;
    let shares = explained["checks"]["route"]["backends"].as_array().context("no list of backends")?;
    // A rule's backend is drawn: it must be one of those that are told of.
    let told = if shares.len() > 1 {
        shares.iter().map(|share| &share["outcome"]).find(|told| Outcome::explained(ask, told) == seen)
    } else {
        Some(&explained["decision"]).filter(|told| Outcome::explained(ask, told) == seen)
    };
    told.map(row).with_context(|| format!("{ask:?} was {seen:?}, explained as {explained:#}"))
}

#[test]
fn what_is_explained_is_what_the_gate_does() {
    let (stack, _second) = start().unwrap();
    let mut workers = stack.connection_per_worker().unwrap();
    assert_eq!(workers.len(), 2);
    let (mut rows, mut lost) = (Vec::new(), 0);
    for world in 0..WORLDS {
        let mut rng = TestRng::new(0xe4 + world);
        for at in 0..ROUTES {
            let name = format!("r{at}");
            let route = route(&mut rng, &name);
            let path = format!("/api/admin/routes/{name}?wait_applied=30s");
            stack.api_ok(Method::PUT, &path, Some(&route)).unwrap();
        }
        for at in 0..REQUESTS {
            let ask = Ask::random(&mut rng, format!("explain/{world}/{at}"));
            let worker = &mut workers[usize::try_from(at % 2).unwrap()];
            rows.push((ask.agent.clone(), compare(&stack, worker, &ask).unwrap()));
            let more = ask.explained(&stack).unwrap()["checks"]["route"]["matches"][1].is_object();
            lost += usize::from(more);
        }
    }
    agree_with_rows(&stack, &rows).unwrap();
    // The requests met every kind of outcome, and most of the routes had rivals.
    let count = |part: &str| rows.iter().filter(|(_, row)| row.contains(part)).count();
    for part in [
        "allow|",
        "redirect|redirect|",
        "ip_banned",
        "geo_denied",
        "no_route",
        "no_backend",
        "no_geo_rule",
        "{x}",
        "allow||10.1.2.3",
    ] {
        assert!(count(part) >= 5, "{part}: {}", count(part));
    }
    assert!(lost > 300, "{lost} requests with more than one match");
}

/// The gate's own record of each request.
fn agree_with_rows(stack: &Stack, expected: &[(String, String)]) -> Result<()> {
    let whole = stack.recorded(Duration::from_secs(30))?;
    ensure!(whole.is_whole(), "{whole:?}");
    let mut sql = stack.sql()?;
    let columns = ["reason", "rule", "route", "template"].map(|name| format!("coalesce({name}, '')"));
    let select = format!(
        "SELECT user_agent, verdict, {} FROM traffic_events WHERE user_agent LIKE 'explain/%'",
        columns.join(", ")
    );
    let mut rows = sql.run(&select)?;
    let mut expected: Vec<_> = expected.iter().map(|(agent, row)| [agent, "|", row].concat()).collect();
    rows.sort_unstable();
    expected.sort_unstable();
    ensure!(rows.len() == expected.len(), "{} rows of {} requests", rows.len(), expected.len());
    for (row, expected) in rows.iter().zip(&expected) {
        ensure!(row == expected, "recorded as {row}, explained as {expected}");
    }
    Ok(())
}
