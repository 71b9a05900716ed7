//! What paths a regex can match, told by their elements, so that a search tries a regex only on
//! paths of the right shape, and often need not try it at all: `/users/[^/]+` matches just the paths
//! of two elements whose first is `users` and whose second is not empty.

use std::collections::BTreeSet;

use regex_syntax::hir::literal::Extractor;
use regex_syntax::hir::{Class, ClassBytes, ClassBytesRange, ClassUnicode, ClassUnicodeRange};
use regex_syntax::hir::{Hir, HirKind, Look, Repetition};
use tidegate_policy::route::MAX_ELEMENTS;

/// The most shapes of one regex. What would make more is told less exactly.
const MAX_SHAPES: usize = 16;

/// Paths by their elements.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(crate) struct Shape {
    /// The elements, at most [`MAX_ELEMENTS`]; `/` has one empty element.
    pub elements: Vec<ShapeElement>,
    /// Whether anything may follow, be it nothing.
    pub is_prefix: bool,
}

/// An element of a shape.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum ShapeElement {
    /// Exactly these bytes.
    Literal(Vec<u8>),
    /// Any that is not empty.
    Any,
}

/// What paths a regex can match.
pub(super) struct Shapes {
    /// Every path that it matches has one of these shapes.
    pub shapes: Vec<Shape>,
    /// It matches just those of these paths whose elements of these indices are matched as a whole
    /// by these regexes; `None`: that cannot be told by elements.
    pub tests: Option<Vec<(usize, Hir)>>,
}

impl Shapes {
    pub fn of(hir: &Hir) -> Self {
        let spellings = spellings(hir);
        let limit = MAX_SHAPES / spellings.len().max(1);
        let all: Vec<_> = spellings.into_iter().filter_map(|spelling| spelling.shapes(limit)).collect();
        let tests = all.first().and_then(|first| first.tests.clone());
        let tests = tests.filter(|tests| all.iter().all(|one| one.tests.as_ref() == Some(tests)));
        let shapes: BTreeSet<_> = all.into_iter().flat_map(|one| one.shapes).collect();
        Self { shapes: shapes.into_iter().collect(), tests }
    }
}

/// A part of a regex.
#[derive(Clone)]
enum Piece {
    Slash,
    /// Something that matches no text with a `/`.
    Inner(Hir),
    /// What may match anything; the last piece.
    Rest,
}

/// Pieces one after the other. A regex matches what one of its spellings does, or less where that
/// ends in [`Piece::Rest`].
#[derive(Clone, Default)]
struct Spelling(Vec<Piece>);

/// At most [`MAX_SHAPES`] of them.
fn spellings(hir: &Hir) -> Vec<Spelling> {
    if !can_have_slash(hir) {
        return vec![Spelling(vec![Piece::Inner(hir.clone())])];
    }
    let all = match hir.kind() {
        HirKind::Literal(literal) => vec![of_literal(&literal.0)],
        HirKind::Class(class) => {
            vec![Spelling(vec![Piece::Slash]), Spelling(vec![Piece::Inner(without_slash(class))])]
        }
        HirKind::Capture(capture) => spellings(&capture.sub),
        HirKind::Repetition(repetition) => repeated(repetition),
        HirKind::Concat(parts) => one_after_the_other(parts),
        HirKind::Alternation(parts) => parts.iter().flat_map(spellings).take(MAX_SHAPES + 1).collect(),
        HirKind::Empty | HirKind::Look(_) => vec![Spelling::default()],
    };
    if all.len() > MAX_SHAPES { vec![Spelling(vec![Piece::Rest])] } else { all }
}

fn can_have_slash(hir: &Hir) -> bool {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => false,
        HirKind::Literal(literal) => literal.0.contains(&b'/'),
        HirKind::Class(Class::Bytes(class)) => {
            class.iter().any(|range| (range.start()..=range.end()).contains(&b'/'))
        }
        HirKind::Class(Class::Unicode(class)) => {
            class.iter().any(|range| (range.start()..=range.end()).contains(&'/'))
        }
        HirKind::Repetition(repetition) => can_have_slash(&repetition.sub),
        HirKind::Capture(capture) => can_have_slash(&capture.sub),
        HirKind::Concat(parts) | HirKind::Alternation(parts) => parts.iter().any(can_have_slash),
    }
}

fn of_literal(bytes: &[u8]) -> Spelling {
    let mut pieces = Vec::new();
    for (index, inner) in bytes.split(|&b| b == b'/').enumerate() {
        if index > 0 {
            pieces.push(Piece::Slash);
        }
        if !inner.is_empty() {
            pieces.push(Piece::Inner(Hir::literal(inner)));
        }
    }
    Spelling(pieces)
}

fn without_slash(class: &Class) -> Hir {
    let mut class = class.clone();
    match &mut class {
        Class::Bytes(class) => class.difference(&ClassBytes::new([ClassBytesRange::new(b'/', b'/')])),
        Class::Unicode(class) => class.difference(&ClassUnicode::new([ClassUnicodeRange::new('/', '/')])),
    }
    Hir::class(class)
}

fn repeated(repetition: &Repetition) -> Vec<Spelling> {
    let once = || spellings(&repetition.sub);
    match (repetition.min, repetition.max) {
        (0, Some(1)) => std::iter::once(Spelling::default()).chain(once()).collect(),
        // `.+`: that a byte is no `/` says nothing here.
        (1.., _) if !matches!(repetition.sub.kind(), HirKind::Class(_)) => {
            once().into_iter().map(|spelling| spelling.followed_by(&Spelling(vec![Piece::Rest]))).collect()
        }
        _ => vec![Spelling(vec![Piece::Rest])],
    }
}

fn one_after_the_other(parts: &[Hir]) -> Vec<Spelling> {
    let mut all = vec![Spelling::default()];
    for part in parts {
        let mut nexts = spellings(part);
        if all.len().saturating_mul(nexts.len()) > MAX_SHAPES {
            nexts = vec![Spelling(vec![Piece::Rest])];
        }
        let followed = |spelling: &Spelling| -> Vec<Spelling> {
            if spelling.is_over() {
                return vec![spelling.clone()];
            }
            nexts.iter().map(|next| spelling.followed_by(next)).collect()
        };
        all = all.iter().flat_map(followed).collect();
    }
    all
}

impl Spelling {
    fn is_over(&self) -> bool {
        matches!(self.0.last(), Some(Piece::Rest))
    }

    fn followed_by(&self, next: &Self) -> Self {
        let next = if self.is_over() { &[] } else { next.0.as_slice() };
        Self([self.0.as_slice(), next].concat())
    }

    /// Its shapes, at most `limit`; `None`: it matches no path.
    fn shapes(&self, limit: usize) -> Option<Shapes> {
        let (mut elements, is_prefix) = self.elements();
        let before = match elements.is_empty() {
            true => Element::of(&[]),
            // A path begins with its first `/`.
            false => Some(elements.remove(0)).filter(|before| before.can_be_empty)?,
        };
        if elements.is_empty() && !is_prefix {
            return None;
        }
        let mut paths =
            Shapes { shapes: vec![Shape { elements: Vec::new(), is_prefix }], tests: Some(vec![]) };
        if is_prefix || before.has_looks {
            paths.tests = None;
        }
        for (index, element) in elements.into_iter().enumerate() {
            paths = paths.followed_by(index, element, limit);
        }
        (!paths.shapes.is_empty()).then_some(paths)
    }

    /// What is between slashes, that before the first included, and whether anything may follow.
    fn elements(&self) -> (Vec<Element>, bool) {
        let is = |piece: &Piece, look| match piece {
            Piece::Inner(hir) => *hir.kind() == HirKind::Look(look),
            Piece::Slash | Piece::Rest => false,
        };
        // All of the path must match anyway.
        let mut pieces = self.0.as_slice();
        while let Some((_, others)) = pieces.split_first().filter(|split| is(split.0, Look::Start)) {
            pieces = others;
        }
        while let Some((_, others)) = pieces.split_last().filter(|split| is(split.0, Look::End)) {
            pieces = others;
        }
        let (mut elements, mut parts) = (Vec::new(), Vec::new());
        for piece in pieces {
            match piece {
                Piece::Slash => elements.push(Element::of(&std::mem::take(&mut parts))),
                Piece::Inner(hir) => parts.push(hir.clone()),
                // It may go on with the last element.
                Piece::Rest => return (elements, true),
            }
        }
        elements.push(Element::of(&parts));
        (elements, false)
    }
}

impl Shapes {
    /// With another element, the one of this index.
    fn followed_by(mut self, index: usize, element: Element, limit: usize) -> Self {
        // Those before it were too many.
        let is_cut = self.shapes.iter().any(|shape| shape.elements.len() < index);
        let fits = |choices: &[ShapeElement]| choices.len().saturating_mul(self.shapes.len()) <= limit;
        let words = element.words.filter(|words| fits(words));
        let (choices, test) = match words {
            Some(words) => (words, None),
            None => (any(element.can_be_empty), element.test),
        };
        if is_cut || index >= MAX_ELEMENTS || !fits(&choices) {
            self.shapes.iter_mut().for_each(|shape| shape.is_prefix = true);
            return Self { tests: None, ..self };
        }
        let with = |shape: &Shape, choice: &ShapeElement| {
            let elements = shape.elements.iter().chain([choice]).cloned().collect();
            Shape { elements, is_prefix: shape.is_prefix }
        };
        let shapes = self.shapes.iter().flat_map(|shape| choices.iter().map(|choice| with(shape, choice)));
        let shapes = shapes.collect();
        let tests = self.tests.filter(|_| !element.has_looks).map(|mut tests| {
            tests.extend(test.map(|test| (index, test)));
            tests
        });
        Self { shapes, tests }
    }
}

/// What is between two slashes.
struct Element {
    /// All that it matches, if that is little.
    words: Option<Vec<ShapeElement>>,
    can_be_empty: bool,
    /// What it must match; `None`: anything that is not empty, and nothing where it can be empty.
    test: Option<Hir>,
    /// Whether it asks for more than its own bytes say, as `\b` does.
    has_looks: bool,
}

impl Element {
    fn of(parts: &[Hir]) -> Self {
        let hir = Hir::concat(parts.to_vec());
        let has_looks = !hir.properties().look_set().is_empty();
        let words = words(&hir).filter(|_| !has_looks);
        let can_be_empty = hir.properties().minimum_len() == Some(0);
        let test = (!is_any(&hir)).then_some(hir);
        Self { words, can_be_empty, test, has_looks }
    }
}

fn any(can_be_empty: bool) -> Vec<ShapeElement> {
    let empty = can_be_empty.then(|| ShapeElement::Literal(Vec::new()));
    std::iter::once(ShapeElement::Any).chain(empty).collect()
}

/// All that it matches, if that is little.
fn words(hir: &Hir) -> Option<Vec<ShapeElement>> {
    if let HirKind::Literal(literal) = hir.kind() {
        return Some(vec![ShapeElement::Literal(literal.0.to_vec())]);
    }
    let all = Extractor::new().limit_total(MAX_SHAPES).extract(hir);
    let all = all.literals().filter(|_| all.is_exact())?;
    let all: BTreeSet<_> = all.iter().map(|word| ShapeElement::Literal(word.as_bytes().to_vec())).collect();
    Some(all.into_iter().collect())
}

/// Whether it is `[^/]+` or `[^/]*`, or the same with `?` or `#`, which no path has.
fn is_any(hir: &Hir) -> bool {
    match hir.kind() {
        HirKind::Capture(capture) => is_any(&capture.sub),
        HirKind::Repetition(Repetition { min: 0 | 1, max: None, sub, .. }) => match sub.kind() {
            HirKind::Class(Class::Bytes(class)) => (0..=u8::MAX).all(|byte| {
                let has = class.iter().any(|range| (range.start()..=range.end()).contains(&byte));
                has != (byte == b'/') || b"?#".contains(&byte)
            }),
            _ => false,
        },
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pattern::automaton::parse;

    /// Shapes as text, `*` for any element and `...` for what may follow; then the indices of the
    /// elements that are tested, or that all of the path is.
    fn told(pattern: &str) -> (Vec<String>, Option<Vec<usize>>) {
        let Shapes { shapes, tests } = Shapes::of(&parse(pattern).unwrap());
        let element = |element: &ShapeElement| match element {
            ShapeElement::Literal(literal) => format!("/{}", literal.escape_ascii()),
            ShapeElement::Any => "/*".to_owned(),
        };
        let shape = |shape: &Shape| {
            let rest = if shape.is_prefix { "..." } else { "" };
            shape.elements.iter().map(element).collect::<String>() + rest
        };
        let tests = tests.map(|tests| tests.iter().map(|test| test.0).collect());
        let mut shapes: Vec<_> = shapes.iter().map(shape).collect();
        shapes.sort();
        (shapes, tests)
    }

    #[test]
    fn shapes_say_all_of_a_regex_of_literals_and_any_elements() {
        for (pattern, shapes) in [
            ("/", &["/"][..]),
            ("/repos/[^/]+/([^/]+)/x\\.json", &["/repos/*/*/x.json"]),
            ("^/users/(?P<id>[^/?#]+)$", &["/users/*"]),
            ("/a/[^/]*", &["/a/", "/a/*"]),
            ("/a/?", &["/a", "/a/"]),
            ("/v[12]/a|/(b|c/d)", &["/b", "/c/d", "/v1/a", "/v2/a"]),
            ("/\\xFF[^/]{0}", &["/\\xff"]),
            ("x*/a", &["/a"]),
            ("xa|/a", &["/a"]),
        ] {
            let expected: Vec<_> = shapes.iter().map(|&shape| shape.to_owned()).collect();
            assert_eq!(told(pattern), (expected, Some(vec![])), "{pattern}");
        }
    }

    #[test]
    fn what_shapes_do_not_say_is_tested() {
        for (pattern, shapes, tests) in [
            ("/users/\\d+", &["/users/*"][..], Some(&[1][..])),
            ("/[^/]+\\.\\.\\.[^/]+/\\d*", &["/*/", "/*/*"], Some(&[0, 1])),
            ("/\\d+/a/?", &["/*/a", "/*/a/"], Some(&[0])),
            ("/(?u:[^/]+)", &["/*"], Some(&[0])),
            ("/[^/]{2,}", &["/*"], Some(&[0])),
            ("/a/\\d+|/\\d+", &["/*", "/a/*"], None),
            ("/a/.*", &["/a..."], None),
            ("/a/b.*/c", &["/a..."], None),
            ("/a(?:/.*)?", &["/a", "/a..."], None),
            ("/a(?:/[a-z]+)+", &["/a..."], None),
            ("/a(?:/b/[a-z]+)+", &["/a/b..."], None),
            (".*", &["..."], None),
            ("/a\\b/b", &["/*/b"], None),
            ("/a.b", &["/*", "/a/b"], None),
        ] {
            let expected: Vec<_> = shapes.iter().map(|&shape| shape.to_owned()).collect();
            assert_eq!(told(pattern), (expected, tests.map(<[usize]>::to_vec)), "{pattern}");
        }
    }

    #[test]
    fn there_are_few_shapes_of_at_most_so_many_elements() {
        for pattern in
            ["/[a-q]", "(?i)/abcde", "/[ab]/[ab]/[ab]/[ab]/[ab]", "(/a|/b){5}", "/a?/b?/c?/d?/e?/f"]
        {
            let (shapes, _) = told(pattern);
            assert!((1..=MAX_SHAPES).contains(&shapes.len()), "{pattern}: {shapes:?}");
        }
        let long = "/a".repeat(MAX_ELEMENTS);
        assert_eq!(told(&long), (vec![long.clone()], Some(vec![])));
        assert_eq!(told(&format!("{long}/b/c")), (vec![format!("{long}...")], None));
    }
}
