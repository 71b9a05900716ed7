//! Answers callouts, in a given or random order.

use std::time::Duration;

use tidegate_policy::check::Check;
use tidegate_policy::wire::check;
use tidegate_policy::wire::sync::{ACK_HEADER, Ack, TIME_HEADER};

use super::{Feed, LastingFault, Order, Reply};
use crate::process::{Root, Sim, Worker};
use crate::stream::{Request, Response, StreamId, Waits};
use crate::world::{CallId, CallView};

/// Longer than a request can be held: no time limit is as long.
const HELD_AT_MOST: Duration = Duration::from_secs(60);

impl Feed {
    fn hand_over(&self, sim: &mut Sim, call: CallId, reply: &Reply) {
        match reply {
            Reply::Answer(status, body) => {
                let headers = [(TIME_HEADER.to_owned(), self.clock_ms(sim).to_string())];
                sim.answer_with(call, *status, &headers, body)
            }
            Reply::InPlace(status) => sim.answer(call, *status, b"<html>"),
            Reply::Reset => sim.fail(call),
        };
    }

    /// Answers all callouts that have an answer now; a poll without news stays
    /// open.
    pub fn serve(&mut self, sim: &mut Sim) {
        loop {
            sim.settle();
            if !self.answer_all(sim) {
                return;
            }
        }
    }

    /// Answers the callouts that have an answer now, and delivers nothing; false
    /// when there was none.
    pub fn answer_all(&mut self, sim: &mut Sim) -> bool {
        let mut calls = sim.calls();
        self.arrange(&mut calls);
        let mut answers = Vec::new();
        for call in calls {
            answers.extend(self.answer(&call, sim).map(|reply| (call.id, reply)));
        }
        for (id, reply) in &answers {
            self.hand_over(sim, *id, reply);
        }
        !answers.is_empty()
    }

    /// Answers one callout, if it has an answer now; delivers nothing.
    pub fn answer_one(&mut self, sim: &mut Sim, id: CallId) {
        let call = sim.calls().into_iter().find(|call| call.id == id);
        if let Some(reply) = call.and_then(|call| self.answer(&call, sim)) {
            self.hand_over(sim, id, &reply);
        }
    }

    fn arrange(&mut self, calls: &mut [CallView]) {
        match &mut self.order {
            Order::Asked => {}
            Order::Reversed => calls.reverse(),
            Order::Random(seed) => calls.sort_by_cached_key(|_| {
                // xorshift64
                *seed ^= *seed << 13;
                *seed ^= *seed >> 7;
                *seed ^= *seed << 17;
                *seed
            }),
        }
    }

    /// Stops the service: open callouts fail, and it does not answer until it is up again.
    pub fn die(&mut self, sim: &mut Sim) {
        self.up = false;
        for call in sim.calls() {
            sim.fail(call.id);
        }
    }

    /// Runs a request from its headers to its log, with its questions answered; its
    /// upstream answers 200.
    ///
    /// # Panics
    /// See [`carry`](Self::carry).
    pub fn request(&mut self, sim: &mut Sim, worker: Worker, root: Root, request: Request) -> Response {
        let stream = sim.begin(worker, root, request);
        self.carry(sim, stream);
        sim.finish(stream)
    }

    /// Serves a request until its response has been sent and only its log is left.
    ///
    /// # Panics
    /// When it is held forever, or without a callout that could resume it.
    pub fn carry(&mut self, sim: &mut Sim, stream: StreamId) {
        self.carry_until(sim, stream, Waits::Nobody);
    }

    /// Serves a request until it waits for this.
    ///
    /// # Panics
    /// As [`carry`](Self::carry), and when it is answered before.
    pub fn carry_until(&mut self, sim: &mut Sim, stream: StreamId, until: Waits) {
        let give_up = sim.now_ns() + HELD_AT_MOST.as_nanos() as u64;
        loop {
            self.serve(sim);
            assert!(sim.stuck().is_empty(), "held, and nothing will wake it");
            match sim.waits(stream).expect("not over") {
                waits if waits == until => return,
                Waits::Upstream => sim.upstream(stream, 200, &[("content-type", "application/json")]),
                Waits::Request | Waits::Response => self.step_time(sim),
                Waits::Nobody => panic!("answered"),
            }
            assert!(sim.now_ns() < give_up, "held for a minute");
        }
    }

    /// Moves the clock to what is due next, in the service or the process.
    fn step_time(&mut self, sim: &mut Sim) {
        let by = self.due(sim).expect("something is due").saturating_sub(sim.now_ns());
        sim.advance(Duration::from_nanos(by));
    }

    /// Lets time pass, and answers callouts.
    pub fn run(&mut self, sim: &mut Sim, time: Duration) {
        let until = sim.now_ns() + time.as_nanos() as u64;
        self.serve(sim);
        while sim.now_ns() < until {
            // Between two due times nothing happens, so there are no new callouts.
            let due = self.due(sim).unwrap_or(until).clamp(sim.now_ns(), until);
            sim.advance(Duration::from_nanos(due - sim.now_ns()));
            self.serve(sim);
        }
    }

    /// When something is due next, in the service or the process, monotonic nanoseconds.
    fn due(&self, sim: &Sim) -> Option<u64> {
        // A due answer whose callout has ended is never removed.
        self.later.values().copied().chain(sim.next_due()).filter(|due| *due > sim.now_ns()).min()
    }

    /// The answer to one callout; `None`: it waits.
    fn answer(&mut self, call: &CallView, sim: &Sim) -> Option<Reply> {
        if self.deaf_to.contains(&call.id) {
            return None;
        }
        if !self.up {
            return Some(Reply::InPlace(503));
        }
        let (path, query) = call.path.split_once('?').unwrap_or((&call.path, ""));
        if let Some(check) = Check::ALL.into_iter().find(|check| check::path(*check) == path) {
            return self.check(check, call, sim);
        }
        let (kind, reply) = match path {
            "/api/data-plane/v1/sync" => ("poll", self.poll(call, query, sim)?),
            "/api/data-plane/v1/sync/ack" => {
                self.acks.extend(call.header(ACK_HEADER).and_then(|ack| ack.parse::<Ack>().ok()));
                ("ack", Reply::Answer(204, Vec::new()))
            }
            "/api/data-plane/v1/events" if query == "sync=1" => ("open", self.take_open(call, sim)?),
            "/api/data-plane/v1/events" if !self.takes_events => ("event", Reply::Answer(503, Vec::new())),
            "/api/data-plane/v1/events" => ("event", self.take_events(&call.body)),
            path => ("page", self.page(path, query)),
        };
        *self.served.entry(kind).or_default() += 1;
        Some(reply)
    }

    /// Whether a slow answer is not due yet.
    pub(super) fn waits(&mut self, fault: Option<LastingFault>, call: &CallView, sim: &Sim) -> bool {
        match fault {
            Some(LastingFault::Never) => true,
            Some(LastingFault::Slow(time)) => {
                let due = *self.later.entry(call.id).or_insert(sim.now_ns() + time.as_nanos() as u64);
                let waits = sim.now_ns() < due;
                if !waits {
                    self.later.remove(&call.id);
                }
                waits
            }
            _ => false,
        }
    }
}
