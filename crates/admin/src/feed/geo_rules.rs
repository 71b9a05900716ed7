//! Rows of `geo_rules`.

use std::sync::Arc;

use serde_json::Value;
use tidegate_author as author;
use tidegate_policy::geo::{GeoRule, GeoRules, MAX_GEO_RULES, MAX_GEO_RULES_BYTES};

use super::documents::{Documents, NamedDocument, ParsedDocument};
use super::fingerprint::describe;
use super::snapshot::Snapshot;
use crate::store::{DocumentKind, DocumentRow};

/// A geo rule that was understood.
pub type GeoRuleInfo = ParsedDocument<GeoRule>;

/// A route that names a geo rule that is not in force: its requests get 500.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct MissingGeoRule {
    /// The route.
    pub route: Arc<str>,
    /// The name of the rule.
    pub rule: String,
}

impl NamedDocument for GeoRule {
    const KIND: DocumentKind = DocumentKind::GeoRule;

    fn read(row: &DocumentRow, document: &Value) -> Result<Self, String> {
        author::read_geo_rule(&row.name, document).map_err(|problems| describe(&problems))
    }

    fn of(snapshot: &mut Snapshot) -> &mut Documents<Self> {
        &mut snapshot.geo_rules
    }
}

/// The bytes of these rules; or how many there may be.
fn lay_out(rules: &[GeoRule]) -> Result<Vec<u8>, String> {
    let bytes = GeoRules::new(rules.iter().cloned()).to_bytes().map_err(|error| error.to_string())?;
    match rules.len() <= MAX_GEO_RULES && bytes.len() <= MAX_GEO_RULES_BYTES {
        true => Ok(bytes),
        false => Err(format!("there may be {MAX_GEO_RULES} rules, of {MAX_GEO_RULES_BYTES} bytes together")),
    }
}

impl Snapshot {
    /// The bytes of the geo rules.
    pub(super) fn lay_out_geo_rules(&mut self) -> Vec<u8> {
        self.lay_out_documents(lay_out)
    }

    /// Geo rules that routes name and that are not in force, for health.
    #[must_use]
    pub fn missing_geo_rules(&self) -> Vec<MissingGeoRule> {
        let named = self.routes.in_force.values().flat_map(|info| {
            let names = info.parsed.rules.iter().flat_map(|rule| &rule.geo);
            names.map(|rule| MissingGeoRule { route: info.name.clone(), rule: rule.clone() })
        });
        let mut missing: Vec<_> =
            named.filter(|named| !self.geo_rules.in_force.contains_key(named.rule.as_str())).collect();
        missing.sort();
        missing.dedup();
        missing
    }
}
