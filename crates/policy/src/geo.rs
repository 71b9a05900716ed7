//! Country table and geo rules.
//!
//! A **country table** maps addresses to countries; **geo rules** allow or deny
//! countries. A rule is global (it holds for every request) or is named by routes, with
//! an `ExtensionRef` filter of kind `GeoRule`.

mod countries;
mod country;
mod rules;

pub(crate) use countries::COUNTRIES_FORMAT;
pub use countries::{CountryCheck, CountryRange, CountryTable};
pub use country::{Country, NoCountry};
pub use rules::{
    GEO_FORMAT, GeoAction, GeoMode, GeoOutcome, GeoRule, GeoRules, MAX_GEO_RULES, MAX_GEO_RULES_BYTES,
    RuleVerdict, UnknownCountry,
};
