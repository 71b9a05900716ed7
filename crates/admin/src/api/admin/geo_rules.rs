//! `/api/admin/geo-rules`: geo rules, which say which countries are allowed.

use serde_json::Value;
use tidegate_author as author;
use tidegate_policy::geo::{GeoRule, GeoRules, MAX_GEO_RULES, MAX_GEO_RULES_BYTES};

use crate::api::app_state::AppState;
use crate::api::named_documents::NamedDocument;
use crate::api::shadow_fields::without_shadow;
use crate::feed::{Documents, Snapshot};
use crate::problem::{ApiResult, Problem, ProblemCode};
use crate::store::{DocumentKind, StoreTable};

/// The geo rules.
pub enum GeoRuleDocuments {}

impl NamedDocument for GeoRuleDocuments {
    type Content = GeoRule;
    const KIND: DocumentKind = DocumentKind::GeoRule;
    const NOUN: &str = "geo rule";
    const EXAMPLE: &str = r#"{"mode": "deny", "countries": ["KP"], "status": 451}"#;
    const NOT_FOUND: ProblemCode = ProblemCode::GeoRuleNotFound;
    const CHECK_READS: &'static [StoreTable] = &[StoreTable::Documents(DocumentKind::GeoRule)];
    const HAS_SHADOW: bool = true;

    fn of(snapshot: &Snapshot) -> &Documents<GeoRule> {
        &snapshot.geo_rules
    }

    fn of_mut(snapshot: &mut Snapshot) -> &mut Documents<GeoRule> {
        &mut snapshot.geo_rules
    }

    fn read(name: &str, document: Value) -> ApiResult<(String, GeoRule)> {
        let content = author::read_geo_rule(name, &document)
            .map_err(|problems| Problem::document(ProblemCode::InvalidField, problems))?;
        Ok((document.to_string(), content))
    }

    fn check(name: &str, document: Value, snapshot: &Snapshot) -> ApiResult<(String, GeoRule)> {
        let (text, rule) = Self::read(name, document)?;
        fits(snapshot, rule.clone())?;
        Ok((text, rule))
    }

    fn enforced(document: Value) -> Option<Value> {
        without_shadow(document)
    }

    fn written(_: &AppState, _: &Snapshot, _: &str, _: &GeoRule) -> Vec<String> {
        Vec::new()
    }

    /// Routes that name the rule are not changed, and their requests get 500.
    fn removed(snapshot: &Snapshot, name: &str) -> Vec<String> {
        let missing = snapshot.missing_geo_rules();
        let say = |route| {
            format!(
                "the route `{route}` names this rule: its requests get 500 no_geo_rule until one of them changes"
            )
        };
        missing.iter().filter(|missing| missing.rule == name).map(|missing| say(&missing.route)).collect()
    }
}

/// Whether `rule` fits into the table with all the others.
fn fits(snapshot: &Snapshot, rule: GeoRule) -> ApiResult<()> {
    // Of two rules with one name the later one counts.
    let all =
        GeoRules::new(snapshot.geo_rules.in_force.values().map(|info| info.parsed.clone()).chain([rule]));
    let bytes = all.to_bytes().map_or(usize::MAX, |bytes| bytes.len());
    if all.rules().len() <= MAX_GEO_RULES && bytes <= MAX_GEO_RULES_BYTES {
        return Ok(());
    }
    let detail = format!(
        "with this rule there are too many: up to {MAX_GEO_RULES}, of {MAX_GEO_RULES_BYTES} bytes together; remove others first"
    );
    Err(Problem::field("", "too_many", detail))
}
