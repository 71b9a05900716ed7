//! `GET /api/admin/audit`: every change, with its author, and whether the chain of its entries is
//! whole.

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::api::app_state::AppState;
use crate::api::cursor;
use crate::api::endpoints::Endpoints;
use crate::api::openapi::about::About;
use crate::api::openapi::parameters::{ACTOR, ANCHOR, CURSOR, KIND, LIMIT, NAME, SINCE, UNTIL};
use crate::api::query::QueryParams;
use crate::auth::Role;
use crate::problem::ApiResult;
use crate::store::{AUDIT_KINDS, AuditAnchor, AuditCheck, AuditFilter, AuditRow};
use crate::time;

/// The paths here.
pub fn routes() -> Endpoints {
    let lists = About::new("Lists the changes and their authors, newest first")
        .query(&[&ACTOR, &KIND, &NAME, &SINCE, &UNTIL, &LIMIT, &CURSOR]);
    let verifies = About::new("Checks the chain of the audit").query(&[&ANCHOR]);
    Endpoints::default()
        .get(Role::Read, "/api/admin/audit", list)
        .about(lists.answers::<AuditPage>())
        .get(Role::Read, "/api/admin/audit/verify", verify)
        .about(verifies.answers::<AuditCheck>())
}

/// Entries per page by default.
const DEFAULT_LIMIT: usize = 100;
/// Entries per page at most.
const MAX_LIMIT: usize = 1_000;

/// An entry of the audit.
#[derive(Serialize, Debug, PartialEq, ToSchema)]
pub struct AuditEntry {
    id: u64,
    at: String,
    actor: String,
    address: Option<String>,
    request_id: Option<String>,
    kind: String,
    name: String,
    #[schema(value_type = Value)]
    before: Option<Value>,
    #[schema(value_type = Value)]
    after: Option<Value>,
    /// How many changes are told as one.
    #[serde(skip_serializing_if = "Option::is_none")]
    changes: Option<u64>,
    hash: String,
}

impl From<AuditRow> for AuditEntry {
    fn from(row: AuditRow) -> Self {
        Self {
            id: row.id,
            at: time::sql_to_rfc3339(row.at),
            actor: row.actor,
            address: row.address,
            request_id: row.request_id,
            kind: row.kind,
            name: row.name,
            before: row.before.map(value),
            after: row.after.map(value),
            changes: row.changes,
            hash: row.hash,
        }
    }
}

/// The JSON value of an entry; a text that is not JSON is shown as a string.
pub fn value(text: String) -> Value {
    serde_json::from_str(&text).unwrap_or(Value::String(text))
}

/// A page of entries.
#[derive(Serialize, Debug, PartialEq, ToSchema)]
pub struct AuditPage {
    items: Vec<AuditEntry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// Answers a page of entries, newest first.
async fn list(State(app): State<AppState>, uri: Uri) -> ApiResult<Json<AuditPage>> {
    let known = &["actor", "kind", "name", "since", "until", "limit", "cursor"];
    let params = QueryParams::read_with(&uri, known, &["kind"])?;
    let limit = params.limit(DEFAULT_LIMIT, MAX_LIMIT)?;
    let text = |name| params.get(name).map(str::to_owned);
    let filter = AuditFilter {
        before: match params.get("cursor").map(cursor::read).transpose()? {
            Some(position) => Some(position.parse().map_err(|_| cursor::bad())?),
            None => None,
        },
        actor: text("actor"),
        kinds: params.words("kind", &AUDIT_KINDS)?.into_iter().map(str::to_owned).collect(),
        name: text("name"),
        since: params.moment("since")?.map(time::to_sql),
        until: params.moment("until")?.map(time::to_sql),
    };
    // One more than requested, to find out whether there is a next page.
    let mut rows = app.store.audit(filter, limit + 1).await?;
    let next = (rows.len() > limit).then(|| {
        rows.truncate(limit);
        rows.last().map(|row| cursor::write(&row.id.to_string()))
    });
    Ok(Json(AuditPage { items: rows.into_iter().map(AuditEntry::from).collect(), next: next.flatten() }))
}

/// Checks the chain, and with `anchor=ID:HASH` whether that entry is in it as it was.
async fn verify(State(app): State<AppState>, uri: Uri) -> ApiResult<Json<AuditCheck>> {
    let params = QueryParams::read(&uri, &["anchor"])?;
    let anchor = params.parsed::<AuditAnchor>("anchor", AuditAnchor::FORM)?;
    Ok(Json(app.store.check_audit(anchor).await?))
}
