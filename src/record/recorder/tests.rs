use super::*;
use crate::config::Admin;
use crate::host::HostError;
use tidegate_host_sim::{CallView, SimHost};
use tidegate_policy::wire::event::{
    DropReason, RECEIPT, REFUSALS, SourceState, TrafficEvent, VmId, append_event,
};

const QUEUE: &str = "events";
const BYTES: &str = "tidegate.queue.bytes.0000000000000007";
const ROOT: u32 = 1;
const TICK: Duration = Duration::from_millis(50);

struct Bench {
    host: SimHost,
    recorder: Recorder<SimHost>,
    sources: Vec<SourceReport>,
}

impl Bench {
    fn new() -> Self {
        let host = SimHost::alone();
        host.queue_register(QUEUE).unwrap();
        let metrics = Rc::new(Metrics::new(host.clone()));
        let admin = Admin {
            cluster: "admin".into(),
            authority: "admin".into(),
            token: "t".into(),
            timeout: Duration::from_secs(5),
        };
        let client = Rc::new(AdminClient::new(host.clone(), admin, b"node"));
        client.identify(1);
        let queue = Rc::new(EventQueue::new(host.clone(), QUEUE.into(), 7));
        let recorder = Recorder::new(host.clone(), metrics, client, queue, true);
        Self { host, recorder, sources: Vec::new() }
    }

    fn batch(&self, source: u128, first: u64, count: u32) {
        let mut events = Vec::new();
        for number in first..first + u64::from(count) {
            append_event(&mut events, &TrafficEvent { number, ..TrafficEvent::default() }).unwrap();
        }
        let numbered_hi = first + u64::from(count) - 1;
        let head = BatchHead { source: VmId(source), first, numbered_hi, ..BatchHead::default() };
        let queue = self.host.queue_resolve(QUEUE).unwrap().unwrap();
        self.recorder.events.enqueue(queue, &head.seal(count, &events).unwrap()).unwrap();
    }

    /// One tick later; the posts that it made.
    fn tick(&mut self) -> Vec<CallView> {
        self.tick_as(ROOT, true)
    }

    fn tick_as(&mut self, root: u32, holds_lease: bool) -> Vec<CallView> {
        self.host.advance(TICK);
        self.recorder.on_tick(root, holds_lease.then_some(&*self.sources));
        self.host.take_calls()
    }

    /// Ticks until a post is made, for at most ten seconds of the test's clock.
    fn next_post(&mut self) -> CallView {
        (0..200).find_map(|_| self.tick().pop()).expect("a post within ten seconds")
    }

    fn answer(&mut self, post: &CallView, status: Option<u16>) {
        self.answer_with(post, status, RECEIPT);
    }

    fn answer_with(&mut self, post: &CallView, status: Option<u16>, body: &[u8]) {
        self.host.answer(status, body.to_vec());
        assert!(self.recorder.on_call_response(ROOT, post.token, status));
    }
}

/// First numbers of the batches in a post.
fn firsts(post: &CallView) -> Vec<u64> {
    let post = EventPost::from_bytes(&post.body).unwrap();
    post.batches.iter().map(|batch| BatchHead::read(&batch.0).unwrap().0.first).collect()
}

#[test]
fn a_post_says_where_envoy_does_not_tell_of_all_requests() {
    for (access_log, says) in [(true, None), (false, Some("1"))] {
        let mut bench = Bench::new();
        bench.recorder.access_log = access_log;
        bench.batch(7, 1, 3);
        assert_eq!(bench.tick().pop().unwrap().header(UNTOLD_HEADER).as_deref(), says);
    }
}

#[test]
fn batches_are_kept_until_they_are_stored() {
    let mut bench = Bench::new();
    bench.batch(7, 1, 3);
    bench.batch(7, 4, 2);
    let post = bench.tick().pop().unwrap();
    assert_eq!(post.path, "/api/data-plane/v1/events");
    assert_eq!(firsts(&post), [1, 4]);
    assert_eq!(bench.host.metric_value(BYTES), 0);
    let not_stored: [(Option<u16>, &[u8]); 6] = [
        (None, b""),
        (Some(503), b""),
        (Some(401), b""),
        (Some(504), RECEIPT),
        (Some(204), b""),
        (Some(200), b"<html>of something in between"),
    ];
    for (status, body) in not_stored {
        bench.batch(7, 100, 1);
        let last = post.clone();
        let again = if status.is_none() { last } else { bench.next_post() };
        bench.answer_with(&again, status, body);
        assert_eq!(bench.host.take_calls().len(), 0, "not at once after {status:?}");
    }
    let post = bench.next_post();
    assert_eq!(&firsts(&post)[..2], [1, 4], "in order");
    assert_eq!(EventPost::from_bytes(&post.body).unwrap().retries, 6);
    bench.answer(&post, Some(200));
    assert!(bench.recorder.held.is_empty());
    let post = bench.next_post();
    let said = EventPost::from_bytes(&post.body).unwrap();
    assert_eq!((said.waiting_bytes, said.oldest_ms, said.batches.len()), (0, 0, 0), "that nothing waits");
    bench.answer(&post, Some(200));
    assert!((0..40).all(|_| bench.tick().is_empty()), "nothing is left to say");
}

#[test]
fn one_post_at_a_time_and_the_next_as_soon_as_it_is_answered() {
    let mut bench = Bench::new();
    bench.batch(7, 1, 1);
    let post = bench.tick().pop().unwrap();
    bench.batch(7, 2, 1);
    assert!(bench.tick().is_empty());
    bench.answer(&post, Some(200));
    assert_eq!(firsts(&bench.host.take_calls()[0]), [2]);
}

#[test]
fn a_call_that_never_answers_is_given_up_after_its_timeout() {
    let mut bench = Bench::new();
    bench.batch(7, 1, 1);
    let lost = bench.tick().pop().unwrap();
    let again = bench.next_post();
    assert_ne!(lost.token, again.token);
    assert!(bench.host.monotonic_ns() >= 7_000_000_000, "not before timeout and margin");
    assert!(!bench.recorder.on_call_response(ROOT, lost.token, Some(200)), "its answer is nobody's");
    assert_eq!(bench.recorder.held.len(), 1);
}

#[test]
fn a_call_that_the_host_refuses_is_made_again() {
    let mut bench = Bench::new();
    bench.batch(7, 1, 1);
    bench.host.refuse_calls(Some(HostError::Refused));
    assert!(bench.tick().is_empty());
    bench.host.refuse_calls(None);
    assert_eq!(firsts(&bench.next_post()), [1]);
}

#[test]
fn a_batch_that_is_refused_alone_does_not_stop_the_others() {
    let mut bench = Bench::new();
    bench.batch(7, 1, 3);
    bench.batch(7, 4, 2);
    let both = bench.next_post();
    bench.answer_with(&both, Some(400), REFUSALS[0]);
    let alone = bench.next_post();
    assert_eq!(firsts(&alone), [1]);
    bench.answer_with(&alone, Some(400), REFUSALS[0]);
    let next = bench.next_post();
    assert_eq!(firsts(&next), [4]);
    let post = EventPost::from_bytes(&next.body).unwrap();
    let range = DroppedRange { source: VmId(7), first: 1, last: 3, reason: DropReason::Unencodable };
    assert_eq!(post.dropped, [range]);
    bench.answer(&next, Some(200));
    assert!(bench.recorder.dropped.is_empty(), "said and acknowledged");
}

/// Posts until all is stored, past something in between that refuses a post with this status if
/// it has more than `passes` batches or this one; how many posts that took.
fn posts_past(bench: &mut Bench, status: u16, passes: usize, never: Option<u64>) -> usize {
    for posts in 0..100 {
        if bench.recorder.held.is_empty() && posts > 0 {
            return posts;
        }
        let post = bench.next_post();
        let firsts = firsts(&post);
        if firsts.len() <= passes && never.is_none_or(|never| !firsts.contains(&never)) {
            bench.answer(&post, Some(200));
        } else if never.is_some() && bench.recorder.held.len() == 1 {
            return posts;
        } else {
            bench.host.answer_in_place(status, b"<html>no".to_vec());
            assert!(bench.recorder.on_call_response(ROOT, post.token, Some(status)));
        }
    }
    panic!("never stored");
}

#[test]
fn what_something_in_between_refuses_is_kept_and_sent_in_smaller_posts() {
    for status in [400, 403, 413] {
        let mut bench = Bench::new();
        (0..20).for_each(|first| bench.batch(7, 1 + first * 3, 3));
        // 20, 10, 5, 2, 1 and from there on one more each time, until three are too many again.
        assert!(posts_past(&mut bench, status, 2, None) < 30);
        assert!(bench.recorder.dropped.is_empty());
        // One that never passes is tried last, and does not hold up the others.
        (20..40).for_each(|first| bench.batch(7, 1 + first * 3, 3));
        assert!(posts_past(&mut bench, status, usize::MAX, Some(61)) < 50);
        assert_eq!(bench.recorder.held.len(), 1, "this one is left");
        assert!(bench.recorder.dropped.is_empty());
        assert!(posts_past(&mut bench, status, usize::MAX, None) < 3, "and is stored as soon as it passes");
    }
}

#[test]
fn a_refusal_that_says_nothing_of_the_content_gives_nothing_up() {
    let mut bench = Bench::new();
    bench.batch(7, 1, 3);
    for body in [&br#"{"type":"urn:tidegate:problem:invalid_header""#[..], b"", b"{}"] {
        for _ in 0..3 {
            let post = bench.next_post();
            assert_eq!(firsts(&post), [1]);
            bench.answer_with(&post, Some(400), body);
        }
    }
    assert!(bench.recorder.dropped.is_empty());
}

#[test]
fn without_the_lease_all_goes_back_into_the_queue() {
    let mut bench = Bench::new();
    bench.batch(7, 1, 3);
    let post = bench.tick().pop().unwrap();
    assert!(bench.tick_as(ROOT, false).is_empty());
    assert_eq!(bench.host.messages(QUEUE).len(), 1);
    let len = bench.host.messages(QUEUE)[0].len();
    assert_eq!(bench.host.metric_value(BYTES), i64::try_from(len).unwrap());
    assert!(!bench.recorder.on_call_response(ROOT, post.token, Some(200)));
    assert_eq!(firsts(&bench.next_post()), [1], "and is posted by the next holder");
}

#[test]
fn what_was_given_up_is_not_forgotten_with_the_lease() {
    let mut bench = Bench::new();
    let range = DroppedRange { source: VmId(3), first: 1, last: 9, reason: DropReason::Expired };
    bench.tick();
    bench.recorder.give_up(GivenUp { events: Some(range), carried: Vec::new() });
    bench.tick_as(ROOT, false);
    let (head, count) = BatchHead::read(&bench.host.messages(QUEUE)[0]).unwrap();
    assert_eq!((head.dropped, count), (vec![range], 0));
}

#[test]
fn another_root_takes_over_queue_and_post() {
    let mut bench = Bench::new();
    bench.batch(7, 1, 1);
    bench.tick();
    bench.recorder.root_gone(ROOT);
    let post = bench.tick_as(2, true).pop().expect("its call died with the root, without a callback");
    assert_eq!(firsts(&post), [1]);
    assert_eq!(bench.recorder.queue.map(|(_, root)| root), Some(2));
}

#[test]
fn what_is_held_has_a_bound_and_the_queue_keeps_the_rest() {
    let mut bench = Bench::new();
    bench.host.refuse_calls(Some(HostError::Refused));
    for first in 0..40u64 {
        bench.batch(7, first * 10_000 + 1, 10_000);
    }
    let size = bench.host.messages(QUEUE)[0].len();
    assert!(size * 40 > MAX_HELD, "enough to fill it");
    for _ in 0..100 {
        bench.tick();
    }
    assert!(bench.recorder.held.bytes() < MAX_HELD + size);
    assert!(!bench.host.messages(QUEUE).is_empty());
    bench.host.refuse_calls(None);
    let mut stored = 0;
    while stored < 40 {
        let post = bench.next_post();
        assert!(post.body.len() < POST_BYTES + size);
        let batches = firsts(&post);
        assert_eq!(batches[0], stored * 10_000 + 1, "oldest first");
        stored += batches.len() as u64;
        bench.answer(&post, Some(200));
        let _ = bench.host.take_calls();
        bench.recorder.in_flight = None;
    }
}

#[test]
fn the_bound_holds_for_batches_of_one_event_too() {
    let mut bench = Bench::new();
    bench.host.refuse_calls(Some(HostError::Refused));
    for number in 1..=60_000 {
        bench.batch(7, number, 1);
    }
    for _ in 0..300 {
        bench.tick();
    }
    let held = &bench.recorder.held;
    assert!(held.cost() >= MAX_HELD, "enough to fill it");
    assert!(held.cost() < MAX_HELD + 1_000);
    assert!(held.bytes() < MAX_HELD / 2, "most of it is not the batches' bytes");
    assert!(!bench.host.messages(QUEUE).is_empty());
}

#[test]
fn a_batch_of_yesterday_is_given_up() {
    let mut bench = Bench::new();
    bench.host.refuse_calls(Some(HostError::Refused));
    bench.batch(7, 1, 3);
    bench.tick();
    bench.host.advance(Duration::from_secs(25 * 3_600));
    bench.host.refuse_calls(None);
    let post = EventPost::from_bytes(&bench.next_post().body).unwrap();
    assert_eq!(post.batches, []);
    let range = DroppedRange { source: VmId(7), first: 1, last: 3, reason: DropReason::Expired };
    assert_eq!(post.dropped, [range]);
}

#[test]
fn what_a_worker_counted_is_not_counted_again_with_its_batch() {
    let mut bench = Bench::new();
    bench.host.refuse_calls(Some(HostError::Refused));
    let carried = DroppedRange { source: VmId(7), first: 1, last: 5, reason: DropReason::BufferFull };
    let head =
        BatchHead { source: VmId(7), first: 6, numbered_hi: 6, dropped: vec![carried], ..Default::default() };
    let mut event = Vec::new();
    append_event(&mut event, &TrafficEvent { number: 6, ..TrafficEvent::default() }).unwrap();
    let queue = bench.host.queue_resolve(QUEUE).unwrap().unwrap();
    bench.host.enqueue(queue, &head.seal(1, &event).unwrap()).unwrap();
    bench.tick();
    bench.host.advance(Duration::from_secs(25 * 3_600));
    bench.host.refuse_calls(None);
    let post = EventPost::from_bytes(&bench.next_post().body).unwrap();
    let own = DroppedRange { source: VmId(7), first: 6, last: 6, reason: DropReason::Expired };
    assert_eq!(post.dropped, [carried, own], "the report goes on");
    bench.recorder.metrics.flush();
    assert_eq!(bench.host.metric_value("tidegate.events.dropped.expired"), 1);
    assert_eq!(bench.host.metric_value("tidegate.events.dropped.buffer_full"), 0, "the worker's to count");
}

#[test]
fn a_message_that_is_no_batch_is_counted_and_passed_over() {
    let mut bench = Bench::new();
    let queue = bench.host.queue_resolve(QUEUE).unwrap().unwrap();
    bench.host.enqueue(queue, b"junk").unwrap();
    bench.batch(7, 1, 1);
    assert_eq!(firsts(&bench.next_post()), [1]);
    bench.recorder.metrics.flush();
    assert_eq!(bench.host.metric_value("tidegate.recorder.unreadable"), 1);
}

#[test]
fn a_wrong_gauge_is_set_right_while_the_queue_is_empty() {
    let mut bench = Bench::new();
    bench.host.set_metric_value(BYTES, 12_345);
    bench.tick();
    assert_eq!(bench.host.metric_value(BYTES), 12_345, "it may be a message on its way");
    for _ in 0..60 {
        bench.tick();
    }
    assert_eq!(bench.host.metric_value(BYTES), 0);
}

#[test]
fn the_gauge_of_another_instance_is_left_alone() {
    let mut bench = Bench::new();
    bench.host.queue_register("other").unwrap();
    let other = EventQueue::new(bench.host.clone(), "other".into(), 8);
    let queue = bench.host.queue_resolve("other").unwrap().unwrap();
    other.enqueue(queue, b"waits for its own drainer").unwrap();
    for _ in 0..60 {
        bench.tick();
    }
    assert_eq!(other.bytes(), 25);
}

#[test]
fn news_of_sources_is_posted_without_batches_once_a_second_at_most() {
    let mut bench = Bench::new();
    let report = |numbered_hi, state| SourceReport { source: VmId(1), numbered_hi, state };
    bench.host.advance(Duration::from_secs(5));
    bench.sources = vec![report(5, SourceState::Alive)];
    let post = bench.next_post();
    assert_eq!(EventPost::from_bytes(&post.body).unwrap().sources, bench.sources);
    bench.answer(&post, Some(200));
    let said_ns = bench.host.monotonic_ns();
    bench.sources = vec![report(6, SourceState::Dead)];
    let post = bench.next_post();
    assert!(bench.host.monotonic_ns() - said_ns >= 1_000_000_000);
    assert_eq!(EventPost::from_bytes(&post.body).unwrap().sources, bench.sources);
    bench.answer(&post, Some(200));
    assert!((0..60).all(|_| bench.tick().is_empty()), "nothing new");
}
