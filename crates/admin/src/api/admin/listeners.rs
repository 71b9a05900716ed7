//! `/api/admin/listeners`: listeners, which routes are held to by their `parentRefs`.

use serde_json::Value;
use tidegate_author::{self as author, Listeners};

use super::routes::{ROUTE_TABLE_READS, fit_together};
use crate::api::app_state::AppState;
use crate::api::named_documents::NamedDocument;
use crate::feed::{Documents, Snapshot};
use crate::problem::{ApiResult, Problem, ProblemCode};
use crate::store::{DocumentKind, StoreTable};

/// Routes that the problem names when they need the listener.
const SHOWN_ROUTES: usize = 10;

/// The listeners.
pub enum DeclaredListeners {}

impl NamedDocument for DeclaredListeners {
    type Content = author::Listener;
    const KIND: DocumentKind = DocumentKind::Listener;
    const NOUN: &str = "listener";
    const EXAMPLE: &str = r#"{"scheme": "https", "port": 8443}"#;
    const CONFLICTS: &'static [ProblemCode] = &[ProblemCode::ListenerInUse];
    const NOT_FOUND: ProblemCode = ProblemCode::ListenerNotFound;
    const CHECK_READS: &'static [StoreTable] = ROUTE_TABLE_READS;
    const REMOVAL_READS: &'static [StoreTable] = ROUTE_TABLE_READS;

    fn of(snapshot: &Snapshot) -> &Documents<author::Listener> {
        &snapshot.listeners
    }

    fn of_mut(snapshot: &mut Snapshot) -> &mut Documents<author::Listener> {
        &mut snapshot.listeners
    }

    fn read(name: &str, document: Value) -> ApiResult<(String, author::Listener)> {
        let content = author::read_listener(name, &document)
            .map_err(|problems| Problem::document(ProblemCode::InvalidField, problems))?;
        Ok((document.to_string(), content))
    }

    fn check(name: &str, document: Value, snapshot: &Snapshot) -> ApiResult<(String, author::Listener)> {
        let (text, listener) = Self::read(name, document)?;
        let mut listeners = snapshot.listeners_by_name();
        listeners.insert(name.to_owned(), listener.clone());
        holds_on(snapshot, &listeners)?;
        fit_together(snapshot, None, &snapshot.backends_by_name(), &listeners, text.len())?;
        Ok((text, listener))
    }

    fn written(_: &AppState, _: &Snapshot, _: &str, _: &author::Listener) -> Vec<String> {
        Vec::new()
    }

    fn check_removal(_: &AppState, snapshot: &Snapshot, name: &str) -> ApiResult<()> {
        let mut listeners = snapshot.listeners_by_name();
        listeners.remove(name);
        holds_on(snapshot, &listeners)
    }
}

/// Whether no route that can be held to the present listeners would have nothing to be held to
/// by these: it would be closed.
fn holds_on(snapshot: &Snapshot, listeners: &Listeners) -> ApiResult<()> {
    still_held(snapshot, &snapshot.listeners_by_name(), listeners)
}

/// The same of the routes of `snapshot`, from these listeners to those.
pub fn still_held(snapshot: &Snapshot, from: &Listeners, to: &Listeners) -> ApiResult<()> {
    let routes = snapshot.routes.in_force.values();
    let broken = routes.filter_map(|info| {
        let problem = info.parsed.listener_problems(to).into_iter().next()?;
        info.parsed.listener_problems(from).is_empty().then_some((&info.name, problem))
    });
    let mut broken = broken.peekable();
    let Some((_, problem)) = broken.peek() else { return Ok(()) };
    let why = format!("{}: {}", problem.pointer, problem.message);
    let shown: Vec<_> = broken.by_ref().take(SHOWN_ROUTES).map(|(route, _)| format!("`{route}`")).collect();
    let more = if broken.next().is_some() { " and others" } else { "" };
    let detail = format!("these routes need it, change them first: {}{more} ({why})", shown.join(", "));
    Err(Problem::new(ProblemCode::ListenerInUse, detail))
}
