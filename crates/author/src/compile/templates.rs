//! The trie over the elements of path templates.

use std::collections::BTreeMap;

use super::candidates::{Candidate, reachable};
use super::error::{CompileError, index_of};
use super::tables::Tables;
use crate::{Element, Template};
use tidegate_policy::route::layout::{RouteLayout, Span, TemplateRow};

/// A node, and what is below it.
#[derive(Default)]
pub(super) struct Node<'r> {
    any: Option<Box<Self>>,
    literals: BTreeMap<&'r str, Self>,
    ends: Vec<Candidate>,
}

impl<'r> Node<'r> {
    pub fn insert(&mut self, template: &'r Template, candidate: Candidate) {
        let node = template.elements().fold(self, |node, element| match element {
            Element::Any(_) => node.any.get_or_insert_default(),
            Element::Literal(literal) => node.literals.entry(literal).or_default(),
        });
        node.ends.push(candidate);
    }
}

/// Writes tries level by level.
pub(super) fn lay_out<'n, 'r: 'n>(
    roots: impl Iterator<Item = &'n mut Node<'r>>,
    tables: &mut Tables,
    layout: &mut RouteLayout,
) -> Result<(), CompileError> {
    let mut level: Vec<_> = roots.map(|root| (Span::default(), root)).collect();
    while !level.is_empty() {
        let mut next = Vec::new();
        for (label, node) in level {
            let reachable = reachable(&mut node.ends);
            layout.candidates.extend(reachable.iter().map(|candidate| candidate.rank));
            let ends = index_of(reachable.len())?;
            let any = node.any.is_some();
            let children = index_of(node.literals.len().saturating_add(usize::from(any)))?;
            layout.templates.push(TemplateRow { label, children, any, ends });
            next.extend(node.any.as_deref_mut().map(|child| (Span::default(), child)));
            for (label, child) in &mut node.literals {
                next.push((tables.text(label.as_bytes())?, child));
            }
        }
        level = next;
    }
    Ok(())
}
