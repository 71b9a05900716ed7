//! How often the gates cry wolf, and what they find: measured over rollouts that are made up. Clients are skewed (Zipf),
//! each has its own level of times and of errors for as long as it is there, and load and times change over the day for
//! all.
//!
//! `cargo test --release -p tidegate-rollout --test rates -- --ignored --nocapture` prints the rates.

use std::sync::Arc;

use serde_json::json;
use tidegate_rollout::figures::{Block, BlockFigures, CLIENT_BLOCKS, Group, GroupFigures, StageFigures};
use tidegate_rollout::gates::{self, GateState, Verdict};
use tidegate_rollout::plan::{Gate, Plan};
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
    share: u32,
    /// Requests in a slice, on average.
    requests: f64,
    /// Treated requests take so many times as long,
    slower: f64,
    /// or only this share of them,
    slower_share: f64,
    /// and so many more are answered with 5xx.
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
    errors: 0.0,
    is_measured_before: true,
};

struct Client {
    block: u8,
    group: Group,
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
}

fn clients(day: &Day, random: &mut Random) -> Vec<Client> {
    let mut up_to = 0.0;
    let mut client = |rank: usize| {
        up_to += 1.0 / ((rank + 1) as f64).powf(day.skew);
        let is_treated = random.0.u32(0..100) < day.share;
        Client {
            block: random.0.u8(0..CLIENT_BLOCKS),
            group: if is_treated { Group::Treated } else { Group::Control },
            level: day.spread * random.normal(),
            errors: 0.001 * (random.normal()).exp(),
            up_to,
        }
    };
    (0..day.clients).map(&mut client).collect()
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
        GroupFigures {
            requests,
            succeeded: requests - self.errors,
            server_errors: self.errors,
            total: Histogram::of(self.times.iter().copied()),
            ..GroupFigures::default()
        }
    }
}

/// Adds a slice to the figures of a stage.
fn slice(
    day: &Day,
    clients: &[Client],
    number: u32,
    shared: f64,
    random: &mut Random,
    to: &mut StageFigures,
) {
    let all = clients.last().map_or(0.0, |client| client.up_to);
    let load = 1.0 + 0.5 * (f64::from(number) / f64::from(SLICES) * std::f64::consts::TAU).sin();
    let mut by_block = std::collections::BTreeMap::<(Block, Group), Measured>::new();
    for _ in 0..(day.requests * load) as u32 {
        let at = random.0.f64() * all;
        let client = &clients[clients.partition_point(|client| client.up_to < at).min(clients.len() - 1)];
        let is_slow = client.group == Group::Treated && random.0.f64() < day.slower_share;
        let slower = if is_slow { day.slower } else { 1.0 };
        let ms = 20.0 * slower * (client.level + shared + 0.5 * random.normal()).exp();
        let more = if client.group == Group::Treated { day.errors } else { 0.0 };
        let fails = random.0.f64() < client.errors + more;
        for block in [Block::Slice(number), Block::Clients(client.block.into())] {
            let measured = by_block.entry((block, client.group)).or_default();
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
    let mut drift = 0.0;
    for number in 0..SLICES {
        drift = 0.9 * drift + 0.1 * random.normal();
        slice(&day, clients, number, drift, random, &mut figures);
    }
    // Without windows all blocks of clients are of one span.
    let clients = figures.clients.into_iter().map(|(block, figures)| (block.clients, figures)).collect();
    BlockFigures { slices: figures.slices, clients }
}

/// What becomes of a stage with these gates: which of them failed and after how many slices; or which were not met at the
/// end of the hold.
fn outcome(day: &Day, gates: &[Gate], seed: u64) -> Result<Vec<String>, (String, u32)> {
    let mut random = Random(fastrand::Rng::with_seed(seed));
    let clients = clients(day, &mut random);
    let mut figures = StageFigures { slice_ms: 1_000, ..StageFigures::default() };
    figures.before = day.is_measured_before.then(|| Arc::new(before(day, &clients, &mut random)));
    let mut states = vec![GateState::default(); gates.len()];
    let mut drift = 0.0;
    for number in 0..SLICES {
        // What lasts for a while, and for all: a backend that is busy.
        drift = 0.9 * drift + 0.1 * random.normal();
        let shared = drift + 0.2 * (f64::from(number) / 40.0).sin();
        slice(day, &clients, number, shared, &mut random, &mut figures);
        for (gate, state) in gates.iter().zip(&mut states) {
            *state = gates::look(gate, &figures, state, 1_000);
            let result = state.result.as_ref().expect("a look has a result");
            if result.verdict == Verdict::Fails {
                return Err((result.name.clone(), number));
            }
        }
    }
    Ok(states.iter().filter_map(GateState::unmet).collect())
}

fn guide_gates() -> Vec<Gate> {
    let gates = json!([
        {"latency": {"of": "total", "percentile": 95, "at_most_times_control": 1.1}},
        {"latency": {"of": "total", "percentile": 99, "at_most_times_control": 1.25}},
        {"server_errors": {"over_control_at_most": 0.005}},
        {"denials": {"over_control_at_most": 0.01}},
    ]);
    read_gates(&gates)
}

fn read_gates(gates: &serde_json::Value) -> Vec<Gate> {
    let document = json!({"stages": [
        {"name": "a", "flags": {"enableRouteCache": {"percent": 50}}, "hold": "4m", "gates": gates}]});
    Plan::read("a", &document).expect("it is valid").stages.remove(0).gates
}

/// Runs so many days; returns how many failed, how many were not met at the end, and the median slice of a failure.
fn rates(name: &str, day: &Day, gates: &[Gate], days: u64) -> (u64, u64) {
    let (mut failed, mut open, mut at) = (0, 0, Vec::new());
    let mut by_gate = std::collections::BTreeMap::<String, u64>::new();
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
    println!(
        "{name}: {failed} of {days} failed {by_gate:?}, {open} not met at the end of the hold; median slice of a failure {:?} \
         of {SLICES}",
        at.get(at.len() / 2)
    );
    (failed, open)
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

#[test]
#[ignore = "measures, for minutes"]
fn the_rates_of_false_alarms_and_of_what_is_found() {
    let gates = guide_gates();
    let days = std::env::var("DAYS").ok().and_then(|days| days.parse().ok()).unwrap_or(1_000);
    for is_measured_before in [false, true] {
        println!("the clients were measured in the stage before: {is_measured_before}");
        let usual = Day { is_measured_before, ..USUAL };
        let (failed, _) = rates("without a fault, half", &usual, &gates, days);
        assert!(failed * 100 <= days, "{failed} of {days}");
        for (spread, requests, slower) in [
            (0.0, 100.0, 1.3),
            (0.05, 100.0, 1.3),
            (0.05, 400.0, 1.3),
            (0.3, 100.0, 1.3),
            (0.3, 400.0, 1.3),
            (0.3, 100.0, 1.5),
        ] {
            let day = Day { slower, spread, requests, ..usual };
            let name =
                format!("{slower} times as long, spread {spread}, {} requests", requests * f64::from(SLICES));
            rates(&name, &day, &gates, days / 10);
        }
    }
    others(&gates, days);
}

/// Days that are less usual.
fn others(gates: &[Gate], days: u64) {
    rates("without a fault, a tenth", &Day { share: 10, ..USUAL }, gates, days);
    rates("without a fault, more skew", &Day { skew: 1.5, ..USUAL }, gates, days);
    rates("without a fault, 60 clients", &Day { clients: 60, ..USUAL }, gates, days);
    for confidence in [0.999, 0.95] {
        let at_limit = read_gates(&json!([
            {"latency": {"of": "total", "percentile": 95, "at_most_times_control": 1.0, "confidence": confidence}}]));
        for is_measured_before in [false, true] {
            let day = Day { is_measured_before, ..USUAL };
            rates(
                &format!("a limit that is the truth, {confidence}, before: {is_measured_before}"),
                &day,
                &at_limit,
                days,
            );
            let day = Day { skew: 1.5, ..day };
            rates(&format!("  the same, more skew, {confidence}"), &day, &at_limit, days);
        }
    }
    for spread in [0.05, 0.3] {
        let day = Day { spread, requests: 200.0, ..USUAL };
        rates(
            &format!("2 % take 4 times as long, spread {spread}"),
            &Day { slower: 4.0, slower_share: 0.02, ..day },
            gates,
            days / 10,
        );
        rates(&format!("1 % more 5xx, spread {spread}"), &Day { errors: 0.01, ..day }, gates, days / 10);
        rates(&format!("5 % more 5xx, spread {spread}"), &Day { errors: 0.05, ..day }, gates, days / 10);
    }
}
