//! `RequestRedirect` and `URLRewrite`.

use super::super::super::Match;
use super::super::super::names::{hostname_problem, path_problem};
use super::super::super::reader::{DocumentNode, Object};
use super::super::rule_reader::RuleReader;
use super::only_prefix;
use tidegate_policy::route::action::{PathEdit, Redirect, Rewrite};

impl RuleReader<'_> {
    pub(super) fn redirect(&mut self, node: &DocumentNode<'_>, matches: &[Match]) -> Option<Redirect> {
        let known = &["scheme", "hostname", "path", "port", "statusCode"];
        let fields = node.object(known, self.errors)?;
        let scheme = fields.get("scheme").and_then(|node| node.one_of(&["http", "https"], self.errors));
        let hostname = fields.get("hostname").and_then(|node| self.precise_hostname(&node));
        let path = fields.get("path").and_then(|node| self.path_edit(&node, matches));
        let port = fields.get("port").and_then(|node| node.integer(1, 65_535, self.errors));
        let status = match fields.get("statusCode") {
            Some(node) => {
                let status = node.integer(300, 399, self.errors)?;
                if ![301, 302, 303, 307, 308].contains(&status) {
                    node.note(self.errors, "invalid", "must be 301, 302, 303, 307 or 308");
                }
                u16::try_from(status).ok()?
            }
            None => 302,
        };
        let port = port.and_then(|port| u16::try_from(port).ok());
        Some(Redirect { https: scheme.map(|scheme| scheme == "https"), hostname, path, port, status })
    }

    pub(super) fn rewrite(&mut self, node: &DocumentNode<'_>, matches: &[Match]) -> Option<Rewrite> {
        let fields = node.object(&["hostname", "path"], self.errors)?;
        let hostname = fields.get("hostname").and_then(|node| self.precise_hostname(&node));
        let path = fields.get("path").and_then(|node| self.path_edit(&node, matches));
        Some(Rewrite { hostname, path })
    }

    fn precise_hostname(&mut self, node: &DocumentNode<'_>) -> Option<String> {
        let name = node.text(1, 253, self.errors)?;
        let wildcard = name.starts_with('*').then_some("must be a whole hostname, without *");
        if let Some(problem) = wildcard.or_else(|| hostname_problem(name)) {
            node.note(self.errors, "invalid", problem);
            return None;
        }
        Some(name.to_owned())
    }

    fn path_edit(&mut self, node: &DocumentNode<'_>, matches: &[Match]) -> Option<PathEdit> {
        let known = &["type", "replaceFullPath", "replacePrefixMatch"];
        let fields = node.object(known, self.errors)?;
        let kinds = &["ReplaceFullPath", "ReplacePrefixMatch"];
        let kind = fields.require("type", self.errors)?.one_of(kinds, self.errors)?;
        let (wanted, other) = match kind {
            "ReplaceFullPath" => ("replaceFullPath", "replacePrefixMatch"),
            _ => ("replacePrefixMatch", "replaceFullPath"),
        };
        if let Some(node) = fields.get(other) {
            node.note(self.errors, "conflict", format!("with type {kind} give {wanted} only"));
        }
        let with = self.replacement(&fields, wanted)?;
        if kind == "ReplaceFullPath" {
            return Some(PathEdit::Full(with));
        }
        let Some(matched) = only_prefix(matches) else {
            let says = "ReplacePrefixMatch needs a rule with exactly one match, on a PathPrefix";
            node.note(self.errors, "conflict", says);
            return None;
        };
        Some(PathEdit::Prefix { matched: matched.to_owned(), with })
    }

    /// The new path or prefix. An empty one is `/`.
    fn replacement(&mut self, fields: &Object<'_>, field: &str) -> Option<String> {
        let node = fields.require(field, self.errors)?;
        let text = node.text(0, 1024, self.errors)?;
        if let Some(problem) = path_problem(text).filter(|_| !text.is_empty()) {
            node.note(self.errors, "invalid", problem);
            return None;
        }
        Some(text.to_owned())
    }
}
