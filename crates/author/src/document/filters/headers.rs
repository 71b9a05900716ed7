//! `RequestHeaderModifier` and `ResponseHeaderModifier`.

use std::collections::BTreeSet;

use super::super::super::names::is_token;
use super::super::super::reader::{Place, Problems};
use super::super::rule::Reader;
use tidegate_policy::route::action::{HeaderEdits, MAX_EDITS, is_editable, is_value};

impl Reader<'_> {
    pub(super) fn header_edits(&mut self, place: &Place<'_>) -> HeaderEdits {
        let mut edits = HeaderEdits::default();
        let Some(fields) = place.object(&["set", "add", "remove"], self.problems) else { return edits };
        let mut names = BTreeSet::new();
        for (field, into) in [("set", &mut edits.set), ("add", &mut edits.add)] {
            let list = fields.get(field).map(|list| list.list(MAX_EDITS, self.problems));
            for place in list.unwrap_or_default() {
                into.extend(line(&place, &mut names, self.problems));
            }
        }
        let list = fields.get("remove").map(|list| list.list(MAX_EDITS, self.problems));
        for place in list.unwrap_or_default() {
            edits.remove.extend(name(&place, &mut names, self.problems));
        }
        edits
    }
}

fn line(
    place: &Place<'_>,
    names: &mut BTreeSet<String>,
    problems: &mut Problems,
) -> Option<(String, String)> {
    let fields = place.object(&["name", "value"], problems)?;
    let name = fields.require("name", problems).and_then(|place| name(&place, names, problems));
    let place = fields.require("value", problems)?;
    let value = place.text(1, 4096, problems)?;
    if !is_value(value) {
        let says = "must not have line breaks, other control characters, or spaces at its ends";
        place.note(problems, "invalid", says);
        return None;
    }
    Some((name?, value.to_owned()))
}

/// A name in lower case, of which the modifier says one thing only.
fn name(place: &Place<'_>, names: &mut BTreeSet<String>, problems: &mut Problems) -> Option<String> {
    let text = place.text(1, 256, problems)?;
    let name = text.to_ascii_lowercase();
    if !is_token(text) {
        place.note(problems, "invalid", "must be letters, digits and !#$%&'*+-.^_`|~ only");
    } else if name == "host" {
        place.note(problems, "reserved", "the host is changed by URLRewrite's hostname only");
    } else if !is_editable(&name) {
        let says =
            "a route cannot change this header: it frames the message, or is between the gate and Envoy";
        place.note(problems, "reserved", says);
    } else if names.insert(name.clone()) {
        return Some(name);
    } else {
        place.note(
            problems,
            "conflict",
            "the modifier names this header already: only one change of a header may be",
        );
    }
    None
}
