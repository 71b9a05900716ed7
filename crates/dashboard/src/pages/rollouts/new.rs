//! The page that makes a rollout, which begins with the plan of the guide.

use axum::response::{IntoResponse, Response};
use maud::{Markup, html};
use serde_json::Value;
use tidegate_rollout::template::{MAX_SPEED, TEMPLATES, guide};

use super::plans::{PATH, ROLLOUTS};
use crate::editor::{self, Edit, Sent};
use crate::error::PageError;
use crate::form::Form;
use crate::page::{Page, command};
use crate::query::PageQuery;
use crate::show::sentence::sentence;
use crate::visitor::Visitor;

/// The page with the plan of the guide, at the speed that its address has.
pub fn page(visitor: &Visitor, query: &PageQuery) -> Result<Response, PageError> {
    let speed = query.get("speed").parse().unwrap_or(1).clamp(1, MAX_SPEED);
    show(visitor, &Edit::with_text(&ROLLOUTS, TEMPLATES[0], text(speed)), speed)
}

/// Makes a rollout.
pub async fn send(form: Form) -> Result<Response, PageError> {
    match editor::send(&form, &ROLLOUTS, "").await? {
        Sent::Done(response) => Ok(response),
        Sent::Again(edit) => show(&form.visitor, &edit, 1),
    }
}

/// The plan as a document, without its name, which the form has.
fn text(speed: u32) -> String {
    let mut plan = guide(speed);
    plan.as_object_mut().map(|fields| fields.remove("name"));
    yaml_serde::to_string::<Value>(&plan).unwrap_or_default()
}

fn show(visitor: &Visitor, edit: &Edit, speed: u32) -> Result<Response, PageError> {
    let body = html! {
        nav aria-label="Path" { p { a href=(PATH) { "All" } " › new" } }
        p { (sentence("The plan below is that of the guide: each check first in shadow and for a tenth of the clients, then for half and for all, a day for each stage. `docs/ROLLOUT.md` has every field. It does nothing until it is started.")) }
        (pace(speed))
        (edit.show(visitor, &ROLLOUTS)?)
    };
    let page = Page { title: "New rollout", menu: PATH, live: "", body }.show(visitor)?;
    Ok((edit.status(), page).into_response())
}

/// The form that divides the plan's times.
fn pace(speed: u32) -> Markup {
    html! {
        form.card.fields method="get" action=(PATH) {
            input type="hidden" name="new" value="1";
            div {
                label for="speed" { "So many times as fast" }
                input.short #speed name="speed" type="number" min="1" max=(MAX_SPEED) value=(speed) aria-describedby="speed-help";
            }
            div.actions { button type="submit" { "Fill in the plan" } }
            p.quiet #speed-help { "For trying: divides all times and numbers of requests, and drops what was typed below. 10,000 makes a day nine seconds." }
        }
        (command(&format!("tidegate rollout template guide --speed {speed} > rollout.yaml")))
    }
}

#[cfg(test)]
mod tests {
    use tidegate_rollout::plan::Plan;

    use super::*;

    #[test]
    fn the_text_is_a_plan_at_every_speed() {
        for speed in [1, 10_000, MAX_SPEED] {
            let document: Value = yaml_serde::from_str(&text(speed)).unwrap();
            assert!(document.get("name").is_none());
            assert!(Plan::read("x", &document).is_ok_and(|plan| plan.stages.len() > 10), "{speed}");
        }
    }
}
