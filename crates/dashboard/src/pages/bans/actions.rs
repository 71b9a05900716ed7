//! Removing, and enforcing, an entry.

use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;

use super::action::{Action, Refused};
use super::address;
use super::urls::page_of;
use crate::api::{ApiError, encoded};
use crate::enforced::VERSION;
use crate::error::PageError;
use crate::form::Form;
use crate::query::PageQuery;

/// Where a removal from the allow list leads to, if not to an address.
const ALLOW_LIST: &str = "/ui/allow-list";

/// What the API answers.
#[derive(Deserialize)]
struct Done {
    version: String,
    /// What holds now.
    #[serde(default)]
    status: String,
    entry: Option<String>,
}

/// Carries out what a button says.
pub async fn act(form: Form) -> Result<Response, PageError> {
    let (ip, of) = (form.get("ip"), form.get("of"));
    let action = Action::of(form.get("action"))?;
    let write = action.write(ip, form.is_ticked("force")).once(form.once());
    match form.visitor.api.send(write).await {
        Ok(answer) => {
            let done: Done =
                serde_json::from_value(answer).map_err(|error| ApiError::Form(error.to_string()))?;
            form.visitor.note(notice(action, ip, &done));
            let page = if of.is_empty() { format!("{ALLOW_LIST}?") } else { page_of(of) + "&" };
            Ok(Redirect::to(&format!("{page}{VERSION}={}", encoded(&done.version))).into_response())
        }
        Err(ApiError::Problem(problem)) if problem.status != 401 && !of.is_empty() => {
            let refused = Refused { ip: ip.to_owned(), action, problem: *problem };
            address::show(&form.visitor, &PageQuery::default().with("ip", of), Some(&refused)).await
        }
        Err(error) => Err(error.into()),
    }
}

fn notice(action: Action, ip: &str, done: &Done) -> String {
    let what = match action {
        Action::Unban => format!("The ban of {ip} is removed."),
        Action::Enforce => return format!("The ban of {ip} is enforced."),
        Action::Disallow => format!("{ip} is no longer on the allow list."),
    };
    let status = match done.status.as_str() {
        "banned" => "banned",
        "watched" => "banned in shadow",
        "allowed" => "allowed",
        _ => return what,
    };
    format!("{what} It is still {status}, by the entry {}.", done.entry.as_deref().unwrap_or(ip))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_says_what_holds_after_it() {
        let done = |status: &str, entry: Option<&str>| Done {
            version: "1.2".to_owned(),
            status: status.to_owned(),
            entry: entry.map(str::to_owned),
        };
        let text = notice(Action::Unban, "192.0.2.1", &done("banned", Some("192.0.2.0/24")));
        assert_eq!(text, "The ban of 192.0.2.1 is removed. It is still banned, by the entry 192.0.2.0/24.");
        let text = notice(Action::Disallow, "192.0.2.1", &done("none", None));
        assert_eq!(text, "192.0.2.1 is no longer on the allow list.");
    }
}
