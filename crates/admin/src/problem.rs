//! Errors of the API: RFC 9457 problem+json with a stable `code` and, for each wrong field, its
//! place and what would be right.

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::store::StoreError;

/// Declares every code once: variant, name in the body, status, title, and when it is
/// answered (its row in docs/API.md, in the order of the rows).
macro_rules! problem_codes {
    ($($variant:ident = $name:literal, $status:ident, $title:literal, $when:literal;)*) => {
        /// Kind of an error. Its name is part of the interface: programs depend on it.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum ProblemCode {
            $(#[doc = $when] $variant,)*
        }

        impl ProblemCode {
            /// All of them, in the order of the documentation.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name in the body.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The status of the answer.
            #[must_use]
            pub fn status(self) -> StatusCode {
                match self { $(Self::$variant => StatusCode::$status,)* }
            }

            /// The title, the same for every problem of this code.
            #[must_use]
            pub fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)* }
            }

            /// When it is answered, as docs/API.md says it.
            #[must_use]
            pub fn when(self) -> &'static str {
                match self { $(Self::$variant => $when,)* }
            }
        }
    };
}

problem_codes! {
    EmptyBody = "empty_body", BAD_REQUEST, "A body is needed",
        "there must be a body and was none";
    InvalidJson = "invalid_json", BAD_REQUEST, "The body is not JSON",
        "the body is not JSON, or a name stands twice in one of its objects";
    InvalidYaml = "invalid_yaml", BAD_REQUEST, "The body is not YAML",
        "the body is not YAML, or as above";
    InvalidBody = "invalid_body", BAD_REQUEST, "The body does not follow the format",
        "gateways' listener: the body does not follow its format";
    InvalidFlag = "invalid_flag", BAD_REQUEST, "A flag is not right",
        "there is no such flag, or no such state; `errors` names them";
    InvalidParameter = "invalid_parameter", BAD_REQUEST, "A parameter of the address is not right",
        "a parameter of the query or the path is unknown, repeated or wrong";
    InvalidHeader = "invalid_header", BAD_REQUEST, "A header is not right",
        "a header is missing or wrong";
    BodyIncomplete = "body_incomplete", BAD_REQUEST, "The body ended early",
        "the connection ended in the middle of the body";
    Unauthorized = "unauthorized", UNAUTHORIZED, "A bearer token is needed",
        "no bearer token, or an unknown one; `needed_role` is the role that one needs here";
    TokenExpired = "token_expired", UNAUTHORIZED, "This token has ended",
        "a token whose end has come; `needed_role`";
    WrongRole = "wrong_role", FORBIDDEN, "This token may not do this",
        "a token of a role that may not do this; `needed_role` is one that may";
    WrongNode = "wrong_node", FORBIDDEN, "This token is for another gateway",
        "gateways' listener: a token that is bound to another node than the gateway's";
    NotFound = "not_found", NOT_FOUND, "There is nothing at this path",
        "no such path";
    NotBanned = "not_banned", NOT_FOUND, "This is not banned",
        "unban: there is no ban of exactly this address or block";
    NotInShadow = "not_in_shadow", NOT_FOUND, "There is no such ban in shadow",
        "enforce: there is no ban of exactly this address or block in shadow, or none of this source; or the document is enforced already";
    NotOnAllowList = "not_on_allow_list", NOT_FOUND, "This is not on the allow list",
        "there is no entry of exactly this address or block on the allow list";
    RouteNotFound = "route_not_found", NOT_FOUND, "There is no route of this name",
        "there is no route of this name";
    GeoRuleNotFound = "geo_rule_not_found", NOT_FOUND, "There is no geo rule of this name",
        "there is no geo rule of this name";
    BackendNotFound = "backend_not_found", NOT_FOUND, "There is no backend of this name",
        "there is no backend of this name";
    LimitNotFound = "limit_not_found", NOT_FOUND, "There is no limit of this name",
        "there is no limit of this name";
    ListenerNotFound = "listener_not_found", NOT_FOUND, "There is no listener of this name",
        "there is no listener of this name";
    PageNotFound = "page_not_found", NOT_FOUND, "There is no page for this reason",
        "there is no page for this reason";
    AutoBanNotFound = "auto_ban_not_found", NOT_FOUND, "There is no automatic ban of this name",
        "there is no automatic ban of this name";
    SourceNotFound = "source_not_found", NOT_FOUND, "There is no source of this name",
        "there is no source of this name";
    RolloutNotFound = "rollout_not_found", NOT_FOUND, "There is no rollout of this name",
        "there is no rollout of this name";
    RolloutNotStarted = "rollout_not_started", NOT_FOUND, "This rollout has had no run",
        "pause, resume, approve, abort, report, figures: the rollout has had no run";
    TokenNotFound = "token_not_found", NOT_FOUND, "There is no token of this name",
        "there is no token of this name";
    MethodNotAllowed = "method_not_allowed", METHOD_NOT_ALLOWED, "This path does not take this method",
        "the path does not take this method; `Allow` says which";
    FormatUnavailable = "format_unavailable", NOT_ACCEPTABLE, "The answer cannot be given in the version of the format that is read",
        "gateways' listener: the answer has no form in the version of the format that the gateway reads";
    BodyTimeout = "body_timeout", REQUEST_TIMEOUT, "The body did not arrive in time",
        "the body took over 15 s, a list to import 45 s, or there was nothing of a country file or a backup for 15 s";
    BackendInUse = "backend_in_use", CONFLICT, "Routes need this backend",
        "routes need this backend; `detail` names them";
    ListenerInUse = "listener_in_use", CONFLICT, "Routes need this listener",
        "routes are held to this listener and could not be any more; `detail` names them";
    SourceChanged = "source_changed", CONFLICT, "The source was changed meanwhile",
        "refresh of a source: its document was changed while it was fetched";
    RolloutActive = "rollout_active", CONFLICT, "A rollout runs",
        "start, removal of a rollout: a run has not ended, which `detail` names; abort it first";
    WrongPhase = "wrong_phase", CONFLICT, "The run is in another phase",
        "pause, resume, approve, abort: not in the phase that the run is in, which `detail` names";
    RunMovedOn = "run_moved_on", CONFLICT, "The run has moved on",
        "pause, resume, approve, abort: the run is in another stage, or is another run, than the body says; `detail` names it";
    RunUnreadable = "run_unreadable", CONFLICT, "The run cannot be read",
        "resume: what the database has of the run cannot be read; it can only be aborted";
    GateDoesNotHold = "gate_does_not_hold", CONFLICT, "A gate of the stage does not hold",
        "approve: a gate of the stage does not hold at this moment; `detail` names it";
    FlagsChanged = "flags_changed", CONFLICT, "Somebody else has set a flag",
        "approve: a flag is not as the stage has set it, so that the run is about to pause";
    BannedBySource = "banned_by_source", CONFLICT, "A source bans this",
        "unban: only sources, which `detail` names, ban this address or block; allow it, or change the source";
    ProtectedNetwork = "protected_network", CONFLICT, "This network is protected from bans",
        "ban: the block has addresses of a protected network; `detail` names it; `force` bans it all the same";
    BlockTooWide = "block_too_wide", CONFLICT, "This block is too wide to be allowed",
        "allow list: the block is wider than /8 (IPv4) or /19 (IPv6); `force` allows it all the same";
    AddressAllowed = "address_allowed", CONFLICT, "This is on the allow list",
        "ban: an entry of the allow list, which `detail` names, covers it; `force` writes the ban all the same";
    TokenExists = "token_exists", CONFLICT, "There is a token of this name",
        "there is a token of this name already";
    IdempotencyKeyInUse = "idempotency_key_in_use", CONFLICT, "The first request with this key is under way",
        "the first request with this `Idempotency-Key` is not answered yet";
    IdempotencyAnswerGone = "idempotency_answer_gone", CONFLICT, "The request was carried out, and its answer is gone",
        "the request with this `Idempotency-Key` was carried out, and its answer is not kept, as it has a secret or the service ended";
    TableFull = "table_full", CONFLICT, "The table is full",
        "ban, allow list, tokens: the table has no room for this entry";
    BlobGone = "blob_gone", GONE, "This table is gone",
        "gateways' listener: nobody needs this table any more, sync again";
    PreconditionFailed = "precondition_failed", PRECONDITION_FAILED, "It is not as this request takes it to be",
        "`If-Match` or `If-None-Match` does not hold: it was changed, made or removed meanwhile";
    BodyTooLarge = "body_too_large", PAYLOAD_TOO_LARGE, "The body is too large",
        "over the limit above";
    PostTooLarge = "post_too_large", PAYLOAD_TOO_LARGE, "The post carries too much",
        "gateways' listener: more sources, dropped ranges or batches in one post than a gateway can have";
    UnsupportedMediaType = "unsupported_media_type", UNSUPPORTED_MEDIA_TYPE, "The body is in a form that is not understood",
        "a compressed body";
    NotAList = "not_a_list", UNPROCESSABLE_ENTITY, "The body is no list",
        "import: HTML, UTF-16, a compressed file that is not called so, broken JSON, or a format that has no scores with `min_score`";
    ListRefused = "list_refused", UNPROCESSABLE_ENTITY, "Entries of the list were refused",
        "import: an entry was refused and `strict` given, all were refused, or a list without an entry is to replace another; `errors` has the first 100 with their lines";
    InvalidBackup = "invalid_backup", UNPROCESSABLE_ENTITY, "This is no backup that can be restored",
        "restore: the body is no whole backup of this service's database, or of a later version; nothing was changed";
    InvalidField = "invalid_field", UNPROCESSABLE_ENTITY, "A field of the body is not right",
        "`errors` names the fields";
    IdempotencyKeyReused = "idempotency_key_reused", UNPROCESSABLE_ENTITY, "This key came with another request",
        "this `Idempotency-Key` came with another path, query or body before";
    ImpossibleClaim = "impossible_claim", UNPROCESSABLE_ENTITY, "No VM can have numbered so many events",
        "gateways' listener: an event's number, or all that a post says, is higher than its VM can have reached";
    TooManyRequests = "too_many_requests", TOO_MANY_REQUESTS, "Too many requests without a token",
        "an address has sent over 20 requests a second without a known token, and 128 of them wait already; `Retry-After`";
    StoreFailed = "store_failed", INTERNAL_SERVER_ERROR, "The database failed",
        "the database failed; the service's log says how";
    SourceFailed = "source_failed", BAD_GATEWAY, "The source could not be fetched",
        "refresh of a source: it cannot be fetched, or is no list; `detail` says why, and what was fetched before stays in force";
    StoreBusy = "store_busy", SERVICE_UNAVAILABLE, "The database is locked by another program",
        "another program has held the write lock for over 2 s, or wrote documents between the check of this one and its commit, five times; `Retry-After`";
    StoreUnreadable = "store_unreadable", SERVICE_UNAVAILABLE, "The database cannot be read",
        "gateways' listener, `apply`, `explain`, `warmup`: the database cannot be read, or not in time, so there is no answer; `Retry-After`";
    NewerFormat = "newer_format", SERVICE_UNAVAILABLE, "The body is in a later version of its format",
        "gateways' listener: events of a gateway of a later version, which keeps them; `Retry-After`";
    Stopping = "stopping", SERVICE_UNAVAILABLE, "The service is stopping",
        "the service is stopping; `Retry-After`";
    TooManyConnections = "too_many_connections", SERVICE_UNAVAILABLE, "There are too many connections",
        "the listener has as many connections as it may have, none of which can be closed; or as many clients follow events, download, or send country files as can; or as many gateways are sent large tables as may be at once; or other tokens have as many links that sign in to the dashboard as there may be; `Retry-After`";
    Timeout = "timeout", SERVICE_UNAVAILABLE, "The answer took too long",
        "no answer within 60 s, or 15 minutes where a country file or a backup is sent; `Retry-After`";
}

/// One error in a request, with its place.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
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
    /// Stable code of this error.
    pub code: &'static str,
    /// What is wrong, and what would be right.
    pub detail: String,
}

impl FieldError {
    /// A field of the body.
    #[must_use]
    pub fn field(pointer: impl Into<String>, code: &'static str, detail: impl Into<String>) -> Self {
        Self { pointer: Some(pointer.into()), ..Self::new(code, detail) }
    }

    fn new(code: &'static str, detail: impl Into<String>) -> Self {
        Self { pointer: None, parameter: None, header: None, code, detail: detail.into() }
    }
}

/// An error in the form that the client gets.
#[derive(Clone, Debug)]
pub struct Problem {
    code: ProblemCode,
    detail: String,
    errors: Vec<FieldError>,
    needed_role: Option<&'static str>,
}

/// Result of a handler.
pub type ApiResult<T> = Result<T, Problem>;

impl Problem {
    /// A problem without fields.
    #[must_use]
    pub fn new(code: ProblemCode, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), errors: Vec::new(), needed_role: None }
    }

    /// The same, with the role that a token would need.
    #[must_use]
    pub fn with_needed_role(self, role: &'static str) -> Self {
        Self { needed_role: Some(role), ..self }
    }

    /// A problem about invalid fields of the body; `errors` must not be empty.
    #[must_use]
    pub fn fields(errors: Vec<FieldError>) -> Self {
        let detail = errors.first().map(|first| first.detail.clone()).unwrap_or_default();
        Self { errors, ..Self::new(ProblemCode::InvalidField, detail) }
    }

    /// A problem: the request came by a connection of the listener's reserve.
    #[must_use]
    pub fn no_room() -> Self {
        let detail = "the listener has all the connections that it may have, and all are in use; try again";
        Self::new(ProblemCode::TooManyConnections, detail)
    }

    /// A problem of `code` about a document.
    #[must_use]
    pub fn document(code: ProblemCode, problems: Vec<tidegate_author::DocumentError>) -> Self {
        let errors = problems.into_iter().map(|one| FieldError::field(one.pointer, one.code, one.message));
        Self { code, ..Self::fields(errors.collect()) }
    }

    /// A problem: the database could not be read, and an older answer would not do. It is not
    /// logged at the usual level: thousands may occur per second, and health reports the cause.
    #[must_use]
    pub fn unreadable(error: &StoreError) -> Self {
        if *error == StoreError::Closed {
            return Self::stopping();
        }
        tracing::debug!(%error, "the database cannot be read");
        Self::new(
            ProblemCode::StoreUnreadable,
            "the database cannot be read at the moment; optimization/health says why",
        )
    }

    /// A problem of a request whose token does not let it in any more.
    fn token_gone(error: &StoreError) -> Self {
        let code = match error {
            StoreError::TokenEnded => ProblemCode::TokenExpired,
            _ => ProblemCode::Unauthorized,
        };
        Self::new(code, format!("{error}; nothing was changed"))
    }

    /// A problem about one invalid field of the body.
    #[must_use]
    pub fn field(pointer: impl Into<String>, code: &'static str, detail: impl Into<String>) -> Self {
        Self::fields(vec![FieldError::field(pointer, code, detail)])
    }

    /// A problem about an invalid parameter of the query or the path.
    #[must_use]
    pub fn parameter(parameter: impl Into<String>, code: &'static str, detail: impl Into<String>) -> Self {
        let error = FieldError { parameter: Some(parameter.into()), ..FieldError::new(code, detail) };
        Self { code: ProblemCode::InvalidParameter, ..Self::fields(vec![error]) }
    }

    /// A problem about an invalid header.
    #[must_use]
    pub fn header(header: &'static str, code: &'static str, detail: impl Into<String>) -> Self {
        let error = FieldError { header: Some(header), ..FieldError::new(code, detail) };
        Self { code: ProblemCode::InvalidHeader, ..Self::fields(vec![error]) }
    }

    /// A problem for a waiting request: the service is stopping.
    #[must_use]
    pub fn stopping() -> Self {
        Self::new(ProblemCode::Stopping, "the service is stopping")
    }

    /// The same, with errors of its own.
    #[must_use]
    pub fn with_errors(self, errors: Vec<FieldError>) -> Self {
        Self { errors, ..self }
    }

    /// The kind of error.
    #[must_use]
    pub fn code(&self) -> ProblemCode {
        self.code
    }

    /// What is wrong, in a sentence.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// The errors, each with its place.
    #[must_use]
    pub fn errors(&self) -> &[FieldError] {
        &self.errors
    }
}

/// A problem as it is answered.
#[derive(Serialize, ToSchema)]
pub struct ProblemBody<'p> {
    r#type: String,
    title: &'static str,
    status: u16,
    detail: &'p str,
    code: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    needed_role: Option<&'static str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'p [FieldError],
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = ProblemBody {
            r#type: format!("urn:tidegate:problem:{}", self.code.name()),
            title: self.code.title(),
            status: self.code.status().as_u16(),
            detail: &self.detail,
            code: self.code.name(),
            needed_role: self.needed_role,
            errors: &self.errors,
        };
        let bytes = serde_json::to_vec(&body).unwrap_or_default();
        let mut response = (self.code.status(), bytes).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.code.status() == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"tidegate\""));
        }
        if matches!(self.code.status(), StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
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
            StoreError::Closed => Self::stopping(),
            StoreError::TokenRevoked | StoreError::TokenEnded => Self::token_gone(&error),
            StoreError::NoBackup(why) => Self::new(ProblemCode::InvalidBackup, why),
            // The database's message may quote rows: it belongs in the log.
            StoreError::Failed(why) | StoreError::Damaged(why) => {
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
    fn the_documentation_has_these_codes_and_no_others() {
        let docs = include_str!("../../../docs/API.md");
        let table = docs.split("| status | code | when |\n| --- | --- | --- |\n").nth(1).unwrap();
        let row = |code: &ProblemCode| {
            format!("| {} | `{}` | {} |\n", code.status().as_u16(), code.name(), code.when())
        };
        let rows: String = ProblemCode::ALL.iter().map(row).collect();
        assert_eq!(table.split("\n\n").next().unwrap(), rows.trim_end());
    }
}
