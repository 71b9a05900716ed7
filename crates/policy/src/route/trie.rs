//! A forest of tries over labels: hostnames by label, paths and shapes of paths by
//! element.

use super::layout::Span;
use crate::codec::FormatError;

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
    any: bool,
    payload: P,
}

/// A node in its encoded form.
pub(super) struct Row<P> {
    pub label: Span,
    /// How many children it has.
    pub children: u32,
    /// Whether the first of them matches any label.
    pub any: bool,
    pub payload: P,
}

impl<P> Trie<P> {
    /// Without nodes.
    pub fn empty() -> Self {
        Self { nodes: Vec::new() }
    }

    /// Builds the tries from their rows. Each node but the first `roots` must be the child
    /// of exactly one earlier node, so a walk up or down always ends.
    pub fn load(rows: impl ExactSizeIterator<Item = Row<P>>, roots: u32) -> Result<Self, FormatError> {
        let bad = FormatError::Malformed("a trie's nodes do not add up");
        let len = u32::try_from(rows.len()).map_err(|_| bad.clone())?;
        let mut nodes = Vec::with_capacity(rows.len());
        let mut parents: Vec<Option<u32>> = Vec::with_capacity(rows.len());
        if roots > len {
            return Err(bad);
        }
        parents.extend((0..roots).map(|_| None));
        for (at, Row { label, children, any, payload }) in (0u32..).zip(rows) {
            let first_child = u32::try_from(parents.len()).map_err(|_| bad.clone())?;
            let Some(&parent) = usize::try_from(at).ok().and_then(|at| parents.get(at)) else {
                return Err(bad);
            };
            if children > len.saturating_sub(first_child) || (any && children == 0) {
                return Err(bad);
            }
            parents.extend((0..children).map(|_| Some(at)));
            nodes.push(Node { label, parent, first_child, children, any, payload });
        }
        if parents.len() == nodes.len() { Ok(Self { nodes }) } else { Err(bad) }
    }

    fn node(&self, at: u32) -> Option<&Node<P>> {
        self.nodes.get(usize::try_from(at).ok()?)
    }

    /// The payload of the node `at`.
    pub fn payload(&self, at: u32) -> Option<&P> {
        self.node(at).map(|node| &node.payload)
    }

    /// Calls `add` with each node and its parent, a node's children before the node.
    pub fn sum_up(&mut self, add: impl Fn(&P, &mut P)) {
        for at in (0..self.nodes.len()).rev() {
            let Some((above, [node, ..])) = self.nodes.split_at_mut_checked(at) else { continue };
            let parent = node.parent.and_then(|parent| above.get_mut(usize::try_from(parent).ok()?));
            if let Some(parent) = parent {
                add(&node.payload, &mut parent.payload);
            }
        }
    }

    /// Whether the node `at` has no children.
    pub fn is_leaf(&self, at: u32) -> bool {
        self.node(at).is_none_or(|node| node.children == 0)
    }

    /// The child of `at` for any label.
    pub fn any_child(&self, at: u32) -> Option<u32> {
        self.node(at).filter(|node| node.any).map(|node| node.first_child)
    }

    /// The child of `at` by this label.
    pub fn child(&self, at: u32, label: &[u8], text: &[u8]) -> Option<u32> {
        let node = self.node(at)?;
        let mut low = node.first_child.saturating_add(u32::from(node.any));
        let mut high = node.first_child.saturating_add(node.children);
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

/// The items of `list` that `span` covers.
pub(super) fn slice<T>(list: &[T], span: Span) -> Option<&[T]> {
    let start = usize::try_from(span.start).ok()?;
    let len = usize::try_from(span.len).ok()?;
    list.get(start..)?.get(..len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(children: &[u32]) -> Vec<Row<()>> {
        children
            .iter()
            .map(|&children| Row { label: Span::default(), children, any: false, payload: () })
            .collect()
    }

    #[test]
    fn a_child_for_any_label_is_not_found_by_its_own() {
        let row = |start, children, any| Row { label: Span { start, len: 1 }, children, any, payload: () };
        let trie = Trie::load([row(0, 2, true), row(0, 0, false), row(1, 0, false)].into_iter(), 1).unwrap();
        assert_eq!((trie.any_child(0), trie.any_child(1)), (Some(1), None));
        assert_eq!((trie.child(0, b"a", b"ab"), trie.child(0, b"b", b"ab")), (None, Some(2)));
        assert!(Trie::load([row(0, 0, true)].into_iter(), 1).is_err(), "one that is not there");
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
