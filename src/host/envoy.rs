//! The door to Envoy: proxy-wasm's host calls through imports of our own, each
//! checked: a status that nobody expects and a header that is not UTF-8 are values.

use std::rc::Rc;
use std::time::Duration;

use crate::contexts::{Calls, ContextId};

use super::header_map::{map_bytes, pairs};
use super::{
    Call, CallToken, Cas, Expect, HeaderPairs, Host, HostError, LocalReply, MetricId, MetricKind, QueueId,
};

#[expect(unsafe_code, reason = "the imports and the memory that Envoy hands over")]
mod abi;

/// `proxy_header_map_type_t`.
const REQUEST_HEADERS: u32 = 0;
const RESPONSE_HEADERS: u32 = 2;
const CALL_RESPONSE_HEADERS: u32 = 6;
/// `proxy_buffer_type_t`.
const CALL_RESPONSE_BODY: u32 = 4;
const PLUGIN_CONFIGURATION: u32 = 7;

/// `proxy_stream_type_t`.
const REQUEST_STREAM: u32 = 0;
const RESPONSE_STREAM: u32 = 1;

/// A compare-and-set token that Envoy never hands out in practice: with it a
/// write succeeds on a missing key and fails on any other.
const CAS_OF_NOBODY: Cas = u32::MAX;

/// Envoy, as the VM that runs this code sees it: a handle.
#[derive(Clone)]
pub struct Envoy {
    calls: Rc<Calls>,
}

impl Envoy {
    /// It notes there who makes which call.
    pub fn new(calls: Rc<Calls>) -> Self {
        Self { calls }
    }
}

/// What is asked next is about this context, and not about that of the callback.
pub fn enter(context: ContextId) {
    // Envoy refuses a context that it does not have, and we have none of those.
    let _ = abi::set_effective_context(context);
}

impl Host for Envoy {
    fn wall_us(&self) -> u64 {
        abi::wall_ns() / 1_000
    }

    fn monotonic_ns(&self) -> u64 {
        abi::monotonic_ns()
    }

    fn random_u64(&self) -> u64 {
        // A host without randomness does not exist (WASI's random_get is
        // required to load at all); the clock is the answer that cannot fail.
        getrandom::u64().unwrap_or_else(|_| abi::monotonic_ns())
    }

    fn shared_get(&self, key: &str) -> Result<Option<(Vec<u8>, Cas)>, HostError> {
        absent(abi::shared_get(key))
    }

    fn shared_set(&self, key: &str, value: &[u8], expect: Expect) -> Result<(), HostError> {
        let cas = match expect {
            Expect::Absent => CAS_OF_NOBODY,
            // 0 would be an unconditional write.
            Expect::Unchanged(0) => return Err(HostError::CasMismatch),
            Expect::Unchanged(cas) => cas,
        };
        abi::shared_set(key, value, cas)
    }

    fn queue_register(&self, name: &str) -> Result<QueueId, HostError> {
        abi::queue_register(name)
    }

    fn queue_resolve(&self, name: &str) -> Result<Option<QueueId>, HostError> {
        absent(abi::queue_resolve(name))
    }

    fn enqueue(&self, queue: QueueId, message: &[u8]) -> Result<(), HostError> {
        abi::enqueue(queue, message)
    }

    fn dequeue(&self, queue: QueueId) -> Result<Option<Vec<u8>>, HostError> {
        abi::dequeue(queue)
    }

    fn call(&self, call: Call<'_>) -> Result<CallToken, HostError> {
        let headers: Vec<_> = call.headers.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
        let timeout_ms = u32::try_from(call.timeout.as_millis()).unwrap_or(u32::MAX).max(1);
        let token = abi::http_call(call.cluster, &map_bytes(&headers), call.body, timeout_ms)?;
        self.calls.made(token);
        Ok(token)
    }

    fn call_status(&self) -> Option<u16> {
        let value = abi::header(CALL_RESPONSE_HEADERS, ":status").ok()?;
        std::str::from_utf8(&value).ok()?.parse().ok()
    }

    fn call_body(&self, max: usize) -> Vec<u8> {
        abi::buffer(CALL_RESPONSE_BODY, max).unwrap_or_default()
    }

    fn request_headers(&self) -> HeaderPairs {
        abi::header_map(REQUEST_HEADERS).ok().and_then(|bytes| pairs(&bytes)).unwrap_or_default()
    }

    fn set_request_header(&self, name: &str, value: &[u8]) -> Result<(), HostError> {
        abi::set_header(REQUEST_HEADERS, name, value)
    }

    fn add_request_header(&self, name: &str, value: &[u8]) -> Result<(), HostError> {
        abi::add_header(REQUEST_HEADERS, name, value)
    }

    fn remove_request_header(&self, name: &str) -> Result<(), HostError> {
        abi::remove_header(REQUEST_HEADERS, name)
    }

    fn response_header(&self, name: &str) -> Option<Vec<u8>> {
        abi::header(RESPONSE_HEADERS, name).ok()
    }

    fn set_response_header(&self, name: &str, value: &[u8]) -> Result<(), HostError> {
        abi::set_header(RESPONSE_HEADERS, name, value)
    }

    fn add_response_header(&self, name: &str, value: &[u8]) -> Result<(), HostError> {
        abi::add_header(RESPONSE_HEADERS, name, value)
    }

    fn remove_response_header(&self, name: &str) -> Result<(), HostError> {
        abi::remove_header(RESPONSE_HEADERS, name)
    }

    fn set_filter_state(&self, name: &str, value: &str) -> Result<(), HostError> {
        abi::foreign("set_envoy_filter_state", &filter_state(name, value))
    }

    fn resume_request(&self) -> Result<(), HostError> {
        abi::resume(REQUEST_STREAM)
    }

    fn resume_response(&self) -> Result<(), HostError> {
        abi::resume(RESPONSE_STREAM)
    }

    fn reply(&self, reply: LocalReply<'_>) -> Result<(), HostError> {
        abi::reply(u32::from(reply.status), reply.details, reply.body, &map_bytes(reply.headers))
    }

    fn set_property(&self, name: &str, value: &[u8]) -> Result<(), HostError> {
        abi::set_property(name, value)
    }

    fn property(&self, path: &[&str]) -> Result<Option<Vec<u8>>, HostError> {
        // Paths are our own constants: the longest is far under this.
        let mut joined = [0u8; 64];
        let mut len = 0usize;
        for segment in path {
            let start = if len == 0 { 0 } else { len.saturating_add(1) };
            len = start.saturating_add(segment.len());
            joined.get_mut(start..len).ok_or(HostError::BadArgument)?.copy_from_slice(segment.as_bytes());
        }
        absent(abi::property(joined.get(..len).unwrap_or_default()))
    }

    fn plugin_configuration(&self) -> Result<Vec<u8>, HostError> {
        absent(abi::buffer(PLUGIN_CONFIGURATION, usize::MAX)).map(Option::unwrap_or_default)
    }

    fn set_tick(&self, period: Duration) -> Result<(), HostError> {
        // 0 would stop the timer.
        abi::set_tick(u32::try_from(period.as_millis()).unwrap_or(u32::MAX).max(1))
    }

    fn define_metric(&self, kind: MetricKind, name: &str) -> Result<MetricId, HostError> {
        let kind = match kind {
            MetricKind::Counter => 0,
            MetricKind::Gauge => 1,
            MetricKind::Histogram => 2,
        };
        abi::define_metric(kind, name)
    }

    fn add_metric(&self, metric: MetricId, by: i64) -> Result<(), HostError> {
        if by == 0 { Ok(()) } else { abi::add_metric(metric, by) }
    }

    fn set_metric(&self, metric: MetricId, value: u64) -> Result<(), HostError> {
        abi::set_metric(metric, value)
    }

    fn metric(&self, metric: MetricId) -> Result<u64, HostError> {
        abi::metric(metric)
    }

    fn log(&self, level: log::Level, message: &str) {
        let level = match level {
            log::Level::Trace => 0,
            log::Level::Debug => 1,
            log::Level::Info => 2,
            log::Level::Warn => 3,
            log::Level::Error => 4,
        };
        abi::log(level, message);
    }

    fn environment(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }
}

/// `SetEnvoyFilterStateArguments` (`source/extensions/common/wasm/ext/set_envoy_filter_state.proto`):
/// path and value; the life span that is not given is that of the filter chain.
fn filter_state(name: &str, value: &str) -> Vec<u8> {
    const PATH: u8 = 0x0a;
    const VALUE: u8 = 0x12;
    let mut message = Vec::with_capacity(64);
    for (tag, text) in [(PATH, name), (VALUE, value)] {
        message.push(tag);
        let mut len = text.len();
        while len >= 0x80 {
            // A varint: seven bits a byte, the lowest first.
            message.push((len & 0x7f) as u8 | 0x80);
            len >>= 7;
        }
        message.push(len as u8);
        message.extend_from_slice(text.as_bytes());
    }
    message
}

/// What is not there is an ordinary answer.
fn absent<T>(result: Result<T, HostError>) -> Result<Option<T>, HostError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(HostError::NotFound) => Ok(None),
        Err(error) => Err(error),
    }
}
