//! Parts of a page that are made anew while it is open, sent as server-sent events (WHATWG HTML, 9.2).
//!
//! Nothing is kept for a client: the next parts are made once it has taken those before. The visitor is looked up
//! again each time, so that a session that ended, or a token that was revoked, ends the stream.

use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::request::Parts;
use axum::response::Response;
use axum::response::sse::Event;
use futures_util::stream::unfold;
use serde_json::json;

use crate::dashboard::Dashboard;
use crate::error::PageError;
use crate::pages;
use crate::part::Part;
use crate::query::PageQuery;
use crate::stream::{self, Place};
use crate::visitor::{Visitor, caller_of};

/// How often parts are made anew.
const EVERY: Duration = Duration::from_secs(2);
/// After this long a stream ends, and the browser begins another.
const LONGEST: Duration = Duration::from_secs(300);

/// A stream of one page's parts.
struct Live {
    dashboard: Dashboard,
    page: String,
    query: PageQuery,
    parts: Parts,
    sent: Vec<Part>,
    queue: Vec<Part>,
}

/// Answers the parts of a page as they change.
pub async fn answer(
    State(dashboard): State<Dashboard>,
    Path(page): Path<String>,
    query: PageQuery,
    request: axum::extract::Request,
) -> Result<Response, PageError> {
    let (parts, _) = request.into_parts();
    let visitor = Visitor::find(&dashboard, &parts.headers, caller_of(&parts), false).await;
    let visitor = visitor.map_err(PageError::of_stream)?;
    let place = Place::take(&dashboard, &visitor)?;
    let (sent, queue) = Default::default();
    let mut live = Live { dashboard, page, query, parts, sent, queue };
    // Before the answer begins, so that who may not see it is told so. All of it is sent, for it may have changed
    // since the page was made.
    live.sent = live.make().await?;
    live.queue = live.sent.iter().rev().cloned().collect();
    let events = unfold(live, async |mut live| {
        let part = live.next().await?;
        let data = json!({ "id": part.id, "html": part.body });
        Some((Event::default().event("part").data(data.to_string()), live))
    });
    Ok(stream::answer(events, LONGEST, place, visitor))
}

impl Live {
    /// The next part that is not as it was sent; `None`: the stream ends.
    async fn next(&mut self) -> Option<Part> {
        loop {
            if let Some(part) = self.queue.pop() {
                return Some(part);
            }
            tokio::time::sleep(EVERY).await;
            let made = self.make().await.ok()?;
            self.queue = made.iter().filter(|part| !self.sent.contains(part)).cloned().rev().collect();
            self.sent = made;
        }
    }

    async fn make(&self) -> Result<Vec<Part>, PageError> {
        let visitor =
            Visitor::find(&self.dashboard, &self.parts.headers, caller_of(&self.parts), false).await?;
        pages::live_parts(&self.page, &visitor, &self.query).await
    }
}
