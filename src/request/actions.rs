//! Carries out what a matched route does with a request: sets headers and filter state
//! for Envoy, and keeps the changes of the response in [`ResponseEdits`].
//!
//! Envoy connects, times out, retries and mirrors. None of the headers that tell it so reaches
//! a backend.
//!
//! | what | how | carried out by |
//! | --- | --- | --- |
//! | the upstream | `x-tidegate-cluster` | the route's `cluster_header` |
//! | an upstream that Envoy's file does not have | a cluster `tidegate-dynamic...`; host, port, SNI and certificate name in filter state | the dynamic forward proxy |
//! | time limits | `x-envoy-upstream-rq-timeout-ms`, `x-envoy-upstream-rq-per-try-timeout-ms` | the router |
//! | retries | `x-envoy-retry-on`, `x-envoy-max-retries`, `x-envoy-retriable-status-codes` | the router |
//! | mirrors | `x-tidegate-mirror-1` to `-4`: a cluster; with `-host`, `-port`, `-sni` for `tidegate-dynamic...` | a route per number of mirrors, and the internal listener `mirrors`: `envoy/envoy.yaml` has the reason |

use std::sync::Arc;

use tidegate_policy::decide::Reason;
use tidegate_policy::limit::LimitStatus;
use tidegate_policy::route::action::{Action, CorsHeaders, HeaderEdit, HeaderEdits, RequestUrl, Retry};
use tidegate_policy::route::{ResponseFrom, RouteMatch};

use super::facts::RequestFacts;
use super::{limits, listener, passes, reply, upstream};
use crate::filter::Filter;
use crate::host::{Host, HostError};

/// `x-envoy-retry-on`: connections that fail, streams that end or take too long before
/// there is an answer, and the statuses in `x-envoy-retriable-status-codes`.
const RETRY_ON: &str = "connect-failure,refused-stream,reset,retriable-status-codes";

/// CORS headers of answers other than to preflight requests.
const SIMPLE_CORS: [&str; 3] =
    ["access-control-allow-origin", "access-control-allow-credentials", "access-control-expose-headers"];

/// What a denial is, and that no cache may keep it, which a route does not change: its word on its
/// backend's answers would give one client's denial to all.
const OF_DENIALS: [&str; 2] = ["cache-control", "content-type"];

/// How a request that may pass is answered.
pub enum Handled {
    /// By its backend.
    Forwarded,
    /// By the filter, with a redirect.
    Redirected,
    /// By the filter: it is a browser's CORS preflight request.
    Preflight,
}

/// Changes of the response's headers, decided with the request. Of the tables it keeps
/// only the actions, which are shared: the rest of a table can go while a response is awaited.
#[derive(Default)]
pub struct ResponseEdits {
    /// Actions with response header edits.
    actions: Vec<Arc<Action>>,
    /// CORS headers in place of the backend's; `None`: the route has no CORS filter.
    cors: Option<CorsHeaders>,
    /// Whether `vary: origin` is added: other origins get other CORS headers.
    varies: bool,
    /// Whether the filter denies the request.
    is_denial: bool,
    /// Usage of the limits that are shown in the `RateLimit` headers.
    usages: Vec<LimitStatus>,
}

/// Carries out the route `found` for the current request, and sets its upstream. `random_bits`:
/// the request's random bits.
///
/// # Errors
/// Why the request is to be denied instead.
pub fn carry_out<H: Host>(
    filter: &Filter<H>,
    found: &RouteMatch<'_>,
    facts: &RequestFacts,
    random_bits: u32,
) -> Result<(Handled, Option<Box<ResponseEdits>>), Reason> {
    // Only CORS looks at headers.
    let lines = if found.cors().is_some() { facts.lines() } else { Vec::new() };
    let from = found.response_from(&facts.facts(&lines, random_bits));
    let response = ResponseEdits::of(found, facts, Some(&from));
    match from {
        ResponseFrom::Preflight(headers) => {
            filter.require(reply::preflight(&filter.instance.host, &headers))?;
            return Ok((Handled::Preflight, response));
        }
        ResponseFrom::Redirect(redirect) => {
            let (https, host, target) = facts.url_parts();
            let location =
                redirect.location(&RequestUrl { https, host, port: listener::port(filter), target });
            filter.require(reply::redirect(&filter.instance.host, redirect.status, &location))?;
            return Ok((Handled::Redirected, response));
        }
        ResponseFrom::Backend(backend) => upstream::send(filter, backend)?,
        ResponseFrom::NoBackend => return Err(Reason::NoBackend),
    }
    for action in found.actions() {
        // Not half an action: a header that it removes may be a secret.
        filter.require(edit_request(&filter.instance.host, action, facts))?;
    }
    filter.require(passes::add(&filter.instance.host))?;
    let mirrors = found.actions().flat_map(|action| &action.mirrors);
    let taken = (0u32..).zip(mirrors).filter(|(at, mirror)| mirror.is_sampled(mirror_bits(random_bits, *at)));
    upstream::mirror(filter, taken.map(|(_, mirror)| &mirror.backend));
    Ok((Handled::Forwarded, response))
}

/// Changes the request's headers as `action` says.
fn edit_request<H: Host>(host: &H, action: &Action, facts: &RequestFacts) -> Result<(), HostError> {
    edit(&action.request, |edit| match edit {
        HeaderEdit::Remove(name) => host.remove_request_header(name),
        HeaderEdit::Set(name, value) => host.set_request_header(name, value.as_bytes()),
        HeaderEdit::Add(name, value) => host.add_request_header(name, value.as_bytes()),
    })?;
    if let Some(rewrite) = &action.rewrite {
        if let Some(hostname) = &rewrite.hostname {
            host.set_request_header(":authority", hostname.as_bytes())?;
        }
        if let Some(path) = &rewrite.path {
            let (_, _, target) = facts.url_parts();
            host.set_request_header(":path", &path.apply(target))?;
        }
    }
    for (name, ms) in [
        ("x-envoy-upstream-rq-timeout-ms", action.timeouts.request_ms),
        ("x-envoy-upstream-rq-per-try-timeout-ms", action.timeouts.backend_ms),
    ] {
        if ms > 0 {
            host.set_request_header(name, ms.to_string().as_bytes())?;
        }
    }
    action.retry.as_ref().map_or(Ok(()), |retry| set_retry_headers(host, retry, facts.has_passed_a_gate()))
}

/// Sets the headers by which Envoy's router retries
/// (`docs/root/configuration/http/http_filters/router_filter.rst`). `is_passed_on`: the request comes
/// from another gate.
fn set_retry_headers<H: Host>(host: &H, retry: &Retry, is_passed_on: bool) -> Result<(), HostError> {
    if retry.attempts == 0 {
        return Ok(());
    }
    host.set_request_header("x-envoy-retry-on", RETRY_ON.as_bytes())?;
    host.set_request_header("x-envoy-max-retries", retry.attempts.to_string().as_bytes())?;
    let codes = retry.codes.iter().filter(|code| !(is_passed_on && **code == passes::STATUS));
    let codes: Vec<String> = codes.map(u16::to_string).collect();
    if codes.is_empty() {
        return Ok(());
    }
    host.set_request_header("x-envoy-retriable-status-codes", codes.join(",").as_bytes())
}

fn edit(
    edits: &HeaderEdits,
    make: impl FnMut(HeaderEdit<'_>) -> Result<(), HostError>,
) -> Result<(), HostError> {
    edits.iter().try_for_each(make)
}

/// Random bits for the mirror `at`, independent of those that chose the backend
/// (the finalizer of MurmurHash3).
fn mirror_bits(random_bits: u32, at: u32) -> u32 {
    let mut bits = random_bits.wrapping_add(at.wrapping_add(1).wrapping_mul(0x9e37_79b9));
    bits = (bits ^ (bits >> 16)).wrapping_mul(0x85eb_ca6b);
    bits = (bits ^ (bits >> 13)).wrapping_mul(0xc2b2_ae35);
    bits ^ (bits >> 16)
}

impl ResponseEdits {
    /// `edits`, and the `RateLimit` headers of these limits.
    pub fn with_limits(edits: Option<Box<Self>>, usages: Vec<LimitStatus>) -> Option<Box<Self>> {
        if usages.is_empty() {
            return edits;
        }
        let mut edits = edits.unwrap_or_default();
        edits.usages = usages;
        Some(edits)
    }

    /// The edits of a response on the route `found`; `None` if there are none. `from`: `None` for
    /// a denial, which a page that may read the route's responses may read, too.
    pub fn of(
        found: &RouteMatch<'_>,
        facts: &RequestFacts,
        from: Option<&ResponseFrom<'_>>,
    ) -> Option<Box<Self>> {
        let actions = found.response_actions(from).filter(|action| !action.response.is_empty());
        let mut edits =
            Self { actions: actions.cloned().collect(), is_denial: from.is_none(), ..Self::default() };
        // The answer to a preflight request has all CORS headers already.
        if let Some(cors) = found.cors().filter(|_| !matches!(from, Some(ResponseFrom::Preflight(_)))) {
            edits.varies = cors.varies();
            // Headers that are the same for all origins are set for a request
            // without one too: a cache may serve the response to a page.
            let origin = facts.origin().or((!edits.varies).then_some(b""));
            edits.cors = Some(origin.map(|origin| cors.simple(origin)).unwrap_or_default());
        }
        (edits.cors.is_some() || !edits.actions.is_empty()).then(|| Box::new(edits))
    }

    /// Makes the edits, in the phase of the response's headers.
    ///
    /// # Errors
    /// When the host refuses a change.
    pub fn apply<H: Host>(&self, host: &H) -> Result<(), HostError> {
        if let Some(cors) = &self.cors {
            // The backend's are removed even if the route has none for this origin.
            SIMPLE_CORS.iter().try_for_each(|name| host.remove_response_header(name))?;
            cors.iter().try_for_each(|(name, value)| host.set_response_header(name, value))?;
        }
        if self.varies {
            host.add_response_header("vary", b"origin")?;
        }
        for action in &self.actions {
            edit(&action.response, |edit| match edit {
                HeaderEdit::Remove(name) | HeaderEdit::Set(name, _) | HeaderEdit::Add(name, _)
                    if self.is_denial && OF_DENIALS.contains(&name) =>
                {
                    Ok(())
                }
                HeaderEdit::Remove(name) => host.remove_response_header(name),
                HeaderEdit::Set(name, value) => host.set_response_header(name, value.as_bytes()),
                HeaderEdit::Add(name, value) => host.add_response_header(name, value.as_bytes()),
            })?;
        }
        // Last: an edit that removes a backend's RateLimit headers leaves the filter's.
        limits::add_headers(host, &self.usages)
    }
}
