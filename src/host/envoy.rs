//! Envoy, over proxy-wasm's host calls where they answer all that Envoy can say, and
//! imports of our own where not (`imports.rs`).
//!
//! What Envoy can say is read from `source/extensions/common/wasm/context.cc` and from
//! `exports.cc`, `shared_data.cc` and `shared_queue.cc` of proxy-wasm-cpp-host. The crate's
//! calls that panic on some of it are in `clippy.toml`, so that nobody uses them.

use std::time::{Duration, UNIX_EPOCH};

use proxy_wasm::hostcalls;
use proxy_wasm::types::{BufferType, LogLevel, MapType, MetricType, Status};

use super::guards::notify_request;
use super::imports::{self, add_header, error, header_map, remove_header, set_header};
use super::{
    Call, CallToken, Cas, Expect, HeaderMap, Host, HostError, LocalReply, MetricId, MetricKind, QueueId,
    map_bytes,
};

/// A compare-and-set token that Envoy never hands out in practice: with it a
/// write succeeds on a missing key and fails on any other.
const CAS_OF_NOBODY: Cas = u32::MAX;

/// Envoy, as the VM that runs this code sees it.
#[derive(Clone, Copy)]
pub struct Envoy;

impl Host for Envoy {
    fn wall_us(&self) -> u64 {
        let now = hostcalls::get_current_time().ok();
        let now = now.and_then(|now| now.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
        now.as_secs().saturating_mul(1_000_000).saturating_add(now.subsec_micros().into())
    }

    fn monotonic_ns(&self) -> u64 {
        imports::monotonic_ns()
    }

    fn random_u64(&self) -> u64 {
        // A host without randomness does not exist (WASI's random_get is
        // required to load at all); the clock is the answer that cannot fail.
        getrandom::u64().unwrap_or_else(|_| imports::monotonic_ns())
    }

    fn shared_get(&self, key: &str) -> Result<Option<(Vec<u8>, Cas)>, HostError> {
        // The crate says of an empty value that there is none, but gives its token.
        let (value, cas) = hostcalls::get_shared_data(key).map_err(host_error)?;
        Ok(cas.map(|cas| (value.unwrap_or_default(), cas)))
    }

    fn shared_set(&self, key: &str, value: &[u8], expect: Expect) -> Result<(), HostError> {
        let cas = match expect {
            Expect::Absent => CAS_OF_NOBODY,
            // 0 would be an unconditional write.
            Expect::Unchanged(0) => return Err(HostError::CasMismatch),
            Expect::Unchanged(cas) => cas,
        };
        hostcalls::set_shared_data(key, Some(value), Some(cas)).map_err(host_error)
    }

    fn queue_register(&self, name: &str) -> Result<QueueId, HostError> {
        hostcalls::register_shared_queue(name).map_err(host_error)
    }

    fn queue_resolve(&self, name: &str) -> Result<Option<QueueId>, HostError> {
        let own_vm_id = "";
        hostcalls::resolve_shared_queue(own_vm_id, name).map_err(host_error)
    }

    fn enqueue(&self, queue: QueueId, message: &[u8]) -> Result<(), HostError> {
        hostcalls::enqueue_shared_queue(queue, Some(message)).map_err(host_error)
    }

    fn dequeue(&self, queue: QueueId) -> Result<Option<Vec<u8>>, HostError> {
        hostcalls::dequeue_shared_queue(queue).map_err(host_error)
    }

    fn call(&self, call: Call<'_>) -> Result<CallToken, HostError> {
        // 0 would be no limit.
        let timeout = call.timeout.max(Duration::from_millis(1));
        let Call { cluster, headers, body, .. } = call;
        hostcalls::dispatch_http_call(cluster, headers.to_vec(), Some(body), Vec::new(), timeout)
            .map_err(host_error)
    }

    fn notify_request(&self, context: u32, token: CallToken, status: u16) {
        notify_request(context, token, status.into());
    }

    fn call_status(&self) -> Option<u16> {
        std::str::from_utf8(&self.call_header(":status")?).ok()?.parse().ok()
    }

    fn call_header(&self, name: &str) -> Option<Vec<u8>> {
        header_map(MapType::HttpCallResponseHeaders).first(name.as_bytes()).map(<[u8]>::to_vec)
    }

    fn call_body(&self, max: usize) -> Vec<u8> {
        let body = hostcalls::get_buffer(BufferType::HttpCallResponseBody, 0, max);
        body.ok().flatten().unwrap_or_default()
    }

    fn request_headers(&self) -> HeaderMap {
        header_map(MapType::HttpRequestHeaders)
    }

    fn set_request_header(&self, name: &str, value: &[u8]) -> Result<(), HostError> {
        set_header(MapType::HttpRequestHeaders, name, value)
    }

    fn add_request_header(&self, name: &str, value: &[u8]) -> Result<(), HostError> {
        add_header(MapType::HttpRequestHeaders, name, value)
    }

    fn remove_request_header(&self, name: &str) -> Result<(), HostError> {
        remove_header(MapType::HttpRequestHeaders, name)
    }

    fn response_headers(&self) -> HeaderMap {
        header_map(MapType::HttpResponseHeaders)
    }

    fn set_response_header(&self, name: &str, value: &[u8]) -> Result<(), HostError> {
        set_header(MapType::HttpResponseHeaders, name, value)
    }

    fn add_response_header(&self, name: &str, value: &[u8]) -> Result<(), HostError> {
        add_header(MapType::HttpResponseHeaders, name, value)
    }

    fn remove_response_header(&self, name: &str) -> Result<(), HostError> {
        remove_header(MapType::HttpResponseHeaders, name)
    }

    fn set_filter_state(&self, name: &str, value: &str) -> Result<(), HostError> {
        let arguments = filter_state(name, value);
        hostcalls::call_foreign_function("set_envoy_filter_state", Some(&arguments))
            .map(drop)
            .map_err(host_error)
    }

    fn resume_request(&self) -> Result<(), HostError> {
        hostcalls::resume_http_request().map_err(host_error)
    }

    fn resume_response(&self) -> Result<(), HostError> {
        hostcalls::resume_http_response().map_err(host_error)
    }

    fn reply(&self, reply: LocalReply<'_>) -> Result<(), HostError> {
        imports::reply(reply.status, reply.details, reply.body, &map_bytes(reply.headers))
    }

    fn set_property(&self, name: &str, value: &[u8]) -> Result<(), HostError> {
        imports::set_property(name, value)
    }

    fn property(&self, path: &str) -> Result<Option<Vec<u8>>, HostError> {
        imports::property(path)
    }

    fn plugin_configuration(&self) -> Result<Vec<u8>, HostError> {
        let configuration = hostcalls::get_buffer(BufferType::PluginConfiguration, 0, usize::MAX);
        configuration.map(Option::unwrap_or_default).map_err(host_error)
    }

    fn set_tick(&self, period: Duration) -> Result<(), HostError> {
        // 0 would stop the timer.
        hostcalls::set_tick_period(period.max(Duration::from_millis(1))).map_err(host_error)
    }

    fn define_metric(&self, kind: MetricKind, name: &str) -> Result<MetricId, HostError> {
        let kind = match kind {
            MetricKind::Counter => MetricType::Counter,
            MetricKind::Gauge => MetricType::Gauge,
            MetricKind::Histogram => MetricType::Histogram,
        };
        hostcalls::define_metric(kind, name).map_err(host_error)
    }

    fn add_metric(&self, metric: MetricId, by: i64) -> Result<(), HostError> {
        if by == 0 { Ok(()) } else { hostcalls::increment_metric(metric, by).map_err(host_error) }
    }

    fn set_metric(&self, metric: MetricId, value: u64) -> Result<(), HostError> {
        hostcalls::record_metric(metric, value).map_err(host_error)
    }

    fn metric(&self, metric: MetricId) -> Result<u64, HostError> {
        hostcalls::get_metric(metric).map_err(host_error)
    }

    fn log(&self, level: log::Level, message: &str) {
        let level = match level {
            log::Level::Trace => LogLevel::Trace,
            log::Level::Debug => LogLevel::Debug,
            log::Level::Info => LogLevel::Info,
            log::Level::Warn => LogLevel::Warn,
            log::Level::Error => LogLevel::Error,
        };
        // A line that could not be logged has nowhere else to go.
        let _ = hostcalls::log(level, message);
    }

    fn environment(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }
}

fn host_error(status: Status) -> HostError {
    error(status as u32)
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
