//! Filter state for Envoy's access log: the route, what entries in shadow would have done, and mismatches of
//! checks in shadow.
//! Filters are called for their log before Envoy writes its own, so its format can name
//! these (`docs/METRICS.md`).

use tidegate_policy::wire::event::{Mismatch, TrafficEvent};

use crate::host::{Host, HostError};

/// The route's name; Envoy's log has it as `%FILTER_STATE(wasm.tidegate.route:PLAIN)%`.
const ROUTE: &str = "tidegate.route";
/// The checks in shadow that cache and database answered differently.
const MISMATCH: &str = "tidegate.mismatch";
/// Reason and entry of the ban or geo rule in shadow that would have denied: `ip_banned 203.0.113.0/24`.
const WOULD_DENY: &str = "tidegate.would_deny";

/// Sets the route, what entries in shadow would have done, and the mismatches if there are any.
///
/// # Errors
/// When the host refuses.
pub fn set_fields<H: Host>(host: &H, event: &TrafficEvent) -> Result<(), HostError> {
    if let Some(route) = &event.route {
        host.set_property(ROUTE, route.as_bytes())?;
    }
    if let (Some(reason), Some(rule)) = (&event.would_deny, &event.would_deny_rule) {
        host.set_property(WOULD_DENY, [reason, " ", rule].concat().as_bytes())?;
    }
    if !event.mismatches.is_empty() {
        let all: Vec<String> = event.mismatches.iter().map(mismatch_text).collect();
        host.set_property(MISMATCH, all.join("; ").as_bytes())?;
    }
    Ok(())
}

/// `ip: banned by 10.0.0.2 at 12, cached clear at 10`.
fn mismatch_text(mismatch: &Mismatch) -> String {
    let Mismatch { check, direct, cached, direct_seq, cached_seq } = mismatch;
    let (direct_seq, cached_seq) = (direct_seq.to_string(), cached_seq.to_string());
    [check.name(), ": ", direct, " at ", &direct_seq, ", cached ", cached, " at ", &cached_seq].concat()
}

#[cfg(test)]
mod tests {
    use tidegate_policy::check::Check;

    use super::*;
    use tidegate_host_sim::{Done, SimHost};

    #[test]
    fn the_log_is_told_what_there_is() {
        let told = |event: &TrafficEvent| {
            let host = SimHost::alone();
            set_fields(&host, event).unwrap();
            host.take_done()
        };
        assert_eq!(told(&TrafficEvent::default()), []);
        let mismatch = |check, cached: &str| Mismatch {
            check,
            direct: "banned by 10.0.0.2".to_owned(),
            cached: cached.to_owned(),
            direct_seq: 12,
            cached_seq: 10,
        };
        let mismatches = vec![mismatch(Check::Ip, "clear"), mismatch(Check::Geo, "x")];
        let event = TrafficEvent {
            route: Some("shop".to_owned()),
            would_deny: Some("ip_banned".to_owned()),
            would_deny_rule: Some("10.0.0.0/8".to_owned()),
            mismatches,
            ..TrafficEvent::default()
        };
        let property = |name: &str, value: &str| Done::Property(name.to_owned(), value.to_owned());
        let both =
            "ip: banned by 10.0.0.2 at 12, cached clear at 10; geo: banned by 10.0.0.2 at 12, cached x at 10";
        assert_eq!(
            told(&event),
            [property(ROUTE, "shop"), property(WOULD_DENY, "ip_banned 10.0.0.0/8"), property(MISMATCH, both)]
        );
    }
}
