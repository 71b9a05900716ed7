//! Shapes of paths, each element of which is literal or any that is not empty: of templates, and of
//! what regexes match. Which of them a path has, and which of those comes first.

use super::layout::{MAX_ELEMENTS, Span};
use super::trie::{Trie, slice};

/// The shapes of all groups of hostnames.
pub(super) struct Shapes {
    trie: Trie<ShapeMatches>,
}

/// The matches at a node.
pub(super) struct ShapeMatches {
    /// Those on paths that end here.
    ends: Span,
    /// Those on paths that begin like this, whatever follows.
    prefixes: Span,
    /// The lowest rank here and below; `u32::MAX`: there is no match.
    lowest: u32,
}

impl ShapeMatches {
    /// `candidates`: the ranks that the lists have, each list in its order.
    pub fn new(ends: Span, prefixes: Span, candidates: &[u32]) -> Self {
        let first = |list| slice(candidates, list).and_then(|list| list.first());
        let lowest = [ends, prefixes].into_iter().filter_map(first).min().copied();
        Self { ends, prefixes, lowest: lowest.unwrap_or(u32::MAX) }
    }
}

impl Shapes {
    pub fn new(mut trie: Trie<ShapeMatches>) -> Self {
        trie.sum_up(|node, parent| parent.lowest = parent.lowest.min(node.lowest));
        Self { trie }
    }

    /// The result of `first_match` for the first template of `group` that matches a path of these
    /// elements and for which `first_match` has one.
    ///
    /// Both the literal child and the one for any element are followed, by at most
    /// [`MAX_ELEMENTS`] elements, as long as they can precede the best so far. So the work
    /// grows with the number of templates whose beginning matches the path's, and neither
    /// with the path's length nor with the number of other templates.
    pub fn find_template<'p>(
        &self,
        group: u32,
        elements: impl Iterator<Item = &'p [u8]>,
        text: &[u8],
        first_match: impl FnMut(Span) -> Option<u32>,
    ) -> Option<u32> {
        if self.trie.is_leaf(group) {
            return None;
        }
        let path = Beginning::of(elements);
        if !path.is_whole {
            return None;
        }
        let mut search = TemplateSearch { trie: &self.trie, text, first_match, best: None };
        search.descend(group, path.elements(), Literals(0));
        Some(search.best?.1)
    }

    /// The lowest rank that `first_match` has for the matches of `group` whose shape a path of these
    /// elements has. `first_match` is given lists of ranks, and the rank below which it must be.
    ///
    /// As of templates, the work grows with the number of shapes whose beginning the path has.
    pub fn find_lowest<'p>(
        &self,
        group: u32,
        elements: impl Iterator<Item = &'p [u8]>,
        text: &[u8],
        first_match: impl FnMut(Span, u32) -> Option<u32>,
    ) -> Option<u32> {
        if self.trie.payload(group)?.lowest == u32::MAX {
            return None;
        }
        let path = Beginning::of(elements);
        let mut search =
            LowestSearch { trie: &self.trie, text, first_match, is_whole: path.is_whole, best: None };
        search.descend(group, path.elements());
        search.best
    }
}

/// The first [`MAX_ELEMENTS`] elements of a path.
struct Beginning<'p> {
    elements: [&'p [u8]; MAX_ELEMENTS],
    len: usize,
    /// Whether there are no others.
    is_whole: bool,
}

impl<'p> Beginning<'p> {
    fn of(mut all: impl Iterator<Item = &'p [u8]>) -> Self {
        let mut elements: [&[u8]; MAX_ELEMENTS] = [&[]; MAX_ELEMENTS];
        let len = elements.iter_mut().zip(&mut all).map(|(place, element)| *place = element).count();
        Self { elements, len, is_whole: all.next().is_none() }
    }

    fn elements(&self) -> &[&'p [u8]] {
        self.elements.get(..self.len).unwrap_or_default()
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

struct TemplateSearch<'s, F> {
    trie: &'s Trie<ShapeMatches>,
    text: &'s [u8],
    first_match: F,
    best: Option<(Literals, u32)>,
}

impl<F: FnMut(Span) -> Option<u32>> TemplateSearch<'_, F> {
    /// Searches `node` and below for templates that match the rest of the path and precede
    /// the best so far. `above`: the elements that lead to `node`.
    fn descend(&mut self, node: u32, path: &[&[u8]], above: Literals) {
        let most = above.with_literals(path.len()).precedence();
        if self.best.is_some_and(|(best, _)| best.precedence() >= most) {
            return;
        }
        let Some((element, below)) = path.split_first() else {
            let found = self.trie.payload(node).and_then(|node| (self.first_match)(node.ends));
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

struct LowestSearch<'s, F> {
    trie: &'s Trie<ShapeMatches>,
    text: &'s [u8],
    first_match: F,
    /// Whether the path has no elements besides those that are searched.
    is_whole: bool,
    best: Option<u32>,
}

impl<F: FnMut(Span, u32) -> Option<u32>> LowestSearch<'_, F> {
    /// Searches `node` and below for matches that rank before the best so far. `path`: the elements
    /// after those that lead to `node`.
    fn descend(&mut self, node: u32, path: &[&[u8]]) {
        let Some(matches) = self.trie.payload(node) else { return };
        if matches.lowest >= self.limit() {
            return;
        }
        self.look_at(matches.prefixes);
        let Some((element, below)) = path.split_first() else {
            if self.is_whole {
                self.look_at(matches.ends);
            }
            return;
        };
        if let Some(child) = self.trie.child(node, element, self.text) {
            self.descend(child, below);
        }
        if let Some(child) = self.trie.any_child(node).filter(|_| !element.is_empty()) {
            self.descend(child, below);
        }
    }

    fn look_at(&mut self, list: Span) {
        let limit = self.limit();
        self.best = (self.first_match)(list, limit).or(self.best);
    }

    /// What precedes the best so far has a lower rank than this.
    fn limit(&self) -> u32 {
        self.best.unwrap_or(u32::MAX)
    }
}
