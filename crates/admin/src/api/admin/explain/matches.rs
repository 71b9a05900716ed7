//! The matches that fit the request, and why one of them wins.

use serde::Serialize;
use tidegate_author::explain::{self, Criterion, Taken};
use tidegate_author::{Listeners, Method, PathMatch};
use tidegate_policy::request::Facts;
use tidegate_policy::route::RouteMatch;
use utoipa::ToSchema;

use crate::feed::Snapshot;

/// Matches that are listed.
const MAX_MATCHES: usize = 100;

/// The matches that fit the request, in the order of precedence.
#[derive(Serialize, Debug, Default, ToSchema)]
pub struct Matches {
    /// The first one wins.
    matches: Vec<Match>,
    /// Number of further matches, which are not listed.
    more: usize,
}

#[derive(Serialize, Debug, ToSchema)]
struct Match {
    route: String,
    /// Index of the rule within the route.
    rule: usize,
    rule_name: Option<String>,
    /// Index of the match within the rule.
    r#match: usize,
    wins: bool,
    /// The criterion by which it loses to the first.
    lost_by: Option<&'static str>,
    /// The same as a sentence.
    why: Option<&'static str>,
    /// The hostname of route and listener that fits the host; `null`: they have none.
    hostname: Option<String>,
    /// Whether it is answered with 500, because a listener that the route names is not known.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    closed: bool,
    path: PathCondition,
    method: Option<&'static str>,
    /// Number of headers that it requires.
    headers: usize,
    /// Number of query parameters that it requires.
    query: usize,
}

/// As in a document.
#[derive(Serialize, Debug, ToSchema)]
struct PathCondition {
    r#type: &'static str,
    value: String,
}

impl Matches {
    /// `found`: the match that the route table finds.
    pub fn new(
        snapshot: &Snapshot,
        listeners: &Listeners,
        facts: &Facts<'_>,
        found: Option<&RouteMatch<'_>>,
    ) -> Self {
        let routes = snapshot.routes.in_force.values().map(|info| &info.parsed);
        let taken = explain::taken(routes, listeners, facts);
        let first = taken.first();
        let wins =
            |one: &Taken<'_>| found.is_some_and(|it| it.route == one.route.id() && it.rule == one.rule);
        if first.is_some() != found.is_some() || first.is_some_and(|first| !wins(first)) {
            // A test compares the two; here the route table decides.
            tracing::error!("the route table and the routes that it was made of disagree about a request");
        }
        let shown = taken.iter().take(MAX_MATCHES).enumerate();
        Self {
            matches: shown.map(|(at, one)| Match::new(one, first, at == 0 && wins(one))).collect(),
            more: taken.len().saturating_sub(MAX_MATCHES),
        }
    }

    /// The weights of the backends of the rule that wins, without those of weight 0,
    /// each with random bits that choose it.
    pub fn shares<'w>(&self, snapshot: &'w Snapshot) -> impl Iterator<Item = (u32, u32)> + use<'w> {
        let won = self.matches.first().filter(|one| one.wins);
        let rule =
            won.and_then(|won| snapshot.routes.in_force.get(won.route.as_str())?.parsed.rules.get(won.rule));
        let weights = rule.map_or(&[][..], |rule| &rule.backends).iter().map(|reference| reference.weight);
        let total: u64 = weights.clone().map(u64::from).sum();
        let mut before = 0u64;
        weights.filter(|weight| *weight > 0).map(move |weight| {
            // The least value that, multiplied by `total`, exceeds the weights before this one.
            let random_bits = (before << 32).div_ceil(total);
            before += u64::from(weight);
            (weight, u32::try_from(random_bits).unwrap_or(u32::MAX))
        })
    }
}

impl Match {
    fn new(taken: &Taken<'_>, first: Option<&Taken<'_>>, wins: bool) -> Self {
        let lost = first.filter(|_| !wins).map(|first| explain::precedence(first, taken).1);
        let wanted = taken.wanted;
        Self {
            route: taken.route.id(),
            rule: taken.rule,
            rule_name: taken.route.rules.get(taken.rule).and_then(|rule| rule.name.clone()),
            r#match: taken.place,
            wins,
            lost_by: lost.map(Criterion::code),
            why: lost.map(Criterion::says),
            hostname: taken.hostname.clone(),
            closed: taken.is_closed,
            path: PathCondition::new(&wanted.path),
            method: wanted.method.map(Method::name),
            headers: wanted.headers.len(),
            query: wanted.query.len(),
        }
    }
}

impl PathCondition {
    fn new(path: &PathMatch) -> Self {
        let (kind, value) = match path {
            PathMatch::Exact(value) => ("Exact", value.as_str()),
            PathMatch::Template(template) => ("Template", template.pattern()),
            PathMatch::Prefix(value) => ("PathPrefix", value.as_str()),
            PathMatch::Regex(regex) => ("RegularExpression", regex.pattern()),
        };
        Self { r#type: kind, value: value.to_owned() }
    }
}
