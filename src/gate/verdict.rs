//! What Envoy is told of a decision, and what of it is recorded.

use tidegate_policy::decide::{Decision, Denial, Reason, Verdict};
use tidegate_policy::route::RouteMatch;
use tidegate_policy::wire::event::{TrafficEvent, VerdictCode};

use super::action::{self, After, Carried};
use super::inquiry::Decided;
use super::{Flow, Gate, descriptors, reply};
use crate::host::Host;
use crate::metrics::Count;

/// Carries a decision out, while the request's headers can be changed. What is
/// left to do with the response comes back.
pub fn carry_out<H: Host>(
    gate: &Gate<H>,
    decided: Decided<'_>,
    event: &mut TrafficEvent,
) -> (Flow, Option<Box<After>>) {
    let Decision { verdict, allowed_by, country } = decided.decision;
    event.country = country;
    match verdict {
        Verdict::Allow(found) => {
            event.rule = allowed_by.map(|prefix| prefix.to_string());
            let route = found.as_ref().map(|found| found.route);
            if let Err(reason) = descriptors::describe(gate, route, decided.request.client()) {
                return (deny(gate, reason, reason.status(), event), None);
            }
            let Some(found) = found else { return (pass(gate, &Carried::Sent, event), None) };
            name_route(&found, event);
            match action::carry_out(gate, &found, decided.request, decided.dice) {
                Ok((carried, after)) => (pass(gate, &carried, event), after),
                Err(reason) => (deny(gate, reason, reason.status(), event), None),
            }
        }
        Verdict::Deny(Denial { reason, status, rule, route }) => {
            event.rule = rule.map(|rule| rule.to_string());
            if let Some(found) = &route {
                name_route(found, event);
            }
            (deny(gate, reason, status, event), None)
        }
    }
}

/// Notes what became of a request that may pass.
fn pass<H: Host>(gate: &Gate<H>, carried: &Carried, event: &mut TrafficEvent) -> Flow {
    let (verdict, reason, count, flow) = match carried {
        Carried::Sent => (VerdictCode::Allow, None, Count::Allowed, Flow::Continue),
        Carried::Redirected => (VerdictCode::Redirect, Some("redirect"), Count::Redirected, Flow::Stop),
        Carried::Preflight => (VerdictCode::Allow, Some("cors_preflight"), Count::Preflights, Flow::Stop),
    };
    event.verdict = verdict;
    event.reason = reason.map(str::to_owned);
    gate.vm.metrics.count(count);
    flow
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
