//! [`Host`]: what Envoy can do for a VM of the filter. No call panics; what Envoy refuses
//! is a [`HostError`].
//!
//! `src/host/` of the filter implements it over proxy-wasm's host calls, and
//! `crates/host-sim` emulates it, so that whole scenarios run natively.
#![deny(unsafe_code)]

use std::time::Duration;

/// A callout's token, unique within a VM.
pub type CallToken = u32;
/// A shared queue, for the whole process.
pub type QueueId = u32;
/// A metric, for the whole process.
pub type MetricId = u32;
/// The compare-and-set token of a shared value; never 0.
pub type Cas = u32;

/// Why a host call did not do what was asked. Errors are data here: what is not
/// available in this phase, or gone, is an ordinary answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HostError {
    /// There is no such thing (`NotFound`).
    NotFound,
    /// Not in this phase, or bad arguments (`BadArgument`): a change of headers outside
    /// their phase, an unknown cluster.
    BadArgument,
    /// Somebody else wrote since (`CasMismatch`).
    CasMismatch,
    /// The host refused for reasons of its own (`InternalFailure`): a cluster
    /// without a healthy host, an open circuit breaker.
    Refused,
    /// Any other status.
    Other(u32),
}

/// What a shared value must be for a write to happen. There is no unconditional
/// write: two VMs race for every key.
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

/// Header names and values, as bytes: clients and upstreams send anything.
pub type HeaderPairs = Vec<(Vec<u8>, Vec<u8>)>;

/// A callout to make. Its answer comes to the root or the request that made it;
/// to a request that is over by then it does not come at all.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// Envoy cluster.
    pub cluster: &'a str,
    /// `:method`, `:path` and `:authority` included.
    pub headers: &'a [(&'a str, &'a str)],
    /// Body; may be empty.
    pub body: &'a [u8],
    /// After this Envoy answers 504 in the upstream's place.
    pub timeout: Duration,
}

/// An answer that the gate gives in the upstream's place.
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

/// What Envoy does for a VM. Implementations are cheap to clone: a handle.
///
/// Prices on this host, for the reader who adds a call to the request path: a
/// call that returns bytes costs about 1 us, one that returns a number 0.1 us.
pub trait Host: Clone + 'static {
    /// Wall clock, microseconds since the Unix epoch.
    fn wall_us(&self) -> u64;
    /// Monotonic clock, nanoseconds; common to all VMs of a process.
    fn monotonic_ns(&self) -> u64;
    /// Random bytes.
    fn random_u64(&self) -> u64;

    /// Reads a shared value; an empty one is `Some` of no bytes.
    fn shared_get(&self, key: &str) -> Result<Option<(Vec<u8>, Cas)>, HostError>;
    /// Writes a shared value if it is what is expected.
    fn shared_set(&self, key: &str, value: &[u8], expect: Expect) -> Result<(), HostError>;

    /// Makes the calling root the one that is notified of this queue.
    fn queue_register(&self, name: &str) -> Result<QueueId, HostError>;
    /// Finds a queue that somebody of the same `vm_id` registered.
    fn queue_resolve(&self, name: &str) -> Result<Option<QueueId>, HostError>;
    /// Appends a message. The queue has no bound of its own.
    fn enqueue(&self, queue: QueueId, message: &[u8]) -> Result<(), HostError>;
    /// Takes the oldest message.
    fn dequeue(&self, queue: QueueId) -> Result<Option<Vec<u8>>, HostError>;

    /// Starts a callout from the calling root or request.
    fn call(&self, call: Call<'_>) -> Result<CallToken, HostError>;
    /// `:status` of the callout's answer, inside its callback. `None` when the
    /// call failed without an answer.
    fn call_status(&self) -> Option<u16>;
    /// The first `max` bytes of the callout's answer, inside its callback; none
    /// when the call failed without an answer.
    fn call_body(&self, max: usize) -> Vec<u8>;

    /// All request headers in one call. Outside their phase there are none: Envoy
    /// answers such a read with an empty map, and only a change with `BadArgument`.
    fn request_headers(&self) -> HeaderPairs;
    /// Replaces every line of a request header by one.
    fn set_request_header(&self, name: &str, value: &[u8]) -> Result<(), HostError>;
    /// Adds a line to the request's headers.
    fn add_request_header(&self, name: &str, value: &[u8]) -> Result<(), HostError>;
    /// Removes a request header.
    fn remove_request_header(&self, name: &str) -> Result<(), HostError>;
    /// One response header's first value; `None` when absent, or outside the phase of
    /// the response headers.
    fn response_header(&self, name: &str) -> Option<Vec<u8>>;
    /// Bytes of the names and values of all response headers, in their phase; 0 outside.
    fn response_headers_size(&self) -> u64;
    /// Replaces every line of a response header by one, in the phase of the
    /// response headers.
    fn set_response_header(&self, name: &str, value: &[u8]) -> Result<(), HostError>;
    /// Adds a line to the response's headers, in their phase.
    fn add_response_header(&self, name: &str, value: &[u8]) -> Result<(), HostError>;
    /// Removes a response header, in the phase of the response headers.
    fn remove_response_header(&self, name: &str) -> Result<(), HostError>;
    /// Sets filter state of the request that Envoy's own filters and clusters
    /// read, by an object of the kind that Envoy registers under this name;
    /// `NotFound` when it has none.
    fn set_filter_state(&self, name: &str, value: &str) -> Result<(), HostError>;
    /// Lets a request go on that stopped at its headers. Takes effect after the
    /// callback; request headers cannot be changed any more then.
    fn resume_request(&self) -> Result<(), HostError>;
    /// Lets a response go on that stopped at its headers.
    fn resume_response(&self) -> Result<(), HostError>;
    /// Answers in the upstream's place. Takes effect after the callback, which
    /// must stop the request.
    fn reply(&self, reply: LocalReply<'_>) -> Result<(), HostError>;
    /// Sets an attribute of the request for whoever comes later: filter state
    /// `wasm.<name>`. Once per request.
    fn set_property(&self, name: &str, value: &[u8]) -> Result<(), HostError>;
    /// An attribute of the request, connection or node, raw; `None` when absent.
    fn property(&self, path: &[&str]) -> Result<Option<Vec<u8>>, HostError>;

    /// The plugin's configuration; only while it is being configured.
    fn plugin_configuration(&self) -> Result<Vec<u8>, HostError>;
    /// Sets the calling root's timer.
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
