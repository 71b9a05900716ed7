//! The query of a URL: known parameters, each at most once. An unknown one is an error, because
//! it is probably misspelt.

use std::str::FromStr;
use std::time::Duration;

use axum::extract::{FromRequestParts, Path};
use axum::http::Uri;
use axum::http::request::Parts;
use jiff::Timestamp;

use crate::problem::{ApiResult, Problem, ProblemCode};
use crate::store::time_text;
use crate::time;

/// The longest that `wait_applied` waits.
pub const MAX_WAIT_APPLIED: Duration = Duration::from_secs(30);

/// The parameters of one request.
pub struct QueryParams(Vec<(&'static str, String)>);

impl QueryParams {
    /// Reads the query of `uri`, which may contain only `known` parameters.
    pub fn read(uri: &Uri, known: &'static [&'static str]) -> ApiResult<Self> {
        Self::read_with(uri, known, &[])
    }

    /// Reads the query of `uri`; those in `repeatable` may occur several times.
    ///
    /// # Errors
    /// When a parameter is unknown, or is repeated and may not be.
    pub fn read_with(
        uri: &Uri,
        known: &'static [&'static str],
        repeatable: &[&'static str],
    ) -> ApiResult<Self> {
        let mut params: Vec<(&'static str, String)> = Vec::new();
        for (name, value) in form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
            let Some(name) = known.iter().find(|known| **known == name) else {
                return Err(unknown(&name, known));
            };
            if !repeatable.contains(name) && params.iter().any(|(seen, _)| seen == name) {
                return Err(Problem::parameter(*name, "repeated", format!("`{name}` may be given once")));
            }
            params.push((name, value.into_owned()));
        }
        Ok(Self(params))
    }

    /// The text of a parameter.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(found, _)| *found == name).map(|(_, value)| value.as_str())
    }

    /// All texts of a parameter that may be repeated.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(found, _)| *found == name).map(|(_, value)| value.as_str())
    }

    /// A parameter as a `T`; `form` describes the format, for the error.
    pub fn parsed<T: FromStr>(&self, name: &'static str, form: &str) -> ApiResult<Option<T>> {
        self.get(name)
            .map(|text| {
                text.parse().map_err(|_| {
                    let detail = format!("`{}` is not right for `{name}`: {form}", shortened(text));
                    Problem::parameter(name, "invalid", detail)
                })
            })
            .transpose()
    }

    /// A parameter as a duration of at most `max`.
    pub fn duration(&self, name: &'static str, max: Duration) -> ApiResult<Option<Duration>> {
        let Some(text) = self.get(name) else { return Ok(None) };
        match time::parse_duration(text) {
            Some(duration) if duration <= max => Ok(Some(duration)),
            Some(_) => {
                let detail = format!("`{name}` may be {} s at most", max.as_secs());
                Err(Problem::parameter(name, "out_of_range", detail))
            }
            None => {
                let detail = format!("`{}` is no duration: {}", shortened(text), time::DURATION_FORM);
                Err(Problem::parameter(name, "invalid", detail))
            }
        }
    }

    /// A parameter as a moment: a time, or a span before now.
    pub fn moment(&self, name: &'static str) -> ApiResult<Option<Timestamp>> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let ago = time::parse_duration(text).and_then(time::ago);
        match time::parse_timestamp(text).or(ago) {
            Some(moment) => Ok(Some(moment)),
            None => {
                let detail = format!("this is no time: {}; or a span before now, like 2h", time_text::FORM);
                Err(Problem::parameter(name, "invalid", detail))
            }
        }
    }

    /// `since` and `until`, the first before the second. `since` may not be in the future, nor `until`
    /// further than a day: gateways' clocks may be wrong.
    pub fn since_until(&self) -> ApiResult<(Option<Timestamp>, Option<Timestamp>)> {
        let (since, until, now) = (self.moment("since")?, self.moment("until")?, time::now());
        let tomorrow = time::from_now(Duration::from_secs(86_400));
        let wrong = |name, detail: &str| Err(Problem::parameter(name, "out_of_range", detail));
        if since.is_some_and(|since| since > now) {
            return wrong("since", "`since` is in the future: write a time before now, or a span like 2h");
        }
        if until.is_some_and(|until| tomorrow.is_some_and(|tomorrow| until > tomorrow)) {
            return wrong("until", "`until` is over a day in the future: leave it out for all until now");
        }
        match (since, until) {
            (Some(since), Some(until)) if since >= until => {
                wrong("until", "`until` is not after `since`: nothing is between them")
            }
            times => Ok(times),
        }
    }

    /// A parameter that is one of `known` words.
    pub fn word(&self, name: &'static str, known: &[&'static str]) -> ApiResult<Option<&'static str>> {
        self.get(name).map(|text| known_word(name, text, known)).transpose()
    }

    /// The words of a parameter that may be repeated, each time with one of `known` or several with commas
    /// between them; empty: it is absent.
    pub fn words(&self, name: &'static str, known: &[&'static str]) -> ApiResult<Vec<&'static str>> {
        self.all(name).flat_map(|text| text.split(',')).map(|text| known_word(name, text, known)).collect()
    }

    /// All parameters with their texts, in the order in which they came.
    pub fn pairs(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.iter().map(|(name, value)| (*name, value.as_str()))
    }

    /// A parameter that is 1 or 0; 0 if it is absent.
    pub fn flag(&self, name: &'static str) -> ApiResult<bool> {
        match self.get(name) {
            Some("1") => Ok(true),
            None | Some("0") => Ok(false),
            Some(_) => Err(Problem::parameter(name, "invalid", format!("`{name}` may be 0 or 1"))),
        }
    }

    /// A parameter that is `true` or `false`; false if it is absent.
    pub fn boolean(&self, name: &'static str) -> ApiResult<bool> {
        Ok(self.parsed(name, "write true or false")?.unwrap_or_default())
    }

    /// A page's size, 1 to `max`.
    pub fn limit(&self, default: usize, max: usize) -> ApiResult<usize> {
        let limit = self.parsed("limit", "write a number")?.unwrap_or(default);
        if (1..=max).contains(&limit) {
            return Ok(limit);
        }
        Err(Problem::parameter("limit", "out_of_range", format!("`limit` may be 1 to {max}")))
    }
}

/// The one of `known` that `text` is.
fn known_word(name: &'static str, text: &str, known: &[&'static str]) -> ApiResult<&'static str> {
    known.iter().find(|word| **word == text).copied().ok_or_else(|| {
        let detail = format!("`{}` is not known: `{name}` may be {}", shortened(text), known.join(", "));
        Problem::parameter(name, "invalid", detail)
    })
}

fn unknown(name: &str, known: &[&str]) -> Problem {
    let detail = match known {
        [] => format!("`{}` is not known: this path takes no parameters", shortened(name)),
        known => format!("`{}` is not known: this path takes {}", shortened(name), known.join(", ")),
    };
    Problem::parameter(shortened(name), "unknown_parameter", detail)
}

/// The parameters of a path, decoded, with `/` between them.
pub struct PathParam(pub String);

impl<S: Send + Sync> FromRequestParts<S> for PathParam {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> ApiResult<Self> {
        match Path::<Vec<(String, String)>>::from_request_parts(parts, state).await {
            Ok(Path(params)) => {
                Ok(Self(params.into_iter().map(|(_, text)| text).collect::<Vec<_>>().join("/")))
            }
            Err(_) => {
                Err(Problem::new(ProblemCode::InvalidParameter, "the path has bytes that are no UTF-8"))
            }
        }
    }
}

/// A client's text, shortened so that an answer can repeat it.
#[must_use]
pub fn shortened(text: &str) -> String {
    text.chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> ApiResult<QueryParams> {
        QueryParams::read(&format!("/x?{query}").parse().unwrap(), &["limit", "wait_applied"])
    }

    #[test]
    fn parameters_are_known_single_and_in_range() {
        let params = read("limit=5&wait_applied=2s").unwrap();
        assert_eq!(params.limit(100, 1000).unwrap(), 5);
        assert_eq!(params.duration("wait_applied", MAX_WAIT_APPLIED).unwrap(), Some(Duration::from_secs(2)));
        for bad in ["wait=2s", "limit=1&limit=1"] {
            assert_eq!(read(bad).err().unwrap().code(), ProblemCode::InvalidParameter, "{bad}");
        }
        for bad in ["limit=0", "limit=-1", "limit=1001", "limit=x"] {
            assert!(read(bad).unwrap().limit(100, 1000).is_err(), "{bad}");
        }
        for bad in ["wait_applied=", "wait_applied=31s", "wait_applied=soon"] {
            assert!(read(bad).unwrap().duration("wait_applied", MAX_WAIT_APPLIED).is_err(), "{bad}");
        }
    }
}
