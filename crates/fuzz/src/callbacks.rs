//! The filter's contexts, in any order of what Envoy, clients, the admin service and neighbours in
//! shared data can do.

use std::time::Duration;

use tidegate::root_context::module;
use tidegate_host_sim::{CallId, Fault, Feed, Sim, StreamId, TestRng, Testbed, random};
use tidegate_policy::flags::{Flag, FlagState};

const WORKERS: usize = 2;
/// Some that ask the admin service about every request, and record while the response waits.
const CONFIGS: [&str; 3] = [
    r#"{"admin": {"cluster": "admin", "token": "secret"}}"#,
    r#"{"admin": {"cluster": "admin", "token": "secret"}, "on_unavailable": {"ip": "allow"}}"#,
    r#"{"admin": {"cluster": "admin", "token": "secret"}, "geo": {"country_header": "x-country"}}"#,
];

/// What happens, read from the input: each byte is what or how much.
struct Script<'b> {
    bytes: &'b [u8],
}

impl Script<'_> {
    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.bytes.split_first()?;
        self.bytes = rest;
        Some(*first)
    }

    /// The next number below `end`; 0 after the end.
    fn below(&mut self, end: usize) -> usize {
        usize::from(self.next().unwrap_or(0)) % end.max(1)
    }

    fn take(&mut self, most: usize) -> &[u8] {
        let (taken, rest) = self.bytes.split_at(most.min(self.bytes.len()));
        self.bytes = rest;
        taken
    }
}

struct Run<'b> {
    script: Script<'b>,
    testbed: Testbed,
    streams: Vec<StreamId>,
    rng: TestRng,
}

/// Lets happen what `bytes` say. No callback panics, nothing is done that Envoy does not tolerate,
/// and every request ends.
pub fn run(bytes: &[u8]) -> bool {
    let mut script = Script { bytes };
    let config = CONFIGS[script.below(CONFIGS.len())];
    let mut feed = Feed::new();
    let mut rng = TestRng::new(script.below(256) as u64 + 1);
    random::fill(&mut feed, &mut rng, 1_800_000_000, 1_000);
    let flags = script.below(32);
    for (bit, flag) in Flag::ALL.into_iter().enumerate() {
        feed.set_flag(flag, if flags >> bit & 1 == 1 { FlagState::On } else { FlagState::Off });
    }
    let testbed = Testbed::new(module, WORKERS, config, feed);
    let mut run = Run { script, testbed, streams: Vec::new(), rng };
    while let Some(what) = run.script.next() {
        run.happen(what);
        run.testbed.check();
    }
    run.end();
    true
}

impl Run<'_> {
    fn happen(&mut self, what: u8) {
        match what % 16 {
            0..=2 => self.begin(),
            3 => self.finish(),
            4 => {
                let ms = self.script.below(256) as u64;
                self.testbed.sim.advance(Duration::from_millis(ms * ms / 8));
            }
            5 | 6 => {
                self.testbed.feed.answer_all(&mut self.testbed.sim);
                self.testbed.sim.settle();
            }
            7 => self.answer(),
            8 => self.on_call(|sim, call| {
                sim.fail(call);
            }),
            9 => self.on_call(Sim::lose),
            10 => self.overwrite(),
            11 => {
                let (gate, calls) = (self.script.below(WORKERS), self.script.below(256) as u64);
                self.testbed.sim.trap_after(self.testbed.gates[gate].0, calls);
            }
            12 => {
                let client = format!("192.0.2.{}", self.script.below(256));
                self.testbed.feed.ban(&client);
            }
            13 => self.fault(),
            14 => {
                let refuse = self.script.below(2) == 1;
                self.testbed.sim.refuse_calls(refuse);
            }
            _ => self.testbed.feed.up = self.script.below(3) > 0,
        }
    }

    fn begin(&mut self) {
        let gate = self.script.below(WORKERS);
        let mut request = random::request(&mut self.rng, Some("x-country"));
        if self.script.below(4) == 0 {
            let name = self.script.take(6).to_ascii_lowercase();
            let value = self.script.take(6).to_vec();
            request = request.header(&name, &value);
        }
        if !self.testbed.sim.is_trapped(self.testbed.gates[gate].0) {
            self.streams.push(self.testbed.begin(gate, request));
        }
    }

    fn finish(&mut self) {
        if self.streams.is_empty() {
            return;
        }
        let at = self.script.below(self.streams.len());
        let stream = self.streams.swap_remove(at);
        match self.script.below(2) {
            0 => self.testbed.sim.finish(stream),
            _ => self.testbed.sim.leave(stream),
        };
    }

    /// A call gets any status and body.
    fn answer(&mut self) {
        const STATUS: [u16; 8] = [200, 200, 200, 204, 304, 404, 503, 999];
        let status = STATUS[self.script.below(STATUS.len())];
        let most = self.script.below(64);
        let body = self.script.take(most).to_vec();
        self.on_call(|sim, call| {
            sim.answer(call, status, &body);
        });
    }

    fn on_call(&mut self, act: impl FnOnce(&mut Sim, CallId)) {
        let calls = self.testbed.sim.calls();
        let at = self.script.below(calls.len());
        if let Some(call) = calls.get(at) {
            act(&mut self.testbed.sim, call.id);
        }
        self.testbed.sim.settle();
    }

    /// Another plugin writes to a key of the filter.
    fn overwrite(&mut self) {
        let keys = self.testbed.sim.keys();
        let at = self.script.below(keys.len());
        let Some(key) = keys.get(at) else { return };
        let from = self.script.below(64);
        let bytes = self.script.take(4).to_vec();
        self.testbed.sim.overwrite(key, |value| {
            let from = from.min(value.len());
            let to = (from + bytes.len()).min(value.len());
            drop(value.splice(from..to, bytes));
        });
    }

    fn fault(&mut self) {
        const FAULTS: [Fault; 7] = [
            Fault::Truncated,
            Fault::WholeTable,
            Fault::NoTable,
            Fault::Digest,
            Fault::Page,
            Fault::Gone,
            Fault::Fold,
        ];
        if self.testbed.feed.faults.len() < 3 {
            let at = self.script.below(FAULTS.len());
            self.testbed.feed.faults.push_back(FAULTS[at]);
        }
    }

    /// Every request ends.
    fn end(&mut self) {
        self.testbed.feed.up = true;
        self.testbed.sim.refuse_calls(false);
        self.testbed.run(Duration::from_secs(10));
        for stream in std::mem::take(&mut self.streams) {
            self.testbed.sim.finish(stream);
        }
        self.testbed.check();
    }
}

/// Orders in which much happens.
pub fn samples() -> Vec<Vec<u8>> {
    let ordinary = [0, 1, 31, 0, 0, 1, 5, 3, 0, 4, 60, 12, 7, 5, 0, 1, 3, 0, 4, 200, 5];
    let direct = [0, 2, 0, 0, 0, 1, 0, 1, 2, 5, 6, 8, 0, 0, 0, 1, 9, 0, 7, 0, 20, 1, 2, 3, 4, 5, 3, 0, 1];
    let broken = [1, 3, 21, 10, 0, 4, 1, 2, 3, 4, 11, 0, 9, 0, 0, 1, 4, 250, 13, 2, 15, 0, 4, 99, 15, 1, 5];
    [&ordinary[..], &direct, &broken].map(<[u8]>::to_vec).into()
}
