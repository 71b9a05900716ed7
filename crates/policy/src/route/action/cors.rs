//! Pages of which other sites may read a response: the Fetch standard's CORS protocol,
//! as in HTTPRoute's CORS filter (`HTTPCORSFilter`).

use serde::{Deserialize, Serialize};

use super::headers::{is_value, is_visible};
use crate::codec::at_most;
use crate::request::Facts;

/// The most members of one list of a CORS filter, as in the CRD.
pub const MAX_CORS: usize = 64;
/// Stands for everything in a list.
const ANY: &str = "*";
/// Longest origin in bytes that is compared with patterns: scheme, a DNS name's 253
/// bytes and a port are less. A client's header may be far longer, and there may be many
/// patterns.
const MAX_ORIGIN: usize = 512;

/// A CORS filter: pages of which other sites may read the response.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Cors {
    /// Origins in lower case, like `https://a.example:8443`. `*` in place of a host's
    /// beginning stands for anything, dots included; alone it is every origin. A scheme's
    /// well-known port is left out.
    #[serde(deserialize_with = "at_most::<MAX_CORS, _, _>")]
    pub origins: Vec<String>,
    /// Whether pages may send cookies and the like.
    pub credentials: bool,
    /// Methods that they may use.
    #[serde(deserialize_with = "at_most::<MAX_CORS, _, _>")]
    pub methods: Vec<String>,
    /// Headers that they may send.
    #[serde(deserialize_with = "at_most::<MAX_CORS, _, _>")]
    pub headers: Vec<String>,
    /// Headers that they may read.
    #[serde(deserialize_with = "at_most::<MAX_CORS, _, _>")]
    pub expose: Vec<String>,
    /// Seconds for which the answer to a preflight request may be kept.
    pub max_age: u32,
}

/// Names and values of response headers.
pub type CorsHeaders = Vec<(&'static str, Vec<u8>)>;

impl Cors {
    /// The headers of the response to a preflight request; `None`: it is no preflight
    /// request. A preflight request from an origin that is not listed is answered too,
    /// without headers: the browser then does not send the request.
    #[must_use]
    pub fn preflight(&self, facts: &Facts<'_>) -> Option<CorsHeaders> {
        let (origin, method) = (header(facts, b"origin")?, header(facts, b"access-control-request-method")?);
        if facts.method != b"OPTIONS" {
            return None;
        }
        let mut headers = self.simple(origin);
        if headers.is_empty() {
            return Some(headers);
        }
        let asked = header(facts, b"access-control-request-headers");
        for (name, list, asked) in [
            ("access-control-allow-methods", &self.methods, Some(method)),
            ("access-control-allow-headers", &self.headers, asked),
        ] {
            headers.extend(self.listed(list, asked).map(|value| (name, value)));
        }
        headers.push(("access-control-max-age", self.max_age.to_string().into_bytes()));
        Some(headers)
    }

    /// The headers of the response to a request from a page of `origin`. None if the
    /// origin is not listed: the browser then does not let the page read the response.
    #[must_use]
    pub fn simple(&self, origin: &[u8]) -> CorsHeaders {
        let any = self.origins.iter().any(|pattern| pattern == ANY);
        if !any && !self.lists(origin) {
            return Vec::new();
        }
        let allowed = if any && !self.credentials { ANY.as_bytes() } else { origin };
        let mut headers = vec![("access-control-allow-origin", allowed.to_vec())];
        if self.credentials {
            headers.push(("access-control-allow-credentials", b"true".to_vec()));
        }
        headers.extend(self.listed(&self.expose, None).map(|value| ("access-control-expose-headers", value)));
        headers
    }

    /// Whether a pattern covers `origin`; schemes and hosts have no case.
    fn lists(&self, origin: &[u8]) -> bool {
        if origin.len() > MAX_ORIGIN {
            return false;
        }
        let origin = origin.to_ascii_lowercase();
        let origin = without_well_known_port(&origin);
        self.origins.iter().any(|pattern| takes(pattern, origin))
    }

    /// Whether the headers depend on the origin.
    #[must_use]
    pub fn varies(&self) -> bool {
        self.credentials || !self.origins.iter().any(|pattern| pattern == ANY)
    }

    /// A list as a header's value. With credentials a browser does not accept `*`: then the
    /// value is what was asked for, or without that the rest of the list.
    fn listed(&self, list: &[String], asked: Option<&[u8]>) -> Option<Vec<u8>> {
        let has_any = list.iter().any(|member| member == ANY);
        if self.credentials && has_any && asked.is_some() {
            return asked.map(<[u8]>::to_vec);
        }
        let list: Vec<_> =
            list.iter().filter(|member| !(self.credentials && *member == ANY)).map(String::as_str).collect();
        (!list.is_empty()).then(|| list.join(", ").into_bytes())
    }

    pub(super) fn is_valid(&self) -> bool {
        self.origins.iter().all(|origin| is_visible(origin))
            && [&self.methods, &self.headers, &self.expose].into_iter().flatten().all(|text| is_value(text))
    }
}

/// The only line of a header; `None` if there are several.
fn header<'r>(facts: &Facts<'r>, name: &[u8]) -> Option<&'r [u8]> {
    let mut lines = facts.headers.iter().filter(|line| line.0 == name);
    let first = lines.next()?;
    lines.next().is_none().then_some(first.1)
}

/// Whether `pattern` covers `origin`, which is in lower case and without a
/// well-known port.
fn takes(pattern: &str, origin: &[u8]) -> bool {
    let Some((before, after)) = pattern.split_once('*') else { return pattern.as_bytes() == origin };
    let inside = origin.strip_prefix(before.as_bytes()).and_then(|rest| rest.strip_suffix(after.as_bytes()));
    // The star stands for a part of the host only, not for a port.
    inside.is_some_and(|inside| !inside.is_empty() && !inside.contains(&b':') && !inside.contains(&b'/'))
}

/// `http://a:80` is `http://a`, and `https://a:443` is `https://a`.
pub fn without_well_known_port(origin: &[u8]) -> &[u8] {
    let port: &[u8] = if origin.starts_with(b"https:") { b":443" } else { b":80" };
    origin.strip_suffix(port).unwrap_or(origin)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cors(origins: &[&str]) -> Cors {
        let list = |members: &[&str]| members.iter().map(|&member| member.to_owned()).collect::<Vec<_>>();
        Cors {
            origins: list(origins),
            methods: list(&["GET", "PUT"]),
            headers: list(&["x-a", "x-b"]),
            expose: list(&["x-c"]),
            max_age: 5,
            credentials: false,
        }
    }

    fn said(headers: &CorsHeaders) -> Vec<String> {
        headers.iter().map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value))).collect()
    }

    fn preflight(cors: &Cors, lines: &[(&str, &str)]) -> Option<Vec<String>> {
        let lines: Vec<_> = lines.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
        let facts = Facts { method: b"OPTIONS", headers: &lines, ..Facts::default() };
        cors.preflight(&facts).as_ref().map(said)
    }

    #[test]
    fn origins_match_by_scheme_host_and_port() {
        for (pattern, origin, taken) in [
            ("*", "null", true),
            ("https://a.example", "https://a.example", true),
            ("https://a.example", "HTTPS://A.example:443", true),
            ("https://a.example", "http://a.example", false),
            ("https://a.example", "https://a.example:8443", false),
            ("https://a.example:8443", "https://a.example:8443", true),
            ("https://*.bar.com", "https://x.y.bar.com", true),
            ("https://*.bar.com", "https://bar.com", false),
            ("https://*.bar.com", "https://.bar.com", false),
            ("https://*.bar.com", "https://x.bar.com:8443", false),
            ("https://*.bar.com", "https://evil.example/x.bar.com", false),
            ("https://*.bar.com:8443", "https://x.bar.com:8443", true),
            ("https://*", "https://anything.example", true),
            ("https://*", "https://anything.example:8443", false),
            ("https://*", "http://anything.example", false),
        ] {
            assert_eq!(!cors(&[pattern]).simple(origin.as_bytes()).is_empty(), taken, "{pattern} {origin}");
        }
    }

    #[test]
    fn no_pattern_covers_what_is_too_long_for_an_origin() {
        let of = |len: usize| [b"https://".as_slice(), &vec![b'a'; len], b".bar.com"].concat();
        let cors_of = |origins| cors(origins).simple(&of(MAX_ORIGIN));
        assert_eq!(cors_of(&["https://*.bar.com"]), []);
        assert_eq!(cors_of(&["*"]).len(), 2, "which is for every origin");
        assert_eq!(cors(&["https://*.bar.com"]).simple(&of(253)).len(), 2);
    }

    #[test]
    fn a_preflight_is_answered_with_what_is_configured() {
        let asked = [("origin", "https://a.example"), ("access-control-request-method", "PUT")];
        let cors = cors(&["https://a.example"]);
        assert_eq!(
            preflight(&cors, &asked).unwrap(),
            [
                "access-control-allow-origin: https://a.example",
                "access-control-expose-headers: x-c",
                "access-control-allow-methods: GET, PUT",
                "access-control-allow-headers: x-a, x-b",
                "access-control-max-age: 5",
            ]
        );
        let strange = [("origin", "https://b.example"), asked[1]];
        assert_eq!(preflight(&cors, &strange), Some(vec![]), "answered, and nothing allowed");
        assert_eq!(preflight(&cors, &asked[..1]), None, "not a preflight");
        assert_eq!(preflight(&cors, &asked[1..]), None, "not from a page");
        let get = Facts { method: b"GET", ..Facts::default() };
        assert_eq!(cors.preflight(&get), None);
    }

    #[test]
    fn a_star_beside_credentials_is_what_was_asked_for() {
        let star = || vec!["*".to_owned()];
        let open = Cors { methods: star(), headers: star(), expose: star(), ..cors(&["*"]) };
        let asked = [("origin", "https://a.example"), ("access-control-request-method", "PUT")];
        let with_headers = [asked[0], asked[1], ("access-control-request-headers", "x-z, x-y")];
        let plain = preflight(&open, &with_headers).unwrap();
        assert_eq!(plain[0], "access-control-allow-origin: *");
        assert!(plain.contains(&"access-control-allow-headers: *".to_owned()));
        let private = Cors { credentials: true, ..open };
        assert_eq!(
            preflight(&private, &with_headers).unwrap(),
            [
                "access-control-allow-origin: https://a.example",
                "access-control-allow-credentials: true",
                "access-control-allow-methods: PUT",
                "access-control-allow-headers: x-z, x-y",
                "access-control-max-age: 5",
            ]
        );
        assert_eq!(preflight(&private, &asked).unwrap().len(), 4, "no headers asked for, none named");
        let named = Cors { expose: vec!["*".to_owned(), "x-a".to_owned()], ..private };
        let exposed = ("access-control-expose-headers", b"x-a".to_vec());
        assert!(named.simple(b"https://a.example").contains(&exposed));
    }

    #[test]
    fn a_simple_request_of_a_stranger_is_told_nothing() {
        let cors = Cors { credentials: true, ..cors(&["https://a.example", "https://*.b.example"]) };
        assert_eq!(cors.simple(b"https://c.example"), []);
        assert_eq!(
            said(&cors.simple(b"https://x.b.example")),
            [
                "access-control-allow-origin: https://x.b.example",
                "access-control-allow-credentials: true",
                "access-control-expose-headers: x-c",
            ]
        );
    }
}
