//! The emulated Envoy process: workers and their root contexts, time, callouts.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::time::Duration;

use proxy_wasm::traits::{Context, HttpContext, RootContext};

use tidegate_host::HostError;

use crate::host::{SimHost, Trap};
use crate::phase::{CallEnd, Phase};
use crate::stream::StreamId;
use crate::world::{CallId, CallView, Post, VmIndex, VmState, World};

/// A thread with one VM, which may trap and be loaded anew.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Worker(pub(crate) usize);

/// A root context, numbered through the process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Root(pub(crate) u32);

/// The module that VMs run: loaded into one, it makes its root contexts by their numbers.
pub type Module = fn(SimHost) -> NewRoot;

/// Makes a root context of its VM, as the callback that `proxy_wasm::set_root_context` is
/// given does.
pub type NewRoot = Box<dyn Fn(u32) -> Box<dyn RootContext>>;

pub(crate) struct Thread {
    pub vm: VmIndex,
    pub new_root: NewRoot,
    pub roots: BTreeMap<u32, Box<dyn RootContext>>,
    /// Root id and configuration of each root context, for a reload.
    plugins: BTreeMap<u32, (String, String)>,
    stalled: bool,
    loaded_ns: u64,
}

/// A request that is not over.
pub(crate) struct Live {
    pub vm: VmIndex,
    pub root: u32,
    /// The HTTP context; gone with its VM.
    pub guest: Option<Box<dyn HttpContext>>,
}

/// One Envoy process.
pub struct Sim {
    pub(crate) world: Rc<RefCell<World>>,
    pub(crate) threads: Vec<Thread>,
    pub(crate) streams: BTreeMap<StreamId, Live>,
    module: Module,
}

/// Between a VM's load and its reload after a trap.
const RELOAD_BACKOFF_NS: u64 = 1_000_000_000;

impl Sim {
    /// A process without workers, in which the cluster `admin` exists.
    #[must_use]
    pub fn new(module: Module) -> Self {
        let world = Rc::new(RefCell::new(World::new()));
        Self { world, threads: Vec::new(), streams: BTreeMap::new(), module }
    }

    fn new_vm(&self) -> (VmIndex, NewRoot) {
        let vm = {
            let mut world = self.world.borrow_mut();
            world.vms.push(VmState::default());
            world.vms.len() - 1
        };
        (vm, (self.module)(SimHost { world: self.world.clone(), vm }))
    }

    /// Adds a thread with a VM that has no root context yet. The main thread is one that
    /// never gets a request.
    pub fn worker(&mut self) -> Worker {
        let (vm, new_root) = self.new_vm();
        let loaded_ns = self.world.borrow().now_ns;
        let (roots, plugins) = (BTreeMap::new(), BTreeMap::new());
        self.threads.push(Thread { vm, new_root, roots, plugins, stalled: false, loaded_ns });
        Worker(self.threads.len() - 1)
    }

    /// Configures one more root on a worker; false when it is refused.
    pub fn root(&mut self, worker: Worker, root_id: &str, configuration: &str) -> (Root, bool) {
        let root = self.world.borrow_mut().next_context();
        let plugin = (root_id.to_owned(), configuration.to_owned());
        self.threads[worker.0].plugins.insert(root, plugin);
        let accepted = self.configure(worker.0, root);
        (Root(root), accepted)
    }

    fn configure(&mut self, thread: usize, root: u32) -> bool {
        let (root_id, configuration) = self.threads[thread].plugins[&root].clone();
        let vm = self.threads[thread].vm;
        self.world.borrow_mut().vm(vm).root_ids.insert(root, root_id);
        let mut context = (self.threads[thread].new_root)(root);
        let len = configuration.len();
        let phase = Phase::Configure(configuration.into_bytes());
        let accepted = self.callback(vm, root, phase, || context.on_configure(len));
        self.threads[thread].roots.insert(root, context);
        accepted.unwrap_or(false)
    }

    /// Tries a configuration in a canary, a VM that Envoy throws away; it never ticks, and
    /// ends without a callback.
    pub fn canary(&mut self, root_id: &str, configuration: &str) -> bool {
        let worker = self.worker();
        let (root, accepted) = self.root(worker, root_id, configuration);
        let thread = &mut self.threads[worker.0];
        thread.stalled = true;
        // Envoy frees it without a callback.
        if let Some(context) = thread.roots.remove(&root.0) {
            std::mem::forget(context);
        }
        self.world.borrow_mut().vm(self.threads[worker.0].vm).timers.clear();
        accepted
    }

    /// Removes the configuration of a root context: `on_done`, and its calls end without a
    /// callback. Its queues stay registered to it, so no root is notified of them.
    pub fn drop_root(&mut self, worker: Worker, root: Root) {
        let vm = self.threads[worker.0].vm;
        self.threads[worker.0].plugins.remove(&root.0);
        if let Some(mut context) = self.threads[worker.0].roots.remove(&root.0) {
            self.callback(vm, root.0, Phase::None, || context.on_done());
        }
        let mut world = self.world.borrow_mut();
        world.vm(vm).timers.remove(&root.0);
        world.cancel_calls(vm, Some(root.0));
    }

    /// Kills the VM of a worker: it gets no further callback. Shared data and queues stay.
    pub fn trap(&mut self, worker: Worker) {
        self.kill(self.threads[worker.0].vm);
    }

    /// Makes the VM trap at its `calls`th host call from now.
    pub fn trap_after(&mut self, worker: Worker, calls: u64) {
        let vm = self.threads[worker.0].vm;
        self.world.borrow_mut().vm(vm).fuel = Some(calls);
    }

    /// Takes back a [`trap_after`](Self::trap_after) that has not happened yet.
    pub fn spare(&mut self, worker: Worker) {
        let vm = self.threads[worker.0].vm;
        self.world.borrow_mut().vm(vm).fuel = None;
    }

    fn kill(&mut self, vm: VmIndex) {
        {
            let mut world = self.world.borrow_mut();
            world.vm(vm).trapped = true;
            world.vm(vm).timers.clear();
            world.cancel_calls(vm, None);
        }
        self.fail_streams(vm);
    }

    /// Whether the worker's VM is dead.
    #[must_use]
    pub fn is_trapped(&self, worker: Worker) -> bool {
        self.world.borrow().vms[self.threads[worker.0].vm].trapped
    }

    /// Stalls the thread until it is resumed; its callbacks wait.
    pub fn stall(&mut self, worker: Worker) {
        self.threads[worker.0].stalled = true;
    }

    /// Resumes a stalled thread.
    pub fn resume(&mut self, worker: Worker) {
        self.threads[worker.0].stalled = false;
    }

    /// Runs a callback of a VM; `None` when the VM is dead, or traps in it.
    pub(crate) fn callback<T>(
        &mut self,
        vm: VmIndex,
        root: u32,
        phase: Phase,
        call: impl FnOnce() -> T,
    ) -> Option<T> {
        {
            let mut world = self.world.borrow_mut();
            let state = world.vm(vm);
            if state.trapped {
                return None;
            }
            (state.root, state.phase) = (root, phase);
        }
        match catch_unwind(AssertUnwindSafe(call)) {
            Ok(value) => {
                self.world.borrow_mut().vm(vm).phase = Phase::None;
                Some(value)
            }
            Err(panic) if panic.is::<Trap>() => {
                self.kill(vm);
                None
            }
            Err(panic) => resume_unwind(panic),
        }
    }

    fn thread_of(&self, vm: VmIndex) -> Option<usize> {
        self.threads.iter().position(|thread| thread.vm == vm)
    }

    fn is_stalled(&self, vm: VmIndex) -> bool {
        self.thread_of(vm).is_some_and(|thread| self.threads[thread].stalled)
    }

    /// Delivers what is due now, in order, until nothing is left; returns how many
    /// callbacks ran.
    ///
    /// # Panics
    /// When it never ends: VMs that wake each other in circles.
    pub fn settle(&mut self) -> usize {
        for ran in 0..200_000 {
            if !self.deliver() {
                return ran;
            }
        }
        panic!("200,000 callbacks at one instant: VMs wake each other in circles");
    }

    /// Delivers the next callback that is due; false when none is.
    pub fn deliver(&mut self) -> bool {
        let next = {
            let world = self.world.borrow();
            world.posts.iter().position(|post| !self.is_stalled(post.vm()))
        };
        let Some(post) = next.and_then(|next| self.world.borrow_mut().posts.remove(next)) else {
            return false;
        };
        let Some(thread) = self.thread_of(post.vm()) else { return true };
        let vm = post.vm();
        match post {
            Post::Queue { root, queue, .. } => {
                self.in_root(thread, vm, root, Phase::None, |context| context.on_queue_ready(queue));
            }
            Post::Notify { stream, token, status, .. } => {
                self.answer_stream(stream, Phase::Notified, |context| {
                    context.on_foreign_function(token, status.into());
                });
            }
            Post::Call { root, stream, token, end, .. } => {
                let (headers, body) = match &end {
                    CallEnd::Answer { body, .. } => (3, body.len()),
                    CallEnd::Failure => (0, 0),
                };
                let answer = move |context: &mut dyn Context| {
                    context.on_http_call_response(token, headers, body, 0);
                };
                let phase = Phase::CallResponse(end);
                match stream {
                    Some(stream) => self.answer_stream(stream, phase, answer),
                    None => self.in_root(thread, vm, root, phase, |context| answer(context)),
                }
            }
        }
        true
    }

    /// Runs a callback of a root context, if it is there.
    pub(crate) fn in_root(
        &mut self,
        thread: usize,
        vm: VmIndex,
        root: u32,
        phase: Phase,
        call: impl FnOnce(&mut dyn RootContext),
    ) {
        // What is on its way to a root context that is gone is dropped.
        let Some(mut context) = self.threads[thread].roots.remove(&root) else { return };
        self.callback(vm, root, phase, || call(&mut *context));
        self.threads[thread].roots.insert(root, context);
    }

    /// Moves the clock, and fires timers and timeouts in their order.
    pub fn advance(&mut self, by: Duration) {
        let target = self.world.borrow().now_ns + by.as_nanos() as u64;
        self.settle();
        while self.next_due().is_some_and(|due| due <= target) {
            self.step_time();
        }
        self.move_to(target);
    }

    /// Moves the clock to the next timer or timeout, and fires it.
    pub fn step_time(&mut self) {
        let Some(due) = self.next_due() else { return };
        self.move_to(due);
        self.fire();
        self.settle();
    }

    fn move_to(&mut self, at_ns: u64) {
        let mut world = self.world.borrow_mut();
        let by = at_ns.saturating_sub(world.now_ns);
        world.now_ns += by;
        world.wall_us += by / 1_000;
    }

    /// Sets the machine's wall clock so many milliseconds ahead of true time, or behind it. Its
    /// monotonic clock goes on.
    pub fn set_clock_ahead(&mut self, ms: i64) {
        self.world.borrow_mut().clock_ahead_us = ms * 1_000;
    }

    /// When something is due next, monotonic nanoseconds.
    pub(crate) fn next_due(&self) -> Option<u64> {
        let world = self.world.borrow();
        let live = self.threads.iter().filter(|thread| !thread.stalled);
        let timers = live.flat_map(|thread| world.vms[thread.vm].timers.values().map(|(_, due)| *due));
        let calls = world.calls.iter().filter(|call| !call.lost).map(|call| call.deadline_ns);
        timers.chain(calls).filter(|due| *due < u64::MAX).min()
    }

    fn fire(&mut self) {
        let now = self.world.borrow().now_ns;
        let late = |world: &World| {
            world.calls.iter().find(|call| !call.lost && call.deadline_ns <= now).map(|call| call.view.id)
        };
        while let Some(id) = { late(&self.world.borrow()) } {
            // Envoy reports a timeout as an ordinary answer.
            self.world.borrow_mut().end_call(id, CallEnd::own(504));
        }
        for thread in 0..self.threads.len() {
            let vm = self.threads[thread].vm;
            let due: Vec<u32> = {
                let world = self.world.borrow();
                let timers = world.vms[vm].timers.iter();
                timers.filter(|(_, (_, due))| *due <= now).map(|(root, _)| *root).collect()
            };
            let due = if self.threads[thread].stalled { Vec::new() } else { due };
            for root in due {
                self.in_root(thread, vm, root, Phase::None, |context| context.on_tick());
                // Set anew after the callback, with the period of that moment.
                if let Some((period, due)) = self.world.borrow_mut().vm(vm).timers.get_mut(&root) {
                    *due = now + period.as_nanos() as u64;
                }
            }
        }
    }

    /// Callouts that wait for an answer.
    #[must_use]
    pub fn calls(&self) -> Vec<CallView> {
        self.world.borrow().calls.iter().filter(|call| !call.lost).map(|call| call.view.clone()).collect()
    }

    /// Answers a callout without a header that only the admin service sets, as Envoy and others
    /// do in its place; false when it has ended.
    pub fn answer(&mut self, call: CallId, status: u16, body: &[u8]) -> bool {
        self.answer_with(call, status, &[], body)
    }

    /// Answers a callout with headers; false when it has ended.
    pub fn answer_with(
        &mut self,
        call: CallId,
        status: u16,
        headers: &[(String, String)],
        body: &[u8],
    ) -> bool {
        let end = CallEnd::Answer { status, headers: headers.to_vec(), body: body.to_vec() };
        self.world.borrow_mut().end_call(call, end)
    }

    /// Lets a callout fail without an answer: zero headers.
    pub fn fail(&mut self, call: CallId) -> bool {
        self.world.borrow_mut().end_call(call, CallEnd::Failure)
    }

    /// Loses a callout: it gets neither an answer nor a timeout.
    pub fn lose(&mut self, call: CallId) {
        for pending in &mut self.world.borrow_mut().calls {
            pending.lost |= pending.view.id == call;
        }
    }

    /// Whether the host refuses new callouts (no healthy host).
    pub fn refuse_calls(&mut self, refuse: bool) {
        self.world.borrow_mut().refuses_calls = refuse.then_some(HostError::Refused);
    }

    /// The cluster's circuit breaker: so many callouts at once, over all workers.
    pub fn limit_calls(&mut self, max: usize) {
        self.world.borrow_mut().max_calls = max;
    }

    /// Whether the cluster `admin` is known.
    pub fn know_cluster(&mut self, known: bool) {
        let clusters = &mut self.world.borrow_mut().clusters;
        if known {
            clusters.insert("admin".to_owned())
        } else {
            clusters.remove("admin")
        };
    }

    /// Loads a dead VM anew, with the root context that a request came for and no other.
    pub(crate) fn reload_if_dead(&mut self, thread: usize, root: u32) {
        let now = self.world.borrow().now_ns;
        let dead = self.world.borrow().vms[self.threads[thread].vm].trapped;
        if !dead || now - self.threads[thread].loaded_ns < RELOAD_BACKOFF_NS {
            return;
        }
        let (vm, new_root) = self.new_vm();
        let thread_state = &mut self.threads[thread];
        (thread_state.vm, thread_state.new_root, thread_state.loaded_ns) = (vm, new_root, now);
        for (_, context) in std::mem::take(&mut thread_state.roots) {
            // The guest's memory is gone: no destructor of it may run.
            std::mem::forget(context);
        }
        self.configure(thread, root);
    }
}
