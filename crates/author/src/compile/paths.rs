//! The tries over path elements.

use std::collections::BTreeMap;

use super::candidates::{Candidate, reachable};
use super::error::{CompileError, MAX_CANDIDATES, index_of};
use super::tables::Tables;
use super::templates;
use crate::{Match, PathMatch};
use tidegate_policy::route::layout::{PathRow, RouteLayout, Span};

/// One trie for each group of hostnames.
#[derive(Default)]
pub(super) struct Paths<'r> {
    groups: Vec<Group<'r>>,
    candidates: usize,
}

#[derive(Default)]
struct Group<'r> {
    paths: Path<'r>,
    templates: templates::Node<'r>,
}

#[derive(Default)]
struct Path<'r> {
    children: BTreeMap<&'r [u8], Path<'r>>,
    exact: Vec<Candidate>,
    regexes: Vec<Candidate>,
    prefixes: Vec<Candidate>,
}

impl<'r> Paths<'r> {
    /// Begins another trie.
    pub fn group(&mut self) -> Result<u32, CompileError> {
        let group = index_of(self.groups.len())?;
        self.groups.push(Group::default());
        Ok(group)
    }

    pub fn insert(&mut self, group: u32, rank: u32, wanted: &'r Match) -> Result<(), CompileError> {
        self.candidates = self.candidates.saturating_add(1);
        if self.candidates > MAX_CANDIDATES {
            return Err(CompileError::TooLarge);
        }
        let Some(group) = usize::try_from(group).ok().and_then(|group| self.groups.get_mut(group)) else {
            return Ok(());
        };
        let root = &mut group.paths;
        let is_plain = wanted.method.is_none() && wanted.headers.is_empty() && wanted.query.is_empty();
        let candidate = |is_certain| Candidate { rank, is_certain };
        match &wanted.path {
            PathMatch::Exact(path) => root.descend(elements(path.as_bytes())).exact.push(candidate(is_plain)),
            PathMatch::Template(template) => group.templates.insert(template, candidate(is_plain)),
            PathMatch::Prefix(path) => {
                let path = path.strip_suffix('/').unwrap_or(path);
                let elements = elements(path.as_bytes()).filter(|_| !path.is_empty());
                root.descend(elements).prefixes.push(candidate(is_plain));
            }
            PathMatch::Regex(regex) => {
                // The last element of a literal beginning may be incomplete.
                let mut elements = elements(regex.literal()).collect::<Vec<_>>();
                elements.pop();
                root.descend(elements.into_iter()).regexes.push(candidate(false));
            }
        }
        Ok(())
    }

    /// Writes the tries level by level.
    pub fn lay_out(mut self, tables: &mut Tables, layout: &mut RouteLayout) -> Result<(), CompileError> {
        layout.groups = index_of(self.groups.len())?;
        let mut level: Vec<_> =
            self.groups.iter_mut().map(|group| (Span::default(), &mut group.paths)).collect();
        while !level.is_empty() {
            let mut next = Vec::new();
            for (label, node) in level {
                let mut list = |candidates: &mut Vec<Candidate>| -> Result<u32, CompileError> {
                    let reachable = reachable(candidates);
                    layout.candidates.extend(reachable.iter().map(|candidate| candidate.rank));
                    index_of(reachable.len())
                };
                let exact = list(&mut node.exact)?;
                let regexes = list(&mut node.regexes)?;
                let prefixes = list(&mut node.prefixes)?;
                let children = index_of(node.children.len())?;
                layout.paths.push(PathRow { label, children, exact, regexes, prefixes });
                for (label, child) in &mut node.children {
                    next.push((tables.text(label)?, child));
                }
            }
            level = next;
        }
        templates::lay_out(self.groups.iter_mut().map(|group| &mut group.templates), tables, layout)
    }
}

impl<'r> Path<'r> {
    fn descend(&mut self, elements: impl Iterator<Item = &'r [u8]>) -> &mut Self {
        elements.fold(self, |node, element| node.children.entry(element).or_default())
    }
}

fn elements(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.strip_prefix(b"/").unwrap_or(path).split(|&b| b == b'/')
}
