//! Rows of `geo_rules`: each read by itself, all laid out together.

use std::collections::HashSet;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;
use tidegate_policy::author;
use tidegate_policy::geo::{GeoRule, GeoRules, MAX_GEO_RULES, MAX_GEO_RULES_BYTES};
use tidegate_policy::wire::WireError;

use super::clock::{self, Millis};
use super::small::{describe, how_many_fit};
use super::world::World;
use crate::store::{GeoRuleRow, Table};

/// A geo rule that was understood.
#[derive(Debug)]
pub struct GeoRuleInfo {
    /// Its name.
    pub name: Arc<str>,
    /// The rule as JSON, as it stands in the database.
    pub document: String,
    created: Option<Millis>,
    updated: Option<Millis>,
    rule: GeoRule,
}

/// A route that names a geo rule that is not in force: its requests get 500.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct MissingGeoRule {
    /// The route.
    pub route: Arc<str>,
    /// The name of the rule.
    pub rule: String,
}

impl GeoRuleInfo {
    /// When the rule was made.
    #[must_use]
    pub fn created(&self) -> Option<Timestamp> {
        Timestamp::from_millisecond(self.created?.get()).ok()
    }

    /// When it was last written.
    #[must_use]
    pub fn updated(&self) -> Option<Timestamp> {
        Timestamp::from_millisecond(self.updated?.get()).ok()
    }

    /// What it says.
    #[must_use]
    pub fn rule(&self) -> &GeoRule {
        &self.rule
    }

    fn read(row: GeoRuleRow) -> Result<Self, String> {
        let document: Value =
            serde_json::from_str(&row.document).map_err(|error| format!("not JSON: {error}"))?;
        let rule = author::read_geo_rule(&row.name, &document).map_err(|problems| describe(&problems))?;
        Ok(Self {
            name: row.name.into(),
            document: row.document,
            created: row.created_at.as_deref().and_then(clock::millis),
            updated: row.updated_at.as_deref().and_then(clock::millis),
            rule,
        })
    }
}

impl World {
    /// Takes geo rules as they now stand; `None`: deleted. One that cannot be read
    /// leaves the one before it in force: a slip in a rule that keeps countries out
    /// must not let them in. Afterwards [`World::lay_out_geo_rules`].
    pub(super) fn apply_geo_rules(&mut self, changes: Vec<(String, Option<GeoRuleRow>)>) {
        for (name, row) in changes {
            self.note_row(&name, row.as_ref());
            let unfit = self.unfit_geo_rules.remove(name.as_str());
            let held = self.geo_rules.remove(name.as_str()).or(unfit);
            match row.map(GeoRuleInfo::read) {
                None => {}
                Some(Ok(info)) => drop(self.geo_rules.insert(info.name.clone(), Arc::new(info))),
                Some(Err(why)) => {
                    let instead = match held {
                        Some(_) => "the rule before it stays in force until the service stops",
                        None => "it is not in force",
                    };
                    self.set_aside(Table::GeoRules, &name, format!("{why}; {instead}"));
                    self.geo_rules.extend(held.map(|held| (held.name.clone(), held)));
                }
            }
        }
    }

    /// Takes these as all geo rules that there are.
    pub(super) fn replace_geo_rules(&mut self, rows: Vec<GeoRuleRow>) {
        let there: HashSet<String> = rows.iter().map(|row| row.name.clone()).collect();
        let held: Vec<Arc<str>> = self.geo_rules.keys().chain(self.unfit_geo_rules.keys()).cloned().collect();
        self.forget_rows(Table::GeoRules);
        let gone = held.iter().filter(|name| !there.contains(&***name)).map(|name| (name.to_string(), None));
        self.apply_geo_rules(gone.collect());
        self.apply_geo_rules(rows.into_iter().map(|row| (row.name.clone(), Some(row))).collect());
    }

    /// The bytes of the geo rules. Of too many, the youngest are left out and
    /// shown as quarantined, as with routes.
    ///
    /// # Errors
    /// When not even these can be laid out.
    pub(super) fn lay_out_geo_rules(&mut self) -> Result<Vec<u8>, WireError> {
        for (name, info) in std::mem::take(&mut self.unfit_geo_rules) {
            self.quarantine.remove(&(Table::GeoRules, name.clone()));
            self.geo_rules.insert(name, info);
        }
        let mut by_age: Vec<Arc<GeoRuleInfo>> = self.geo_rules.values().cloned().collect();
        by_age.sort_by_key(|info| (info.created.is_none(), info.created));
        let bytes =
            |count: usize| GeoRules::new(by_age.iter().take(count).map(|info| info.rule.clone())).to_bytes();
        let fit = |count: usize| {
            count <= MAX_GEO_RULES && bytes(count).is_ok_and(|bytes| bytes.len() <= MAX_GEO_RULES_BYTES)
        };
        let fits = if fit(by_age.len()) { by_age.len() } else { how_many_fit(by_age.len(), fit) };
        let laid_out = bytes(fits);
        for info in by_age.drain(fits..) {
            let why = format!(
                "left out, with every younger rule: there may be {MAX_GEO_RULES} rules, \
                 of {MAX_GEO_RULES_BYTES} bytes together"
            );
            self.set_aside(Table::GeoRules, &info.name, why);
            self.geo_rules.remove(&info.name);
            self.unfit_geo_rules.insert(info.name.clone(), info);
        }
        laid_out
    }

    /// Geo rules that routes name and that are not in force, for health.
    #[must_use]
    pub fn missing_geo_rules(&self) -> Vec<MissingGeoRule> {
        let named = self.routes.values().flat_map(|info| {
            let names = info.route().rules.iter().flat_map(|rule| &rule.geo);
            names.map(|rule| MissingGeoRule { route: info.name.clone(), rule: rule.clone() })
        });
        let mut missing: Vec<_> =
            named.filter(|named| !self.geo_rules.contains_key(named.rule.as_str())).collect();
        missing.sort();
        missing.dedup();
        missing
    }
}
