//! A document at work in the editor: opened, checked, saved, refused, or in conflict with another's.

use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use serde_json::Value;

use super::difference::{LineChange, changes};
use super::document_kind::{DocumentKind, Live};
use super::written::{WAIT, Written, note_saved};
use crate::api::{ApiError, FieldError, Problem, Tagged, Write};
use crate::error::PageError;
use crate::form::Form;
use crate::visitor::Visitor;

/// A document at work in the editor.
pub struct Edit {
    /// Its name; empty: it has none yet.
    pub name: String,
    /// Whether it is to be made.
    pub(super) is_new: bool,
    pub(super) text: String,
    /// The tag of the live document that a save replaces; empty: there must be none.
    pub(super) etag: String,
    pub(super) phase: EditPhase,
}

/// How far it is.
pub(super) enum EditPhase {
    /// It is only shown.
    Open,
    /// It could be saved.
    Checked {
        changes: Vec<LineChange>,
        warnings: Vec<String>,
        /// Whether the live document is another than the one that was opened.
        is_stale: bool,
    },
    /// It cannot be saved.
    Refused(Box<Problem>),
    /// The live document is another than the one that was opened; `None`: it was removed.
    Conflict { theirs: Option<String>, changes: Vec<LineChange> },
}

/// What became of a form of the editor.
pub enum Sent {
    /// It was carried out, or is asked for once more: this is the answer.
    Done(Response),
    /// The editor is shown again.
    Again(Edit),
}

impl Edit {
    /// The live document of this name.
    ///
    /// # Errors
    /// When there is none.
    pub async fn open(visitor: &Visitor, kind: &DocumentKind, name: &str) -> Result<Self, PageError> {
        let Tagged { document, etag } = visitor.api.get_tagged(&kind.api_path(name)).await?;
        let text = kind.yaml(document);
        Ok(Self { name: name.to_owned(), is_new: false, text, etag, phase: EditPhase::Open })
    }

    /// A new document.
    pub fn new(kind: &DocumentKind) -> Self {
        let (name, etag) = Default::default();
        Self { name, is_new: true, text: kind.template.to_owned(), etag, phase: EditPhase::Open }
    }

    /// A new document that begins with a name and a text.
    pub fn with_text(kind: &DocumentKind, name: &str, text: String) -> Self {
        Self { name: name.to_owned(), text, ..Self::new(kind) }
    }

    /// The status of a page that shows it.
    pub fn status(&self) -> StatusCode {
        match &self.phase {
            EditPhase::Open | EditPhase::Checked { .. } => StatusCode::OK,
            EditPhase::Conflict { .. } => StatusCode::PRECONDITION_FAILED,
            EditPhase::Refused(problem) => {
                StatusCode::from_u16(problem.status).unwrap_or(StatusCode::UNPROCESSABLE_ENTITY)
            }
        }
    }

    /// What was typed.
    pub(super) fn read(form: &Form, name: &str) -> Self {
        let is_new = name.is_empty();
        let name = if is_new { form.get("name") } else { name }.to_owned();
        let etag = form.get("etag").to_owned();
        Self { name, is_new, text: form.text("document"), etag, phase: EditPhase::Open }
    }

    fn put(&self, kind: &DocumentKind, query: &str) -> Write {
        let path = format!("{}?{query}", kind.api_path(&self.name));
        Write::bytes(Method::PUT, path, "application/yaml", self.text.clone().into())
    }

    /// The document again, with what is wrong with it.
    fn refused(self, problem: Box<Problem>) -> Result<Sent, PageError> {
        if problem.status == 401 {
            return Err((*problem).into());
        }
        Ok(Sent::Again(Self { phase: EditPhase::Refused(problem), ..self }))
    }

    /// The document again: it has no name.
    pub(super) fn without_name(self, kind: &DocumentKind) -> Result<Sent, PageError> {
        self.refused(Box::new(without_name(kind)))
    }

    pub(super) async fn check(self, visitor: &Visitor, kind: &DocumentKind) -> Result<Sent, PageError> {
        let answer = match visitor.api.send(self.put(kind, "dry_run=true")).await {
            Ok(answer) => answer,
            Err(ApiError::Problem(problem)) => return self.refused(problem),
            Err(error) => return Err(error.into()),
        };
        let live = kind.live(&visitor.api, &self.name).await?;
        let is_stale = live.as_ref().map_or("", |live| &live.etag) != self.etag;
        let live = live.map_or_else(String::new, |live| live.text);
        let changes = changes(&live, &self.as_stored(kind, &live));
        let phase = EditPhase::Checked { changes, warnings: Written::read(answer)?.warnings, is_stale };
        Ok(Sent::Again(Self { phase, ..self }))
    }

    pub(super) async fn save(self, form: &Form, kind: &DocumentKind) -> Result<Sent, PageError> {
        let write = self.put(kind, WAIT).if_unchanged(&self.etag).once(form.once());
        match form.visitor.api.send(write).await {
            Ok(answer) => {
                note_saved(&form.visitor, kind, &self.name, answer)?;
                Ok(Sent::Done(Redirect::to(&kind.page_of(&self.name)).into_response()))
            }
            Err(ApiError::Problem(problem)) if problem.status == 412 => {
                self.conflict(&form.visitor, kind).await
            }
            Err(ApiError::Problem(problem)) => self.refused(problem),
            Err(error) => Err(error.into()),
        }
    }

    /// The document again, beside the one that somebody else has saved.
    async fn conflict(self, visitor: &Visitor, kind: &DocumentKind) -> Result<Sent, PageError> {
        let (theirs, etag) = match kind.live(&visitor.api, &self.name).await? {
            Some(Live { text, etag }) => (Some(text), etag),
            None => (None, String::new()),
        };
        let live = theirs.as_deref().unwrap_or_default();
        let stored = self.as_stored(kind, live);
        if theirs.is_some() && stored == live {
            // The form was sent twice, or both had the same in mind.
            visitor.note(format!("Saved: {} {}.", kind.noun, self.name));
            return Ok(Sent::Done(Redirect::to(&kind.page_of(&self.name)).into_response()));
        }
        let changes = changes(live, &stored);
        Ok(Sent::Again(Self { etag, phase: EditPhase::Conflict { theirs, changes }, ..self }))
    }

    /// What was typed as the API would show it: without comments, fields in its order, with the name that `live`
    /// has where it was left out. A text that is no YAML stays as it is.
    fn as_stored(&self, kind: &DocumentKind, live: &str) -> String {
        let Ok(mut typed) = yaml_serde::from_str::<Value>(&self.text) else { return self.text.clone() };
        let live: Value = yaml_serde::from_str(live).unwrap_or_default();
        for pointer in ["", "/metadata"] {
            let name = live.pointer(pointer).and_then(|fields| fields.get("name"));
            let fields = typed.pointer_mut(pointer).and_then(Value::as_object_mut);
            if let (Some(name), Some(fields)) = (name, fields) {
                fields.entry("name").or_insert_with(|| name.clone());
            }
        }
        kind.yaml(typed)
    }
}

fn without_name(kind: &DocumentKind) -> Problem {
    let detail = format!("Give the {} a name: {}.", kind.noun, kind.names);
    Problem {
        status: 422,
        code: "invalid_field".to_owned(),
        title: "There is no name".to_owned(),
        detail: String::new(),
        errors: vec![FieldError { pointer: None, parameter: Some("name".to_owned()), detail }],
    }
}

#[cfg(test)]
mod tests {
    use super::super::document_kind::Effect;
    use super::*;

    const KIND: DocumentKind = DocumentKind {
        collection: "things",
        command: "things",
        page: "/ui/things",
        noun: "thing",
        names: "letters",
        template: "a: 1\n",
        has_status: true,
        effect: Effect::InTables,
    };

    fn edit(text: &str) -> Edit {
        Edit { text: text.to_owned(), name: "team a/x".to_owned(), ..Edit::new(&KIND) }
    }

    #[test]
    fn a_name_keeps_its_namespace_in_paths() {
        assert_eq!(KIND.page_of("team a/x?"), "/ui/things/team%20a/x%3F");
        assert_eq!(KIND.api_path("x"), "things/x");
    }

    #[test]
    fn what_was_typed_is_compared_as_it_would_be_stored() {
        let live = "metadata:\n  name: x\nname: x\nspec: 1\n";
        let stored = edit("# mine\nspec: 2\nmetadata: {}\nstatus: ok\n").as_stored(&KIND, live);
        assert_eq!(stored, "metadata:\n  name: x\nname: x\nspec: 2\n");
        assert_eq!(edit("a: [").as_stored(&KIND, live), "a: [");
    }

    #[test]
    fn a_document_that_was_refused_has_the_status_of_its_problem() {
        let Ok(Sent::Again(refused)) = edit("").refused(Box::new(without_name(&KIND))) else { panic!() };
        assert_eq!(refused.status(), StatusCode::UNPROCESSABLE_ENTITY);
        assert!(edit("").refused(Box::new(Problem { status: 401, ..without_name(&KIND) })).is_err());
    }
}
