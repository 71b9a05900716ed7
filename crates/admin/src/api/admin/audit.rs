//! `GET /api/admin/audit`: changes through the API or the command line, with their authors.

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use serde::Serialize;
use serde_json::Value;

use crate::api::app_state::AppState;
use crate::api::cursor;
use crate::api::endpoints::Endpoints;
use crate::api::query::QueryParams;
use crate::auth::Role;
use crate::problem::ApiResult;
use crate::store::AuditRow;
use crate::time;

/// The paths here.
pub fn routes() -> Endpoints {
    Endpoints::default().get(Role::Read, "/api/admin/audit", list)
}

/// Entries per page by default.
const DEFAULT_LIMIT: usize = 100;
/// Entries per page at most.
const MAX_LIMIT: usize = 1_000;

/// An entry of the audit.
#[derive(Serialize, Debug, PartialEq)]
pub struct AuditEntry {
    id: u64,
    at: String,
    by: String,
    what: String,
    target: String,
    from: Option<Value>,
    to: Option<Value>,
}

impl From<AuditRow> for AuditEntry {
    fn from(row: AuditRow) -> Self {
        Self {
            id: row.id,
            at: time::sql_to_rfc3339(row.at),
            by: row.by,
            what: row.what,
            target: row.target,
            from: row.from.map(value),
            to: row.to.map(value),
        }
    }
}

/// The JSON value of an entry; a text that is not JSON is shown as a string.
pub fn value(text: String) -> Value {
    serde_json::from_str(&text).unwrap_or(Value::String(text))
}

/// A page of entries.
#[derive(Serialize, Debug, PartialEq)]
pub struct AuditPage {
    items: Vec<AuditEntry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// Answers a page of entries, newest first.
pub async fn list(State(app): State<AppState>, uri: Uri) -> ApiResult<Json<AuditPage>> {
    let params = QueryParams::read(&uri, &["limit", "cursor"])?;
    let limit = params.limit(DEFAULT_LIMIT, MAX_LIMIT)?;
    let before = match params.get("cursor").map(cursor::read).transpose()? {
        Some(position) => Some(position.parse().map_err(|_| cursor::bad())?),
        None => None,
    };
    // One more than requested, to find out whether there is a next page.
    let mut rows = app.store.audit(before, limit + 1).await?;
    let next = (rows.len() > limit).then(|| {
        rows.truncate(limit);
        rows.last().map(|row| cursor::write(&row.id.to_string()))
    });
    Ok(Json(AuditPage { items: rows.into_iter().map(AuditEntry::from).collect(), next: next.flatten() }))
}
