//! The filters of events as parameters of a query.

use tidegate_policy::address::{Prefix, PrefixError};
use tidegate_policy::check::Check;
use tidegate_policy::decide::Reason;
use tidegate_policy::wire::event::{MAX_HOST, MAX_METHOD, MAX_PATH, VerdictCode};

use crate::api::query::QueryParams;
use crate::problem::{ApiResult, Problem};
use crate::store::{EventFilter, MismatchFilter};
use crate::time;

/// All parameters.
pub const PARAMETERS: &[&str] = &[
    "since",
    "until",
    "ip",
    "country",
    "route",
    "path",
    "status",
    "verdict",
    "reason",
    "would_deny",
    "would_deny_rule",
    "ban_source",
    "method",
    "host",
    "mismatch",
    "limit",
    "cursor",
    "format",
];

/// What the gate did.
const VERDICTS: [VerdictCode; 4] =
    [VerdictCode::Allow, VerdictCode::Deny, VerdictCode::Redirect, VerdictCode::Unseen];

/// Reasons of events that are no denials.
const OTHER_REASONS: [&str; 3] = ["redirect", "cors_preflight", "unknown_backend"];

/// Reasons that entries in shadow have.
const WOULD_DENY: [Reason; 2] = [Reason::IpBanned, Reason::GeoDenied];
/// Longest name of an entry, in bytes.
const MAX_ENTRY: usize = 253;
/// Longest name of a source of bans, in bytes.
const MAX_SOURCE: usize = 63;

/// The filter that `params` ask for.
///
/// # Errors
/// When a filter is not right, or nothing can match it.
pub fn read(params: &QueryParams) -> ApiResult<EventFilter> {
    let (since, until) = params.since_until()?;
    let reasons: Vec<&str> = Reason::ALL.map(Reason::code).into_iter().chain(OTHER_REASONS).collect();
    let filter = EventFilter {
        since: since.map(time::to_sql),
        until: until.map(time::to_sql),
        client: params.get("ip").map(block).transpose()?,
        country: country(params)?,
        route: bounded(params, "route", 1_024)?,
        path_prefix: path(params)?,
        status: params.get("status").map(status).transpose()?,
        verdict: params.word("verdict", &VERDICTS.map(VerdictCode::name))?.map(str::to_owned),
        reason: params.word("reason", &reasons)?.map(str::to_owned),
        would_deny: params.word("would_deny", &WOULD_DENY.map(Reason::code))?.map(str::to_owned),
        would_deny_rule: bounded(params, "would_deny_rule", MAX_ENTRY)?,
        ban_source: bounded(params, "ban_source", MAX_SOURCE)?,
        method: bounded(params, "method", MAX_METHOD)?,
        host: bounded(params, "host", MAX_HOST)?,
        mismatch: mismatch(params)?,
    };
    let is_denial = |reason: &String| !OTHER_REASONS.contains(&reason.as_str());
    let is_other = filter.verdict.as_ref().is_some_and(|verdict| verdict != VerdictCode::Deny.name());
    if is_other && filter.reason.as_ref().is_some_and(is_denial) {
        let detail = "a request with this reason was denied: leave out `reason`, or write verdict=deny";
        return Err(Problem::parameter("reason", "conflict", detail));
    }
    Ok(filter)
}

fn block(text: &str) -> ApiResult<Prefix> {
    text.trim()
        .parse()
        .map_err(|error: PrefixError| Problem::parameter("ip", "invalid_ip", error.to_string()))
}

fn country(params: &QueryParams) -> ApiResult<Option<String>> {
    let Some(text) = params.get("country") else { return Ok(None) };
    match text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        true => Ok(Some(text.to_ascii_uppercase())),
        false => Err(Problem::parameter("country", "invalid", "write a country's two characters, like DE")),
    }
}

/// A text that is no longer than what is recorded.
pub fn bounded(params: &QueryParams, name: &'static str, most: usize) -> ApiResult<Option<String>> {
    match params.get(name) {
        Some(text) if text.is_empty() || text.len() > most => {
            let detail = format!("no request has this: `{name}` may have 1 to {most} bytes");
            Err(Problem::parameter(name, "out_of_range", detail))
        }
        text => Ok(text.map(str::to_owned)),
    }
}

/// The check of this name.
pub fn check(name: &str) -> Option<Check> {
    Check::ALL.into_iter().find(|check| check.name() == name)
}

/// The differences that are asked for: of one check, or of any.
fn mismatch(params: &QueryParams) -> ApiResult<Option<MismatchFilter>> {
    let names: Vec<&str> = ["any"].into_iter().chain(Check::ALL.map(Check::name)).collect();
    let name = params.word("mismatch", &names)?;
    Ok(name.map(|name| MismatchFilter { check: check(name), lagging: None }))
}

fn path(params: &QueryParams) -> ApiResult<Option<String>> {
    let path = bounded(params, "path", MAX_PATH)?;
    if path.as_ref().is_some_and(|path| !path.starts_with('/') || path.contains('?')) {
        let detail = "write the beginning of a path, like /shop/: paths are recorded without their query";
        return Err(Problem::parameter("path", "invalid", detail));
    }
    Ok(path)
}

/// `404`, or a class: `4xx`.
fn status(text: &str) -> ApiResult<std::ops::RangeInclusive<u16>> {
    let (class, rest) = text.split_at_checked(1).unwrap_or_default();
    match (class.parse::<u16>(), rest, text.parse::<u16>()) {
        (Ok(class @ 1..=5), "xx", _) => Ok(class * 100..=class * 100 + 99),
        (_, _, Ok(status @ 100..=599)) => Ok(status..=status),
        _ => Err(Problem::parameter(
            "status",
            "invalid",
            "write a status from 100 to 599, or a class, like 4xx",
        )),
    }
}
