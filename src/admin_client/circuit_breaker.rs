//! Spares requests the wait for an admin service that hangs: each would otherwise wait its
//! whole time limit (by the defaults 3 s for its questions, and 1 s more for its response while
//! recording is synchronous), although there may be tables to answer from. (One that is gone
//! costs nothing: its calls fail at once.)

use std::cell::Cell;

/// The status that Envoy answers with when a call's time is over.
const TIMED_OUT: u16 = 504;
/// Calls in a row that must time out for the circuit to open.
const OPENS_AFTER: u32 = 3;
/// While it is open, one call in this time finds out whether the service answers again.
const PROBE_EVERY_NS: u64 = 1_000_000_000;

/// The breaker of one kind of call in one VM. A call that it does not let through has
/// failed at once.
#[derive(Debug, Default)]
pub struct CircuitBreaker {
    /// Calls that timed out since one was answered.
    timed_out: Cell<u32>,
    /// When the last of these ended or a probe was made, monotonic nanoseconds.
    probed_ns: Cell<u64>,
}

impl CircuitBreaker {
    /// Whether to make a call now.
    pub fn allows(&self, now_ns: u64) -> bool {
        let is_open = self.timed_out.get() >= OPENS_AFTER;
        if is_open && now_ns.saturating_sub(self.probed_ns.get()) < PROBE_EVERY_NS {
            return false;
        }
        if is_open {
            self.probed_ns.set(now_ns);
        }
        true
    }

    /// Notes what came of a call: its status, `None` when it failed without an answer.
    /// `had_full_time`: a call with less says nothing by timing out.
    pub fn note(&self, status: Option<u16>, had_full_time: bool, now_ns: u64) {
        match status {
            Some(TIMED_OUT) if had_full_time => {
                self.timed_out.set(self.timed_out.get().saturating_add(1));
                self.probed_ns.set(now_ns);
            }
            Some(TIMED_OUT) | None => {}
            Some(_) => self.timed_out.set(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_timeouts_in_a_row_open_it_and_one_answer_closes_it() {
        let breaker = CircuitBreaker::default();
        for (status, had_full_time) in
            [(Some(TIMED_OUT), true), (Some(TIMED_OUT), true), (Some(500), true), (Some(TIMED_OUT), true)]
                .into_iter()
                .chain([(Some(TIMED_OUT), false), (None, true), (Some(TIMED_OUT), true)])
        {
            assert!(breaker.allows(3));
            breaker.note(status, had_full_time, 3);
        }
        assert!(breaker.allows(3), "an answer in between begins the count anew");
        breaker.note(Some(TIMED_OUT), true, 3);
        let until = 3 + PROBE_EVERY_NS;
        assert!(!breaker.allows(until - 1));
        assert!(breaker.allows(until), "one finds out");
        assert!(!breaker.allows(until), "and no other");
        breaker.note(Some(200), true, until);
        assert!(breaker.allows(until));
    }
}
