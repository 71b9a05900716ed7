//! Path templates: which of them match a path, and which of those comes first.

use super::layout::{MAX_ELEMENTS, Span};
use super::trie::Trie;

/// The templates of all groups of hostnames.
pub(super) struct Templates {
    /// By element; each node has the matches on the template that ends there.
    trie: Trie<Span>,
}

impl Templates {
    pub fn new(trie: Trie<Span>) -> Self {
        Self { trie }
    }

    /// The result of `first_match` for the first template of `group` that matches a path of these
    /// elements and for which `first_match` has one.
    ///
    /// Both the literal child and the one for any element are followed, by at most
    /// [`MAX_ELEMENTS`] elements, as long as they can precede the best so far. So the work
    /// grows with the number of templates whose beginning matches the path's, and neither
    /// with the path's length nor with the number of other templates.
    pub fn find<'p>(
        &self,
        group: u32,
        mut elements: impl Iterator<Item = &'p [u8]>,
        text: &[u8],
        first_match: impl FnMut(Span) -> Option<u32>,
    ) -> Option<u32> {
        if self.trie.is_leaf(group) {
            return None;
        }
        let mut path: [&[u8]; MAX_ELEMENTS] = [&[]; MAX_ELEMENTS];
        let len = path.iter_mut().zip(&mut elements).map(|(place, element)| *place = element).count();
        if elements.next().is_some() {
            return None;
        }
        let mut search = Search { trie: &self.trie, text, first_match, best: None };
        search.descend(group, path.get(..len)?, Literals(0));
        Some(search.best?.1)
    }
}

/// Which elements of a template are literal: a bit for each, the first element's the
/// highest. Among the templates that match one path, these bits identify a template.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Literals(u64);

impl Literals {
    /// With another element.
    fn with(self, is_literal: bool) -> Self {
        Self(self.0.saturating_mul(2) | u64::from(is_literal))
    }

    /// With `left` other elements, all literal.
    fn with_literals(self, left: usize) -> Self {
        let shift = |bits: u64| u32::try_from(left).ok().and_then(|left| bits.checked_shl(left)).unwrap_or(0);
        Self(shift(self.0) | shift(1).saturating_sub(1))
    }

    /// The higher comes first, among templates that match one path.
    fn precedence(self) -> (u32, u64) {
        (self.0.count_ones(), self.0)
    }
}

struct Search<'s, F> {
    trie: &'s Trie<Span>,
    text: &'s [u8],
    first_match: F,
    best: Option<(Literals, u32)>,
}

impl<F: FnMut(Span) -> Option<u32>> Search<'_, F> {
    /// Searches `node` and below for templates that match the rest of the path and precede
    /// the best so far. `above`: the elements that lead to `node`.
    fn descend(&mut self, node: u32, path: &[&[u8]], above: Literals) {
        let most = above.with_literals(path.len()).precedence();
        if self.best.is_some_and(|(best, _)| best.precedence() >= most) {
            return;
        }
        let Some((element, below)) = path.split_first() else {
            let found = self.trie.payload(node).and_then(|ends| (self.first_match)(*ends));
            self.best = found.map(|found| (above, found)).or(self.best);
            return;
        };
        if let Some(child) = self.trie.child(node, element, self.text) {
            self.descend(child, below, above.with(true));
        }
        if let Some(child) = self.trie.any_child(node).filter(|_| !element.is_empty()) {
            self.descend(child, below, above.with(false));
        }
    }
}
