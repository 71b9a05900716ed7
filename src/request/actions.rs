//! A route's action, carried out: what Envoy is told about the request, and what
//! is left to do with its response.

use std::sync::Arc;

use tidegate_policy::decide::Reason;
use tidegate_policy::limit::Standing;
use tidegate_policy::route::action::{Action, Arrival, CorsHeaders, HeaderEdit, HeaderEdits, Retry};
use tidegate_policy::route::{Answerer, RouteMatch};

use super::facts::RequestFacts;
use super::{event, limits, reply, upstream};
use crate::filter::Filter;
use crate::host::{Host, HostError};
use crate::metrics::Count;

/// What Envoy is told to try again, besides statuses: connections that fail, and
/// streams that end or take too long before there is an answer.
const RETRY_ON: &str = "connect-failure,refused-stream,reset,retriable-status-codes";

/// What answers other than to preflight requests say of CORS.
const SIMPLE_CORS: [&str; 3] =
    ["access-control-allow-origin", "access-control-allow-credentials", "access-control-expose-headers"];

/// What became of a request that may pass.
pub enum Handled {
    /// It goes to its backend.
    Sent,
    /// It was answered with a redirect.
    Redirected,
    /// A browser's preflight request was answered.
    Preflight,
}

/// What is left to do with a response. Of the tables it keeps only the actions.
#[derive(Default)]
pub struct ResponseEdits {
    edits: Vec<Arc<Action>>,
    /// What the route says of CORS, if it says anything: then the backend does not.
    cors: Option<CorsHeaders>,
    /// The answer depends on the page that asks, if only by what is left out.
    varies: bool,
    /// Where the client stands with the limits that tell it.
    limits: Vec<Standing>,
}

/// Carries out what `found` says of the request at hand. `dice`: random bits.
///
/// # Errors
/// Why the request is to be denied instead.
pub fn carry_out<H: Host>(
    filter: &Filter<H>,
    found: &RouteMatch<'_>,
    request: &RequestFacts,
    dice: u32,
) -> Result<(Handled, Option<Box<ResponseEdits>>), Reason> {
    let after = ResponseEdits::of(found, request);
    // Only CORS looks at headers.
    let lines = if found.cors().is_some() { request.lines() } else { Vec::new() };
    match found.answerer(&request.facts(&lines, dice)) {
        Answerer::Preflight(headers) => {
            answered(filter, reply::preflight(&filter.vm.host, &headers))?;
            // All is said already; only the edits are left.
            let edits = after.map(|after| Box::new(ResponseEdits { cors: None, varies: false, ..*after }));
            return Ok((Handled::Preflight, edits));
        }
        Answerer::Redirect(redirect) => {
            let (https, host, target) = request.arrival();
            let location = redirect.location(&Arrival { https, host, port: listener_port(filter), target });
            answered(filter, reply::redirect(&filter.vm.host, redirect.status, &location))?;
            return Ok((Handled::Redirected, after));
        }
        Answerer::Backend(backend) => upstream::send(filter, backend)?,
        Answerer::Nobody => return Err(Reason::NoBackend),
    }
    for action in found.actions() {
        prepare(&filter.vm.host, action, request).map_err(|_| {
            // Half an action may be worse than none: a header that was to go.
            filter.vm.metrics.count(Count::HostErrors);
            Reason::NotReady
        })?;
    }
    let mirrors = found.actions().flat_map(|action| &action.mirrors);
    let taken = (0u32..).zip(mirrors).filter(|(at, mirror)| mirror.takes(reroll(dice, *at)));
    upstream::mirror(filter, taken.map(|(_, mirror)| &mirror.backend));
    Ok((Handled::Sent, after))
}

fn answered<H: Host>(filter: &Filter<H>, answered: bool) -> Result<(), Reason> {
    if answered {
        return Ok(());
    }
    filter.vm.metrics.count(Count::HostErrors);
    Err(Reason::NotReady)
}

/// The port that clients know the listener by: as configured, else where the
/// request at hand arrived.
fn listener_port<H: Host>(filter: &Filter<H>) -> u16 {
    let arrived = || event::number(&filter.vm.host, &["destination", "port"]);
    let port = filter.listener_port.or_else(|| u16::try_from(arrived()?).ok());
    port.unwrap_or(80)
}

/// Changes the request as one action says.
fn prepare<H: Host>(host: &H, action: &Action, request: &RequestFacts) -> Result<(), HostError> {
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
            let (_, _, target) = request.arrival();
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
    action.retry.as_ref().map_or(Ok(()), |retry| try_again(host, retry))
}

/// Tells Envoy's router what to try again
/// (`docs/root/configuration/http/http_filters/router_filter.rst`).
fn try_again<H: Host>(host: &H, retry: &Retry) -> Result<(), HostError> {
    if retry.attempts == 0 {
        return Ok(());
    }
    host.set_request_header("x-envoy-retry-on", RETRY_ON.as_bytes())?;
    host.set_request_header("x-envoy-max-retries", retry.attempts.to_string().as_bytes())?;
    if retry.codes.is_empty() {
        return Ok(());
    }
    let codes: Vec<String> = retry.codes.iter().map(u16::to_string).collect();
    host.set_request_header("x-envoy-retriable-status-codes", codes.join(",").as_bytes())
}

fn edit(
    edits: &HeaderEdits,
    make: impl FnMut(HeaderEdit<'_>) -> Result<(), HostError>,
) -> Result<(), HostError> {
    edits.iter().try_for_each(make)
}

/// Random bits for the mirror `at`, which say nothing of those that chose the
/// backend (the finalizer of MurmurHash3).
fn reroll(dice: u32, at: u32) -> u32 {
    let mut bits = dice.wrapping_add(at.wrapping_add(1).wrapping_mul(0x9e37_79b9));
    bits = (bits ^ (bits >> 16)).wrapping_mul(0x85eb_ca6b);
    bits = (bits ^ (bits >> 13)).wrapping_mul(0xc2b2_ae35);
    bits ^ (bits >> 16)
}

impl ResponseEdits {
    /// `after`, and to tell the client of these limits.
    pub fn and_tell(after: Option<Box<Self>>, limits: Vec<Standing>) -> Option<Box<Self>> {
        if limits.is_empty() {
            return after;
        }
        let mut after = after.unwrap_or_default();
        after.limits = limits;
        Some(after)
    }

    /// What is left to do where the filter denies a request of `found`: a page that
    /// may read the route's answers may read why it got none.
    pub fn of_denied(found: &RouteMatch<'_>, request: &RequestFacts) -> Option<Box<Self>> {
        let after = Self::of(found, request)?;
        after.cors.is_some().then(|| Box::new(Self { edits: Vec::new(), ..*after }))
    }

    /// `None` where nothing is left to do.
    fn of(found: &RouteMatch<'_>, request: &RequestFacts) -> Option<Box<Self>> {
        let mut after = Self::default();
        for action in found.actions() {
            if !action.response.is_empty() {
                after.edits.push(action.clone());
            }
            if let Some(cors) = &action.cors {
                after.varies = cors.varies();
                // What every page is told is told to nobody in particular as well: a
                // cache may have it for a page.
                let origin = request.origin().or((!after.varies).then_some(b""));
                after.cors = Some(origin.map(|origin| cors.simple(origin)).unwrap_or_default());
            }
        }
        (after.cors.is_some() || !after.edits.is_empty()).then(|| Box::new(after))
    }

    /// Does it, in the phase of the response's headers.
    ///
    /// # Errors
    /// When the host refuses a change.
    pub fn finish<H: Host>(&self, host: &H) -> Result<(), HostError> {
        if let Some(cors) = &self.cors {
            // Not even to strangers, nor what the route leaves out.
            SIMPLE_CORS.iter().try_for_each(|name| host.remove_response_header(name))?;
            cors.iter().try_for_each(|(name, value)| host.set_response_header(name, value))?;
        }
        if self.varies {
            host.add_response_header("vary", b"origin")?;
        }
        for action in &self.edits {
            edit(&action.response, |edit| match edit {
                HeaderEdit::Remove(name) => host.remove_response_header(name),
                HeaderEdit::Set(name, value) => host.set_response_header(name, value.as_bytes()),
                HeaderEdit::Add(name, value) => host.add_response_header(name, value.as_bytes()),
            })?;
        }
        // Last: who hides what a backend says of its limits does not hide the filter's.
        limits::tell(host, &self.limits)
    }
}
