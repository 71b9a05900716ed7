//! Reserved numbers whose events come out of order.

use std::collections::BTreeSet;

use super::*;

fn event(number: u64) -> TrafficEvent {
    TrafficEvent { number, time_ms: number, path: Some(vec![b'a'; 100]), ..TrafficEvent::default() }
}

fn complete(record: &mut EventBuffer<SimHost>, number: u64) {
    record.push(&mut event(number));
}

/// First and last numbers of the batches in the queue.
fn runs(host: &SimHost) -> Vec<(u64, u64)> {
    batches(host).iter().map(|batch| (batch.first, batch.first + batch.events.len() as u64 - 1)).collect()
}

fn drained() -> (SimHost, EventBuffer<SimHost>) {
    let (host, record) = record(EventLimits::default());
    host.queue_register(QUEUE).unwrap();
    (host, record)
}

#[test]
fn a_number_that_is_open_stops_none_of_the_others() {
    let (host, mut record) = drained();
    push(&mut record, 2);
    let open = record.reserve();
    push(&mut record, 3);
    record.flush(true);
    assert_eq!(runs(&host), [(1, 2), (4, 6)]);
    assert!(batches(&host).iter().all(|batch| batch.numbered_hi == 6), "the open one is numbered");
    assert!(!record.is_waiting());
    complete(&mut record, open);
    push(&mut record, 1);
    record.flush(true);
    assert_eq!(runs(&host)[2..], [(3, 3), (7, 7)]);
}

#[test]
fn what_completes_in_any_order_is_one_run_when_no_number_is_open() {
    let (host, mut record) = drained();
    for _ in 0..9 {
        record.reserve();
    }
    for number in [9, 2, 1, 7, 8, 3, 5, 6, 4] {
        complete(&mut record, number);
    }
    push(&mut record, 1);
    record.flush(true);
    assert_eq!(runs(&host), [(1, 10)]);
    let times: Vec<u64> = batches(&host)[0].events.iter().map(|event| event.time_ms).collect();
    assert_eq!(times, [1, 2, 3, 4, 5, 6, 7, 8, 9, 0], "each event under its own number");
}

#[test]
fn many_holes_are_handed_over_piece_by_piece_and_grow_together_meanwhile() {
    let (host, mut record) = drained();
    let open: Vec<u64> = (0..1_000)
        .map(|_| {
            push(&mut record, 1);
            record.reserve()
        })
        .collect();
    record.flush(true);
    assert_eq!(runs(&host).len(), FLUSH_MESSAGES);
    for number in open {
        complete(&mut record, number);
    }
    record.flush(true);
    // Those whose neighbours are gone, and one run for each 512 of the rest.
    assert_eq!(runs(&host).len(), 2 * FLUSH_MESSAGES);
    record.flush(true);
    assert!(!record.is_waiting());
    let events: usize = batches(&host).iter().map(|batch| batch.events.len()).sum();
    assert_eq!(events, 2_000);
    assert!(runs(&host).len() <= 2 * FLUSH_MESSAGES + 4);
}

#[test]
fn a_run_that_grew_together_keeps_to_the_limits_of_a_batch() {
    let (host, mut record) = record(EventLimits { batch_events: 10, ..EventLimits::default() });
    host.queue_register(QUEUE).unwrap();
    for _ in 0..95 {
        record.reserve();
    }
    for number in (1..=95).rev() {
        complete(&mut record, number);
    }
    record.flush(true);
    assert_eq!(batches(&host).iter().map(|batch| batch.events.len()).max(), Some(10));
    assert_eq!(batches(&host).len(), 10);
}

#[test]
fn an_open_number_is_never_among_those_given_up() {
    let (host, mut record) = record(small());
    host.queue_register(QUEUE).unwrap();
    let first = record.reserve();
    push(&mut record, 30);
    let second = record.reserve();
    push(&mut record, 200);
    record.flush(true);
    let dropped: Vec<DroppedRange> = batches(&host).into_iter().flat_map(|batch| batch.dropped).collect();
    assert!(dropped.len() >= 2, "{dropped:?}");
    for range in &dropped {
        assert!([first, second].iter().all(|open| !(range.first..=range.last).contains(open)), "{range:?}");
    }
    complete(&mut record, second);
    complete(&mut record, first);
    record.flush(true);
    assert_eq!(runs(&host).split_off(runs(&host).len() - 2), [(first, first), (second, second)]);
}

#[test]
fn a_number_is_taken_once() {
    let (host, mut record) = drained();
    let open = record.reserve();
    complete(&mut record, open);
    // Again, and one that was never given: events like any other.
    complete(&mut record, open);
    complete(&mut record, 77);
    record.flush(true);
    assert_eq!(runs(&host), [(1, 3)]);
    assert_eq!(record.numbered(), 3);
}

#[test]
fn a_number_that_is_open_at_the_end_is_not_called_given_up() {
    let (host, mut record) = drained();
    let open = record.reserve();
    push(&mut record, 1);
    record.reserve();
    record.close();
    let batch = batches(&host).pop().unwrap();
    assert_eq!((batch.first, batch.numbered_hi, batch.closing), (2, 3, true), "all are counted");
    assert_eq!(batch.dropped, []);
    assert!(record.push(&mut event(open)), "must be flushed now");
    record.flush(false);
    let last = batches(&host).pop().unwrap();
    assert_eq!((last.first, last.events.len(), last.closing), (open, 1, true));
}

#[derive(Clone, Debug)]
enum Act {
    Push(u8),
    Reserve(u8),
    /// The open number at this place among them.
    Complete(usize),
    Flush {
        drained: bool,
        full: bool,
    },
    /// The queue is gone, and there is a new one.
    Lose,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (1u8..30).prop_map(Act::Push),
        4 => (1u8..20).prop_map(Act::Reserve),
        12 => any::<usize>().prop_map(Act::Complete),
        3 => (any::<bool>(), any::<bool>()).prop_map(|(drained, full)| Act::Flush { drained, full }),
        1 => Just(Act::Lose),
    ]
}

/// What a VM did, beside what reached the queue.
struct Trace {
    host: SimHost,
    record: EventBuffer<SimHost>,
    open: Vec<u64>,
    /// Batches of queues that are gone.
    seen: Vec<Batch>,
}

impl Trace {
    fn new(limits: EventLimits) -> Self {
        let (host, record) = record(limits);
        host.queue_register(QUEUE).unwrap();
        Self { host, record, open: Vec::new(), seen: Vec::new() }
    }

    fn act(&mut self, act: &Act) {
        match *act {
            Act::Push(count) => push(&mut self.record, u64::from(count)),
            Act::Reserve(count) => {
                for _ in 0..count {
                    self.open.push(self.record.reserve());
                }
            }
            Act::Complete(at) => {
                if let Some(at) = at.checked_rem(self.open.len()) {
                    let number = self.open.swap_remove(at);
                    complete(&mut self.record, number);
                }
            }
            Act::Flush { drained, full } => {
                self.host.set_metric_value(BYTES, if full { 10_000 } else { 0 });
                let before = batches(&self.host).len();
                self.record.flush(drained);
                assert!(batches(&self.host).len() - before <= FLUSH_MESSAGES);
            }
            Act::Lose => {
                self.seen.extend(batches(&self.host));
                self.host.forget_queues();
                self.host.queue_register(QUEUE).unwrap();
            }
        }
    }

    /// Every number that was sent or given up, as often as it was. Reading the
    /// batches proves that each is one run.
    fn settled(&mut self) -> Vec<u64> {
        self.seen.extend(batches(&self.host));
        let mut settled = Vec::new();
        for batch in &self.seen {
            for event in &batch.events {
                assert!([0, event.number].contains(&event.time_ms), "another event under this number");
                settled.push(event.number);
            }
            settled.extend(batch.dropped.iter().flat_map(|range| range.first..=range.last));
        }
        settled.sort_unstable();
        settled
    }
}

proptest! {
    /// With any faults, every number is sent once, given up once, or still open; and
    /// once the open ones have come, even after the end, none is left.
    #[test]
    fn every_number_is_sent_or_given_up_once_or_still_open(
        acts in proptest::collection::vec(act(), 1..60),
        batch_events in 1usize..12,
        buffer_bytes in 2_000usize..40_000,
    ) {
        let limits = EventLimits { buffer_bytes, batch_events, ..small() };
        let mut trace = Trace::new(limits);
        for act in &acts {
            trace.act(act);
        }
        trace.record.close();
        let open: BTreeSet<u64> = trace.open.iter().copied().collect();
        let expected: Vec<u64> = (1..=trace.record.numbered()).filter(|number| !open.contains(number)).collect();
        prop_assert_eq!(trace.settled(), expected);
    }

    #[test]
    fn what_was_open_at_the_end_still_comes(acts in proptest::collection::vec(act(), 1..40)) {
        let mut trace = Trace::new(EventLimits { buffer_bytes: 20_000, ..small() });
        for act in &acts {
            trace.act(act);
        }
        trace.record.close();
        for number in std::mem::take(&mut trace.open) {
            complete(&mut trace.record, number);
            trace.record.flush(false);
        }
        let numbered = trace.record.numbered();
        prop_assert_eq!(trace.settled(), (1..=numbered).collect::<Vec<_>>());
    }
}
