//! Anything, in any order.

use super::*;

/// A world in which anything happens to requests, answers and the service.
struct Chaos {
    stage: Stage,
    rng: TestRng,
    /// Requests under way; whether their client was banned before they began.
    held: Vec<(tidegate_host_sim::StreamId, bool)>,
    begun: u64,
}

const GATES: usize = 2;

impl Chaos {
    fn new(seed: u64) -> Self {
        let mut stage = Stage::new(module, GATES, CONFIG, Feed::new());
        stage.feed.ban("9.9.9.0/24");
        stage.feed.order = Order::Random(seed | 1);
        stage.run(2 * SECOND);
        Self { stage, rng: TestRng::new(seed), held: Vec::new(), begun: 0 }
    }

    fn trouble(&mut self) -> Option<Trouble> {
        let slow = Trouble::Slow(Duration::from_millis(self.rng.bits() % 1_500));
        match self.rng.below(4) {
            0 => Some(self.rng.pick(&BAD)),
            1 => Some(self.rng.pick(&[slow, Trouble::Never])),
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
                    self.stage.feed.set_flag(flag, state);
                }
            }
            1 => {
                self.stage.feed.trouble = PerCheck::from_fn(|_| self.trouble());
                self.stage.feed.open_trouble = self.trouble();
            }
            2 => self.stage.feed.die(&mut self.stage.sim),
            3 => self.stage.feed.up = true,
            4 => self.stage.sim.refuse_calls(self.rng.percent(30)),
            5 => self.stage.sim.limit_calls(if self.rng.percent(30) { 4 } else { usize::MAX }),
            6 => drop(self.stage.feed.answer_all(&mut self.stage.sim)),
            7..=11 => {
                let banned = self.rng.percent(40);
                let client = if banned { "9.9.9.9" } else { "1.1.1.1" };
                let gate = self.rng.below(GATES);
                self.held.push((self.stage.begin(gate, Request::get("/x", client)), banned));
                self.begun += 1;
            }
            12..=14 => {
                let calls = self.stage.sim.calls();
                if !calls.is_empty() {
                    let call = calls[self.rng.below(calls.len())].id;
                    answer_one(&mut self.stage, call);
                }
            }
            15..=19 => self.end_one(),
            _ => self.stage.run(Duration::from_millis(self.rng.bits() % 300)),
        }
        assert!(self.stage.sim.stuck().is_empty());
    }

    /// One that is under way comes to some end, or a step nearer.
    fn end_one(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let at = self.rng.below(self.held.len());
        let (stream, banned) = self.held[at];
        let waits = self.stage.sim.waits(stream).unwrap();
        assert!(!(banned && waits == Waits::Upstream), "a banned client passes");
        let how = self.rng.below(5);
        match (waits, how) {
            (Waits::Upstream, 0 | 1) => self.stage.sim.upstream(stream, 200, &[]),
            (Waits::Request | Waits::Upstream, 2) => self.stage.sim.answer_early(stream, 504, "timeout"),
            (_, 3) => {
                self.held.swap_remove(at);
                self.stage.sim.leave(stream);
            }
            (Waits::Response, 4) => {
                self.held.swap_remove(at);
                self.stage.sim.turn(stream, 502, "upstream_reset");
                self.stage.sim.finish(stream);
            }
            (Waits::Nobody, _) => {
                self.held.swap_remove(at);
                self.stage.sim.finish(stream);
            }
            _ => {}
        }
    }

    /// All is well again: whoever is still held gets on.
    fn end(&mut self) {
        let Self { stage, .. } = self;
        (stage.feed.up, stage.feed.open_trouble) = (true, None);
        stage.feed.trouble = PerCheck::default();
        stage.sim.refuse_calls(false);
        stage.sim.limit_calls(usize::MAX);
        for (stream, banned) in self.held.drain(..) {
            let overtaken = stage.sim.waits(stream) == Some(Waits::Nobody);
            let status = stage.finish(stream).status;
            assert!(!banned || status != 200, "a banned client passes");
            assert!(matches!(status, 200 | 403) || overtaken || status == 504, "{status}");
        }
        stage.run(15 * SECOND);
    }
}

#[test]
fn whatever_happens_every_request_ends_once_and_no_banned_client_passes() {
    for seed in 0..60 {
        let mut chaos = Chaos::new(seed);
        let handles = chaos.stage.sim.handles();
        for _ in 0..250 {
            chaos.happen();
        }
        chaos.end();
        let stage = &chaos.stage;
        stage.check();
        assert_eq!(stage.sim.handles(), handles, "seed {seed}: nothing is left in the VMs");
        assert_eq!(stage.feed.events.len() as u64, chaos.begun, "seed {seed}: one event each");
        assert_eq!(stage.feed.duplicates, 0);
        assert!(stage.feed.open.is_empty(), "seed {seed}: all that was opened is completed");
        assert_eq!(stage.metric("tidegate.host_errors"), 0, "seed {seed}");
        assert!(stage.sim.errors().is_empty());
    }
}
