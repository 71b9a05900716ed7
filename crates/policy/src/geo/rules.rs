//! Geo rules: which countries may enter.

use serde::{Deserialize, Serialize};

use super::country::Country;
use crate::codec::{FormatError, decode, encode};

/// Version of the bytes of [`GeoRules`].
pub const GEO_FORMAT: u8 = 2;
/// The most rules of a table.
pub const MAX_GEO_RULES: usize = 1_000;
/// The most bytes of a table of rules.
pub const MAX_GEO_RULES_BYTES: usize = 1 << 20;
/// The most bytes of a rule's name.
const MAX_NAME: usize = 253;

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
    /// What becomes of a client whose country is not known.
    pub unknown: UnknownCountry,
    /// The response to a client that may not enter.
    pub action: GeoAction,
    /// It denies nobody: whom it would deny is recorded.
    pub shadow: bool,
}

/// What the list of a rule means.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum GeoMode {
    /// Only these may enter.
    Allow,
    /// These may not.
    Deny,
}

/// What becomes of a client whose country is not known.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum UnknownCountry {
    /// It may enter.
    Allow,
    /// It may not.
    Deny,
}

/// The response to a client that may not enter.
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
    /// The response to a client from `country`, if it may not enter.
    #[must_use]
    pub fn denies(&self, country: Option<Country>) -> Option<GeoAction> {
        let denied = match (country, self.mode) {
            (None, _) => self.unknown == UnknownCountry::Deny,
            (Some(country), GeoMode::Deny) => self.countries.binary_search(&country).is_ok(),
            (Some(country), GeoMode::Allow) => self.countries.binary_search(&country).is_err(),
        };
        denied.then_some(self.action)
    }

    /// What it says of a client from `country`.
    #[must_use]
    pub fn outcome(&self, country: Option<Country>) -> GeoOutcome {
        GeoOutcome::new(self.denies(country), self.shadow)
    }
}

/// What a rule says of a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GeoOutcome {
    /// It may enter.
    Allow,
    /// It may not.
    Deny(GeoAction),
    /// It may, because the rule is in shadow: this would be the response.
    WouldDeny(GeoAction),
}

impl GeoOutcome {
    fn new(denies: Option<GeoAction>, shadow: bool) -> Self {
        match (denies, shadow) {
            (None, _) => Self::Allow,
            (Some(action), false) => Self::Deny(action),
            (Some(action), true) => Self::WouldDeny(action),
        }
    }
}

/// The verdict of one rule on one country.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RuleVerdict {
    /// The rule's name.
    pub name: String,
    /// Whether it holds for every request.
    pub global: bool,
    /// The response to the client, if it may not enter.
    pub denies: Option<GeoAction>,
    /// As in [`GeoRule`].
    pub shadow: bool,
}

impl RuleVerdict {
    /// What the rule says of the client.
    #[must_use]
    pub fn outcome(&self) -> GeoOutcome {
        GeoOutcome::new(self.denies, self.shadow)
    }
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

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The rule of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&GeoRule> {
        let at = self.rules.binary_search_by(|rule| rule.name.as_str().cmp(name)).ok()?;
        self.rules.get(at)
    }

    /// The verdict of every rule on `country`.
    #[must_use]
    pub fn verdicts(&self, country: Option<Country>) -> Vec<RuleVerdict> {
        let verdict = |rule: &GeoRule| RuleVerdict {
            name: rule.name.clone(),
            global: rule.global,
            denies: rule.denies(country),
            shadow: rule.shadow,
        };
        self.rules.iter().map(verdict).collect()
    }

    /// The rules' bytes.
    ///
    /// # Errors
    /// See [`encode`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, FormatError> {
        encode(GEO_FORMAT, self)
    }

    /// Reads rules.
    ///
    /// # Errors
    /// When the bytes are too long, of another version or malformed, the rules are
    /// over [`MAX_GEO_RULES`], a name is empty or over 253 bytes, or rules or
    /// countries are not in order.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FormatError> {
        let rules: Self = decode(GEO_FORMAT, MAX_GEO_RULES_BYTES, bytes)?;
        let in_order = rules.rules.is_sorted_by(|a, b| a.name < b.name)
            && rules.rules.iter().all(|rule| rule.countries.is_sorted_by(|a, b| a < b));
        if rules.rules.len() > MAX_GEO_RULES || !in_order {
            return Err(FormatError::Malformed("geo rules out of order, or too many"));
        }
        if !rules.rules.iter().all(|rule| (1..=MAX_NAME).contains(&rule.name.len())) {
            return Err(FormatError::Malformed("the length of a geo rule's name"));
        }
        Ok(rules)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rule(name: &str, countries: &[&str]) -> GeoRule {
        GeoRule {
            name: name.to_owned(),
            global: true,
            mode: GeoMode::Deny,
            countries: countries.iter().map(|code| code.parse().unwrap()).collect(),
            unknown: UnknownCountry::Allow,
            action: GeoAction::Forbidden,
            shadow: false,
        }
    }

    #[test]
    fn a_list_lets_in_or_keeps_out_and_the_unknown_are_on_no_list() {
        let deny = rule("r", &["DE", "US"]);
        let allow = GeoRule { mode: GeoMode::Allow, action: GeoAction::LegalReasons, ..deny.clone() };
        for (code, on_deny, on_allow) in
            [("DE", Some(403), None), ("US", Some(403), None), ("FR", None, Some(451))]
        {
            let country = Country::new(code.as_bytes());
            assert_eq!(deny.denies(country).map(GeoAction::status), on_deny, "{code}");
            assert_eq!(allow.denies(country).map(GeoAction::status), on_allow, "{code}");
        }
        for rule in [deny, allow] {
            assert_eq!(rule.denies(None), None);
            let strict = GeoRule { unknown: UnknownCountry::Deny, ..rule };
            assert_eq!(strict.denies(None), Some(strict.action));
        }
    }

    #[test]
    fn rules_are_kept_by_name_and_the_later_of_two_counts() {
        let rules = GeoRules::new([rule("b", &["US", "DE", "US"]), rule("a", &["FR"]), rule("a", &["IT"])]);
        let names: Vec<_> = rules.rules().iter().map(|rule| rule.name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(rules.get("b").unwrap().countries, rule("", &["DE", "US"]).countries);
        assert_eq!(rules.get("a").unwrap().countries, rule("", &["IT"]).countries);
        assert_eq!(rules.get("c"), None);
        assert_eq!(GeoRules::from_bytes(&rules.to_bytes().unwrap()), Ok(rules));
    }

    #[test]
    fn bytes_that_could_not_be_searched_are_refused() {
        let bad = [
            vec![rule("b", &["DE"]), rule("a", &["DE"])],
            vec![rule("a", &["DE"]), rule("a", &["FR"])],
            vec![rule("a", &["FR", "DE"])],
            vec![rule("a", &["DE", "DE"])],
            vec![rule("", &["DE"])],
            vec![rule(&"a".repeat(254), &["DE"])],
            (0..=MAX_GEO_RULES).map(|i| rule(&format!("r{i:04}"), &["DE"])).collect(),
        ];
        for rules in bad {
            let bytes = GeoRules { rules }.to_bytes().unwrap();
            assert!(matches!(GeoRules::from_bytes(&bytes), Err(FormatError::Malformed(_))));
        }
        // A code that is none: what would be DE is D!.
        let mut bytes = GeoRules::new([rule("a", &["DE"])]).to_bytes().unwrap();
        let at = bytes.windows(2).position(|two| two == b"DE").unwrap();
        bytes[at + 1] = b'!';
        assert!(GeoRules::from_bytes(&bytes).is_err());
    }

    proptest! {
        #[test]
        fn changed_bytes_are_rules_or_an_error(at: prop::sample::Index, to: u8, cut in 0usize..60) {
            let rules = GeoRules::new([rule("a", &["DE", "US"]), rule("b", &["FR"]), rule("c", &[])]);
            let mut bytes = rules.to_bytes().unwrap();
            let at = at.index(bytes.len());
            bytes[at] = to;
            bytes.truncate(cut);
            if let Ok(rules) = GeoRules::from_bytes(&bytes) {
                for rule in rules.rules() {
                    prop_assert_eq!(rules.get(&rule.name), Some(rule));
                }
            }
        }
    }
}
