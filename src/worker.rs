//! What one VM keeps, whatever roots come and go: tables, slot, boot id, event
//! counter and sync state live here, once per admin service, and are driven by
//! whichever root ticks. Several roots share a VM: one per plugin configuration.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::Duration;

use tidegate_policy::digest::BlobHash;
use tidegate_policy::wire::event::{Source, TrafficEvent};

use crate::admin_client::AdminClient;
use crate::config::{Admin, Config, EventLimits};
use crate::host::{CallToken, Host, QueueId};
use crate::metrics::Metrics;
use crate::record::buffer::EventBuffer;
use crate::record::queue::EventQueue;
use crate::record::recorder::Recorder;
use crate::request::limiter::Limiter;
use crate::sync::{Keys, Role, Sync};

/// How long an event waits for its batch at most.
pub const FLUSH_EVERY: Duration = Duration::from_millis(50);

/// A VM's statics: in Envoy one per thread, in tests one per simulated VM.
pub struct Worker<H: Host> {
    host: H,
    metrics: RefCell<Option<Rc<Metrics<H>>>>,
    instances: RefCell<Vec<(InstanceKey, Weak<Instance<H>>)>>,
}

/// What two roots must have in common to share tables and events. A new token or
/// timeout makes a new [`Instance`] beside the old one, which ends with its last root.
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

    /// Defines the metrics at the first root, and finds them for the others.
    fn metrics(&self) -> Rc<Metrics<H>> {
        let mut metrics = self.metrics.borrow_mut();
        metrics.get_or_insert_with(|| Rc::new(Metrics::new(self.host.clone()))).clone()
    }

    /// The VM's part for this configuration, with one more root.
    pub fn join(&self, config: &Config, role: Role) -> Rc<Instance<H>> {
        let key = InstanceKey { admin: config.admin.clone(), events: config.events, role };
        let mut instances = self.instances.borrow_mut();
        instances.retain(|(_, instance)| instance.upgrade().is_some_and(|instance| instance.roots.get() > 0));
        let found =
            instances.iter().find(|(other, _)| *other == key).and_then(|(_, instance)| instance.upgrade());
        let instance = found.unwrap_or_else(|| {
            let instance = Rc::new(Instance::new(self.host.clone(), self.metrics(), &key));
            instances.push((key, Rc::downgrade(&instance)));
            instance
        });
        instance.roots.set(instance.roots.get().saturating_add(1));
        instance
    }
}

/// One admin service's tables and events in one VM.
pub struct Instance<H: Host> {
    /// The host.
    pub host: H,
    /// Metrics of the process.
    pub metrics: Rc<Metrics<H>>,
    /// The boot id: who numbers the events.
    pub source: Source,
    /// Tables, and how they come.
    pub sync: RefCell<Sync<H>>,
    /// What is used of limits.
    pub limiter: Limiter<H>,
    /// The client of the admin service.
    pub client: Rc<AdminClient<H>>,
    record: RefCell<EventBuffer<H>>,
    recorder: RefCell<Recorder<H>>,
    roots: Cell<u32>,
    ticked: Cell<bool>,
    serving: Cell<bool>,
    dice: Cell<u64>,
    questions: Cell<u64>,
}

impl<H: Host> Instance<H> {
    fn new(host: H, metrics: Rc<Metrics<H>>, key: &InstanceKey) -> Self {
        let (high, low) = (host.random_u64(), host.random_u64());
        let source = Source((u128::from(high) << 64) | u128::from(low));
        let id = instance_id(&key.admin);
        let queue = EventQueue::new(host.clone(), Keys::new(id).events(), id);
        let queue = Rc::new(queue);
        let node = host.property(&["xds", "node", "id"]).ok().flatten().unwrap_or_default();
        let client = Rc::new(AdminClient::new(host.clone(), key.admin.clone(), node));
        let sync = Sync::new(host.clone(), metrics.clone(), client.clone(), Keys::new(id), key.role, source);
        Self {
            sync: RefCell::new(sync),
            record: RefCell::new(EventBuffer::new(
                host.clone(),
                metrics.clone(),
                source,
                key.events,
                queue.clone(),
            )),
            recorder: RefCell::new(Recorder::new(host.clone(), metrics.clone(), client.clone(), queue)),
            client,
            limiter: Limiter::new(host.clone(), metrics.clone(), Keys::new(id)),
            roots: Cell::new(0),
            ticked: Cell::new(false),
            serving: Cell::new(false),
            dice: Cell::new(host.random_u64()),
            questions: Cell::new(host.random_u64()),
            host,
            metrics,
            source,
        }
    }

    /// Does what is due, driven by `root`; answers when it wants the next tick.
    pub fn on_tick(&self, root: u32) -> Duration {
        self.ticked.set(true);
        let busy = self.record.borrow().is_waiting();
        // Before the sync's tick, which writes the highest number into the slot.
        self.flush();
        let mut sync = self.sync.borrow_mut();
        let next = sync.on_tick(root);
        let sources = sync.holds_lease().then(|| sync.sources());
        drop(sync);
        let wanted = self.recorder.borrow_mut().on_tick(root, sources.as_deref());
        self.sync.borrow().show_gauges();
        self.metrics.flush();
        // Stays at the short period until a tick finds nothing: a busy worker
        // does not set its timer twice per batch.
        let flush = busy.then_some(FLUSH_EVERY);
        next.min(wanted.unwrap_or(next)).min(flush.unwrap_or(next))
    }

    /// A message arrived in a queue that `root` registered.
    pub fn on_queue_ready(&self, root: u32, queue: QueueId) {
        if !self.sync.borrow_mut().on_queue_ready(root, queue) {
            self.recorder.borrow_mut().on_queue_ready(root, queue);
        }
    }

    /// A call that `root` made was answered, or failed without an answer.
    pub fn on_call_response(&self, root: u32, token: CallToken) {
        if !self.sync.borrow_mut().on_call_response(token) {
            self.recorder.borrow_mut().on_call_response(root, token);
        }
    }

    /// `root` is gone; with the last one the events end.
    pub fn leave(&self, root: u32) {
        self.roots.set(self.roots.get().saturating_sub(1));
        let last = self.roots.get() == 0;
        let mut recorder = self.recorder.borrow_mut();
        recorder.root_gone(root);
        // A VM that never ticked nor served (the canary) told nobody that it was
        // there.
        if last && (self.ticked.get() || self.serving.get()) {
            recorder.hand_back();
            let mut record = self.record.borrow_mut();
            record.close();
            let mut sync = self.sync.borrow_mut();
            sync.note_numbered(record.numbered());
            sync.close();
            // Should a request come all the same, it is the first again.
            self.serving.set(false);
        }
        drop(recorder);
        self.sync.borrow_mut().root_gone(root);
        self.metrics.flush();
    }

    /// A request is about to be decided. `now_ns`: the monotonic clock.
    pub fn before_request(&self, now_ns: u64) {
        let mut sync = self.sync.borrow_mut();
        if self.serving.replace(true) { sync.before_request(now_ns) } else { sync.first_request() }
    }

    /// Gives a number to an event that is sent ahead; its completion comes to
    /// [`record`](Self::record) under it.
    pub fn reserve(&self) -> u64 {
        self.record.borrow_mut().reserve()
    }

    /// Keeps an event, and numbers it unless it has a reserved number. True when
    /// it is the first that waits: then somebody has to see to a tick within
    /// [`FLUSH_EVERY`].
    pub fn record(&self, event: &mut TrafficEvent) -> bool {
        let mut record = self.record.borrow_mut();
        let first = !record.is_waiting();
        let full = record.push(event);
        drop(record);
        if full {
            self.flush();
        }
        first
    }

    fn flush(&self) {
        let mut record = self.record.borrow_mut();
        let mut sync = self.sync.borrow_mut();
        record.flush(sync.lease_alive());
        sync.note_numbered(record.numbered());
    }

    /// Random enough to spread requests over backends, and free (SplitMix64).
    pub fn dice(&self) -> u32 {
        let state = self.dice.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.dice.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        u32::try_from(mixed >> 32).unwrap_or_default()
    }

    /// An id that no other question of this VM has, and hardly one of another.
    pub fn question_id(&self) -> u64 {
        let id = self.questions.get().wrapping_add(1);
        self.questions.set(id);
        id
    }
}

/// The admin service's part of all names in shared data.
pub(crate) fn instance_id(admin: &Admin) -> u64 {
    let BlobHash(hash) =
        BlobHash::of(&[admin.cluster.as_bytes(), b"\0", admin.authority.as_bytes()].concat());
    u64::try_from(hash >> 64).unwrap_or_default()
}
