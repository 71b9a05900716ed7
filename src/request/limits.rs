//! What the limits say of a request that may pass otherwise.

use tidegate_policy::decide::Tables;
use tidegate_policy::limit::{Limit, Standing, retry_after};
use tidegate_policy::wire::event::TrafficEvent;

use super::facts::RequestFacts;
use super::limiter::LimitAnswer;
use crate::host::{Host, HostError};
use crate::metrics::Count;
use crate::worker::Instance;

/// A limit that has nothing left for the request.
pub struct Limited<'t> {
    /// The limit's name.
    pub limit: &'t str,
    /// Headers of the answer.
    pub headers: Vec<(&'static str, Vec<u8>)>,
}

/// Asks the limits that hold for a request, in the order of their names, up to the
/// first that has nothing left. `route`: the one that matched. Where the client
/// stands with those that tell it also when it passes comes back.
///
/// What the limits before the one that denies have counted stays counted: to take
/// it back would need all of their buckets to be written at once.
///
/// # Errors
/// The limit that denies.
pub fn ask<'t, H: Host>(
    vm: &Instance<H>,
    tables: &'t Tables,
    route: Option<&str>,
    request: &RequestFacts,
    event: &mut TrafficEvent,
) -> Result<Vec<Standing>, Limited<'t>> {
    let mut standings = Vec::new();
    if tables.limits.is_empty() {
        return Ok(standings);
    }
    let lines = request.lines();
    for (limit, value) in tables.limits.of(&request.facts(&lines, 0), route) {
        match vm.limiter.ask(limit, &value) {
            LimitAnswer::Passes { tat } => {
                vm.metrics.count(Count::LimitsPassed);
                if limit.headers && !limit.shadow {
                    standings.push(Standing::new(limit, tat));
                }
            }
            LimitAnswer::Waits { .. } if limit.shadow => {
                vm.metrics.count(Count::LimitsShadowDenied);
                event.shadow_limit.get_or_insert_with(|| limit.name.clone());
            }
            LimitAnswer::Waits { tat, wait_ns } => {
                standings.push(Standing::new(limit, tat));
                return Err(limited(limit, &standings, wait_ns, vm.host.monotonic_ns()));
            }
            LimitAnswer::Unknown => {}
        }
    }
    Ok(standings)
}

fn limited<'t>(limit: &'t Limit, standings: &[Standing], wait_ns: u64, now_ns: u64) -> Limited<'t> {
    let mut headers = fields(standings, now_ns).to_vec();
    headers.push(("retry-after", retry_after(wait_ns).to_string().into_bytes()));
    Limited { limit: &limit.name, headers }
}

/// Tells a client where it stands, in the response at hand. What the upstream says
/// of limits of its own stays: both fields are lists.
///
/// # Errors
/// When the host refuses.
pub fn tell<H: Host>(host: &H, standings: &[Standing]) -> Result<(), HostError> {
    if standings.is_empty() {
        return Ok(());
    }
    let fields = fields(standings, host.monotonic_ns());
    fields.iter().try_for_each(|(name, value)| host.add_response_header(name, value))
}

fn fields(standings: &[Standing], now_ns: u64) -> [(&'static str, Vec<u8>); 2] {
    [
        ("ratelimit-policy", Standing::policy(standings).into_bytes()),
        ("ratelimit", Standing::limit(standings, now_ns).into_bytes()),
    ]
}
