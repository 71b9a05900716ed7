//! The matches at one node of a trie.

/// A match at a node of its path.
pub(super) struct Candidate {
    pub rank: u32,
    /// It has no condition besides the path.
    pub is_certain: bool,
}

/// The candidates in the order of rank, up to the first without a condition besides the
/// path: those after it can never win.
pub(super) fn reachable(candidates: &mut Vec<Candidate>) -> &[Candidate] {
    candidates.sort_by_key(|candidate| candidate.rank);
    if let Some(last) = candidates.iter().position(|candidate| candidate.is_certain) {
        candidates.truncate(last.saturating_add(1));
    }
    candidates
}
