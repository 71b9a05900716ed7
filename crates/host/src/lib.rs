//! [`Host`]: what Envoy can do for a VM of the filter. No call panics; what Envoy refuses
//! is a [`HostError`].
//!
//! `src/host/` of the filter implements it over proxy-wasm's host calls, and
//! `crates/host-sim` emulates it, so that whole scenarios run natively.
#![deny(unsafe_code)]

mod header_map;

use std::time::Duration;

pub use header_map::{HeaderMap, map_bytes};

/// Token of a callout, unique within a VM.
pub type CallToken = u32;
/// Id of a shared queue, the same in the whole process.
pub type QueueId = u32;
/// Id of a metric, the same in the whole process.
pub type MetricId = u32;
/// The compare-and-set token of a shared value; never 0.
pub type Cas = u32;

/// Why a host call failed. Errors are data here: a value that is not available in this
/// phase, or gone, is an ordinary result.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HostError {
    /// There is no such key, queue or object (`NotFound`).
    NotFound,
    /// Not in this phase, or bad arguments (`BadArgument`): a change of headers outside
    /// their phase, an unknown cluster.
    BadArgument,
    /// The value was written since it was read (`CasMismatch`).
    CasMismatch,
    /// The host refused for reasons of its own (`InternalFailure`): a cluster
    /// without a healthy host, an open circuit breaker.
    Refused,
    /// Any other status.
    Other(u32),
}

/// The expected state of a shared value, without which a write fails. There is no
/// unconditional write, because VMs race for every key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expect {
    /// There must be no value yet.
    Absent,
    /// The value must be the one that was read with this token.
    Unchanged(Cas),
}

/// Kinds of Envoy metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MetricKind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Takes samples.
    Histogram,
}

/// Header names and values, each on its own.
pub type HeaderPairs = Vec<(Vec<u8>, Vec<u8>)>;

/// A callout to make. Its answer comes to the root context or request that made it, and
/// is dropped if that has ended.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// Envoy cluster.
    pub cluster: &'a str,
    /// `:method`, `:path` and `:authority` included.
    pub headers: &'a [(&'a str, &'a str)],
    /// Body; may be empty.
    pub body: &'a [u8],
    /// After this Envoy gives 504 as the answer.
    pub timeout: Duration,
}

/// A response that the filter sends instead of the upstream's.
#[derive(Clone, Copy, Debug)]
pub struct LocalReply<'a> {
    /// Status, 200 to 599.
    pub status: u16,
    /// `%RESPONSE_CODE_DETAILS%`: the reason's code.
    pub details: &'a str,
    /// Headers to add.
    pub headers: &'a [(&'a str, &'a [u8])],
    /// Body.
    pub body: &'a [u8],
}

/// What Envoy does for a VM. Implementations are handles, cheap to clone.
///
/// A call that returns bytes takes about 1 us, one that returns a number 0.1 us: mind
/// this on the request path.
pub trait Host: Clone + 'static {
    /// Wall clock, microseconds since the Unix epoch.
    fn wall_us(&self) -> u64;
    /// Monotonic clock, nanoseconds; common to all VMs of a process.
    fn monotonic_ns(&self) -> u64;
    /// Random bytes.
    fn random_u64(&self) -> u64;

    /// Reads a shared value with its token; `None` if there is no such key. An empty value
    /// is `Some` of no bytes.
    fn shared_get(&self, key: &str) -> Result<Option<(Vec<u8>, Cas)>, HostError>;
    /// Writes a shared value if it is in the expected state.
    fn shared_set(&self, key: &str, value: &[u8], expect: Expect) -> Result<(), HostError>;

    /// Registers a queue, so that the calling root context is notified of its messages, in
    /// place of any other.
    fn queue_register(&self, name: &str) -> Result<QueueId, HostError>;
    /// Finds a queue that a VM of the same `vm_id` registered.
    fn queue_resolve(&self, name: &str) -> Result<Option<QueueId>, HostError>;
    /// Appends a message. The queue has no bound of its own.
    fn enqueue(&self, queue: QueueId, message: &[u8]) -> Result<(), HostError>;
    /// Takes the oldest message.
    fn dequeue(&self, queue: QueueId) -> Result<Option<Vec<u8>>, HostError>;

    /// Starts a callout from the calling root context or request.
    fn call(&self, call: Call<'_>) -> Result<CallToken, HostError>;
    /// Calls back the request `context` of this VM, if there is one: a call of its failed, with
    /// this status (0: without an answer). Its host calls are then those of a callback of its own.
    /// The calling callback must do nothing more.
    fn notify_request(&self, context: u32, token: CallToken, status: u16);
    /// `:status` of the callout's answer, inside its callback. `None` when the
    /// call failed without an answer.
    fn call_status(&self) -> Option<u16>;
    /// A header's first value in the callout's answer, inside its callback; `None` when absent.
    fn call_header(&self, name: &str) -> Option<Vec<u8>>;
    /// The first `max` bytes of the callout's answer, inside its callback; empty
    /// when the call failed without an answer.
    fn call_body(&self, max: usize) -> Vec<u8>;

    /// All request headers in one call. Empty outside of their phase: there Envoy returns
    /// an empty map, and `BadArgument` only for a change.
    fn request_headers(&self) -> HeaderMap;
    /// Replaces every line of a request header by one.
    fn set_request_header(&self, name: &str, value: &[u8]) -> Result<(), HostError>;
    /// Adds a line to the request's headers.
    fn add_request_header(&self, name: &str, value: &[u8]) -> Result<(), HostError>;
    /// Removes a request header.
    fn remove_request_header(&self, name: &str) -> Result<(), HostError>;
    /// All response headers in one call; empty outside of their phase. In the log those that were sent
    /// last, also if they replaced others.
    fn response_headers(&self) -> HeaderMap;
    /// Replaces every line of a response header by one, in the phase of the
    /// response headers.
    fn set_response_header(&self, name: &str, value: &[u8]) -> Result<(), HostError>;
    /// Adds a line to the response's headers, in their phase.
    fn add_response_header(&self, name: &str, value: &[u8]) -> Result<(), HostError>;
    /// Removes a response header, in the phase of the response headers.
    fn remove_response_header(&self, name: &str) -> Result<(), HostError>;
    /// Sets filter state of the request that Envoy's own filters and clusters read: an
    /// object of the type that Envoy registers under this name; `NotFound` if there is no
    /// such type.
    fn set_filter_state(&self, name: &str, value: &str) -> Result<(), HostError>;
    /// Resumes a request that stopped at its headers. Takes effect after the callback;
    /// request headers cannot be changed after this call.
    fn resume_request(&self) -> Result<(), HostError>;
    /// Resumes a response that stopped at its headers.
    fn resume_response(&self) -> Result<(), HostError>;
    /// Sends a response instead of the upstream's. Takes effect after the callback, which
    /// must stop the request.
    fn reply(&self, reply: LocalReply<'_>) -> Result<(), HostError>;
    /// Sets the filter state `wasm.<name>` of the request, for later filters and the access
    /// log. Once per request.
    fn set_property(&self, name: &str, value: &[u8]) -> Result<(), HostError>;
    /// An attribute of the request, connection or node, raw; `None` when absent. `path`: its parts,
    /// with a zero byte between them.
    ///
    /// The first of a callback is dear: Envoy makes it out of much code that nothing else runs.
    fn property(&self, path: &str) -> Result<Option<Vec<u8>>, HostError>;

    /// The plugin's configuration; only while it is being configured.
    fn plugin_configuration(&self) -> Result<Vec<u8>, HostError>;
    /// Sets the period of the calling root context's tick.
    fn set_tick(&self, period: Duration) -> Result<(), HostError>;
    /// Defines a metric, or finds it again by its name.
    fn define_metric(&self, kind: MetricKind, name: &str) -> Result<MetricId, HostError>;
    /// Adds to a counter (above 0) or gauge.
    fn add_metric(&self, metric: MetricId, by: i64) -> Result<(), HostError>;
    /// Sets a gauge, or records a sample.
    fn set_metric(&self, metric: MetricId, value: u64) -> Result<(), HostError>;
    /// A counter's or gauge's value: the sum over all VMs of the process.
    fn metric(&self, metric: MetricId) -> Result<u64, HostError>;
    /// Writes a line to Envoy's log.
    fn log(&self, level: log::Level, message: &str);
    /// An environment variable that the VM configuration lets through.
    fn environment(&self, name: &str) -> Option<String>;
}
