//! Where a ban applies, if not everywhere: at hostnames, on routes.

use serde::{Deserialize, Serialize};

use crate::codec::at_most;
use crate::host::RequestHost;

/// Hostnames of a scope, and routes, at most: as many as an HTTPRoute may have hostnames.
pub const MAX_SCOPE_NAMES: usize = 16;

/// Where a ban applies. Each of the two narrows it: a request must be for one of the hostnames, if there are
/// any, and take one of the routes, if there are any. One without both applies nowhere: it is no scope.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Scope {
    /// In lower case and without a dot at the end; `*.` at the beginning stands for at least one label.
    #[serde(deserialize_with = "at_most::<MAX_SCOPE_NAMES, _, _>")]
    pub hostnames: Vec<String>,
    /// As [`RouteMatch::route`](crate::route::RouteMatch::route) names them.
    #[serde(deserialize_with = "at_most::<MAX_SCOPE_NAMES, _, _>")]
    pub routes: Vec<String>,
}

impl Scope {
    /// Whether it says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.hostnames.is_empty() && self.routes.is_empty()
    }

    /// Whether a request for `host` is in it, by its hostnames alone: as requests match hostnames of routes.
    #[must_use]
    pub fn fits_host(&self, host: &RequestHost) -> bool {
        self.hostnames.is_empty() || self.hostnames.iter().any(|hostname| is_of(host.name(), hostname))
    }

    /// Whether a request that takes `route` is in it, by its routes alone.
    #[must_use]
    pub fn fits_route(&self, route: Option<&str>) -> bool {
        self.routes.is_empty() || self.routes.iter().any(|name| Some(name.as_str()) == route)
    }
}

/// Whether `hostname` stands for `name`. The labels of a name that was read are not empty, so what stands
/// before a dot is at least one.
fn is_of(name: &[u8], hostname: &str) -> bool {
    match hostname.strip_prefix('*') {
        Some(end) => name.len() > end.len() && name.ends_with(end.as_bytes()),
        None => name == hostname.as_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(hostnames: &[&str], routes: &[&str]) -> Scope {
        let all = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        Scope { hostnames: all(hostnames), routes: all(routes) }
    }

    #[test]
    fn a_wildcard_stands_for_at_least_one_label() {
        let scope = scope(&["a.example", "*.b.example"], &[]);
        for (host, fits) in [
            ("a.example", true),
            ("A.Example.:8080", true),
            ("x.a.example", false),
            ("b.example", false),
            ("x.b.example", true),
            ("x.y.B.example:80", true),
            ("xb.example", false),
            ("[::1]", false),
        ] {
            assert_eq!(scope.fits_host(&RequestHost::read(host.as_bytes()).unwrap()), fits, "{host}");
        }
    }

    #[test]
    fn what_is_not_named_does_not_narrow() {
        let host = RequestHost::read(b"c.example").unwrap();
        let by_route = scope(&[], &["shop", "team/r"]);
        assert!(by_route.fits_host(&host) && by_route.fits_route(Some("team/r")));
        assert!(!by_route.fits_route(Some("r")) && !by_route.fits_route(None));
        assert!(scope(&["c.example"], &[]).fits_route(None));
    }
}
