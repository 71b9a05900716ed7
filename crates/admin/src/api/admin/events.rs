//! `GET /api/admin/events`: requests as they were recorded, newest first; as a download; or as they
//! come.

mod export;
mod filter;
mod follow;

use axum::Json;
use axum::extract::State;
use axum::http::header::ACCEPT;
use axum::http::{HeaderMap, Uri};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use crate::api::app_state::AppState;
use crate::api::cursor;
use crate::api::endpoints::Endpoints;
use crate::api::openapi::about::About;
use crate::api::openapi::parameters::{
    BAN_SOURCE, CLIENT, CLIENT_COUNTRY, CURSOR, FORMAT, LIMIT, MISMATCH, PATH_PREFIX, REASON, ROUTE,
    SENT_HOST, SENT_METHOD, SINCE, STATUS, UNTIL, VERDICT, WOULD_DENY, WOULD_DENY_RULE,
};
use crate::api::query::QueryParams;
use crate::auth::Role;
use crate::problem::{ApiResult, Problem, ProblemCode};
use crate::store::{EventPosition, EventRow};
use crate::time;

/// The paths here.
pub fn routes() -> Endpoints {
    let text = || json!({ "type": "string" });
    let about = About::new(
        "Finds recorded requests, downloads them, or sends them as they come (server-sent events)",
    )
    .query(&[
        &SINCE,
        &UNTIL,
        &CLIENT,
        &CLIENT_COUNTRY,
        &ROUTE,
        &PATH_PREFIX,
        &STATUS,
        &VERDICT,
        &REASON,
        &WOULD_DENY,
        &WOULD_DENY_RULE,
        &BAN_SOURCE,
        &SENT_METHOD,
        &SENT_HOST,
        &MISMATCH,
        &LIMIT,
        &CURSOR,
        &FORMAT,
    ])
    .answers::<EventsPage>()
    .answers_with(200, "done", Some((CSV, text())))
    .answers_with(200, "done", Some((JSON_LINES, text())))
    .answers_with(200, "done", Some((follow::EVENT_STREAM, text())))
    .problems(&[ProblemCode::InvalidHeader]);
    Endpoints::default().get(Role::Read, "/api/admin/events", list).about(about)
}

use export::{CSV, JSON_LINES};
pub use filter::{bounded, check};

/// Events per page by default.
const DEFAULT_LIMIT: usize = 100;
/// Events per page at most.
const MAX_LIMIT: usize = 1_000;

/// A page of events.
#[derive(Serialize, Debug, ToSchema)]
struct EventsPage {
    items: Vec<EventRow>,
    /// Further events may be there: those after the last, or those that were not looked at yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// Answers events: a page of them, all as a download, or as they come.
async fn list(State(app): State<AppState>, headers: HeaderMap, uri: Uri) -> ApiResult<Response> {
    let params = QueryParams::read(&uri, filter::PARAMETERS)?;
    let filter = filter::read(&params)?;
    if headers.get(ACCEPT).is_some_and(|accept| accept.as_bytes().starts_with(b"text/event-stream")) {
        return follow::answer(app, &params, &headers, filter);
    }
    let from = position(&params)?;
    if let Some(format) = export::EventExportFormat::read(&params)? {
        return export::answer(app, &params, format, filter, from);
    }
    let limit = params.limit(DEFAULT_LIMIT, MAX_LIMIT)?;
    let page = app.store.events(&filter, from, limit).await?;
    let next = page.next.map(|next| cursor_at(&params, &next));
    Ok(Json(EventsPage { items: page.rows.into_iter().map(shown).collect(), next }).into_response())
}

/// A row as answers have it.
fn shown(row: EventRow) -> EventRow {
    EventRow { timestamp: time::sql_to_rfc3339(row.timestamp), ..row }
}

/// The cursor of a page that begins at `next`.
pub fn cursor_at(params: &QueryParams, next: &EventPosition) -> String {
    cursor::write(&format!("{:x} {} {}", cursor::query_hash(params), next.id, next.timestamp))
}

/// Where the cursor says that the page begins.
///
/// # Errors
/// When it is none, or one of a query with other filters.
pub fn position(params: &QueryParams) -> ApiResult<Option<EventPosition>> {
    let Some(text) = params.get("cursor").map(cursor::read).transpose()? else { return Ok(None) };
    let mut parts = text.splitn(3, ' ');
    let mut part = || parts.next().ok_or_else(cursor::bad);
    let (query, id, timestamp) = (part()?, part()?, part()?.to_owned());
    if query != format!("{:x}", cursor::query_hash(params)) {
        let detail = "`cursor` is of a query with other filters: ask with those, or without `cursor`";
        return Err(Problem::parameter("cursor", "of_another_query", detail));
    }
    Ok(Some(EventPosition { timestamp, id: id.parse().map_err(|_| cursor::bad())? }))
}
