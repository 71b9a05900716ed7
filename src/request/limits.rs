//! The limits that hold for a request that no check denied, and their response headers:
//! `RateLimit-Policy`, `RateLimit` and `Retry-After`.

use tidegate_policy::decide::Tables;
use tidegate_policy::limit::{LimitStatus, retry_after};
use tidegate_policy::route::RouteMatch;

use super::facts::RequestFacts;
use super::limiter::LimitAnswer;
use crate::host::{Host, HostError};
use crate::metrics::Count;
use crate::worker::AdminInstance;

/// The result of the limits for a request.
#[derive(Default)]
pub struct LimitCheck<'t> {
    /// The limit that has nothing left.
    pub denied: Option<LimitDenial<'t>>,
    /// Name of the first limit in shadow that has nothing left.
    pub shadow_denied: Option<String>,
    /// Usage of the limits that are shown: the one that denies, and those that are shown also to a
    /// client whose request passes.
    pub usages: Vec<LimitStatus>,
}

/// A limit that has nothing left for the request.
pub struct LimitDenial<'t> {
    /// The limit's name.
    pub limit: &'t str,
    /// Seconds after which the client may try again, for `Retry-After`.
    pub retry_after_s: u64,
}

/// Takes the request out of the limits that hold for it, in the order of their names,
/// up to the first that has nothing left. `route`: the one that matched; `lines`: those of `facts`.
///
/// A limit is not a check: no other service could answer it, and whether it holds depends on
/// what the checks found. So limits come after the decision that the request may pass, from
/// the tables that it began with. Where no limit holds there is no host call.
///
/// What the limits before that one have counted stays counted: to take it back, all of
/// their buckets would have to be written at once.
pub fn check<'t, H: Host>(
    instance: &AdminInstance<H>,
    tables: &'t Tables,
    route: Option<&RouteMatch<'_>>,
    facts: &RequestFacts,
    lines: &[(&[u8], &[u8])],
) -> LimitCheck<'t> {
    let mut found = LimitCheck::default();
    if tables.limits.is_empty() {
        return found;
    }
    let metrics = &instance.metrics;
    for (limit, value) in tables.limits.of(&facts.facts(lines, 0), route) {
        match instance.limiter.take(limit, &value) {
            LimitAnswer::Passes { tat } => {
                metrics.count(Count::LimitsPassed);
                if limit.headers && !limit.shadow {
                    found.usages.push(LimitStatus::new(limit, tat));
                }
            }
            LimitAnswer::Waits { .. } if limit.shadow => {
                metrics.count(Count::LimitsShadowDenied);
                found.shadow_denied.get_or_insert_with(|| limit.name.clone());
            }
            LimitAnswer::Waits { tat, wait_ns } => {
                found.usages.push(LimitStatus::new(limit, tat));
                found.denied = Some(LimitDenial { limit: &limit.name, retry_after_s: retry_after(wait_ns) });
                return found;
            }
            LimitAnswer::Unknown => {}
        }
    }
    found
}

/// Adds `RateLimit-Policy` and `RateLimit` to the current response. The upstream's values
/// of these headers stay: both are lists.
///
/// # Errors
/// When the host refuses.
pub fn add_headers<H: Host>(host: &H, usages: &[LimitStatus]) -> Result<(), HostError> {
    if usages.is_empty() {
        return Ok(());
    }
    host.add_response_header("ratelimit-policy", LimitStatus::policy(usages).as_bytes())?;
    host.add_response_header("ratelimit", LimitStatus::limit(usages, host.monotonic_ns()).as_bytes())
}
