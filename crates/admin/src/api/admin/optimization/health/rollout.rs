//! Health: checks in shadow, and geo rules.

use tidegate_policy::check::{Check, PerCheck};
use tidegate_policy::flags::{FlagState, Flags};

use crate::api::admin::optimization::flags::flag_of_check;
use crate::feed::Snapshot;
use crate::finding::{Finding, FindingCode};
use crate::store::CheckCounts;

/// Routes with a missing geo rule that are listed by name; all are counted.
const SHOWN_MISSING: usize = 5;

/// Whether any check is in shadow.
pub fn is_any_in_shadow(flags: &Flags) -> bool {
    Check::ALL.into_iter().any(|check| *flags.get(flag_of_check(check)) == FlagState::Shadow)
}

/// Mismatches of checks in shadow between gateways' tables and database. Those where the tables
/// were only behind the database are not a fault.
pub fn shadow(flags: &Flags, counts: &PerCheck<CheckCounts>) -> Vec<Finding> {
    let finding = |check: Check| {
        let flag = flag_of_check(check);
        let CheckCounts { compared, mismatched, lagging, .. } = *counts.get(check);
        if *flags.get(flag) != FlagState::Shadow || mismatched == 0 {
            return None;
        }
        let flag = flag.name();
        Some(match mismatched.saturating_sub(lagging) {
            0 => FindingCode::ShadowLagging.says(format!(
                "{flag}: {lagging} of {compared} answers were different, as the cache was behind"
            )),
            truly => FindingCode::ShadowMismatch.says(format!(
                "{flag}: {truly} of {compared} answers were different with the same tables: \
                 leave it in shadow, and look at the events' mismatches"
            )),
        })
    };
    Check::ALL.into_iter().filter_map(finding).collect()
}

/// Geo rules that routes name but that do not exist, and geo rules without a country table.
/// `by_header`: gateways get countries from a header.
pub fn geo(snapshot: &Snapshot, by_header: bool) -> Vec<Finding> {
    let mut found = Vec::new();
    let missing = snapshot.missing_geo_rules();
    if !missing.is_empty() {
        let named = missing.iter().take(SHOWN_MISSING);
        let named: Vec<_> = named.map(|one| format!("`{}` names `{}`", one.route, one.rule)).collect();
        found.push(FindingCode::GeoRuleMissing.says(format!(
            "references of routes to geo rules that are not there: {}; requests of these routes get 500: {}",
            missing.len(),
            named.join(", ")
        )));
    }
    if !snapshot.geo_rules.in_force.is_empty() && snapshot.countries.is_none() {
        found.push(match by_header {
            true => FindingCode::CountriesByHeader
                .says("there is no country table; gateways take their clients' countries from a header"),
            false => FindingCode::CountriesMissing.says(
                "there are geo rules and no country table, so every client's country is unknown: \
                 `tidegate geo import FILE` brings one",
            ),
        });
    }
    found
}

#[cfg(test)]
mod tests {
    use tidegate_policy::flags::Flag;

    use super::*;

    fn codes(flags: &Flags, route: CheckCounts) -> Vec<&'static str> {
        let counts = PerCheck { route, ..PerCheck::default() };
        shadow(flags, &counts).into_iter().map(|finding| finding.code).collect()
    }

    #[test]
    fn only_what_differs_by_itself_is_trouble_and_only_in_shadow() {
        let shadow = Flags::default().with(Flag::RouteCache, FlagState::Shadow);
        let counts =
            |mismatched, lagging| CheckCounts { compared: 9, mismatched, lagging, ..Default::default() };
        assert_eq!(codes(&shadow, counts(0, 0)), [""; 0]);
        assert_eq!(codes(&shadow, counts(2, 2)), ["shadow_lagging"]);
        assert_eq!(codes(&shadow, counts(3, 2)), ["shadow_mismatch"]);
        assert_eq!(codes(&Flags::all_on(), counts(3, 2)), [""; 0]);
    }
}
