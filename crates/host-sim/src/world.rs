//! State of the emulated host: what the VMs of a process share, and the state of each VM.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::Duration;

use tidegate_host::{CallToken, Cas, HostError, MetricKind, QueueId};

use crate::phase::{CallEnd, Phase};
use crate::stream::{Done, StreamId, StreamState};

/// Number of a VM in the process; a reload makes a new one.
pub(crate) type VmIndex = usize;

/// Number of a callout in the process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CallId(pub(crate) u64);

/// A callout that has not been answered.
#[derive(Clone, Debug)]
pub struct CallView {
    /// Its number in the process.
    pub id: CallId,
    /// Its token in its VM.
    pub token: CallToken,
    /// `:method`.
    pub method: String,
    /// `:path`, with its query.
    pub path: String,
    /// All headers.
    pub headers: Vec<(String, String)>,
    /// Body.
    pub body: Vec<u8>,
    /// The root that made it, or whose request did.
    pub root: u32,
    /// The request that made it, if it was not the root itself.
    pub stream: Option<StreamId>,
    /// Its time limit; 0: none.
    pub timeout: Duration,
}

impl CallView {
    /// A header's value, as text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<String> {
        let (_, value) = self.headers.iter().find(|(other, _)| other == name)?;
        Some(value.clone())
    }
}

pub(crate) struct PendingCall {
    pub view: CallView,
    pub vm: VmIndex,
    pub deadline_ns: u64,
    /// Neither an answer nor a timeout will come.
    pub lost: bool,
}

/// A callback that is due on a thread.
pub(crate) enum Post {
    Queue {
        vm: VmIndex,
        root: u32,
        queue: QueueId,
    },
    Call {
        vm: VmIndex,
        root: u32,
        stream: Option<StreamId>,
        token: CallToken,
        end: CallEnd,
    },
    /// To a request, by [`Host::notify_request`](tidegate_host::Host::notify_request).
    Notify {
        vm: VmIndex,
        stream: StreamId,
        token: CallToken,
        status: u16,
    },
}

impl Post {
    pub fn vm(&self) -> VmIndex {
        match self {
            Self::Queue { vm, .. } | Self::Call { vm, .. } | Self::Notify { vm, .. } => *vm,
        }
    }
}

pub(crate) struct Queue {
    /// Empty once the queue is removed.
    pub name: String,
    pub messages: VecDeque<Vec<u8>>,
    /// The last root that registered; it alone is notified.
    pub registrant: Option<(VmIndex, u32)>,
}

#[derive(Default)]
pub(crate) struct VmState {
    pub trapped: bool,
    /// Host calls until it traps.
    pub fuel: Option<u64>,
    pub root: u32,
    pub phase: Phase,
    /// The request whose callback it is.
    pub stream: Option<StreamId>,
    pub root_ids: HashMap<u32, String>,
    /// Period, and when it is due. A timer is armed anew after its callback.
    pub timers: BTreeMap<u32, (Duration, u64)>,
    pub next_token: CallToken,
    pub host_calls: u64,
    pub shared_writes: u64,
    /// Attributes that it asked for.
    pub properties: u64,
}

/// The process.
pub(crate) struct World {
    pub now_ns: u64,
    /// True time.
    pub wall_us: u64,
    /// By how much the machine's clock is ahead of it.
    pub clock_ahead_us: i64,
    pub random_state: u64,
    pub shared: BTreeMap<String, (Vec<u8>, Cas)>,
    pub next_cas: Cas,
    pub queues: Vec<Queue>,
    pub posts: VecDeque<Post>,
    pub calls: Vec<PendingCall>,
    pub next_call: u64,
    pub clusters: HashSet<String>,
    /// If set, callouts are refused with this error.
    pub refuses_calls: Option<HostError>,
    /// Changes of request headers and of filter state are refused.
    pub refuses_headers: bool,
    /// The cluster's circuit breaker: callouts at once, over all workers.
    pub max_calls: usize,
    pub streams: BTreeMap<StreamId, StreamState>,
    /// For root contexts and requests of all VMs. In Envoy each VM has numbers of its own.
    pub next_context: u32,
    /// What was done to requests, if a test records that.
    pub done: Option<Vec<Done>>,
    /// What VMs did that Envoy does not tolerate.
    pub violations: Vec<String>,
    pub metrics: Vec<(String, MetricKind, u64)>,
    pub log: Vec<(log::Level, String)>,
    pub vms: Vec<VmState>,
}

impl World {
    pub fn new() -> Self {
        Self {
            // Some hours after boot, on the day this was written.
            now_ns: 10_000_000_000_000,
            wall_us: 1_795_400_000_000_000,
            clock_ahead_us: 0,
            random_state: 0x1234_5678_9abc_def1,
            shared: BTreeMap::new(),
            next_cas: 1,
            queues: Vec::new(),
            posts: VecDeque::new(),
            calls: Vec::new(),
            next_call: 1,
            clusters: HashSet::from(["admin".to_owned()]),
            refuses_calls: None,
            refuses_headers: false,
            done: None,
            max_calls: usize::MAX,
            streams: BTreeMap::new(),
            next_context: 1,
            violations: Vec::new(),
            metrics: Vec::new(),
            log: Vec::new(),
            vms: Vec::new(),
        }
    }

    /// Repeatable randomness (SplitMix64).
    pub fn random(&mut self) -> u64 {
        self.random_state = self.random_state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.random_state ^ (self.random_state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn vm(&mut self, vm: VmIndex) -> &mut VmState {
        &mut self.vms[vm]
    }

    /// The number of a new root or request.
    pub fn next_context(&mut self) -> u32 {
        let context = self.next_context;
        self.next_context += 1;
        context
    }

    /// A host write: `cas` 0 does not occur. The token of a **missing** key is
    /// not compared.
    pub fn write(&mut self, key: &str, value: &[u8], cas: Cas) -> bool {
        if self.shared.get(key).is_some_and(|(_, current)| *current != cas) {
            return false;
        }
        self.shared.insert(key.to_owned(), (value.to_vec(), self.next_cas));
        self.next_cas = self.next_cas.wrapping_add(1).max(1);
        true
    }

    /// The queue with this id, unless it is removed.
    pub fn queue(&mut self, queue: QueueId) -> Result<&mut Queue, HostError> {
        let found = self.queues.get_mut(queue as usize).filter(|queue| !queue.name.is_empty());
        found.ok_or(HostError::NotFound)
    }

    /// Notes what was done to a request, if a test records that.
    pub fn note(&mut self, done: impl FnOnce() -> Done) {
        if let Some(all) = &mut self.done {
            all.push(done());
        }
    }

    /// Ends a callout and posts its answer to the thread that made it.
    pub fn end_call(&mut self, id: CallId, end: CallEnd) -> bool {
        let Some(index) = self.calls.iter().position(|call| call.view.id == id) else { return false };
        let call = self.calls.remove(index);
        let CallView { root, stream, token, .. } = call.view;
        self.posts.push_back(Post::Call { vm: call.vm, root, stream, token, end });
        true
    }

    /// The current request in a VM's callback.
    pub fn stream_at_hand(&mut self, vm: VmIndex) -> Option<&mut StreamState> {
        let stream = self.vms.get(vm)?.stream?;
        self.streams.get_mut(&stream)
    }

    /// Ends the calls of a root context that is gone, without a callback, also those whose
    /// answers are on their way. A request keeps its root context alive, so its calls stay;
    /// without a root (`None`) all calls of the VM end.
    pub fn cancel_calls(&mut self, vm: VmIndex, root: Option<u32>) {
        let is_gone = |other_vm: VmIndex, other_root: u32, stream: Option<StreamId>| {
            other_vm == vm && root.is_none_or(|root| root == other_root && stream.is_none())
        };
        self.calls.retain(|call| !is_gone(call.vm, call.view.root, call.view.stream));
        self.posts.retain(|post| match post {
            Post::Call { vm, root, stream, .. } => !is_gone(*vm, *root, *stream),
            Post::Queue { .. } | Post::Notify { .. } => true,
        });
    }
}
