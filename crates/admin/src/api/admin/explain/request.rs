//! The described request, from the query of the URL.

use std::net::IpAddr;
use std::num::NonZeroU16;

use axum::http::Uri;
use tidegate_author::Listeners;
use tidegate_author::explain::came_by;
use tidegate_policy::address::canonical;
use tidegate_policy::decide::CountrySource;
use tidegate_policy::geo::Country;
use tidegate_policy::request::Facts;
use tidegate_policy::route::action::RequestUrl;

use crate::api::query::{QueryParams, shortened};
use crate::problem::{ApiResult, Problem};

const KNOWN: &[&str] =
    &["method", "host", "path", "ip", "header", "country", "listener", "scheme", "port", "gateway"];
/// Longest path with its query, in bytes.
const MAX_PATH: usize = 8 << 10;
/// Longest host, in bytes: a name, a dot, a port.
const MAX_HOST: usize = 260;
/// The host of a request that is described without one: an address, which no route names.
const NO_NAME: &str = "127.0.0.1";
/// Longest method, in bytes.
const MAX_METHOD: usize = 32;
/// Header lines.
const MAX_HEADERS: usize = 100;
/// Longest value of a header, in bytes.
const MAX_VALUE: usize = 8 << 10;

/// A request as the filter would see it.
pub struct DescribedRequest {
    method: String,
    host: String,
    path: String,
    client: Option<IpAddr>,
    /// Names in lower case.
    headers: Vec<(String, String)>,
    country_source: CountrySource,
    listener: Option<String>,
    gateway: Option<String>,
    /// As given, until [`at_listener`](Self::at_listener) has filled it in.
    https: Option<bool>,
    port: Option<u16>,
}

impl DescribedRequest {
    /// Reads the request from the query of `uri`.
    ///
    /// # Errors
    /// When a parameter is invalid: no request could be like that.
    pub fn read(uri: &Uri) -> ApiResult<Self> {
        let params = QueryParams::read_with(uri, KNOWN, &["header"])?;
        let https = match params.get("scheme") {
            None => None,
            Some("http") => Some(false),
            Some("https") => Some(true),
            Some(_) => return Err(Problem::parameter("scheme", "invalid", "`scheme` may be http or https")),
        };
        let client: Option<IpAddr> = params.parsed("ip", "write an IPv4 or IPv6 address")?;
        let port: Option<NonZeroU16> = params.parsed("port", "write a number from 1 to 65535")?;
        let country: Option<Country> = params.parsed("country", "write a code of ISO 3166-1, as DE")?;
        Ok(Self {
            method: method(params.get("method").unwrap_or("GET"))?,
            host: host(params.get("host").unwrap_or(NO_NAME))?,
            path: path(params.get("path"))?,
            client: client.map(canonical),
            headers: headers(&params)?,
            country_source: country
                .map_or(CountrySource::Table, |country| CountrySource::Header(Some(country))),
            listener: params.get("listener").map(str::to_owned),
            gateway: params.get("gateway").map(str::to_owned),
            https,
            port: port.map(NonZeroU16::get),
        })
    }

    /// The request as it comes by its listener, one of `listeners`, if it names one.
    ///
    /// # Errors
    /// When there is no such listener, or no such request comes by it.
    pub fn at_listener(mut self, listeners: &Listeners) -> ApiResult<Self> {
        let Some(name) = self.listener.clone() else { return Ok(self) };
        let listener = listeners.get(&name).ok_or_else(|| {
            let detail = format!(
                "there is no listener `{}`: GET /api/admin/listeners lists them, and PUT declares one",
                shortened(&name)
            );
            Problem::parameter("listener", "unknown_listener", detail)
        })?;
        self.https = self.https.or(listener.https);
        self.port = self.port.or(listener.port);
        let comes_by_it = came_by(listeners, &self.facts(&[])).any(|other| other == name);
        if !comes_by_it {
            let detail = format!(
                "no request with this scheme, port and host comes by `{name}`: leave out scheme and port, \
                 and give a host that the listener has requests for"
            );
            return Err(Problem::parameter("listener", "conflict", detail));
        }
        Ok(self)
    }

    /// The header lines.
    pub fn lines(&self) -> Vec<(&[u8], &[u8])> {
        self.headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect()
    }

    /// The facts, over the lines of [`lines`](Self::lines).
    pub fn facts<'a>(&'a self, lines: &'a [(&'a [u8], &'a [u8])]) -> Facts<'a> {
        Facts {
            client: self.client,
            method: self.method.as_bytes(),
            host: self.host.as_bytes(),
            path: self.path.as_bytes(),
            https: self.https(),
            port: self.port(),
            headers: lines,
            random_bits: 0,
        }
    }

    /// The node id of the gateway that it comes to; empty: none that has a name.
    pub fn gateway(&self) -> &str {
        self.gateway.as_deref().unwrap_or_default()
    }

    /// Where the client's country comes from.
    pub fn country_source(&self) -> CountrySource {
        self.country_source
    }

    /// Where the request would arrive.
    pub fn arrival(&self) -> RequestUrl<'_> {
        RequestUrl {
            https: self.https(),
            host: self.host.as_bytes(),
            port: self.port(),
            target: self.path.as_bytes(),
        }
    }

    fn https(&self) -> bool {
        self.https.unwrap_or(false)
    }

    fn port(&self) -> u16 {
        self.port.unwrap_or(if self.https() { 443 } else { 80 })
    }
}

fn method(text: &str) -> ApiResult<String> {
    if is_token(text) && text.len() <= MAX_METHOD {
        return Ok(text.to_owned());
    }
    let detail = format!("`{}` is no method: write one as GET", shortened(text));
    Err(Problem::parameter("method", "invalid", detail))
}

fn host(text: &str) -> ApiResult<String> {
    if text.len() <= MAX_HOST && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(text.to_owned());
    }
    let detail =
        format!("`{}` is no host: write what the header Host says, as a.example:8080", shortened(text));
    Err(Problem::parameter("host", "invalid", detail))
}

fn path(text: Option<&str>) -> ApiResult<String> {
    let text = text.ok_or_else(|| {
        Problem::parameter("path", "required", "`path` says which path is asked for, with its query")
    })?;
    if text.len() > MAX_PATH {
        let detail = format!("`path` may be of {MAX_PATH} bytes");
        return Err(Problem::parameter("path", "too_long", detail));
    }
    // A value that was percent-decoded may contain any UTF-8.
    let is_sent = |byte: u8| byte > b' ' && byte != 0x7f;
    if text.starts_with('/') && text.bytes().all(is_sent) {
        return Ok(text.to_owned());
    }
    let detail = format!("`{}` is no path: it must begin with / and have no spaces", shortened(text));
    Err(Problem::parameter("path", "invalid", detail))
}

fn headers(params: &QueryParams) -> ApiResult<Vec<(String, String)>> {
    let headers = params.all("header").map(header).collect::<ApiResult<Vec<_>>>()?;
    if headers.len() <= MAX_HEADERS {
        return Ok(headers);
    }
    Err(Problem::parameter("header", "too_many", format!("`header` may be given {MAX_HEADERS} times")))
}

fn header(text: &str) -> ApiResult<(String, String)> {
    let bad = |detail: String| Problem::parameter("header", "invalid", detail);
    let (name, value) = text
        .split_once(':')
        .filter(|(name, _)| is_token(name))
        .ok_or_else(|| bad(format!("`{}` is no header: write NAME:VALUE", shortened(text))))?;
    let (name, value) = (name.to_ascii_lowercase(), value.trim_matches([' ', '\t']));
    if name == "host" {
        return Err(bad("the host is the parameter `host`".to_owned()));
    }
    if name.starts_with("x-tidegate-") {
        return Err(bad(format!("`{}` is the gate's own: it takes no client's", shortened(&name))));
    }
    if value.len() > MAX_VALUE || value.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t') {
        return Err(bad(format!("no header has the value of `{}`", shortened(&name))));
    }
    Ok((name, value.to_owned()))
}

/// A token of RFC 9110.
fn is_token(text: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(inside)
}
