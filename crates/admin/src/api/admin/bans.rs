//! `bans/import` and `bans/export`: many bans at once. `bans/enforce`: bans in shadow deny from now on.

mod enforce;
mod export;
mod import;
mod list_body;

use serde_json::{Value, json};

use crate::api::endpoints::Endpoints;
use crate::api::openapi::about::{About, Body};
use crate::api::openapi::parameters as query;
use crate::auth::Role;
use crate::problem::ProblemCode;

/// The paths here.
pub fn routes() -> Endpoints {
    let imports = About {
        body: Some(Body {
            media: &["text/plain"],
            schema: json!({ "type": "string" }),
            example: Value::from("192.0.2.66\n203.0.113.64/26 # scanner\n"),
            is_optional: false,
        }),
        ..About::new("Bans what a list has: all of it, or nothing")
    };
    let imports = imports
        .query(&[
            &query::LIST_FORMAT,
            &query::SOURCE,
            &query::MODE,
            &query::SHADOW,
            &query::TTL,
            &query::BAN_REASON,
            &query::MIN_SCORE,
            &query::DRY_RUN,
            &query::STRICT,
            &query::FORCE,
            &query::WAIT_APPLIED,
        ])
        .answers::<import::BanImportAnswer>()
        .problems(&[ProblemCode::NotAList, ProblemCode::ListRefused, ProblemCode::TableFull]);
    let exports = About::new("Answers the bans that are in force as a list").query(&[
        &query::EXPORT_FORMAT,
        &query::SOURCE,
        &query::SHADOW,
    ]);
    let exports = export::CONTENT_TYPES
        .iter()
        .fold(exports, |about, media| about.answers_with(200, "the list", Some((*media, json!({})))));
    let enforces = About::new("Makes a ban in shadow deny, or all that a source has in shadow")
        .query(&[&query::WAIT_APPLIED, &query::DRY_RUN])
        .takes::<enforce::EnforceRequest>(json!({"ip": "203.0.113.0/24"}))
        .answers::<enforce::Enforced>()
        .once_per_key()
        .problems(&[
            ProblemCode::NotInShadow,
            ProblemCode::BannedBySource,
            ProblemCode::ProtectedNetwork,
            ProblemCode::AddressAllowed,
            ProblemCode::TableFull,
        ]);
    Endpoints::default()
        .post(Role::Operate, "/api/admin/bans/enforce", enforce::enforce)
        .about(enforces)
        .post(Role::Operate, "/api/admin/bans/import", import::import)
        .about(imports)
        .get(Role::Read, "/api/admin/bans/export", export::export)
        .about(exports)
}

/// A source's name: `a-z`, `0-9`, `.`, `_` and `-`.
fn is_source(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    (1..=63).contains(&name.len()) && name.bytes().all(is_plain)
}

/// How a source's name is written, for messages.
const SOURCE_FORM: &str = "write 1 to 63 of a-z, 0-9, `.`, `_` and `-`";
