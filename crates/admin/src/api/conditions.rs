//! Conditional requests (RFC 9110, section 13): `If-Match` and `If-None-Match`, and the entity tags of
//! documents.

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, ETAG, IF_MATCH, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::problem::{ApiResult, Problem, ProblemCode};

/// Bytes of a hash that a tag has.
const TAG_BYTES: usize = 16;
const FORM: &str = "write `*`, or entity tags in quotation marks with commas between, as `ETag` had them";

/// The strong entity tag of what is answered as this.
#[must_use]
pub fn etag<T: Serialize>(document: &T) -> String {
    tag_of(&serde_json::to_vec(document).unwrap_or_default())
}

fn tag_of(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    format!("\"{}\"", hex::encode(hash.get(..TAG_BYTES).unwrap_or_default()))
}

/// The conditions of a request.
#[derive(Default, Debug)]
pub struct Conditions {
    if_match: Option<Tags>,
    if_none_match: Option<Tags>,
}

/// What a condition names.
#[derive(PartialEq, Debug)]
enum Tags {
    /// `*`: whatever there is.
    Any,
    Listed(Vec<Tag>),
}

/// An entity tag, with its quotation marks.
#[derive(PartialEq, Debug)]
struct Tag {
    is_weak: bool,
    text: String,
}

impl Conditions {
    /// Those in `headers`.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn read(headers: &HeaderMap) -> ApiResult<Self> {
        Ok(Self {
            if_match: tags(headers, "if-match", &IF_MATCH)?,
            if_none_match: tags(headers, "if-none-match", &IF_NONE_MATCH)?,
        })
    }

    /// Whether there are any.
    #[must_use]
    pub fn are_given(&self) -> bool {
        self.if_match.is_some() || self.if_none_match.is_some()
    }

    /// Whether a write may be made of what has the tag `current` at this moment; `None`: there is nothing.
    ///
    /// # Errors
    /// 412 when it may not.
    pub fn check(&self, current: Option<&str>) -> ApiResult<()> {
        self.check_match(current)?;
        match (&self.if_none_match, current) {
            (Some(unwanted), Some(tag)) if unwanted.has(tag) => {
                let detail = "there is one already, and `If-None-Match` says that it must not be changed: read it, \
                              and send its `ETag` as `If-Match` to replace it";
                Err(Problem::new(ProblemCode::PreconditionFailed, detail))
            }
            _ => Ok(()),
        }
    }

    /// Strong comparison: a weak tag is no match.
    fn check_match(&self, current: Option<&str>) -> ApiResult<()> {
        let Some(wanted) = &self.if_match else { return Ok(()) };
        let detail = match current {
            Some(tag) if wanted.has_strongly(tag) => return Ok(()),
            Some(tag) => format!(
                "it was changed since it was read with the `ETag` that `If-Match` has: read it again (it has {tag} \
                 now), and send what it should be then"
            ),
            None => "there is none, so nothing has the `ETag` that `If-Match` has: leave `If-Match` out to make one"
                .to_owned(),
        };
        Err(Problem::new(ProblemCode::PreconditionFailed, detail))
    }

    /// The answer of a GET: 200 with `document` and its tag, or 304 where the client has it.
    ///
    /// # Errors
    /// 412 when it has not the tag that it must have.
    pub fn answer<T: Serialize>(&self, document: &T) -> ApiResult<Response> {
        self.answer_as(&etag(document), document)
    }

    /// The same of what has the tag `tag` and is answered as `shown`.
    ///
    /// # Errors
    /// 412 when it has not the tag that it must have.
    pub fn answer_as<T: Serialize>(&self, tag: &str, shown: &T) -> ApiResult<Response> {
        let bytes = serde_json::to_vec(shown).unwrap_or_default();
        self.check_match(Some(tag))?;
        let header = HeaderValue::try_from(tag).unwrap_or(HeaderValue::from_static("\"\""));
        if self.if_none_match.as_ref().is_some_and(|held| held.has(tag)) {
            return Ok((StatusCode::NOT_MODIFIED, [(ETAG, header)]).into_response());
        }
        let headers = [(CONTENT_TYPE, HeaderValue::from_static("application/json")), (ETAG, header)];
        Ok((headers, Body::from(bytes)).into_response())
    }
}

impl Tags {
    /// Weak comparison: whether a tag of this text is among them.
    fn has(&self, text: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Listed(tags) => tags.iter().any(|tag| tag.text == text),
        }
    }

    fn has_strongly(&self, text: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Listed(tags) => tags.iter().any(|tag| !tag.is_weak && tag.text == text),
        }
    }
}

fn tags(headers: &HeaderMap, name: &'static str, header: &axum::http::HeaderName) -> ApiResult<Option<Tags>> {
    let lines: Vec<&[u8]> = headers.get_all(header).iter().map(HeaderValue::as_bytes).collect();
    if lines.is_empty() {
        return Ok(None);
    }
    let text = String::from_utf8_lossy(&lines.join(&b',')).into_owned();
    let read = match text.trim() {
        "*" => Some(Tags::Any),
        listed => list(listed).map(Tags::Listed),
    };
    read.map(Some).ok_or_else(|| Problem::header(name, "invalid", FORM))
}

/// Entity tags with commas between; commas may be in them, too.
fn list(text: &str) -> Option<Vec<Tag>> {
    let mut tags = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return (!tags.is_empty()).then_some(tags);
        }
        let (is_weak, quoted) = match rest.strip_prefix("W/") {
            Some(quoted) => (true, quoted),
            None => (false, rest),
        };
        let (opaque, after) = quoted.strip_prefix('"')?.split_once('"')?;
        if opaque.chars().any(|c| c.is_ascii_control() || c == ' ') {
            return None;
        }
        rest = after.trim_start_matches([' ', '\t']);
        if !rest.is_empty() && !rest.starts_with(',') {
            return None;
        }
        tags.push(Tag { is_weak, text: format!("\"{opaque}\"") });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conditions(name: &'static str, values: &[&str]) -> ApiResult<Conditions> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        Conditions::read(&headers)
    }

    #[test]
    fn a_tag_must_match_strongly_to_write_and_weakly_to_spare_an_answer() {
        let (held, other) = ("\"a\"", Some("\"b,c\""));
        let cases: [(&[&str], bool, bool); 7] = [
            (&["*"], true, true),
            (&["\"a\""], true, true),
            (&["W/\"a\""], false, true),
            (&["\"x\", \"a\""], true, true),
            (&["\"x\"", "W/\"y\",\"a\""], true, true),
            (&["\"b,c\" ,,\"d\""], false, false),
            (&["\"A\""], false, false),
        ];
        for (values, matches, matches_weakly) in cases {
            let if_match = conditions("if-match", values).unwrap();
            assert_eq!(if_match.check(Some(held)).is_ok(), matches, "{values:?}");
            assert!(if_match.check(None).is_err(), "{values:?}");
            let none_match = conditions("if-none-match", values).unwrap();
            assert_eq!(none_match.check(Some(held)).is_err(), matches_weakly, "{values:?}");
            assert!(none_match.check(None).is_ok(), "{values:?}");
        }
        assert!(conditions("if-match", &["\"b,c\""]).unwrap().check(other).is_ok());
        assert!(!conditions("accept", &["x"]).unwrap().are_given());
    }

    #[test]
    fn what_is_no_list_of_tags_is_refused() {
        for bad in ["", ",", "a", "\"a", "\"a\" \"b\"", "\"a\"x", "W/a", "w/\"a\"", "*, \"a\"", "\"a b\""] {
            let refused = conditions("if-match", &[bad]).unwrap_err();
            assert_eq!(refused.code(), ProblemCode::InvalidHeader, "{bad}");
        }
    }
}
