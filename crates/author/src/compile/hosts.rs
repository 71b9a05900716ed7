//! The tries over the labels of hostnames: one for each of the ways in which requests arrive
//! that the routes' listeners tell apart.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::Entry;
use super::error::{CompileError, MAX_CANDIDATES, index_of};
use super::paths::Paths;
use super::tables::Tables;
use crate::Match;
use crate::names::intersection;
use tidegate_policy::route::layout::{HostRow, RouteLayout, Span};

/// For each entry the ranks of its matches, with the matches.
pub(super) type Ranks<'r> = Vec<Vec<(u32, &'r Match)>>;

/// The positions of the entries for each hostname; `None`: for any.
type ByHost<'r> = BTreeMap<Option<&'r str>, Vec<usize>>;

/// A node of a trie.
#[derive(Default)]
struct Host {
    children: BTreeMap<Vec<u8>, Host>,
    exact: Option<u32>,
    wildcard: Option<u32>,
}

/// Lays out the hostnames, and the paths below them.
pub(super) fn lay_out<'r>(
    entries: &'r [Entry<'r>],
    ranks: &Ranks<'r>,
    tables: &mut Tables,
    layout: &mut RouteLayout,
) -> Result<(), CompileError> {
    let listeners = || entries.iter().flat_map(|entry| &entry.by);
    let ports: BTreeSet<u16> = listeners().filter_map(|listener| listener.port).collect();
    layout.ports = ports.iter().copied().map(u32::from).collect();
    let is_told_apart = !ports.is_empty() || listeners().any(|listener| listener.https.is_some());
    // 0 is no request's port: it stands for every other one.
    let ports = std::iter::once(0).chain(ports);
    let arrivals = ports.flat_map(|port| [false, true].map(|https| (https, port)));
    let mut roots: Vec<ByHost<'r>> = Vec::new();
    let mut names = 0usize;
    for (https, port) in arrivals.take(if is_told_apart { usize::MAX } else { 1 }) {
        let of_arrival = by_host(entries, https, port);
        names = names.saturating_add(of_arrival.values().map(Vec::len).sum());
        if names > MAX_CANDIDATES {
            return Err(CompileError::TooLarge);
        }
        let known = roots.iter().position(|root| *root == of_arrival);
        let root = known.unwrap_or(roots.len());
        if known.is_none() {
            roots.push(of_arrival);
        }
        if is_told_apart {
            layout.arrivals.push(index_of(root)?);
        }
    }
    layout.roots = index_of(roots.len())?;
    let mut groups = Groups::default();
    let roots = roots.into_iter().map(|root| groups.trie(root, ranks)).collect::<Result<Vec<_>, _>>()?;
    flatten(&roots, tables, layout)?;
    groups.paths.lay_out(tables, layout)
}

/// The entries that take requests which arrive like this.
fn by_host<'r>(entries: &'r [Entry<'r>], https: bool, port: u16) -> ByHost<'r> {
    let mut by_host = ByHost::new();
    for (position, entry) in entries.iter().enumerate() {
        for listener in entry.by.iter().filter(|listener| listener.admits(https, port)) {
            let shared = |host| intersection(host, listener.hostname.as_deref());
            for host in entry.route.hosts().filter_map(shared) {
                let positions = by_host.entry(host).or_default();
                if positions.last() != Some(&position) {
                    positions.push(position);
                }
            }
        }
    }
    by_host
}

/// The tries of paths: hostnames with the same entries share one.
#[derive(Default)]
struct Groups<'r> {
    known: HashMap<Vec<usize>, u32>,
    paths: Paths<'r>,
}

impl<'r> Groups<'r> {
    fn trie(&mut self, by_host: ByHost<'_>, ranks: &Ranks<'r>) -> Result<Host, CompileError> {
        let mut root = Host::default();
        for (host, positions) in by_host {
            let group = self.group(positions, ranks)?;
            match host {
                None => root.wildcard = Some(group),
                Some(name) => hang(&mut root, name, group),
            }
        }
        Ok(root)
    }

    fn group(&mut self, positions: Vec<usize>, ranks: &Ranks<'r>) -> Result<u32, CompileError> {
        if let Some(&group) = self.known.get(&positions) {
            return Ok(group);
        }
        let group = self.paths.group()?;
        for (rank, wanted) in positions.iter().filter_map(|&position| ranks.get(position)).flatten() {
            self.paths.insert(group, *rank, wanted)?;
        }
        self.known.insert(positions, group);
        Ok(group)
    }
}

fn hang(root: &mut Host, name: &str, group: u32) {
    let (name, is_wildcard) = name.strip_prefix("*.").map_or((name, false), |name| (name, true));
    let mut node = root;
    for label in name.rsplit('.') {
        node = node.children.entry(label.as_bytes().to_vec()).or_default();
    }
    *(if is_wildcard { &mut node.wildcard } else { &mut node.exact }) = Some(group);
}

fn flatten(roots: &[Host], tables: &mut Tables, layout: &mut RouteLayout) -> Result<(), CompileError> {
    let mut level: Vec<_> = roots.iter().map(|root| (Span::default(), root)).collect();
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
