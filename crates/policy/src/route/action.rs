//! What a rule does with its requests besides choosing their backend: the filters,
//! timeouts and retries of an HTTPRoute. All that is computed (the new path, a redirect's
//! location, whether an origin may read the response) is computed here, so that `explain`
//! shows what the filter does. The filter (`src/request/actions.rs`) carries it out.
//!
//! A rule has one [`Action`], and a backendRef may have another for the requests
//! that it gets: the rule's comes first.

mod cors;
mod headers;
mod path;
mod redirect;

use serde::{Deserialize, Serialize};

pub use cors::{Cors, CorsHeaders, MAX_CORS, without_well_known_port};
use headers::is_visible;
pub use headers::{HeaderEdit, HeaderEdits, LOOP_HEADER, MAX_EDITS, is_editable, is_value};
pub use path::PathEdit;
pub use redirect::{Redirect, RequestUrl};

use super::backend::Backend;
use crate::codec::at_most;

/// The most mirrors of one rule, with those of a backendRef.
pub const MAX_MIRRORS: usize = 4;

/// What is done with a request, and with its response.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Action {
    /// Changes of the request's headers.
    pub request: HeaderEdits,
    /// Changes of the response's headers.
    pub response: HeaderEdits,
    /// The request is answered with a redirect instead of by a backend.
    pub redirect: Option<Redirect>,
    /// Host and path that the backend sees.
    pub rewrite: Option<Rewrite>,
    /// Backends that get a copy.
    #[serde(deserialize_with = "at_most::<MAX_MIRRORS, _, _>")]
    pub mirrors: Vec<Mirror>,
    /// Pages of which other sites may read the response.
    pub cors: Option<Cors>,
    /// How long it may take.
    pub timeouts: Timeouts,
    /// When it is tried again.
    pub retry: Option<Retry>,
}

/// Host and path that the backend sees.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Rewrite {
    /// The host.
    pub hostname: Option<String>,
    /// The path.
    pub path: Option<PathEdit>,
}

/// A backend that gets a copy of requests; its response is dropped.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Mirror {
    /// The backend.
    pub backend: Backend,
    /// Copied are this many of `denominator` requests, chosen at random.
    pub numerator: u32,
    /// Never 0.
    pub denominator: u32,
}

impl Mirror {
    /// Whether a request with these random bits is one of those that are copied.
    #[must_use]
    pub fn is_sampled(&self, random_bits: u32) -> bool {
        let point = u64::from(random_bits).saturating_mul(u64::from(self.denominator)) >> 32;
        point < u64::from(self.numerator)
    }
}

/// How long a request may take, milliseconds; 0: no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Timeouts {
    /// From the whole request to the whole response, all tries included.
    pub request_ms: u32,
    /// One try.
    pub backend_ms: u32,
}

/// When a request is tried again: always after failed connections, resets and tries that
/// took too long, and after the statuses in `codes`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Retry {
    /// Tries after the first one.
    pub attempts: u32,
    /// Statuses of the backend after which the request is tried again.
    #[serde(deserialize_with = "at_most::<200, _, _>")]
    pub codes: Vec<u16>,
}

impl Action {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a document could have this action: its headers are set as they are, so bytes
    /// that no document gives are refused.
    pub(crate) fn is_valid(&self) -> bool {
        self.request.is_valid()
            && self.response.is_valid()
            && self.redirect.as_ref().is_none_or(Redirect::is_valid)
            && self.rewrite.as_ref().is_none_or(Rewrite::is_valid)
            && self.mirrors.iter().all(|mirror| mirror.backend.is_valid() && mirror.denominator > 0)
            && self.cors.as_ref().is_none_or(Cors::is_valid)
    }
}

impl Rewrite {
    fn is_valid(&self) -> bool {
        self.hostname.as_deref().is_none_or(is_visible) && self.path.as_ref().is_none_or(PathEdit::is_valid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_gets_its_part() {
        let backend = Backend { name: "b".to_owned(), namespace: None, port: None, target: None };
        let of = |numerator, denominator| {
            let mirror = Mirror { backend: backend.clone(), numerator, denominator };
            (0..1_000u64)
                .filter(|i| mirror.is_sampled(u32::try_from(((2 * i + 1) << 32) / 2_000).unwrap()))
                .count()
        };
        assert_eq!((of(0, 100), of(100, 100), of(25, 50), of(1, 1_000)), (0, 1_000, 500, 1));
        assert!(Mirror { backend, numerator: 1, denominator: 1 }.is_sampled(u32::MAX));
    }
}
