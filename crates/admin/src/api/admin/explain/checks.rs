//! Results of allow list, bans, geo rules and limits.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::Value;
use tidegate_policy::decide::{GeoFinding, IpFinding, Tables};
use tidegate_policy::geo::{GeoAction, GeoOutcome};
use tidegate_policy::host::RequestHost;
use tidegate_policy::limit::{Limit, LimitKey};
use tidegate_policy::request::Facts;
use tidegate_policy::route::RouteMatch;
use utoipa::ToSchema;

use crate::api::admin::ip_monitor::{self, LimitedBan};
use crate::feed::{ListedPrefix, RowStatus, Snapshot};
use crate::time;

/// The client's status in the allow list and the bans.
#[derive(Serialize, Debug, ToSchema)]
pub struct IpCheck {
    /// `banned`, `allowed`, `watched` (a ban in shadow) or `clear`.
    says: &'static str,
    /// The entry that decides.
    entry: Option<String>,
    reason: Option<String>,
    /// Whose lists have the entry, with commas between the names; absent: it was entered by hand.
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    /// The sources that have it, if any do.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    sources: Vec<String>,
    until: Option<String>,
    /// Where the entry applies, if not everywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    applies_to: Option<Value>,
    /// Bans that cover the client at other hostnames or routes only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    elsewhere: Vec<LimitedBan>,
}

impl IpCheck {
    /// `route`: the route that the request takes.
    pub fn new(snapshot: &Snapshot, found: IpFinding, facts: &Facts<'_>, route: Option<&str>) -> Self {
        let now = time::now_seconds();
        let host = RequestHost::read(facts.host);
        let applies = |listed: &ListedPrefix| match (&listed.scope, &host) {
            (None, _) => true,
            (Some(scope), Some(host)) => scope.fits_host(host) && scope.fits_route(route),
            (Some(_), None) => false,
        };
        let in_force = |listed: &ListedPrefix| !listed.left_out && listed.expires.is_none_or(|end| now < end);
        let covering = facts.client.into_iter().flat_map(|client| snapshot.covering(client));
        let elsewhere = covering.filter(|listed| in_force(listed) && !applies(listed));
        let elsewhere: Vec<_> = elsewhere.map(|listed| LimitedBan::new(&listed)).collect();
        let (says, entry) = match found {
            IpFinding::Clear => {
                return Self {
                    says: "clear",
                    entry: None,
                    reason: None,
                    source: None,
                    sources: Vec::new(),
                    until: None,
                    applies_to: None,
                    elsewhere,
                };
            }
            IpFinding::Allowed(prefix) => (RowStatus::Allowed, prefix),
            IpFinding::Banned(prefix) => (RowStatus::Banned, prefix),
            IpFinding::ShadowBanned(prefix) => (RowStatus::Watched, prefix),
        };
        // Those without a scope come first: one has it. Of the others each row and each source is one.
        let of_entry = snapshot.all_listed(&entry).filter(|listed| listed.status == says);
        let mut of_entry = of_entry.filter(|listed| in_force(listed) && applies(listed));
        let listed = of_entry.next();
        let others = of_entry.filter(|_| listed.as_ref().is_some_and(|first| first.scope.is_some()));
        let others: Vec<ListedPrefix> = others.collect();
        let names = |of: fn(&ListedPrefix) -> Vec<String>| -> Vec<String> {
            let all: BTreeSet<String> = listed.iter().chain(&others).flat_map(of).collect();
            all.into_iter().collect()
        };
        let all = names(|listed| listed.source_names().map(str::to_owned).collect());
        Self {
            says: says.name(),
            entry: Some(entry.to_string()),
            reason: listed.as_ref().and_then(|listed| listed.reason.as_deref().map(str::to_owned)),
            source: match others.is_empty() {
                true => listed.as_ref().and_then(|listed| listed.source.as_deref().map(str::to_owned)),
                false => (!all.is_empty()).then(|| all.join(",")),
            },
            sources: names(ip_monitor::sources),
            until: listed.as_ref().and_then(ip_monitor::until),
            applies_to: listed.as_ref().and_then(ip_monitor::scope),
            elsewhere,
        }
    }
}

/// The client's country, and the result of each geo rule.
#[derive(Serialize, Debug, ToSchema)]
pub struct GeoCheck {
    /// `null`: unknown.
    country: Option<String>,
    /// In order of evaluation: global rules, rules of the route, then rules that do not apply to
    /// this request.
    rules: Vec<GeoRuleResult>,
}

#[derive(Serialize, Debug, ToSchema)]
struct GeoRuleResult {
    name: String,
    global: bool,
    /// Whether it applies to this request: it is global, or its route names it.
    holds: bool,
    /// `allow`, `deny`, or `missing`: the route names it and it does not exist.
    says: &'static str,
    /// Status of the answer, if the result is not `allow`.
    status: Option<u16>,
    /// Whether it denies nobody, whatever it says.
    shadow: bool,
}

impl GeoCheck {
    pub fn new(found: &GeoFinding<'_>, tables: &Tables, route: Option<RouteMatch<'_>>) -> Self {
        let named = route.map_or(&[][..], |route| route.geo);
        let rule = |name: &str, global, holds| {
            let (says, status) = match found.rule(name) {
                Some(GeoOutcome::Allow) => ("allow", None),
                Some(GeoOutcome::Deny(action) | GeoOutcome::WouldDeny(action)) => {
                    ("deny", Some(GeoAction::status(action)))
                }
                None => ("missing", Some(500)),
            };
            let shadow = tables.geo.get(name).is_some_and(|rule| rule.shadow);
            GeoRuleResult { name: name.to_owned(), global, holds, says, status, shadow }
        };
        let all = tables.geo.rules();
        let global = all.iter().filter(|one| one.global).map(|one| rule(&one.name, true, true));
        let of_route = named.iter().filter(|name| !tables.geo.get(name).is_some_and(|one| one.global));
        let of_route = of_route.map(|name| rule(name, false, true));
        let others = all.iter().filter(|one| !one.global && !named.contains(&one.name));
        let others = others.map(|one| rule(&one.name, false, false));
        Self {
            country: found.country().map(|country| country.to_string()),
            rules: global.chain(of_route).chain(others).collect(),
        }
    }
}

/// A limit that counts the request. Only each gateway knows whether it would let the request
/// pass: each counts its own requests.
#[derive(Serialize, Debug, ToSchema)]
pub struct CountingLimit {
    name: String,
    /// `ip`, `header:NAME`, `route` or `global`.
    key: String,
    rate: u32,
    per_s: u32,
    burst: u32,
    shadow: bool,
}

impl CountingLimit {
    fn new(limit: &Limit) -> Self {
        let key = match &limit.key {
            LimitKey::Ip => "ip".to_owned(),
            LimitKey::Header(name) => format!("header:{name}"),
            LimitKey::Route => "route".to_owned(),
            LimitKey::Global => "global".to_owned(),
        };
        let Limit { name, rate, per_s, burst, shadow, .. } = limit.clone();
        Self { name, key, rate, per_s, burst, shadow }
    }
}

/// The limits that count the request. Clients on the allow list are exempt.
pub fn limits(
    tables: &Tables,
    facts: &Facts<'_>,
    route: Option<&RouteMatch<'_>>,
    ip: IpFinding,
) -> Vec<CountingLimit> {
    if matches!(ip, IpFinding::Allowed(_)) {
        return Vec::new();
    }
    tables.limits.of(facts, route).map(|(limit, _)| CountingLimit::new(limit)).collect()
}
