//! `POST backup`: a copy of the database.

use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderValue, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::api::app_state::AppState;
use crate::api::endpoints::Endpoints;
use crate::api::openapi::about::About;
use crate::api::query::QueryParams;
use crate::api::streamed_body::StreamedBody;
use crate::auth::Role;
use crate::problem::{ApiResult, Problem, ProblemCode};
use crate::store::Author;

/// The paths here.
pub fn routes() -> Endpoints {
    // The copy has events, and the hashes of all tokens.
    let about = About::new("Answers a copy of the whole database, an SQLite file");
    let about = about.answers_with(200, "the file", Some((SQLITE, json!({}))));
    Endpoints::default().post(Role::Admin, "/api/admin/backup", backup).about(about)
}

/// The media type of the file.
const SQLITE: &str = "application/vnd.sqlite3";

/// Answers a copy of the whole database, as it was at one moment: an SQLite file. The service goes on
/// meanwhile.
///
/// # Errors
/// When the database cannot be read, or there is no room for the copy beside it.
pub async fn backup(
    State(app): State<AppState>,
    Extension(author): Extension<Author>,
    uri: Uri,
) -> ApiResult<Response> {
    QueryParams::read(&uri, &[])?;
    let place = app.places.download()?;
    let file = app.store.backup(&author).await?;
    let length = file.metadata().map_err(|error| {
        tracing::error!(%error, "the copy of the database cannot be read");
        Problem::new(ProblemCode::StoreFailed, "the copy of the database cannot be read")
    })?;
    let length = length.len();
    tracing::info!(by = %author.name, bytes = length, "backup");
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static(SQLITE)),
        (CONTENT_LENGTH, length.into()),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    // What is read to the end, or given up, drops the place.
    let body = StreamedBody::of(file, move |_| _ = &place);
    Ok((headers, Body::new(body)).into_response())
}
