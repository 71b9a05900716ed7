//! Importing a list of bans: it is sent, checked, and imported once what would change is known.

mod checked;
mod form;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use maud::html;

use super::urls::{BANS, CHECKED, IMPORT};
use crate::api::{ApiClient, ApiError, FieldError, Problem, Write, encoded};
use crate::dashboard::Dashboard;
use crate::enforced::VERSION;
use crate::error::PageError;
use crate::file_form::FileForm;
use crate::form::Form;
use crate::page::{Page, form_problem};
use crate::role::Role;
use crate::session::{MAX_LIST, Taken, Upload, UploadState, once_key};
use crate::visitor::Visitor;
pub use checked::parts;
use checked::{UPLOAD, named};
use form::ImportForm;

/// What sends a list.
const LIST: FileForm = FileForm {
    role: Role::Operate,
    max: MAX_LIST,
    pasted: "list",
    larger: "The command `tidegate bans import FILE` takes up to 256 MiB, also packed with gzip.",
};

/// The pages here.
pub fn routes() -> Router<Dashboard> {
    Router::new()
        .route(IMPORT, get(page).post(check))
        .route(CHECKED, get(checked::page).post(act))
        .layer(DefaultBodyLimit::max(LIST.max_form()))
}

async fn page(visitor: Visitor) -> Result<Response, PageError> {
    show(&visitor, &ImportForm::default(), None)
}

fn show(visitor: &Visitor, form: &ImportForm, problem: Option<&Problem>) -> Result<Response, PageError> {
    let body = html! {
        p { a href=(BANS) { "All bans" } " › import" }
        (form_problem(problem))
        @if visitor.may(Role::Operate) {
            section.card { (form.show(visitor, problem)?) }
        } @else {
            p { "Your token may look at bans. Importing needs one of the role operate." }
        }
    };
    let status = problem.and_then(|problem| StatusCode::from_u16(problem.status).ok());
    let page = Page { title: "Import a list of bans", menu: BANS, live: "", body }.show(visitor)?;
    Ok((status.unwrap_or(StatusCode::OK), page).into_response())
}

/// Has the API say what a list that was sent would change, and holds it.
async fn check(State(dashboard): State<Dashboard>, request: Request) -> Result<Response, PageError> {
    let (visitor, sent) = LIST.read(&dashboard, request).await?;
    let mut form = ImportForm::read(&sent);
    let (list, file) = match (sent.file.is_empty(), sent.pasted.trim_ascii().is_empty()) {
        (true, true) if !form.force => {
            return show(&visitor, &form, Some(&wrong("Choose a file, or paste a list.")));
        }
        (false, false) => {
            let detail = "There are two lists: leave out the file, or what is pasted.";
            return show(&visitor, &form, Some(&wrong(detail)));
        }
        (true, false) => (sent.pasted, String::new()),
        _ => (sent.file, sent.name),
    };
    let (id, query) = (once_key()?, form.query());
    let upload = Upload { id, list, file, query, state: UploadState::Running };
    match send(&visitor.api, &upload, true).await {
        Ok(answer) => {
            visitor.hold(Upload { state: UploadState::Checked(answer, None), ..upload });
            Ok(Redirect::to(CHECKED).into_response())
        }
        Err(ApiError::Problem(problem)) if problem.status != 401 => {
            if upload.file.is_empty() {
                form.pasted = String::from_utf8_lossy(&upload.list).into_owned();
            }
            show(&visitor, &form, Some(&problem))
        }
        Err(error) => Err(error.into()),
    }
}

fn wrong(detail: &str) -> Problem {
    let error = FieldError { pointer: None, parameter: Some("list".to_owned()), detail: detail.to_owned() };
    let title = "There is not one list".to_owned();
    let (code, detail) = ("invalid_field".to_owned(), String::new());
    Problem { status: 422, code, title, detail, errors: vec![error] }
}

async fn send(api: &ApiClient, upload: &Upload, dry_run: bool) -> Result<serde_json::Value, ApiError> {
    let path = format!("bans/import?{}dry_run={dry_run}", upload.query);
    let write = Write::bytes(Method::POST, path, "text/plain", upload.list.clone());
    // As the command line does it: by the first bytes.
    api.send(if upload.list.starts_with(&[0x1f, 0x8b]) { write.packed() } else { write }).await
}

/// What the page of the held list is told to do.
async fn act(form: Form) -> Result<Response, PageError> {
    let visitor = &form.visitor;
    match form.get("action") {
        "import" => import(visitor.clone(), form.get(UPLOAD)).await,
        "force" => force(visitor, form.get(UPLOAD)).await,
        _ => Err(PageError::not_found()),
    }
}

/// Says that the list of a form is not the held one.
fn not_held(visitor: &Visitor) -> Result<Response, PageError> {
    let body = html! {
        div.problem role="alert" {
            p { strong { "The list of that page is not held any more" } }
            p { "Another one was sent since, in another window of this session perhaps, or it waited for 10 minutes. Nothing was imported." }
        }
        p.actions {
            @if visitor.held().is_some() { a.button href=(CHECKED) { "Show the list that is held" } }
            a.button href=(IMPORT) { "Send a list" }
        }
    };
    let page = Page { title: "Another list", menu: BANS, live: "", body }.show(visitor)?;
    Ok((StatusCode::CONFLICT, page).into_response())
}

/// Imports the held list with the id `wanted`. It goes on if the visitor does not wait for it.
async fn import(visitor: Visitor, wanted: &str) -> Result<Response, PageError> {
    let upload = match visitor.begin_import(wanted) {
        Taken::Upload(upload) => upload,
        Taken::Already => return Ok(Redirect::to(CHECKED).into_response()),
        Taken::Other => return not_held(&visitor),
    };
    let imported = tokio::spawn(async move {
        let (before, name) = (upload.id.clone(), named(&upload).to_owned());
        let (state, list, version) = match send(&visitor.api, &upload, false).await {
            Ok(answer) => {
                let version = answer["version"].as_str().unwrap_or_default().to_owned();
                (UploadState::Imported(answer), bytes::Bytes::new(), version)
            }
            Err(error) => {
                let problem = match error {
                    ApiError::Problem(problem) => problem,
                    ApiError::Form(text) => Box::new(unreadable(text)),
                };
                let UploadState::Checked(answer, _) = upload.state else { return String::new() };
                (UploadState::Checked(answer, Some(problem)), upload.list, String::new())
            }
        };
        let became =
            if matches!(state, UploadState::Imported(_)) { "was imported" } else { "was not imported" };
        if !visitor.replace(&before, Upload { list, state, ..upload }) {
            visitor.note(format!(
                "The list before, {name}, {became}. This page has the one that was sent since."
            ));
        }
        version
    });
    let version = imported.await.unwrap_or_default();
    let to = match version.as_str() {
        "" => CHECKED.to_owned(),
        version => format!("{CHECKED}?{VERSION}={}", encoded(version)),
    };
    Ok(Redirect::to(&to).into_response())
}

fn unreadable(detail: String) -> Problem {
    let title = "The service answered in a form that this page does not read".to_owned();
    Problem { status: 500, code: String::new(), title, detail, errors: Vec::new() }
}

/// Checks the held list with the id `wanted` again, with what was refused for its own good.
async fn force(visitor: &Visitor, wanted: &str) -> Result<Response, PageError> {
    let Some(held) = visitor.held().filter(|held| held.id == wanted) else { return not_held(visitor) };
    if !matches!(held.state, UploadState::Checked(..)) {
        return Ok(Redirect::to(CHECKED).into_response());
    }
    // A page of before, which shows less, must not import it.
    let upload = Upload { id: once_key()?, query: format!("{}force=true&", held.query), ..held };
    let answer = send(&visitor.api, &upload, true).await?;
    if !visitor.replace(wanted, Upload { state: UploadState::Checked(answer, None), ..upload }) {
        return not_held(visitor);
    }
    Ok(Redirect::to(CHECKED).into_response())
}
