//! The HTTP API. One file per endpoint family, at the place of its URL:
//! `/api/admin/optimization/flags` is `api/admin/optimization/flags.rs`. Files directly in `api/`
//! are shared by several.

pub mod address_limits;
pub(crate) mod admin;
pub mod app_state;
mod body;
mod conditions;
mod cursor;
mod data_plane;
pub mod endpoints;
mod entry_fields;
pub mod idempotency;
mod metrics;
mod named_documents;
mod openapi;
pub mod places;
pub(crate) mod query;
mod shadow_fields;
pub mod streamed_body;
pub(crate) mod ui;
mod wait_applied;

use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{CONTENT_TYPE, ETAG};
use axum::http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use bytes::Bytes;
use serde_json::{Value, json};
use tidegate_policy::wire::sync::TIME_HEADER;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{Predicate, SizeAbove};
use tower_http::request_id::{MakeRequestId, MakeRequestUuid, RequestId};
use tracing::{Instrument, Span};

use crate::auth::{Role, RoleGuard, require_role};
use crate::metrics::{Listener, Metrics};
use crate::problem::{ApiResult, Problem, ProblemCode};
use crate::serve::connections::OpenConnection;
use crate::store::time_text;
use address_limits::{AddressLimits, TooMany};
use app_state::AppState;
use endpoints::{Endpoint, Endpoints};
use idempotency::once_per_key;
use openapi::about::About;

/// No answer takes longer. It is more than the longest wait that a client may ask for plus the
/// time after which the store reports that it is busy.
const LONGEST_ANSWER: Duration = Duration::from_secs(60);

/// The same of [`UPLOADS`], of whose bodies each piece has a limit of its own.
const LONGEST_UPLOAD: Duration = Duration::from_secs(900);
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// What takes a large file.
const UPLOADS: [&str; 2] = ["/api/admin/geo", "/api/admin/restore"];

/// Answers of fewer bytes are sent as they are.
const COMPRESSED: u16 = 4 << 10;

/// The people's listener.
pub fn people(app: AppState) -> Router {
    let open = limited(open_to_people().into_router(), &app);
    let api = finish(Listener::People, Role::Read, open, admin::routes(), app.clone());
    let pages = observed(Listener::People, ui::routes(api.clone(), &app).layer(from_fn(require_room)), &app);
    let router = api.merge(pages);
    // Not for gateways: what they load is dense already, and they would have to unpack it in a worker.
    router.layer(CompressionLayer::new().compress_when(SizeAbove::new(COMPRESSED).and(is_compressible)))
}

/// Whether an answer may be compressed: what is text and has no `ETag`, which is of the bytes as they are.
fn is_compressible(_: StatusCode, _: Version, headers: &HeaderMap, _: &Extensions) -> bool {
    let kind = headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    const TEXT: [&[u8]; 4] = [b"application/openmetrics-text", b"text/html", b"text/css", b"text/javascript"];
    !headers.contains_key(ETAG)
        && (kind == b"application/json" || TEXT.iter().any(|text| kind.starts_with(text)))
}

/// The gateways' listener.
pub fn data_plane(app: AppState) -> Router {
    let open = limited(alive_routes().into_router(), &app);
    finish(Listener::Gateways, Role::Gateway, open, data_plane::routes(), app)
}

/// All endpoints with their roles, those of the people's listener first.
#[must_use]
pub fn declared() -> Vec<Endpoint> {
    open_to_people().merge(admin::routes()).merge(data_plane::routes()).into_declared()
}

/// The OpenAPI document of all endpoints.
#[must_use]
pub fn openapi_document() -> Value {
    openapi::document(&declared())
}

/// What the people's listener answers without a token.
fn open_to_people() -> Endpoints {
    let about = About::new("Answers this document").answers_json(json!({"type": "object"}));
    alive_routes().merge(metrics::routes()).open("/api/openapi.json", openapi_json).about(about)
}

/// What both listeners answer without a token.
fn alive_routes() -> Endpoints {
    let about = About::new("Says whether the service can do its work").answers_json(json!({
        "type": "object",
        "required": ["status"],
        "properties": {
            "status": {"enum": ["ok", "degraded"]},
            "reasons": {"type": "array", "items": {"type": "string"}},
        },
    }));
    Endpoints::default().open("/api/health", alive).about(about)
}

/// Answers the OpenAPI document. It has nothing but what this program's source has.
async fn openapi_json() -> Response {
    static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| openapi_document().to_string().into());
    ([(CONTENT_TYPE, "application/json")], DOCUMENT.clone()).into_response()
}

/// Limits the rate of requests by address.
fn limited(router: Router<AppState>, app: &AppState) -> Router<AppState> {
    router.layer(from_fn_with_state(app.limits.clone(), limit_address))
}

async fn limit_address(
    State(limits): State<AddressLimits>,
    request: Request,
    next: Next,
) -> Result<Response, TooMany> {
    let connection = request.extensions().get::<Arc<OpenConnection>>().cloned();
    limits.wait(connection.as_ref()).await?;
    Ok(next.run(request).await)
}

fn finish(
    listener: Listener,
    otherwise: Role,
    open: Router<AppState>,
    guarded: Endpoints,
    app: AppState,
) -> Router {
    let (guarded, roles) = guarded.into_parts(otherwise);
    let guard = RoleGuard {
        listener,
        tokens: Arc::clone(&app.tokens),
        roles,
        limits: app.limits.clone(),
        metrics: app.metrics.clone(),
    };
    let mut guarded = guarded.fallback(nothing_here).method_not_allowed_fallback(not_this_method);
    if listener == Listener::People {
        guarded = guarded.layer(from_fn_with_state(app.clone(), once_per_key));
    }
    let guarded = guarded.layer(from_fn_with_state(Arc::new(guard), require_role));
    let all = open.method_not_allowed_fallback(not_this_method).merge(guarded);
    observed(listener, all.with_state(app.clone()), &app)
}

/// Limits the time of answers, counts and logs them, and gives each request an id.
fn observed(listener: Listener, router: Router, app: &AppState) -> Router {
    let observer = Observer { listener, metrics: app.metrics.clone() };
    router.layer(from_fn_with_state(Arc::new(observer), observe))
}

/// What [`observe`] notes, and of which listener.
struct Observer {
    listener: Listener,
    metrics: Metrics,
}

/// All of that in one layer: each layer costs every poll of every gateway time, and memory while it waits.
async fn observe(State(observer): State<Arc<Observer>>, mut request: Request, next: Next) -> Response {
    let id = identify(&mut request);
    let (method, path) = (request.method().clone(), request.extensions().get::<MatchedPath>().cloned());
    let path = path.as_ref().map_or("", MatchedPath::as_str);
    let span = span(&method, path, id.as_ref());
    let longest = longest_answer(path);
    let began = Instant::now();
    let answer = next.run(request).instrument(span.clone());
    let answer = tokio::time::timeout(longest, answer).await;
    let mut response = answer.unwrap_or_else(|_| {
        let detail = format!("no answer within {} s; a change may have been made", longest.as_secs());
        Problem::new(ProblemCode::Timeout, detail).into_response()
    });
    observer.metrics.answered(observer.listener, &method, path, response.status());
    span.in_scope(|| log_answer(response.status(), began.elapsed()));
    if let Some(id) = id {
        response.headers_mut().entry(REQUEST_ID).or_insert(id);
    }
    if observer.listener == Listener::Gateways {
        // By it a gateway tells this service's answers from Envoy's own, and the time by which
        // entries expire.
        response.headers_mut().insert(TIME_HEADER, time_text::now_ms().into());
    }
    response
}

/// The request's id, which handlers find among its extensions: the caller's own, or a new one.
fn identify(request: &mut Request) -> Option<HeaderValue> {
    let said = request.headers().get(REQUEST_ID).cloned().map(RequestId::new);
    let id = said.or_else(|| MakeRequestUuid.make_request_id(request))?;
    let value = id.header_value().clone();
    request.extensions_mut().insert(id);
    Some(value)
}

/// Refuses what comes by a connection of the listener's reserve.
async fn require_room(request: Request, next: Next) -> ApiResult<Response> {
    let connection = request.extensions().get::<Arc<OpenConnection>>();
    if connection.is_some_and(|connection| connection.is_reserve()) {
        return Err(Problem::no_room());
    }
    Ok(next.run(request).await)
}

/// How long an answer of this path may take.
fn longest_answer(path: &str) -> Duration {
    if UPLOADS.contains(&path) { LONGEST_UPLOAD } else { LONGEST_ANSWER }
}

/// What is logged of a request: of the caller only the token's name, which is put in later, and of the path
/// only the pattern, because paths may contain addresses.
fn span(method: &Method, path: &str, id: Option<&HeaderValue>) -> Span {
    let id = id.and_then(|id| id.to_str().ok()).map(query::shortened);
    tracing::info_span!("request", %method, path, id, actor = tracing::field::Empty)
}

fn log_answer(status: StatusCode, took: Duration) {
    let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    tracing::debug!(status = status.as_u16(), took_us, "answered");
}

/// Answers whether the service can do its work; 200 also if it cannot, for a restart would not
/// help. Whoever has no token is told codes only: details name files.
async fn alive(State(app): State<AppState>) -> Response {
    let reasons = admin::optimization::health::own_reasons(&app.feed.health(), &app.store.health(), &app);
    let body = match reasons.is_empty() {
        true => serde_json::json!({ "status": "ok" }),
        false => {
            let codes: Vec<_> = reasons.iter().map(|reason| reason.code).collect();
            serde_json::json!({ "status": "degraded", "reasons": codes })
        }
    };
    Json(body).into_response()
}

async fn nothing_here() -> Problem {
    Problem::new(ProblemCode::NotFound, "there is nothing at this path; docs/API.md lists what there is")
}

async fn not_this_method() -> Problem {
    Problem::new(ProblemCode::MethodNotAllowed, "the header `Allow` says which methods this path takes")
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::routing::get;
    use tower::ServiceExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_takes_too_long_is_a_problem() {
        let never = || get(std::future::pending::<()>);
        let observer = Arc::new(Observer { listener: Listener::People, metrics: Metrics::default() });
        let router = Router::<()>::new()
            .route("/", never())
            .route(UPLOADS[0], never())
            .layer(from_fn_with_state(observer, observe));
        for (path, seconds) in [("/", 60), (UPLOADS[0], 900)] {
            let request = Request::builder().uri(path).body(Body::empty()).unwrap();
            let response = router.clone().oneshot(request).await.unwrap();
            assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(response.headers()["content-type"], "application/problem+json");
            let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
            let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(problem["code"], "timeout");
            assert!(
                problem["detail"].as_str().unwrap().contains(&format!("within {seconds} s")),
                "{problem}"
            );
        }
    }

    #[test]
    fn what_takes_a_file_may_take_its_time() {
        let takes_file = |endpoint: &Endpoint| {
            endpoint.about.body.as_ref().is_some_and(|body| body.media == ["application/octet-stream"])
        };
        let files: Vec<String> = declared().into_iter().filter(takes_file).map(|one| one.path).collect();
        let people: Vec<&str> =
            files.iter().map(String::as_str).filter(|path| path.starts_with("/api/admin/")).collect();
        assert_eq!(people, UPLOADS);
    }
}
