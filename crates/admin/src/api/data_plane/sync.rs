//! The feed for gateways: long poll, pages of tables, acks. The formats are in
//! `tidegate_policy::wire::sync`.

use std::convert::Infallible;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use serde_json::json;
use tidegate_policy::digest::BlobHash;
use tidegate_policy::tables::Table;
use tidegate_policy::version::Version;
use tidegate_policy::wire::formats::{self, FORMATS_HEADER, Formats};
use tidegate_policy::wire::sync::{
    ACK_HEADER, Ack, GATEWAY_HEADER, Gateway, HELD_HEADER, Held, POLLER_HEADER, Poller,
};

use crate::api::app_state::AppState;
use crate::api::endpoints::Endpoints;
use crate::api::openapi::about::{About, BINARY};
use crate::api::openapi::parameters::{OFFSET, SYNC_SINCE, SYNC_WAIT};
use crate::api::query::{PathParam, QueryParams, shortened};
use crate::auth::Role;
use crate::feed::{PageGuard, TooManyDownloads};
use crate::problem::{ApiResult, Problem, ProblemCode};
use crate::serve::connections::OpenConnection;
use crate::time;

/// The paths here.
pub fn routes() -> Endpoints {
    Endpoints::default()
        .get(Role::Gateway, "/api/data-plane/v1/sync", sync)
        .about(
            About::new("Answers what changed since a version, as soon as something has")
                .query(&[&SYNC_SINCE, &SYNC_WAIT])
                .answers_with(200, "what changed", Some((BINARY, json!({}))))
                .answers_with(304, "nothing changed", None)
                .problems(&[ProblemCode::FormatUnavailable]),
        )
        .get(Role::Gateway, "/api/data-plane/v1/sync/blob/{hash}", blob)
        .about(
            About::new("Answers a page of a table")
                .query(&[&OFFSET])
                .answers_with(200, "the page", Some((BINARY, json!({}))))
                .problems(&[ProblemCode::BlobGone]),
        )
        .post(Role::Gateway, "/api/data-plane/v1/sync/ack", ack)
        .about(About::new("Takes what a gateway enforces").answers_with(204, "noted", None))
}

/// A page is handed to its connection in pieces of so many bytes.
const PIECE: usize = 128 << 10;
/// Longest wait of a poll, whatever it asks for.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// Answers as soon as there is something that the gateway does not have; 304 if the wait ends
/// without.
///
/// # Errors
/// When a header or parameter is invalid, the gateway does not read this answer's format, or the
/// service stops.
pub async fn sync(State(app): State<AppState>, request: Request) -> ApiResult<Response> {
    let headers = request.headers();
    let gateway = gateway(headers)?;
    let held = header::<Held>(headers, HELD_HEADER, "allow=<hash>,routes=<hash>,...")?.unwrap_or_default();
    let ack = ack_of(headers)?;
    let formats = header::<Formats>(headers, FORMATS_HEADER, "<format>=<version>,...")?.unwrap_or_default();
    let poller = header::<Poller>(headers, POLLER_HEADER, "lease=<n>;recorder=<0 or 1>;clock=<ms>")?;
    let params = QueryParams::read(request.uri(), &["since", "wait"])?;
    let since = params.parsed::<Version>("since", "a version is <epoch, 16 hex digits>.<seq>")?;
    let wait = params.duration("wait", time::MAX_DURATION)?.unwrap_or_default().min(MAX_WAIT);
    app.gateways.note_formats(&gateway, &formats);
    if let Some(poller) = poller {
        app.gateways.note_poller(&gateway, poller, held.hashes[Table::Flags]);
    }
    if let Some(connection) = request.extensions().get::<Arc<OpenConnection>>() {
        app.gateways.note_address(&gateway, connection.peer());
    }
    if let Some(ack) = ack {
        app.gateways.ack(&gateway, ack);
    }
    if !formats.reads("sync") {
        let detail = format!("this service writes {}, which the gateway does not read", formats::formats());
        return Err(Problem::new(ProblemCode::FormatUnavailable, detail));
    }
    tokio::select! {
        // The gateway counts as live until this future is dropped, which also happens when the
        // client disconnects.
        answer = app.feed.sync(&gateway, since, &held, &formats, wait) => Ok(match answer {
            Some(bytes) => binary(bytes),
            None => StatusCode::NOT_MODIFIED.into_response(),
        }),
        () = app.stopping() => Err(Problem::stopping()),
    }
}

/// Answers a page of a table.
pub async fn blob(
    State(app): State<AppState>,
    PathParam(hash): PathParam,
    request: Request,
) -> ApiResult<Response> {
    let gateway = gateway(request.headers())?;
    let params = QueryParams::read(request.uri(), &["offset"])?;
    let offset = params.parsed::<u64>("offset", "write a number of bytes")?.unwrap_or(0);
    let hash: BlobHash = hash.parse().map_err(|_| {
        Problem::parameter("hash", "invalid", "a table's name is 32 hex digits, as the sync answer gave it")
    })?;
    // It may load for longer than a gateway may be silent.
    app.gateways.note_heard(&gateway);
    let page = app.feed.page(&gateway, hash, offset).await.map_err(|TooManyDownloads| {
        let detail = "as many gateways are sent large tables as may be at once: sync again";
        Problem::new(ProblemCode::TooManyConnections, detail)
    })?;
    let (bytes, _under_way) = page.ok_or_else(|| {
        Problem::new(ProblemCode::BlobGone, "this table is not needed any more: sync again from what is held")
    })?;
    Ok(binary(Body::new(PageBody { bytes, _under_way })))
}

/// A page, which counts as sent when all of it was taken, or the gateway went.
struct PageBody {
    bytes: Bytes,
    _under_way: PageGuard,
}

impl HttpBody for PageBody {
    type Data = Bytes;
    type Error = Infallible;

    /// In pieces, so that its end is near when the last one is taken.
    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let length = self.bytes.len().min(PIECE);
        let piece = self.bytes.split_to(length);
        Poll::Ready((length > 0).then_some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.len() as u64)
    }
}

/// Takes the ack of a gateway.
pub async fn ack(State(app): State<AppState>, headers: HeaderMap) -> ApiResult<StatusCode> {
    let gateway = gateway(&headers)?;
    let ack = ack_of(&headers)?
        .ok_or_else(|| Problem::header(ACK_HEADER, "required", format!("send the header {ACK_HEADER}")))?;
    app.gateways.ack(&gateway, ack);
    Ok(StatusCode::NO_CONTENT)
}

/// An answer in a binary format.
pub fn binary(body: impl Into<Body>) -> Response {
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (headers, body.into()).into_response()
}

/// The gateway that sent the request.
///
/// # Errors
/// When the header is missing or invalid.
pub fn gateway(headers: &HeaderMap) -> ApiResult<Gateway> {
    let form = "<node>;<process, 16 hex digits>";
    header(headers, GATEWAY_HEADER, form)?.ok_or_else(|| {
        Problem::header(GATEWAY_HEADER, "required", format!("send the header {GATEWAY_HEADER}: {form}"))
    })
}

fn ack_of(headers: &HeaderMap) -> ApiResult<Option<Ack>> {
    header(headers, ACK_HEADER, "<version>;refresh=<n>;live=<n>;stale=<n>")
}

fn header<T: FromStr>(headers: &HeaderMap, name: &'static str, form: &str) -> ApiResult<Option<T>> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default();
    let bad = || {
        let detail = format!("`{}` is not right for {name}: write {form}", shortened(text));
        Problem::header(name, "invalid", detail)
    };
    text.parse().map(Some).map_err(|_| bad())
}
