//! Checks in shadow: the admin service's answer decides, and the cache's is compared
//! with it.

use std::fmt::Write;

use tidegate_policy::UnixSeconds;
use tidegate_policy::decide::{CountrySource, GeoFinding, IpFinding, Tables};
use tidegate_policy::geo::RuleVerdict;
use tidegate_policy::request::Facts;
use tidegate_policy::route::RouteMatch;
use tidegate_policy::wire::check::{Answer, Found, GeoAnswer, RouteAnswer};
use tidegate_policy::wire::event::{MAX_FOUND, Mismatch};

/// Compares the admin service's answer with the cache's for the same request; `None` if
/// they are equal.
#[must_use]
pub fn compare(
    answer: &Answer,
    facts: &Facts<'_>,
    country_source: CountrySource,
    tables: &Tables,
    now: impl Fn() -> UnixSeconds,
) -> Option<Mismatch> {
    let (direct, cached) = match &answer.found {
        Found::Ip(direct) => {
            let cached = IpFinding::look_up(facts, tables, now);
            (*direct != cached).then(|| (of_ip(*direct), of_ip(cached)))
        }
        Found::Geo(direct) => {
            let country = GeoFinding::look_up(facts.client, country_source, tables).country();
            let cached = GeoAnswer { country, verdicts: tables.geo.verdicts(country) };
            (*direct != cached).then(|| (of_geo(direct, &cached), of_geo(&cached, direct)))
        }
        Found::Route(direct) => {
            let (direct, cached) = (RouteAnswer::found(direct), tables.routes.find(facts));
            (direct != cached).then(|| of_routes(direct.ok(), cached.ok()))
        }
    }?;
    Some(Mismatch {
        check: answer.found.check(),
        direct: shortened(direct),
        cached: shortened(cached),
        direct_seq: answer.version.seq,
        cached_seq: tables.version.seq,
    })
}

fn of_ip(found: IpFinding) -> String {
    match found {
        IpFinding::Clear => "clear".to_owned(),
        IpFinding::Allowed(prefix) => ["allowed by ", &prefix.to_string()].concat(),
        IpFinding::Banned(prefix) => ["banned by ", &prefix.to_string()].concat(),
        IpFinding::ShadowBanned(prefix) => ["banned in shadow by ", &prefix.to_string()].concat(),
    }
}

/// The country, then every rule that differs in `other`, with its verdict:
/// `DE: eu allows, law 451 globally`.
fn of_geo(found: &GeoAnswer, other: &GeoAnswer) -> String {
    let differs = |rule: &&RuleVerdict| {
        // Both are in the order of names.
        let same = other.verdicts.binary_search_by(|other| other.name.cmp(&rule.name)).ok();
        same.and_then(|at| other.verdicts.get(at)) != Some(*rule)
    };
    let mut text = found.country.map_or_else(|| "unknown".to_owned(), |country| country.to_string());
    for (at, rule) in found.verdicts.iter().filter(differs).enumerate() {
        text.push_str(if at == 0 { ": " } else { ", " });
        text.push_str(&rule.name);
        match rule.denies {
            None => text.push_str(" allows"),
            // Writing to a string does not fail.
            Some(action) => {
                let _ = write!(text, " {}", action.status());
            }
        }
        if rule.global {
            text.push_str(" globally");
        }
        if rule.shadow {
            text.push_str(" in shadow");
        }
        if text.len() > MAX_FOUND {
            break;
        }
    }
    text
}

/// Both answers as text. If the texts are the same, `, other filters` tells them apart.
fn of_routes(
    direct: Option<Option<RouteMatch<'_>>>,
    cached: Option<Option<RouteMatch<'_>>>,
) -> (String, String) {
    let said = |found: Option<Option<RouteMatch<'_>>>| match found {
        Some(found) => of_route(found.as_ref()),
        None => "too long".to_owned(),
    };
    let (direct, cached) = (said(direct), said(cached));
    if direct == cached { ([&direct, ", other filters"].concat(), cached) } else { (direct, cached) }
}

/// `shop rule 2 by /orders/{id} to backend.prod:8080, geo eu`.
fn of_route(found: Option<&RouteMatch<'_>>) -> String {
    let Some(found) = found else { return "no route".to_owned() };
    let mut text = [found.route, " rule ", &found.rule.to_string()].concat();
    if let Some(template) = found.template {
        text.push_str(" by ");
        text.push_str(template);
    }
    match found.backend {
        None => text.push_str(" to nobody"),
        Some(backend) => {
            text.push_str(" to ");
            text.push_str(&backend.name);
            if let Some(namespace) = &backend.namespace {
                text.push('.');
                text.push_str(namespace);
            }
            if let Some(port) = backend.port {
                let _ = write!(text, ":{port}");
            }
        }
    }
    for name in found.geo {
        text.push_str(", geo ");
        text.push_str(name);
    }
    text
}

fn shortened(mut text: String) -> String {
    let mut end = MAX_FOUND;
    if text.len() > end {
        while !text.is_char_boundary(end) {
            end = end.saturating_sub(1);
        }
        text.truncate(end);
    }
    text
}

#[cfg(test)]
mod tests {
    use tidegate_policy::geo::{Country, GeoAction};
    use tidegate_policy::route::Backend;

    use super::*;

    #[test]
    fn answers_read_as_a_person_would_say_them() {
        assert_eq!(of_ip(IpFinding::Clear), "clear");
        assert_eq!(of_ip(IpFinding::Banned("10.0.0.0/8".parse().unwrap())), "banned by 10.0.0.0/8");
        let rule =
            |name: &str, global, denies| RuleVerdict { name: name.to_owned(), global, denies, shadow: false };
        let verdicts = vec![rule("eu", false, None), rule("law", true, Some(GeoAction::LegalReasons))];
        let geo = GeoAnswer { country: Country::new(b"DE"), verdicts };
        assert_eq!(of_geo(&geo, &GeoAnswer::default()), "DE: eu allows, law 451 globally");
        let other = GeoAnswer { country: None, verdicts: vec![rule("eu", false, None)] };
        assert_eq!(of_geo(&geo, &other), "DE: law 451 globally");
        assert_eq!(of_geo(&other, &geo), "unknown");
        let backend =
            Backend { name: "b".to_owned(), namespace: Some("n".to_owned()), port: Some(80), target: None };
        let geo = ["eu".to_owned()];
        let found = RouteMatch {
            route: "shop",
            rule: 2,
            template: None,
            backend: Some(&backend),
            geo: &geo,
            action: None,
            backend_action: None,
        };
        assert_eq!(of_route(Some(&found)), "shop rule 2 to b.n:80, geo eu");
        let found = RouteMatch { template: Some("/orders/{id}"), geo: &[], ..found };
        assert_eq!(of_route(Some(&found)), "shop rule 2 by /orders/{id} to b.n:80");
        assert_eq!(of_route(None), "no route");
    }

    #[test]
    fn a_long_answer_is_cut_between_characters() {
        let name = "\u{e9}".repeat(MAX_FOUND);
        let found = RouteMatch {
            route: &name,
            rule: 0,
            template: None,
            backend: None,
            geo: &[],
            action: None,
            backend_action: None,
        };
        let text = shortened(of_route(Some(&found)));
        assert!(text.len() <= MAX_FOUND && text.len() > MAX_FOUND - 4, "{}", text.len());
    }
}
