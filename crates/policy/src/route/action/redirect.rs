//! Redirects.

use serde::{Deserialize, Serialize};

use super::headers::is_visible;
use super::path::PathEdit;

/// A redirect. What is `None` stays as in the request.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Redirect {
    /// Whether the new location is `https`.
    pub https: Option<bool>,
    /// The host.
    pub hostname: Option<String>,
    /// The path.
    pub path: Option<PathEdit>,
    /// The port; if neither it nor a scheme is given, the listener's.
    pub port: Option<u16>,
    /// The status: 301, 302, 303, 307 or 308.
    pub status: u16,
}

/// A request's URL, and the port at which it arrived.
#[derive(Clone, Copy, Debug)]
pub struct RequestUrl<'r> {
    /// Whether it came over TLS, as far as Envoy knows.
    pub https: bool,
    /// Host as sent, port included.
    pub host: &'r [u8],
    /// Port of the listener.
    pub port: u16,
    /// Path with its query.
    pub target: &'r [u8],
}

impl Redirect {
    /// The `Location` of the response: an absolute URL, or a path if there is no host.
    ///
    /// The port is, as in the specification (`HTTPRequestRedirectFilter.port`): the given
    /// one; else, if a scheme is given, its well-known one; else the listener's. 80 with
    /// http and 443 with https are left out.
    #[must_use]
    pub fn location(&self, url: &RequestUrl<'_>) -> Vec<u8> {
        let path = match &self.path {
            Some(edit) => edit.apply(url.target),
            None => url.target.to_vec(),
        };
        let host = self.hostname.as_ref().map_or_else(|| without_port(url.host), String::as_bytes);
        if host.is_empty() {
            return path;
        }
        let https = self.https.unwrap_or(url.https);
        let well_known = if https { 443 } else { 80 };
        let port = self.port.unwrap_or(if self.https.is_some() { well_known } else { url.port });
        let scheme: &[u8] = if https { b"https://" } else { b"http://" };
        let shown = if port == well_known { String::new() } else { [":", &port.to_string()].concat() };
        [scheme, host, shown.as_bytes(), &path].concat()
    }

    pub(super) fn is_valid(&self) -> bool {
        self.hostname.as_deref().is_none_or(is_visible)
            && self.path.as_ref().is_none_or(PathEdit::is_valid)
            && (300..400).contains(&self.status)
    }
}

/// A host without its port; an IPv6 literal keeps its brackets.
fn without_port(host: &[u8]) -> &[u8] {
    let after = host.iter().rposition(|byte| *byte == b']').unwrap_or(0);
    let port = host.get(after..).and_then(|rest| rest.iter().position(|byte| *byte == b':'));
    port.and_then(|at| host.get(..after.saturating_add(at))).unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TO: Redirect = Redirect { https: None, hostname: None, path: None, port: None, status: 302 };

    fn from(https: bool, host: &'static str, port: u16) -> RequestUrl<'static> {
        RequestUrl { https, host: host.as_bytes(), port, target: b"/a?b=c" }
    }

    fn location(redirect: &Redirect, url: &RequestUrl<'_>) -> String {
        String::from_utf8(redirect.location(url)).unwrap()
    }

    #[test]
    fn the_port_follows_scheme_and_listener() {
        let host = || Some("b.example".to_owned());
        let plain = from(false, "a.example:8080", 80);
        assert_eq!(location(&TO, &plain), "http://a.example/a?b=c", "80 is not shown");
        let other = from(false, "a.example", 8080);
        assert_eq!(location(&TO, &other), "http://a.example:8080/a?b=c");
        let named = Redirect { hostname: host(), ..TO };
        assert_eq!(
            location(&named, &other),
            "http://b.example:8080/a?b=c",
            "the listener's, with a host too"
        );
        let secure = Redirect { https: Some(true), ..TO };
        assert_eq!(location(&secure, &other), "https://a.example/a?b=c", "the scheme's well-known one");
        let downgraded = Redirect { https: Some(false), ..TO };
        assert_eq!(location(&downgraded, &from(true, "a.example", 8443)), "http://a.example/a?b=c");
        assert_eq!(location(&TO, &from(true, "a.example", 443)), "https://a.example/a?b=c");
        assert_eq!(location(&TO, &from(true, "a.example", 8443)), "https://a.example:8443/a?b=c");
        let port = |port, https| Redirect { port: Some(port), https, ..TO };
        assert_eq!(location(&port(443, Some(true)), &plain), "https://a.example/a?b=c");
        assert_eq!(location(&port(80, Some(false)), &plain), "http://a.example/a?b=c");
        assert_eq!(location(&port(443, None), &plain), "http://a.example:443/a?b=c");
        assert_eq!(location(&port(8443, Some(true)), &plain), "https://a.example:8443/a?b=c");
    }

    #[test]
    fn hosts_of_every_kind_lose_their_port() {
        for (host, rest) in [
            ("a.example:80", "a.example"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
            ("a.example", "a.example"),
            ("a.example:", "a.example"),
            ("", ""),
        ] {
            assert_eq!(without_port(host.as_bytes()), rest.as_bytes(), "{host}");
        }
        assert_eq!(location(&TO, &from(false, "", 8080)), "/a?b=c", "no host to name");
    }

    #[test]
    fn a_path_is_replaced_and_the_query_kept() {
        let to = Redirect { path: Some(PathEdit::Full("/x".to_owned())), ..TO };
        assert_eq!(location(&to, &from(false, "a.example", 80)), "http://a.example/x?b=c");
    }
}
