mod reserved;

use super::*;
use proptest::prelude::*;
use tidegate_host_sim::SimHost;
use tidegate_policy::check::Check;
use tidegate_policy::wire::event::{
    Batch, MAX_FOUND, MAX_HOST, MAX_METHOD, MAX_OPEN, MAX_PATH, MAX_USER_AGENT, Mismatch, OpenEvent,
};

const QUEUE: &str = "events";
const BYTES: &str = "tidegate.queue.bytes.0000000000000007";
const ME: VmId = VmId(9);

fn record(limits: EventLimits) -> (SimHost, EventBuffer<SimHost>) {
    let host = SimHost::alone();
    let metrics = Rc::new(Metrics::new(host.clone()));
    (
        host.clone(),
        EventBuffer::new(
            host.clone(),
            metrics,
            ME,
            limits,
            Rc::new(EventQueue::new(host, QUEUE.to_owned(), 7)),
        ),
    )
}

fn small() -> EventLimits {
    EventLimits { buffer_bytes: 10_000, queue_bytes: 10_000, batch_events: 10, ..EventLimits::default() }
}

fn push(record: &mut EventBuffer<SimHost>, events: u64) {
    for _ in 0..events {
        let path = Some(vec![b'a'; 100]);
        record.push(&mut TrafficEvent { path, ..TrafficEvent::default() });
    }
}

fn batches(host: &SimHost) -> Vec<Batch> {
    host.messages(QUEUE).iter().map(|message| Batch::from_bytes(message).unwrap()).collect()
}

#[test]
fn events_are_numbered_from_one_without_holes_over_batches() {
    let (host, mut record) = record(EventLimits { buffer_bytes: 1 << 20, ..small() });
    host.queue_register(QUEUE).unwrap();
    push(&mut record, 25);
    record.flush(true);
    push(&mut record, 1);
    record.flush(true);
    let runs: Vec<(u64, usize, u64)> =
        batches(&host).iter().map(|batch| (batch.first, batch.events.len(), batch.numbered_hi)).collect();
    assert_eq!(runs, [(1, 10, 25), (11, 10, 25), (21, 5, 25), (26, 1, 26)]);
    assert!(!record.is_waiting());
}

#[test]
fn what_does_not_fit_is_given_up_oldest_first_and_reported_once() {
    let (host, mut record) = record(small());
    host.queue_register(QUEUE).unwrap();
    push(&mut record, 100);
    record.flush(false);
    assert_eq!(host.messages(QUEUE).len(), 0, "nobody drains");
    record.flush(true);
    let batches = batches(&host);
    let kept: u64 = batches.iter().map(|batch| batch.events.len() as u64).sum();
    let first = batches[0].first;
    assert_eq!(first + kept - 1, 100, "the newest are kept");
    assert!(first > 1);
    let range = DroppedRange { source: ME, first: 1, last: first - 1, reason: DropReason::BufferFull };
    assert_eq!(batches[0].dropped, [range], "adjacent ranges are one");
    assert!(batches[1..].iter().all(|batch| batch.dropped.is_empty()), "and said once");
    record.metrics.flush();
    assert_eq!(host.metric_value("tidegate.events.dropped.buffer_full"), i64::try_from(first - 1).unwrap());
}

#[test]
fn a_full_queue_is_left_alone_until_it_is_drained() {
    let (host, mut record) = record(small());
    host.queue_register(QUEUE).unwrap();
    host.set_metric_value(BYTES, 10_000);
    push(&mut record, 5);
    record.flush(true);
    assert_eq!(host.messages(QUEUE).len(), 0);
    assert!(record.is_waiting());
    // A gauge under zero, read between another VM's two steps, is not a full queue.
    host.set_metric_value(BYTES, -5);
    record.flush(true);
    let len = host.messages(QUEUE)[0].len();
    assert_eq!(host.metric_value(BYTES), i64::try_from(len).unwrap() - 5);
}

#[test]
fn without_a_queue_events_stay_and_the_gauge_is_as_before() {
    let (host, mut record) = record(small());
    push(&mut record, 5);
    record.flush(true);
    assert!(record.is_waiting());
    assert_eq!(host.metric_value(BYTES), 0);
    host.queue_register(QUEUE).unwrap();
    record.flush(true);
    assert_eq!(batches(&host).len(), 1);
    // The queue is gone and there is a new one: the old id is not valid.
    host.forget_queues();
    host.queue_register(QUEUE).unwrap();
    push(&mut record, 1);
    record.flush(true);
    assert_eq!(batches(&host)[0].first, 6);
}

#[test]
fn what_an_outage_left_is_handed_over_piece_by_piece() {
    let limits = EventLimits { buffer_bytes: 8 << 20, batch_events: 2_000, ..EventLimits::default() };
    let (host, mut record) = record(limits);
    host.queue_register(QUEUE).unwrap();
    push(&mut record, 50_000);
    let held = record.runs.bytes();
    assert!(held > 5 << 20);
    let mut flushes = 0;
    while record.is_waiting() {
        record.flush(true);
        flushes += 1;
    }
    assert!(flushes >= held / (FLUSH_BYTES + BATCH_BYTES), "{flushes}");
    assert_eq!(batches(&host).iter().map(|batch| batch.events.len()).sum::<usize>(), 50_000);
}

#[test]
fn the_largest_events_make_batches_that_can_be_read() {
    let (host, mut record) = record(EventLimits::default());
    host.queue_register(QUEUE).unwrap();
    let found = || "x".repeat(MAX_FOUND);
    let mismatch = |check| Mismatch {
        check,
        direct: found(),
        cached: found(),
        direct_seq: u64::MAX,
        cached_seq: u64::MAX,
    };
    let largest = TrafficEvent {
        method: Some(vec![b'm'; MAX_METHOD]),
        host: Some(vec![b'h'; MAX_HOST]),
        path: Some(vec![b'p'; MAX_PATH]),
        user_agent: Some(vec![b'u'; MAX_USER_AGENT]),
        mismatches: Check::ALL.map(mismatch).to_vec(),
        ..TrafficEvent::default()
    };
    for _ in 0..500 {
        record.push(&mut largest.clone());
    }
    while record.is_waiting() {
        record.flush(true);
    }
    assert_eq!(batches(&host).iter().map(|batch| batch.events.len()).sum::<usize>(), 500);
    for message in host.messages(QUEUE) {
        assert!(message.len() < BATCH_BYTES + (8 << 10), "{}", message.len());
    }
    let open = OpenEvent { source: ME, event: TrafficEvent { number: 1, ..largest } };
    assert!(open.to_bytes().unwrap().len() < MAX_OPEN);
}

#[test]
fn the_last_batch_closes() {
    let (host, mut record) = record(EventLimits { buffer_bytes: 1 << 20, ..small() });
    host.queue_register(QUEUE).unwrap();
    push(&mut record, 12);
    host.set_metric_value(BYTES, 10_000);
    record.close();
    let said: Vec<(u64, usize, bool)> =
        batches(&host).iter().map(|batch| (batch.first, batch.events.len(), batch.closing)).collect();
    assert_eq!(said, [(1, 10, false), (11, 2, true)]);
    // After a late log the source is closed again, with the higher number.
    assert!(record.push(&mut TrafficEvent::default()), "must be flushed now");
    record.flush(false);
    let last = batches(&host).pop().unwrap();
    assert_eq!((last.first, last.numbered_hi, last.closing), (13, 13, true));
}

#[test]
fn without_events_the_closing_batch_is_empty() {
    let (host, mut record) = record(small());
    host.queue_register(QUEUE).unwrap();
    record.close();
    let batch = batches(&host).pop().unwrap();
    assert_eq!((batch.numbered_hi, batch.events.len(), batch.closing), (0, 0, true));
}

proptest! {
    /// With any faults of queue and drainer, every number is in exactly one batch or
    /// one dropped range once all is flushed.
    #[test]
    fn every_number_is_accounted_for(steps in proptest::collection::vec((0u64..40, any::<bool>(), any::<bool>()), 1..30)) {
        let (host, mut record) = record(small());
        host.queue_register(QUEUE).unwrap();
        for (events, drained, full) in steps {
            host.set_metric_value(BYTES, if full { 10_000 } else { 0 });
            push(&mut record, events);
            record.flush(drained);
        }
        record.close();
        let mut seen = Vec::new();
        for batch in batches(&host) {
            seen.extend(batch.events.iter().map(|event| event.number));
            seen.extend(batch.dropped.iter().flat_map(|range| range.first..=range.last));
        }
        seen.sort_unstable();
        prop_assert_eq!(seen, (1..=record.numbered()).collect::<Vec<_>>());
    }
}
