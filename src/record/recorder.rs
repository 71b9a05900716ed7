//! The one drainer of a process's events queue: the VM that holds the lease takes
//! batches out, posts them, and keeps each until the admin service has stored it.
//!
//! Backpressure: while unacknowledged batches are at their limit, nothing is taken out
//! of the queue, and workers stop filling it at the queue's own limit.

mod sources;
#[cfg(test)]
mod tests;
mod unacknowledged;

use std::rc::Rc;
use std::time::Duration;

use tidegate_policy::wire::event::{
    BatchHead, DropReason, DroppedRange, EventPost, RECEIPT, REFUSALS, SourceReport, UNTOLD_HEADER,
};

use super::buffer::merge;
use super::queue::EventQueue;
use crate::admin_client::{AdminClient, Backoff, InFlight, nanos};
use crate::host::{CallToken, Host, QueueId};
use crate::metrics::{Count, Gauge, Metrics};
use sources::Sources;
use unacknowledged::{GivenUp, Unacknowledged};

/// Where events are posted.
const PATH: &str = "/api/data-plane/v1/events";
/// The most memory for batches that are not acknowledged. If the VM traps, these and one batch
/// more are lost, with the ranges of given-up events in them, whose numbers then show as lost
/// instead of dropped, which is as true.
const MAX_HELD: usize = 4 << 20;
/// Bytes of batches in one post.
const POST_BYTES: usize = 2 << 20;
/// Bytes taken out of the queue in one callback: under a millisecond's work.
const DRAIN_BYTES: usize = 1 << 20;
/// Messages taken out of the queue in one callback.
const DRAIN_MESSAGES: usize = 256;
/// The longest wait between posts after failures.
const LONGEST_WAIT: Duration = Duration::from_secs(4);
/// The least time between ticks while batches are held; queue notifications and answers
/// come sooner.
const SOONEST: Duration = Duration::from_millis(50);
/// Least time between posts that carry only reports of sources, without batches.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// No beginning of a refusal is longer.
const MAX_REFUSAL: usize = 64;
/// A gauge that is not zero while the queue is empty is reset after this long: a VM that
/// trapped between changing the gauge and the queue leaves it wrong.
const GAUGE_REPAIR: Duration = Duration::from_secs(2);

/// A post that has not been answered.
struct PostInFlight {
    call: InFlight,
    root: u32,
    batches: usize,
    ranges: usize,
    reports: Vec<SourceReport>,
}

/// The drainer of a process, in the VM that may hold the lease.
pub struct Recorder<H> {
    host: H,
    metrics: Rc<Metrics<H>>,
    client: Rc<AdminClient<H>>,
    events: Rc<EventQueue<H>>,
    /// Whether Envoy tells of requests that reach no filter.
    access_log: bool,
    /// The queue and the root that is notified of it.
    queue: Option<(QueueId, u32)>,
    held: Unacknowledged,
    dropped: Vec<DroppedRange>,
    sources: Sources,
    in_flight: Option<PostInFlight>,
    backoff: Backoff,
    retries: u64,
    reported_ns: u64,
    /// The last post that was stored had batches, and reported their bytes as waiting: the
    /// next report is due even if the sources do not change.
    reported_waiting: bool,
    /// Batches in a post, at most: fewer after a refusal, to find the batch that is refused, or a
    /// size that passes.
    at_most: usize,
    gauge_wrong_since_ns: Option<u64>,
}

impl<H: Host> Recorder<H> {
    /// Does nothing until a tick at which this VM holds the lease.
    pub fn new(
        host: H,
        metrics: Rc<Metrics<H>>,
        client: Rc<AdminClient<H>>,
        events: Rc<EventQueue<H>>,
        access_log: bool,
    ) -> Self {
        Self {
            host,
            metrics,
            client,
            events,
            access_log,
            queue: None,
            held: Unacknowledged::default(),
            dropped: Vec::new(),
            sources: Sources::default(),
            in_flight: None,
            backoff: Backoff::new(LONGEST_WAIT),
            retries: 0,
            reported_ns: 0,
            reported_waiting: false,
            at_most: usize::MAX,
            gauge_wrong_since_ns: None,
        }
    }

    /// Does what is due; returns the time until the next tick, if one is needed soon.
    /// `sources`: the VMs of this process by their slots; `None` while this VM does not
    /// hold the lease.
    pub fn on_tick(&mut self, root: u32, sources: Option<&[SourceReport]>) -> Option<Duration> {
        let Some(sources) = sources else {
            self.return_to_queue();
            return None;
        };
        if self.queue.is_none() {
            let queue = self.host.queue_register(self.events.name()).ok()?;
            self.queue = Some((queue, root));
        }
        let now = self.host.monotonic_ns();
        self.sources.update(sources);
        self.expire(now);
        self.drain();
        self.give_up_lost_post(now);
        self.post(root, now);
        let waiting = !self.held.is_empty() || self.in_flight.is_some();
        waiting.then(|| Duration::from_nanos(self.backoff.remaining_ns(now)).max(SOONEST))
    }

    /// A message arrived in `queue`. True when that is the events queue.
    pub fn on_queue_ready(&mut self, root: u32, queue: QueueId) -> bool {
        if self.queue.is_none_or(|(mine, _)| mine != queue) {
            return false;
        }
        self.drain();
        let now = self.host.monotonic_ns();
        self.post(root, now);
        true
    }

    /// A call ended, with this status; `root` is the root whose callback runs. True when it
    /// was the post.
    pub fn on_call_response(&mut self, root: u32, token: CallToken, status: Option<u16>) -> bool {
        let Some(post) = self.in_flight.take_if(|post| post.call.token == token) else { return false };
        let now = self.host.monotonic_ns();
        match status {
            Some(200) if self.host.call_body(RECEIPT.len()) == RECEIPT => self.on_post_stored(post),
            Some(400..=499) if self.is_refused_for_good() => self.on_post_refused(&post, now),
            Some(400..=499) if self.client.service_ms().is_none() => self.on_post_stopped(&post, now),
            _ => self.on_post_failed(now),
        }
        self.drain();
        self.post(root, now);
        true
    }

    /// A root is gone, with its queue notifications and its calls: a call of a root that
    /// is gone ends without a callback.
    pub fn root_gone(&mut self, root: u32) {
        self.queue.take_if(|(_, owner)| *owner == root);
        if self.in_flight.take_if(|post| post.root == root).is_some() {
            self.retries = self.retries.saturating_add(1);
        }
    }

    /// Puts what it holds back into the queue, for the next holder of the lease. A
    /// batch in flight may then be posted twice: the ledger recognizes it by its
    /// numbers.
    pub fn return_to_queue(&mut self) {
        let registered = self.queue.take().map(|(queue, _)| queue);
        if registered.is_none() && self.held.is_empty() && self.dropped.is_empty() {
            return;
        }
        let found = || self.host.queue_resolve(self.events.name()).ok().flatten();
        let Some(queue) = registered.or_else(found) else { return };
        self.in_flight = None;
        self.sources = Sources::default();
        for batch in self.held.take() {
            if self.events.enqueue(queue, &batch.bytes).is_err() {
                self.give_up(batch.given_up(DropReason::RecorderFull));
            }
        }
        self.metrics.reset(Gauge::RecorderBytes, 0);
        // Ranges that were given up here go with an empty batch.
        let dropped = std::mem::take(&mut self.dropped);
        if let Some(first) = dropped.first() {
            let head = BatchHead { source: first.source, dropped, ..BatchHead::default() };
            if let Ok(message) = head.seal(0, &[]) {
                let _ = self.events.enqueue(queue, &message);
            }
        }
    }

    /// Takes batches out of the queue, as long as there is room for them.
    fn drain(&mut self) {
        let Some((queue, _)) = self.queue else { return };
        let now = self.host.monotonic_ns();
        let (mut messages, mut bytes) = (0usize, 0usize);
        while messages < DRAIN_MESSAGES && bytes < DRAIN_BYTES && self.held.cost() < MAX_HELD {
            let message = match self.host.dequeue(queue) {
                Ok(Some(message)) => message,
                Ok(None) => {
                    self.sources.on_queue_empty();
                    self.repair_gauge(now);
                    break;
                }
                Err(_) => {
                    self.queue = None;
                    break;
                }
            };
            messages = messages.saturating_add(1);
            bytes = bytes.saturating_add(message.len());
            self.events.count_dequeued(message.len());
            match BatchHead::read(&message) {
                Ok((head, count)) => self.held.push(message, &head, count, now),
                Err(_) => self.metrics.count(Count::BatchesUnreadable),
            }
        }
        self.metrics.set(Gauge::RecorderBytes, self.held.bytes() as u64);
    }

    /// The queue is empty: resets the gauge if it is not zero for [`GAUGE_REPAIR`].
    fn repair_gauge(&mut self, now: u64) {
        if self.events.gauge_is_zero() {
            self.gauge_wrong_since_ns = None;
            return;
        }
        let since = *self.gauge_wrong_since_ns.get_or_insert(now);
        if now.saturating_sub(since) > nanos(GAUGE_REPAIR) {
            self.events.reset_gauge();
            self.gauge_wrong_since_ns = None;
        }
    }

    fn expire(&mut self, now: u64) {
        // While a post is in flight its batches stay.
        while self.in_flight.is_none()
            && let Some(batch) = self.held.take_expired(now)
        {
            self.give_up(batch.given_up(DropReason::Expired));
        }
    }

    fn give_up(&mut self, what: GivenUp) {
        if let Some(range) = what.events {
            let events = range.last.saturating_sub(range.first).saturating_add(1);
            self.metrics.add(Count::dropped(range.reason), events);
        }
        for range in what.carried.into_iter().chain(what.events) {
            merge(&mut self.dropped, range);
        }
    }

    fn give_up_lost_post(&mut self, now: u64) {
        if self.in_flight.take_if(|post| post.call.is_lost(now)).is_some() {
            self.on_post_failed(now);
        }
    }

    fn post(&mut self, root: u32, now: u64) {
        if self.in_flight.is_some() || self.queue.is_none() || !self.client.is_identified() {
            return;
        }
        if self.backoff.remaining_ns(now) > 0 {
            return;
        }
        let batches = self.held.fitting(POST_BYTES).min(self.at_most);
        let reports = self.sources.due(|source| self.held.has_after(batches, source));
        let report_due = now.saturating_sub(self.reported_ns) >= nanos(REPORT_EVERY);
        let news = report_due && (self.reported_waiting || self.sources.differ(&reports));
        if self.held.is_empty() && self.dropped.is_empty() && !news {
            return;
        }
        let batches = batches.min(self.held.len());
        let body = self.body(batches, &reports, now);
        let Some(body) = body else { return };
        self.reported_ns = now;
        let untold = [(UNTOLD_HEADER, "1")];
        let headers = if self.access_log { &[] } else { &untold[..] };
        match self.client.post(PATH, headers, &body, self.client.timeout()) {
            Ok(call) => {
                let ranges = self.dropped.len();
                self.in_flight = Some(PostInFlight { call, root, batches, ranges, reports });
            }
            Err(_) => self.on_post_failed(now),
        }
    }

    /// The post's bytes. The batches are lent to it, not copied.
    fn body(&mut self, batches: usize, reports: &[SourceReport], now: u64) -> Option<Vec<u8>> {
        let in_queue = self.events.bytes();
        let post = EventPost {
            sources: reports.to_vec(),
            dropped: self.dropped.clone(),
            waiting_bytes: in_queue.saturating_add(self.held.bytes() as u64),
            oldest_ms: self.held.oldest_ns(now) / 1_000_000,
            retries: self.retries,
            batches: self.held.lend(batches),
        };
        let bytes = post.to_bytes();
        self.held.give_back(post.batches);
        if bytes.is_err() {
            self.metrics.count(Count::HostErrors);
        }
        bytes.ok()
    }

    fn on_post_stored(&mut self, post: PostInFlight) {
        self.metrics.count(Count::Posts);
        self.held.forget(post.batches);
        self.dropped.drain(..post.ranges.min(self.dropped.len()));
        self.sources.on_reported(post.reports);
        self.reported_waiting = post.batches > 0;
        self.backoff.worked();
        self.at_most = self.at_most.saturating_add(1);
        self.metrics.set(Gauge::RecorderBytes, self.held.bytes() as u64);
    }

    /// Whether the admin service itself says, in the callback that runs, that it will never take
    /// this content.
    fn is_refused_for_good(&self) -> bool {
        let problem = self.host.call_body(MAX_REFUSAL);
        REFUSALS.iter().any(|refusal| problem.starts_with(refusal))
    }

    /// The admin service refused the content: a batch that is refused alone is given up, so that
    /// it does not block the others.
    fn on_post_refused(&mut self, post: &PostInFlight, now: u64) {
        if post.batches == 1
            && let Some(batch) = self.held.take_front()
        {
            self.give_up(batch.given_up(DropReason::Unencodable));
        }
        self.halve(post);
        self.on_post_failed(now);
    }

    /// Something in between refused the post, for its size or its content. Nothing is given up: a
    /// batch that is refused alone goes to the end, behind the others, and is tried again.
    fn on_post_stopped(&mut self, post: &PostInFlight, now: u64) {
        if post.batches == 1 {
            self.held.put_front_last();
        }
        self.halve(post);
        self.on_post_failed(now);
    }

    /// The next post has half as many batches as one that was refused.
    fn halve(&mut self, post: &PostInFlight) {
        self.at_most = (post.batches / 2).max(1);
    }

    fn on_post_failed(&mut self, now: u64) {
        self.metrics.count(Count::PostRetries);
        self.retries = self.retries.saturating_add(1);
        self.backoff.failed(now, self.host.random_u64());
    }
}
