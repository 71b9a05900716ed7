//! `/api/admin/limits`: limits, which say how many requests are allowed.

use serde_json::Value;
use tidegate_author as author;
use tidegate_policy::limit::{Limit, MAX_LIMITS};

use crate::api::app_state::AppState;
use crate::api::named_documents::NamedDocument;
use crate::api::shadow_fields::without_shadow;
use crate::feed::{Documents, Snapshot};
use crate::problem::{ApiResult, Problem, ProblemCode};
use crate::store::{DocumentKind, StoreTable};

/// The limits.
pub enum Limits {}

impl NamedDocument for Limits {
    type Content = Limit;
    const KIND: DocumentKind = DocumentKind::Limit;
    const NOUN: &str = "limit";
    const EXAMPLE: &str = r#"{"key": "ip", "rate": 100, "per": "minute", "burst": 20, "shadow": true}"#;
    const NOT_FOUND: ProblemCode = ProblemCode::LimitNotFound;
    const CHECK_READS: &'static [StoreTable] = &[StoreTable::Documents(DocumentKind::Limit)];
    const HAS_SHADOW: bool = true;

    fn of(snapshot: &Snapshot) -> &Documents<Limit> {
        &snapshot.limits
    }

    fn of_mut(snapshot: &mut Snapshot) -> &mut Documents<Limit> {
        &mut snapshot.limits
    }

    fn read(name: &str, document: Value) -> ApiResult<(String, Limit)> {
        let content = author::read_limit(name, &document)
            .map_err(|problems| Problem::document(ProblemCode::InvalidField, problems))?;
        Ok((document.to_string(), content))
    }

    fn check(name: &str, document: Value, snapshot: &Snapshot) -> ApiResult<(String, Limit)> {
        let (text, limit) = Self::read(name, document)?;
        let limits = &snapshot.limits.in_force;
        if limits.len() >= MAX_LIMITS && !limits.contains_key(name) {
            let detail = format!("with this one there are too many: up to {MAX_LIMITS}; remove others first");
            return Err(Problem::field("", "too_many", detail));
        }
        Ok((text, limit))
    }

    fn enforced(document: Value) -> Option<Value> {
        without_shadow(document)
    }

    fn written(_: &AppState, snapshot: &Snapshot, name: &str, _: &Limit) -> Vec<String> {
        let missing = snapshot.missing_routes().into_iter().filter(|missing| *missing.limit == *name);
        let say = |route| {
            format!("there is no route `{route}`: for that one it holds for no request until there is")
        };
        missing.map(|missing| say(missing.route)).collect()
    }
}
