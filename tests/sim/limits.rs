//! Scenarios of rate limits over the emulated host: whom they count, whom they
//! deny, and what clients, operators and shared data see of it.

use std::time::Duration;

use serde_json::{Value, json};
use tidegate::root_context::module;
use tidegate_author as author;
use tidegate_host_sim::{CONFIG, Feed, Request, Response, Testbed};
use tidegate_policy::flags::{Flag, FlagState, Flags};
use tidegate_policy::limit::{BUCKETS, Limit};

const SECOND: Duration = Duration::from_secs(1);

/// A limit as the API takes it.
fn limit(name: &str, document: &Value) -> Limit {
    author::read_limit(name, document).unwrap()
}

fn per_client(rate: u32) -> Limit {
    limit("per-client", &json!({"key": "ip", "rate": rate, "per": "minute"}))
}

fn testbed(workers: usize, limits: impl IntoIterator<Item = Limit>) -> Testbed {
    configured(workers, CONFIG, limits)
}

fn configured(workers: usize, config: &str, limits: impl IntoIterator<Item = Limit>) -> Testbed {
    let mut feed = Feed::new();
    feed.set_limits(limits);
    Testbed::new(module, workers, config, feed)
}

/// How many of so many requests pass, over all gates in turn.
fn passed(testbed: &mut Testbed, requests: usize, request: impl Fn(usize) -> Request) -> usize {
    let gates = testbed.gates.len();
    (0..requests).filter(|at| testbed.request(at % gates, request(*at)).status == 200).count()
}

fn told(response: &Response) -> (u16, &str) {
    (response.status, &response.details)
}

#[test]
fn workers_count_together_and_what_was_used_comes_back_with_time() {
    let mut testbed = testbed(4, [per_client(100)]);
    assert_eq!(passed(&mut testbed, 300, |_| Request::get("/x", "1.2.3.4")), 100);
    let denied = testbed.get(3, "1.2.3.4");
    assert_eq!(told(&denied), (429, "rate_limited"));
    assert_eq!(denied.header("content-type").as_deref(), Some("application/problem+json"));
    assert_eq!(denied.header("retry-after").as_deref(), Some("1"));
    assert_eq!(denied.header("ratelimit-policy").as_deref(), Some(r#""per-client";q=100;w=60"#));
    assert_eq!(denied.header("ratelimit").as_deref(), Some(r#""per-client";r=0;t=1"#));
    assert_eq!(testbed.get(3, "1.2.3.5").status, 200, "a stranger is not meant");
    // One each 600 ms: three in two seconds.
    testbed.run(2 * SECOND);
    assert_eq!(passed(&mut testbed, 20, |_| Request::get("/x", "1.2.3.4")), 3);
    testbed.run(120 * SECOND);
    assert_eq!(
        passed(&mut testbed, 300, |_| Request::get("/x", "1.2.3.4")),
        100,
        "never more than the burst"
    );
    testbed.run(SECOND);
    assert_eq!(testbed.metric("tidegate.requests.deny.rate_limited"), 200 + 1 + 17 + 200);
    assert_eq!(testbed.metric("tidegate.limits.passed"), 100 + 1 + 3 + 100);
    assert_eq!(testbed.metric("tidegate.requests.allow"), 204);
    assert_eq!(testbed.metric("tidegate.tables.limits.entries"), 1);
    testbed.check();
}

#[test]
fn a_denial_is_recorded_with_the_limits_name() {
    let mut testbed = testbed(1, [per_client(1)]);
    testbed.get(0, "1.2.3.4");
    testbed.get(0, "1.2.3.4");
    let events = testbed.events();
    assert_eq!((events[0].reason.as_deref(), events[0].rule.as_deref()), (None, None));
    let denied = &events[1];
    assert_eq!(
        (denied.status, denied.reason.as_deref(), denied.rule.as_deref(), denied.route.as_deref()),
        (Some(429), Some("rate_limited"), Some("per-client"), Some("all"))
    );
}

#[test]
fn a_gate_without_limits_reads_no_shared_data_and_a_denial_writes_none() {
    let elsewhere = json!({"key": "ip", "rate": 1, "per": "day", "match": {"route": "other"}});
    let elsewhere = limit("elsewhere", &elsewhere);
    let mut testbed = testbed(1, []);
    let worker = testbed.gates[0].0;
    let one = |testbed: &mut Testbed, client: &str| {
        let (calls, writes) = (testbed.sim.host_calls(worker), testbed.sim.shared_writes(worker));
        testbed.get_now(0, client);
        (testbed.sim.host_calls(worker) - calls, testbed.sim.shared_writes(worker) - writes)
    };
    // The first request of all, and the first after a tick, make calls of their own.
    let calls = |testbed: &mut Testbed, limits: Option<Vec<Limit>>| {
        if let Some(limits) = limits {
            testbed.feed.set_limits(limits);
            testbed.run(SECOND);
            one(testbed, "9.9.9.9");
        }
        one(testbed, "1.2.3.4")
    };
    let none = calls(&mut testbed, Some(Vec::new()));
    assert_eq!(calls(&mut testbed, Some(vec![elsewhere])), none, "a limit that does not hold costs no call");
    let (passes, wrote) = calls(&mut testbed, Some(vec![per_client(1)]));
    // A look at the bucket, the clock, and a write.
    assert_eq!((passes, wrote), (none.0 + 3, 1));
    assert_eq!(calls(&mut testbed, None).1, 0, "who must wait changes nothing");
    assert!(!testbed.sim.keys().iter().any(|key| key.contains("1.2.3.4")));
}

#[test]
fn clients_of_ipv6_are_told_apart_by_64_bits_or_as_the_limit_says() {
    let mut testbed = testbed(2, [per_client(2)]);
    let same = |at: usize| Request::get("/x", &format!("2001:db8:1:2::{at:x}"));
    assert_eq!(passed(&mut testbed, 10, same), 2);
    let others = |at: usize| Request::get("/x", &format!("2001:db8:1:{:x}::1", at + 3));
    assert_eq!(passed(&mut testbed, 10, others), 10);
    let mapped = |at: usize| Request::get("/x", ["1.2.3.4", "::ffff:1.2.3.4"][at % 2]);
    assert_eq!(passed(&mut testbed, 10, mapped), 2);
    let wide = json!({"key": "ip", "rate": 2, "per": "minute", "v6_prefix": 48});
    testbed.feed.set_limits([limit("wide", &wide)]);
    testbed.run(SECOND);
    assert_eq!(passed(&mut testbed, 10, others), 2);
}

#[test]
fn a_header_is_counted_by_its_value_and_who_leaves_it_out_by_address() {
    let by_key = json!({"key": "header:X-API-Key", "rate": 2, "per": "minute"});
    let mut testbed = testbed(2, [limit("by-key", &by_key)]);
    let keyed = |key: &'static str| {
        move |at: usize| Request::get("/x", &format!("10.0.0.{at}")).header(b"x-api-key", key.as_bytes())
    };
    assert_eq!(passed(&mut testbed, 10, keyed("a")), 2, "whatever the address");
    assert_eq!(passed(&mut testbed, 10, keyed("b")), 2);
    let lines = |at: usize| keyed("a")(at).header(b"x-api-key", b"b");
    assert_eq!(passed(&mut testbed, 10, lines), 2, "two lines are a value of their own");
    let bare = |client: &'static str| move |_| Request::get("/x", client);
    assert_eq!(passed(&mut testbed, 10, bare("1.2.3.4")), 2);
    assert_eq!(passed(&mut testbed, 10, |_| Request::get("/x", "1.2.3.4").header(b"x-api-key", b" ")), 0);
    assert_eq!(passed(&mut testbed, 10, bare("1.2.3.5")), 2);
    let value = |at: usize| Request::get("/x", &format!("10.1.0.{at}")).header(b"x-api-key", b"1.2.3.5");
    assert_eq!(passed(&mut testbed, 10, value), 2, "a value that looks like an address is none");
    let nowhere = |_| Request::new("GET", "example.org", "/x", None);
    assert_eq!(passed(&mut testbed, 10, nowhere), 10, "no header and no address: nobody to count");
}

#[test]
fn routes_and_all_together_are_counted_apart() {
    let document = |name: &str| {
        let matches = json!([{"path": {"value": format!("/{name}")}}]);
        let rule = json!({"matches": matches, "backendRefs": [{"name": "demo", "port": 80}]});
        json!({"metadata": {"name": name}, "spec": {"rules": [rule]}})
    };
    let mut feed = Feed::new();
    feed.set_routes(&[document("a"), document("b"), document("c")]);
    let each = json!({"key": "route", "rate": 3, "per": "hour", "match": {"route": ["a", "b"]}});
    let all = json!({"key": "global", "rate": 10, "per": "hour"});
    feed.set_limits([limit("each", &each), limit("all", &all)]);
    let mut testbed = Testbed::new(module, 2, CONFIG, feed);
    let get = |path: &'static str| move |at: usize| Request::get(path, &format!("10.0.0.{at}"));
    assert_eq!(passed(&mut testbed, 4, get("/a")), 3);
    assert_eq!(passed(&mut testbed, 4, get("/b")), 3);
    // `all` is asked first and has counted all eight: two are left.
    assert_eq!(passed(&mut testbed, 4, get("/c")), 2);
    let denied = testbed.request(0, get("/c")(0));
    assert_eq!(denied.header("ratelimit-policy").as_deref(), Some(r#""all";q=10;w=3600"#));
    assert_eq!(denied.header("retry-after").as_deref(), Some("360"));
    assert_eq!(testbed.request(0, get("/nowhere")(0)).status, 404, "what has no route is not limited");
}

#[test]
fn a_limit_in_shadow_counts_as_if_it_were_enforced_and_lets_pass() {
    let shadow = json!({"key": "ip", "rate": 2, "per": "minute", "shadow": true, "headers": true});
    let mut testbed = testbed(1, [limit("a-shadow", &shadow), limit("b-shadow", &shadow), per_client(4)]);
    assert_eq!(passed(&mut testbed, 6, |_| Request::get("/x", "1.2.3.4")), 4);
    let events = testbed.events();
    let told: Vec<_> = events.iter().map(|event| (event.status, event.shadow_limit.as_deref())).collect();
    let shadow = Some("a-shadow");
    let [ok, denied] = [Some(200), Some(429)];
    assert_eq!(told[..4], [(ok, None), (ok, None), (ok, shadow), (ok, shadow)]);
    assert_eq!(told[4..], [(denied, shadow), (denied, shadow)]);
    assert_eq!(testbed.metric("tidegate.limits.shadow_denied"), 8, "two limits, four times");
    let response = testbed.get(0, "1.2.3.5");
    assert_eq!((response.header("ratelimit"), response.header("ratelimit-policy")), (None, None));
    // Enforced, it begins anew.
    testbed.feed.set_limits([limit("a-shadow", &json!({"key": "ip", "rate": 2, "per": "minute"}))]);
    testbed.run(SECOND);
    assert_eq!(passed(&mut testbed, 6, |_| Request::get("/x", "1.2.3.4")), 2);
}

#[test]
fn who_is_on_the_allow_list_is_exempt_and_who_is_banned_uses_nothing_up() {
    for flags in [Flags::all_on(), Flags::default().with(Flag::AsyncRecording, FlagState::On)] {
        let mut testbed = testbed(2, [per_client(2)]);
        testbed.feed.set_flags(flags.clone());
        testbed.feed.allow(&[("10.0.0.0/8", None)]);
        testbed.feed.ban("1.2.3.4");
        testbed.run(SECOND);
        assert_eq!(passed(&mut testbed, 10, |_| Request::get("/x", "10.1.1.1")), 10);
        assert_eq!(passed(&mut testbed, 10, |_| Request::get("/x", "1.2.3.4")), 0);
        testbed.feed.unban("1.2.3.4");
        testbed.run(SECOND);
        assert_eq!(passed(&mut testbed, 10, |_| Request::get("/x", "1.2.3.4")), 2, "{flags:?}");
        testbed.check();
    }
}

#[test]
fn who_passes_is_told_where_it_stands_if_the_limit_says_so() {
    let told =
        |burst: u32| json!({"key": "ip", "rate": 100, "per": "minute", "burst": burst, "headers": true});
    let quiet = json!({"key": "ip", "rate": 5, "per": "second"});
    let mut testbed = testbed(1, [limit("b", &told(3)), limit("a", &told(100)), limit("c", &quiet)]);
    let stream = testbed.begin(0, Request::get("/x", "1.2.3.4"));
    testbed.sim.upstream(stream, 200, &[("ratelimit", r#""theirs";r=1;t=1"#)]);
    let response = testbed.finish(stream);
    let lines = |name: &str| {
        let all = response.headers.iter().filter(|(found, _)| found == name.as_bytes());
        all.map(|(_, value)| String::from_utf8(value.clone()).unwrap()).collect::<Vec<_>>()
    };
    let policy = r#""a";q=100;w=60, "b";q=100;w=60;tidegate-burst=3"#;
    assert_eq!(lines("ratelimit-policy"), [policy]);
    assert_eq!(lines("ratelimit"), [r#""theirs";r=1;t=1"#, r#""a";r=99;t=1, "b";r=2;t=1"#]);
    assert_eq!(passed(&mut testbed, 5, |_| Request::get("/x", "1.2.3.4")), 2);
    let denied = testbed.get(0, "1.2.3.4");
    assert_eq!(denied.header("ratelimit").as_deref(), Some(r#""a";r=93;t=1, "b";r=0;t=1"#));
}

#[test]
fn limits_without_a_route_hold_where_envoy_routes() {
    let config = r#"{"admin": {"cluster": "admin", "token": "secret"}, "routing": "envoy"}"#;
    let route = json!({"key": "ip", "rate": 1, "per": "minute", "match": {"route": "all"}});
    let by_route = json!({"key": "route", "rate": 1, "per": "minute"});
    let mut testbed = configured(1, config, [limit("a", &route), limit("b", &by_route), per_client(2)]);
    assert_eq!(passed(&mut testbed, 10, |_| Request::get("/x", "1.2.3.4")), 2);
}

/// A service with a route that redirects below `/old`, and else lets pages of `a.example` in; its
/// responses have a header of its own.
fn with_cors(limits: impl IntoIterator<Item = Limit>) -> Testbed {
    let redirect = json!({"type": "RequestRedirect", "requestRedirect": {"hostname": "other.example"}});
    let cors = json!({"type": "CORS", "cors": {"allowOrigins": ["https://a.example"]}});
    let own = json!([{"name": "x-route", "value": "1"}, {"name": "Cache-Control", "value": "public"}]);
    let set = json!({"set": own, "remove": ["ratelimit", "retry-after", "content-type"]});
    let edit = json!({"type": "ResponseHeaderModifier", "responseHeaderModifier": set});
    let document = json!({"metadata": {"name": "all"}, "spec": {"rules": [
        {"matches": [{"path": {"value": "/old"}}], "filters": [redirect]},
        {"filters": [cors, edit], "backendRefs": [{"name": "demo", "port": 80}]},
    ]}});
    let mut feed = Feed::new();
    feed.set_routes(&[document]);
    feed.set_limits(limits);
    Testbed::new(module, 1, CONFIG, feed)
}

fn of_page(method: &str) -> Request {
    Request::new(method, "example.org", "/x", Some("1.2.3.4"))
        .header(b"origin", b"https://a.example")
        .header(b"access-control-request-method", b"PUT")
}

#[test]
fn redirects_are_requests_of_their_route() {
    let shown = json!({"key": "ip", "rate": 2, "per": "minute", "headers": true});
    let mut testbed = with_cors([limit("l", &shown)]);
    let old = |testbed: &mut Testbed| testbed.request(0, Request::get("/old", "1.2.3.4"));
    let redirected = old(&mut testbed);
    assert_eq!(
        (redirected.status, redirected.header("ratelimit").as_deref()),
        (302, Some(r#""l";r=1;t=30"#))
    );
    assert_eq!((old(&mut testbed).status, old(&mut testbed).status), (302, 429));
}

#[test]
fn what_a_browser_asks_before_a_page_s_request_counts_only_where_a_limit_says_so() {
    let statuses = |more: Value| {
        let mut document = json!({"key": "ip", "rate": 4, "per": "minute"});
        document.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let mut testbed = with_cors([limit("l", &document)]);
        let pairs =
            (0..5).map(|_| ["OPTIONS", "PUT"].map(|method| testbed.request(0, of_page(method)).status));
        pairs.collect::<Vec<_>>()
    };
    assert_eq!(statuses(json!({})), [[204, 200], [204, 200], [204, 200], [204, 200], [204, 429]]);
    let counted = statuses(json!({"count_preflights": true}));
    assert_eq!(counted, [[204, 200], [204, 200], [429, 429], [429, 429], [429, 429]]);
}

#[test]
fn a_denial_has_the_headers_of_its_route_and_those_of_the_limit() {
    let mut testbed = with_cors([per_client(1)]);
    let passed = testbed.request(0, of_page("PUT"));
    let own = |answer: &str| passed.header(answer);
    assert_eq!(own("x-route").as_deref(), Some("1"));
    assert_eq!(own("cache-control").as_deref(), Some("public"));
    let denied = testbed.request(0, of_page("PUT"));
    let header = |name| denied.header(name);
    assert_eq!((denied.status, header("x-route").as_deref()), (429, Some("1")));
    assert_eq!(header("access-control-allow-origin").as_deref(), Some("https://a.example"));
    assert_eq!(header("retry-after"), None, "which the route removes");
    assert_eq!(header("cache-control").as_deref(), Some("no-store"), "whatever the route says of backends");
    assert_eq!(header("content-type").as_deref(), Some("application/problem+json"));
    assert_eq!(header("ratelimit").as_deref(), Some(r#""per-client";r=0;t=60"#), "which the gate adds last");
}

#[test]
fn a_flood_of_addresses_fills_a_fixed_set_of_keys_and_denies_no_stranger() {
    let all = json!({"key": "global", "rate": 1_000_000, "per": "day"});
    let mut testbed = testbed(2, [per_client(5), limit("all", &all)]);
    let before = testbed.sim.keys().len();
    let client = |at: usize| Request::get("/x", &std::net::Ipv4Addr::from_bits(at as u32).to_string());
    let (clients, heavy) = (90_000, 7);
    assert_eq!(passed(&mut testbed, 5, |_| client(heavy)), 5);
    assert_eq!(passed(&mut testbed, clients, |at| client(at + 1_000)), clients);
    assert!(testbed.sim.keys().len() - before <= usize::from(BUCKETS) + 1);
    assert_eq!(testbed.get(0, "0.0.0.7").status, 429, "who has used up most is forgotten last");
    testbed.run(SECOND);
    assert!(testbed.metric("tidegate.limits.forgotten") > 0);
    assert_eq!(testbed.metric("tidegate.limits.given_up"), 0);
}

#[test]
fn a_vm_that_traps_in_the_midst_of_it_has_taken_one_request_or_none() {
    let mut testbed = testbed(2, [per_client(3)]);
    let worker = testbed.gates[0].0;
    testbed.get_now(0, "1.2.3.4");
    let before = testbed.sim.host_calls(worker);
    testbed.get_now(0, "1.2.3.4");
    let calls = testbed.sim.host_calls(worker) - before;
    let mut left = Vec::new();
    for fuel in 0..calls {
        let client = format!("9.9.9.{fuel}");
        testbed.sim.trap_after(worker, fuel);
        testbed.get(0, &client);
        left.push((0..10).filter(|_| testbed.get(1, &client).status == 200).count());
        testbed.run(2 * SECOND);
    }
    assert!(
        left.contains(&3) && left.contains(&2) && left.iter().all(|left| [2, 3].contains(left)),
        "{left:?}"
    );
    testbed.check();
}
