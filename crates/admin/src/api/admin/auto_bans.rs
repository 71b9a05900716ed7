//! `/api/admin/auto-bans`: rules that ban who sends too many requests of a kind.

use serde_json::Value;
use tidegate_author::{self as author, AutoBan, DocumentError};

use crate::api::app_state::AppState;
use crate::api::entry_fields::scope_warnings;
use crate::api::named_documents::NamedDocument;
use crate::api::shadow_fields::with_mode_enforce;
use crate::auto_bans::MAX_RULES;
use crate::feed::{Documents, Snapshot};
use crate::problem::{ApiResult, Problem, ProblemCode};
use crate::store::{DocumentKind, StoreTable};

/// The rules.
pub enum AutoBanRules {}

impl NamedDocument for AutoBanRules {
    type Content = AutoBan;
    const KIND: DocumentKind = DocumentKind::AutoBan;
    const NOUN: &str = "automatic ban";
    const EXAMPLE: &str = r#"{"match": {"status": [401, 404]}, "threshold": 20, "window": "1m", "share": 50,
        "ban": {"ttl": "1h", "factor": 2, "max_ttl": "7d"}, "mode": "shadow"}"#;
    const NOT_FOUND: ProblemCode = ProblemCode::AutoBanNotFound;
    const CHECK_READS: &'static [StoreTable] = &[StoreTable::Documents(DocumentKind::AutoBan)];
    const HAS_SHADOW: bool = true;

    fn of(snapshot: &Snapshot) -> &Documents<AutoBan> {
        &snapshot.auto_bans
    }

    fn of_mut(snapshot: &mut Snapshot) -> &mut Documents<AutoBan> {
        &mut snapshot.auto_bans
    }

    fn read(name: &str, document: Value) -> ApiResult<(String, AutoBan)> {
        let content = author::read_auto_ban(name, &document)
            .map_err(|problems| Problem::document(ProblemCode::InvalidField, problems))?;
        Ok((document.to_string(), content))
    }

    fn problems_in(_: &AutoBan, snapshot: &Snapshot) -> Vec<DocumentError> {
        let is_too_many = snapshot.auto_bans.in_force.len() > MAX_RULES;
        let problem = || DocumentError {
            pointer: String::new(),
            code: "too_many",
            message: format!("there may be {MAX_RULES}; remove others first"),
        };
        is_too_many.then(problem).into_iter().collect()
    }

    fn check(name: &str, document: Value, snapshot: &Snapshot) -> ApiResult<(String, AutoBan)> {
        let (text, rule) = Self::read(name, document)?;
        let rules = &snapshot.auto_bans.in_force;
        if rules.len() >= MAX_RULES && !rules.contains_key(name) {
            let detail = format!("with this one there are too many: up to {MAX_RULES}; remove others first");
            return Err(Problem::field("", "too_many", detail));
        }
        Ok((text, rule))
    }

    fn enforced(document: Value) -> Option<Value> {
        with_mode_enforce(document)
    }

    fn written(_: &AppState, snapshot: &Snapshot, _: &str, rule: &AutoBan) -> Vec<String> {
        let missing =
            rule.matches.routes.iter().filter(|id| !snapshot.routes.in_force.contains_key(id.as_str()));
        missing
            .map(|route| format!("there is no route `{route}`: nothing counts for it until there is"))
            .chain(scope_warnings(rule.applies_to.as_ref(), snapshot))
            .collect()
    }
}
