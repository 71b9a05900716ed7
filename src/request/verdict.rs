//! What Envoy is told of a decision, and what of it is recorded.

use tidegate_policy::decide::{Decision, Denial, Reason, RuleId, Verdict};
use tidegate_policy::route::RouteMatch;
use tidegate_policy::wire::event::{TrafficEvent, VerdictCode};

use super::actions::{self, Handled, ResponseEdits};
use super::evaluation::Decided;
use super::limits::{self, Limited};
use super::{descriptors, reply};
use crate::filter::Filter;
use crate::host::Host;
use crate::metrics::Count;

/// What Envoy does next with a request or response.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flow {
    /// It goes on.
    Continue,
    /// It stops: an answer was given, or one to a question is awaited.
    Stop,
}

/// Carries a decision out, while the request's headers can be changed. What is
/// left to do with the response comes back.
pub fn carry_out<H: Host>(
    filter: &Filter<H>,
    decided: Decided<'_>,
    event: &mut TrafficEvent,
) -> (Flow, Option<Box<ResponseEdits>>) {
    event.country = decided.decision.country;
    match decided.decision.verdict {
        Verdict::Allow(found) => allow(filter, &decided, found.as_ref(), event),
        Verdict::Deny(Denial { reason, status, rule, route }) => {
            event.rule = rule.map(|rule| rule.to_string());
            let after = route.and_then(|found| {
                name_route(&found, event);
                ResponseEdits::of_denied(&found, decided.request)
            });
            (deny(filter, reason, status, event), after)
        }
    }
}

/// A request that may pass unless a limit has nothing left for it; `found`: its
/// route.
fn allow<H: Host>(
    filter: &Filter<H>,
    decided: &Decided<'_>,
    found: Option<&RouteMatch<'_>>,
    event: &mut TrafficEvent,
) -> (Flow, Option<Box<ResponseEdits>>) {
    let Decided { decision: Decision { allowed_by, .. }, request, tables, dice } = decided;
    event.rule = allowed_by.map(|prefix| prefix.to_string());
    if let Some(found) = found {
        name_route(found, event);
    }
    let route = found.map(|found| found.route);
    // Who skips bans skips limits.
    let tables = tables.filter(|_| allowed_by.is_none());
    let limits = tables.map(|tables| limits::ask(&filter.vm, tables, route, request, event));
    let of_denied = || found.and_then(|found| ResponseEdits::of_denied(found, request));
    let limits = match limits.transpose() {
        Ok(limits) => limits.unwrap_or_default(),
        Err(limited) => return (limit(filter, &limited, event), of_denied()),
    };
    let described = descriptors::describe(filter, route, request.client());
    let carried = described.and_then(|()| match found {
        Some(found) => actions::carry_out(filter, found, request, *dice),
        None => Ok((Handled::Sent, None)),
    });
    match carried {
        Ok((carried, after)) => (pass(filter, &carried, event), ResponseEdits::and_tell(after, limits)),
        Err(reason) => (deny(filter, reason, reason.status(), event), of_denied()),
    }
}

/// Notes what became of a request that may pass.
fn pass<H: Host>(filter: &Filter<H>, carried: &Handled, event: &mut TrafficEvent) -> Flow {
    let (verdict, reason, count, flow) = match carried {
        Handled::Sent => (VerdictCode::Allow, None, Count::Allowed, Flow::Continue),
        Handled::Redirected => (VerdictCode::Redirect, Some("redirect"), Count::Redirected, Flow::Stop),
        Handled::Preflight => (VerdictCode::Allow, Some("cors_preflight"), Count::Preflights, Flow::Stop),
    };
    event.verdict = verdict;
    event.reason = reason.map(str::to_owned);
    filter.vm.metrics.count(count);
    flow
}

fn name_route(found: &RouteMatch<'_>, event: &mut TrafficEvent) {
    event.route = Some(found.route.to_owned());
    event.template = found.template.map(str::to_owned);
}

/// Denies a request that a limit has nothing left for.
fn limit<H: Host>(filter: &Filter<H>, limited: &Limited<'_>, event: &mut TrafficEvent) -> Flow {
    event.rule = Some(RuleId::Limit(limited.limit).to_string());
    let reason = Reason::RateLimited;
    note_denial(filter, reason, event);
    let answered = reply::deny_with(&filter.vm.host, reason, reason.status(), &limited.headers);
    stopped(filter, answered)
}

/// Denies a request.
pub fn deny<H: Host>(filter: &Filter<H>, reason: Reason, status: u16, event: &mut TrafficEvent) -> Flow {
    note_denial(filter, reason, event);
    stopped(filter, reply::deny(&filter.vm.host, reason, status))
}

fn note_denial<H: Host>(filter: &Filter<H>, reason: Reason, event: &mut TrafficEvent) {
    event.verdict = VerdictCode::Deny;
    event.reason = Some(reason.code().to_owned());
    filter.vm.metrics.count(Count::denied(reason));
}

fn stopped<H: Host>(filter: &Filter<H>, answered: bool) -> Flow {
    if !answered {
        filter.vm.metrics.count(Count::HostErrors);
    }
    Flow::Stop
}
