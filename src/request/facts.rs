//! What is known of a request when it is decided: its client and its headers, read in
//! two host calls.

use std::net::IpAddr;

use tidegate_policy::address::client_address;
use tidegate_policy::decide::CountrySource;
use tidegate_policy::geo::Country;
use tidegate_policy::request::Facts;
use tidegate_policy::route::action::LOOP_HEADER;

use super::{forwarded_for, passes, path_parameters, performance};
use crate::config::{OWN_PREFIX, TrustedHops};
use crate::host::{HeaderMap, Host};
use crate::metrics::{Count, Metrics};

/// The longest `x-request-id` that is shown.
const MAX_REQUEST_ID: usize = 128;

/// A request's headers and client.
pub struct RequestFacts {
    client: Option<IpAddr>,
    headers: HeaderMap,
    /// Where in `headers` the method is, the host, the path and the user agent.
    method: Option<usize>,
    host: Option<usize>,
    path: Option<usize>,
    user_agent: Option<usize>,
    /// The values of several hosts, joined: then none of them is the host.
    hosts: Option<Vec<u8>>,
    https: bool,
    /// Whether the peer's word on the client counts.
    has_trusted_hop: bool,
    /// Whether the client sent headers that only the filter may set.
    has_own: bool,
    wants_performance: bool,
    country_source: CountrySource,
    declared: Declared,
    /// Passes through gates that it tells of.
    passes: usize,
    /// The path without parameters, with its query, if it has some and they do not count.
    matched_path: Option<Vec<u8>>,
}

/// The length that headers declare of a body (`content-length`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Declared {
    /// None.
    #[default]
    Nothing,
    /// So many bytes.
    Bytes(u64),
    /// Something else.
    Unreadable,
}

impl Declared {
    /// As the value of `content-length` says.
    pub fn of(value: &[u8]) -> Self {
        let digits = std::str::from_utf8(value).ok().filter(|text| !text.starts_with('+'));
        digits.and_then(|text| text.parse().ok()).map_or(Self::Unreadable, Self::Bytes)
    }
}

/// The values of a request's headers that its event records.
#[derive(PartialEq, Eq, Debug, Default)]
pub struct RecordedFacts<'r> {
    /// `:method`.
    pub method: Option<&'r [u8]>,
    /// `:authority`, port included.
    pub host: Option<&'r [u8]>,
    /// `:path`, query included.
    pub path: Option<&'r [u8]>,
    /// `user-agent`.
    pub user_agent: Option<&'r [u8]>,
}

impl RequestFacts {
    /// Reads the current request. `country_header`: name, in lower case, of the header
    /// with the client's country, which a trusted filter sets. `None`: no header is
    /// trusted with it. `hops`: who may say in `X-Forwarded-For` who the client is, where Envoy passed
    /// over that; `None`: nobody.
    pub fn read<H: Host>(
        host: &H,
        metrics: &Metrics<H>,
        country_header: Option<&str>,
        hops: Option<&TrustedHops>,
    ) -> Self {
        let source_address = host.property("source\0address").ok().flatten();
        let client = source_address.as_deref().and_then(client_address);
        let source = source_address.as_deref().unwrap_or_default();
        let has_trusted_hop = is_trusted_hop(source, client);
        let of = Self::of(client, host.request_headers(), country_header);
        let mut request = Self { has_trusted_hop, ..of };
        let forwarded =
            hops.and_then(|hops| forwarded_for::client(hops, client, &mut request.forwarded_for()));
        if forwarded.is_some() {
            request.client = forwarded;
            request.has_trusted_hop = true;
        } else if forwarded_for::is_unreadable(
            hops,
            client,
            is_from_header(source),
            &mut request.forwarded_for(),
        ) {
            metrics.count(Count::UnreadableForwardedFor);
        }
        if request.client.is_none() {
            metrics.count(Count::NoClientAddress);
        }
        request
    }

    /// What its headers say.
    pub fn of(client: Option<IpAddr>, headers: HeaderMap, country_header: Option<&str>) -> Self {
        let country_header = country_header.map(str::as_bytes);
        let country_source =
            if country_header.is_some() { CountrySource::Header(None) } else { CountrySource::Table };
        let mut request = Self {
            client,
            method: None,
            host: None,
            path: None,
            user_agent: None,
            hosts: None,
            https: false,
            has_trusted_hop: false,
            has_own: false,
            wants_performance: false,
            country_source,
            declared: Declared::Nothing,
            passes: 0,
            matched_path: None,
            headers: HeaderMap::default(),
        };
        let mut countries = 0usize;
        for (at, (name, value)) in headers.iter().enumerate() {
            match name {
                b":method" => request.method = Some(at),
                b":authority" | b"host" => request.add_host(&headers, at),
                b":path" => request.path = Some(at),
                b":scheme" => request.https = value == b"https",
                [b':', ..] => {}
                name => {
                    if country_header == Some(name) {
                        countries = countries.saturating_add(1);
                        // Of two lines, one is not the trusted filter's: neither counts.
                        let one = Country::new(value.trim_ascii()).filter(|_| countries == 1);
                        request.country_source = CountrySource::Header(one);
                    }
                    request.take_header(at, name, value);
                }
            }
        }
        Self { headers, ..request }
    }

    fn take_header(&mut self, at: usize, name: &[u8], value: &[u8]) {
        match name {
            b"user-agent" => self.user_agent = Some(at),
            b"content-length" => self.declared = Declared::of(value),
            performance::WANTED_HEADER => self.wants_performance |= value == b"1",
            name if name == LOOP_HEADER.as_bytes() => {
                self.passes = self.passes.saturating_add(passes::told_in(value));
            }
            name => self.has_own |= name.starts_with(OWN_PREFIX),
        }
    }

    /// Of several hosts none is the host: as when Envoy joins them.
    fn add_host(&mut self, headers: &HeaderMap, at: usize) {
        if let Some(before) = self.host {
            let first = || headers.value(before).unwrap_or_default().to_vec();
            let mut hosts = self.hosts.take().unwrap_or_else(first);
            hosts.push(b',');
            hosts.extend_from_slice(headers.value(at).unwrap_or_default());
            self.hosts = Some(hosts);
        }
        self.host = Some(at);
    }

    fn value(&self, at: Option<usize>) -> Option<&[u8]> {
        self.headers.value(at?)
    }

    fn host(&self) -> Option<&[u8]> {
        self.hosts.as_deref().or_else(|| self.value(self.host))
    }

    /// The client's address, by Envoy's trusted-hop rules, or by the same rules where it passed over an
    /// entry.
    pub fn client(&self) -> Option<IpAddr> {
        self.client
    }

    /// Where the client's country comes from.
    pub fn country_source(&self) -> CountrySource {
        self.country_source
    }

    /// Whether it has passed so many gates that it goes in circles.
    pub fn goes_in_circles(&self) -> bool {
        self.passes >= passes::MOST
    }

    /// Whether it has passed a gate before.
    pub fn has_passed_a_gate(&self) -> bool {
        self.passes > 0
    }

    /// From now on the request is matched, redirected and rewritten by its path without parameters.
    pub fn strip_path_parameters(&mut self) {
        self.matched_path = self.value(self.path).and_then(path_parameters::without);
    }

    /// The length of its body, as `content-length` declares it.
    pub fn declared(&self) -> Declared {
        self.declared
    }

    /// Whether the client asks for performance headers.
    pub fn wants_performance(&self) -> bool {
        self.wants_performance
    }

    /// The entries of `X-Forwarded-For`, from the right.
    fn forwarded_for(&self) -> impl Iterator<Item = &[u8]> {
        forwarded_for::entries(self.headers.values(forwarded_for::HEADER))
    }

    /// Removes headers that only the filter may set; false when the host refused that,
    /// or the headers could not be read.
    pub fn remove_own_headers<H: Host>(&self, host: &H) -> bool {
        // Every request has headers: if there are none, they could not be read.
        if self.headers.is_empty() {
            return false;
        }
        !self.has_own
            || self.headers.iter().filter(|(name, _)| name.starts_with(OWN_PREFIX)).all(|(name, _)| {
                std::str::from_utf8(name).is_ok_and(|name| host.remove_request_header(name).is_ok())
            })
    }

    /// The header lines that a decision looks at: all but pseudo-headers, the host, and those that only
    /// the filter may set.
    pub fn lines(&self) -> Vec<(&[u8], &[u8])> {
        let is_line = |name: &[u8]| {
            !name.starts_with(b":") && name != b"host" && !(self.has_own && name.starts_with(OWN_PREFIX))
        };
        let mut lines = Vec::with_capacity(self.headers.len());
        lines.extend(self.headers.iter().filter(|(name, _)| is_line(name)));
        lines
    }

    /// The facts, over the lines of [`lines`](Self::lines).
    pub fn facts<'r>(&'r self, lines: &'r [(&'r [u8], &'r [u8])], random_bits: u32) -> Facts<'r> {
        Facts {
            client: self.client,
            method: self.value(self.method).unwrap_or_default(),
            host: self.host().unwrap_or_default(),
            path: self.target(),
            headers: lines,
            random_bits,
            ..Facts::default()
        }
    }

    /// Whether it came over TLS as far as Envoy knows, the host as sent, and the
    /// path with its query.
    pub fn url_parts(&self) -> (bool, &[u8], &[u8]) {
        (self.https, self.host().unwrap_or_default(), self.target())
    }

    /// The path that is decided by, with its query.
    fn target(&self) -> &[u8] {
        self.matched_path.as_deref().or_else(|| self.value(self.path)).unwrap_or_default()
    }

    /// `X-Forwarded-Proto`, if a hop sent it whose word counts: Envoy itself takes it from
    /// anybody where trusted addresses are listed (`xff_trusted_cidrs`).
    pub fn forwarded_proto(&self) -> Option<&[u8]> {
        self.headers.first(b"x-forwarded-proto").filter(|_| self.has_trusted_hop)
    }

    /// The `Origin` header: where the page is from that a browser makes the request for.
    pub fn origin(&self) -> Option<&[u8]> {
        self.values(b"origin").next()
    }

    /// The values of a header's lines. `name` in lower case.
    pub fn values(&self, name: &'static [u8]) -> impl Iterator<Item = &[u8]> + Clone {
        self.headers.values(name)
    }

    /// The `x-request-id`, if it is of 1 to [`MAX_REQUEST_ID`] characters that are visible ASCII, and
    /// no quote or backslash. Envoy sets a UUID, but may be configured to keep what a client sends.
    pub fn request_id(&self) -> Option<&[u8]> {
        let plain = |byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\');
        let id = self.values(b"x-request-id").next()?;
        ((1..=MAX_REQUEST_ID).contains(&id.len()) && id.iter().all(plain)).then_some(id)
    }

    /// The values that an event records, as they came.
    pub fn recorded(&self) -> RecordedFacts<'_> {
        RecordedFacts {
            method: self.value(self.method),
            host: self.host(),
            path: self.value(self.path),
            user_agent: self.value(self.user_agent),
        }
    }
}

/// Whether the peer's `X-Forwarded-Proto` counts: Envoy has taken the client's address from
/// its `X-Forwarded-For`, or the peer is on this machine.
fn is_trusted_hop(source_address: &[u8], client: Option<IpAddr>) -> bool {
    is_from_header(source_address) || client.is_some_and(|client| client.is_loopback())
}

/// Whether Envoy has this address from `X-Forwarded-For`: then it has written port 0.
fn is_from_header(source_address: &[u8]) -> bool {
    source_address.ends_with(b":0")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(pairs: &[(&str, &[u8])]) -> RequestFacts {
        trusting(None, pairs)
    }

    fn trusting(country_header: Option<&str>, pairs: &[(&str, &[u8])]) -> RequestFacts {
        RequestFacts::of(None, HeaderMap::of(pairs), country_header)
    }

    #[test]
    fn a_country_is_what_the_one_line_of_the_trusted_header_says() {
        let de = Country::new(b"DE");
        let said = |header, pairs: &[(&str, &[u8])]| trusting(header, pairs).country_source();
        let header = Some("x-country");
        assert_eq!(
            said(None, &[("x-country", b"DE")]),
            CountrySource::Table,
            "a client may have written that"
        );
        assert_eq!(said(header, &[("x-country", b" de ")]), CountrySource::Header(de));
        assert_eq!(said(header, &[]), CountrySource::Header(None));
        assert_eq!(said(header, &[("x-country", b"Germany")]), CountrySource::Header(None));
        assert_eq!(said(header, &[("x-country", b"DE"), ("x-country", b"DE")]), CountrySource::Header(None));
        let agent = said(Some("user-agent"), &[("user-agent", b"DE")]);
        assert_eq!(
            agent,
            CountrySource::Header(de),
            "whatever else the filter does with a header of that name"
        );
        let mut request = trusting(header, &[("x-country", b"DE")]);
        assert_eq!(request.lines().len(), 1, "routes may match on it");
        assert!(!request.wants_performance());
        request = trusting(header, &[("X-Performance", b"1")]);
        assert!(request.wants_performance());
    }

    #[test]
    fn the_scheme_is_what_a_trusted_hop_says() {
        for (source, is_trusted) in [
            ("192.0.2.1:0", true),
            ("[2001:db8::1]:0", true),
            ("127.0.0.1:40000", true),
            ("[::1]:40000", true),
            ("[::ffff:127.0.0.1]:40000", true),
            ("192.0.2.1:40000", false),
            ("[2001:db8::1]:40000", false),
            ("/a/pipe", false),
        ] {
            let client = client_address(source.as_bytes());
            let mut request = request(&[("x-forwarded-proto", b"https")]);
            request.has_trusted_hop = is_trusted_hop(source.as_bytes(), client);
            let said = request.forwarded_proto();
            assert_eq!(said, is_trusted.then_some(&b"https"[..]), "{source}");
        }
    }

    #[test]
    fn pseudo_headers_and_own_headers_are_no_header_lines() {
        let request = request(&[
            (":method", b"GET"),
            (":authority", b"Example.org:80"),
            (":path", b"/a?b"),
            (":scheme", b"http"),
            ("X-Tidegate-Cluster", b"internal"),
            ("User-Agent", b"curl\xff"),
            ("Accept", b"*/*"),
        ]);
        let lines = request.lines();
        assert_eq!(lines, [(&b"user-agent"[..], &b"curl\xff"[..]), (b"accept", b"*/*")]);
        let facts = request.facts(&lines, 3);
        assert_eq!(
            (facts.method, facts.host, facts.path),
            (&b"GET"[..], &b"Example.org:80"[..], &b"/a?b"[..])
        );
        assert_eq!(request.recorded().user_agent, Some(&b"curl\xff"[..]));
    }

    #[test]
    fn a_request_without_anything_is_a_request() {
        let request = request(&[]);
        let facts = request.facts(&[], 0);
        assert_eq!((facts.method, facts.host, facts.path), (&b""[..], &b""[..], &b""[..]));
        assert_eq!(request.recorded(), RecordedFacts::default());
    }
}
