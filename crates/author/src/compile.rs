//! Compiles routes to the bytes of a [`RouteTable`](tidegate_policy::route::RouteTable).

mod candidates;
mod error;
mod paths;
mod tables;
mod templates;

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

use super::{Match, MirrorRef, ObjectRef, PathMatch, Route, Rule};
use error::index_of;
pub use error::{CompileError, MAX_AUTOMATA};
use paths::Paths;
use tables::Tables;
use tidegate_policy::codec::encode;
use tidegate_policy::route::action::{Action, Mirror};
use tidegate_policy::route::layout::{
    HostRow, MatchRow, PathTest, RouteLayout, RuleRow, Span, WeightedBackendRow,
};
use tidegate_policy::route::{Backend, MAX_ROUTE_TABLE, ROUTES_FORMAT, Target};

/// The backends of the API, by name.
pub type Backends = BTreeMap<String, Target>;

/// Compiles these routes to a table. Their order does not matter: the same routes always
/// give the same bytes. `backends`: those that references can name besides Envoy's
/// clusters.
///
/// # Errors
/// See [`CompileError`].
pub fn compile(routes: &[Route], backends: &Backends) -> Result<Vec<u8>, CompileError> {
    let routes = by_precedence(routes)?;
    let mut layout = RouteLayout::default();
    let mut tables = Tables::new(&routes);
    let ranks = lay_out_matches(&routes, backends, &mut tables, &mut layout)?;
    lay_out_hosts(&routes, &ranks, &mut tables, &mut layout)?;
    tables.finish(&mut layout);
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

/// For each route its matches' ranks, with the matches.
type Ranks<'r> = Vec<Vec<(u32, &'r Match)>>;

fn lay_out_matches<'r>(
    routes: &[&'r Route],
    backends: &Backends,
    tables: &mut Tables,
    layout: &mut RouteLayout,
) -> Result<Ranks<'r>, CompileError> {
    let mut matches = Vec::new();
    for (position, route) in routes.iter().enumerate() {
        layout.routes.push(route.id());
        for (index, rule) in route.rules.iter().enumerate() {
            let row = index_of(layout.rules.len())?;
            let weighted_backends = lay_out_backends(route, rule, backends, tables, layout)?;
            let geo = index_of(rule.geo.len())?;
            layout.geo.extend(rule.geo.iter().cloned());
            let action = tables.action(with_mirrors(&rule.action, &rule.mirrors, route, backends), layout)?;
            let (route, index) = (index_of(position)?, index_of(index)?);
            layout.rules.push(RuleRow { route, index, weighted_backends, geo, action });
            matches.extend(rule.matches.iter().map(|wanted| (row, position, wanted)));
        }
    }
    // Stable: on ties the order by route (age, name), rule and match stays.
    matches.sort_by_key(|(_, _, wanted)| {
        (wanted.method.is_none(), Reverse(wanted.headers.len()), Reverse(wanted.query.len()))
    });
    let mut ranks = vec![Vec::new(); routes.len()];
    for (rank, (rule, position, wanted)) in matches.into_iter().enumerate() {
        let path = match &wanted.path {
            PathMatch::Regex(regex) => PathTest::Regex(tables.regex(regex)?),
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

/// A node of the hostnames' trie.
#[derive(Default)]
struct Host {
    children: BTreeMap<Vec<u8>, Host>,
    exact: Option<u32>,
    wildcard: Option<u32>,
}

fn lay_out_hosts(
    routes: &[&Route],
    ranks: &Ranks<'_>,
    tables: &mut Tables,
    layout: &mut RouteLayout,
) -> Result<(), CompileError> {
    let mut by_host: BTreeMap<Option<&str>, Vec<usize>> = BTreeMap::new();
    for (position, route) in routes.iter().enumerate() {
        let hosts: Vec<_> = match route.hostnames.as_slice() {
            [] => vec![None],
            names => names.iter().map(|name| Some(name.as_str())).collect(),
        };
        for host in hosts {
            let positions = by_host.entry(host).or_default();
            if positions.last() != Some(&position) {
                positions.push(position);
            }
        }
    }
    // Hostnames with the same routes share their paths.
    let mut groups: HashMap<Vec<usize>, u32> = HashMap::new();
    let mut paths = Paths::default();
    let mut root = Host::default();
    for (host, positions) in by_host {
        let group = match groups.get(&positions) {
            Some(&group) => group,
            None => {
                let group = paths.group()?;
                for (rank, wanted) in positions.iter().filter_map(|&position| ranks.get(position)).flatten() {
                    paths.insert(group, *rank, wanted)?;
                }
                groups.insert(positions, group);
                group
            }
        };
        match host {
            None => layout.any_host = Some(group),
            Some(name) => hang(&mut root, name, group),
        }
    }
    flatten_hosts(&root, tables, layout)?;
    paths.lay_out(tables, layout)
}

fn hang(root: &mut Host, name: &str, group: u32) {
    let (name, is_wildcard) = name.strip_prefix("*.").map_or((name, false), |name| (name, true));
    let mut node = root;
    for label in name.rsplit('.') {
        node = node.children.entry(label.as_bytes().to_vec()).or_default();
    }
    *(if is_wildcard { &mut node.wildcard } else { &mut node.exact }) = Some(group);
}

fn flatten_hosts(root: &Host, tables: &mut Tables, layout: &mut RouteLayout) -> Result<(), CompileError> {
    let mut level = vec![(Span::default(), root)];
    while !level.is_empty() {
        let mut next = Vec::new();
        for (label, node) in level {
            let children = index_of(node.children.len())?;
            layout.hosts.push(HostRow { label, children, exact: node.exact, wildcard: node.wildcard });
            for (label, child) in &node.children {
                next.push((tables.text(label)?, child));
            }
        }
        level = next;
    }
    Ok(())
}
