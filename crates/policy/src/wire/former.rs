//! What gateways of the version before this one send, read as what this version sends,
//! and answers for them: `docs/OPERATIONS.md`, "Upgrading". For the admin service only,
//! which is upgraded first: nothing of it is in the filter.
//!
//! Each format has one version before. When a format's version goes up, its former
//! layout takes the place of the one here, with bytes that the former writer wrote.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::check::{Answer, CHECK_FORMAT, Found, GeoAnswer, Question, RouteAnswer};
use super::event::{
    BATCH_FORMAT, Batch, DroppedRange, MAX_BATCH, MAX_OPEN, Mismatch, OPEN_FORMAT, OpenEvent, Source,
    TrafficEvent, VerdictCode,
};
use crate::check::{Answered, PerCheck};
use crate::codec::{WireError, decode, encode};
use crate::decide::IpFinding;
use crate::flags::Modes;
use crate::geo::Country;
use crate::route::Backend;

/// The version of [`Batch`]'s bytes before [`BATCH_FORMAT`].
pub const FORMER_BATCH: u8 = 2;
/// The version of [`OpenEvent`]'s bytes before [`OPEN_FORMAT`].
pub const FORMER_OPEN: u8 = 1;
/// The version of questions and answers before [`CHECK_FORMAT`].
pub const FORMER_CHECK: u8 = 1;

/// Reads a batch of this version or the one before.
///
/// # Errors
/// As [`Batch::from_bytes`].
pub fn read_batch(bytes: &[u8]) -> Result<Batch, WireError> {
    match bytes.first() {
        Some(&FORMER_BATCH) => Batch::from(decode::<FormerBatch>(FORMER_BATCH, MAX_BATCH, bytes)?).checked(),
        _ => Batch::from_bytes(bytes),
    }
}

/// Reads an open event of this version or the one before.
///
/// # Errors
/// As [`OpenEvent::from_bytes`].
pub fn read_open(bytes: &[u8]) -> Result<OpenEvent, WireError> {
    match bytes.first() {
        Some(&FORMER_OPEN) => {
            let FormerOpen { source, event } = decode(FORMER_OPEN, MAX_OPEN, bytes)?;
            OpenEvent { source, event: event.into() }.checked()
        }
        _ => OpenEvent::from_bytes(bytes),
    }
}

/// Reads a question of this version or the one before, with the version that its
/// answer must have.
///
/// # Errors
/// As [`Question::from_bytes`].
pub fn read_question(bytes: &[u8]) -> Result<(Question<'_>, u8), WireError> {
    let version = if bytes.first() == Some(&FORMER_CHECK) { FORMER_CHECK } else { CHECK_FORMAT };
    Ok((Question::of_version(version, bytes)?, version))
}

/// The bytes of an answer in the version that [`read_question`] gave. `None`: the
/// version before has no words for it, and to leave out what it does not know, such as
/// a redirect, would be another answer.
///
/// # Errors
/// See [`encode`].
pub fn answer_bytes(answer: &Answer, version: u8) -> Result<Option<Vec<u8>>, WireError> {
    if version != FORMER_CHECK {
        return answer.to_bytes().map(Some);
    }
    let Some(found) = FormerFound::of(&answer.found) else { return Ok(None) };
    encode(FORMER_CHECK, &(answer.id, answer.version, found)).map(Some)
}

/// Before templates, limits in shadow and redirects.
#[derive(Deserialize)]
struct FormerEvent {
    number: u64,
    time_ms: u64,
    #[serde(with = "serde_bytes")]
    method: Option<Vec<u8>>,
    #[serde(with = "serde_bytes")]
    host: Option<Vec<u8>>,
    #[serde(with = "serde_bytes")]
    path: Option<Vec<u8>>,
    client: Option<IpAddr>,
    verdict: FormerVerdict,
    reason: Option<String>,
    rule: Option<String>,
    route: Option<String>,
    status: Option<u16>,
    duration_us: Option<u64>,
    upstream_us: Option<u64>,
    bytes_in: Option<u64>,
    bytes_out: Option<u64>,
    #[serde(with = "serde_bytes")]
    user_agent: Option<Vec<u8>>,
    tunnel: bool,
    tables_seq: u64,
    country: Option<Country>,
    modes: Option<Modes>,
    answered: PerCheck<Answered>,
    mismatches: Vec<Mismatch>,
}

#[derive(Deserialize)]
enum FormerVerdict {
    Allow,
    Deny,
    Unseen,
}

#[derive(Deserialize)]
struct FormerOpen {
    source: Source,
    event: FormerEvent,
}

#[derive(Deserialize)]
struct FormerBatch {
    source: Source,
    first: u64,
    numbered_hi: u64,
    closing: bool,
    dropped: Vec<DroppedRange>,
    events: Vec<FormerEvent>,
}

impl From<FormerBatch> for Batch {
    fn from(former: FormerBatch) -> Self {
        let FormerBatch { source, first, numbered_hi, closing, dropped, events } = former;
        let events = events.into_iter().map(TrafficEvent::from).collect();
        Self { source, first, numbered_hi, closing, dropped, events }
    }
}

impl From<FormerEvent> for TrafficEvent {
    fn from(former: FormerEvent) -> Self {
        Self {
            number: former.number,
            time_ms: former.time_ms,
            method: former.method,
            host: former.host,
            path: former.path,
            client: former.client,
            verdict: match former.verdict {
                FormerVerdict::Allow => VerdictCode::Allow,
                FormerVerdict::Deny => VerdictCode::Deny,
                FormerVerdict::Unseen => VerdictCode::Unseen,
            },
            reason: former.reason,
            rule: former.rule,
            route: former.route,
            template: None,
            shadow_limit: None,
            status: former.status,
            duration_us: former.duration_us,
            upstream_us: former.upstream_us,
            bytes_in: former.bytes_in,
            bytes_out: former.bytes_out,
            user_agent: former.user_agent,
            tunnel: former.tunnel,
            tables_seq: former.tables_seq,
            country: former.country,
            modes: former.modes,
            answered: former.answered,
            mismatches: former.mismatches,
        }
    }
}

/// Before templates, actions, backends of the API and paths that are too long.
#[derive(Serialize)]
enum FormerFound<'a> {
    Ip(IpFinding),
    Geo(&'a GeoAnswer),
    Route(Option<FormerRoute<'a>>),
}

#[derive(Serialize)]
struct FormerRoute<'a> {
    route: &'a str,
    rule: u32,
    backend: Option<FormerBackend<'a>>,
    geo: &'a [String],
}

#[derive(Serialize)]
struct FormerBackend<'a> {
    name: &'a str,
    namespace: Option<&'a str>,
    port: Option<u16>,
}

impl<'a> FormerFound<'a> {
    fn of(found: &'a Found) -> Option<Self> {
        Some(match found {
            Found::Ip(ip) => Self::Ip(*ip),
            Found::Geo(geo) => Self::Geo(geo),
            Found::Route(Ok(None)) => Self::Route(None),
            Found::Route(Ok(Some(route))) => Self::Route(Some(FormerRoute::of(route)?)),
            Found::Route(Err(_)) => return None,
        })
    }
}

impl<'a> FormerRoute<'a> {
    fn of(answer: &'a RouteAnswer) -> Option<Self> {
        // The template is a name for the statistics: without it the answer is the same.
        let RouteAnswer { route, rule, template: _, backend, geo, action, backend_action } = answer;
        if action.is_some() || backend_action.is_some() {
            return None;
        }
        let backend = match backend {
            Some(Backend { target: Some(_), .. }) => return None,
            Some(Backend { name, namespace, port, target: None }) => {
                Some(FormerBackend { name, namespace: namespace.as_deref(), port: *port })
            }
            None => None,
        };
        Some(Self { route, rule: *rule, backend, geo })
    }
}

// One version before, and no gap: with each new version the former one moves up.
const _: () = assert!(FORMER_BATCH + 1 == BATCH_FORMAT, "read the batches of the version before");
const _: () = assert!(FORMER_OPEN + 1 == OPEN_FORMAT, "read the open events of the version before");
const _: () = assert!(FORMER_CHECK + 1 == CHECK_FORMAT, "answer the questions of the version before");

#[cfg(test)]
mod tests;
