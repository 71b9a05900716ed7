//! How often the gates cry wolf, and what they find: measured over rollouts that are made up. Clients are skewed (Zipf),
//! each has its own level of times and of errors for as long as it is there, and load, times and errors change over the day
//! for all. Gates are looked at as the service does it: when a test is due, and all once more before a stage is left.
//!
//! `cargo test --release -p tidegate-rollout --test rates -- --ignored --nocapture` prints the rates; `DAYS` says of how many
//! days each is measured.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::json;
use tidegate_policy::check::PerCheck;
use tidegate_policy::flags::{Flag, Flags};
use tidegate_rollout::figures::{
    Block, BlockFigures, CLIENT_BLOCKS, CheckFigures, Completeness, Group, GroupFigures, Observed,
    StageFigures,
};
use tidegate_rollout::gates::{self, GateState, Verdict};
use tidegate_rollout::plan::{Gate, Plan, Stage};
use tidegate_rollout::template;
use tidegate_statistics::histogram::Histogram;

/// Slices of a stage's hold.
const SLICES: u32 = 240;

/// A day that is made up.
#[derive(Clone, Copy)]
struct Day {
    clients: usize,
    /// Exponent of Zipf's law.
    skew: f64,
    /// By how much clients differ in their times: the standard deviation of the logarithm of a client's level.
    spread: f64,
    /// Percent of the clients.
    share: u8,
    /// Requests in a slice, on average.
    requests: f64,
    /// Treated requests take so many times as long,
    slower: f64,
    /// or only this share of them.
    slower_share: f64,
    /// This share of all requests is answered with 5xx,
    base: f64,
    /// of some clients more than of others, and at some times more than at others: standard deviations of logarithms.
    base_spread: (f64, f64),
    /// So many more of the treated are.
    errors: f64,
    /// The same clients were measured in the stage before.
    is_measured_before: bool,
}

const USUAL: Day = Day {
    clients: 500,
    skew: 1.1,
    spread: 0.3,
    share: 50,
    requests: 100.0,
    slower: 1.0,
    slower_share: 1.0,
    base: 0.001,
    base_spread: (1.0, 1.0),
    errors: 0.0,
    is_measured_before: true,
};

struct Client {
    block: u8,
    /// By flag: from which percentage on it is on for this client.
    draws: [u8; Flag::ALL.len()],
    /// The one that it is in now; `None`: it does not count.
    group: Option<Group>,
    /// Its requests' times, as a logarithm; and how often they fail.
    level: f64,
    errors: f64,
    /// The sum of the weights up to it.
    up_to: f64,
}

struct Random(fastrand::Rng);

impl Random {
    /// Of a normal distribution.
    fn normal(&mut self) -> f64 {
        let (one, other) = (1.0 - self.0.f64(), self.0.f64());
        (-2.0 * one.ln()).sqrt() * (std::f64::consts::TAU * other).cos()
    }

    /// A factor of mean 1, of which the logarithm has this standard deviation.
    fn factor(&mut self, spread: f64) -> f64 {
        (spread * self.normal() - spread * spread / 2.0).exp()
    }
}

fn clients(day: &Day, random: &mut Random) -> Vec<Client> {
    let mut up_to = 0.0;
    let mut client = |rank: usize| {
        up_to += 1.0 / ((rank + 1) as f64).powf(day.skew);
        Client {
            block: random.0.u8(0..CLIENT_BLOCKS),
            draws: Flag::ALL.map(|_| random.0.u8(0..100)),
            group: None,
            level: day.spread * random.normal(),
            errors: day.base * random.factor(day.base_spread.0),
            up_to,
        }
    };
    (0..day.clients).map(&mut client).collect()
}

/// Puts clients in the groups of a stage with these shares. Those for whom one of its flags is on already, as `on` says in
/// percent, do not count.
fn group(clients: &mut [Client], shares: &[(Flag, u8)], on: &Flags) {
    let draw = |client: &Client, of: Flag| {
        Flag::ALL.iter().zip(client.draws).find(|(flag, _)| **flag == of).map_or(0, |(_, draw)| draw)
    };
    for client in clients {
        let in_all =
            |is_on: bool| shares.iter().all(|(flag, percent)| (draw(client, *flag) < *percent) == is_on);
        let is_on_already = shares.iter().any(|(flag, _)| draw(client, *flag) < on.get(*flag).percent());
        client.group = match (in_all(true), in_all(false)) {
            _ if is_on_already => None,
            (true, _) => Some(Group::Treated),
            (_, true) => Some(Group::Control),
            _ => None,
        };
    }
}

/// What a group measured in a block.
#[derive(Default)]
struct Measured {
    times: Vec<u64>,
    errors: u64,
}

impl Measured {
    fn figures(&self) -> GroupFigures {
        let requests = self.times.len() as u64;
        let all = CheckFigures { cached: requests, compared: requests, ..CheckFigures::default() };
        GroupFigures {
            requests,
            succeeded: requests - self.errors,
            server_errors: self.errors,
            total: Histogram::of(self.times.iter().copied()),
            checks: PerCheck { ip: all, geo: all, route: all },
            ..GroupFigures::default()
        }
    }
}

/// What changes with time for all.
#[derive(Default)]
struct Weather {
    /// What lasts for a while: a backend that is busy, or that fails.
    busy: f64,
    failing: f64,
}

impl Weather {
    fn go_on(&mut self, random: &mut Random) {
        self.busy = 0.9 * self.busy + 0.1 * random.normal();
        // Its standard deviation is 1.
        self.failing = 0.9 * self.failing + 0.19f64.sqrt() * random.normal();
    }
}

/// Adds a slice, of a hold of so many, to the figures of a stage.
fn add(
    day: &Day,
    clients: &[Client],
    (slice, of): (u32, u32),
    weather: &Weather,
    random: &mut Random,
    to: &mut StageFigures,
) {
    let all = clients.last().map_or(0.0, |client| client.up_to);
    let time = f64::from(slice) / f64::from(of) * std::f64::consts::TAU;
    let (load, shared) = (1.0 + 0.5 * time.sin(), weather.busy + 0.2 * (time * 0.95).sin());
    let spread = day.base_spread.1;
    let failing = (spread * weather.failing - spread * spread / 2.0).exp();
    let mut by_block = BTreeMap::<(Block, Group), Measured>::new();
    for _ in 0..(day.requests * load) as u32 {
        let at = random.0.f64() * all;
        let client = &clients[clients.partition_point(|client| client.up_to < at).min(clients.len() - 1)];
        let Some(group) = client.group else { continue };
        let is_slow = group == Group::Treated && random.0.f64() < day.slower_share;
        let slower = if is_slow { day.slower } else { 1.0 };
        let ms = 20.0 * slower * (client.level + shared + 0.5 * random.normal()).exp();
        let more = if group == Group::Treated { day.errors } else { 0.0 };
        let fails = random.0.f64() < client.errors * failing + more;
        for block in [Block::Slice(slice), Block::Clients(client.block.into())] {
            let measured = by_block.entry((block, group)).or_default();
            measured.times.push((ms * 1_000.0) as u64);
            measured.errors += u64::from(fails);
        }
    }
    for ((block, group), measured) in by_block {
        to.add(block, group, &measured.figures());
    }
}

/// What the groups measured in the stage before, in which nothing differed between them but their clients.
fn before(day: &Day, clients: &[Client], random: &mut Random) -> BlockFigures {
    let day = Day { slower: 1.0, errors: 0.0, ..*day };
    let mut figures = StageFigures { slice_ms: 1_000, ..StageFigures::default() };
    let mut weather = Weather::default();
    for slice in 0..SLICES {
        weather.go_on(random);
        add(&day, clients, (slice, SLICES), &weather, random, &mut figures);
    }
    // Without windows all blocks of clients are of one span.
    let clients = figures.clients.into_iter().map(|(block, figures)| (block.clients, figures)).collect();
    BlockFigures { slices: figures.slices, clients }
}

/// How a stage is looked at.
#[derive(Clone, Copy)]
struct Hold {
    /// Of the hold, and up to the timeout.
    slices: u32,
    up_to: u32,
    slice_ms: u64,
}

const SHORT: Hold = Hold { slices: SLICES, up_to: SLICES, slice_ms: 1_000 };

/// A gate that failed, and in which slice.
type Failure = (String, u32);

/// What becomes of a stage with these gates: which of them failed and when; or after how many slices it was left, and which
/// were not met then.
fn held(
    day: &Day,
    clients: &[Client],
    before: Option<BlockFigures>,
    (gates, hold): (&[Gate], Hold),
    random: &mut Random,
) -> Result<(u32, Vec<String>), Failure> {
    let completeness = Some(Completeness { ratio: 1.0, exact: true });
    let observed = Observed { completeness, gateways: 1, oldest_tables_ms: Some(0), ..Observed::default() };
    let mut figures = StageFigures {
        slice_ms: hold.slice_ms,
        observed,
        before: before.map(Arc::new),
        ..StageFigures::default()
    };
    let mut states = vec![GateState::default(); gates.len()];
    let mut weather = Weather::default();
    let unmet = |states: &[GateState]| states.iter().filter_map(GateState::unmet).collect::<Vec<_>>();
    for slice in 0..hold.up_to {
        weather.go_on(random);
        add(day, clients, (slice, hold.slices), &weather, random, &mut figures);
        each(gates, &mut states, slice, |gate, state| gates::look(gate, &figures, state, hold.slice_ms))?;
        if slice + 1 >= hold.slices && unmet(&states).is_empty() {
            each(gates, &mut states, slice, |gate, state| gates::look_now(gate, &figures, state))?;
            if unmet(&states).is_empty() {
                return Ok((slice + 1, Vec::new()));
            }
        }
    }
    Ok((hold.up_to, unmet(&states)))
}

/// Looks at each gate.
fn each(
    gates: &[Gate],
    states: &mut [GateState],
    slice: u32,
    look: impl Fn(&Gate, &GateState) -> GateState,
) -> Result<(), Failure> {
    for (gate, state) in gates.iter().zip(states) {
        *state = look(gate, state);
        let result = state.result.as_ref().expect("a look has a result");
        if result.verdict == Verdict::Fails {
            return Err((result.name.clone(), slice));
        }
    }
    Ok(())
}

/// What becomes of one stage.
fn outcome(day: &Day, gates: &[Gate], seed: u64) -> Result<Vec<String>, Failure> {
    let mut random = Random(fastrand::Rng::with_seed(seed));
    let mut clients = clients(day, &mut random);
    group(&mut clients, &[(Flag::RouteCache, day.share)], &Flags::default());
    let before = day.is_measured_before.then(|| before(day, &clients, &mut random));
    held(day, &clients, before, (gates, SHORT), &mut random).map(|(_, unmet)| unmet)
}

/// What becomes of the guide's plan at its own speed, in which nothing is wrong: which stage and gate failed, or how many
/// stages had to wait after their hold, and for what the one waited that was paused in the end.
fn rollout(day: &Day, seed: u64) -> Result<(usize, Option<String>), Failure> {
    let plan = Plan::read("guide", &template::guide(1)).expect("it is valid");
    let mut random = Random(fastrand::Rng::with_seed(seed));
    let mut clients = clients(day, &mut random);
    let (mut on, mut late) = (Flags::default(), 0);
    for stage in &plan.stages {
        let [slices, up_to] =
            [stage.hold_ms, stage.timeout_ms].map(|ms| u32::try_from(ms / stage.slice_ms()).expect("few"));
        let hold = Hold { slices, up_to, slice_ms: stage.slice_ms() };
        let shares = shares(stage);
        group(&mut clients, &shares, &on);
        let before = (!shares.is_empty()).then(|| before(day, &clients, &mut random));
        group(&mut clients, &shares, &Flags::default());
        let day = Day { requests: day.requests * f64::from(SLICES) / f64::from(slices), ..*day };
        let (left, unmet) = held(&day, &clients, before, (&stage.gates, hold), &mut random)
            .map_err(|(gate, slice)| (format!("{}: {gate}", stage.name), slice))?;
        late += usize::from(left > slices);
        if !unmet.is_empty() {
            return Ok((late, Some(format!("{}: {}", stage.name, unmet.join("; ")))));
        }
        on = stage.applied_to(&on);
    }
    Ok((late, None))
}

fn shares(stage: &Stage) -> Vec<(Flag, u8)> {
    let shares = stage.flags.iter().filter(|(_, state)| (1..=99).contains(&state.percent()));
    shares.map(|(flag, state)| (*flag, state.percent())).collect()
}

/// The guide's gates that compare.
fn guide_gates() -> Vec<Gate> {
    read_gates(&json!([
        {"latency": {"of": "total", "percentile": 95, "at_most_times_control": 1.1}},
        {"latency": {"of": "total", "percentile": 99, "at_most_times_control": 1.25}},
        {"server_errors": {"over_control_at_most": 0.005}},
        {"denials": {"over_control_at_most": 0.01}},
    ]))
}

fn read_gates(gates: &serde_json::Value) -> Vec<Gate> {
    let document = json!({"stages": [
        {"name": "a", "flags": {"enableRouteCache": {"percent": 50}}, "hold": "4m", "gates": gates}]});
    Plan::read("a", &document).expect("it is valid").stages.remove(0).gates
}

/// Runs so many days; returns how many failed, how many were not met at the end, and prints it with what failed, and the
/// median slice of a failure.
fn rates(name: &str, day: &Day, gates: &[Gate], days: u64) -> (u64, u64) {
    let (mut failed, mut open, mut at) = (0, 0, Vec::new());
    let mut by_gate = BTreeMap::<String, u64>::new();
    for seed in 0..days {
        match outcome(day, gates, seed) {
            Err((gate, slice)) => {
                failed += 1;
                *by_gate.entry(gate).or_default() += 1;
                at.push(slice);
            }
            Ok(unmet) => open += u64::from(!unmet.is_empty()),
        }
    }
    at.sort_unstable();
    let median =
        at.get(at.len() / 2).map_or_else(String::new, |at| format!("; half by slice {at} of {SLICES}"));
    println!("{name}: {failed} of {days} failed {by_gate:?}, {open} not met at the end of the hold{median}");
    (failed, open)
}

/// Of how many days rates are measured.
fn days(usual: u64) -> u64 {
    std::env::var("DAYS").ok().and_then(|days| days.parse().ok()).unwrap_or(usual)
}

#[test]
fn a_fault_is_found_and_nothing_else() {
    let gates = guide_gates();
    let (failed, _) = rates("without a fault", &USUAL, &gates, 10);
    assert_eq!(failed, 0);
    let slower = Day { slower: 1.3, requests: 200.0, ..USUAL };
    let day = Day { spread: 0.05, is_measured_before: false, ..slower };
    let (failed, _) = rates("30 % slower, of clients that are alike", &day, &gates, 5);
    assert!(failed >= 4, "{failed} of 5");
    let (failed, _) = rates("30 % slower, of clients that were measured before", &slower, &gates, 5);
    assert!(failed >= 4, "{failed} of 5");
}

/// Shares of 5xx that both groups have, whatever is on.
const BASES: [f64; 4] = [0.0, 0.000_5, 0.001, 0.01];

#[test]
#[ignore = "measures, for minutes"]
fn false_alarms_of_comparisons() {
    let (gates, days) = (guide_gates(), days(1_000));
    let mut all = Vec::new();
    for is_measured_before in [false, true] {
        let usual = Day { is_measured_before, ..USUAL };
        let before = if is_measured_before { "measured before" } else { "no before" };
        for base in BASES {
            let name = format!("no fault, {} % of 5xx, {before}", base * 100.0);
            all.push(rates(&name, &Day { base, ..usual }, &gates, days));
        }
        for (name, day) in [
            ("a tenth", Day { share: 10, ..usual }),
            ("more skew", Day { skew: 1.5, ..usual }),
            ("60 clients", Day { clients: 60, ..usual }),
            ("more skew, 1 % of 5xx", Day { skew: 1.5, base: 0.01, ..usual }),
            ("a tenth, 1 % of 5xx", Day { share: 10, base: 0.01, ..usual }),
        ] {
            all.push(rates(&format!("no fault, {name}, {before}"), &day, &gates, days));
        }
    }
    assert!(all.iter().all(|(failed, _)| failed * 100 <= days), "{all:?} of {days}");
}

#[test]
#[ignore = "measures, for minutes"]
fn false_alarms_where_the_limit_is_the_truth() {
    let days = days(1_000);
    let alike = Day { base_spread: (0.0, 0.0), ..USUAL };
    let absolute = read_gates(&json!([
        {"success": {"at_least": 0.999}},
        {"success": {"at_least": 0.999}, "window": "10s"},
        {"server_errors": {"at_most": 0.001}},
    ]));
    let mut all = Vec::new();
    for base in [0.0, 0.000_5, 0.001] {
        let name = format!("99.9 % of success, {} % of 5xx", base * 100.0);
        all.push(rates(&name, &Day { base, ..alike }, &absolute, days));
    }
    for (confidence, skew) in [(0.999, 1.1), (0.999, 1.5), (0.95, 1.1), (0.95, 1.5)] {
        let latency = |times: f64| {
            read_gates(&json!([{"latency":
                {"of": "total", "percentile": 95, "at_most_times_control": times, "confidence": confidence}}]))
        };
        let errors = read_gates(
            &json!([{"server_errors": {"over_control_at_most": 0.005, "confidence": confidence}}]),
        );
        for is_measured_before in [false, true] {
            let day = Day { skew, is_measured_before, ..USUAL };
            let how = format!("confidence {confidence}, skew {skew}, measured before: {is_measured_before}");
            let mut measure = |name: &str, day: Day, gates: &[Gate]| {
                let found = rates(&format!("{name}, {how}"), &day, gates, days);
                all.extend((confidence > 0.99).then_some(found));
            };
            measure("at most as long as the control, and as long", day, &latency(1.0));
            measure("twice as fast, and exactly that", Day { slower: 0.5, ..day }, &latency(0.5));
            for base in [0.000_5, 0.01] {
                let day = Day { base, errors: 0.005, ..day };
                measure(&format!("0.5 % more 5xx than {} %, and 0.5 % more", base * 100.0), day, &errors);
            }
        }
    }
    assert!(all.iter().all(|(failed, _)| failed * 100 <= days), "{all:?} of {days}");
}

#[test]
#[ignore = "measures, for minutes"]
fn false_alarms_of_the_whole_guide() {
    let days = days(1_000) / 4;
    for base in [0.000_5, 0.0] {
        let day = Day { base, base_spread: (0.0, 0.0), ..USUAL };
        let (mut failed, mut paused, mut late) = (Vec::new(), 0, 0);
        for seed in 0..days {
            let found = rollout(&day, seed);
            println!("{seed}: {found:?}");
            match found {
                Ok((stages, open)) => {
                    late += stages;
                    paused += usize::from(open.is_some());
                }
                Err(failure) => failed.push(failure),
            }
        }
        println!(
            "the guide, {} % of 5xx: {} of {days} taken back {failed:?}, {paused} paused, {late} stages of all waited \
             after their hold",
            base * 100.0,
            failed.len()
        );
        assert!(failed.len() as u64 * 100 <= days, "{failed:?} of {days}");
    }
}

#[test]
#[ignore = "measures, for minutes"]
fn what_is_found() {
    let (gates, days) = (guide_gates(), days(1_000) / 10);
    for is_measured_before in [false, true] {
        println!("the clients were measured in the stage before: {is_measured_before}");
        let usual = Day { is_measured_before, ..USUAL };
        for (spread, requests, slower) in [
            (0.0, 100.0, 1.3),
            (0.05, 100.0, 1.3),
            (0.05, 400.0, 1.3),
            (0.3, 100.0, 1.3),
            (0.3, 400.0, 1.3),
            (0.3, 100.0, 1.5),
            (0.3, 400.0, 1.5),
        ] {
            let day = Day { slower, spread, requests, ..usual };
            let name =
                format!("{slower} times as long, spread {spread}, {} requests", requests * f64::from(SLICES));
            rates(&name, &day, &gates, days);
        }
    }
    for base in BASES {
        for errors in [0.01, 0.02, 0.05] {
            let name = format!("{} % more 5xx than {} %", errors * 100.0, base * 100.0);
            rates(&name, &Day { errors, base, ..USUAL }, &gates, days);
        }
    }
    for spread in [0.05, 0.3] {
        let day = Day { spread, requests: 200.0, slower: 4.0, slower_share: 0.02, ..USUAL };
        rates(&format!("2 % take 4 times as long, spread {spread}"), &day, &gates, days);
    }
}

/// The smallest difference that a gate would see with so many requests, as it says itself at the end of the hold.
#[test]
#[ignore = "measures, for minutes"]
fn what_so_many_requests_can_tell() {
    let gates = guide_gates();
    for (spread, is_measured_before) in [(0.0, true), (0.3, true), (0.3, false)] {
        for requests in [10.0, 100.0, 400.0] {
            let day = Day { requests, spread, is_measured_before, ..USUAL };
            let mut seen = BTreeMap::<String, Vec<String>>::new();
            for seed in 0..9 {
                for (name, says) in says(&day, &gates, seed) {
                    let over = says.split_once("with so many requests over ").map(|(_, over)| over);
                    let over = over
                        .and_then(|over| over.split_once(" would be seen"))
                        .map_or(says.as_str(), |(over, _)| over);
                    seen.entry(name).or_default().push(over.to_owned());
                }
            }
            println!(
                "spread {spread}, before {is_measured_before}, {} requests: {seen:?}",
                requests * f64::from(SLICES)
            );
        }
    }
}

/// What each gate says at the end of the hold.
fn says(day: &Day, gates: &[Gate], seed: u64) -> Vec<(String, String)> {
    let mut random = Random(fastrand::Rng::with_seed(seed));
    let mut clients = clients(day, &mut random);
    group(&mut clients, &[(Flag::RouteCache, day.share)], &Flags::default());
    let before = day.is_measured_before.then(|| before(day, &clients, &mut random));
    let mut figures =
        StageFigures { slice_ms: 1_000, before: before.map(Arc::new), ..StageFigures::default() };
    let mut weather = Weather::default();
    for slice in 0..SLICES {
        weather.go_on(&mut random);
        add(day, &clients, (slice, SLICES), &weather, &mut random, &mut figures);
    }
    let results = gates.iter().filter_map(|gate| {
        // A hold has so many tests.
        let tests = if gate.condition.kind() == "latency" { SLICES / 5 } else { SLICES };
        gates::look_now(gate, &figures, &GateState { tests, ..GateState::default() }).result
    });
    results.map(|result| (result.name, result.says)).collect()
}
