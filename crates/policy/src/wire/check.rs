//! Direct mode: a question about one request, and the admin service's answer from the
//! current state of its database. `docs/ARCHITECTURE.md`, "A request".
//!
//! `POST /api/data-plane/v1/check/{ip,geo,route}` with a [`Question`] as its body
//! answers 200 with an [`Answer`].

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::check::Check;
use crate::codec::{FormatError, at_most, decode, encode, versioned};
use crate::decide::{CountrySource, GeoFinding, IpFinding};
use crate::geo::{Country, MAX_GEO_RULES, RuleVerdict};
use crate::request::Facts;
use crate::route::action::Action;
use crate::route::{Backend, MAX_GEO_NAMES, RouteMatch, TooLong, is_name, is_template};
use crate::version::Version;

/// Version of the bytes of questions and answers.
pub const CHECK_FORMAT: u8 = 5;
/// The most bytes of a question: more than all headers that Envoy lets through.
pub const MAX_QUESTION: usize = 256 << 10;
/// The most bytes of an answer.
pub const MAX_ANSWER: usize = 1 << 20;

/// The path that answers a check.
#[must_use]
pub fn path(check: Check) -> &'static str {
    match check {
        Check::Ip => "/api/data-plane/v1/check/ip",
        Check::Geo => "/api/data-plane/v1/check/geo",
        Check::Route => "/api/data-plane/v1/check/route",
    }
}

/// One check of one request. A question for the geo check has only the client and the source of its
/// country; one for the route check has all header lines, because any of them may decide, and so has
/// one for the ip check, because a ban may apply on some routes only: whether one does that covers the
/// client is known to the admin service alone. It neither stores nor logs questions.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Question<'q> {
    /// The answer repeats it, so that an answer to another question is recognized.
    pub id: u64,
    /// As in [`Facts`].
    pub client: Option<IpAddr>,
    /// Where the client's country comes from; geo only.
    pub country_source: CountrySource,
    /// As in [`Facts`]; ip and route only, like all that follows.
    pub method: &'q [u8],
    /// As in [`Facts`].
    pub host: &'q [u8],
    /// As in [`Facts`].
    pub path: &'q [u8],
    /// As in [`Facts`].
    pub https: bool,
    /// As in [`Facts`].
    pub port: u16,
    /// As in [`Facts`].
    #[serde(borrow)]
    pub headers: Vec<(&'q [u8], &'q [u8])>,
    /// As in [`Facts`]: so the backend is the one that the cache would choose.
    pub random_bits: u32,
}

impl<'q> Question<'q> {
    /// The question with what `check` needs of a request.
    #[must_use]
    pub fn new(check: Check, id: u64, facts: &Facts<'q>, country_source: CountrySource) -> Self {
        let about = Self { id, client: facts.client, ..Self::default() };
        match check {
            Check::Geo => Self { country_source, ..about },
            Check::Ip | Check::Route => Self {
                method: facts.method,
                host: facts.host,
                path: facts.path,
                https: facts.https,
                port: facts.port,
                headers: facts.headers.to_vec(),
                random_bits: facts.random_bits,
                ..about
            },
        }
    }

    /// The facts in it.
    #[must_use]
    pub fn facts(&self) -> Facts<'_> {
        Facts {
            client: self.client,
            method: self.method,
            host: self.host,
            path: self.path,
            https: self.https,
            port: self.port,
            headers: &self.headers,
            random_bits: self.random_bits,
        }
    }

    /// The question's bytes.
    ///
    /// # Errors
    /// See [`encode`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, FormatError> {
        encode(CHECK_FORMAT, self)
    }

    /// Reads a question; it borrows `bytes`.
    ///
    /// # Errors
    /// When the bytes are over [`MAX_QUESTION`], of another version or malformed.
    pub fn from_bytes(bytes: &'q [u8]) -> Result<Self, FormatError> {
        match postcard::take_from_bytes(versioned(CHECK_FORMAT, MAX_QUESTION, bytes)?) {
            Ok((question, [])) => Ok(question),
            Ok(_) => Err(FormatError::Malformed("bytes after the end")),
            Err(_) => Err(FormatError::Malformed("not what the format says")),
        }
    }
}

/// The answer to a [`Question`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Answer {
    /// The question's id.
    pub id: u64,
    /// The version of the database from which the answer was made.
    pub version: Version,
    /// What was found; its kind is the check's.
    pub found: Found,
}

/// What the admin service found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Found {
    /// The answer to [`Check::Ip`].
    Ip(IpFinding),
    /// The answer to [`Check::Geo`].
    Geo(GeoAnswer),
    /// The answer to [`Check::Route`]; `None`: no route matches.
    Route(Result<Option<RouteAnswer>, TooLong>),
}

/// A client's country, and the verdict of each geo rule on it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct GeoAnswer {
    /// The country, if known.
    pub country: Option<Country>,
    /// Of all rules, in the order of their names.
    #[serde(deserialize_with = "at_most::<MAX_GEO_RULES, _, _>")]
    pub verdicts: Vec<RuleVerdict>,
}

/// The rule that wins.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RouteAnswer {
    /// Name of the HTTPRoute.
    pub route: String,
    /// Index of the rule within it.
    pub rule: u32,
    /// As in [`RouteMatch`].
    pub template: Option<String>,
    /// As in [`RouteMatch`].
    pub backend: Option<Backend>,
    /// As in [`RouteMatch`].
    #[serde(deserialize_with = "at_most::<MAX_GEO_NAMES, _, _>")]
    pub geo: Vec<String>,
    /// As in [`RouteMatch`].
    pub action: Option<Arc<Action>>,
    /// As in [`RouteMatch`].
    pub backend_action: Option<Arc<Action>>,
}

impl Found {
    /// Which check this answers.
    #[must_use]
    pub fn check(&self) -> Check {
        match self {
            Self::Ip(_) => Check::Ip,
            Self::Geo(_) => Check::Geo,
            Self::Route(_) => Check::Route,
        }
    }

    /// Whether it could come from loaded tables, which are checked for the same: events, and
    /// what is kept for a tunnel, have bounds.
    fn is_valid(&self) -> bool {
        match self {
            Self::Ip(_) | Self::Route(Ok(None) | Err(TooLong)) => true,
            Self::Geo(GeoAnswer { verdicts, .. }) => {
                verdicts.is_sorted_by(|a, b| a.name < b.name)
                    && verdicts.iter().all(|rule| is_name(&rule.name))
            }
            Self::Route(Ok(Some(found))) => {
                let RouteAnswer { route, template, backend, geo, action, backend_action, .. } = found;
                is_name(route)
                    && template.as_deref().is_none_or(is_template)
                    && geo.iter().all(|name| is_name(name))
                    && backend.as_ref().is_none_or(Backend::is_valid)
                    && action.iter().chain(backend_action).all(|action| action.is_valid())
            }
        }
    }
}

impl GeoAnswer {
    /// The finding with this answer.
    #[must_use]
    pub fn finding(&self) -> GeoFinding<'_> {
        GeoFinding::Verdicts { country: self.country, verdicts: &self.verdicts }
    }
}

impl RouteAnswer {
    /// The answer with the match `found`.
    #[must_use]
    pub fn new(found: &RouteMatch<'_>) -> Self {
        Self {
            route: found.route.to_owned(),
            rule: u32::try_from(found.rule).unwrap_or(u32::MAX),
            template: found.template.map(str::to_owned),
            backend: found.backend.cloned(),
            geo: found.geo.to_vec(),
            action: found.action.cloned(),
            backend_action: found.backend_action.cloned(),
        }
    }

    /// The content of [`Found::Route`] as a finding.
    ///
    /// # Errors
    /// [`TooLong`], when that is the answer.
    pub fn found(answer: &Result<Option<Self>, TooLong>) -> Result<Option<RouteMatch<'_>>, TooLong> {
        answer.as_ref().map(|found| found.as_ref().map(Self::finding)).map_err(|too_long| *too_long)
    }

    /// The finding with this answer.
    #[must_use]
    pub fn finding(&self) -> RouteMatch<'_> {
        RouteMatch {
            route: &self.route,
            rule: usize::try_from(self.rule).unwrap_or(usize::MAX),
            template: self.template.as_deref(),
            backend: self.backend.as_ref(),
            geo: &self.geo,
            action: self.action.as_ref(),
            backend_action: self.backend_action.as_ref(),
        }
    }
}

impl Answer {
    /// The answer's bytes.
    ///
    /// # Errors
    /// See [`encode`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, FormatError> {
        encode(CHECK_FORMAT, self)
    }

    /// Reads an answer.
    ///
    /// # Errors
    /// When the bytes are over [`MAX_ANSWER`], of another version or malformed, or have
    /// an answer that no tables could give.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FormatError> {
        let answer: Self = decode(CHECK_FORMAT, MAX_ANSWER, bytes)?;
        if answer.found.is_valid() { Ok(answer) } else { Err(FormatError::Malformed("an impossible answer")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_question_tells_the_facts_and_nothing_that_its_check_does_not_need() {
        let headers: [(&[u8], &[u8]); 1] = [(b"x", b"\xff")];
        let facts = Facts {
            client: Some("10.0.0.1".parse().unwrap()),
            method: b"GET",
            host: b"h",
            path: b"/p?q",
            https: true,
            port: 8443,
            headers: &headers,
            random_bits: 7,
        };
        let bytes = Question::new(Check::Route, 3, &facts, CountrySource::Table).to_bytes().unwrap();
        let read = Question::from_bytes(&bytes).unwrap();
        assert_eq!(
            (read.id, read.path, read.headers.as_slice(), read.random_bits, read.https, read.port),
            (3, facts.path, &headers[..], 7, true, 8443)
        );
        let geo = Question::new(Check::Geo, 4, &facts, CountrySource::Header(None));
        assert_eq!(
            (geo.path, geo.headers.len(), geo.country_source),
            (&b""[..], 0, CountrySource::Header(None))
        );
    }

    #[test]
    fn an_answer_that_no_tables_could_give_is_none() {
        let is_read = |found: Found| {
            let answer = Answer { id: 1, version: Version::default(), found };
            Answer::from_bytes(&answer.to_bytes().unwrap()).is_ok_and(|read| read == answer)
        };
        let name = |len: usize| "a".repeat(len);
        let backend = |name: String, namespace| Backend { name, namespace, port: Some(80), target: None };
        let good = RouteAnswer {
            route: name(317),
            rule: 0,
            template: Some(name(1_024)),
            backend: Some(backend(name(317), Some(name(1)))),
            geo: vec![name(317); 16],
            action: None,
            backend_action: None,
        };
        assert!(is_read(Found::Route(Ok(Some(good.clone())))));
        for bad in [
            RouteAnswer { route: name(318), ..good.clone() },
            RouteAnswer { route: name(0), ..good.clone() },
            RouteAnswer { template: Some(name(1_025)), ..good.clone() },
            RouteAnswer { template: Some(name(0)), ..good.clone() },
            RouteAnswer { geo: vec![name(318)], ..good.clone() },
            RouteAnswer { geo: vec![name(1); 17], ..good.clone() },
            RouteAnswer { backend: Some(backend(name(318), None)), ..good.clone() },
            RouteAnswer { backend: Some(backend("a\r\nb: c".to_owned(), None)), ..good.clone() },
            RouteAnswer { backend: Some(backend(name(1), Some(name(318)))), ..good },
        ] {
            assert!(!is_read(Found::Route(Ok(Some(bad.clone())))), "{bad:?}");
        }
        let rules = |names: &[String]| {
            let rule =
                |name: &String| RuleVerdict { name: name.clone(), global: true, denies: None, shadow: false };
            Found::Geo(GeoAnswer { country: None, verdicts: names.iter().map(rule).collect() })
        };
        let many = |len: usize| (0..len).map(|i| format!("r{i:04}")).collect::<Vec<_>>();
        assert!(is_read(rules(&many(1_000))));
        assert!(!is_read(rules(&many(1_001))));
        assert!(!is_read(rules(&[name(318)])) && !is_read(rules(&[name(0)])));
        assert!(!is_read(rules(&["b".to_owned(), "a".to_owned()])), "out of order");
        assert!(!is_read(rules(&["a".to_owned(), "a".to_owned()])), "two of one name");
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_value_or_an_error(mut bytes: Vec<u8>) {
            if let Some(first) = bytes.first_mut() { *first = CHECK_FORMAT; }
            let _ = Question::from_bytes(&bytes);
            let _ = Answer::from_bytes(&bytes);
        }
    }
}
