//! Compiles routes to the bytes of a [`RouteTable`](tidegate_policy::route::RouteTable).

mod candidates;
mod error;
mod hosts;
mod paths;
mod shapes;
mod tables;

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::{Listener, Listeners, MirrorRef, ObjectRef, PathMatch, Route, Rule};
use error::index_of;
pub use error::{CompileError, MAX_AUTOMATA};
use hosts::Ranks;
use tables::{RegexTests, Tables};
use tidegate_policy::codec::encode;
use tidegate_policy::route::action::{Action, Mirror};
use tidegate_policy::route::layout::{MatchRow, PathTest, RouteLayout, RuleRow, WeightedBackendRow};
use tidegate_policy::route::{Backend, MAX_ROUTE_TABLE, ROUTES_FORMAT, Target};

/// The backends of the API, by name.
pub type Backends = BTreeMap<String, Target>;

/// Compiles these routes to a table. Their order does not matter: the same routes always
/// give the same bytes. `backends`: those that references can name besides Envoy's
/// clusters. `listeners`: those that `parentRefs` can name; a route that names another is
/// closed where none of its others holds: what it would take gets 500, and goes to no other
/// route.
///
/// # Errors
/// See [`CompileError`].
pub fn compile(
    routes: &[Route],
    backends: &Backends,
    listeners: &Listeners,
) -> Result<Vec<u8>, CompileError> {
    let routes = by_precedence(routes)?;
    let entries: Vec<_> = routes.iter().flat_map(|route| Entry::of(route, listeners)).collect();
    let lay_out = |regex_tests| -> Result<RouteLayout, CompileError> {
        let mut layout = RouteLayout::default();
        let mut tables = Tables::new(&routes, regex_tests);
        let ranks = lay_out_matches(&entries, backends, &mut tables, &mut layout)?;
        hosts::lay_out(&entries, &ranks, &mut tables, &mut layout)?;
        tables.finish(&mut layout);
        Ok(layout)
    };
    let layout = match lay_out(RegexTests::Elements) {
        Err(CompileError::TooManyRegexes) => lay_out(RegexTests::Whole)?,
        layout => layout?,
    };
    if !layout.can_be_read() {
        return Err(CompileError::TooLarge);
    }
    let bytes = encode(ROUTES_FORMAT, &layout)?;
    if bytes.len() > MAX_ROUTE_TABLE { Err(CompileError::TooLarge) } else { Ok(bytes) }
}

/// The routes in the order in which ties are resolved: the older first, then by
/// `{namespace}/{name}` as one string.
fn by_precedence(routes: &[Route]) -> Result<Vec<&Route>, CompileError> {
    let mut named: Vec<_> = routes.iter().map(|route| (route.full_name(), route)).collect();
    named.sort_by(|one, other| one.0.cmp(&other.0));
    for (one, other) in named.iter().zip(named.iter().skip(1)) {
        if one.0 == other.0 {
            return Err(CompileError::Duplicate(one.0.clone()));
        }
    }
    // Stable: at the same age the order by name stays.
    named.sort_by_key(|(_, route)| (route.created.is_none(), route.created));
    Ok(named.into_iter().map(|(_, route)| route).collect())
}

/// A route in the table, or what is closed of it.
struct Entry<'r> {
    route: &'r Route,
    /// The listeners by which its requests come.
    by: Vec<Listener>,
    /// Whether these requests get 500, because a listener that the route names is not known.
    is_closed: bool,
}

impl<'r> Entry<'r> {
    /// What is closed comes after what is not: the same matches of the latter win.
    fn of(route: &'r Route, listeners: &Listeners) -> impl Iterator<Item = Self> + use<'r> {
        let holds = route.holds(listeners);
        let closed =
            holds.has_unknown.then(|| Self { route, by: vec![Listener::default()], is_closed: true });
        std::iter::once(Self { route, by: holds.by, is_closed: false }).chain(closed)
    }
}

fn lay_out_matches<'r>(
    entries: &[Entry<'r>],
    backends: &Backends,
    tables: &mut Tables,
    layout: &mut RouteLayout,
) -> Result<Ranks<'r>, CompileError> {
    let mut matches = Vec::new();
    for (position, Entry { route, is_closed, .. }) in entries.iter().enumerate() {
        if !is_closed {
            layout.routes.push(route.id());
        }
        let number = index_of(layout.routes.len().saturating_sub(1))?;
        for (index, rule) in route.rules.iter().enumerate() {
            let row = index_of(layout.rules.len())?;
            let empty = RuleRow {
                route: number,
                index: index_of(index)?,
                weighted_backends: 0,
                geo: 0,
                action: None,
            };
            let filled = match is_closed {
                true => empty,
                false => {
                    let weighted_backends = lay_out_backends(route, rule, backends, tables, layout)?;
                    let geo = index_of(rule.geo.len())?;
                    layout.geo.extend(rule.geo.iter().cloned());
                    let action = with_mirrors(&rule.action, &rule.mirrors, route, backends);
                    RuleRow { weighted_backends, geo, action: tables.action(action, layout)?, ..empty }
                }
            };
            layout.rules.push(filled);
            matches.extend(rule.matches.iter().map(|wanted| (row, position, wanted)));
        }
    }
    // Stable: on ties the order by route (age, name), rule and match stays.
    matches.sort_by_key(|(_, _, wanted)| {
        (wanted.method.is_none(), Reverse(wanted.headers.len()), Reverse(wanted.query.len()))
    });
    let mut ranks = vec![Vec::new(); entries.len()];
    for (rank, (rule, position, wanted)) in matches.into_iter().enumerate() {
        let path = match &wanted.path {
            PathMatch::Regex(regex) => tables.path_test(regex)?,
            PathMatch::Template(template) => PathTest::Template(tables.text(template.pattern().as_bytes())?),
            PathMatch::Exact(_) | PathMatch::Prefix(_) => PathTest::Known,
        };
        let conditions = index_of(wanted.headers.len().saturating_add(wanted.query.len()))?;
        tables.conditions(wanted, layout)?;
        layout.matches.push(MatchRow { rule, method: wanted.method, path, conditions });
        if let Some(of_route) = ranks.get_mut(position) {
            of_route.push((index_of(rank)?, wanted));
        }
    }
    Ok(ranks)
}

/// A rule's weighted backends. A backend that cannot be resolved keeps its share, which is answered
/// with 500.
fn lay_out_backends(
    route: &Route,
    rule: &Rule,
    backends: &Backends,
    tables: &mut Tables,
    layout: &mut RouteLayout,
) -> Result<u32, CompileError> {
    let before = layout.weighted_backends.len();
    for reference in rule.backends.iter().filter(|reference| reference.weight > 0) {
        let backend = resolve(&reference.to, route, backends);
        let backend = backend.map(|backend| tables.backend(backend, layout)).transpose()?;
        let action = with_mirrors(&reference.action, &reference.mirrors, route, backends);
        let action = tables.action(action, layout)?;
        layout.weighted_backends.push(WeightedBackendRow { backend, action, weight: reference.weight });
    }
    index_of(layout.weighted_backends.len().saturating_sub(before))
}

/// An action with those of its mirrors that can be resolved.
fn with_mirrors(action: &Action, mirrors: &[MirrorRef], route: &Route, backends: &Backends) -> Action {
    let mirror = |mirror: &MirrorRef| {
        let MirrorRef { to, numerator, denominator } = mirror;
        let backend = resolve(to, route, backends)?;
        Some(Mirror { backend, numerator: *numerator, denominator: *denominator })
    };
    Action { mirrors: mirrors.iter().filter_map(mirror).collect(), ..action.clone() }
}

/// The backend that a reference names; without a namespace it is in its route's.
fn resolve(to: &ObjectRef, route: &Route, backends: &Backends) -> Option<Backend> {
    let of_api = route.backend_of_api(to).and_then(|name| {
        let target = Some(backends.get(name)?.clone());
        Some(Backend { name: name.to_owned(), namespace: None, port: None, target })
    });
    of_api.or_else(|| match to {
        ObjectRef::Service(backend) => {
            let namespace = backend.namespace.as_ref().or(route.namespace.as_ref());
            Some(Backend { namespace: namespace.cloned(), ..backend.clone() })
        }
        ObjectRef::Api(_) | ObjectRef::Foreign(_) => None,
    })
}
