//! Performance headers: how long the filter took for a request, as `x-performance-*` in
//! milliseconds and `Server-Timing` (W3C). Measured only if they are wanted.

use std::fmt::Write;

use tidegate_policy::check::{Answered, Check, PerCheck};

use crate::config::Performance;
use crate::host::{Host, HostError};

/// The request header by which a client asks for them, with the value `1`.
pub const WANTED_HEADER: &[u8] = b"x-performance";

/// The checks and their headers, in the order of the rollout.
const CHECKS: [(Check, &str); 3] = [
    (Check::Route, "x-performance-route"),
    (Check::Ip, "x-performance-ip"),
    (Check::Geo, "x-performance-geo"),
];

/// How long the filter took for one request, nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timing {
    /// Each check, with the wait for its answer.
    pub checks: PerCheck<u64>,
    /// The response's wait for its event to be stored.
    pub recording: u64,
}

/// Whether a request is to be measured.
#[must_use]
pub fn is_wanted(mode: Performance, client_asks: bool) -> bool {
    match mode {
        Performance::Never => false,
        Performance::OnRequest => client_asks,
        Performance::Always => true,
    }
}

/// Writes the headers, in the phase of the response headers. `total_ns`: from the
/// request's headers to now, so it includes the upstream's time.
///
/// An upstream's `x-performance-*` headers of the same names are replaced; its
/// `Server-Timing` stays, and the filter adds a line.
///
/// # Errors
/// When the host refuses one of them.
pub fn add_headers<H: Host>(
    host: &H,
    timing: &Timing,
    answered: &PerCheck<Answered>,
    total_ns: u64,
) -> Result<(), HostError> {
    let mut line = String::with_capacity(192);
    let mut say = |header: &str, name: &str, ns: u64| {
        let value = milliseconds(ns);
        line.push_str(name);
        line.push_str(";dur=");
        line.push_str(&value);
        line.push_str(", ");
        host.set_response_header(header, value.as_bytes())
    };
    say("x-performance-total", "total", total_ns)?;
    for (check, header) in CHECKS {
        say(header, check.name(), *timing.checks.get(check))?;
    }
    say("x-performance-recording", "recording", timing.recording)?;
    let cache = CHECKS.map(|(check, _)| [check.name(), "=", answered.get(check).name()].concat()).join(",");
    host.set_response_header("x-performance-cache", cache.as_bytes())?;
    let line = [&line, "cache;desc=\"", &cache, "\""].concat();
    host.add_response_header("server-timing", line.as_bytes())
}

/// Milliseconds with three decimals.
fn milliseconds(ns: u64) -> String {
    let us = ns / 1_000;
    let mut text = String::with_capacity(16);
    // Writing to a string does not fail.
    let _ = write!(text, "{}.{:03}", us / 1_000, us % 1_000);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_host_sim::SimHost;

    #[test]
    fn the_headers_say_what_was_measured() {
        let host = SimHost::alone();
        let upstreams = [("x-performance-ip", "0"), ("server-timing", "db;dur=3"), ("server-timing", "up")];
        let upstreams = upstreams.map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()));
        host.respond(upstreams.to_vec());
        let checks = PerCheck { ip: 1_234_567, geo: 999, route: 60_000_000_000 };
        let answered = PerCheck { ip: Answered::Cache, geo: Answered::Direct, route: Answered::Fallback };
        add_headers(&host, &Timing { checks, recording: 0 }, &answered, 61_000_500_999).unwrap();
        let headers = host.response();
        let said: Vec<(&str, &str)> = headers
            .iter()
            .map(|(n, v)| (std::str::from_utf8(n).unwrap(), std::str::from_utf8(v).unwrap()))
            .collect();
        let ours = "total;dur=61000.500, route;dur=60000.000, ip;dur=1.234, geo;dur=0.000, \
                    recording;dur=0.000, cache;desc=\"route=fallback,ip=hit,geo=direct\"";
        assert_eq!(
            said,
            [
                ("server-timing", "db;dur=3"),
                ("server-timing", "up"),
                ("x-performance-total", "61000.500"),
                ("x-performance-route", "60000.000"),
                ("x-performance-ip", "1.234"),
                ("x-performance-geo", "0.000"),
                ("x-performance-recording", "0.000"),
                ("x-performance-cache", "route=fallback,ip=hit,geo=direct"),
                ("server-timing", ours),
            ]
        );
    }

    #[test]
    fn who_is_told() {
        let told = |mode| [is_wanted(mode, false), is_wanted(mode, true)];
        assert_eq!(told(Performance::Never), [false, false]);
        assert_eq!(told(Performance::OnRequest), [false, true]);
        assert_eq!(told(Performance::Always), [true, true]);
    }
}
