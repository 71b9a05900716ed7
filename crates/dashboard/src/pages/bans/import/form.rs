//! The form that sends a list.

use maud::{Markup, html};

use super::super::urls::IMPORT;
use crate::api::{Problem, encoded};
use crate::file_form::{SHOWN_AGAIN, SentFile};
use crate::form::hidden_fields;
use crate::page::{command_of_form, field_problem, marks};
use crate::session::{MAX_LIST, NoRandomBytes};
use crate::show::number::bytes;
use crate::show::shell::shell_word;
use crate::visitor::Visitor;

/// Formats that can be named: as in the API, and in words.
const FORMATS: [(&str, &str); 6] = [
    ("", "as its content tells"),
    ("plain", "plain: an entry to a line"),
    ("ipsum", "IPsum: address and score"),
    ("csv", "CSV"),
    ("json", "JSON"),
    ("jsonl", "JSON lines"),
];

/// What is filled in, besides the list.
#[derive(Default, Clone)]
pub struct ImportForm {
    pub source: String,
    pub mode: String,
    pub format: String,
    pub ttl: String,
    pub reason: String,
    pub min_score: String,
    pub shadow: bool,
    pub force: bool,
    /// A list that was pasted.
    pub pasted: String,
}

impl ImportForm {
    /// What was sent.
    pub fn read(sent: &SentFile) -> Self {
        let pasted = String::from_utf8_lossy(&sent.pasted).into_owned();
        let mut form = Self { pasted, ..Self::default() };
        for (name, value) in &sent.fields {
            form.set(name, value);
        }
        form
    }

    /// Takes a field of the form.
    fn set(&mut self, name: &str, value: &str) {
        let value = value.trim().to_owned();
        match name {
            "source" => self.source = value,
            "mode" => self.mode = value,
            "format" => self.format = value,
            "ttl" => self.ttl = value,
            "reason" => self.reason = value,
            "min_score" => self.min_score = value,
            "shadow" => self.shadow = true,
            "force" => self.force = true,
            _ => {}
        }
    }

    fn fields(&self) -> [(&'static str, &str); 8] {
        let flag = |is_set: bool| if is_set { "true" } else { "" };
        [
            ("source", &self.source),
            ("mode", &self.mode),
            ("format", &self.format),
            ("ttl", &self.ttl),
            ("reason", &self.reason),
            ("min_score", &self.min_score),
            ("shadow", flag(self.shadow)),
            ("force", flag(self.force)),
        ]
    }

    /// The API's query, with `&` at its end.
    pub fn query(&self) -> String {
        let fields = self.fields().into_iter().filter(|(_, value)| !value.is_empty());
        fields.map(|(name, value)| format!("{name}={}&", encoded(value))).collect()
    }

    /// The form, with what was wrong with it.
    ///
    /// # Errors
    /// When the operating system gives no random bytes.
    pub fn show(&self, visitor: &Visitor, problem: Option<&Problem>) -> Result<Markup, NoRandomBytes> {
        Ok(html! {
            form #import-form.stacked method="post" action=(IMPORT) enctype="multipart/form-data" {
                // First, for what follows is read only if they are right.
                (hidden_fields(visitor)?)
                (self.settings(problem))
                (self.list(problem))
                @if problem.is_some_and(|problem| problem.code == "list_refused") {
                    label.inline {
                        input #import-force type="checkbox" name="force" value="1" data-words="--force";
                        " Take protected networks and allowed addresses too, and a list without an entry"
                    }
                }
                button.primary type="submit" { "Check what it would change" }
                p.quiet { "Nothing is banned yet: the next page says what would be, and has the button that does it." }
            }
            p.quiet {
                "Up to " (bytes(MAX_LIST as u64)) " here. Larger lists, up to 256 MiB, take the command line:"
            }
            (command_of_form("import-form", "tidegate bans import --dry-run", &self.command()))
        })
    }

    /// The command that checks the same.
    fn command(&self) -> String {
        command_of(&self.query(), "").replacen("import", "import --dry-run", 1)
    }

    fn settings(&self, problem: Option<&Problem>) -> Markup {
        let field = |name: &str, label: &str, value: &str, hint: &str| {
            let (id, wrong) = (format!("import-{name}"), problem.and_then(|problem| problem.of_field(name)));
            let marks = marks(&id, wrong);
            html! {
                div {
                    label for=(id) { (label) }
                    input id=(id) name=(name) value=(value) placeholder=(hint) data-option={ "--" (name.replace('_', "-")) } autocomplete="off" spellcheck="false"
                        aria-invalid=[marks.invalid] aria-describedby=[marks.described_by];
                    (field_problem(&id, wrong))
                }
            }
        };
        let mode_wrong = problem.and_then(|problem| problem.of_field("mode"));
        html! {
            div.fields {
                (field("source", "Source", &self.source, "whose list it is: drop"))
                div {
                    label for="import-mode" { "Bans of the source that the list does not have" }
                    select #import-mode name="mode" {
                        option value="add" { "stay" }
                        option value="replace" data-words="--replace" selected[self.mode == "replace"] { "are removed" }
                    }
                    (field_problem("import-mode", mode_wrong))
                }
                (field("ttl", "For how long", &self.ttl, "for ever; or 2d, 12h"))
                (field("reason", "Reason", &self.reason, "on the drop list"))
            }
            p.quiet { "For how long and why: where an entry does not say its own." }
            div.fields {
                div {
                    label for="import-format" { "Format" }
                    select #import-format name="format" {
                        @for (format, words) in FORMATS {
                            option value=(format) selected[format == self.format]
                                data-words=[(!format.is_empty()).then(|| format!("--format {format}"))] { (words) }
                        }
                    }
                }
                (field("min_score", "Lowest score", &self.min_score, "all"))
            }
            label.inline {
                input type="checkbox" name="shadow" value="1" data-words="--shadow" checked[self.shadow];
                " Only record what the bans would deny (shadow)"
            }
        }
    }

    fn list(&self, problem: Option<&Problem>) -> Markup {
        let wrong = problem.and_then(|problem| problem.of_field("list"));
        let marks = marks("import-list", wrong);
        let is_short = self.pasted.len() <= SHOWN_AGAIN;
        html! {
            div {
                label for="import-file" { "A file" }
                div { input #import-file type="file" name="file" data-word="FILE"; }
                p.quiet { "Also packed with gzip." }
            }
            div {
                label for="import-list" { "Or paste the list" }
                textarea #import-list.code name="list" rows="8" spellcheck="false"
                    placeholder="203.0.113.7\n198.51.100.0/24 # scanner"
                    aria-invalid=[marks.invalid] aria-describedby=[marks.described_by] {
                    // The first line end of a text area is not of its content.
                    "\n" @if is_short { (self.pasted) }
                }
                (field_problem("import-list", wrong))
            }
        }
    }
}

/// The command that imports a file with the fields of this query.
pub fn command_of(query: &str, file: &str) -> String {
    let file = if file.is_empty() { "FILE" } else { file };
    let mut text = format!("tidegate bans import {}", shell_word(file));
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let option = match (&*name, &*value) {
            ("mode", "replace") => "--replace".to_owned(),
            ("shadow" | "force", _) => format!("--{name}"),
            ("min_score", value) => format!("--min-score {}", shell_word(value)),
            ("source" | "format" | "ttl" | "reason", value) => format!("--{name} {}", shell_word(value)),
            _ => continue,
        };
        text = format!("{text} {option}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_those_of_the_api_and_the_command() {
        let mut form = ImportForm::default();
        for (name, value) in [
            ("source", " drop "),
            ("mode", "replace"),
            ("reason", "a & b"),
            ("min_score", "3"),
            ("shadow", "1"),
            ("other", "x"),
        ] {
            form.set(name, value);
        }
        assert_eq!(form.query(), "source=drop&mode=replace&reason=a%20%26%20b&min_score=3&shadow=true&");
        assert_eq!(
            command_of(&form.query(), "my list.txt"),
            "tidegate bans import 'my list.txt' --source drop --replace --reason 'a & b' --min-score 3 --shadow"
        );
        assert_eq!(command_of("", ""), "tidegate bans import FILE");
    }
}
