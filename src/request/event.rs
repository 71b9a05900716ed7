//! Makes the one [`TrafficEvent`] of a request: at the decision, out of what the steps
//! before it found; completed with what Envoy knows at the end. (Envoy can still replace
//! a response after its headers were seen.)

use tidegate_policy::address::client_address;
use tidegate_policy::wire::event::{
    MAX_HOST, MAX_METHOD, MAX_PATH, MAX_USER_AGENT, TrafficEvent, VerdictCode, bounded,
};

use super::bodies::Bodies;
use super::evaluation::EvaluationRecord;
use super::facts::{Declared, RecordedFacts};
use super::outcome::Outcome;
use crate::host::{HeaderMap, Host};

/// The reason of a request that Envoy answered with 500, because it has no cluster with
/// the name that the route's backend has by the template.
pub const UNKNOWN_BACKEND: &str = "unknown_backend";

/// The event of a request that was decided, or ended before it was. `time_ms`: when it
/// arrived, since the Unix epoch.
pub fn of_decided(time_ms: u64, record: EvaluationRecord, outcome: Outcome) -> TrafficEvent {
    let EvaluationRecord { facts, tables_seq, modes, answered, mismatches, .. } = record;
    let client = facts.client();
    let (would_deny, would_deny_rule) = outcome.would_deny.unzip();
    TrafficEvent {
        time_ms,
        client,
        verdict: outcome.verdict,
        reason: outcome.reason.map(str::to_owned),
        rule: outcome.rule,
        route: outcome.route,
        template: outcome.template,
        shadow_limit: outcome.shadow_limit,
        would_deny: would_deny.map(str::to_owned),
        would_deny_rule,
        country: outcome.country,
        tables_seq,
        modes: Some(modes),
        answered,
        mismatches,
        ..of_facts(&facts.recorded())
    }
}

/// The event's fields from the request's headers, each within its bounds.
fn of_facts(facts: &RecordedFacts<'_>) -> TrafficEvent {
    TrafficEvent {
        tunnel: facts.method == Some(b"CONNECT"),
        method: facts.method.map(|method| bounded(method, MAX_METHOD)),
        host: facts.host.map(|host| bounded(host, MAX_HOST)),
        path: facts.path.map(without_query),
        user_agent: facts.user_agent.map(|agent| bounded(agent, MAX_USER_AGENT)),
        ..TrafficEvent::default()
    }
}

/// The details of a request that Envoy answers for want of memory (overload manager,
/// `stop_accepting_requests`).
const OVERLOAD: &[u8] = b"overload";

/// Whether the request that a root context is told of reached no filter, and so has no HTTP context
/// that records it. The codec refused it, or it ended before its headers were whole: Envoy then has
/// neither headers nor a status. Or Envoy had no memory for it: the one answer of its own before which it
/// makes no filters and chooses no route (`ActiveStream` in `source/common/http/conn_manager_impl.cc`).
pub fn reached_no_filter<H: Host>(host: &H) -> bool {
    let is_absent = |path| host.property(path).is_ok_and(|found| found.unwrap_or_default().is_empty());
    match number(host, "response\0code") {
        None | Some(0) => is_absent("request\0method"),
        Some(503) => {
            let details = host.property("response\0code_details").ok().flatten();
            details.as_deref() == Some(OVERLOAD) && is_absent("xds\0route_name")
        }
        Some(_) => false,
    }
}

/// The event of a request that Envoy refused before the filter. For most of these
/// Envoy never had a method, host or path.
pub fn of_unseen<H: Host>(host: &H) -> TrafficEvent {
    let bytes = |path| host.property(path).ok().flatten();
    let arrived_ns = number(host, "request\0time");
    let [method, asked, path, user_agent] =
        ["request\0method", "request\0host", "request\0path", "request\0useragent"].map(bytes);
    let facts = RecordedFacts {
        method: method.as_deref(),
        host: asked.as_deref(),
        path: path.as_deref(),
        user_agent: user_agent.as_deref(),
    };
    TrafficEvent {
        time_ms: arrived_ns.unwrap_or_else(|| host.wall_us().saturating_mul(1_000)) / 1_000_000,
        client: bytes("source\0address").as_deref().and_then(client_address),
        verdict: VerdictCode::Unseen,
        duration_us: number(host, "request\0duration").map(|ns| ns / 1_000),
        ..of_facts(&facts)
    }
}

/// Adds the status in the response's headers. The final one may differ.
pub fn add_response_status<H: Host>(host: &H, event: &mut TrafficEvent) {
    event.status = status_in(&host.response_headers());
    event.tunnel |= event.status == Some(101);
}

fn status_in(headers: &HeaderMap) -> Option<u16> {
    std::str::from_utf8(headers.first(b":status")?).ok()?.parse().ok()
}

/// Whether the current response is Envoy's answer to a client that broke the
/// protocol in the middle of its request. Envoy closes the connection right
/// after it, so a response that is held back is never sent. Its details begin with
/// the codec's name (`source/common/http/http1/codec_impl.cc`).
pub fn is_codec_error<H: Host>(host: &H) -> bool {
    let details = host.property("response\0code_details").ok().flatten().unwrap_or_default();
    [b"http1.", b"http2.", b"http3."].iter().any(|codec| details.starts_with(*codec))
}

/// Adds what is known only at the end. `bodies`: what of them went past the gate; `declared`: the length of
/// the request's.
pub fn complete<H: Host>(host: &H, event: &mut TrafficEvent, bodies: &Bodies, declared: Declared) {
    if !add_whole_response(host, event, bodies) {
        let status = number(host, "response\0code").and_then(|code| u16::try_from(code).ok());
        event.status = status.filter(|code| *code != 0);
        event.tunnel |= status == Some(101);
        event.bytes_out = number(host, "response\0size");
    }
    let certain = bodies.request.certain(declared, false).filter(|_| !event.tunnel);
    event.bytes_in = certain.or_else(|| match declared {
        Declared::Nothing => number(host, "request\0size"),
        _ => received(host),
    });
    if event.tunnel {
        event.upstream_us = None;
    }
    if event.verdict == VerdictCode::Allow && event.status == Some(500) && is_unknown_backend(host) {
        event.reason = Some(UNKNOWN_BACKEND.to_owned());
    }
}

/// Adds status and bytes of a response that went past the gate as a whole, and is the one that was sent:
/// its headers are still those of the log, and declare as many bytes. (A client that left while a filter
/// nearer to it held them back has got fewer; no callback tells of that.) No attribute is needed for that, and
/// all headers in one call are cheaper than one attribute. False: the attributes have to say it.
fn add_whole_response<H: Host>(host: &H, event: &mut TrafficEvent, bodies: &Bodies) -> bool {
    if !bodies.response.has_ended() || event.tunnel {
        return false;
    }
    let headers = host.response_headers();
    let declared = headers.first(b"content-length").map_or(Declared::Nothing, Declared::of);
    let status = status_in(&headers).filter(|status| *status != 101);
    let is_bodiless = event.method.as_deref() == Some(b"HEAD") || status == Some(304);
    let Some((status, bytes)) = status.zip(bodies.response.certain(declared, is_bodiless)) else {
        return false;
    };
    (event.status, event.bytes_out) = (Some(status), Some(bytes));
    true
}

/// Bytes of the request's body that came, where `request.size` is the `content-length`. The
/// headers that `request.total_size` counts are those that a filter can read at that moment, none
/// after the log (`source/extensions/common/wasm/context.cc`).
fn received<H: Host>(host: &H) -> Option<u64> {
    let headers = host.request_headers().size();
    Some(number(host, "request\0total_size")?.saturating_sub(headers))
}

/// Whether Envoy had no cluster to send the request to
/// (`source/common/stream_info/utility.cc` lists the details).
fn is_unknown_backend<H: Host>(host: &H) -> bool {
    let details = host.property("response\0code_details").ok().flatten();
    details.as_deref() == Some(b"cluster_not_found")
}

/// An attribute that is a number, a time or a duration (both nanoseconds): 64
/// bits, little endian. `None` for negative ones.
pub fn number<H: Host>(host: &H, path: &str) -> Option<u64> {
    let bytes = host.property(path).ok().flatten()?;
    u64::try_from(i64::from_le_bytes(bytes.try_into().ok()?)).ok()
}

/// A path as it is recorded: without query, which may have secrets in it.
fn without_query(path: &[u8]) -> Vec<u8> {
    let end = path.iter().position(|byte| matches!(byte, b'?' | b'#')).unwrap_or(path.len());
    bounded(path.get(..end).unwrap_or(path), MAX_PATH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_cut() {
        assert_eq!(without_query(b"/a?b"), b"/a");
        assert_eq!(without_query(&vec![b'a'; 60 << 10]).len(), MAX_PATH);
        assert_eq!(without_query(&[b"/a?".as_slice(), &[b'b'; 60 << 10]].concat()), b"/a");
    }
}
