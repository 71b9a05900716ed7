//! The editor on its page.

use std::collections::BTreeSet;

use maud::{Markup, html};
use tidegate_author::lines::line_of;

use super::difference::{self, LineChange};
use super::document_kind::DocumentKind;
use super::edit::{Edit, EditPhase};
use crate::api::Problem;
use crate::form::hidden_fields;
use crate::page::command;
use crate::role::Role;
use crate::session::NoRandomBytes;
use crate::show::sentence::sentence;
use crate::show::shell::shell_word;
use crate::show::text::visible;
use crate::visitor::Visitor;

/// How problems call the name of a document.
const NAME_FIELDS: [&str; 3] = ["name", "/name", "/metadata/name"];

/// Something that is wrong, where it is known to stand.
#[derive(Debug, PartialEq, Eq)]
struct Fault<'a> {
    /// From 1.
    line: Option<usize>,
    /// JSON pointer, or the name of a field of the form.
    field: &'a str,
    detail: &'a str,
}

impl Edit {
    /// The editor, with what was found last above it.
    ///
    /// # Errors
    /// When the operating system gives no random bytes.
    pub fn show(&self, visitor: &Visitor, kind: &DocumentKind) -> Result<Markup, NoRandomBytes> {
        let may_write = visitor.may(Role::Admin);
        Ok(html! {
            section.card aria-labelledby="editor-heading" {
                h2 #editor-heading { "The document" }
                (self.outcome(kind))
                @if may_write {
                    form method="post" action=(self.address(kind)) {
                        (hidden_fields(visitor)?)
                        input type="hidden" name="etag" value=(self.etag);
                        @if self.is_new { (self.name_field(kind)) }
                        (self.text_field(false))
                        (self.buttons(kind))
                    }
                } @else {
                    (self.text_field(true))
                    p.quiet { "Your token may read it. Changing it needs one of the role admin." }
                }
                (self.command(kind, may_write))
            }
        })
    }

    fn address(&self, kind: &DocumentKind) -> String {
        if self.is_new { kind.page.to_owned() } else { kind.page_of(&self.name) }
    }

    fn faults(&self) -> Vec<Fault<'_>> {
        match &self.phase {
            EditPhase::Refused(problem) => faults(&self.text, problem, self.is_new),
            _ => Vec::new(),
        }
    }

    fn outcome(&self, kind: &DocumentKind) -> Markup {
        match &self.phase {
            EditPhase::Open => Markup::default(),
            EditPhase::Checked { changes, warnings, is_stale } => checked(changes, warnings, *is_stale),
            EditPhase::Refused(problem) => refused(problem, &self.faults()),
            EditPhase::Conflict { theirs, changes } => {
                conflict(self.is_new, theirs.as_deref(), changes, &kind.page_of(&self.name))
            }
        }
    }

    fn name_field(&self, kind: &DocumentKind) -> Markup {
        let faults = self.faults();
        let wrong = faults.iter().find(|fault| NAME_FIELDS.contains(&fault.field));
        html! {
            div.fields {
                div {
                    label for="name" { "Name" }
                    input #name name="name" value=(self.name) required autocomplete="off"
                        aria-invalid=[wrong.map(|_| "true")] aria-describedby="name-help";
                    p.quiet #name-help {
                        @match wrong {
                            Some(fault) => span.field-problem { (sentence(fault.detail)) },
                            None => (kind.names),
                        }
                    }
                }
            }
        }
    }

    fn text_field(&self, read_only: bool) -> Markup {
        let lines = self.text.split('\n').count();
        let faults = self.faults();
        let wrong: BTreeSet<usize> = faults.iter().filter_map(|fault| fault.line).collect();
        html! {
            label for="document" { "YAML" }
            div.editor data-editor {
                pre aria-hidden="true" {
                    @for line in 1..=lines {
                        span class=[wrong.contains(&line).then_some("wrong")] { (line) }
                    }
                }
                textarea.code #document name="document" rows=(lines + 1) wrap="off" dir="ltr" spellcheck="false"
                    autocapitalize="off" autocomplete="off" readonly[read_only]
                    aria-invalid=[(!faults.is_empty()).then_some("true")]
                    aria-describedby=[(!faults.is_empty()).then_some("document-problem")] {
                    // A parser of HTML drops the first line end.
                    "\n" (self.text)
                }
            }
        }
    }

    fn buttons(&self, kind: &DocumentKind) -> Markup {
        let save = match (&self.phase, self.is_new) {
            (EditPhase::Conflict { theirs: Some(_), .. }, _) => "Save mine over it",
            (EditPhase::Conflict { theirs: None, .. }, _) => "Make it again",
            (_, true) => "Make it",
            _ => "Save",
        };
        html! {
            div.actions {
                button type="submit" name="action" value="check" { "Check" }
                button.primary type="submit" name="action" value="save" { (save) }
                @if !self.is_new {
                    a.button.danger href={ (kind.page_of(&self.name)) "?remove=1" } { "Remove…" }
                }
                span.quiet { "Checking changes nothing. Comments are not stored." }
            }
        }
    }

    fn command(&self, kind: &DocumentKind, may_write: bool) -> Markup {
        let verb = if may_write { "edit" } else { "get" };
        command(&match self.is_new {
            true => format!("tidegate {} apply -f {}.yaml", kind.command, kind.noun.replace(' ', "-")),
            false => format!("tidegate {} {verb} {}", kind.command, shell_word(&self.name)),
        })
    }
}

/// A form that leads to the document of a name.
pub fn jump(kind: &DocumentKind) -> Markup {
    html! {
        form.actions method="get" action=(kind.page) {
            label for="go-to" { "Go to" }
            input #go-to name="name" placeholder="name" autocomplete="off";
            button type="submit" { "Open" }
        }
    }
}

fn checked(changes: &[LineChange], warnings: &[String], is_stale: bool) -> Markup {
    html! {
        div.notice role="status" {
            p { strong { "It can be saved." } }
            @if changes.is_empty() { p { "It says what the live one says: saving changes nothing." } }
        }
        @if is_stale {
            div.finding.warning {
                p { "Somebody else has changed the live document since you opened it. The difference is to theirs; saving shows both." }
            }
        }
        @for warning in warnings { div.finding.warning { p { strong { "Warning: " } (sentence(warning)) } } }
        @if !changes.is_empty() {
            h3 { "What saving changes" }
            (difference::show(changes, "Difference to the live document"))
        }
    }
}

fn refused(problem: &Problem, faults: &[Fault<'_>]) -> Markup {
    html! {
        div.problem #document-problem role="alert" {
            p { strong { (problem.title) } }
            @if faults.is_empty() && !problem.detail.is_empty() { p { (sentence(&problem.detail)) } }
            ul {
                @for fault in faults {
                    li {
                        @if let Some(line) = fault.line { strong { "Line " (line) } ": " }
                        @if !fault.field.is_empty() { code { (visible(fault.field)) } " " }
                        (sentence(fault.detail))
                    }
                }
            }
            p.quiet { "Nothing was saved. Code: " code { (problem.code) } }
        }
    }
}

fn conflict(is_new: bool, theirs: Option<&str>, changes: &[LineChange], page: &str) -> Markup {
    html! {
        div.problem role="alert" {
            @match theirs {
                Some(_) if is_new => {
                    p { strong { "There is one of this name already." } }
                    p {
                        "Nothing was saved. Below are the live one, the difference, and yours in the editor: save yours over it, give yours \
                         another name, or " a href=(page) { "open the live one" } ", which drops what you typed."
                    }
                }
                Some(_) => {
                    p { strong { "Somebody else has saved it meanwhile." } }
                    p {
                        "Nothing of yours was saved. Below are theirs, the difference, and yours in the editor: save yours over \
                         theirs, or " a href=(page) { "take theirs" } ", which drops what you typed."
                    }
                }
                None => {
                    p { strong { "Somebody else has removed it meanwhile." } }
                    p { "Nothing was saved. Yours is in the editor; it can be made again." }
                }
            }
        }
        @if let Some(theirs) = theirs {
            details open {
                summary { "The live document" }
                pre.diff #theirs tabindex="0" role="group" aria-label="The live document" {
                    @for line in theirs.lines() { (visible(line)) "\n" }
                }
            }
            h3 { "What saving yours changes of theirs" }
            @if changes.is_empty() { p.empty { "Nothing: both say the same." } }
            @else { (difference::show(changes, "Difference to the live document")) }
        }
    }
}

/// What is wrong with a text, in the order of its lines. `is_new`: its name is a field of its own.
fn faults<'a>(text: &str, problem: &'a Problem, is_new: bool) -> Vec<Fault<'a>> {
    let is_in_text = |pointer: &str| !(pointer.is_empty() || is_new && NAME_FIELDS.contains(&pointer));
    let mut faults: Vec<Fault<'a>> = problem
        .errors
        .iter()
        .map(|error| match (&error.pointer, &error.parameter) {
            (Some(pointer), _) => {
                let line = Some(pointer).filter(|pointer| is_in_text(pointer));
                let line = line.and_then(|pointer| line_of(text.as_bytes(), 0, pointer));
                Fault { line, field: pointer, detail: &error.detail }
            }
            (None, parameter) => {
                Fault { line: None, field: parameter.as_deref().unwrap_or_default(), detail: &error.detail }
            }
        })
        .collect();
    if faults.is_empty() && problem.code == "invalid_yaml" {
        faults.push(Fault { line: line_in(&problem.detail), field: "", detail: &problem.detail });
    }
    faults.sort_by_key(|fault| fault.line);
    faults
}

/// The line that the message of a YAML reader names.
fn line_in(message: &str) -> Option<usize> {
    let (_, rest) = message.split_once("line ")?;
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::super::document_kind::Effect;
    use super::*;
    use crate::api::FieldError;

    fn problem(code: &str, detail: &str, pointers: &[&str]) -> Problem {
        let error = |pointer: &&str| FieldError {
            pointer: Some((*pointer).to_owned()),
            parameter: None,
            detail: "wrong".to_owned(),
        };
        let errors = pointers.iter().map(error).collect();
        Problem {
            status: 422,
            code: code.to_owned(),
            title: "t".to_owned(),
            detail: detail.to_owned(),
            errors,
        }
    }

    #[test]
    fn what_is_wrong_is_found_by_its_line() {
        let text = "spec:\n  rules:\n  - matches: []\n  - {filters: [1]}\n";
        let problem = problem("invalid_field", "", &["/spec/rules/1/filters/0", "/spec/rules/0/matches", ""]);
        let found: Vec<_> = faults(text, &problem, false).iter().map(|fault| fault.line).collect();
        assert_eq!(found, [None, Some(3), Some(4)]);
    }

    #[test]
    fn what_is_no_yaml_is_found_by_the_readers_message() {
        let error = yaml_serde::from_str::<serde_json::Value>("a: 1\nb: [\nc: 2\n").unwrap_err().to_string();
        let problem = problem("invalid_yaml", &error, &[]);
        let found = faults("", &problem, false);
        assert!(found[0].line.is_some_and(|line| line > 1), "{error}");
    }

    #[test]
    fn lines_have_numbers_and_wrong_ones_are_marked() {
        const KIND: DocumentKind = DocumentKind {
            collection: "things",
            command: "things",
            page: "/ui/things",
            noun: "thing",
            names: "letters",
            template: "a: 1\nb: </textarea>\n",
            has_status: false,
            effect: Effect::InTables,
        };
        let edit = Edit {
            phase: EditPhase::Refused(Box::new(problem("invalid_field", "", &["/b"]))),
            ..Edit::new(&KIND)
        };
        let shown = edit.text_field(false).into_string();
        assert!(shown.contains("<span>1</span><span class=\"wrong\">2</span><span>3</span>"), "{shown}");
        assert!(shown.contains(">\na: 1\nb: &lt;/textarea&gt;\n</textarea>"), "{shown}");
        assert!(shown.contains("aria-describedby=\"document-problem\""), "{shown}");
    }
}
