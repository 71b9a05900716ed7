//! Whether it is worth asking: a service that hangs would otherwise cost every
//! request its whole time limit, call by call, although there may be tables to
//! answer from.

use std::cell::Cell;

/// Calls of one kind in a row that must run out of time before others are spared.
const RAN_OUT: u32 = 3;
/// Between two calls that find out whether that is over.
const PROBE_NS: u64 = 1_000_000_000;

/// What one VM knows of one kind of call.
#[derive(Debug, Default)]
pub struct CircuitBreaker {
    /// Calls that ran out of time since one was answered.
    ran_out: Cell<u32>,
    /// When the last one was made meanwhile, monotonic nanoseconds.
    probed_ns: Cell<u64>,
}

impl CircuitBreaker {
    /// Whether to make a call now. While none is answered that is one a second;
    /// the others have failed at once.
    pub fn may_ask(&self, now_ns: u64) -> bool {
        let hangs = self.ran_out.get() >= RAN_OUT;
        if hangs && now_ns.saturating_sub(self.probed_ns.get()) < PROBE_NS {
            return false;
        }
        if hangs {
            self.probed_ns.set(now_ns);
        }
        true
    }

    /// A call had its whole time and was not answered.
    pub fn note_ran_out(&self, now_ns: u64) {
        self.ran_out.set(self.ran_out.get().saturating_add(1));
        self.probed_ns.set(now_ns);
    }

    /// A call was answered, whatever the answer.
    pub fn note_answered(&self) {
        self.ran_out.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_in_a_row_spare_the_others_and_one_answer_ends_it() {
        let patience = CircuitBreaker::default();
        for at in 1..=3 {
            assert!(patience.may_ask(at));
            patience.note_ran_out(at);
        }
        let last = 3;
        assert!(!patience.may_ask(last + PROBE_NS - 1));
        assert!(patience.may_ask(last + PROBE_NS), "one finds out");
        assert!(!patience.may_ask(last + PROBE_NS), "and no other");
        patience.note_answered();
        assert!(patience.may_ask(last + PROBE_NS));
    }

    #[test]
    fn an_answer_in_between_begins_the_count_anew() {
        let patience = CircuitBreaker::default();
        for _ in 0..2 {
            patience.note_ran_out(0);
            patience.note_ran_out(0);
            patience.note_answered();
        }
        patience.note_ran_out(0);
        assert!(patience.may_ask(1));
    }
}
