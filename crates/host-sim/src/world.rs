//! What the VMs of a process share, and what the host keeps of each VM.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::Duration;

use tidegate::host::{CallToken, Cas, HeaderPairs, MetricKind, QueueId};

/// A VM, numbered through all lives of all workers.
pub(crate) type VmId = usize;

/// A callout, numbered through the process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CallId(pub(crate) u64);

/// A callout that has not been answered.
#[derive(Clone, Debug)]
pub struct CallView {
    /// Names it.
    pub id: CallId,
    /// `:method`.
    pub method: String,
    /// `:path`, with its query.
    pub path: String,
    /// All headers.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Body.
    pub body: Vec<u8>,
    /// The root that made it.
    pub root: u32,
}

impl CallView {
    /// A header's value, as text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<String> {
        let (_, value) = self.headers.iter().find(|(other, _)| other == name)?;
        Some(String::from_utf8_lossy(value).into_owned())
    }
}

pub(crate) struct PendingCall {
    pub view: CallView,
    pub vm: VmId,
    pub token: CallToken,
    pub deadline_ns: u64,
    /// Neither an answer nor a timeout will come.
    pub lost: bool,
}

/// How a callout ends.
#[derive(Clone, Debug)]
pub(crate) enum CallEnd {
    Answer {
        status: u16,
        body: Vec<u8>,
    },
    /// Zero headers: getters answer `BadArgument`.
    Failure,
}

/// What a dispatcher has still to run.
pub(crate) enum Post {
    Queue { vm: VmId, root: u32, queue: QueueId },
    Call { vm: VmId, root: u32, token: CallToken, end: CallEnd },
}

impl Post {
    pub fn vm(&self) -> VmId {
        match self {
            Self::Queue { vm, .. } | Self::Call { vm, .. } => *vm,
        }
    }
}

pub(crate) struct Queue {
    pub name: String,
    pub messages: VecDeque<Vec<u8>>,
    /// The last root that registered; it alone is notified.
    pub registrant: Option<(VmId, u32)>,
}

/// Which callback a VM is in.
#[derive(Clone, Debug, Default)]
pub(crate) enum Phase {
    #[default]
    None,
    Configure(Vec<u8>),
    CallResponse(CallEnd),
    RequestHeaders,
    Log,
}

/// The stream at hand.
#[derive(Clone, Debug, Default)]
pub(crate) struct StreamState {
    pub headers: HeaderPairs,
    pub properties: HashMap<String, Vec<u8>>,
    pub reply: Option<(u16, String, Vec<u8>)>,
}

#[derive(Default)]
pub(crate) struct VmState {
    pub trapped: bool,
    /// Host calls until it traps.
    pub fuel: Option<u64>,
    pub root: u32,
    pub phase: Phase,
    pub stream: StreamState,
    pub root_ids: HashMap<u32, String>,
    /// Period, and when it is due. A timer is armed anew after its callback.
    pub timers: BTreeMap<u32, (Duration, u64)>,
    pub next_token: CallToken,
    pub host_calls: u64,
    pub shared_writes: u64,
}

/// The process.
pub(crate) struct World {
    pub now_ns: u64,
    pub wall_us: u64,
    pub dice: u64,
    pub shared: BTreeMap<String, (Vec<u8>, Cas)>,
    pub next_cas: Cas,
    pub queues: Vec<Queue>,
    pub posts: VecDeque<Post>,
    pub calls: Vec<PendingCall>,
    pub next_call: u64,
    pub clusters: HashSet<String>,
    pub refuses_calls: bool,
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
            dice: 0x1234_5678_9abc_def1,
            shared: BTreeMap::new(),
            next_cas: 1,
            queues: Vec::new(),
            posts: VecDeque::new(),
            calls: Vec::new(),
            next_call: 1,
            clusters: HashSet::from(["admin".to_owned()]),
            refuses_calls: false,
            metrics: Vec::new(),
            log: Vec::new(),
            vms: Vec::new(),
        }
    }

    /// Repeatable randomness (SplitMix64).
    pub fn random(&mut self) -> u64 {
        self.dice = self.dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.dice ^ (self.dice >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn vm(&mut self, vm: VmId) -> &mut VmState {
        &mut self.vms[vm]
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

    /// Ends a callout and posts its answer to the thread that made it.
    pub fn end_call(&mut self, id: CallId, end: CallEnd) -> bool {
        let Some(index) = self.calls.iter().position(|call| call.view.id == id) else { return false };
        let call = self.calls.remove(index);
        self.posts.push_back(Post::Call { vm: call.vm, root: call.view.root, token: call.token, end });
        true
    }

    /// Calls of a root that is gone end without a callback; so do answers that
    /// are on their way.
    pub fn cancel_calls(&mut self, vm: VmId, root: Option<u32>) {
        let is_gone =
            |other_vm: VmId, other_root: u32| other_vm == vm && root.is_none_or(|root| root == other_root);
        self.calls.retain(|call| !is_gone(call.vm, call.view.root));
        self.posts.retain(|post| match post {
            Post::Call { vm, root, .. } => !is_gone(*vm, *root),
            Post::Queue { .. } => true,
        });
    }
}
