//! Geo rules: which countries may enter.

use serde::{Deserialize, Serialize};

use super::Country;
use crate::wire::{WireError, decode, encode};

/// Version of the bytes of [`GeoRules`].
pub const GEO_FORMAT: u8 = 1;
/// Rules of a table.
pub const MAX_GEO_RULES: usize = 1_000;
/// Bytes of a table of rules.
pub const MAX_GEO_RULES_BYTES: usize = 1 << 20;

/// A rule.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GeoRule {
    /// Its name, by which routes refer to it; DNS labels with dots between.
    pub name: String,
    /// Whether it holds for every request, or only where a route names it.
    pub global: bool,
    /// What its list means.
    pub mode: GeoMode,
    /// The list, sorted, each country once.
    pub countries: Vec<Country>,
    /// What becomes of a client whose country nobody knows.
    pub unknown: Unknown,
    /// The answer to those who may not enter.
    pub action: GeoAction,
}

/// What the list of a rule means.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum GeoMode {
    /// Only these may enter.
    Allow,
    /// These may not.
    Deny,
}

/// What becomes of a client whose country nobody knows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Unknown {
    /// It may enter.
    Allow,
    /// It may not.
    Deny,
}

/// The answer to a client that may not enter.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum GeoAction {
    /// 403 Forbidden.
    Forbidden,
    /// 451 Unavailable For Legal Reasons (RFC 7725).
    LegalReasons,
}

impl GeoAction {
    /// Its status.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::Forbidden => 403,
            Self::LegalReasons => 451,
        }
    }
}

impl GeoRule {
    /// The answer to a client from `country`, if it may not enter.
    #[must_use]
    pub fn denies(&self, country: Option<Country>) -> Option<GeoAction> {
        let denied = match (country, self.mode) {
            (None, _) => self.unknown == Unknown::Deny,
            (Some(country), GeoMode::Deny) => self.countries.binary_search(&country).is_ok(),
            (Some(country), GeoMode::Allow) => self.countries.binary_search(&country).is_err(),
        };
        denied.then_some(self.action)
    }
}

/// What one rule says of one country.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RuleVerdict {
    /// The rule.
    pub name: String,
    /// Whether it holds for every request.
    pub global: bool,
    /// The answer to the client, if it may not enter.
    pub denies: Option<GeoAction>,
}

/// All rules, in the order of their names.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct GeoRules {
    rules: Vec<GeoRule>,
}

impl GeoRules {
    /// These rules; of two with one name the later counts.
    #[must_use]
    pub fn new(rules: impl IntoIterator<Item = GeoRule>) -> Self {
        let by_name: std::collections::BTreeMap<String, GeoRule> = rules
            .into_iter()
            .map(|mut rule| {
                rule.countries.sort_unstable();
                rule.countries.dedup();
                (rule.name.clone(), rule)
            })
            .collect();
        Self { rules: by_name.into_values().collect() }
    }

    /// All of them, in the order of their names.
    #[must_use]
    pub fn rules(&self) -> &[GeoRule] {
        &self.rules
    }

    /// The rule of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&GeoRule> {
        let at = self.rules.binary_search_by(|rule| rule.name.as_str().cmp(name)).ok()?;
        self.rules.get(at)
    }

    /// What every rule says of `country`.
    #[must_use]
    pub fn verdicts(&self, country: Option<Country>) -> Vec<RuleVerdict> {
        let verdict = |rule: &GeoRule| RuleVerdict {
            name: rule.name.clone(),
            global: rule.global,
            denies: rule.denies(country),
        };
        self.rules.iter().map(verdict).collect()
    }

    /// The rules' bytes.
    ///
    /// # Errors
    /// See [`encode`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, WireError> {
        encode(GEO_FORMAT, self)
    }

    /// Reads rules.
    ///
    /// # Errors
    /// When the bytes are too long, of another version or malformed, or the
    /// rules or their countries are not in order.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, WireError> {
        let rules: Self = decode(GEO_FORMAT, MAX_GEO_RULES_BYTES, bytes)?;
        let in_order = rules.rules.is_sorted_by(|a, b| a.name < b.name)
            && rules.rules.iter().all(|rule| rule.countries.is_sorted_by(|a, b| a < b));
        if rules.rules.len() > MAX_GEO_RULES || !in_order {
            return Err(WireError::Malformed("geo rules out of order, or too many"));
        }
        Ok(rules)
    }
}
