//! What Envoy is told of a decision, and what of it is recorded.

use tidegate_policy::decide::{Decision, Denial, Reason, Verdict};
use tidegate_policy::route::RouteMatch;
use tidegate_policy::wire::event::{TrafficEvent, VerdictCode};

use super::{CLUSTER_HEADER, Flow, Gate, reply};
use crate::host::Host;
use crate::metrics::Count;

/// Carries a decision out, while the request's headers can be changed.
pub fn carry_out<H: Host>(gate: &Gate<H>, decision: Decision<'_>, event: &mut TrafficEvent) -> Flow {
    let Decision { verdict, allowed_by, country } = decision;
    let vm = &gate.vm;
    event.country = country;
    match verdict {
        Verdict::Allow(found) => {
            event.rule = allowed_by.map(|prefix| prefix.to_string());
            if let Some(found) = found {
                name_route(&found, event);
                let cluster = found.backend.map(|backend| gate.cluster(backend));
                if let Some(cluster) = cluster
                    && vm.host.set_request_header(CLUSTER_HEADER, cluster.as_bytes()).is_err()
                {
                    // Without the header a route of Envoy's own might take it to
                    // where nobody decided.
                    vm.metrics.count(Count::HostErrors);
                    return deny(gate, Reason::NotReady, Reason::NotReady.status(), event);
                }
            }
            event.verdict = VerdictCode::Allow;
            vm.metrics.count(Count::Allowed);
            Flow::Continue
        }
        Verdict::Deny(Denial { reason, status, rule, route }) => {
            event.rule = rule.map(|rule| rule.to_string());
            if let Some(found) = &route {
                name_route(found, event);
            }
            deny(gate, reason, status, event)
        }
    }
}

fn name_route(found: &RouteMatch<'_>, event: &mut TrafficEvent) {
    event.route = Some(found.route.to_owned());
    event.template = found.template.map(str::to_owned);
}

/// Denies a request.
pub fn deny<H: Host>(gate: &Gate<H>, reason: Reason, status: u16, event: &mut TrafficEvent) -> Flow {
    event.verdict = VerdictCode::Deny;
    event.reason = Some(reason.code().to_owned());
    gate.vm.metrics.count(Count::denied(reason));
    if !reply::deny(&gate.vm.host, reason, status) {
        gate.vm.metrics.count(Count::HostErrors);
    }
    Flow::Stop
}
