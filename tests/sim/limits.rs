//! Scenarios of rate limits over the emulated host: whom they count, whom they
//! deny, and what clients, operators and shared data see of it.

use std::time::Duration;

use serde_json::{Value, json};
use tidegate::root_context::module;
use tidegate_author as author;
use tidegate_host_sim::{CONFIG, Feed, Request, Response, Stage};
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

fn stage(workers: usize, limits: impl IntoIterator<Item = Limit>) -> Stage {
    configured(workers, CONFIG, limits)
}

fn configured(workers: usize, config: &str, limits: impl IntoIterator<Item = Limit>) -> Stage {
    let mut feed = Feed::new();
    feed.set_limits(limits);
    Stage::new(module, workers, config, feed)
}

/// How many of so many requests pass, over all gates in turn.
fn passed(stage: &mut Stage, requests: usize, request: impl Fn(usize) -> Request) -> usize {
    let gates = stage.gates.len();
    (0..requests).filter(|at| stage.request(at % gates, request(*at)).status == 200).count()
}

fn told(response: &Response) -> (u16, &str) {
    (response.status, &response.details)
}

#[test]
fn workers_count_together_and_what_was_used_comes_back_with_time() {
    let mut stage = stage(4, [per_client(100)]);
    assert_eq!(passed(&mut stage, 300, |_| Request::get("/x", "1.2.3.4")), 100);
    let denied = stage.get(3, "1.2.3.4");
    assert_eq!(told(&denied), (429, "rate_limited"));
    assert_eq!(denied.header("content-type").as_deref(), Some("application/problem+json"));
    assert_eq!(denied.header("retry-after").as_deref(), Some("1"));
    assert_eq!(denied.header("ratelimit-policy").as_deref(), Some(r#""per-client";q=100;w=60"#));
    assert_eq!(denied.header("ratelimit").as_deref(), Some(r#""per-client";r=0;t=1"#));
    assert_eq!(stage.get(3, "1.2.3.5").status, 200, "a stranger is not meant");
    // One each 600 ms: three in two seconds.
    stage.run(2 * SECOND);
    assert_eq!(passed(&mut stage, 20, |_| Request::get("/x", "1.2.3.4")), 3);
    stage.run(120 * SECOND);
    assert_eq!(passed(&mut stage, 300, |_| Request::get("/x", "1.2.3.4")), 100, "never more than the burst");
    stage.run(SECOND);
    assert_eq!(stage.metric("tidegate.requests.deny.rate_limited"), 200 + 1 + 17 + 200);
    assert_eq!(stage.metric("tidegate.limits.passed"), 100 + 1 + 3 + 100);
    assert_eq!(stage.metric("tidegate.requests.allow"), 204);
    assert_eq!(stage.metric("tidegate.tables.limits.entries"), 1);
    stage.check();
}

#[test]
fn a_denial_is_recorded_with_the_limits_name() {
    let mut stage = stage(1, [per_client(1)]);
    stage.get(0, "1.2.3.4");
    stage.get(0, "1.2.3.4");
    let events = stage.events();
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
    let mut stage = stage(1, []);
    let worker = stage.gates[0].0;
    let one = |stage: &mut Stage, client: &str| {
        let (calls, writes) = (stage.sim.host_calls(worker), stage.sim.shared_writes(worker));
        stage.get_now(0, client);
        (stage.sim.host_calls(worker) - calls, stage.sim.shared_writes(worker) - writes)
    };
    // The first request of all, and the first after a tick, make calls of their own.
    let calls = |stage: &mut Stage, limits: Option<Vec<Limit>>| {
        if let Some(limits) = limits {
            stage.feed.set_limits(limits);
            stage.run(SECOND);
            one(stage, "9.9.9.9");
        }
        one(stage, "1.2.3.4")
    };
    let none = calls(&mut stage, Some(Vec::new()));
    assert_eq!(calls(&mut stage, Some(vec![elsewhere])), none, "a limit that does not hold costs no call");
    let (passes, wrote) = calls(&mut stage, Some(vec![per_client(1)]));
    // A look at the bucket, the clock, and a write.
    assert_eq!((passes, wrote), (none.0 + 3, 1));
    assert_eq!(calls(&mut stage, None).1, 0, "who must wait changes nothing");
    assert!(!stage.sim.keys().iter().any(|key| key.contains("1.2.3.4")));
}

#[test]
fn clients_of_ipv6_are_told_apart_by_64_bits_or_as_the_limit_says() {
    let mut stage = stage(2, [per_client(2)]);
    let same = |at: usize| Request::get("/x", &format!("2001:db8:1:2::{at:x}"));
    assert_eq!(passed(&mut stage, 10, same), 2);
    let others = |at: usize| Request::get("/x", &format!("2001:db8:1:{:x}::1", at + 3));
    assert_eq!(passed(&mut stage, 10, others), 10);
    let mapped = |at: usize| Request::get("/x", ["1.2.3.4", "::ffff:1.2.3.4"][at % 2]);
    assert_eq!(passed(&mut stage, 10, mapped), 2);
    let wide = json!({"key": "ip", "rate": 2, "per": "minute", "v6_prefix": 48});
    stage.feed.set_limits([limit("wide", &wide)]);
    stage.run(SECOND);
    assert_eq!(passed(&mut stage, 10, others), 2);
}

#[test]
fn a_header_is_counted_by_its_value_and_who_leaves_it_out_by_address() {
    let by_key = json!({"key": "header:X-API-Key", "rate": 2, "per": "minute"});
    let mut stage = stage(2, [limit("by-key", &by_key)]);
    let keyed = |key: &'static str| {
        move |at: usize| Request::get("/x", &format!("10.0.0.{at}")).header(b"x-api-key", key.as_bytes())
    };
    assert_eq!(passed(&mut stage, 10, keyed("a")), 2, "whatever the address");
    assert_eq!(passed(&mut stage, 10, keyed("b")), 2);
    let lines = |at: usize| keyed("a")(at).header(b"x-api-key", b"b");
    assert_eq!(passed(&mut stage, 10, lines), 2, "two lines are a value of their own");
    let bare = |client: &'static str| move |_| Request::get("/x", client);
    assert_eq!(passed(&mut stage, 10, bare("1.2.3.4")), 2);
    assert_eq!(passed(&mut stage, 10, |_| Request::get("/x", "1.2.3.4").header(b"x-api-key", b" ")), 0);
    assert_eq!(passed(&mut stage, 10, bare("1.2.3.5")), 2);
    let value = |at: usize| Request::get("/x", &format!("10.1.0.{at}")).header(b"x-api-key", b"1.2.3.5");
    assert_eq!(passed(&mut stage, 10, value), 2, "a value that looks like an address is none");
    let nowhere = |_| Request::new("GET", "example.org", "/x", None);
    assert_eq!(passed(&mut stage, 10, nowhere), 10, "no header and no address: nobody to count");
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
    let mut stage = Stage::new(module, 2, CONFIG, feed);
    let get = |path: &'static str| move |at: usize| Request::get(path, &format!("10.0.0.{at}"));
    assert_eq!(passed(&mut stage, 4, get("/a")), 3);
    assert_eq!(passed(&mut stage, 4, get("/b")), 3);
    // `all` is asked first and has counted all eight: two are left.
    assert_eq!(passed(&mut stage, 4, get("/c")), 2);
    let denied = stage.request(0, get("/c")(0));
    assert_eq!(denied.header("ratelimit-policy").as_deref(), Some(r#""all";q=10;w=3600"#));
    assert_eq!(denied.header("retry-after").as_deref(), Some("360"));
    assert_eq!(stage.request(0, get("/nowhere")(0)).status, 404, "what has no route is not limited");
}

#[test]
fn a_limit_in_shadow_counts_as_if_it_were_enforced_and_lets_pass() {
    let shadow = json!({"key": "ip", "rate": 2, "per": "minute", "shadow": true, "headers": true});
    let mut stage = stage(1, [limit("a-shadow", &shadow), limit("b-shadow", &shadow), per_client(4)]);
    assert_eq!(passed(&mut stage, 6, |_| Request::get("/x", "1.2.3.4")), 4);
    let events = stage.events();
    let told: Vec<_> = events.iter().map(|event| (event.status, event.shadow_limit.as_deref())).collect();
    let shadow = Some("a-shadow");
    let [ok, denied] = [Some(200), Some(429)];
    assert_eq!(told[..4], [(ok, None), (ok, None), (ok, shadow), (ok, shadow)]);
    assert_eq!(told[4..], [(denied, shadow), (denied, shadow)]);
    assert_eq!(stage.metric("tidegate.limits.shadow_denied"), 8, "two limits, four times");
    let response = stage.get(0, "1.2.3.5");
    assert_eq!((response.header("ratelimit"), response.header("ratelimit-policy")), (None, None));
    // Enforced, it begins anew.
    stage.feed.set_limits([limit("a-shadow", &json!({"key": "ip", "rate": 2, "per": "minute"}))]);
    stage.run(SECOND);
    assert_eq!(passed(&mut stage, 6, |_| Request::get("/x", "1.2.3.4")), 2);
}

#[test]
fn who_is_on_the_allow_list_is_exempt_and_who_is_banned_uses_nothing_up() {
    for flags in [Flags::all_on(), Flags::default().with(Flag::AsyncRecording, FlagState::On)] {
        let mut stage = stage(2, [per_client(2)]);
        stage.feed.set_flags(flags);
        stage.feed.allow(&[("10.0.0.0/8", None)]);
        stage.feed.ban("1.2.3.4");
        stage.run(SECOND);
        assert_eq!(passed(&mut stage, 10, |_| Request::get("/x", "10.1.1.1")), 10);
        assert_eq!(passed(&mut stage, 10, |_| Request::get("/x", "1.2.3.4")), 0);
        stage.feed.unban("1.2.3.4");
        stage.run(SECOND);
        assert_eq!(passed(&mut stage, 10, |_| Request::get("/x", "1.2.3.4")), 2, "{flags:?}");
        stage.check();
    }
}

#[test]
fn who_passes_is_told_where_it_stands_if_the_limit_says_so() {
    let told =
        |burst: u32| json!({"key": "ip", "rate": 100, "per": "minute", "burst": burst, "headers": true});
    let quiet = json!({"key": "ip", "rate": 5, "per": "second"});
    let mut stage = stage(1, [limit("b", &told(3)), limit("a", &told(100)), limit("c", &quiet)]);
    let stream = stage.begin(0, Request::get("/x", "1.2.3.4"));
    stage.sim.upstream(stream, 200, &[("ratelimit", r#""theirs";r=1;t=1"#)]);
    let response = stage.finish(stream);
    let lines = |name: &str| {
        let all = response.headers.iter().filter(|(found, _)| found == name.as_bytes());
        all.map(|(_, value)| String::from_utf8(value.clone()).unwrap()).collect::<Vec<_>>()
    };
    let policy = r#""a";q=100;w=60, "b";q=100;w=60;tidegate-burst=3"#;
    assert_eq!(lines("ratelimit-policy"), [policy]);
    assert_eq!(lines("ratelimit"), [r#""theirs";r=1;t=1"#, r#""a";r=99;t=1, "b";r=2;t=1"#]);
    assert_eq!(passed(&mut stage, 5, |_| Request::get("/x", "1.2.3.4")), 2);
    let denied = stage.get(0, "1.2.3.4");
    assert_eq!(denied.header("ratelimit").as_deref(), Some(r#""a";r=93;t=1, "b";r=0;t=1"#));
}

#[test]
fn limits_without_a_route_hold_where_envoy_routes() {
    let config = r#"{"admin": {"cluster": "admin", "token": "secret"}, "routing": "envoy"}"#;
    let route = json!({"key": "ip", "rate": 1, "per": "minute", "match": {"route": "all"}});
    let by_route = json!({"key": "route", "rate": 1, "per": "minute"});
    let mut stage = configured(1, config, [limit("a", &route), limit("b", &by_route), per_client(2)]);
    assert_eq!(passed(&mut stage, 10, |_| Request::get("/x", "1.2.3.4")), 2);
}

#[test]
fn redirects_and_preflights_are_requests_of_their_route() {
    let redirect = json!({"type": "RequestRedirect", "requestRedirect": {"hostname": "other.example"}});
    let cors = json!({"type": "CORS", "cors": {"allowOrigins": ["https://a.example"]}});
    let document = json!({"metadata": {"name": "all"}, "spec": {"rules": [
        {"matches": [{"path": {"value": "/old"}}], "filters": [redirect]},
        {"filters": [cors], "backendRefs": [{"name": "demo", "port": 80}]},
    ]}});
    let mut feed = Feed::new();
    feed.set_routes(&[document]);
    let told = json!({"key": "ip", "rate": 2, "per": "minute", "headers": true});
    feed.set_limits([limit("l", &told)]);
    let mut stage = Stage::new(module, 1, CONFIG, feed);
    let preflight = Request::new("OPTIONS", "example.org", "/x", Some("1.2.3.4"))
        .header(b"origin", b"https://a.example")
        .header(b"access-control-request-method", b"GET");
    let old = |stage: &mut Stage| stage.request(0, Request::get("/old", "1.2.3.4"));
    let redirected = old(&mut stage);
    assert_eq!(
        (redirected.status, redirected.header("ratelimit").as_deref()),
        (302, Some(r#""l";r=1;t=30"#))
    );
    let asked = stage.request(0, preflight);
    assert_eq!((asked.status, asked.header("ratelimit").as_deref()), (204, Some(r#""l";r=0;t=30"#)));
    assert_eq!(old(&mut stage).status, 429);
}

#[test]
fn a_flood_of_addresses_fills_a_fixed_set_of_keys_and_denies_no_stranger() {
    let all = json!({"key": "global", "rate": 1_000_000, "per": "day"});
    let mut stage = stage(2, [per_client(5), limit("all", &all)]);
    let before = stage.sim.keys().len();
    let client = |at: usize| Request::get("/x", &std::net::Ipv4Addr::from_bits(at as u32).to_string());
    let (clients, heavy) = (90_000, 7);
    assert_eq!(passed(&mut stage, 5, |_| client(heavy)), 5);
    assert_eq!(passed(&mut stage, clients, |at| client(at + 1_000)), clients);
    assert!(stage.sim.keys().len() - before <= usize::from(BUCKETS) + 1);
    assert_eq!(stage.get(0, "0.0.0.7").status, 429, "who has used up most is forgotten last");
    stage.run(SECOND);
    assert!(stage.metric("tidegate.limits.forgotten") > 0);
    assert_eq!(stage.metric("tidegate.limits.given_up"), 0);
}

#[test]
fn a_vm_that_traps_in_the_midst_of_it_has_taken_one_request_or_none() {
    let mut stage = stage(2, [per_client(3)]);
    let worker = stage.gates[0].0;
    stage.get_now(0, "1.2.3.4");
    let before = stage.sim.host_calls(worker);
    stage.get_now(0, "1.2.3.4");
    let calls = stage.sim.host_calls(worker) - before;
    let mut left = Vec::new();
    for fuel in 0..calls {
        let client = format!("9.9.9.{fuel}");
        stage.sim.trap_after(worker, fuel);
        stage.get(0, &client);
        left.push((0..10).filter(|_| stage.get(1, &client).status == 200).count());
        stage.run(2 * SECOND);
    }
    assert!(
        left.contains(&3) && left.contains(&2) && left.iter().all(|left| [2, 3].contains(left)),
        "{left:?}"
    );
    stage.check();
}
