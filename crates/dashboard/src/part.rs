//! Parts of a page that are made anew while it is open.

use maud::{Markup, html};

/// A part of a page that is made anew while the page is open.
#[derive(Clone, PartialEq, Eq)]
pub struct Part {
    /// The id of its element.
    pub id: &'static str,
    /// What is in the element.
    pub body: String,
}

impl Part {
    /// A part with this content.
    pub fn new(id: &'static str, body: Markup) -> Self {
        Self { id, body: body.into_string() }
    }

    /// The part as it stands in the page.
    pub fn in_page(&self) -> Markup {
        html! { div id=(self.id) { (maud::PreEscaped(&self.body)) } }
    }
}
