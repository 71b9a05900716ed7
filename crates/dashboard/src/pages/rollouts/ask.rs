//! What a person asks of a rollout: to start, pause, resume, approve or abort it.

use axum::extract::Path;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use maud::{Markup, html};
use serde_json::{Value, json};

use super::one;
use super::phase::Question;
use super::plans::ROLLOUTS;
use super::status::RunStatus;
use crate::api::{ApiError, Write, encoded};
use crate::error::PageError;
use crate::form::{Form, hidden_fields};
use crate::page::command;
use crate::pages::rollout::applied;
use crate::query::PageQuery;
use crate::redirect::see_other;
use crate::role::Role;
use crate::session::NoRandomBytes;
use crate::show::shell::shell_word;
use crate::visitor::Visitor;

/// The id of the form that the buttons belong to. It stands beside the part with the buttons, which is made anew while
/// the page is open: its hidden fields must not change under the reader's hands.
const FORM: &str = "ask-form";

/// The form of the buttons; nothing for who may only read.
///
/// # Errors
/// When the operating system gives no random bytes.
pub fn form(visitor: &Visitor, name: &str) -> Result<Markup, NoRandomBytes> {
    Ok(html! {
        @if visitor.may(Role::Operate) {
            form id=(FORM) method="post" action={ (ROLLOUTS.page_of(name)) "/ask" } { (hidden_fields(visitor)?) }
        }
    })
}

/// The buttons that are right in the run's phase (`None`: it has never run), each with what it does, and the commands that
/// do the same. What is approved is the stage that the page shows: one that was approved meanwhile is not the next.
pub fn buttons(visitor: &Visitor, name: &str, status: Option<&RunStatus>) -> Markup {
    let questions = status.map_or(&[Question::Start][..], |status| status.phase.questions());
    let page = ROLLOUTS.page_of(name);
    let (run, stage) = status.map_or((0, 0), |status| (status.run, status.stage_number));
    html! {
        @if visitor.may(Role::Operate) {
            dl.card.asks aria-label="What may be asked of it" {
                @for question in questions {
                    @let (button, does) = question.words();
                    dt {
                        @match question {
                            Question::Abort => a.button.danger href={ (page) "?ask=abort" } { (button) },
                            Question::Approve => button.primary type="submit" form=(FORM) formaction={ (page) "/ask?run=" (run) "&stage=" (stage) } name="ask" value=(question.name()) { (button) },
                            Question::Pause => button type="submit" form=(FORM) name="ask" value=(question.name()) { (button) },
                            _ => button.primary type="submit" form=(FORM) name="ask" value=(question.name()) { (button) },
                        }
                    }
                    dd {
                        span.quiet { (does) }
                        (command(&format!("tidegate rollout {} {}", question.name(), shell_word(name))))
                    }
                }
            }
        } @else {
            (command(&format!("tidegate rollout status {}", shell_word(name))))
        }
    }
}

/// Carries it out.
pub async fn ask(Path(name): Path<String>, query: PageQuery, form: Form) -> Result<Response, PageError> {
    let asked = form.get("ask");
    let Some(question) = Question::ALL.into_iter().find(|question| question.name() == asked) else {
        let detail = "The form does not say what is asked for: load the page anew. Nothing was changed.";
        return Err(PageError::refused(StatusCode::BAD_REQUEST, "Nothing was asked for", detail));
    };
    let path = format!("rollouts/{}/{}?wait_applied=2s", encoded(&name), question.name());
    let number = |field: &str| query.get(field).parse::<u64>().ok();
    let meant = match (number("run"), number("stage")) {
        (Some(run), Some(stage)) => json!({ "run": run, "stage": stage }),
        _ => Value::Null,
    };
    let write = Write::json(Method::POST, path, &meant).once(form.once());
    match form.visitor.api.send(write).await {
        Ok(answer) => {
            let gateways = match question {
                Question::Pause => String::new(),
                _ => format!(" {}", applied(&answer)),
            };
            form.visitor.note(format!("The rollout {name} {}.{gateways}", question.done()));
            Ok(see_other(&ROLLOUTS.page_of(&name)))
        }
        // The run is in another phase by now, say: the page shows in which.
        Err(ApiError::Problem(problem)) if !matches!(problem.status, 401 | 403 | 404) => {
            let page = one::refused(&form.visitor, &name, &problem).await?;
            let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::CONFLICT);
            Ok((status, page).into_response())
        }
        Err(error) => Err(error.into()),
    }
}
