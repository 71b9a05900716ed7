//! Links to the pages of a list.

use maud::{Markup, html};

use crate::query::PageQuery;

/// Links to the first and the next page of a list.
pub fn pager(query: &PageQuery, next: Option<&str>) -> Markup {
    let is_first = query.get("cursor").is_empty();
    let link = |cursor: &str| {
        let text = query.only(&["status"]).with("cursor", cursor).text();
        if text.is_empty() { "?".to_owned() } else { text }
    };
    html! {
        @if !is_first || next.is_some() {
            nav.pager aria-label="Pages of the list" {
                @if !is_first { a href=(link("")) { "First page" } }
                @if let Some(next) = next { a href=(link(next)) { "Next page" } }
            }
        }
    }
}
