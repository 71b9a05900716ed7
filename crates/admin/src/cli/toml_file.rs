//! Files in TOML.

use std::path::Path;

use anyhow::anyhow;
use serde::de::DeserializeOwned;

/// What `text`, the content of the file at `path`, says.
///
/// # Errors
/// When it is not TOML, or says something else. The message has file and line, but not the line's text, which may be
/// a secret.
pub fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> anyhow::Result<T> {
    toml::from_str(text).map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        anyhow!("{}:{line}: {}", path.display(), error.message())
    })
}
