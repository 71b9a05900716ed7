//! What is known of a request when it is decided: its client and its headers, read in
//! two host calls.

use std::net::IpAddr;

use tidegate_policy::address::client_address;
use tidegate_policy::decide::CountrySource;
use tidegate_policy::geo::Country;
use tidegate_policy::request::Facts;

use super::{forwarded_for, passes, path_parameters, performance};
use crate::config::{OWN_PREFIX, TrustedHops};
use crate::host::{HeaderPairs, Host};
use crate::metrics::{Count, Metrics};

/// The longest `x-request-id` that is shown.
const MAX_REQUEST_ID: usize = 128;

/// A request's headers and client.
pub struct RequestFacts {
    client: Option<IpAddr>,
    method: Option<Vec<u8>>,
    host: Option<Vec<u8>>,
    path: Option<Vec<u8>>,
    https: bool,
    /// Where the user agent is in `headers`.
    user_agent: Option<usize>,
    /// Whether the peer's word on the client counts.
    has_trusted_hop: bool,
    /// Whether the client sent headers that only the filter may set.
    has_own: bool,
    /// Whether the headers could not be read.
    unreadable: bool,
    wants_performance: bool,
    country_source: CountrySource,
    declares_length: bool,
    /// Passes through gates that it tells of.
    passes: usize,
    /// The path without parameters, with its query, if it has some and they do not count.
    matched_path: Option<Vec<u8>>,
    /// Without pseudo-headers; names in lower case.
    headers: HeaderPairs,
}

/// The values of a request's headers that its event records.
#[derive(PartialEq, Eq, Debug, Default)]
pub struct RecordedFacts {
    /// `:method`.
    pub method: Option<Vec<u8>>,
    /// `:authority`, port included.
    pub host: Option<Vec<u8>>,
    /// `:path`, query included.
    pub path: Option<Vec<u8>>,
    /// `user-agent`.
    pub user_agent: Option<Vec<u8>>,
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
        let source_address = host.property(&["source", "address"]).ok().flatten();
        let client = source_address.as_deref().and_then(client_address);
        let pairs = host.request_headers();
        // Every request has headers: if there are none, they could not be read.
        let unreadable = pairs.is_empty();
        let source = source_address.as_deref().unwrap_or_default();
        let has_trusted_hop = is_trusted_hop(source, client);
        let mut request = Self { unreadable, has_trusted_hop, ..Self::of(client, pairs, country_header) };
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
    pub fn of(client: Option<IpAddr>, pairs: HeaderPairs, country_header: Option<&str>) -> Self {
        let country_header = country_header.map(str::as_bytes);
        let mut countries = 0usize;
        let mut request = Self {
            client,
            method: None,
            host: None,
            path: None,
            https: false,
            user_agent: None,
            has_trusted_hop: false,
            has_own: false,
            unreadable: false,
            wants_performance: false,
            country_source: if country_header.is_some() {
                CountrySource::Header(None)
            } else {
                CountrySource::Table
            },
            declares_length: false,
            passes: 0,
            matched_path: None,
            headers: Vec::with_capacity(pairs.len()),
        };
        for (mut name, value) in pairs {
            match name.as_slice() {
                b":method" => request.method = Some(value),
                b":authority" | b"host" => {
                    // Of several none is the host: as when Envoy joins them.
                    request.host = Some(match request.host.take() {
                        None => value,
                        Some(before) => [before, value].join(&b','),
                    });
                }
                b":path" => request.path = Some(value),
                b":scheme" => request.https = value == b"https",
                [b':', ..] => {}
                _ => {
                    // Envoy's are in lower case already; this only makes sure.
                    name.make_ascii_lowercase();
                    if country_header == Some(name.as_slice()) {
                        countries = countries.saturating_add(1);
                        // Of two lines, one is not the trusted filter's: neither counts.
                        let one = Country::new(value.trim_ascii()).filter(|_| countries == 1);
                        request.country_source = CountrySource::Header(one);
                    }
                    match name.as_slice() {
                        b"user-agent" => request.user_agent = Some(request.headers.len()),
                        b"content-length" => request.declares_length = true,
                        name if name == passes::HEADER.as_bytes() => {
                            request.passes = request.passes.saturating_add(passes::told_in(&value));
                        }
                        performance::WANTED_HEADER => request.wants_performance |= value == b"1",
                        name => request.has_own |= name.starts_with(OWN_PREFIX),
                    }
                    request.headers.push((name, value));
                }
            }
        }
        request
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

    /// From now on the request is matched, redirected and rewritten by its path without parameters.
    pub fn strip_path_parameters(&mut self) {
        self.matched_path = self.path.as_deref().and_then(path_parameters::without);
    }

    /// Whether there is a `content-length`.
    pub fn declares_length(&self) -> bool {
        self.declares_length
    }

    /// Whether the client asks for performance headers.
    pub fn wants_performance(&self) -> bool {
        self.wants_performance
    }

    /// The entries of `X-Forwarded-For`, from the right.
    fn forwarded_for(&self) -> impl Iterator<Item = &[u8]> {
        let lines = self.headers.iter().filter(|(name, _)| name == forwarded_for::HEADER);
        forwarded_for::entries(lines.map(|(_, value)| value.as_slice()))
    }

    /// Removes headers that only the filter may set; false when the host refused that,
    /// or the headers could not be read.
    pub fn remove_own_headers<H: Host>(&self, host: &H) -> bool {
        if self.unreadable {
            return false;
        }
        !self.has_own
            || self.headers.iter().filter(|(name, _)| name.starts_with(OWN_PREFIX)).all(|(name, _)| {
                std::str::from_utf8(name).is_ok_and(|name| host.remove_request_header(name).is_ok())
            })
    }

    /// The header lines that a decision looks at: all but those that only the filter
    /// may set.
    pub fn lines(&self) -> Vec<(&[u8], &[u8])> {
        let not_own = |(name, _): &&(Vec<u8>, Vec<u8>)| !self.has_own || !name.starts_with(OWN_PREFIX);
        self.headers.iter().filter(not_own).map(|(name, value)| (name.as_slice(), value.as_slice())).collect()
    }

    /// The facts, over the lines of [`lines`](Self::lines).
    pub fn facts<'r>(&'r self, lines: &'r [(&'r [u8], &'r [u8])], random_bits: u32) -> Facts<'r> {
        Facts {
            client: self.client,
            method: self.method.as_deref().unwrap_or_default(),
            host: self.host.as_deref().unwrap_or_default(),
            path: self.target(),
            headers: lines,
            random_bits,
            ..Facts::default()
        }
    }

    /// Whether it came over TLS as far as Envoy knows, the host as sent, and the
    /// path with its query.
    pub fn url_parts(&self) -> (bool, &[u8], &[u8]) {
        (self.https, self.host.as_deref().unwrap_or_default(), self.target())
    }

    /// The path that is decided by, with its query.
    fn target(&self) -> &[u8] {
        self.matched_path.as_ref().or(self.path.as_ref()).map(Vec::as_slice).unwrap_or_default()
    }

    /// `X-Forwarded-Proto`, if a hop sent it whose word counts: Envoy itself takes it from
    /// anybody where trusted addresses are listed (`xff_trusted_cidrs`).
    pub fn forwarded_proto(&self) -> Option<&[u8]> {
        let line = self.headers.iter().find(|(name, _)| name == b"x-forwarded-proto");
        line.filter(|_| self.has_trusted_hop).map(|(_, value)| value.as_slice())
    }

    /// The `Origin` header: where the page is from that a browser makes the request for.
    pub fn origin(&self) -> Option<&[u8]> {
        self.values(b"origin").next()
    }

    /// The values of a header's lines. `name` in lower case.
    pub fn values(&self, name: &'static [u8]) -> impl Iterator<Item = &[u8]> + Clone {
        self.headers.iter().filter(move |(other, _)| other == name).map(|(_, value)| value.as_slice())
    }

    /// The `x-request-id`, if it is of 1 to [`MAX_REQUEST_ID`] characters that are visible ASCII, and
    /// no quote or backslash. Envoy sets a UUID, but may be configured to keep what a client sends.
    pub fn request_id(&self) -> Option<&[u8]> {
        let plain = |byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\');
        let id = self.values(b"x-request-id").next()?;
        ((1..=MAX_REQUEST_ID).contains(&id.len()) && id.iter().all(plain)).then_some(id)
    }

    /// The values that an event records, as they came.
    pub fn into_recorded(mut self) -> RecordedFacts {
        let agent = self.user_agent.and_then(|at| self.headers.get_mut(at));
        let user_agent = agent.map(|(_, value)| std::mem::take(value));
        RecordedFacts { method: self.method, host: self.host, path: self.path, user_agent }
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
        let pairs = pairs.iter().map(|(n, v)| (n.as_bytes().to_vec(), v.to_vec())).collect();
        RequestFacts::of(None, pairs, country_header)
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
        assert_eq!(request.into_recorded().user_agent.as_deref(), Some(&b"curl\xff"[..]));
    }

    #[test]
    fn a_request_without_anything_is_a_request() {
        let request = request(&[]);
        let facts = request.facts(&[], 0);
        assert_eq!((facts.method, facts.host, facts.path), (&b""[..], &b""[..], &b""[..]));
        assert_eq!(request.into_recorded(), RecordedFacts::default());
    }
}
