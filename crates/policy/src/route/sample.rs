//! Route tables for this crate's tests, laid out by hand, because the compiler of
//! documents is in a crate that depends on this one.

use super::layout::{
    HostRow, MatchRow, PathRow, PathTest, RouteLayout, RuleRow, ShapeRow, Span, WeightedBackendRow,
};
use super::{Backend, ROUTES_FORMAT, RouteTable};
use crate::codec::encode;

/// One route of this name for any host. Each rule: the only element of its path
/// prefix (`/x`), the names of its geo rules, and the name of its backend on port 80.
pub(crate) fn table(route: &str, rules: &[(&str, &[&str], Option<&str>)]) -> RouteTable {
    let mut layout = RouteLayout {
        routes: vec![route.to_owned()],
        hosts: vec![HostRow { label: Span::default(), children: 0, exact: None, wildcard: Some(0) }],
        roots: 1,
        groups: 1,
        ..RouteLayout::default()
    };
    let node = |label, children, prefixes| PathRow { label, children, exact: 0, prefixes };
    layout.paths.push(node(Span::default(), rules.len() as u32, 0));
    let leaf = || ShapeRow { label: Span::default(), children: 0, any: false, ends: 0, prefixes: 0 };
    layout.templates.push(leaf());
    layout.regex_shapes.push(leaf());
    let mut by_label: Vec<_> = (0u32..).zip(rules).collect();
    by_label.sort_by_key(|(_, (path, ..))| *path);
    for (rank, (path, ..)) in by_label {
        let label = path.strip_prefix('/').unwrap();
        let span = Span { start: layout.text.len() as u32, len: label.len() as u32 };
        layout.text.extend_from_slice(label.as_bytes());
        layout.paths.push(node(span, 0, 1));
        layout.candidates.push(rank);
    }
    for (index, (_, geo, backend)) in (0u32..).zip(rules) {
        layout.geo.extend(geo.iter().map(|name| (*name).to_owned()));
        if let Some(name) = backend {
            let number = Some(layout.backends.len() as u32);
            let name = (*name).to_owned();
            layout.backends.push(Backend { name, namespace: None, port: Some(80), target: None });
            layout.weighted_backends.push(WeightedBackendRow { backend: number, action: None, weight: 1 });
        }
        let weighted_backends = u32::from(backend.is_some());
        layout.rules.push(RuleRow {
            route: 0,
            index,
            weighted_backends,
            geo: geo.len() as u32,
            action: None,
        });
        layout.matches.push(MatchRow { rule: index, method: None, path: PathTest::Known, conditions: 0 });
    }
    RouteTable::from_bytes(&encode(ROUTES_FORMAT, &layout).unwrap()).unwrap()
}
