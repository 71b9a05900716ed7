//! The state of one VM that outlives its root contexts: tables, slot, boot id, event
//! counter and sync state, once per admin service. A VM has one root context per plugin
//! configuration; a tick of any of them drives this state.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::Duration;

use tidegate_policy::digest::BlobHash;
use tidegate_policy::wire::event::{TrafficEvent, VmId};

use crate::admin_client::{AdminClient, FailedCalls};
use crate::config::{Admin, Config, EventLimits};
use crate::host::{CallToken, Host, QueueId};
use crate::metrics::Metrics;
use crate::record::buffer::EventBuffer;
use crate::record::queue::EventQueue;
use crate::record::recorder::Recorder;
use crate::request::limiter::Limiter;
use crate::sync::{Keys, Role, TableSync};

/// The longest that an event waits for its batch.
pub const FLUSH_EVERY: Duration = Duration::from_millis(50);
/// They are not enqueued at a tick that comes sooner after the first of them: while tables load there is
/// one every millisecond, and each message costs more than many events. Half of the time, because Envoy's
/// timers and its clock differ.
const FLUSH_AFTER: Duration = Duration::from_millis(25);

/// The state of one VM: in Envoy one per thread, in tests one per simulated VM.
pub struct Worker<H: Host> {
    host: H,
    metrics: RefCell<Option<Rc<Metrics<H>>>>,
    instances: RefCell<Vec<(InstanceKey, Weak<AdminInstance<H>>)>>,
}

/// What two roots must have in common to share tables and events. A new token or
/// timeout makes a new [`AdminInstance`] beside the old one, which ends with its last root.
#[derive(Clone, PartialEq, Eq)]
struct InstanceKey {
    admin: Admin,
    events: EventLimits,
    role: Role,
}

impl<H: Host> Worker<H> {
    /// An empty worker. Makes no host call: Envoy traps a VM that makes one before
    /// its first root.
    pub fn new(host: H) -> Rc<Self> {
        Rc::new(Self { host, metrics: RefCell::new(None), instances: RefCell::new(Vec::new()) })
    }

    /// The host.
    pub fn host(&self) -> &H {
        &self.host
    }

    /// The metrics, defined at the first root context.
    fn metrics(&self) -> Rc<Metrics<H>> {
        let mut metrics = self.metrics.borrow_mut();
        metrics.get_or_insert_with(|| Rc::new(Metrics::new(self.host.clone()))).clone()
    }

    /// The instance for this configuration, with one root context more.
    pub fn join(&self, config: &Config, role: Role) -> Rc<AdminInstance<H>> {
        let key = InstanceKey { admin: config.admin.clone(), events: config.events, role };
        let mut instances = self.instances.borrow_mut();
        instances.retain(|(_, instance)| instance.upgrade().is_some_and(|instance| instance.roots.get() > 0));
        let found =
            instances.iter().find(|(other, _)| *other == key).and_then(|(_, instance)| instance.upgrade());
        let instance = found.unwrap_or_else(|| {
            let instance = Rc::new(AdminInstance::new(self.host.clone(), self.metrics(), &key));
            instances.push((key, Rc::downgrade(&instance)));
            instance
        });
        instance.roots.set(instance.roots.get().saturating_add(1));
        instance
    }
}

/// One admin service's tables and events in one VM.
pub struct AdminInstance<H: Host> {
    /// The host.
    pub host: H,
    /// Metrics of the process.
    pub metrics: Rc<Metrics<H>>,
    /// The boot id, under which events are numbered.
    pub source: VmId,
    /// Tables: fetched, published, loaded.
    pub sync: RefCell<TableSync<H>>,
    /// Usage of the limits.
    pub limiter: Limiter<H>,
    /// The client of the admin service.
    pub client: Rc<AdminClient<H>>,
    /// Calls that failed, until who made them is told.
    pub failed: FailedCalls,
    record: RefCell<EventBuffer<H>>,
    /// When the oldest event that waits for its batch came, monotonic nanoseconds.
    waiting_since_ns: Cell<u64>,
    recorder: RefCell<Recorder<H>>,
    roots: Cell<u32>,
    ticked: Cell<bool>,
    serving: Cell<bool>,
    random_state: Cell<u64>,
    questions: Cell<u64>,
    role: Role,
}

impl<H: Host> AdminInstance<H> {
    fn new(host: H, metrics: Rc<Metrics<H>>, key: &InstanceKey) -> Self {
        let (high, low) = (host.random_u64(), host.random_u64());
        let source = VmId((u128::from(high) << 64) | u128::from(low));
        let id = instance_id(&key.admin);
        let queue = EventQueue::new(host.clone(), Keys::new(id).events(), id);
        let queue = Rc::new(queue);
        let node = host.property("xds\0node\0id").ok().flatten().unwrap_or_default();
        let client = Rc::new(AdminClient::new(host.clone(), key.admin.clone(), &node));
        let sync =
            TableSync::new(host.clone(), metrics.clone(), client.clone(), Keys::new(id), key.role, source);
        Self {
            sync: RefCell::new(sync),
            record: RefCell::new(EventBuffer::new(
                host.clone(),
                metrics.clone(),
                source,
                key.events,
                queue.clone(),
            )),
            waiting_since_ns: Cell::new(0),
            recorder: RefCell::new(Recorder::new(
                host.clone(),
                metrics.clone(),
                client.clone(),
                queue,
                key.events.access_log,
            )),
            client,
            failed: FailedCalls::default(),
            limiter: Limiter::new(host.clone(), metrics.clone(), Keys::new(id)),
            roots: Cell::new(0),
            ticked: Cell::new(false),
            serving: Cell::new(false),
            random_state: Cell::new(host.random_u64()),
            questions: Cell::new(host.random_u64()),
            role: key.role,
            host,
            metrics,
            source,
        }
    }

    /// Does what is due, at a tick of `root`; returns the time until the next tick.
    pub fn on_tick(&self, root: u32) -> Duration {
        self.ticked.set(true);
        // Before the tick of `sync`, which writes the highest event number into the slot.
        let flush = self.flush_if_due();
        let mut sync = self.sync.borrow_mut();
        let next = sync.on_tick(root);
        let sources = sync.holds_lease().then(|| sync.sources());
        drop(sync);
        let wanted = self.recorder.borrow_mut().on_tick(root, sources.as_deref());
        self.sync.borrow().show_gauges();
        self.metrics.flush();
        next.min(wanted.unwrap_or(next)).min(flush.unwrap_or(next))
    }

    /// A message arrived in a queue that `root` registered.
    pub fn on_queue_ready(&self, root: u32, queue: QueueId) {
        if !self.sync.borrow_mut().on_queue_ready(root, queue) {
            self.recorder.borrow_mut().on_queue_ready(root, queue);
        }
    }

    /// A call of a root's ended, with this status; `root` is the root whose callback runs.
    pub fn on_call_response(&self, root: u32, token: CallToken, status: Option<u16>) {
        if !self.sync.borrow_mut().on_call_response(root, token, status) {
            self.recorder.borrow_mut().on_call_response(root, token, status);
        }
    }

    /// `root` is gone. The last one closes the event buffer and releases slot and lease.
    ///
    /// Not the recorder's: Envoy removes a bootstrap extension only as it exits. Nobody reads then what is
    /// left, and a message to a queue that a worker has registered, which took the lease over, ends Envoy 1.40
    /// with a segmentation fault: the worker's thread is gone
    /// (`callOnThreadFunction` in `source/extensions/common/wasm/wasm.cc`).
    pub fn leave(&self, root: u32) {
        if self.role == Role::Recorder {
            return;
        }
        self.roots.set(self.roots.get().saturating_sub(1));
        let last = self.roots.get() == 0;
        let mut recorder = self.recorder.borrow_mut();
        recorder.root_gone(root);
        // A VM that neither ticked nor served (the canary) has written nothing to shared
        // data.
        if last && (self.ticked.get() || self.serving.get()) {
            recorder.return_to_queue();
            let mut record = self.record.borrow_mut();
            record.close();
            let mut sync = self.sync.borrow_mut();
            sync.note_numbered(record.numbered());
            sync.close();
            // A request that still comes counts as the first again.
            self.serving.set(false);
        }
        drop(recorder);
        self.sync.borrow_mut().root_gone(root);
        self.metrics.flush();
    }

    /// To be called before each request is decided: the tables may have to be brought up to
    /// date. `now_ns`: the monotonic clock.
    pub fn before_request(&self, now_ns: u64) {
        let mut sync = self.sync.borrow_mut();
        if self.serving.replace(true) { sync.before_request(now_ns) } else { sync.first_request() }
    }

    /// Reserves a number for an event that is posted before its request ends; the
    /// completed event comes to [`record`](Self::record) with that number.
    pub fn reserve(&self) -> u64 {
        self.record.borrow_mut().reserve()
    }

    /// Buffers an event, and numbers it unless it has a reserved number. True when
    /// the buffer was empty: then the caller sets a tick within [`FLUSH_EVERY`].
    pub fn record(&self, event: &mut TrafficEvent) -> bool {
        let mut record = self.record.borrow_mut();
        let first = !record.is_waiting();
        let full = record.push(event);
        drop(record);
        if first {
            self.waiting_since_ns.set(self.host.monotonic_ns());
        }
        if full {
            self.flush();
        }
        first
    }

    /// Enqueues waiting events if they have waited long enough. Returns the time until the next look; `None`
    /// if there are none. The period stays short until a tick finds no event: a busy worker does not set its
    /// timer twice per batch.
    fn flush_if_due(&self) -> Option<Duration> {
        if !self.record.borrow().is_waiting() {
            self.sync.borrow_mut().note_numbered(self.record.borrow().numbered());
            return None;
        }
        let waited_ns = self.host.monotonic_ns().saturating_sub(self.waiting_since_ns.get());
        let waited = Duration::from_nanos(waited_ns);
        if waited < FLUSH_AFTER {
            return Some(FLUSH_EVERY.saturating_sub(waited));
        }
        self.flush();
        Some(FLUSH_EVERY)
    }

    fn flush(&self) {
        let mut record = self.record.borrow_mut();
        let mut sync = self.sync.borrow_mut();
        record.flush(sync.lease_alive());
        sync.note_numbered(record.numbered());
    }

    /// Random bits to spread requests over backends, without a host call (SplitMix64).
    pub fn random_bits(&self) -> u32 {
        let state = self.random_state.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random_state.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        u32::try_from(mixed >> 32).unwrap_or_default()
    }

    /// An id for a question to the admin service: unique in this VM, and counted from a
    /// random start, so that another VM hardly has the same.
    pub fn question_id(&self) -> u64 {
        let id = self.questions.get().wrapping_add(1);
        self.questions.set(id);
        id
    }
}

/// The part of all names in shared data that stands for the admin service: a hash of
/// cluster and authority.
pub(crate) fn instance_id(admin: &Admin) -> u64 {
    let BlobHash(hash) =
        BlobHash::of(&[admin.cluster.as_bytes(), b"\0", admin.authority.as_bytes()].concat());
    u64::try_from(hash >> 64).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use tidegate_host_sim::SimHost;
    use tidegate_policy::wire::event::{BatchHead, EventPost, RECEIPT};

    use super::*;

    #[test]
    fn the_ticks_of_a_load_do_not_cut_batches() {
        let host = SimHost::alone();
        let text = br#"{"admin": {"cluster": "admin", "token": "secret"}}"#;
        let config = Config::parse(text, |_| None).unwrap();
        let instance = Worker::new(host.clone()).join(&config, Role::Gate);
        instance.on_tick(1);
        assert!(instance.sync.borrow().holds_lease());
        // The first report, which a post with events would wait for.
        for call in host.take_calls().iter().filter(|call| call.path.ends_with("/events")) {
            host.answer(Some(200), RECEIPT.to_vec());
            instance.on_call_response(1, call.token, Some(200));
        }
        let posted = (1..=100).find_map(|_| {
            instance.record(&mut TrafficEvent::default());
            host.advance(Duration::from_millis(1));
            let next = instance.on_tick(1);
            assert!(next <= FLUSH_EVERY);
            host.take_calls().into_iter().find(|call| call.path.ends_with("/events"))
        });
        let post = EventPost::from_bytes(&posted.unwrap().body).unwrap();
        let (head, events) = BatchHead::read(&post.batches[0].0).unwrap();
        assert_eq!((post.batches.len(), head.first, events), (1, 1, 25));
    }
}
