//! Whatever happens to workers, roots, callouts and the admin service, in any
//! order: no request is decided by older tables than were acked, and when it is
//! over everybody enforces the newest.

use std::time::Duration;

use proptest::prelude::*;
use tidegate::root_context::module;
use tidegate_host_sim::{Fault, Feed, Request, Root, Sim, Worker};

const CONFIG: &str = r#"{"admin": {"cluster": "admin", "token": "secret"}}"#;
/// Another plugin configuration of the same VM, so that it is another root.
const OTHER: &str = r#"{"admin": {"cluster": "admin", "token": "secret"}, "on_no_route": "pass"}"#;
const GATES: usize = 3;

/// Something that happens.
#[derive(Clone, Copy, Debug)]
enum Event {
    Pass(u64),
    Ban,
    Unban,
    Cut,
    Refresh,
    Request(usize),
    Stall(usize),
    Resume(usize),
    Trap(usize, u64),
    TrapRecorder(u64),
    SwapRoot(usize),
    Fail,
    Lose,
    Fault(Fault),
    Down,
    Up,
    Restart,
}

fn event() -> impl Strategy<Value = Event> {
    let gate = 0..GATES;
    let fault = prop_oneof![
        Just(Fault::Truncated),
        Just(Fault::WholeTable),
        Just(Fault::NoTable),
        Just(Fault::Digest),
        Just(Fault::Page),
        Just(Fault::Gone),
        Just(Fault::Fold),
    ];
    prop_oneof![
        6 => (0..6_000u64).prop_map(Event::Pass),
        6 => (0..40u64).prop_map(Event::Pass),
        8 => Just(Event::Ban),
        2 => Just(Event::Unban),
        2 => Just(Event::Cut),
        1 => Just(Event::Refresh),
        6 => gate.clone().prop_map(Event::Request),
        2 => gate.clone().prop_map(Event::Stall),
        3 => gate.clone().prop_map(Event::Resume),
        2 => (gate.clone(), 0..200u64).prop_map(|(gate, calls)| Event::Trap(gate, calls)),
        1 => (0..200u64).prop_map(Event::TrapRecorder),
        1 => gate.prop_map(Event::SwapRoot),
        2 => Just(Event::Fail),
        1 => Just(Event::Lose),
        2 => fault.prop_map(Event::Fault),
        1 => Just(Event::Down),
        2 => Just(Event::Up),
        1 => Just(Event::Restart),
    ]
}

struct Chaos {
    sim: Sim,
    feed: Feed,
    recorder: Option<Worker>,
    gates: Vec<(Worker, Root)>,
    stalled: [bool; GATES],
    /// What is banned, in the order of the bans, with the version of each.
    banned: Vec<(String, u64)>,
    next: u32,
    epoch: u64,
}

impl Chaos {
    fn new(recorder: bool) -> Self {
        let mut sim = Sim::new(module);
        let mut start = |root_id: &str| {
            let worker = sim.worker();
            (worker, sim.root(worker, root_id, CONFIG).0)
        };
        let recorder = recorder.then(|| start("tidegate_recorder").0);
        let gates = (0..GATES).map(|_| start("tidegate")).collect();
        let mut feed = Feed::new();
        feed.ack_wanted = true;
        let epoch = feed.version().epoch;
        let mut chaos =
            Self { sim, feed, recorder, gates, stalled: [false; GATES], banned: Vec::new(), next: 0, epoch };
        chaos.pass(1_000);
        chaos
    }

    fn pass(&mut self, ms: u64) {
        self.feed.run(&mut self.sim, Duration::from_millis(ms));
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Pass(ms) => self.pass(ms),
            Event::Ban => {
                let client = format!("172.16.{}.{}", self.next / 250, self.next % 250);
                self.next += 1;
                self.feed.ban(&client);
                self.banned.push((client, self.feed.version().seq));
            }
            Event::Unban => {
                if let Some((client, _)) = self.banned.pop() {
                    self.feed.unban(&client);
                }
            }
            Event::Cut => self.feed.cut_base(),
            Event::Refresh => self.feed.order_refresh(),
            Event::Request(gate) => drop(self.status(gate, "1.1.1.1")),
            Event::Stall(gate) => {
                self.stalled[gate] = true;
                self.sim.stall(self.gates[gate].0);
            }
            Event::Resume(gate) => {
                self.stalled[gate] = false;
                self.sim.resume(self.gates[gate].0);
            }
            Event::Trap(gate, calls) => self.sim.trap_after(self.gates[gate].0, calls),
            Event::TrapRecorder(calls) => {
                if let Some(recorder) = self.recorder {
                    self.sim.trap_after(recorder, calls);
                }
            }
            Event::SwapRoot(gate) => {
                let (worker, old) = self.gates[gate];
                if !self.sim.is_trapped(worker) {
                    let config = if self.next.is_multiple_of(2) { OTHER } else { CONFIG };
                    self.gates[gate] = (worker, self.sim.root(worker, "tidegate", config).0);
                    self.sim.drop_root(worker, old);
                }
            }
            Event::Fail => {
                if let Some(call) = self.sim.calls().first() {
                    self.sim.fail(call.id);
                }
            }
            Event::Lose => {
                if let Some(call) = self.sim.calls().last() {
                    self.sim.lose(call.id);
                }
            }
            Event::Fault(fault) if self.feed.faults.len() < 3 => self.feed.faults.push_back(fault),
            Event::Fault(_) => {}
            Event::Down => self.feed.up = false,
            Event::Up => self.feed.up = true,
            Event::Restart => {
                self.feed.restart();
                self.epoch = self.feed.version().epoch;
                for (_, seq) in &mut self.banned {
                    *seq = 1;
                }
            }
        }
    }

    fn status(&mut self, gate: usize, client: &str) -> u16 {
        let (worker, root) = self.gates[gate];
        self.sim.request(worker, root, Request::get("/", client)).status
    }

    /// Every VM that takes a request now, stalled or not, enforces what was acked.
    fn check_acks(&mut self) -> Result<(), TestCaseError> {
        let acks = self.feed.acks.iter().chain(&self.feed.polled_acks);
        let acked = acks.filter(|ack| ack.version.epoch == self.epoch).map(|ack| ack.version.seq).max();
        let Some(acked) = acked else { return Ok(()) };
        let last = self.banned.iter().rev().find(|(_, seq)| *seq <= acked);
        let Some((client, _)) = last.cloned() else { return Ok(()) };
        for gate in 0..GATES {
            let status = self.status(gate, &client);
            prop_assert!(status != 200, "gate {} lets {} pass, acked at {}", gate, client, acked);
        }
        Ok(())
    }

    /// All is well again: everybody comes to enforce the newest.
    fn check_end(&mut self) -> Result<(), TestCaseError> {
        self.feed.up = true;
        self.feed.faults.clear();
        for gate in 0..GATES {
            self.happen(Event::Resume(gate));
            self.sim.spare(self.gates[gate].0);
        }
        // A lost poll is missed after 40 s.
        self.pass(45_000);
        for gate in 0..GATES {
            self.status(gate, "1.1.1.1");
        }
        self.happen(Event::Ban);
        self.pass(12_000);
        for gate in 0..GATES {
            prop_assert_eq!(self.status(gate, "1.1.1.1"), 200);
            for (client, _) in self.banned.clone() {
                prop_assert_eq!(self.status(gate, &client), 403);
            }
        }
        self.pass(15_000);
        let ack = *self.feed.acks.last().expect("acked");
        prop_assert_eq!((ack.version, ack.live, ack.stale), (self.feed.version(), 3, 0));
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 400, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_acked_that_is_not_enforced_and_all_ends_well(
        recorder: bool,
        events in proptest::collection::vec(event(), 1..60),
    ) {
        let mut chaos = Chaos::new(recorder);
        for event in events {
            chaos.happen(event);
            chaos.check_acks()?;
        }
        chaos.check_end()?;
    }
}
