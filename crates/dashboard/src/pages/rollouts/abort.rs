//! The page that asks whether a run is to be aborted.

use axum::response::Response;
use maud::html;

use super::phase::Question;
use super::plans::{PATH, ROLLOUTS};
use crate::error::PageError;
use crate::form::hidden_fields;
use crate::page::{Page, command};
use crate::show::shell::shell_word;
use crate::show::text::{foreign, visible};
use crate::visitor::Visitor;

/// Asks whether the run is to be aborted.
pub fn confirmation(visitor: &Visitor, name: &str) -> Result<Response, PageError> {
    let page = ROLLOUTS.page_of(name);
    let body = html! {
        section.card {
            p { "The run of " (foreign(name)) " ends, and all flags are set at once to what they were before it, but for those that people have set since. It cannot go on afterwards: a new run begins with the first stage." }
            form.actions method="post" action={ (page) "/ask" } {
                (hidden_fields(visitor)?)
                button.danger.primary type="submit" name="ask" value=(Question::Abort.name()) { "Abort the run" }
                a.button href=(page) { "Let it go on" }
            }
            (command(&format!("tidegate rollout abort {}", shell_word(name))))
        }
    };
    let title = format!("Abort the rollout {}?", visible(name));
    Page { title: &title, menu: PATH, live: "", body }.show(visitor)
}
