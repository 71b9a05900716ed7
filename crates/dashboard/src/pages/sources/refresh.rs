//! Fetching a source now.

use axum::extract::Path;
use axum::http::Method;
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;
use serde_json::Value;

use super::one;
use super::source::{HeldBack, SOURCES};
use crate::api::{ApiError, Write, encoded};
use crate::error::PageError;
use crate::form::Form;
use crate::show::number::grouped;

/// The answer to a refresh.
#[derive(Deserialize)]
struct Refreshed {
    outcome: String,
    entries: u64,
    added: u64,
    removed: u64,
    held_back: Option<HeldBack>,
}

/// Fetches one, and says what came of it.
pub async fn refresh(Path(name): Path<String>, form: Form) -> Result<Response, PageError> {
    let path = format!("sources/{}/refresh?force={}", encoded(&name), form.is_ticked("force"));
    let write = Write::json(Method::POST, path, &Value::Null).once(form.once());
    match form.visitor.api.send(write).await {
        Ok(answer) => {
            let done: Refreshed =
                serde_json::from_value(answer).map_err(|error| ApiError::Form(error.to_string()))?;
            form.visitor.note(outcome(&name, &done));
            Ok(Redirect::to(&SOURCES.page_of(&name)).into_response())
        }
        Err(ApiError::Problem(problem)) if !matches!(problem.status, 401 | 404) => {
            one::not_fetched(&form.visitor, &name, &problem).await
        }
        Err(error) => Err(error.into()),
    }
}

fn outcome(name: &str, done: &Refreshed) -> String {
    let Refreshed { entries, added, removed, .. } = done;
    let [entries, added, removed] = [entries, added, removed].map(|number| grouped(*number));
    match (done.outcome.as_str(), &done.held_back) {
        ("replaced", _) => {
            format!("{name} was fetched: {entries} entries, {added} added, {removed} removed.")
        }
        ("held_back", Some(why)) => format!("{name} was fetched, and is held back: {}.", why.detail),
        _ => format!("{name} was fetched: it has not changed."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outcome_of_a_refresh_is_told() {
        let done = |outcome: &str| Refreshed {
            outcome: outcome.to_owned(),
            entries: 1_487,
            added: 12,
            removed: 3,
            held_back: Some(HeldBack { had: 9, has: 0, detail: "it is empty".to_owned() }),
        };
        assert_eq!(
            outcome("drop", &done("replaced")),
            "drop was fetched: 1,487 entries, 12 added, 3 removed."
        );
        assert_eq!(outcome("drop", &done("held_back")), "drop was fetched, and is held back: it is empty.");
        assert_eq!(outcome("drop", &done("unchanged")), "drop was fetched: it has not changed.");
    }
}
