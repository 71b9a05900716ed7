//! `POST ip/ban` and `POST ip/unban`.

use std::fmt;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Extension, Request, State};
use axum::routing::post;
use axum::{Json, Router};
use jiff::Timestamp;
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use tidegate_policy::address::Prefix;

use crate::api::admin::ip_monitor::AddressStatus;
use crate::api::app_state::AppState;
use crate::api::body;
use crate::api::query::QueryParams;
use crate::api::wait_applied::{PendingWrite, WAIT_APPLIED, WriteResult};
use crate::auth::Caller;
use crate::feed::RowStatus;
use crate::problem::{ApiResult, FieldError, Problem, ProblemCode};
use crate::store::{Change, time_text};
use crate::time;

/// The paths here.
pub fn routes() -> Router<AppState> {
    Router::new()
        .route("/api/admin/optimization/ip/ban", post(ban))
        .route("/api/admin/optimization/ip/unban", post(unban))
}

/// Bytes of a reason, at most.
const MAX_REASON: usize = 1_000;

/// The body of `ip/ban`.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub struct BanRequest {
    ip: String,
    reason: Option<String>,
    ttl: Option<Ttl>,
    expires_at: Option<Expiry>,
}

/// A duration as a text with a unit, or a number of seconds.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Ttl(Duration);

impl<'de> Deserialize<'de> for Ttl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;
        impl Visitor<'_> for Form {
            type Value = Ttl;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a duration of up to 100 years: {}", time::DURATION_FORM)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Ttl, E> {
                let span = time::parse_duration(text);
                span.map(Ttl).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
            }

            fn visit_u64<E: Error>(self, seconds: u64) -> Result<Ttl, E> {
                let span = Some(Duration::from_secs(seconds)).filter(|span| *span <= time::MAX_DURATION);
                span.map(Ttl).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Unsigned(seconds), &self))
            }

            fn visit_f64<E: Error>(self, seconds: f64) -> Result<Ttl, E> {
                let span =
                    Duration::try_from_secs_f64(seconds).ok().filter(|span| *span <= time::MAX_DURATION);
                span.map(Ttl).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Float(seconds), &self))
            }
        }
        deserializer.deserialize_any(Form)
    }
}

/// A time as people write it: a text, or a number of Unix seconds.
#[derive(PartialEq, Debug)]
struct Expiry(String);

impl<'de> Deserialize<'de> for Expiry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;
        impl Visitor<'_> for Form {
            type Value = Expiry;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a time: {}", time_text::FORM)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Expiry, E> {
                Ok(Expiry(text.to_owned()))
            }

            fn visit_u64<E: Error>(self, seconds: u64) -> Result<Expiry, E> {
                Ok(Expiry(seconds.to_string()))
            }

            fn visit_f64<E: Error>(self, seconds: f64) -> Result<Expiry, E> {
                Ok(Expiry(seconds.to_string()))
            }
        }
        deserializer.deserialize_any(Form)
    }
}

/// The answer of `ip/ban`.
#[derive(Serialize, Debug)]
pub struct Banned {
    ip: String,
    status: &'static str,
    reason: Option<String>,
    until: Option<String>,
    #[serde(flatten)]
    written: WriteResult,
}

/// Bans an address or a block. If it is banned already, reason and expiry are replaced.
///
/// # Errors
/// When the body is invalid, or the table of bans is full; then nothing was changed.
pub async fn ban(
    State(app): State<AppState>,
    Extension(caller): Extension<Caller>,
    request: Request<Body>,
) -> ApiResult<Json<Banned>> {
    let params = QueryParams::read(request.uri(), &[WAIT_APPLIED])?;
    let write = PendingWrite::prepare(&app, &params)?;
    let asked: BanRequest = body::json(request).await?;
    let (prefix, until) = asked.check()?;
    if !app.feed.snapshot().has_room_for_ban(&prefix) {
        return Err(no_room(&prefix));
    }
    let ip = prefix.to_string();
    let change =
        Change::Ban { ip: ip.clone(), reason: asked.reason.clone(), expires_at: until.map(time::to_sql) };
    let (_, written) = write.commit(change, &caller).await?;
    tracing::info!(by = %caller.name, version = %written.version, "banned");
    tracing::debug!(ip, "what was banned");
    Ok(Json(Banned {
        ip,
        status: "banned",
        reason: asked.reason,
        until: until.map(time::rounded_up),
        written,
    }))
}

fn no_room(prefix: &Prefix) -> Problem {
    let detail = format!(
        "the table of bans is full, so {prefix} was not banned: remove bans that are not needed, or ban blocks instead of single addresses"
    );
    Problem::new(ProblemCode::TableFull, detail)
}

impl BanRequest {
    /// The prefix in canonical form, and when the ban expires. The error lists all that is wrong.
    fn check(&self) -> ApiResult<(Prefix, Option<Timestamp>)> {
        let mut errors = Vec::new();
        let prefix = parse_ip(&self.ip).map_err(|error| errors.push(error)).ok();
        let until = self.until().map_err(|error| errors.push(error)).ok();
        if self.reason.as_ref().is_some_and(|reason| reason.len() > MAX_REASON) {
            let detail = format!("a reason may have {MAX_REASON} bytes");
            errors.push(FieldError::field("/reason", "too_long", detail));
        }
        match (prefix, until) {
            (Some(prefix), Some(until)) if errors.is_empty() => Ok((prefix, until)),
            _ => Err(Problem::fields(errors)),
        }
    }

    fn until(&self) -> Result<Option<Timestamp>, FieldError> {
        let past = |pointer| {
            FieldError::field(pointer, "in_the_past", "the ban would be over already: give an end to come")
        };
        let text = self.expires_at.as_ref().map(|Expiry(text)| text.as_str());
        match (self.ttl, text.filter(|text| !text.is_empty())) {
            (None, None) => Ok(None),
            (Some(_), Some(_)) => {
                let detail = "give `ttl` or `expires_at`, not both";
                Err(FieldError::field("/expires_at", "conflict", detail))
            }
            (Some(ttl), None) if ttl.0.is_zero() => Err(past("/ttl")),
            (Some(ttl), None) => time::from_now(ttl.0).map(Some).ok_or_else(|| past("/ttl")),
            (None, Some(text)) => {
                let until = time::parse_timestamp(text).ok_or_else(|| {
                    let detail = format!("this is no timestamp: {}", time_text::FORM);
                    FieldError::field("/expires_at", "invalid", detail)
                })?;
                if until <= time::now() {
                    return Err(past("/expires_at"));
                }
                let last = time::from_now(time::MAX_DURATION);
                if last.is_some_and(|last| until > last) {
                    let detail = "a ban may last 100 years; leave the end out for one that stays";
                    return Err(FieldError::field("/expires_at", "out_of_range", detail));
                }
                Ok(Some(until))
            }
        }
    }
}

fn parse_ip(text: &str) -> Result<Prefix, FieldError> {
    text.trim().parse::<Prefix>().map_err(|error| FieldError::field("/ip", "invalid_ip", error.to_string()))
}

/// The body of `ip/unban`.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub struct UnbanRequest {
    ip: String,
}

/// The answer of `ip/unban`.
#[derive(Serialize, Debug)]
pub struct Unbanned {
    /// Rows that were removed: one address can be written in several ways.
    rows: u64,
    #[serde(flatten)]
    now: AddressStatus,
    #[serde(flatten)]
    written: WriteResult,
}

/// Removes the ban of exactly this address or block.
///
/// # Errors
/// When the body is invalid, or there is no such ban; then nothing was changed.
pub async fn unban(
    State(app): State<AppState>,
    Extension(caller): Extension<Caller>,
    request: Request<Body>,
) -> ApiResult<Json<Unbanned>> {
    let params = QueryParams::read(request.uri(), &[WAIT_APPLIED])?;
    let write = PendingWrite::prepare(&app, &params)?;
    let asked: UnbanRequest = body::json(request).await?;
    let prefix = parse_ip(&asked.ip).map_err(|error| Problem::fields(vec![error]))?;
    let snapshot = app.current().await;
    let Some(ban) = snapshot.listed(&prefix, RowStatus::Banned) else {
        return Err(not_banned(&AddressStatus::of(&snapshot, &prefix, time::now_seconds())));
    };
    let (committed, written) = write.commit(Change::Unban { keys: ban.keys }, &caller).await?;
    if committed.rows == 0 {
        // Another request has removed it meanwhile.
        return Err(not_banned(&AddressStatus::of(&*app.current().await, &prefix, time::now_seconds())));
    }
    tracing::info!(by = %caller.name, version = %written.version, "unbanned");
    tracing::debug!(ip = %prefix, "what was unbanned");
    let now = AddressStatus::of(&*app.current().await, &prefix, time::now_seconds());
    Ok(Json(Unbanned { rows: committed.rows, now, written }))
}

fn not_banned(now: &AddressStatus) -> Problem {
    let ip = &now.ip;
    let detail = match &now.entry {
        Some(entry) if now.status == "banned" && entry != ip => {
            format!("there is no ban of {ip} itself; {entry} covers it: unban that")
        }
        _ => format!("there is no ban of {ip}"),
    };
    Problem::new(ProblemCode::NotBanned, detail)
}
