//! Makes the one [`TrafficEvent`] of a request: at the decision, out of what the steps
//! before it found; completed with what Envoy knows at the end. (Envoy can still replace
//! a response after its headers were seen.)

use tidegate_policy::address::client_address;
use tidegate_policy::wire::event::{
    MAX_HOST, MAX_METHOD, MAX_PATH, MAX_USER_AGENT, TrafficEvent, VerdictCode, bounded,
};

use super::evaluation::EvaluationRecord;
use super::facts::RecordedFacts;
use super::outcome::Outcome;
use crate::host::Host;

/// The reason of a request that Envoy answered with 500, because it has no cluster with
/// the name that the route's backend has by the template.
pub const UNKNOWN_BACKEND: &str = "unknown_backend";

/// The event of a request that was decided, or ended before it was. `time_ms`: when it
/// arrived, since the Unix epoch.
pub fn of_decided(time_ms: u64, record: EvaluationRecord, outcome: Outcome) -> TrafficEvent {
    let EvaluationRecord { facts, tables_seq, modes, answered, mismatches, .. } = record;
    let client = facts.client();
    TrafficEvent {
        time_ms,
        client,
        verdict: outcome.verdict,
        reason: outcome.reason.map(str::to_owned),
        rule: outcome.rule,
        route: outcome.route,
        template: outcome.template,
        shadow_limit: outcome.shadow_limit,
        country: outcome.country,
        tables_seq,
        modes: Some(modes),
        answered,
        mismatches,
        ..of_facts(facts.into_recorded())
    }
}

/// The event's fields from the request's headers, each within its bounds.
fn of_facts(facts: RecordedFacts) -> TrafficEvent {
    TrafficEvent {
        tunnel: facts.method.as_deref() == Some(b"CONNECT"),
        method: facts.method.map(|method| fit(method, MAX_METHOD)),
        host: facts.host.map(|host| fit(host, MAX_HOST)),
        path: facts.path.map(without_query),
        user_agent: facts.user_agent.map(|agent| fit(agent, MAX_USER_AGENT)),
        ..TrafficEvent::default()
    }
}

/// The event of a request that Envoy refused before the filter. For most of these
/// Envoy never had a method, host or path.
pub fn of_unseen<H: Host>(host: &H) -> TrafficEvent {
    let bytes = |path: &[&str]| host.property(path).ok().flatten();
    let arrived_ns = number(host, &["request", "time"]);
    let facts = RecordedFacts {
        method: bytes(&["request", "method"]),
        host: bytes(&["request", "host"]),
        path: bytes(&["request", "path"]),
        user_agent: bytes(&["request", "useragent"]),
    };
    TrafficEvent {
        time_ms: arrived_ns.unwrap_or_else(|| host.wall_us().saturating_mul(1_000)) / 1_000_000,
        client: bytes(&["source", "address"]).as_deref().and_then(client_address),
        verdict: VerdictCode::Unseen,
        duration_us: number(host, &["request", "duration"]).map(|ns| ns / 1_000),
        ..of_facts(facts)
    }
}

/// Adds the status in the response's headers. The final one may differ.
pub fn add_response_status<H: Host>(host: &H, event: &mut TrafficEvent) {
    let status = host.response_header(":status");
    event.status = status.and_then(|status| std::str::from_utf8(&status).ok()?.parse().ok());
    event.tunnel |= event.status == Some(101);
}

/// Whether the current response is Envoy's answer to a client that broke the
/// protocol in the middle of its request. Envoy closes the connection right
/// after it, so a response that is held back is never sent. Its details begin with
/// the codec's name (`source/common/http/http1/codec_impl.cc`).
pub fn is_codec_error<H: Host>(host: &H) -> bool {
    let details = host.property(&["response", "code_details"]).ok().flatten().unwrap_or_default();
    [b"http1.", b"http2.", b"http3."].iter().any(|codec| details.starts_with(*codec))
}

/// Adds what is known only at the end. `declares_length`: the request has a `content-length`.
pub fn complete<H: Host>(host: &H, event: &mut TrafficEvent, declares_length: bool) {
    let status = number(host, &["response", "code"]).and_then(|code| u16::try_from(code).ok());
    event.status = status.filter(|code| *code != 0);
    event.tunnel |= status == Some(101);
    event.bytes_in = if declares_length { received(host) } else { number(host, &["request", "size"]) };
    event.bytes_out = number(host, &["response", "size"]);
    if event.verdict == VerdictCode::Allow && status == Some(500) && is_unknown_backend(host) {
        event.reason = Some(UNKNOWN_BACKEND.to_owned());
    }
    // What the filter answered has no upstream, and the host call costs a microsecond.
    if !matches!(event.verdict, VerdictCode::Deny | VerdictCode::Redirect) {
        event.upstream_us = number(host, &["response", "backend_latency"]).map(|ns| ns / 1_000);
    }
}

/// Bytes of the request's body that came, where `request.size` is the `content-length`. The
/// headers that `request.total_size` counts are those that a filter can read at that moment, none
/// after the log (`source/extensions/common/wasm/context.cc`).
fn received<H: Host>(host: &H) -> Option<u64> {
    let headers = host.request_headers();
    let len = |(name, value): &(Vec<u8>, Vec<u8>)| name.len().saturating_add(value.len()) as u64;
    let headers = headers.iter().map(len).fold(0, u64::saturating_add);
    Some(number(host, &["request", "total_size"])?.saturating_sub(headers))
}

/// Whether Envoy had no cluster to send the request to
/// (`source/common/stream_info/utility.cc` lists the details).
fn is_unknown_backend<H: Host>(host: &H) -> bool {
    let details = host.property(&["response", "code_details"]).ok().flatten();
    details.as_deref() == Some(b"cluster_not_found")
}

/// An attribute that is a number, a time or a duration (both nanoseconds): 64
/// bits, little endian. `None` for negative ones.
pub fn number<H: Host>(host: &H, path: &[&str]) -> Option<u64> {
    let bytes = host.property(path).ok().flatten()?;
    u64::try_from(i64::from_le_bytes(bytes.try_into().ok()?)).ok()
}

/// A path as it is recorded: without query, which may have secrets in it.
fn without_query(mut path: Vec<u8>) -> Vec<u8> {
    let end = path.iter().position(|byte| matches!(byte, b'?' | b'#')).unwrap_or(path.len());
    path.truncate(end);
    fit(path, MAX_PATH)
}

/// Within `max` bytes, and not in a much larger allocation: a tunnel keeps it for
/// hours.
fn fit(bytes: Vec<u8>, max: usize) -> Vec<u8> {
    if bytes.len() <= max && bytes.capacity() / 2 <= bytes.len().saturating_add(64) {
        bytes
    } else {
        bounded(&bytes, max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_path_is_cut_and_its_memory_let_go() {
        assert_eq!(without_query(b"/a?b".to_vec()), b"/a");
        let path = without_query(vec![b'a'; 60 << 10]);
        assert_eq!(path.len(), MAX_PATH);
        assert!(path.capacity() < 2 * MAX_PATH);
        let short = without_query([b"/a?".as_slice(), &[b'b'; 60 << 10]].concat());
        assert!(short.capacity() < 1024);
    }
}
