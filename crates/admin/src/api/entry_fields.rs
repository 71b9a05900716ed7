//! Fields of a ban and of an entry of the allow list: `reason`; `ttl` or `expires_at`.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use tidegate_author::{DocumentError, read_scope, write_scope};
use tidegate_policy::address::Prefix;
use tidegate_policy::scope::Scope;
use tidegate_policy::scoped_bans::MAX_SCOPES;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, SchemaType, Type};
use utoipa::{PartialSchema, ToSchema};

use crate::feed::Snapshot;
use crate::problem::{FieldError, Problem, ProblemCode};
use crate::store::time_text;
use crate::time;

/// Bits of the widest blocks, of IPv4 and IPv6, that are allowed without `force`: no provider has more addresses.
const WIDEST_ALLOWED: [u8; 2] = [8, 19];
/// Bytes of a reason, at most.
const MAX_REASON: usize = 1_000;

/// A duration as a text with a unit, or a number of seconds.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Ttl(Duration);

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

/// The schema of a text or a number.
fn text_or_number() -> RefOr<Schema> {
    let kinds = SchemaType::from_iter([Type::String, Type::Number]);
    ObjectBuilder::new().schema_type(kinds).build().into()
}

impl PartialSchema for Ttl {
    fn schema() -> RefOr<Schema> {
        text_or_number()
    }
}

impl ToSchema for Ttl {}

impl PartialSchema for Expiry {
    fn schema() -> RefOr<Schema> {
        text_or_number()
    }
}

impl ToSchema for Expiry {}

/// A time as people write it: a text, or a number of Unix seconds.
#[derive(PartialEq, Debug)]
pub struct Expiry(String);

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

/// When an entry with these fields ends; `None`: never.
///
/// # Errors
/// When both are given, or the end is no time, or past.
pub fn end(ttl: Option<Ttl>, expires_at: Option<&Expiry>) -> Result<Option<Timestamp>, FieldError> {
    let past = |pointer| {
        FieldError::field(pointer, "in_the_past", "the entry would be over already: give an end to come")
    };
    let text = expires_at.map(|Expiry(text)| text.as_str()).filter(|text| !text.is_empty());
    match (ttl, text) {
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
            Ok(Some(until))
        }
    }
}

/// Where a ban applies by its field `applies_to`; `None`: everywhere.
///
/// # Errors
/// All that is wrong with it.
pub fn applies_to(given: Option<&Value>) -> Result<Option<Scope>, Vec<FieldError>> {
    let Some(value) = given.filter(|value| !value.is_null()) else { return Ok(None) };
    read_scope(value).map(Some).map_err(|errors| {
        let error = |one: DocumentError| {
            FieldError::field(format!("/applies_to{}", one.pointer), one.code, one.message)
        };
        errors.into_iter().map(error).collect()
    })
}

/// A scope as rows have it.
pub fn scope_text(scope: &Scope) -> String {
    write_scope(scope).to_string()
}

/// What there is to say of bans of this scope: a route need not exist.
pub fn scope_warnings(scope: Option<&Scope>, snapshot: &Snapshot) -> Vec<String> {
    let routes = scope.map_or(&[][..], |scope| &scope.routes);
    let missing = routes.iter().filter(|id| !snapshot.routes.in_force.contains_key(id.as_str()));
    missing
        .map(|id| format!("there is no route `{id}`: it applies to no request of it until there is"))
        .collect()
}

/// There are too many scopes for one more.
pub fn too_many_scopes() -> Problem {
    let detail = format!(
        "bans have {MAX_SCOPES} different `applies_to` already, and there may be no more: use one that there is, or \
         remove bans of another; nothing was changed"
    );
    Problem::new(ProblemCode::TableFull, detail)
}

/// # Errors
/// When `reason` is too long.
pub fn check_reason(reason: Option<&str>) -> Result<(), FieldError> {
    if let Some(reason) = reason.filter(|reason| reason.len() > MAX_REASON) {
        let detail =
            format!("a reason may have {MAX_REASON} bytes, and this one has {}: shorten it", reason.len());
        return Err(FieldError::field("/reason", "too_long", detail));
    }
    Ok(())
}

/// Why nobody should allow the prefix by mistake: all that come from it would pass the bans and the geo rules.
pub fn too_wide_to_allow(prefix: &Prefix) -> Option<String> {
    let [v4, v6] = WIDEST_ALLOWED;
    let widest = if prefix.ends().0.is_ipv4() { v4 } else { v6 };
    (prefix.len() < widest)
        .then(|| format!("{prefix} is wider than /{v4} (IPv4) or /{v6} (IPv6), and neither bans nor geo rules would hold for it"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_allows_everybody_by_mistake() {
        let is_wide = |text: &str| too_wide_to_allow(&text.parse().unwrap()).is_some();
        for wide in ["0.0.0.0/0", "128.0.0.0/7", "::/0", "2000::/18"] {
            assert!(is_wide(wide), "{wide}");
        }
        for narrow in ["10.0.0.0/8", "192.0.2.1", "2001::/19", "2001:db8::1"] {
            assert!(!is_wide(narrow), "{narrow}");
        }
    }
}
