//! Regexes, compiled here to sparse DFAs, with which the filter only searches, in linear time. The
//! `.wasm` has neither a regex parser nor a compiler.

use std::collections::{BTreeMap, HashSet};
use std::error::Error as _;
use std::sync::Arc;

use regex_automata::dfa::{Automaton, StartKind, dense, sparse};
use regex_automata::nfa::thompson;
use regex_automata::util::start;
use regex_automata::{Anchored, Input, MatchKind};
use regex_syntax::ParserBuilder;
use regex_syntax::hir::literal::Extractor;
use regex_syntax::hir::{Hir, Look};

/// The most bytes of one compiled regex. Usual ones take 1 to 3 KB.
pub const MAX_AUTOMATON: usize = 256 << 10;

/// Memory in bytes that compiling one regex may take, per stage: one that needs more is
/// refused after some 30 ms.
const MAX_BUILD: usize = 2 << 20;

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
    literal: Arc<[u8]>,
    /// The kinds of values of which it matches any.
    takes: Vec<ValueKind>,
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

/// Why a regex is refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RegexError {
    /// It does not follow the syntax.
    #[error("{0}")]
    Syntax(String),
    /// Its table would be too large.
    #[error(
        "compiles to a table over {limit} KiB: use fewer or smaller counted repetitions ({{n,m}}), \
         or ASCII classes like [a-z] instead of Unicode ones",
        limit = MAX_AUTOMATON / 1024
    )]
    TooLarge,
}

impl Regex {
    /// Compiles `pattern`.
    ///
    /// # Errors
    /// When it does not follow the syntax, or its table would be over
    /// [`MAX_AUTOMATON`].
    pub fn compile(pattern: &str) -> Result<Self, RegexError> {
        let hir = parse(pattern)?;
        let literal = Extractor::new().extract(&hir);
        let literal = literal.longest_common_prefix().unwrap_or_default().into();
        let dfa = determinize(&hir)?;
        let kinds = [ValueKind::Path, ValueKind::Header, ValueKind::Query];
        let takes = kinds.into_iter().filter(|kind| matches_any(&dfa, *kind)).collect();
        let automaton = dfa.to_sparse().map_err(too_large)?.to_bytes_little_endian();
        if automaton.len() > MAX_AUTOMATON {
            return Err(RegexError::TooLarge);
        }
        Ok(Self { pattern: pattern.into(), automaton: automaton.into(), literal, takes })
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

    /// Its literal beginning: every value that it matches begins with these bytes.
    #[must_use]
    pub fn literal(&self) -> &[u8] {
        &self.literal
    }

    /// Whether it matches any value of this kind.
    #[must_use]
    pub fn takes(&self, kind: ValueKind) -> bool {
        self.takes.contains(&kind)
    }
}

/// Parses the pattern alone, before it is wrapped in a group: `a)|(b` must be an error.
fn parse(pattern: &str) -> Result<Hir, RegexError> {
    let mut parser = ParserBuilder::new().unicode(false).utf8(false).build();
    let says = match parser.parse(pattern) {
        Ok(hir) => return Ok(hir),
        Err(regex_syntax::Error::Parse(error)) => {
            format!("{} at byte {}", error.kind(), error.span().start.offset)
        }
        Err(regex_syntax::Error::Translate(error)) => match error.kind() {
            regex_syntax::hir::ErrorKind::UnicodeNotAllowed => {
                format!("Unicode at byte {} needs (?u) in front of the pattern", error.span().start.offset)
            }
            kind => format!("{kind} at byte {}", error.span().start.offset),
        },
        Err(_) => "not a regular expression".to_owned(),
    };
    Err(RegexError::Syntax(says))
}

fn determinize(hir: &Hir) -> Result<dense::DFA<Vec<u32>>, RegexError> {
    let whole = Hir::concat(vec![Hir::look(Look::Start), hir.clone(), Hir::look(Look::End)]);
    let config = thompson::Config::new()
        .utf8(false)
        .nfa_size_limit(Some(MAX_BUILD))
        .which_captures(thompson::WhichCaptures::None);
    let nfa = thompson::Compiler::new().configure(config).build_from_hir(&whole);
    let nfa = nfa.map_err(|_| RegexError::TooLarge)?;
    let config = dense::Config::new()
        .start_kind(StartKind::Anchored)
        .match_kind(MatchKind::All)
        .accelerate(false)
        .dfa_size_limit(Some(MAX_BUILD))
        .determinize_size_limit(Some(MAX_BUILD));
    dense::Builder::new().configure(config).build_from_nfa(&nfa).map_err(too_large)
}

fn too_large(error: dense::BuildError) -> RegexError {
    if error.is_size_limit_exceeded() {
        return RegexError::TooLarge;
    }
    let source = error.source().map_or_else(String::new, |source| format!(": {source}"));
    RegexError::Syntax(format!("{error}{source}"))
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
