//! From a pattern's text to its syntax, and from that to an automaton.

use std::error::Error as _;

use regex_automata::MatchKind;
use regex_automata::dfa::{StartKind, dense};
use regex_automata::nfa::thompson;
use regex_syntax::ParserBuilder;
use regex_syntax::hir::{Hir, Look};

/// The most bytes of one compiled regex. Usual ones take 1 to 3 KB.
pub const MAX_AUTOMATON: usize = 256 << 10;

/// Memory in bytes that compiling one regex may take, per stage: one that needs more is
/// refused after some 30 ms.
const MAX_BUILD: usize = 2 << 20;

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

/// Parses the pattern alone, before it is wrapped in a group: `a)|(b` must be an error.
pub(super) fn parse(pattern: &str) -> Result<Hir, RegexError> {
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

/// A DFA that matches what `hir` matches as a whole.
pub(super) fn determinize(hir: &Hir) -> Result<dense::DFA<Vec<u32>>, RegexError> {
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

/// The DFA as the table has it.
pub(super) fn table(dfa: &dense::DFA<Vec<u32>>) -> Result<Vec<u8>, RegexError> {
    let table = dfa.to_sparse().map_err(too_large)?.to_bytes_little_endian();
    if table.len() > MAX_AUTOMATON { Err(RegexError::TooLarge) } else { Ok(table) }
}

fn too_large(error: dense::BuildError) -> RegexError {
    if error.is_size_limit_exceeded() {
        return RegexError::TooLarge;
    }
    let source = error.source().map_or_else(String::new, |source| format!(": {source}"));
    RegexError::Syntax(format!("{error}{source}"))
}
