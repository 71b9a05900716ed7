//! What Envoy knows of a request at its end, and at no time before: a response
//! can still turn into another after its headers were seen.

use tidegate_policy::address::client_address;
use tidegate_policy::wire::event::{MAX_HOST, MAX_METHOD, MAX_USER_AGENT, TrafficEvent, VerdictCode};

use super::facts::{fit, without_query};
use crate::host::Host;

/// The event of a request that Envoy refused before the filter. For most of these
/// Envoy never had a method, host or path.
pub fn unseen<H: Host>(host: &H) -> TrafficEvent {
    let bytes = |path: &[&str]| host.property(path).ok().flatten();
    let arrived_ns = number(host, &["request", "time"]);
    let method = bytes(&["request", "method"]);
    TrafficEvent {
        time_ms: arrived_ns.unwrap_or_else(|| host.wall_us().saturating_mul(1_000)) / 1_000_000,
        tunnel: method.as_deref() == Some(b"CONNECT"),
        method: method.map(|method| fit(method, MAX_METHOD)),
        host: bytes(&["request", "host"]).map(|host| fit(host, MAX_HOST)),
        path: bytes(&["request", "path"]).map(without_query),
        user_agent: bytes(&["request", "useragent"]).map(|agent| fit(agent, MAX_USER_AGENT)),
        client: bytes(&["source", "address"]).as_deref().and_then(client_address),
        verdict: VerdictCode::Unseen,
        duration_us: number(host, &["request", "duration"]).map(|ns| ns / 1_000),
        ..TrafficEvent::default()
    }
}

/// Adds what the response's headers say. The end may say something else.
pub fn respond<H: Host>(host: &H, event: &mut TrafficEvent) {
    let status = host.response_header(":status");
    event.status = status.and_then(|status| std::str::from_utf8(&status).ok()?.parse().ok());
    event.tunnel |= event.status == Some(101);
}

/// Whether the response at hand is Envoy's answer to a client that broke the
/// protocol in the middle of its request. Envoy closes the connection right
/// after it, so what is held back then never leaves. Its details begin with the
/// codec's name (`source/common/http/http1/codec_impl.cc`).
pub fn broke_the_codec<H: Host>(host: &H) -> bool {
    let details = host.property(&["response", "code_details"]).ok().flatten().unwrap_or_default();
    [b"http1.", b"http2.", b"http3."].iter().any(|codec| details.starts_with(*codec))
}

/// Adds what is known at the end only.
pub fn complete<H: Host>(host: &H, event: &mut TrafficEvent) {
    let status = number(host, &["response", "code"]).and_then(|code| u16::try_from(code).ok());
    event.status = status.filter(|code| *code != 0);
    event.tunnel |= status == Some(101);
    event.bytes_in = number(host, &["request", "total_size"]);
    event.bytes_out = number(host, &["response", "total_size"]);
    if event.verdict == VerdictCode::Allow && status == Some(500) && is_unknown_backend(host) {
        event.reason = Some(UNKNOWN_BACKEND.to_owned());
    }
    // What the filter answered has no upstream, and asking costs a microsecond.
    if !matches!(event.verdict, VerdictCode::Deny | VerdictCode::Redirect) {
        event.upstream_us = number(host, &["response", "backend_latency"]).map(|ns| ns / 1_000);
    }
}

/// The reason of a 500 that Envoy gives because it has no cluster of the name that
/// a route's backend comes to.
pub const UNKNOWN_BACKEND: &str = "unknown_backend";

/// Whether Envoy had no cluster to send the request to
/// (`source/common/stream_info/utility.cc` lists the details).
fn is_unknown_backend<H: Host>(host: &H) -> bool {
    let details = host.property(&["response", "code_details"]).ok().flatten();
    details.as_deref() == Some(b"cluster_not_found")
}

/// An attribute that is a number, a time or a duration (both nanoseconds): 64
/// bits, little endian. Negative ones mean nothing here.
pub fn number<H: Host>(host: &H, path: &[&str]) -> Option<u64> {
    let bytes = host.property(path).ok().flatten()?;
    u64::try_from(i64::from_le_bytes(bytes.try_into().ok()?)).ok()
}
