//! Events as they come: what the API's stream says, as rows of the table.

use std::fmt::Write as _;
use std::time::Duration;

use axum::body::BodyDataStream;
use axum::extract::State;
use axum::response::Response;
use axum::response::sse::Event as Sent;
use futures_util::StreamExt as _;
use futures_util::stream::unfold;
use serde_json::json;

use super::event::Event;
use super::filters::filters;
use crate::dashboard::Dashboard;
use crate::error::PageError;
use crate::query::PageQuery;
use crate::stream::{self, Place};
use crate::visitor::Visitor;

/// Bytes of a line, at most: an event has less.
const MAX_LINE: usize = 1 << 20;
/// After this long a stream ends. It is as long as a session: the events between a stream and the next are not sent.
const LONGEST: Duration = crate::session::LONGEST;

/// Answers rows as events come. The API's stream ends by itself when the token is revoked.
pub async fn answer(
    State(dashboard): State<Dashboard>,
    visitor: Result<Visitor, PageError>,
    query: PageQuery,
) -> Result<Response, PageError> {
    let visitor = visitor.map_err(PageError::of_stream)?;
    let place = Place::take(&dashboard, &visitor)?;
    let wanted = filters(&query).with("since", "").with("until", "");
    let answer = visitor.api.stream(&format!("events{}", wanted.text()), "text/event-stream").await?;
    let lines = Lines { stream: answer.into_body().into_data_stream(), rest: Vec::new() };
    let rows = unfold(lines, async |mut lines| {
        let html = lines.rows().await?;
        let data = json!({ "id": "event-rows", "html": html }).to_string();
        Some((Sent::default().event("rows").data(data), lines))
    });
    Ok(stream::answer(rows, LONGEST, place, visitor))
}

/// The lines of the API's stream.
struct Lines {
    stream: BodyDataStream,
    /// The beginning of a line that is not whole yet.
    rest: Vec<u8>,
}

impl Lines {
    /// The rows of the events that came, the newest first; `None`: the stream has ended.
    async fn rows(&mut self) -> Option<String> {
        loop {
            let piece = self.stream.next().await?.ok()?;
            self.rest.extend_from_slice(&piece);
            let end = self.rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            let whole: Vec<u8> = self.rest.drain(..end).collect();
            if self.rest.len() > MAX_LINE {
                return None;
            }
            let rows = rows_of(&whole);
            if !rows.is_empty() {
                return Some(rows);
            }
        }
    }
}

/// The events in whole lines of server-sent events, the newest first.
fn rows_of(lines: &[u8]) -> String {
    let data = lines.split(|byte| *byte == b'\n').filter_map(|line| line.strip_prefix(b"data: "));
    let events: Vec<Event> = data.filter_map(|data| serde_json::from_slice(data).ok()).collect();
    let mut html = String::new();
    for event in events.iter().rev() {
        // Writing to a string cannot fail.
        let _ = write!(html, "{}", event.row().into_string());
    }
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_become_rows_and_the_newest_is_on_top() {
        let event = |path: &str| {
            format!(
                "id: 7\ndata: {{\"timestamp\":\"2026-11-30T12:00:00Z\",\"node\":\"n\",\"source\":\"ab\",\"number\":1,\
                 \"path\":\"{path}\",\"verdict\":\"deny\",\"tunnel\":false,\"tables_seq\":1,\"complete\":true}}\n\n"
            )
        };
        let rows = rows_of(format!(": begins\n\n{}{}", event("/first"), event("/<b>")).as_bytes());
        assert!(rows.find("/&lt;b&gt;").unwrap() < rows.find("/first").unwrap(), "{rows}");
        assert_eq!(rows_of(b"event: skipped\ndata: {\"events\":5}\n\n"), "");
    }
}
