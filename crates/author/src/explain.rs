//! Which matches a request satisfies, and by which criterion one of them wins: the
//! specification, written out plainly. Every match of every route is tried, one after the
//! other, so this is slow. It does not use the compiled table, so that a test can compare
//! the two. `GET /api/admin/explain` shows from it why a match lost.

use std::cmp::{Ordering, Reverse};
use std::net::Ipv6Addr;

use percent_encoding::percent_decode;

use super::names::{covers, intersection};
use super::{Condition, Element, Listener, Listeners, Match, PathMatch, Route, Template, ValueMatch};
use tidegate_policy::request::Facts;

/// A match that a request satisfies.
#[derive(Clone, Debug)]
pub struct Taken<'r> {
    /// Its route.
    pub route: &'r Route,
    /// The index of its rule within the route.
    pub rule: usize,
    /// Its index within the rule.
    pub place: usize,
    /// The most specific hostname that route and listener have in common and that the
    /// request has; `None`: neither has one.
    pub hostname: Option<String>,
    /// Whether it is answered with 500, because a listener that its route names is not known.
    pub is_closed: bool,
    /// The match.
    pub wanted: &'r Match,
}

/// What decides between two matches that a request satisfies, in the order in which the
/// criteria are compared.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Criterion {
    /// An exact hostname, a longer wildcard, a shorter one, none.
    Hostname,
    /// `Exact`, `Template`, `RegularExpression`, `PathPrefix`.
    PathType,
    /// Of two prefixes the longer.
    PathLength,
    /// Of two templates the one with more literal elements, then the one that is
    /// literal where they first differ.
    Literals,
    /// One with a method.
    Method,
    /// The one with more conditions on headers.
    Headers,
    /// The one with more conditions on query parameters.
    Query,
    /// The older route.
    Age,
    /// The route that comes first by `{namespace}/{name}`.
    Name,
    /// The one that comes first within its route.
    Order,
}

impl Criterion {
    const ALL: [Self; 10] = [
        Self::Hostname,
        Self::PathType,
        Self::PathLength,
        Self::Literals,
        Self::Method,
        Self::Headers,
        Self::Query,
        Self::Age,
        Self::Name,
        Self::Order,
    ];

    /// The stable name.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Hostname => "hostname",
            Self::PathType => "path_type",
            Self::PathLength => "path_length",
            Self::Literals => "literals",
            Self::Method => "method",
            Self::Headers => "headers",
            Self::Query => "query",
            Self::Age => "age",
            Self::Name => "name",
            Self::Order => "order",
        }
    }

    /// Why a match lost by this criterion, as text for people.
    #[must_use]
    pub fn says(self) -> &'static str {
        match self {
            Self::Hostname => "its hostname is less specific",
            Self::PathType => {
                "its type of path comes later: Exact, then Template, RegularExpression, PathPrefix"
            }
            Self::PathLength => "its prefix is shorter",
            Self::Literals => {
                "its template has fewer literal elements, or as many and is open where they first differ"
            }
            Self::Method => "it asks for no method",
            Self::Headers => "it asks for fewer headers",
            Self::Query => "it asks for fewer query parameters",
            Self::Age => "its route is younger",
            Self::Name => "its route comes later by namespace/name",
            Self::Order => "it comes later in its route",
        }
    }
}

/// The names of the listeners by which a request came.
pub fn came_by<'l>(listeners: &'l Listeners, facts: &Facts<'_>) -> impl Iterator<Item = &'l str> {
    let host = host_name(facts.host);
    let came_by = move |listener: &Listener, https, port| {
        let holds = |host: &String| hostname_holds(listener.hostname.as_deref(), host);
        listener.admits(https, port) && host.as_ref().is_some_and(holds)
    };
    let (https, port) = (facts.https, facts.port);
    listeners.iter().filter(move |one| came_by(one.1, https, port)).map(|one| one.0.as_str())
}

/// All matches of these routes that a request satisfies, in the order of precedence: the
/// first wins.
pub fn taken<'r>(
    routes: impl IntoIterator<Item = &'r Route>,
    listeners: &Listeners,
    facts: &Facts<'_>,
) -> Vec<Taken<'r>> {
    let mut taken = Vec::new();
    if facts.path.starts_with(b"/") {
        let Some(host) = host_name(facts.host) else { return taken };
        for route in routes {
            taken_of(route, listeners, &host, facts, &mut taken);
        }
    }
    taken.sort_by(|one, other| precedence(one, other).0);
    taken
}

fn taken_of<'r>(
    route: &'r Route,
    listeners: &Listeners,
    host: &str,
    facts: &Facts<'_>,
    taken: &mut Vec<Taken<'r>>,
) {
    let most_specific = |listener: &Listener| -> Option<Option<String>> {
        let shared = |name| intersection(name, listener.hostname.as_deref());
        let names = route.hosts().filter_map(shared).filter(|name| hostname_holds(*name, host));
        names.max_by_key(|name| specificity(*name)).map(|name| name.map(str::to_owned))
    };
    let held = route.holds(listeners);
    let by = held.by.iter().filter(|listener| listener.admits(facts.https, facts.port));
    let open = by.filter_map(most_specific).max_by_key(|name| specificity(name.as_deref()));
    let is_closed = open.is_none();
    let closed = || most_specific(&Listener::default()).filter(|_| held.has_unknown);
    let Some(hostname) = open.or_else(closed) else { return };
    for (rule, of_rule) in route.rules.iter().enumerate() {
        for (place, wanted) in of_rule.matches.iter().enumerate() {
            if holds(wanted, facts) {
                taken.push(Taken { route, rule, place, hostname: hostname.clone(), is_closed, wanted });
            }
        }
    }
}

/// How two matches that a request satisfies compare, and by which criterion; `Less`: `one`
/// comes first.
#[must_use]
pub fn precedence(one: &Taken<'_>, other: &Taken<'_>) -> (Ordering, Criterion) {
    let differs = |by: &Criterion| by_criterion(*by, one, other) != Ordering::Equal;
    let by = Criterion::ALL.into_iter().find(differs).unwrap_or(Criterion::Order);
    (by_criterion(by, one, other), by)
}

fn by_criterion(by: Criterion, one: &Taken<'_>, other: &Taken<'_>) -> Ordering {
    fn key<K: Ord>(one: &Taken<'_>, other: &Taken<'_>, key: impl Fn(&Taken<'_>) -> K) -> Ordering {
        key(one).cmp(&key(other))
    }
    match by {
        Criterion::Hostname => key(one, other, |taken| Reverse(specificity(taken.hostname.as_deref()))),
        Criterion::PathType => key(one, other, |taken| path_type(&taken.wanted.path)),
        Criterion::PathLength => key(one, other, |taken| Reverse(prefix_length(&taken.wanted.path))),
        Criterion::Literals => key(one, other, |taken| openings(&taken.wanted.path)),
        Criterion::Method => key(one, other, |taken| taken.wanted.method.is_none()),
        Criterion::Headers => key(one, other, |taken| Reverse(taken.wanted.headers.len())),
        Criterion::Query => key(one, other, |taken| Reverse(taken.wanted.query.len())),
        Criterion::Age => key(one, other, |taken| (taken.route.created.is_none(), taken.route.created)),
        Criterion::Name => key(one, other, |taken| taken.route.full_name()),
        Criterion::Order => key(one, other, |taken| (taken.rule, taken.place)),
    }
}

/// Characters in an exact hostname, then characters in a hostname.
fn specificity(hostname: Option<&str>) -> (usize, usize) {
    match hostname {
        None => (0, 0),
        Some(name) if name.starts_with('*') => (0, name.len()),
        Some(name) => (name.len(), name.len()),
    }
}

fn path_type(path: &PathMatch) -> u8 {
    match path {
        PathMatch::Exact(_) => 0,
        PathMatch::Template(_) => 1,
        PathMatch::Regex(_) => 2,
        PathMatch::Prefix(_) => 3,
    }
}

/// A trailing `/` does not count.
fn prefix_length(path: &PathMatch) -> usize {
    match path {
        PathMatch::Prefix(prefix) => prefix.trim_end_matches('/').len(),
        PathMatch::Exact(_) | PathMatch::Template(_) | PathMatch::Regex(_) => 0,
    }
}

/// How many elements of a template are not literal, then which.
fn openings(path: &PathMatch) -> (usize, Vec<bool>) {
    match path {
        PathMatch::Template(template) => {
            let open: Vec<_> = template.elements().map(|one| matches!(one, Element::Any(_))).collect();
            (open.iter().filter(|is_open| **is_open).count(), open)
        }
        PathMatch::Exact(_) | PathMatch::Prefix(_) | PathMatch::Regex(_) => (0, Vec::new()),
    }
}

/// The host's name in lower case, empty where there is none (an address, or no host at all);
/// `None`: it is neither `host` nor `host:port`.
fn host_name(host: &[u8]) -> Option<String> {
    let host = std::str::from_utf8(host).ok()?.to_ascii_lowercase();
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, port),
        _ => (host.as_str(), ""),
    };
    let is_port = port.is_empty() || port.chars().all(|c| c.is_ascii_digit()) && port.parse::<u16>().is_ok();
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    let name = match address {
        Some(address) => return (is_port && address.parse::<Ipv6Addr>().is_ok()).then(String::new),
        None => name.strip_suffix('.').unwrap_or(name),
    };
    let is_inside = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let is_name =
        name.len() <= 253 && name.split('.').all(|label| !label.is_empty() && label.chars().all(is_inside));
    (host.is_empty() || is_port && is_name).then(|| name.to_owned())
}

/// Whether a host is among those that a hostname stands for; `None`: any host, and one without a
/// name.
fn hostname_holds(name: Option<&str>, host: &str) -> bool {
    name.is_none_or(|name| covers(name, host))
}

fn holds(wanted: &Match, facts: &Facts<'_>) -> bool {
    let target = before(facts.path, b'#').0;
    let (path, query) = before(target, b'?');
    path_holds(&wanted.path, path)
        && wanted.method.is_none_or(|method| method.name().as_bytes() == facts.method)
        && wanted.headers.iter().all(|condition| header_holds(condition, facts))
        && wanted.query.iter().all(|condition| query_holds(condition, query))
}

/// The bytes before the first `mark`, and those after it.
fn before(bytes: &[u8], mark: u8) -> (&[u8], &[u8]) {
    let mut parts = bytes.splitn(2, |&b| b == mark);
    (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
}

fn path_holds(wanted: &PathMatch, path: &[u8]) -> bool {
    match wanted {
        PathMatch::Exact(value) => path == value.as_bytes(),
        PathMatch::Template(template) => template_holds(template, path),
        PathMatch::Prefix(prefix) => {
            let rest = path.strip_prefix(prefix.trim_end_matches('/').as_bytes());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
        }
        PathMatch::Regex(regex) => regex.is_match(path),
    }
}

fn template_holds(template: &Template, path: &[u8]) -> bool {
    // The part before the first `/` is empty.
    let mut elements = path.split(|&b| b == b'/').skip(1);
    let all = template.elements().all(|wanted| match (wanted, elements.next()) {
        (_, None) => false,
        (Element::Any(_), Some(element)) => !element.is_empty(),
        (Element::Literal(literal), Some(element)) => literal.as_bytes() == element,
    });
    all && elements.next().is_none()
}

fn header_holds(wanted: &Condition, facts: &Facts<'_>) -> bool {
    if wanted.name == "host" {
        return !facts.host.is_empty() && value_holds(&wanted.value, facts.host);
    }
    let of_name = |line: &&(&[u8], &[u8])| line.0.eq_ignore_ascii_case(wanted.name.as_bytes());
    let lines: Vec<&[u8]> = facts.headers.iter().filter(of_name).map(|line| line.1).collect();
    let between = if wanted.name == "cookie" { &b"; "[..] } else { b"," };
    !lines.is_empty() && value_holds(&wanted.value, &lines.join(between))
}

fn query_holds(wanted: &Condition, query: &[u8]) -> bool {
    let mut pairs = query.split(|&b| b == b'&').map(|pair| before(pair, b'='));
    let first = pairs.find(|pair| decoded(pair.0) == wanted.name.as_bytes());
    first.is_some_and(|pair| value_holds(&wanted.value, &decoded(pair.1)))
}

/// A name or value of a query, as HTML forms encode them.
fn decoded(text: &[u8]) -> Vec<u8> {
    let spaced: Vec<u8> = text.iter().map(|&b| if b == b'+' { b' ' } else { b }).collect();
    percent_decode(&spaced).collect()
}

fn value_holds(wanted: &ValueMatch, value: &[u8]) -> bool {
    match wanted {
        ValueMatch::Exact(wanted) => value == wanted.as_bytes(),
        ValueMatch::Regex(regex) => regex.is_match(value),
    }
}
