//! The specification, read aloud: every match of every route is tried, and the
//! best is taken. Slow, and written without a look at the code it checks.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::HashMap;

use tidegate_policy::author::{Condition, Match, PathMatch, Referent, Route, Rule, ValueMatch};
use tidegate_policy::decide::Facts;

/// What wins: route, rule, the template that took the path, and the name of the
/// backend.
pub type Winner = (String, usize, Option<String>, Option<String>);

pub fn find(routes: &[Route], facts: &Facts<'_>) -> Option<Winner> {
    if !facts.path.starts_with(b"/") {
        return None;
    }
    let host = host_name(facts.host);
    let mut found = Vec::new();
    for route in routes {
        for specificity in specificities(route, host.as_deref()) {
            for (index, rule) in route.rules.iter().enumerate() {
                for (place, wanted) in rule.matches.iter().enumerate() {
                    if holds(wanted, facts) {
                        let age = (route.created.is_none(), route.created, full_name(route));
                        let key = (Reverse(specificity), precedence(wanted), age, index, place);
                        found.push((key, route, index, rule, wanted));
                    }
                }
            }
        }
    }
    let (_, route, index, rule, wanted) = found.into_iter().min_by(|one, other| one.0.cmp(&other.0))?;
    let template = match &wanted.path {
        PathMatch::Template(template) => Some(template.pattern().to_owned()),
        _ => None,
    };
    Some((route.name.clone(), index, template, backend(rule, facts.dice)))
}

fn full_name(route: &Route) -> String {
    format!("{}/{}", route.namespace.as_deref().unwrap_or("default"), route.name)
}

/// Exact path, template (more literal elements, then those further left), regex,
/// longest prefix; then method, headers, query parameters.
fn precedence(wanted: &Match) -> impl Ord + use<> {
    let path = match &wanted.path {
        PathMatch::Exact(_) => (0, Reverse(0), vec![]),
        PathMatch::Template(template) => {
            let opens: Vec<_> = template.pattern().split('/').map(|element| element.contains('{')).collect();
            (1, Reverse(opens.iter().filter(|is_open| !**is_open).count()), opens)
        }
        PathMatch::Regex(_) => (2, Reverse(0), vec![]),
        PathMatch::Prefix(prefix) => (3, Reverse(prefix.trim_end_matches('/').len()), vec![]),
    };
    (path, wanted.method.is_none(), Reverse(wanted.headers.len()), Reverse(wanted.query.len()))
}

/// The name in lower case; none for what has none.
fn host_name(host: &[u8]) -> Option<String> {
    let host = std::str::from_utf8(host).ok()?.to_ascii_lowercase();
    let name = match host.split_once(':') {
        Some((name, port)) if port.chars().all(|c| c.is_ascii_digit()) => name.to_owned(),
        Some(_) => return None,
        None => host,
    };
    let name = name.strip_suffix('.').unwrap_or(&name).to_owned();
    (!name.is_empty() && name.split('.').all(|label| !label.is_empty())).then_some(name)
}

/// For each hostname of the route that matches: characters in an exact
/// hostname, then characters in a hostname.
fn specificities(route: &Route, host: Option<&str>) -> Vec<(usize, usize)> {
    if route.hostnames.is_empty() {
        return vec![(0, 0)];
    }
    let Some(host) = host else { return Vec::new() };
    let of = |name: &String| match name.strip_prefix('*') {
        Some(suffix) => (host.ends_with(suffix) && host.len() > suffix.len()).then_some((0, name.len())),
        None => (name == host).then_some((name.len(), name.len())),
    };
    route.hostnames.iter().filter_map(of).collect()
}

fn holds(wanted: &Match, facts: &Facts<'_>) -> bool {
    let target = facts.path.split(|&b| b == b'#').next().unwrap();
    let (path, query) = match target.iter().position(|&b| b == b'?') {
        Some(at) => (&target[..at], &target[at + 1..]),
        None => (target, &target[target.len()..]),
    };
    path_holds(&wanted.path, path)
        && wanted.method.is_none_or(|method| method.name().as_bytes() == facts.method)
        && wanted.headers.iter().all(|condition| header_holds(condition, facts))
        && wanted.query.iter().all(|condition| query_holds(condition, query))
}

fn path_holds(wanted: &PathMatch, path: &[u8]) -> bool {
    match wanted {
        PathMatch::Exact(value) => path == value.as_bytes(),
        PathMatch::Template(template) => template_holds(template.pattern(), path),
        PathMatch::Prefix(prefix) => {
            let prefix = prefix.trim_end_matches('/').as_bytes();
            path == prefix || (path.starts_with(prefix) && path[prefix.len()] == b'/')
        }
        PathMatch::Regex(regex) => regex_holds(regex.pattern(), path),
    }
}

/// By a regex in its place.
fn template_holds(pattern: &str, path: &[u8]) -> bool {
    let open = |element: &str| match element.contains('{') {
        true => "[^/]+".to_owned(),
        false => regex::escape(element),
    };
    regex_holds(&format!("(?s-u:{})", pattern.split('/').map(open).collect::<Vec<_>>().join("/")), path)
}

fn header_holds(wanted: &Condition, facts: &Facts<'_>) -> bool {
    let of_name = |line: &&(&[u8], &[u8])| line.0.eq_ignore_ascii_case(wanted.name.as_bytes());
    let lines: Vec<&[u8]> = facts.headers.iter().filter(of_name).map(|line| line.1).collect();
    !lines.is_empty() && value_holds(&wanted.value, &lines.join(&b','))
}

fn query_holds(wanted: &Condition, query: &[u8]) -> bool {
    let pairs = query.split(|&b| b == b'&').map(|pair| match pair.iter().position(|&b| b == b'=') {
        Some(at) => (&pair[..at], &pair[at + 1..]),
        None => (pair, &[][..]),
    });
    let mut of_name = pairs.filter(|pair| pair.0 == wanted.name.as_bytes());
    of_name.next().is_some_and(|pair| value_holds(&wanted.value, pair.1))
}

fn value_holds(wanted: &ValueMatch, value: &[u8]) -> bool {
    match wanted {
        ValueMatch::Exact(wanted) => value == wanted.as_bytes(),
        ValueMatch::Regex(regex) => regex_holds(regex.pattern(), value),
    }
}

/// By another engine.
fn regex_holds(pattern: &str, value: &[u8]) -> bool {
    thread_local! {
        static COMPILED: RefCell<HashMap<String, regex::bytes::Regex>> = RefCell::default();
    }
    let compile = || {
        let whole = format!(r"\A(?:{pattern})\z");
        regex::bytes::RegexBuilder::new(&whole).unicode(false).build().unwrap()
    };
    COMPILED.with_borrow_mut(|all| all.entry(pattern.to_owned()).or_insert_with(compile).is_match(value))
}

fn backend(rule: &Rule, dice: u32) -> Option<String> {
    let total: u64 = rule.backends.iter().map(|reference| u64::from(reference.weight)).sum();
    let mut point = (u64::from(dice) * total) >> 32;
    for reference in &rule.backends {
        match (point.checked_sub(u64::from(reference.weight)), &reference.to) {
            (Some(rest), _) => point = rest,
            (None, Referent::Service(backend)) => return Some(backend.name.clone()),
            (None, Referent::Api(_) | Referent::Foreign(_)) => return None,
        }
    }
    None
}
