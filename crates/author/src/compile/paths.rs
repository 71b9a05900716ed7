//! The tries over path elements.

use std::collections::BTreeMap;

use super::candidates::{Candidate, reachable};
use super::error::{CompileError, MAX_CANDIDATES, index_of};
use super::shapes;
use super::tables::Tables;
use crate::pattern::{PathTest, ShapeElement};
use crate::{Element, Match, PathMatch, Regex};
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
    templates: shapes::Node<'r>,
    regexes: shapes::Node<'r>,
}

#[derive(Default)]
struct Path<'r> {
    children: BTreeMap<&'r [u8], Path<'r>>,
    exact: Vec<Candidate>,
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
        let shapes = match &wanted.path {
            PathMatch::Regex(regex) => regex.of_paths().shapes.len(),
            PathMatch::Exact(_) | PathMatch::Template(_) | PathMatch::Prefix(_) => 1,
        };
        self.candidates = self.candidates.saturating_add(shapes);
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
            PathMatch::Template(template) => {
                let elements = template.elements().map(|element| match element {
                    Element::Any(_) => None,
                    Element::Literal(literal) => Some(literal.as_bytes()),
                });
                group.templates.descend(elements).ends.push(candidate(is_plain));
            }
            PathMatch::Prefix(path) => {
                let path = path.strip_suffix('/').unwrap_or(path);
                let elements = elements(path.as_bytes()).filter(|_| !path.is_empty());
                root.descend(elements).prefixes.push(candidate(is_plain));
            }
            PathMatch::Regex(regex) => insert_regex(&mut group.regexes, regex, rank, is_plain),
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
                let prefixes = list(&mut node.prefixes)?;
                let children = index_of(node.children.len())?;
                layout.paths.push(PathRow { label, children, exact, prefixes });
                for (label, child) in &mut node.children {
                    next.push((tables.text(label)?, child));
                }
            }
            level = next;
        }
        let templates = self.groups.iter_mut().map(|group| &mut group.templates);
        layout.templates = shapes::lay_out(templates, tables, layout)?;
        let regexes = self.groups.iter_mut().map(|group| &mut group.regexes);
        layout.regex_shapes = shapes::lay_out(regexes, tables, layout)?;
        Ok(())
    }
}

/// `is_plain`: the match has no condition besides the path.
fn insert_regex<'r>(root: &mut shapes::Node<'r>, regex: &'r Regex, rank: u32, is_plain: bool) {
    let of_paths = regex.of_paths();
    let says_all = matches!(&of_paths.test, PathTest::Elements(tests) if tests.is_empty());
    for shape in &of_paths.shapes {
        let node = root.descend(shape.elements.iter().map(|element| match element {
            ShapeElement::Any => None,
            ShapeElement::Literal(literal) => Some(literal.as_slice()),
        }));
        let list = if shape.is_prefix { &mut node.prefixes } else { &mut node.ends };
        list.push(Candidate { rank, is_certain: is_plain && says_all });
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
