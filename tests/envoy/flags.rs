//! The flags on a real Envoy: changed all the time under load, set for a share of
//! the clients, and refused.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tidegate_author as author;
use tidegate_host_sim::TestRng;
use tidegate_policy::flags::{Flag, FlagState, Flags, Mode};
use tidegate_policy::version::Version;
use tidegate_stack::http::{Connection, Method, PATIENCE, Request};
use tidegate_stack::load::Load;
use tidegate_stack::{FlagsAtStart, Options, Stack, wait};

const FLAGS: &str = "/api/admin/optimization/flags";
const PAUSE: Duration = Duration::from_millis(50);

fn start(name: &str, recorder: bool) -> Result<Stack> {
    let mut options = Options::for_test(name)?;
    options.recorder = recorder;
    options.flags = FlagsAtStart::Off;
    Stack::start_serving(options)
}

/// One of 40 clients, of whom one is banned.
fn client(number: u64) -> String {
    format!("192.0.2.{}", number % 40)
}

fn state(flag: Flag, rng: &mut TestRng) -> FlagState {
    match rng.below(5) {
        0 | 1 => FlagState::On,
        2 => FlagState::Share(u8::try_from(rng.below(101)).expect("a percentage")),
        3 if flag.has_shadow() => FlagState::Shadow,
        _ => FlagState::Off,
    }
}

/// Sets some of the flags; which ones hold from which sequence number on.
fn set_some(stack: &Stack, rng: &mut TestRng) -> Result<(u64, Flags)> {
    let mut body = serde_json::Map::new();
    for flag in Flag::ALL {
        if body.is_empty() || rng.percent(60) {
            body.insert(flag.name().to_owned(), author::write_state(&state(flag, rng)));
        }
    }
    // The version is told to those who ask how far it has come; nobody waits here.
    let said = stack.api_ok(Method::PUT, &format!("{FLAGS}?wait_applied=0ms"), Some(&Value::Object(body)))?;
    let version = said["version"].as_str().with_context(|| format!("no version: {said}"))?;
    let all: serde_json::Map<_, _> =
        Flag::ALL.iter().map(|flag| (flag.name().to_owned(), said[flag.name()].clone())).collect();
    let read = author::read_flags(&Value::Object(all)).map_err(|wrong| anyhow::anyhow!("{wrong:?}"))?;
    let flags = read.into_iter().fold(Flags::default(), |flags, (flag, state)| flags.with(flag, state));
    Ok((version.parse::<Version>()?.seq, flags))
}

/// How a row says what these flags mean for a client.
fn modes(flags: &Flags, client: IpAddr) -> String {
    let modes = flags.modes(Some(client));
    let on = |on| if on { "on" } else { "off" };
    format!(
        "ip={},geo={},route={},parallel={},async={}",
        modes.ip.name(),
        modes.geo.name(),
        modes.route.name(),
        on(modes.parallel),
        on(modes.async_recording)
    )
}

fn flipped_under_load(name: &str, recorder: bool, how_long: Duration) -> Result<()> {
    let stack = start(name, recorder)?;
    let before = stack.recorded(PATIENCE)?;
    let mut rng = TestRng::new(4);
    let mut in_force = BTreeMap::from([set_some(&stack, &mut rng)?]);
    stack.wait_enforced()?;
    let load = Load::start(stack.gate(), 8, None, |number| {
        std::thread::sleep(Duration::from_millis(5));
        Request::get("/flipped").from(&client(number))
    });
    let began = Instant::now();
    let mut changes = 0;
    while began.elapsed() < how_long {
        in_force.extend([set_some(&stack, &mut rng)?]);
        changes += 1;
        std::thread::sleep(PAUSE);
    }
    let tally = load.stop();
    assert_eq!(tally.failed, 0, "{:?}", tally.failures);
    assert_eq!(tally.status(200) + tally.status(403), tally.total(), "{tally:?}");
    let whole = stack.recorded(Duration::from_secs(60))?;
    assert!(whole.is_whole(), "{whole:?}");
    assert_eq!(whole.stored, before.stored + tally.total(), "no event is lost, none is there twice");

    let rows = stack.sql()?.run(
        "SELECT tables_seq, client_ip, modes, status, count(*) FROM traffic_events WHERE path = '/flipped' \
         GROUP BY 1, 2, 3, 4",
    )?;
    let (mut combinations, mut counted) = (std::collections::BTreeSet::new(), 0);
    for row in &rows {
        let [seq, client, said, status, count] = row.split('|').collect::<Vec<_>>()[..] else {
            anyhow::bail!("not five columns: {row}")
        };
        assert_eq!(status, if client == "192.0.2.13" { "403" } else { "200" }, "{row}");
        let (_, flags) = in_force
            .range(..=seq.parse::<u64>()?)
            .next_back()
            .with_context(|| format!("older than the first change: {row}"))?;
        assert_eq!(said, modes(flags, client.parse()?), "tables {seq}: {flags:?} for {client}");
        counted += count.parse::<u64>()?;
        combinations.insert(said);
    }
    assert_eq!(counted, tally.total());
    println!(
        "{name}: {changes} changes under {} requests, {} combinations of modes; {whole:?}",
        tally.total(),
        combinations.len()
    );
    assert!(combinations.len() > 20, "only {combinations:?}");
    let replaced = stack.stats()?.sum(|name| name.contains("vm_reload"));
    assert_eq!(replaced, 0, "a VM trapped");
    Ok(())
}

#[test]
fn flags_are_flipped_under_load_and_nobody_notices() {
    flipped_under_load("flags", true, Duration::from_secs(30)).unwrap();
}

#[test]
fn flags_are_flipped_under_load_without_the_recorder() {
    flipped_under_load("flags-bare", false, Duration::from_secs(8)).unwrap();
}

#[test]
fn a_share_is_of_the_clients_and_always_the_same_ones() {
    let stack = start("flags-share", true).unwrap();
    let flags = Flags::default()
        .with(Flag::RouteCache, FlagState::Share(25))
        .with(Flag::IpBlacklistCache, FlagState::Share(25))
        .with(Flag::AsyncRecording, FlagState::On);
    stack.flags(&Value::Object(author::write_flags(&flags))).unwrap();
    let mut workers = stack.connection_per_worker().unwrap();
    let mut cached = [0, 0, 0];
    for number in 0..400_u32 {
        let client = format!("10.20.{}.{}", number / 250, number % 250);
        let modes = flags.modes(Some(client.parse().unwrap()));
        let by = |mode| if mode == Mode::Cached { "hit" } else { "direct" };
        let expected = format!("route={},ip={},geo=direct", by(modes.route), by(modes.ip));
        // On every worker, and each time.
        for worker in &mut workers {
            assert_eq!(said_cache(worker, &client), expected, "{client}");
        }
        assert_eq!(said_cache(&mut workers[0], &client), expected, "{client} again");
        let both = [modes.route == Mode::Cached, modes.ip == Mode::Cached];
        for (count, is) in cached.iter_mut().zip([both[0], both[1], both[0] && both[1]]) {
            *count += u32::from(is);
        }
    }
    // A quarter of 400, and five standard deviations around it; of both a sixteenth.
    let [route, ip, both] = cached;
    assert!((57..=143).contains(&route) && (57..=143).contains(&ip), "{cached:?}");
    assert!((2..=49).contains(&both), "each flag chooses its own clients: {cached:?}");
}

/// Who answered a client's checks, as the response says.
fn said_cache(worker: &mut Connection, client: &str) -> String {
    let answer = worker.send(&Request::get("/share").from(client)).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.header("x-performance-cache").unwrap_or_default().to_owned()
}

/// Two hosts, one of them the canary's: on every worker, until all flags are off, which a rollout's way back sets too.
#[test]
fn a_flag_that_is_limited_to_a_host_is_on_for_that_host_alone() {
    let stack = start("flags-canary", true).unwrap();
    let node = stack.api_ok(Method::GET, "/api/admin/gateways", None).unwrap()["items"][0]["node"].clone();
    let canary = json!({ "percent": 100, "hostnames": ["a.example"], "gateways": [node] });
    let elsewhere = json!({ "percent": 100, "gateways": ["another"] });
    let routes = json!({ "percent": 100, "routes": ["canary"] });
    stack.put_route("canary", "/canary", "demo").unwrap();
    let set = json!({ "enableRouteCache": canary, "enableIpBlacklistCache": elsewhere,
        "enableGeoRulesCache": routes, "enableAsyncRecording": true });
    stack.flags(&set).unwrap();
    let mut workers = stack.connection_per_worker().unwrap();
    let mut check = |canary: &str, other: &str| {
        for connection in &mut workers {
            for (host, path, wanted) in [("a.example", "/canary", canary), ("b.example", "/other", other)] {
                let answer =
                    connection.send(&Request::get(path).header("host", host).from("10.0.0.1")).unwrap();
                let cache = answer.header("x-performance-cache").unwrap_or_default();
                assert_eq!((answer.status, cache), (200, wanted), "{host}");
            }
        }
    };
    check("route=hit,ip=direct,geo=hit", "route=direct,ip=direct,geo=direct");
    stack.recorded(PATIENCE).unwrap();
    let modes = |path: &str| {
        let query = format!("SELECT DISTINCT modes FROM traffic_events WHERE path = '{path}'");
        stack.sql().unwrap().run(&query).unwrap()
    };
    let by = |mode: &str, outside: &str| {
        [format!("ip=direct,geo={mode},route={mode},parallel=off,async=on,outside={outside}")]
    };
    assert_eq!(modes("/canary"), by("cached", "ip"));
    assert_eq!(modes("/other"), by("direct", "ip+geo+route"));
    stack.all_flags(false).unwrap();
    check("route=direct,ip=direct,geo=direct", "route=direct,ip=direct,geo=direct");
}

#[test]
fn what_is_no_flag_changes_nothing() {
    let stack = start("flags-refused", true).unwrap();
    stack.flags(&json!({ "enableRouteCache": { "percent": 30 }, "enableGeoRulesCache": "shadow" })).unwrap();
    let now = || stack.api_ok(Method::GET, FLAGS, None).unwrap();
    let before = now();
    for (bad, pointer) in [
        (json!({ "enableRouteCache": { "percent": 101 } }), "/enableRouteCache/percent"),
        (json!({ "enableRouteCache": { "percent": -1 } }), "/enableRouteCache/percent"),
        (json!({ "enableRouteCache": { "percent": 12.5 } }), "/enableRouteCache/percent"),
        (json!({ "enableRouteCache": { "percent": "25" } }), "/enableRouteCache/percent"),
        (json!({ "enableRouteCache": "on" }), "/enableRouteCache"),
        (json!({ "enableRouteCache": 1 }), "/enableRouteCache"),
        (json!({ "enableAsyncRecording": "shadow" }), "/enableAsyncRecording"),
        (json!({ "enableRouteCache": true, "enableEverything": true }), "/enableEverything"),
    ] {
        let answer = stack.api(Method::PUT, FLAGS, Some(&bad)).unwrap();
        let said = answer.json().unwrap();
        assert_eq!((answer.status, &said["code"]), (400, &json!("invalid_flag")), "{bad}: {said}");
        assert_eq!(said["errors"][0]["pointer"], pointer, "{bad}: {said}");
        assert_eq!(now(), before, "{bad}");
    }
    // By SQL, where nobody refuses it: it counts as off, and is told of.
    let mut sql = stack.sql().unwrap();
    sql.run("UPDATE flags SET value = '\"sometimes\"' WHERE name = 'enableRouteCache'").unwrap();
    wait::until("the flag is off", PATIENCE, || Ok((now()["enableRouteCache"] == false).then_some(())))
        .unwrap();
    let health = stack.api_ok(Method::GET, "/api/admin/optimization/health", None).unwrap();
    assert!(health["quarantine"].to_string().contains("enableRouteCache"), "{health}");
}
