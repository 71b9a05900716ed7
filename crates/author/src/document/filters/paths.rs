//! `RequestRedirect` and `URLRewrite`.

use super::super::super::Match;
use super::super::super::names::{hostname_problem, path_problem};
use super::super::super::reader::{Object, Place};
use super::super::rule::Reader;
use super::only_prefix;
use tidegate_policy::route::action::{PathEdit, Redirect, Rewrite};

impl Reader<'_> {
    pub(super) fn redirect(&mut self, place: &Place<'_>, matches: &[Match]) -> Option<Redirect> {
        let known = &["scheme", "hostname", "path", "port", "statusCode"];
        let fields = place.object(known, self.problems)?;
        let scheme = fields.get("scheme").and_then(|place| place.one_of(&["http", "https"], self.problems));
        let hostname = fields.get("hostname").and_then(|place| self.precise_hostname(&place));
        let path = fields.get("path").and_then(|place| self.path_edit(&place, matches));
        let port = fields.get("port").and_then(|place| place.integer(1, 65_535, self.problems));
        let status = match fields.get("statusCode") {
            Some(place) => {
                let status = place.integer(300, 399, self.problems)?;
                if ![301, 302, 303, 307, 308].contains(&status) {
                    place.note(self.problems, "invalid", "must be 301, 302, 303, 307 or 308");
                }
                u16::try_from(status).ok()?
            }
            None => 302,
        };
        let port = port.and_then(|port| u16::try_from(port).ok());
        Some(Redirect { https: scheme.map(|scheme| scheme == "https"), hostname, path, port, status })
    }

    pub(super) fn rewrite(&mut self, place: &Place<'_>, matches: &[Match]) -> Option<Rewrite> {
        let fields = place.object(&["hostname", "path"], self.problems)?;
        let hostname = fields.get("hostname").and_then(|place| self.precise_hostname(&place));
        let path = fields.get("path").and_then(|place| self.path_edit(&place, matches));
        Some(Rewrite { hostname, path })
    }

    fn precise_hostname(&mut self, place: &Place<'_>) -> Option<String> {
        let name = place.text(1, 253, self.problems)?;
        let wildcard = name.starts_with('*').then_some("must be a whole hostname, without *");
        if let Some(problem) = wildcard.or_else(|| hostname_problem(name)) {
            place.note(self.problems, "invalid", problem);
            return None;
        }
        Some(name.to_owned())
    }

    fn path_edit(&mut self, place: &Place<'_>, matches: &[Match]) -> Option<PathEdit> {
        let known = &["type", "replaceFullPath", "replacePrefixMatch"];
        let fields = place.object(known, self.problems)?;
        let kinds = &["ReplaceFullPath", "ReplacePrefixMatch"];
        let kind = fields.require("type", self.problems)?.one_of(kinds, self.problems)?;
        let (wanted, other) = match kind {
            "ReplaceFullPath" => ("replaceFullPath", "replacePrefixMatch"),
            _ => ("replacePrefixMatch", "replaceFullPath"),
        };
        if let Some(place) = fields.get(other) {
            place.note(self.problems, "conflict", format!("with type {kind} give {wanted} only"));
        }
        let with = self.replacement(&fields, wanted)?;
        if kind == "ReplaceFullPath" {
            return Some(PathEdit::Full(with));
        }
        let Some(matched) = only_prefix(matches) else {
            let says = "ReplacePrefixMatch needs a rule with exactly one match, on a PathPrefix";
            place.note(self.problems, "conflict", says);
            return None;
        };
        Some(PathEdit::Prefix { matched: matched.to_owned(), with })
    }

    /// The new path, or part of one. An empty one is `/`.
    fn replacement(&mut self, fields: &Object<'_>, field: &str) -> Option<String> {
        let place = fields.require(field, self.problems)?;
        let text = place.text(0, 1024, self.problems)?;
        if let Some(problem) = path_problem(text).filter(|_| !text.is_empty()) {
            place.note(self.problems, "invalid", problem);
            return None;
        }
        Some(text.to_owned())
    }
}
