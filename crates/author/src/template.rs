//! Path templates, as `/repos/{owner}/{repo}/issues/{number}`.

use std::collections::BTreeSet;

use super::names::path_problem;
use tidegate_policy::route::MAX_ELEMENTS;

/// A path of which some elements may be any. It matches all of a path, element by
/// element: a trailing `/` adds an empty element.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Template {
    pattern: String,
}

/// An element of a template.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Element<'t> {
    /// Exactly these bytes.
    Literal(&'t str),
    /// Any that is not empty. The name is for people only: the value in a path is not used.
    Any(&'t str),
}

/// Why a template is refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TemplateError {
    /// Its literal parts are not a valid path, for this reason.
    #[error("{0}")]
    Path(String),
    /// A brace in an element that is not a name in braces.
    #[error(
        "{0} must be a whole element like {{name}}, the name of letters, digits, _ and - and beginning with \
         a letter or _; write a brace that is meant as one as %7B or %7D"
    )]
    Braces(String),
    /// Two elements have this name.
    #[error("two elements are called {{{0}}}: each must have a name of its own")]
    Twice(String),
    /// It has more than [`MAX_ELEMENTS`].
    #[error("has {0} elements, at most {MAX_ELEMENTS} are allowed")]
    TooLong(usize),
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// See [`TemplateError`].
    pub fn parse(pattern: &str) -> Result<Self, TemplateError> {
        let mut names = BTreeSet::new();
        // The literal parts are checked as a path, with the names left out.
        let mut path = Vec::new();
        for element in pattern.split('/') {
            match name_of(element) {
                Some(name) if !names.insert(name) => return Err(TemplateError::Twice(name.to_owned())),
                Some(_) => path.push("x"),
                None if element.contains(['{', '}']) => {
                    return Err(TemplateError::Braces(element.to_owned()));
                }
                None => path.push(element),
            }
        }
        if let Some(problem) = path_problem(&path.join("/")) {
            return Err(TemplateError::Path(problem));
        }
        let template = Self { pattern: pattern.to_owned() };
        match template.elements().count() {
            count if count > MAX_ELEMENTS => Err(TemplateError::TooLong(count)),
            _ => Ok(template),
        }
    }

    /// The template, as written.
    #[must_use]
    pub fn pattern(&self) -> &str {
        &self.pattern
    }

    /// Its elements; `/` has one empty element.
    pub fn elements(&self) -> impl Iterator<Item = Element<'_>> {
        let below = self.pattern.strip_prefix('/').unwrap_or(&self.pattern);
        below.split('/').map(|element| name_of(element).map_or(Element::Literal(element), Element::Any))
    }
}

fn name_of(element: &str) -> Option<&str> {
    let name = element.strip_prefix('{')?.strip_suffix('}')?;
    let is_inside = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
    let is_begun = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    (is_inside && is_begun).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_literals_and_names() {
        let template = Template::parse("/repos/{repo-owner}/{_2}/a%7B").unwrap();
        let elements: Vec<_> = template.elements().collect();
        let expected = [
            Element::Literal("repos"),
            Element::Any("repo-owner"),
            Element::Any("_2"),
            Element::Literal("a%7B"),
        ];
        assert_eq!(elements, expected);
        assert_eq!(Template::parse("/").unwrap().elements().collect::<Vec<_>>(), [Element::Literal("")]);
    }

    #[test]
    fn a_template_that_could_be_read_two_ways_is_refused() {
        let error = |pattern: &str| Template::parse(pattern).unwrap_err();
        for bad in [
            "/{}", "/{1a}", "/{-a}", "/{a.b}", "/{a b}", "/a{b}", "/{a}b", "/{a}{b}", "/{a", "/a}",
            "/{a:.*}", "/{é}",
        ] {
            assert_eq!(error(bad), TemplateError::Braces(bad[1..].to_owned()), "{bad}");
        }
        assert_eq!(error("/{a}/b/{a}"), TemplateError::Twice("a".to_owned()));
        assert!(Template::parse("/{a}/{A}").is_ok(), "names have case");
        for bad in ["", "a/{b}", "{a}", "/a//{b}", "/{a}/../b", "/{a}/b?x", "/{a}/%zz", "/{a}/é", "/{a}/%2F"]
        {
            assert!(matches!(error(bad), TemplateError::Path(_)), "{bad}: {}", error(bad));
        }
        assert!(Template::parse(&"/a".repeat(32)).is_ok());
        assert_eq!(error(&"/a".repeat(33)), TemplateError::TooLong(33));
    }
}
