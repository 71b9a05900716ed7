//! The fields that say that a document is in shadow.

use serde_json::Value;

/// A document with `shadow: true`, without that; `None`: it is not in shadow.
pub fn without_shadow(mut document: Value) -> Option<Value> {
    let was = document.as_object_mut()?.remove("shadow")?;
    (was == true).then_some(document)
}

/// A document with `mode: shadow`, with `mode: enforce`; `None`: it is not in shadow.
pub fn with_mode_enforce(mut document: Value) -> Option<Value> {
    let mode = document.get_mut("mode").filter(|mode| *mode == "shadow")?;
    *mode = "enforce".into();
    Some(document)
}
