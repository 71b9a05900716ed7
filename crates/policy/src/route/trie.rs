//! A forest of tries over labels: hostnames by label, paths by element.

use super::layout::Span;
use crate::wire::WireError;

/// One or more tries in one array, level by level: the roots, then the children
/// of each node in the nodes' order.
pub(super) struct Trie<P> {
    nodes: Vec<Node<P>>,
}

struct Node<P> {
    label: Span,
    parent: Option<u32>,
    first_child: u32,
    children: u32,
    payload: P,
}

/// A node as it is written: its label, how many children it has, its payload.
pub(super) type Row<P> = (Span, u32, P);

impl<P> Trie<P> {
    /// No trie at all.
    pub fn empty() -> Self {
        Self { nodes: Vec::new() }
    }

    /// Lays the nodes out. Each node but the first `roots` must be the child of
    /// exactly one earlier node, so a way up or down always ends.
    pub fn load(rows: impl ExactSizeIterator<Item = Row<P>>, roots: u32) -> Result<Self, WireError> {
        let bad = WireError::Malformed("a trie's nodes do not add up");
        let len = u32::try_from(rows.len()).map_err(|_| bad.clone())?;
        let mut nodes = Vec::with_capacity(rows.len());
        let mut parents: Vec<Option<u32>> = Vec::with_capacity(rows.len());
        if roots > len {
            return Err(bad);
        }
        parents.extend((0..roots).map(|_| None));
        for (at, (label, children, payload)) in (0u32..).zip(rows) {
            let first_child = u32::try_from(parents.len()).map_err(|_| bad.clone())?;
            let Some(&parent) = usize::try_from(at).ok().and_then(|at| parents.get(at)) else {
                return Err(bad);
            };
            if children > len.saturating_sub(first_child) {
                return Err(bad);
            }
            parents.extend((0..children).map(|_| Some(at)));
            nodes.push(Node { label, parent, first_child, children, payload });
        }
        if parents.len() == nodes.len() { Ok(Self { nodes }) } else { Err(bad) }
    }

    fn node(&self, at: u32) -> Option<&Node<P>> {
        self.nodes.get(usize::try_from(at).ok()?)
    }

    /// What `at` holds.
    pub fn payload(&self, at: u32) -> Option<&P> {
        self.node(at).map(|node| &node.payload)
    }

    /// The child of `at` by this label.
    pub fn child(&self, at: u32, label: &[u8], text: &[u8]) -> Option<u32> {
        let node = self.node(at)?;
        let (mut low, mut high) = (node.first_child, node.first_child.saturating_add(node.children));
        while low < high {
            let middle = low.midpoint(high);
            match slice(text, self.node(middle)?.label)?.cmp(label) {
                std::cmp::Ordering::Less => low = middle.saturating_add(1),
                std::cmp::Ordering::Equal => return Some(middle),
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        None
    }

    /// `at`, its parent, and so on to the root.
    pub fn upwards(&self, at: u32) -> impl Iterator<Item = &P> {
        std::iter::successors(self.node(at), |node| node.parent.and_then(|parent| self.node(parent)))
            .map(|node| &node.payload)
    }
}

/// What a span covers.
pub(super) fn slice<T>(list: &[T], span: Span) -> Option<&[T]> {
    let start = usize::try_from(span.start).ok()?;
    let len = usize::try_from(span.len).ok()?;
    list.get(start..)?.get(..len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(children: &[u32]) -> Vec<Row<()>> {
        children.iter().map(|&n| (Span::default(), n, ())).collect()
    }

    #[test]
    fn nodes_must_add_up() {
        assert!(Trie::load(rows(&[2, 0, 1, 0]).into_iter(), 1).is_ok());
        assert!(Trie::load(rows(&[0, 0]).into_iter(), 2).is_ok());
        assert!(Trie::load(rows(&[]).into_iter(), 0).is_ok());
        for (children, roots) in
            [(&[1][..], 1), (&[0, 0], 1), (&[2, 0], 1), (&[u32::MAX], 1), (&[0], 2), (&[0, 1], 1)]
        {
            assert!(Trie::load(rows(children).into_iter(), roots).is_err(), "{children:?} {roots}");
        }
    }
}
