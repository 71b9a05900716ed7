//! Plans in the editor.

use crate::editor::{DocumentKind, Effect};

/// The page of all rollouts.
pub const PATH: &str = "/ui/rollouts";

/// Rollouts in the editor. A new one begins with the text of a plan that Tidegate has.
pub const ROLLOUTS: DocumentKind = DocumentKind {
    collection: "rollouts",
    command: "rollout",
    page: PATH,
    noun: "rollout",
    names: "guide; letters a to z, digits, - and .",
    template: "",
    has_status: true,
    effect: Effect::Later("It does nothing until it is started."),
};
