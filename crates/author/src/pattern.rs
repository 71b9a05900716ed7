//! Regexes, compiled here to sparse DFAs, with which the filter only searches, in linear time. The
//! `.wasm` has neither a regex parser nor a compiler.

mod automaton;
mod shapes;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use regex_automata::dfa::{Automaton, dense, sparse};
use regex_automata::util::start;
use regex_automata::{Anchored, Input};

pub use automaton::{MAX_AUTOMATON, RegexError};
use automaton::{determinize, parse, table};
pub(crate) use shapes::{Shape, ShapeElement};

/// A compiled regex. It matches a value as a whole, as in Envoy.
///
/// The syntax is that of the `regex` crate, which is similar to RE2's: no
/// back-references and no look-around. It matches bytes: `.` is any byte but a line feed,
/// and `\d`, `\w`, `\s`, `\b` and `(?i)` are ASCII only, as in RE2. A character outside of
/// ASCII is its bytes in UTF-8; in a class like `[é]` it needs `(?u)` in front, as `\p{..}`
/// does, which makes all of these Unicode and the table many times larger.
#[derive(Clone)]
pub struct Regex {
    pattern: Arc<str>,
    automaton: Arc<[u8]>,
    of_paths: Arc<OfPaths>,
    /// The kinds of values of which it matches any.
    takes: Vec<ValueKind>,
}

/// How paths are found that a regex matches, without trying it on each.
pub(crate) struct OfPaths {
    /// Every path that it matches has one of these shapes.
    pub shapes: Vec<Shape>,
    /// It matches those of these paths that pass this.
    pub test: PathTest,
}

/// What is left to test of a path that has one of the shapes.
pub(crate) enum PathTest {
    /// The elements of these indices must be matched as a whole by these sparse DFAs. None: the
    /// shape says all.
    Elements(Vec<(usize, Arc<[u8]>)>),
    /// The whole path must be matched by the regex.
    Whole,
}

/// What a regex is searched in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ValueKind {
    /// A path, without its query: it begins with `/`.
    Path,
    /// A header's value.
    Header,
    /// A query parameter's value, decoded: any bytes.
    Query,
}

impl ValueKind {
    /// Whether a value of this kind can have this byte.
    fn has(self, byte: u8) -> bool {
        match self {
            Self::Path => byte > b' ' && !b"?#\x7f".contains(&byte),
            Self::Header => byte == b'\t' || !byte.is_ascii_control(),
            Self::Query => true,
        }
    }
}

impl Regex {
    /// Compiles `pattern`.
    ///
    /// # Errors
    /// When it does not follow the syntax, or its table would be over
    /// [`MAX_AUTOMATON`].
    pub fn compile(pattern: &str) -> Result<Self, RegexError> {
        let hir = parse(pattern)?;
        let dfa = determinize(&hir)?;
        let kinds = [ValueKind::Path, ValueKind::Header, ValueKind::Query];
        let takes = kinds.into_iter().filter(|kind| matches_any(&dfa, *kind)).collect();
        let automaton = table(&dfa)?.into();
        let of_paths = Arc::new(of_paths(shapes::Shapes::of(&hir)));
        Ok(Self { pattern: pattern.into(), automaton, of_paths, takes })
    }

    /// The pattern, as written.
    #[must_use]
    pub fn pattern(&self) -> &str {
        &self.pattern
    }

    /// The table: a sparse DFA, little-endian, anchored at both ends.
    #[must_use]
    pub fn automaton(&self) -> &[u8] {
        &self.automaton
    }

    /// Whether it matches `value`, as a whole. Its table is checked each time, which
    /// takes microseconds.
    #[must_use]
    pub fn is_match(&self, value: &[u8]) -> bool {
        let input = Input::new(value).anchored(Anchored::Yes);
        let dfa = sparse::DFA::from_bytes(&self.automaton);
        dfa.is_ok_and(|(dfa, _)| matches!(dfa.try_search_fwd(&input), Ok(Some(_))))
    }

    /// How paths are found that it matches.
    pub(crate) fn of_paths(&self) -> &OfPaths {
        &self.of_paths
    }

    /// Whether it matches any value of this kind.
    #[must_use]
    pub fn takes(&self, kind: ValueKind) -> bool {
        self.takes.contains(&kind)
    }
}

/// An element whose automaton cannot be had is tested with all of the path.
fn of_paths(shapes: shapes::Shapes) -> OfPaths {
    let compile = |(index, element): (usize, _)| -> Option<(usize, Arc<[u8]>)> {
        Some((index, table(&determinize(&element).ok()?).ok()?.into()))
    };
    let test = shapes.tests.and_then(|tests| tests.into_iter().map(compile).collect::<Option<Vec<_>>>());
    let test = test.map_or(PathTest::Whole, PathTest::Elements);
    OfPaths { shapes: shapes.shapes, test }
}

/// Whether the end of a match can be reached with bytes that a value of this kind can have.
fn matches_any(dfa: &dense::DFA<Vec<u32>>, kind: ValueKind) -> bool {
    let Ok(start) = dfa.start_state(&start::Config::new().anchored(Anchored::Yes)) else { return false };
    let first = if kind == ValueKind::Path { dfa.next_state(start, b'/') } else { start };
    // Bytes of one class lead to the same states.
    let bytes = (0..=u8::MAX).filter(|byte| kind.has(*byte));
    let classes: BTreeMap<u8, u8> = bytes.map(|byte| (dfa.byte_classes().get(byte), byte)).collect();
    let (mut seen, mut left) = (HashSet::from([first]), vec![first]);
    while let Some(state) = left.pop() {
        if dfa.is_match_state(dfa.next_eoi_state(state)) {
            return true;
        }
        let nexts = classes.values().map(|byte| dfa.next_state(state, *byte));
        left.extend(nexts.filter(|next| !dfa.is_dead_state(*next) && seen.insert(*next)));
    }
    false
}

impl PartialEq for Regex {
    fn eq(&self, other: &Self) -> bool {
        self.pattern == other.pattern
    }
}

impl Eq for Regex {}

impl std::fmt::Debug for Regex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Regex({:?}, {} bytes)", self.pattern, self.automaton.len())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn has_shape(shape: &Shape, path: &[u8]) -> bool {
        let Some(below) = path.strip_prefix(b"/") else { return false };
        let path: Vec<_> = below.split(|&b| b == b'/').collect();
        let fits = |(wanted, element): (&ShapeElement, &&[u8])| match wanted {
            ShapeElement::Literal(literal) => literal == element,
            ShapeElement::Any => !element.is_empty(),
        };
        let is_long_enough = if shape.is_prefix {
            path.len() >= shape.elements.len()
        } else {
            path.len() == shape.elements.len()
        };
        is_long_enough && shape.elements.iter().zip(&path).all(fits)
    }

    /// As the filter does it.
    fn is_found(regex: &Regex, path: &[u8]) -> bool {
        let OfPaths { shapes, test } = regex.of_paths();
        let element = |index| path.split(|&b| b == b'/').nth(index + 1);
        let passes = |automaton: &[u8], value: &[u8]| {
            let dfa = sparse::DFA::from_bytes(automaton).unwrap().0;
            dfa.try_search_fwd(&Input::new(value).anchored(Anchored::Yes)).unwrap().is_some()
        };
        shapes.iter().any(|shape| has_shape(shape, path))
            && match test {
                PathTest::Whole => regex.is_match(path),
                PathTest::Elements(tests) => tests
                    .iter()
                    .all(|(index, automaton)| element(*index).is_some_and(|of| passes(automaton, of))),
            }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]

        #[test]
        fn what_shapes_and_tests_find_is_what_the_regex_matches(
            pattern in "\\^?(/|/|a|b|ab|\\[ab\\]|\\[\\^/\\]\\+|\\[\\^/\\]\\*|/\\[\\^/\\]\\+|\\.|a\\||\\(a\\|/b\\)|\\(\\?:/a\\|b\\)|\\(/\\.\\*\\)\\?|/\\?|[a*+?]|b\\{1,2\\}|\\\\b|\\(\\?i:a\\)|\\(\\?u:\\.\\)|\\[/a\\]){0,7}\\$?",
            paths in proptest::collection::vec("/(a|b|/|ab|/a|é|A){0,6}", 12),
        ) {
            let Ok(regex) = Regex::compile(&pattern) else { return Ok(()) };
            for path in paths {
                let mut path = path.into_bytes();
                prop_assert_eq!(is_found(&regex, &path), regex.is_match(&path), "{:?} {:?}", pattern, path.escape_ascii());
                path.push(0xc3);
                prop_assert_eq!(is_found(&regex, &path), regex.is_match(&path), "{:?} {:?}", pattern, path.escape_ascii());
            }
        }
    }
}
