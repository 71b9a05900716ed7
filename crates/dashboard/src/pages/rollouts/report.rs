//! The report of the last run, to keep or to put into a ticket.

use axum::extract::Path;
use axum::http::HeaderValue;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::Response;

use crate::api::encoded;
use crate::error::PageError;
use crate::query::PageQuery;
use crate::visitor::Visitor;

/// Answers the report as a page of Markdown, or as JSON, as a file.
pub async fn answer(
    visitor: Visitor,
    Path(name): Path<String>,
    query: PageQuery,
) -> Result<Response, PageError> {
    let (format, kind, file) = match query.get("format") {
        "json" => ("json", "application/json", "attachment; filename=\"rollout-report.json\""),
        _ => ("markdown", "text/markdown; charset=utf-8", "attachment; filename=\"rollout-report.md\""),
    };
    let path = format!("rollouts/{}/report?format={format}", encoded(&name));
    let mut response = visitor.api.stream(&path, "*/*").await?;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CONTENT_DISPOSITION, HeaderValue::from_static(file));
    Ok(response)
}
