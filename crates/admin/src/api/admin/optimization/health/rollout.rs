//! Health: checks in shadow, and geo rules.

use tidegate_policy::check::{Check, PerCheck};
use tidegate_policy::flags::{FlagState, Flags};

use super::Reason;
use crate::api::admin::optimization::flags::flag_of_check;
use crate::feed::Snapshot;
use crate::store::CheckCounts;

/// Routes with a missing geo rule that are listed by name; all are counted.
const SHOWN_MISSING: usize = 5;

/// Whether any check is in shadow.
pub fn is_any_in_shadow(flags: &Flags) -> bool {
    Check::ALL.into_iter().any(|check| flags.get(flag_of_check(check)) == FlagState::Shadow)
}

/// Mismatches of checks in shadow between gateways' tables and database. Those where the tables
/// were only behind the database are not a fault.
pub fn shadow(
    flags: &Flags,
    counts: &PerCheck<CheckCounts>,
    reasons: &mut Vec<Reason>,
    notes: &mut Vec<Reason>,
) {
    for check in Check::ALL {
        let flag = flag_of_check(check);
        let CheckCounts { compared, mismatched, lagging, .. } = *counts.get(check);
        if flags.get(flag) != FlagState::Shadow || mismatched == 0 {
            continue;
        }
        let flag = flag.name();
        match mismatched.saturating_sub(lagging) {
            0 => notes.push(Reason {
                code: "shadow_lagging",
                detail: format!(
                    "{flag}: {lagging} of {compared} answers were different, as the cache was behind"
                ),
            }),
            truly => reasons.push(Reason {
                code: "shadow_mismatch",
                detail: format!(
                    "{flag}: {truly} of {compared} answers were different with the same tables: \
                     leave it in shadow, and look at the events' mismatches"
                ),
            }),
        }
    }
}

/// Geo rules that routes name but that do not exist, and geo rules without a country table.
/// `by_header`: gateways get countries from a header.
pub fn geo(snapshot: &Snapshot, by_header: bool, reasons: &mut Vec<Reason>, notes: &mut Vec<Reason>) {
    let missing = snapshot.missing_geo_rules();
    if !missing.is_empty() {
        let named = missing.iter().take(SHOWN_MISSING);
        let named: Vec<_> = named.map(|one| format!("`{}` names `{}`", one.route, one.rule)).collect();
        let detail = format!(
            "references of routes to geo rules that are not there: {}; requests of these routes get 500: {}",
            missing.len(),
            named.join(", ")
        );
        reasons.push(Reason { code: "geo_rule_missing", detail });
    }
    if snapshot.geo_rules.in_force.is_empty() || snapshot.countries.is_some() {
        return;
    }
    match by_header {
        true => notes.push(Reason {
            code: "countries_by_header",
            detail: "there is no country table; gateways take their clients' countries from a header"
                .to_owned(),
        }),
        false => reasons.push(Reason {
            code: "countries_missing",
            detail: "there are geo rules and no country table, so every client's country is unknown: \
                     `tidegate geo import FILE` brings one"
                .to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use tidegate_policy::flags::Flag;

    use super::*;

    fn codes(flags: Flags, route: CheckCounts) -> (Vec<&'static str>, Vec<&'static str>) {
        let (mut reasons, mut notes) = (Vec::new(), Vec::new());
        let counts = PerCheck { route, ..PerCheck::default() };
        shadow(&flags, &counts, &mut reasons, &mut notes);
        let codes = |reasons: Vec<Reason>| reasons.into_iter().map(|reason| reason.code).collect();
        (codes(reasons), codes(notes))
    }

    #[test]
    fn only_what_differs_by_itself_is_trouble_and_only_in_shadow() {
        let shadow = Flags::default().with(Flag::RouteCache, FlagState::Shadow);
        let counts =
            |mismatched, lagging| CheckCounts { compared: 9, mismatched, lagging, ..Default::default() };
        assert_eq!(codes(shadow, counts(0, 0)), (vec![], vec![]));
        assert_eq!(codes(shadow, counts(2, 2)), (vec![], vec!["shadow_lagging"]));
        assert_eq!(codes(shadow, counts(3, 2)), (vec!["shadow_mismatch"], vec![]));
        assert_eq!(codes(Flags::all_on(), counts(3, 2)), (vec![], vec![]));
    }
}
