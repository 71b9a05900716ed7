//! `RequestHeaderModifier` and `ResponseHeaderModifier`.

use std::collections::BTreeSet;

use super::super::super::names::is_token;
use super::super::super::reader::{DocumentErrors, DocumentNode};
use super::super::rule_reader::RuleReader;
use tidegate_policy::route::action::{HeaderEdits, MAX_EDITS, is_editable, is_value};

impl RuleReader<'_> {
    pub(super) fn header_edits(&mut self, node: &DocumentNode<'_>) -> HeaderEdits {
        let mut edits = HeaderEdits::default();
        let Some(fields) = node.object(&["set", "add", "remove"], self.errors) else { return edits };
        let mut names = BTreeSet::new();
        for (field, into) in [("set", &mut edits.set), ("add", &mut edits.add)] {
            let list = fields.get(field).map(|list| list.list(MAX_EDITS, self.errors));
            for node in list.unwrap_or_default() {
                into.extend(line(&node, &mut names, self.errors));
            }
        }
        let list = fields.get("remove").map(|list| list.list(MAX_EDITS, self.errors));
        for node in list.unwrap_or_default() {
            edits.remove.extend(name(&node, &mut names, self.errors));
        }
        edits
    }
}

fn line(
    node: &DocumentNode<'_>,
    names: &mut BTreeSet<String>,
    errors: &mut DocumentErrors,
) -> Option<(String, String)> {
    let fields = node.object(&["name", "value"], errors)?;
    let name = fields.require("name", errors).and_then(|node| name(&node, names, errors));
    let node = fields.require("value", errors)?;
    let value = node.text(1, 4096, errors)?;
    if !is_value(value) {
        let says = "must not have line breaks, other control characters, or spaces at its ends";
        node.note(errors, "invalid", says);
        return None;
    }
    Some((name?, value.to_owned()))
}

/// A name in lower case, which the list has only once.
fn name(
    node: &DocumentNode<'_>,
    names: &mut BTreeSet<String>,
    errors: &mut DocumentErrors,
) -> Option<String> {
    let text = node.text(1, 256, errors)?;
    let name = text.to_ascii_lowercase();
    if !is_token(text) {
        node.note(errors, "invalid", "must be letters, digits and !#$%&'*+-.^_`|~ only");
    } else if name == "host" {
        node.note(errors, "reserved", "the host is changed by URLRewrite's hostname only");
    } else if !is_editable(&name) {
        let says = "a route cannot change this header: it frames the message, tells of the gates that the request \
                    has passed, or is between the gate and Envoy";
        node.note(errors, "reserved", says);
    } else if names.insert(name.clone()) {
        return Some(name);
    } else {
        node.note(
            errors,
            "conflict",
            "the modifier names this header already: only one change of a header may be",
        );
    }
    None
}
