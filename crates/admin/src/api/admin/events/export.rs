//! Events as a download: CSV or JSON lines, read and sent page by page.

use std::io;

use axum::body::Body;
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;

use super::shown;
use crate::api::app_state::AppState;
use crate::api::query::QueryParams;
use crate::api::streamed_body::{Chunks, StreamedBody};
use crate::problem::ApiResult;
use crate::store::{EventFilter, EventPosition, EventRow};

/// Events of a download by default.
const DEFAULT_LIMIT: usize = 100_000;
/// Events of a download at most.
const MAX_LIMIT: usize = 1_000_000;
/// Events that are read at a time.
const PAGE: usize = 500;

/// Media types of downloads.
pub const CSV: &str = "text/csv; charset=utf-8";
pub const JSON_LINES: &str = "application/x-ndjson";

/// Format of a download.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EventExportFormat {
    /// A line of names, then a line for each event.
    Csv,
    /// A JSON object a line.
    JsonLines,
}

impl EventExportFormat {
    /// The format that `params` ask for; `None`: no download.
    pub fn read(params: &QueryParams) -> ApiResult<Option<Self>> {
        Ok(match params.word("format", &["json", "csv", "jsonl"])? {
            Some("csv") => Some(Self::Csv),
            Some("jsonl") => Some(Self::JsonLines),
            _ => None,
        })
    }

    fn content_type(self) -> &'static str {
        match self {
            Self::Csv => CSV,
            Self::JsonLines => JSON_LINES,
        }
    }

    /// Writes `rows`, the first of all if `is_first`.
    fn write(self, rows: Vec<EventRow>, is_first: bool) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        match self {
            Self::Csv => {
                let mut writer = csv::WriterBuilder::new().has_headers(is_first).from_writer(&mut bytes);
                if is_first && rows.is_empty() {
                    // The names come with the first row.
                    writer.serialize(EventRow::default())?;
                    writer.flush()?;
                    drop(writer);
                    bytes.truncate(bytes.iter().position(|&byte| byte == b'\n').map_or(0, |end| end + 1));
                    return Ok(bytes);
                }
                rows.into_iter().try_for_each(|row| writer.serialize(without_formulas(row)))?;
                writer.flush()?;
            }
            Self::JsonLines => {
                for row in rows {
                    serde_json::to_writer(&mut bytes, &row)?;
                    bytes.push(b'\n');
                }
            }
        }
        Ok(bytes)
    }
}

/// The row with an apostrophe in front of what clients wrote and a spreadsheet would take for a
/// formula.
fn without_formulas(mut row: EventRow) -> EventRow {
    for text in [&mut row.method, &mut row.host, &mut row.path, &mut row.user_agent].into_iter().flatten() {
        if text.starts_with(['=', '+', '-', '@', '\t', '\r']) {
            text.insert(0, '\'');
        }
    }
    row
}

/// Answers the events of `filter` from `from` on, as a download.
///
/// # Errors
/// When `limit` is out of range.
pub fn answer(
    app: AppState,
    params: &QueryParams,
    format: EventExportFormat,
    filter: EventFilter,
    from: Option<EventPosition>,
) -> ApiResult<Response> {
    let limit = params.limit(DEFAULT_LIMIT, MAX_LIMIT)?;
    let place = app.places.download()?;
    let (chunks, body) = StreamedBody::new();
    tokio::spawn(async move {
        let _place = place;
        tokio::select! {
            () = send(&app, format, &filter, from, limit, &chunks) => {}
            () = chunks.closed() => {}
            () = app.stopping() => drop(chunks.send(Err(io::Error::other("the service stops"))).await),
        }
    });
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static(format.content_type())),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    Ok((headers, Body::new(body)).into_response())
}

async fn send(
    app: &AppState,
    format: EventExportFormat,
    filter: &EventFilter,
    mut from: Option<EventPosition>,
    mut left: usize,
    chunks: &Chunks,
) {
    let mut is_first = true;
    loop {
        // A body that breaks off shows that something is missing.
        let page = match app.store.events(filter, from, left.min(PAGE)).await {
            Ok(page) => page,
            Err(error) => {
                chunks.send(Err(io::Error::other(error))).await;
                return;
            }
        };
        left -= page.rows.len();
        let rows: Vec<EventRow> = page.rows.into_iter().map(shown).collect();
        // A search that found nothing in its time goes on.
        let is_last = page.next.is_none() || left == 0;
        if !rows.is_empty() || is_last && is_first {
            let bytes = format.write(rows, is_first).map(Bytes::from);
            if !chunks.send(bytes).await {
                return;
            }
            is_first = false;
        }
        if is_last {
            return;
        }
        from = page.next;
    }
}
