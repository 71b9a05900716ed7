//! What the API answers to a write of a document, and what is said of it on the next page.

use serde::Deserialize;
use serde_json::Value;

use super::document_kind::{DocumentKind, Effect};
use crate::api::ApiError;
use crate::error::PageError;
use crate::visitor::Visitor;

/// How long a write waits for the gateways; after that the notice says how many have it by then.
pub(super) const WAIT: &str = "wait_applied=1s";

/// The API's answer to a write.
#[derive(Deserialize)]
pub(super) struct Written {
    #[serde(default)]
    pub warnings: Vec<String>,
    applied: Option<Applied>,
}

#[derive(Deserialize)]
struct Applied {
    gateways: u64,
    of: u64,
}

impl Written {
    pub(super) fn read(answer: Value) -> Result<Self, PageError> {
        serde_json::from_value(answer).map_err(|error| ApiError::Form(error.to_string()).into())
    }

    /// How many gateways have it; empty: there is none, or it is not known.
    fn enforced(&self) -> String {
        match self.applied {
            Some(Applied { of: 0, .. }) | None => String::new(),
            Some(Applied { gateways, of }) => format!(" {gateways} of {of} gateways have it."),
        }
    }
}

/// Says on the next page that a document was saved, what that does, and what was probably not intended.
pub(super) fn note_saved(
    visitor: &Visitor,
    kind: &DocumentKind,
    name: &str,
    answer: Value,
) -> Result<(), PageError> {
    let written = Written::read(answer)?;
    let effect = match kind.effect {
        Effect::InTables => written.enforced(),
        Effect::Later(words) => format!(" {words}"),
    };
    note(visitor, &format!("Saved: {} {name}.{effect}", kind.noun), written);
    Ok(())
}

/// Says on the next page that a document was removed, and how many gateways know.
pub(super) fn note_removed(
    visitor: &Visitor,
    kind: &DocumentKind,
    name: &str,
    answer: Value,
) -> Result<(), PageError> {
    let written = Written::read(answer)?;
    let enforced = match kind.effect {
        Effect::InTables => written.enforced().replace("have it", "know"),
        Effect::Later(_) => String::new(),
    };
    note(visitor, &format!("Removed: {} {name}.{enforced}", kind.noun), written);
    Ok(())
}

fn note(visitor: &Visitor, done: &str, written: Written) {
    visitor.note(done);
    for warning in written.warnings {
        visitor.note(format!("Warning: {warning}"));
    }
}
