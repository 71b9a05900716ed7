//! Files that pages use: style, script and icon. Their addresses have a hash of the content, so browsers keep them.

use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

/// A file that is compiled in.
pub struct Asset {
    name: &'static str,
    content_type: &'static str,
    content: &'static str,
    hash: LazyLock<String>,
}

/// The style of all pages.
pub static STYLE: Asset = Asset {
    name: "style.css",
    content_type: "text/css; charset=utf-8",
    content: include_str!("../assets/style.css"),
    hash: LazyLock::new(|| hash(include_str!("../assets/style.css"))),
};
/// The script of all pages: live parts, times in the reader's zone, copying.
pub static SCRIPT: Asset = Asset {
    name: "live.js",
    content_type: "text/javascript; charset=utf-8",
    content: include_str!("../assets/live.js"),
    hash: LazyLock::new(|| hash(include_str!("../assets/live.js"))),
};
/// The icon.
pub static ICON: Asset = Asset {
    name: "icon.svg",
    content_type: "image/svg+xml",
    content: include_str!("../assets/icon.svg"),
    hash: LazyLock::new(|| hash(include_str!("../assets/icon.svg"))),
};

impl Asset {
    /// Its path on this service.
    pub fn path(&self) -> String {
        format!("/ui/assets/{}/{}", *self.hash, self.name)
    }
}

fn hash(content: &str) -> String {
    hex::encode(&Sha256::digest(content.as_bytes())[..8])
}

/// Answers a file. One with another hash is of another version of the service: that is not there.
pub async fn answer(Path((hash, name)): Path<(String, String)>) -> Response {
    let asset = [&STYLE, &SCRIPT, &ICON].into_iter().find(|asset| asset.name == name && *asset.hash == hash);
    let Some(asset) = asset else { return StatusCode::NOT_FOUND.into_response() };
    let headers = [
        (CONTENT_TYPE, asset.content_type),
        (CACHE_CONTROL, "public, max-age=31536000, immutable"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers.map(|(name, value)| (name, HeaderValue::from_static(value))), asset.content).into_response()
}
