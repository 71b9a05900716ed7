//! State shared by the readers of a rule: errors so far, regexes compiled so far.

use std::collections::BTreeMap;

use super::super::names::is_label;
use super::super::pattern::Regex;
use super::super::reader::{DocumentErrors, DocumentNode};

/// The API group of Tidegate's own kinds.
pub(super) const GROUP: &str = "tidegate.dev";

/// What a list of filters belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum FilterOwner {
    Rule,
    Backend,
}

/// Reads the rules of one document.
pub(super) struct RuleReader<'p> {
    pub(super) errors: &'p mut DocumentErrors,
    pub(super) regexes: BTreeMap<String, Regex>,
    pub(super) automata_bytes: usize,
    pub(super) bad_regexes: usize,
}

impl<'p> RuleReader<'p> {
    pub fn new(errors: &'p mut DocumentErrors) -> Self {
        Self { errors, regexes: BTreeMap::new(), automata_bytes: 0, bad_regexes: 0 }
    }
}

/// A namespace, as Kubernetes has them.
pub(super) fn namespace(node: &DocumentNode<'_>, errors: &mut DocumentErrors) -> Option<String> {
    let name = node.text(1, 63, errors)?;
    if !is_label(name) {
        node.note(errors, "invalid", "must be of a-z, 0-9 and -, and begin and end with a letter or digit");
    }
    Some(name.to_owned())
}
