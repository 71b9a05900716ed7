//! What Envoy's access log says of a request with the gate in front, and that a
//! trace passes the gate as it came.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tidegate_stack::faults::Faults;
use tidegate_stack::http::{self, Method, PATIENCE, Request};
use tidegate_stack::render::{at, named};
use tidegate_stack::{Control, Options, Ports, Stack, wait};

/// What is part of a trace, in the forms that are in use.
const TRACE: [(&str, &str); 4] = [
    ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    ("tracestate", "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7"),
    ("b3", "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1-05e3ac9a4f6e3b90"),
    ("x-b3-traceid", "80f198ee56343ba864fe8b2a57d3eff7"),
];

const HTML: &str = "text/html; charset=utf-8";

/// The repository's configuration, with a filter before the gate that compresses what went past it.
#[derive(Debug)]
struct Compressing;

impl Control for Compressing {
    fn config(&self, options: &Options, ports: &Ports) -> Result<Value> {
        let mut config = options.envoy_config(ports)?;
        let gate = named(at(&mut config, "/static_resources/listeners")?, "gate")?;
        let filters = at(gate, "/filter_chains/0/filters/0/typed_config/http_filters")?;
        let gzip = "type.googleapis.com/envoy.extensions.compression.gzip.compressor.v3.Gzip";
        let compressor = json!({
            "name": "envoy.filters.http.compressor",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.compressor.v3.Compressor",
                "response_direction_config": { "common_config": { "content_type": ["application/json"] } },
                "compressor_library": { "name": "gzip", "typed_config": { "@type": gzip } },
            },
        });
        filters.as_array_mut().context("no list of filters")?.insert(0, compressor);
        Ok(config)
    }
}

/// Lines of JSON so far.
fn lines(path: &Path) -> Result<Vec<Value>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    // The last line may not be written whole.
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().map(|line| serde_json::from_str(line).with_context(|| format!("no JSON: {line}"))).collect()
}

/// The access log's line of a path.
fn logged(stack: &Stack, path: &str) -> Result<Value> {
    wait::until(&format!("{path} is logged"), PATIENCE, || {
        let all = lines(&stack.log("access"))?;
        Ok(all.into_iter().find(|line| line["path"] == path))
    })
}

fn start(name: &str) -> Result<Stack> {
    let mut options = Options::for_test(name)?;
    let calls = options.dir.join("calls.log");
    options.faults = Some(Faults { log: Some(calls), ..Faults::default() });
    options.plugin = json!({ "direct": { "timeout": "30s", "budget": "60s" } });
    options.control = Some(Arc::new(Compressing));
    Stack::start_serving(options)
}

#[test]
fn a_line_says_what_the_gate_knows() {
    let stack = start("log").unwrap();
    let ask =
        |client: &str, path: &str| http::send(stack.gate(), &Request::get(path).from(client)).unwrap().status;
    assert_eq!(ask("192.0.2.1", "/allowed"), 200);
    let post = Request::new(Method::POST, "/long").body("text/plain", vec![b'b'; 3_000]).from("192.0.2.1");
    let long = http::send(stack.gate(), &post).unwrap().body.len();
    let packed = Request::get("/packed").from("192.0.2.1").header("accept-encoding", "gzip");
    let packed = http::send(stack.gate(), &packed).unwrap();
    assert_eq!(packed.headers["content-encoding"], "gzip");
    let head = b"HEAD /banned HTTP/1.1\r\nhost: a\r\nx-forwarded-for: 192.0.2.13\r\naccept: text/html\r\nconnection: close\r\n\r\n";
    let built_in = http::raw(stack.gate(), head, PATIENCE, 64 << 10).unwrap();
    let built_in = String::from_utf8(built_in).unwrap();
    assert!(built_in.starts_with("HTTP/1.1 403 ") && built_in.contains(HTML), "{built_in}");
    assert!(built_in.ends_with("\r\n\r\n"), "a body after the head: {built_in}");
    let banned = |method| Request::new(method, "/banned").from("192.0.2.13").header("accept", "text/html");
    let kind = |answer: &http::Response| answer.headers["content-type"].to_str().unwrap().to_owned();
    let page = json!({"html": "<p>{{request_id}}</p>"});
    stack.api_ok(Method::PUT, "/api/admin/pages/ip_banned?wait_applied=10s", Some(&page)).unwrap();
    let page = http::send(stack.gate(), &banned(Method::GET)).unwrap();
    assert_eq!((page.status, kind(&page)), (403, HTML.to_owned()));
    assert_eq!([&page.headers["vary"], &page.headers["cache-control"]], ["accept", "no-store"]);
    stack.delete_route("all").unwrap();
    assert_eq!(ask("192.0.2.1", "/lost"), 404);
    // Envoy writes its lines every ten seconds.
    let line = logged(&stack, "/lost").unwrap();
    assert_eq!((&line["reason"], &line["route"]), (&json!("no_route"), &Value::Null), "{line}");
    let line = logged(&stack, "/banned").unwrap();
    assert_eq!((&line["reason"], &line["route"]), (&json!("ip_banned"), &Value::Null), "{line}");
    let quoted = page.text().replace("<p>", "").replace("</p>", "");
    let is_quoted = |line: &Value| line["request_id"] == quoted && line["method"] == "GET";
    assert!(lines(&stack.log("access")).unwrap().iter().any(is_quoted), "{quoted}");
    let line = logged(&stack, "/allowed").unwrap();
    assert_eq!((&line["route"], &line["envoy_route"]), (&json!("all"), &json!("tidegate")), "{line}");
    assert_eq!((&line["mismatch"], &line["trace"]), (&Value::Null, &Value::Null), "{line}");
    let line = logged(&stack, "/long").unwrap();
    let rows =
        "SELECT bytes_in, bytes_out FROM traffic_events WHERE path IN ('/long', '/packed') ORDER BY path";
    let (long_row, packed_row) = (format!("3000|{long}"), format!("0|{}", packed.body.len()));
    assert_eq!(stack.sql().unwrap().run(rows).unwrap(), [long_row, packed_row]);
    assert_eq!((&line["bytes_in"], &line["bytes_out"]), (&json!(3_000), &json!(long)), "{line}");
}

#[test]
fn a_mismatch_is_in_its_line() {
    let stack = start("log-mismatch").unwrap();
    stack.flags(&json!({ "enableIpBlacklistCache": "shadow" })).unwrap();
    stack.freeze_tables().unwrap();
    stack.api_ok(Method::POST, "/api/admin/ip/ban", Some(&json!({ "ip": "10.0.0.2" }))).unwrap();
    let answer = http::send(stack.gate(), &Request::get("/shadow").from("10.0.0.2")).unwrap();
    assert_eq!(answer.status, 403, "{}", answer.text());
    let line = logged(&stack, "/shadow").unwrap();
    let said = line["mismatch"].as_str().unwrap_or_else(|| panic!("no mismatch in {line}"));
    assert!(said.starts_with("ip: banned by 10.0.0.2 at ") && said.contains(", cached clear at "), "{line}");
    stack.thaw_tables().unwrap();
}

/// Envoy as it is configured here traces nothing itself, so what it passes on is
/// the client's.
#[test]
fn a_trace_goes_to_the_backend_and_nowhere_else() {
    let stack = start("log-trace").unwrap();
    let calls = stack.options().dir.join("calls.log");
    for flags in [true, false] {
        stack.all_flags(flags).unwrap();
        let path = format!("/traced/{flags}");
        let request =
            TRACE.iter().fold(Request::get(&path), |request, (name, value)| request.header(name, value));
        let answer = http::send(stack.gate(), &request.from("192.0.2.1")).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        let seen = answer.json().unwrap();
        for (name, value) in TRACE {
            assert_eq!(seen["headers"][name], value, "{seen}");
        }
    }
    for path in ["/traced/true", "/traced/false"] {
        assert_eq!(logged(&stack, path).unwrap()["trace"], TRACE[0].1);
    }
    // Without flags each check is asked, and the event is posted while the response waits.
    let asked = |path: &str| -> Result<()> {
        wait::until(&format!("{path} is called"), Duration::from_secs(30), || {
            Ok(lines(&calls)?.iter().any(|call| call["path"] == path).then_some(()))
        })
    };
    for path in ["check/ip", "check/geo", "check/route", "events?sync=1"] {
        asked(&format!("/api/data-plane/v1/{path}")).unwrap();
    }
    for call in lines(&calls).unwrap() {
        let carried =
            call.as_object().unwrap().iter().filter(|(name, _)| *name != "path" && *name != "x-request-id");
        for (name, value) in carried {
            assert!(value.is_null(), "a call of the gate's carries {name}: {call}");
        }
    }
}
