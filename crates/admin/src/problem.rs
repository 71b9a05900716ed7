//! Errors at the edge are data: RFC 9457 problem+json with a stable `code`, and
//! for each field that is wrong its place and what would be right.

use axum::http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::store::StoreError;

/// What went wrong. The name of each is part of the interface: programs decide by it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ProblemCode {
    /// No bearer token, or one that nobody knows.
    Unauthorized,
    /// The token is good, for the other listener.
    WrongScope,
    /// No such path.
    NotFound,
    /// No such method on this path.
    MethodNotAllowed,
    /// More bytes than this endpoint takes.
    BodyTooLarge,
    /// A compressed body.
    UnsupportedMediaType,
    /// The body did not arrive in time.
    BodyTimeout,
    /// The connection ended in the middle of the body.
    BodyIncomplete,
    /// There must be a body and was none.
    EmptyBody,
    /// Not JSON.
    InvalidJson,
    /// Not YAML.
    InvalidYaml,
    /// Not what this format says (gateways' listener).
    InvalidBody,
    /// A field of the body is unknown, missing, or of the wrong type or value.
    InvalidField,
    /// A flag that there is not, or a state that is none.
    InvalidFlag,
    /// A parameter of the query, or a part of the path.
    InvalidParameter,
    /// A header.
    InvalidHeader,
    /// No ban with exactly this prefix.
    NotBanned,
    /// No route of this name.
    RouteNotFound,
    /// No geo rule of this name.
    GeoRuleNotFound,
    /// No backend of this name.
    BackendNotFound,
    /// Routes need this backend.
    BackendInUse,
    /// No limit of this name.
    LimitNotFound,
    /// The table is needed by nobody any more: sync again.
    BlobGone,
    /// Another program holds the database's write lock.
    StoreBusy,
    /// The database cannot be read, so a question has no answer.
    StoreUnreadable,
    /// Events in a later version of their format than this service reads.
    NewerFormat,
    /// What a gateway asked for cannot be said in a version that it reads.
    FormatUnavailable,
    /// The service is stopping.
    Stopping,
    /// The answer took too long.
    Timeout,
    /// The database failed.
    StoreFailed,
}

impl ProblemCode {
    /// All of them, in the order of the documentation.
    pub const ALL: [Self; 30] = [
        Self::EmptyBody,
        Self::InvalidJson,
        Self::InvalidYaml,
        Self::InvalidBody,
        Self::InvalidFlag,
        Self::InvalidParameter,
        Self::InvalidHeader,
        Self::BodyIncomplete,
        Self::Unauthorized,
        Self::WrongScope,
        Self::NotFound,
        Self::NotBanned,
        Self::RouteNotFound,
        Self::GeoRuleNotFound,
        Self::BackendNotFound,
        Self::LimitNotFound,
        Self::MethodNotAllowed,
        Self::FormatUnavailable,
        Self::BodyTimeout,
        Self::BackendInUse,
        Self::BlobGone,
        Self::BodyTooLarge,
        Self::UnsupportedMediaType,
        Self::InvalidField,
        Self::StoreFailed,
        Self::StoreBusy,
        Self::StoreUnreadable,
        Self::NewerFormat,
        Self::Stopping,
        Self::Timeout,
    ];

    /// The name in the body.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unauthorized => "unauthorized",
            Self::WrongScope => "wrong_scope",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::BodyTooLarge => "body_too_large",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::BodyTimeout => "body_timeout",
            Self::BodyIncomplete => "body_incomplete",
            Self::EmptyBody => "empty_body",
            Self::InvalidJson => "invalid_json",
            Self::InvalidYaml => "invalid_yaml",
            Self::InvalidBody => "invalid_body",
            Self::InvalidField => "invalid_field",
            Self::InvalidFlag => "invalid_flag",
            Self::InvalidParameter => "invalid_parameter",
            Self::InvalidHeader => "invalid_header",
            Self::NotBanned => "not_banned",
            Self::RouteNotFound => "route_not_found",
            Self::GeoRuleNotFound => "geo_rule_not_found",
            Self::BackendNotFound => "backend_not_found",
            Self::BackendInUse => "backend_in_use",
            Self::LimitNotFound => "limit_not_found",
            Self::BlobGone => "blob_gone",
            Self::StoreBusy => "store_busy",
            Self::StoreUnreadable => "store_unreadable",
            Self::NewerFormat => "newer_format",
            Self::FormatUnavailable => "format_unavailable",
            Self::Stopping => "stopping",
            Self::Timeout => "timeout",
            Self::StoreFailed => "store_failed",
        }
    }

    /// The status of the answer.
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Self::EmptyBody
            | Self::InvalidJson
            | Self::InvalidYaml
            | Self::InvalidBody
            | Self::InvalidFlag
            | Self::InvalidParameter
            | Self::InvalidHeader
            | Self::BodyIncomplete => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::WrongScope => StatusCode::FORBIDDEN,
            Self::NotFound
            | Self::NotBanned
            | Self::RouteNotFound
            | Self::GeoRuleNotFound
            | Self::BackendNotFound
            | Self::LimitNotFound => StatusCode::NOT_FOUND,
            Self::BackendInUse => StatusCode::CONFLICT,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::FormatUnavailable => StatusCode::NOT_ACCEPTABLE,
            Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::BlobGone => StatusCode::GONE,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::InvalidField => StatusCode::UNPROCESSABLE_ENTITY,
            Self::StoreFailed => StatusCode::INTERNAL_SERVER_ERROR,
            Self::StoreBusy | Self::StoreUnreadable | Self::NewerFormat | Self::Stopping | Self::Timeout => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }

    /// The same sentence for every problem of this code.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Unauthorized => "A bearer token is needed",
            Self::WrongScope => "This token is for the other listener",
            Self::NotFound => "There is nothing at this path",
            Self::MethodNotAllowed => "This path does not take this method",
            Self::BodyTooLarge => "The body is too large",
            Self::UnsupportedMediaType => "The body is in a form that is not understood",
            Self::BodyTimeout => "The body did not arrive in time",
            Self::BodyIncomplete => "The body ended early",
            Self::EmptyBody => "A body is needed",
            Self::InvalidJson => "The body is not JSON",
            Self::InvalidYaml => "The body is not YAML",
            Self::InvalidBody => "The body does not follow the format",
            Self::InvalidField => "A field of the body is not right",
            Self::InvalidFlag => "A flag is not right",
            Self::InvalidParameter => "A parameter of the address is not right",
            Self::InvalidHeader => "A header is not right",
            Self::NotBanned => "This is not banned",
            Self::RouteNotFound => "There is no route of this name",
            Self::GeoRuleNotFound => "There is no geo rule of this name",
            Self::BackendNotFound => "There is no backend of this name",
            Self::BackendInUse => "Routes need this backend",
            Self::LimitNotFound => "There is no limit of this name",
            Self::BlobGone => "This table is gone",
            Self::StoreBusy => "The database is locked by another program",
            Self::StoreUnreadable => "The database cannot be read",
            Self::NewerFormat => "The body is in a later version of its format",
            Self::FormatUnavailable => "The answer cannot be given in the version of the format that is read",
            Self::Stopping => "The service is stopping",
            Self::Timeout => "The answer took too long",
            Self::StoreFailed => "The database failed",
        }
    }
}

/// One thing that is wrong, and where.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct FieldError {
    /// JSON pointer into the body (RFC 6901); empty: the whole body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pointer: Option<String>,
    /// Name of a query or path parameter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameter: Option<String>,
    /// Name of a header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<&'static str>,
    /// Stable name of what is wrong.
    pub code: &'static str,
    /// What is wrong, and what would be right.
    pub detail: String,
}

impl FieldError {
    /// A field of the body.
    #[must_use]
    pub fn field(pointer: impl Into<String>, code: &'static str, detail: impl Into<String>) -> Self {
        Self { pointer: Some(pointer.into()), parameter: None, header: None, code, detail: detail.into() }
    }
}

/// An error as the client gets it.
#[derive(Clone, Debug)]
pub struct Problem {
    code: ProblemCode,
    detail: String,
    errors: Vec<FieldError>,
    allow: Option<HeaderValue>,
}

/// What a handler answers.
pub type ApiResult<T> = Result<T, Problem>;

impl Problem {
    /// A problem without fields.
    #[must_use]
    pub fn new(code: ProblemCode, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), errors: Vec::new(), allow: None }
    }

    /// Fields of the body that are not right; `errors` has one at least.
    #[must_use]
    pub fn fields(errors: Vec<FieldError>) -> Self {
        let detail = errors.first().map(|first| first.detail.clone()).unwrap_or_default();
        Self { code: ProblemCode::InvalidField, detail, errors, allow: None }
    }

    /// What is wrong with a document, as `code`.
    #[must_use]
    pub fn document(code: ProblemCode, problems: Vec<tidegate_author::Problem>) -> Self {
        let errors = problems.into_iter().map(|one| FieldError::field(one.pointer, one.code, one.message));
        Self { code, ..Self::fields(errors.collect()) }
    }

    /// The database could not be read where an older answer would not do. Not for
    /// the log at its usual level: thousands may ask in a second, and health says it.
    #[must_use]
    pub fn unreadable(error: &StoreError) -> Self {
        if *error == StoreError::Closed {
            return Self::new(ProblemCode::Stopping, "the service is stopping");
        }
        tracing::debug!(%error, "the database cannot be read");
        Self::new(
            ProblemCode::StoreUnreadable,
            "the database cannot be read at the moment; optimization/health says why",
        )
    }

    /// A field of the body that is not right.
    #[must_use]
    pub fn field(pointer: impl Into<String>, code: &'static str, detail: impl Into<String>) -> Self {
        Self::fields(vec![FieldError::field(pointer, code, detail)])
    }

    /// A parameter of the query or the path that is not right.
    #[must_use]
    pub fn parameter(parameter: &'static str, code: &'static str, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        let error = FieldError {
            pointer: None,
            parameter: Some(parameter.to_owned()),
            header: None,
            code,
            detail: detail.clone(),
        };
        Self { errors: vec![error], ..Self::new(ProblemCode::InvalidParameter, detail) }
    }

    /// A header that is not right.
    #[must_use]
    pub fn header(header: &'static str, code: &'static str, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        let error =
            FieldError { pointer: None, parameter: None, header: Some(header), code, detail: detail.clone() };
        Self { errors: vec![error], ..Self::new(ProblemCode::InvalidHeader, detail) }
    }

    /// A method that the path does not take; `allow` is the header that says
    /// which ones it does.
    #[must_use]
    pub fn method(allow: Option<HeaderValue>) -> Self {
        let detail = match allow.as_ref().and_then(|allow| allow.to_str().ok()) {
            Some(methods) => format!("this path takes {methods}"),
            None => "this path takes another method".to_owned(),
        };
        Self { allow, ..Self::new(ProblemCode::MethodNotAllowed, detail) }
    }

    /// What went wrong.
    #[must_use]
    pub fn code(&self) -> ProblemCode {
        self.code
    }

    /// What is wrong, each with its place.
    #[must_use]
    pub fn errors(&self) -> &[FieldError] {
        &self.errors
    }

    /// Says one more thing that is wrong.
    pub fn add(&mut self, error: FieldError) {
        self.errors.push(error);
    }

    fn retry_after(&self) -> Option<HeaderValue> {
        match self.code {
            ProblemCode::StoreBusy
            | ProblemCode::StoreUnreadable
            | ProblemCode::NewerFormat
            | ProblemCode::Stopping
            | ProblemCode::Timeout => Some(HeaderValue::from_static("1")),
            _ => None,
        }
    }
}

#[derive(Serialize)]
struct Body<'p> {
    r#type: String,
    title: &'static str,
    status: u16,
    detail: &'p str,
    code: &'static str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'p [FieldError],
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = Body {
            r#type: format!("urn:tidegate:problem:{}", self.code.name()),
            title: self.code.title(),
            status: self.code.status().as_u16(),
            detail: &self.detail,
            code: self.code.name(),
            errors: &self.errors,
        };
        let bytes = serde_json::to_vec(&body).unwrap_or_default();
        let mut response = (self.code.status(), bytes).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.code == ProblemCode::Unauthorized {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"tidegate\""));
        }
        if let Some(seconds) = self.retry_after() {
            headers.insert(RETRY_AFTER, seconds);
        }
        if let Some(allow) = self.allow {
            headers.insert(ALLOW, allow);
        }
        response
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Busy => {
                Self::new(ProblemCode::StoreBusy, format!("{error}; nothing was changed, try again"))
            }
            StoreError::Closed => Self::new(ProblemCode::Stopping, "the service is stopping"),
            // What the database says may quote rows: it belongs in the log.
            StoreError::Failed(why) => {
                tracing::error!(error = %why, "the database failed");
                Self::new(ProblemCode::StoreFailed, "the database failed; the service's log says why")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_stands_in_the_documentation_with_its_status() {
        let docs =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/API.md")).unwrap();
        for code in ProblemCode::ALL {
            let row = format!("| {} | `{}` |", code.status().as_u16(), code.name());
            assert!(docs.contains(&row), "docs/API.md has no row {row}");
        }
    }
}
