//! The tries over the elements of shapes of paths: of templates, and of what regexes match.

use std::collections::BTreeMap;

use super::candidates::{Candidate, reachable};
use super::error::{CompileError, index_of};
use super::tables::Tables;
use tidegate_policy::route::layout::{RouteLayout, ShapeRow, Span};

/// A node, and what is below it.
#[derive(Default)]
pub(super) struct Node<'r> {
    any: Option<Box<Self>>,
    literals: BTreeMap<&'r [u8], Self>,
    pub ends: Vec<Candidate>,
    pub prefixes: Vec<Candidate>,
}

impl<'r> Node<'r> {
    /// The node for these elements; `None`: any that is not empty.
    pub fn descend(&mut self, elements: impl Iterator<Item = Option<&'r [u8]>>) -> &mut Self {
        elements.fold(self, |node, element| match element {
            None => node.any.get_or_insert_default(),
            Some(literal) => node.literals.entry(literal).or_default(),
        })
    }
}

/// Writes tries level by level: their candidates to the layout; returns their rows.
pub(super) fn lay_out<'n, 'r: 'n>(
    roots: impl Iterator<Item = &'n mut Node<'r>>,
    tables: &mut Tables,
    layout: &mut RouteLayout,
) -> Result<Vec<ShapeRow>, CompileError> {
    let mut rows = Vec::new();
    let mut level: Vec<_> = roots.map(|root| (Span::default(), root)).collect();
    while !level.is_empty() {
        let mut next = Vec::new();
        for (label, node) in level {
            let mut list = |candidates: &mut Vec<Candidate>| -> Result<u32, CompileError> {
                let reachable = reachable(candidates);
                layout.candidates.extend(reachable.iter().map(|candidate| candidate.rank));
                index_of(reachable.len())
            };
            let (ends, prefixes) = (list(&mut node.ends)?, list(&mut node.prefixes)?);
            let any = node.any.is_some();
            let children = index_of(node.literals.len().saturating_add(usize::from(any)))?;
            rows.push(ShapeRow { label, children, any, ends, prefixes });
            next.extend(node.any.as_deref_mut().map(|child| (Span::default(), child)));
            for (label, child) in &mut node.literals {
                next.push((tables.text(label)?, child));
            }
        }
        level = next;
    }
    Ok(rows)
}
