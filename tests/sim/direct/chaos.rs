//! Anything, in any order.

use super::*;

/// A world in which anything happens to requests, answers and the service.
struct Chaos {
    testbed: Testbed,
    rng: TestRng,
    /// Requests under way; whether their client was banned before they began.
    held: Vec<(tidegate_host_sim::StreamId, bool)>,
    begun: u64,
}

const GATES: usize = 2;

impl Chaos {
    fn new(seed: u64) -> Self {
        let mut testbed = Testbed::new(module, GATES, CONFIG, Feed::new());
        testbed.feed.ban("9.9.9.0/24");
        testbed.feed.order = Order::Random(seed | 1);
        testbed.run(2 * SECOND);
        Self { testbed, rng: TestRng::new(seed), held: Vec::new(), begun: 0 }
    }

    fn random_fault(&mut self) -> Option<LastingFault> {
        let slow = LastingFault::Slow(Duration::from_millis(self.rng.bits() % 1_500));
        match self.rng.below(4) {
            0 => Some(self.rng.pick(&BAD)),
            1 => Some(self.rng.pick(&[slow, LastingFault::Never])),
            _ => None,
        }
    }

    fn happen(&mut self) {
        match self.rng.below(24) {
            0 => {
                let flag = self.rng.pick(&Flag::ALL);
                let state = self.rng.pick(&[
                    FlagState::Off,
                    FlagState::Off,
                    FlagState::On,
                    FlagState::Shadow,
                    FlagState::Share(40),
                ]);
                if flag.has_shadow() || state != FlagState::Shadow {
                    self.testbed.feed.set_flag(flag, state);
                }
            }
            1 => {
                self.testbed.feed.check_faults = PerCheck::from_fn(|_| self.random_fault());
                self.testbed.feed.open_fault = self.random_fault();
            }
            2 => self.testbed.feed.die(&mut self.testbed.sim),
            3 => self.testbed.feed.up = true,
            4 => self.testbed.sim.refuse_calls(self.rng.percent(30)),
            5 => self.testbed.sim.limit_calls(if self.rng.percent(30) { 4 } else { usize::MAX }),
            6 => drop(self.testbed.feed.answer_all(&mut self.testbed.sim)),
            7..=11 => {
                let banned = self.rng.percent(40);
                let client = if banned { "9.9.9.9" } else { "1.1.1.1" };
                let gate = self.rng.below(GATES);
                self.held.push((self.testbed.begin(gate, Request::get("/x", client)), banned));
                self.begun += 1;
            }
            12..=14 => {
                let calls = self.testbed.sim.calls();
                if !calls.is_empty() {
                    let call = calls[self.rng.below(calls.len())].id;
                    answer_one(&mut self.testbed, call);
                }
            }
            15..=19 => self.end_one(),
            _ => self.testbed.run(Duration::from_millis(self.rng.bits() % 300)),
        }
        assert!(self.testbed.sim.stuck().is_empty());
    }

    /// One that is under way comes to some end, or a step nearer.
    fn end_one(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let at = self.rng.below(self.held.len());
        let (stream, banned) = self.held[at];
        let waits = self.testbed.sim.waits(stream).unwrap();
        assert!(!(banned && waits == Waits::Upstream), "a banned client passes");
        let how = self.rng.below(5);
        match (waits, how) {
            (Waits::Upstream, 0 | 1) => self.testbed.sim.upstream(stream, 200, &[]),
            (Waits::Request | Waits::Upstream, 2) => self.testbed.sim.answer_early(stream, 504, "timeout"),
            (_, 3) => {
                self.held.swap_remove(at);
                self.testbed.sim.leave(stream);
            }
            (Waits::Response, 4) => {
                self.held.swap_remove(at);
                self.testbed.sim.turn(stream, 502, "upstream_reset");
                self.testbed.sim.finish(stream);
            }
            (Waits::Nobody, _) => {
                self.held.swap_remove(at);
                self.testbed.sim.finish(stream);
            }
            _ => {}
        }
    }

    /// All is well again: whoever is still held gets on.
    fn end(&mut self) {
        let Self { testbed, .. } = self;
        (testbed.feed.up, testbed.feed.open_fault) = (true, None);
        testbed.feed.check_faults = PerCheck::default();
        testbed.sim.refuse_calls(false);
        testbed.sim.limit_calls(usize::MAX);
        for (stream, banned) in self.held.drain(..) {
            let overtaken = testbed.sim.waits(stream) == Some(Waits::Nobody);
            let status = testbed.finish(stream).status;
            assert!(!banned || status != 200, "a banned client passes");
            assert!(matches!(status, 200 | 403) || overtaken || status == 504, "{status}");
        }
        testbed.run(15 * SECOND);
    }
}

#[test]
fn whatever_happens_every_request_ends_once_and_no_banned_client_passes() {
    for seed in 0..60 {
        let mut chaos = Chaos::new(seed);
        let handles = chaos.testbed.sim.handles();
        for _ in 0..250 {
            chaos.happen();
        }
        chaos.end();
        let testbed = &chaos.testbed;
        testbed.check();
        assert_eq!(testbed.sim.handles(), handles, "seed {seed}: nothing is left in the VMs");
        assert_eq!(testbed.feed.events.len() as u64, chaos.begun, "seed {seed}: one event each");
        assert_eq!(testbed.feed.duplicates, 0);
        assert!(testbed.feed.open.is_empty(), "seed {seed}: all that was opened is completed");
        assert_eq!(testbed.metric("tidegate.host_errors"), 0, "seed {seed}");
        assert!(testbed.sim.errors().is_empty());
    }
}
