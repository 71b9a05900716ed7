//! Tables: how they come from the admin service into every VM of a process.
//!
//! One VM holds the **lease**: it polls the admin service, publishes to shared
//! data, and wakes the others. Every VM has a **slot**, loads what is published
//! into its own memory, and writes the version that it enforces into its slot; the
//! holder acks the oldest of these to the admin service. `docs/ARCHITECTURE.md`, "A
//! table change".
//!
//! All work is done at ticks; wake-ups only make it faster. So nothing is lost
//! with a lost wake-up, callout or root context.

mod fetch;
#[cfg(test)]
pub(crate) mod fixtures;
pub mod load;
pub mod publish;
pub mod shared;
pub mod snapshot;

use std::rc::Rc;
use std::time::Duration;

use tidegate_policy::UnixSeconds;
use tidegate_policy::decide::Tables;
use tidegate_policy::wire::event::{SourceReport, SourceState, VmId};

use crate::admin_client::AdminClient;
use crate::host::{CallToken, Expect, Host, QueueId};
use crate::metrics::{Count, Gauge, Metrics};
use fetch::calls::SyncCalls;
use fetch::lease_holder::{HolderContext, LeaseHolder, Progress};
use load::table_loader::TableLoader;
pub use shared::keys::Keys;
use shared::lease::LeaseView;
pub use shared::lease::Role;
use shared::service_clock::ServiceClock;
use shared::slots::{self, OwnSlot};
use shared::wake::{OwnQueue, Waker};

/// Time between ticks while no work is pending.
const TICK: Duration = Duration::from_millis(250);
/// Time between ticks while a load or a publish is under way.
const BUSY_TICK: Duration = Duration::from_millis(1);
/// The longest work in one callback: the worker's requests wait for it. So publishing, applying
/// an answer and loading are done in steps of one host call or some 4,096 entries. Not cut into
/// steps are the decoding of one answer (4 MiB at most), the sorting of its changes if they do
/// not come in order, and of a route table the decoding and each of its lists (with 10,000
/// routes the longest step takes some 1 ms: `docs/PERFORMANCE.md`, "The matcher").
const BUDGET_NS: u64 = 2_000_000;
/// The most steps of work in one callback, in case the clock stands still.
const BUDGET_STEPS: u32 = 32;
/// The least time between two heartbeats of a slot: several root contexts of a VM tick.
const HEARTBEAT_NS: u64 = 200_000_000;
/// A VM whose last heartbeat is older than this loads what is published before it
/// decides: half of the age at which its slot is stale.
const CATCH_UP_AFTER_NS: u64 = 1_000_000_000;

/// One VM's part in fetching, publishing and loading tables.
pub struct TableSync<H> {
    host: H,
    metrics: Rc<Metrics<H>>,
    client: Rc<AdminClient<H>>,
    keys: Keys,
    source: VmId,
    slot: OwnSlot,
    queue: OwnQueue,
    waker: Waker,
    lease: LeaseView,
    loader: TableLoader,
    holder: Option<LeaseHolder>,
    wants_tick: bool,
}

impl<H: Host> TableSync<H> {
    /// That of the VM `source`. Makes no host call.
    pub fn new(
        host: H,
        metrics: Rc<Metrics<H>>,
        client: Rc<AdminClient<H>>,
        keys: Keys,
        role: Role,
        source: VmId,
    ) -> Self {
        Self {
            metrics,
            client,
            keys,
            slot: OwnSlot::new(source),
            queue: OwnQueue::default(),
            waker: Waker::default(),
            lease: LeaseView::new(source, role),
            loader: TableLoader::default(),
            holder: None,
            wants_tick: false,
            host,
            source,
        }
    }

    /// Loads what is published before it returns, and writes nothing to shared data: for
    /// `on_configure`, which the canary runs too. So a VM that replaces one that trapped has
    /// tables at its first request.
    pub fn load_now(&mut self) {
        self.loader.load_published_now(&self.host, &self.keys, &self.metrics);
        if let Some(loaded) = self.loader.loaded() {
            self.slot.set_enforced(loaded.tables.version, loaded.refresh);
        }
    }

    /// Does what is due, at a tick of `root`; returns the time until the next tick.
    pub fn on_tick(&mut self, root: u32) -> Duration {
        self.wants_tick = false;
        self.catch_up_after_pause();
        self.read_process_id();
        self.write_heartbeat();
        if let Some(slot) = self.slot.index()
            && let Some(gone) = self.queue.register_if_needed(&self.host, &self.keys, root, slot)
        {
            self.root_gone(gone);
        }
        self.queue.drain(&self.host);
        self.keep_lease();
        self.loader.check_manifest(&self.host, &self.keys);
        self.with_holder(root, |holder, context| holder.expire_calls(context));
        let busy = self.work(root);
        self.next_tick(busy)
    }

    fn next_tick(&self, busy: Progress) -> Duration {
        if busy == Progress::Pending {
            return BUSY_TICK;
        }
        let now = self.host.monotonic_ns();
        let next = self.holder.as_ref().and_then(|holder| holder.next_try_ns(now));
        next.map_or(TICK, |next| Duration::from_nanos(next).clamp(BUSY_TICK, TICK))
    }

    /// A message arrived in `queue`. True when that is this VM's wake-up queue.
    pub fn on_queue_ready(&mut self, root: u32, queue: QueueId) -> bool {
        if !self.queue.is(queue) {
            return false;
        }
        self.queue.drain(&self.host);
        self.catch_up_after_pause();
        self.loader.check_manifest(&self.host, &self.keys);
        self.work_and_go_on(root);
        true
    }

    /// Wakes this VM itself, in a later turn of the thread's event loop. False: it is woken by
    /// nothing but its next tick.
    pub fn wake_itself(&self) -> bool {
        self.queue.wake_itself(&self.host)
    }

    /// A call ended, with this status; `root` is the root whose callback runs. True when it
    /// was made here.
    pub fn on_call_response(&mut self, root: u32, token: CallToken, status: Option<u16>) -> bool {
        let is_ours = self
            .with_holder(root, |holder, context| holder.on_call_response(token, status, context))
            .unwrap_or_default();
        if !is_ours {
            return false;
        }
        self.work_and_go_on(root);
        true
    }

    /// `root` is gone, with its calls and its registrations: the next tick of
    /// any root takes over.
    pub fn root_gone(&mut self, root: u32) {
        self.queue.root_gone(root);
        if let Some(holder) = &mut self.holder {
            holder.root_gone(root);
        }
    }

    /// The VM's last root is gone: no request is decided by its tables any more, so
    /// acks need not wait for it, nor the other VMs for its lease to end.
    pub fn close(&mut self) {
        self.lease.give_up(&self.host, &self.keys);
        self.holder = None;
        self.slot.close(&self.host, &self.keys, &self.metrics);
    }

    /// The VM's first request is about to be decided. The slot is marked as serving
    /// **before** the manifest is read: acks are right only in this order (see
    /// [`slots::Slot::serving`]).
    pub fn first_request(&mut self) {
        // The first request may come before the first tick, and questions to the admin
        // service need the process's id.
        self.read_process_id();
        self.slot.set_serving();
        self.catch_up();
    }

    /// A request is about to be decided; `now_ns` is the monotonic clock. Makes no host call
    /// unless this VM's last heartbeat is more than a second ago: acks may then no longer
    /// wait for it, so it writes its slot and loads what is published. The look at the
    /// manifest is one host call; a whole base is read only if one was published meanwhile.
    pub fn before_request(&mut self, now_ns: u64) {
        if now_ns.saturating_sub(self.slot.heartbeat_ns()) > CATCH_UP_AFTER_NS {
            self.catch_up();
        }
    }

    /// Before the first heartbeat after a pause: versions may have been acked without
    /// this VM, so it loads what is published before this callback ends. If it loaded in
    /// steps, it would count as alive meanwhile and decide by older tables.
    fn catch_up_after_pause(&mut self) {
        let silent_ns = self.host.monotonic_ns().saturating_sub(self.slot.heartbeat_ns());
        if self.slot.index().is_some() && silent_ns > CATCH_UP_AFTER_NS {
            self.catch_up();
        }
    }

    fn catch_up(&mut self) {
        self.slot.write(&self.host, &self.keys, &self.metrics);
        if self.loader.load_published_now(&self.host, &self.keys, &self.metrics) {
            self.on_tables_changed();
        }
    }

    /// The tables in force; `None` while nothing was ever published.
    #[must_use]
    pub fn tables(&self) -> Option<Rc<Tables>> {
        self.loader.tables()
    }

    /// Whether this VM holds the lease: polls, publishes, and drains the events queue.
    #[must_use]
    pub fn holds_lease(&self) -> bool {
        self.lease.fence().is_some()
    }

    /// Whether some VM of the process holds the lease, when last looked at.
    #[must_use]
    pub fn lease_alive(&self) -> bool {
        self.lease.is_alive(self.host.monotonic_ns())
    }

    /// Notes the highest event number; the next heartbeat writes it to the slot.
    pub fn note_numbered(&mut self, hi: u64) {
        self.slot.note_numbered(hi);
    }

    /// Every VM of the process, by its slot. `Dead`: no heartbeat for 10 s; the caller
    /// drains the queue before it reports that.
    #[must_use]
    pub fn sources(&self) -> Vec<SourceReport> {
        let now = self.host.monotonic_ns();
        let slots = slots::all(&self.host, &self.keys);
        let report = |source, numbered_hi, state| SourceReport { source, numbered_hi, state };
        let mut reports: Vec<SourceReport> = slots
            .iter()
            .filter(|(_, slot)| slot.source != VmId::default())
            .map(|(_, slot)| match slot.is_free(now) {
                true => report(slot.source, slot.numbered_hi, SourceState::Dead),
                false => report(slot.source, slot.numbered_hi, SourceState::Alive),
            })
            .collect();
        for (source, hi) in slots.iter().filter_map(|(_, slot)| slot.before) {
            // A VM may have claimed another slot after it lost this one.
            if !reports.iter().any(|report| report.source == source) {
                reports.push(report(source, hi, SourceState::Dead));
            }
        }
        reports
    }

    /// The time by which entries expire: the admin service's clock at its last answer, and what
    /// this machine's monotonic clock has counted since. This machine's own time only before the
    /// first answer, when there is no entry.
    #[must_use]
    pub fn now(&self) -> UnixSeconds {
        let now_ns = self.host.monotonic_ns();
        let ms = self.clock(now_ns).at(now_ns).unwrap_or_else(|| self.host.wall_us() / 1_000);
        UnixSeconds::try_from(ms / 1_000).unwrap_or(UnixSeconds::MAX)
    }

    /// The last that this VM knows of the admin service's clock. One that was heard in the future
    /// was not written by a gate.
    fn clock(&self, now_ns: u64) -> ServiceClock {
        let loaded = self.loader.loaded().map(|loaded| loaded.clock);
        let (lease, holder) = (self.lease.seen(), self.holder.as_ref());
        let known =
            loaded.into_iter().chain(lease.map(|lease| lease.clock)).chain(holder.map(|holder| holder.clock));
        known.filter(|clock| clock.heard_ns <= now_ns).fold(ServiceClock::default(), ServiceClock::newer)
    }

    /// Sets the gauges of the tables' age and contents, and of the lease.
    pub fn show_gauges(&self) {
        let now_ns = self.host.monotonic_ns();
        let heard_ns = self.clock(now_ns).heard_ns;
        if heard_ns > 0 {
            let age = Duration::from_nanos(now_ns.saturating_sub(heard_ns));
            self.metrics.set(Gauge::TablesAge, age.as_secs());
        }
        self.metrics.set(Gauge::LeaseAlive, u64::from(self.lease_alive()));
        if let Some(tables) = self.tables() {
            self.metrics.set(Gauge::TablesSeq, tables.version.seq);
            self.metrics.set_entries(&tables.entries());
            self.metrics.set_flags(&tables.flags);
        }
    }

    /// Reads the process's id, or makes it, for the client's gateway header.
    fn read_process_id(&self) {
        if self.client.is_identified() {
            return;
        }
        let key = self.keys.process();
        // Zero would be a valid id, but looks like a missing one.
        let fresh = self.host.random_u64().max(1).to_le_bytes();
        // Refused if there is one, which is then read.
        let _ = self.host.shared_set(&key, &fresh, Expect::Absent);
        if let Ok(Some((bytes, _))) = self.host.shared_get(&key)
            && let Some(process) = bytes.first_chunk()
        {
            self.client.identify(u64::from_le_bytes(*process));
        }
    }

    fn write_heartbeat(&mut self) {
        let age = self.host.monotonic_ns().saturating_sub(self.slot.heartbeat_ns());
        if self.slot.index().is_none() || age >= HEARTBEAT_NS {
            self.slot.write(&self.host, &self.keys, &self.metrics);
        }
    }

    fn keep_lease(&mut self) {
        let higher_fence = self.holder.as_mut().and_then(|holder| holder.higher_fence.take());
        if let Some(fence) = higher_fence {
            self.metrics.count(Count::Outranked);
            self.lease.lose_to(fence);
        }
        let clock = self.holder.as_ref().map_or_else(ServiceClock::default, |holder| holder.clock);
        self.lease.tick(&self.host, &self.keys, &self.metrics, self.slot.index(), clock);
        match (self.lease.fence(), &self.holder) {
            (Some(fence), Some(holder)) if holder.fence() == fence => {}
            // Calls of the previous holder stay open; their answers are ignored.
            (Some(fence), _) => self.holder = Some(LeaseHolder::new(fence)),
            (None, _) => self.holder = None,
        }
    }

    fn with_holder<T>(
        &mut self,
        root: u32,
        act: impl FnOnce(&mut LeaseHolder, &mut HolderContext<'_, H>) -> T,
    ) -> Option<T> {
        let holder = self.holder.as_mut().filter(|_| self.client.is_identified())?;
        let calls = SyncCalls { host: &self.host, client: &self.client, root };
        let mut context = HolderContext {
            calls,
            keys: &self.keys,
            metrics: &self.metrics,
            role: self.lease.role(),
            own: self.slot.index(),
            loader: &mut self.loader,
        };
        Some(act(holder, &mut context))
    }

    /// Does pending work within the bounds of one callback; then the holder looks at the
    /// slots.
    fn work(&mut self, root: u32) -> Progress {
        let until = self.host.monotonic_ns().saturating_add(BUDGET_NS);
        let mut busy = Progress::Pending;
        for _ in 0..BUDGET_STEPS {
            busy = self.step(root);
            if busy == Progress::Waiting || self.host.monotonic_ns() > until {
                break;
            }
        }
        self.with_holder(root, |holder, context| holder.wake_and_ack(context));
        busy
    }

    fn step(&mut self, root: u32) -> Progress {
        let before = self.loader.loaded().cloned();
        let mut busy = Progress::Waiting;
        if self.loader.is_loading() {
            if self.loader.step(&self.host, &self.keys, &self.metrics) {
                // Something newer may have been published meanwhile, and its
                // wake-up may have come during this load.
                self.loader.check_manifest(&self.host, &self.keys);
            }
            busy = Progress::Pending;
        } else if let Some(holder_busy) = self.with_holder(root, LeaseHolder::step) {
            busy = holder_busy;
        }
        if self.loader.loaded().map(Rc::as_ptr) != before.as_ref().map(Rc::as_ptr) {
            self.on_tables_changed();
        }
        busy
    }

    /// For callbacks that no tick follows soon: has the rest of the work done later. A worker's requests
    /// must not wait for all of it, and Envoy runs what a thread queues for itself before it looks at
    /// its connections again: so a worker goes on at its tick ([`Self::wants_tick`]). On the main
    /// thread, where the recorder is, nobody waits, and a wake-up is faster.
    fn work_and_go_on(&mut self, root: u32) {
        if self.work(root) == Progress::Waiting {
            return;
        }
        match (self.lease.role(), self.slot.index()) {
            (Role::Recorder, Some(own)) => self.waker.wake_always(&self.host, &self.keys, own),
            _ => self.wants_tick = true,
        }
    }

    /// Whether work is left over for a tick that is to come soon.
    #[must_use]
    pub fn wants_tick(&self) -> bool {
        self.wants_tick
    }

    /// Other tables are in force: writes that to the slot, and wakes the holder of the
    /// lease.
    fn on_tables_changed(&mut self) {
        let Some(loaded) = self.loader.loaded() else { return };
        self.slot.set_enforced(loaded.tables.version, loaded.refresh);
        self.slot.write(&self.host, &self.keys, &self.metrics);
        let holder = self.lease.seen().filter(|lease| lease.source != self.source);
        if let Some(slot) = holder.and_then(|lease| lease.slot) {
            self.waker.wake_always(&self.host, &self.keys, slot);
        }
    }
}
