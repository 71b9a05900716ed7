//! Spares requests the wait for an admin service that does not answer: each would otherwise wait
//! its whole time limit (by the defaults 3 s for its questions, and 1 s more for its response
//! while recording is synchronous), although there may be tables to answer from.

use std::cell::Cell;
use std::rc::Rc;

/// Calls in a row that must fail for the circuit to open.
const OPENS_AFTER: u32 = 3;
/// While it is open, one call in this time finds out whether the service answers again.
const PROBE_EVERY_NS: u64 = 1_000_000_000;

/// A failure for which a request has waited this long counts by itself. Others count once for all
/// calls that were under way: one connection that breaks fails them all, and says no more than that.
const LONG_NS: u64 = 100_000_000;

/// What the breakers of several kinds of calls have in common: they find out in turn, one call at
/// a time. Else a request would wait for each kind, one after the other.
#[derive(Debug, Default)]
pub struct Probes {
    /// When a call was last let through, or ended; 0: one may be at once. Monotonic nanoseconds.
    at_ns: Cell<u64>,
    /// Which breaker let it through.
    by: Cell<u8>,
    /// Breakers so far, at most eight.
    breakers: Cell<u8>,
    /// Those that are open, a bit for each.
    open: Cell<u8>,
}

impl Probes {
    /// Whether it is this breaker's turn: the next open one after the last.
    fn is_next(&self, number: u8) -> bool {
        let open = |number: &u8| self.open.get() >> number & 1 == 1;
        let after = (1..=8).map(|step| self.by.get().wrapping_add(step) & 7);
        after.into_iter().find(open) == Some(number)
    }
}

/// The breaker of one kind of call in one VM. A call that it does not let through has
/// failed at once.
#[derive(Debug)]
pub struct CircuitBreaker {
    /// Calls that failed since one was answered.
    failed: Cell<u32>,
    /// When the last of them did, monotonic nanoseconds.
    failed_ns: Cell<u64>,
    /// Which one it is.
    number: u8,
    probes: Rc<Probes>,
}

impl CircuitBreaker {
    /// A closed circuit.
    pub fn new(probes: &Rc<Probes>) -> Self {
        let number = probes.breakers.get() & 7;
        probes.breakers.set(number.wrapping_add(1));
        Self { failed: Cell::new(0), failed_ns: Cell::new(0), number, probes: probes.clone() }
    }

    fn is_open(&self) -> bool {
        self.failed.get() >= OPENS_AFTER
    }

    /// Whether to make a call now.
    pub fn allows(&self, now_ns: u64) -> bool {
        if !self.is_open() {
            return true;
        }
        let Probes { at_ns, by, .. } = &*self.probes;
        // Calls of the kind whose turn it is may not be made any more.
        let turns = if self.probes.is_next(self.number) { 1 } else { 2 };
        let is_due = now_ns.saturating_sub(at_ns.get()) >= PROBE_EVERY_NS.saturating_mul(turns);
        if is_due {
            at_ns.set(now_ns);
            by.set(self.number);
        }
        is_due
    }

    /// Notes what came of a call. `is_heard`: the admin service answered, with what was asked for
    /// or a refusal of its own. What Envoy says in its place (503 when no host can be reached, 504
    /// when the time is over), what something in between says, and what cannot be read as an
    /// answer is no sign of the service. `since_ns`: when it was made. `had_time`: a call with much less
    /// than its full time says nothing by failing.
    pub fn note(&self, is_heard: bool, since_ns: u64, had_time: bool, now_ns: u64) {
        let is_news = since_ns >= self.failed_ns.get() || now_ns.saturating_sub(since_ns) >= LONG_NS;
        let (was_open, bit) = (self.is_open(), 1 << self.number);
        let Probes { at_ns, open, .. } = &*self.probes;
        if is_heard {
            self.failed.set(0);
            if was_open {
                open.set(open.get() & !bit);
                // The others need not wait to find out.
                at_ns.set(0);
            }
        } else if had_time && is_news {
            self.failed_ns.set(now_ns);
            self.failed.set(self.failed.get().saturating_add(1));
            if self.is_open() {
                open.set(open.get() | bit);
                at_ns.set(now_ns);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_failures_in_a_row_open_it_and_one_answer_closes_it() {
        let breaker = CircuitBreaker::new(&Rc::default());
        for (is_heard, had_time) in
            [(false, true), (false, true), (true, true), (false, true), (false, false), (false, true)]
        {
            assert!(breaker.allows(3));
            breaker.note(is_heard, 3, had_time, 3);
        }
        assert!(breaker.allows(3), "an answer in between begins the count anew");
        breaker.note(false, 3, true, 3);
        let until = 3 + PROBE_EVERY_NS;
        assert!(!breaker.allows(until - 1));
        assert!(breaker.allows(until), "one finds out");
        assert!(!breaker.allows(until), "and no other");
        breaker.note(true, until, true, until);
        assert!(breaker.allows(until));
    }

    #[test]
    fn what_fails_at_once_counts_once_unless_it_was_waited_for() {
        let breaker = CircuitBreaker::new(&Rc::default());
        (0..10).for_each(|_| breaker.note(false, 5, true, 9));
        assert!(breaker.allows(9), "a connection broke");
        (0..2).for_each(|_| breaker.note(false, 5, true, 5 + LONG_NS));
        assert!(!breaker.allows(9 + LONG_NS));
    }

    #[test]
    fn of_several_one_finds_out_in_turn_and_tells_the_others() {
        let probes = Rc::default();
        let [one, other, healthy] = [(); 3].map(|()| CircuitBreaker::new(&probes));
        for breaker in [&one, &one, &one, &other, &other, &other] {
            breaker.note(false, 3, true, 3);
        }
        let mut now = 3;
        let mut next = || {
            now += PROBE_EVERY_NS;
            let allowed = [&one, &other, &healthy].map(|breaker| breaker.allows(now));
            [&one, &other].into_iter().zip(allowed).filter(|(_, allowed)| *allowed).for_each(
                |(breaker, _)| {
                    breaker.note(false, now, true, now);
                },
            );
            allowed
        };
        assert_eq!(
            [(); 4].map(|()| next()),
            [[false, true, true], [true, false, true], [false, true, true], [true, false, true]]
        );
        now += 2 * PROBE_EVERY_NS;
        assert!(one.allows(now), "if no call of the other kind is made");
        healthy.note(true, now, true, now);
        assert!(!other.allows(now), "one that never failed says nothing of the others");
        one.note(true, now, true, now);
        assert!(other.allows(now));
        assert!(!other.allows(now));
        other.note(false, now, true, now);
        assert!(other.allows(now + PROBE_EVERY_NS), "alone it is always its turn");
    }
}
