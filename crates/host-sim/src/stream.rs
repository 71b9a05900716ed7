//! A request in the emulated Envoy, and which of its parts a VM may read or change in
//! which phase.

use std::collections::HashMap;
use std::net::IpAddr;

use tidegate_host::{HeaderPairs, HostError};
use tidegate_policy::address::client_address;

use crate::phase::Phase;

/// Id of a request that has begun.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StreamId(pub(crate) u32);

/// A request's headers and what Envoy knows of it.
#[derive(Clone, Debug, Default)]
pub struct Request {
    pub(crate) headers: HeaderPairs,
    pub(crate) source: Option<String>,
    pub(crate) port: Option<u16>,
    pub(crate) is_http3: bool,
    pub(crate) body: u64,
}

impl Request {
    /// `GET path` from the address `client`, to the host `example.org`.
    #[must_use]
    pub fn get(path: &str, client: &str) -> Self {
        Self::new("GET", "example.org", path, Some(client))
    }

    /// A request from an address, or from none (a pipe).
    #[must_use]
    pub fn new(method: &str, host: &str, path: &str, client: Option<&str>) -> Self {
        let headers = [(":method", method), (":authority", host), (":path", path)];
        let headers = headers.into_iter().filter(|(_, value)| !value.is_empty());
        Self {
            headers: headers.map(|(name, value)| (name.into(), value.into())).collect(),
            source: client.map(|client| match client.contains(':') {
                true => format!("[{client}]:0"),
                false => format!("{client}:0"),
            }),
            port: None,
            is_http3: false,
            body: 0,
        }
    }

    /// With so many bytes of a body that come.
    #[must_use]
    pub fn body(mut self, bytes: u64) -> Self {
        self.body = bytes;
        self
    }

    /// At this port of Envoy's.
    #[must_use]
    pub fn at_port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// Over HTTP/3: Envoy does not call `on_log`, unless the client resets it.
    #[must_use]
    pub fn over_http3(mut self) -> Self {
        self.is_http3 = true;
        self
    }

    /// These header lines, pseudo-headers included, from an address and port.
    #[must_use]
    pub fn of(headers: HeaderPairs, source: &str) -> Self {
        Self { headers, source: Some(source.to_owned()), ..Self::default() }
    }

    /// All header lines, pseudo-headers included.
    #[must_use]
    pub fn headers(&self) -> &[(Vec<u8>, Vec<u8>)] {
        &self.headers
    }

    /// The client's address, as the gate reads it.
    #[must_use]
    pub fn client(&self) -> Option<IpAddr> {
        client_address(self.source.as_ref()?.as_bytes())
    }

    /// One more header line.
    #[must_use]
    pub fn header(mut self, name: &[u8], value: &[u8]) -> Self {
        self.headers.push((name.to_vec(), value.to_vec()));
        self
    }
}

/// The result of a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Response {
    /// Status that the client got; 0 if it left before.
    pub status: u16,
    /// `%RESPONSE_CODE_DETAILS%`.
    pub details: String,
    /// The cluster that the gate sent it to.
    pub cluster: Option<String>,
    /// The request's headers as the upstream sees them.
    pub request: HeaderPairs,
    /// Filter state that the gate set for Envoy's own filters and clusters.
    pub filter_state: Vec<(String, String)>,
    /// Response headers, after the gate.
    pub headers: HeaderPairs,
}

impl Response {
    /// A response header's value, as text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<String> {
        let (_, value) = self.headers.iter().find(|(other, _)| other == name.as_bytes())?;
        Some(String::from_utf8_lossy(value).into_owned())
    }
}

/// What a request waits for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Waits {
    /// The gate, which holds the request at its headers.
    Request,
    /// The upstream: the gate has let the request pass.
    Upstream,
    /// The gate, which holds the response at its headers.
    Response,
    /// Nothing: the response was sent, only the log is left.
    Nobody,
}

/// What was done to the current request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Done {
    /// A request header was set.
    Set(String, String),
    /// A line was added to the request's headers.
    Added(String, String),
    /// A request header was removed.
    Removed(String),
    /// Filter state was set.
    State(String, String),
    /// An attribute was set.
    Property(String, String),
    /// The request was resumed.
    Resumed,
    /// The response was resumed.
    ResponseResumed,
    /// It was answered with this status and these details.
    Replied(u16, String),
}

/// A local reply of the gate.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub status: u16,
    pub details: String,
    pub headers: HeaderPairs,
    pub body: Vec<u8>,
}

/// State of a request in the emulated Envoy.
#[derive(Clone, Debug)]
pub(crate) struct StreamState {
    pub waits: Waits,
    pub is_http3: bool,
    pub request: HeaderPairs,
    pub response: HeaderPairs,
    pub properties: HashMap<String, Vec<u8>>,
    /// Filter state for Envoy's own filters and clusters, in the order in which it was set.
    pub filter_state: Vec<(String, String)>,
    /// Whether request headers can still be changed.
    pub mutable: bool,
    /// Whether response headers were seen, on their way to the client.
    pub seen_response: bool,
    /// Bytes of the response's body that are still to go past the gate; `None`: all of it did, or it was
    /// replaced.
    pub to_pass: Option<usize>,
    /// The local reply that the callback asked for, to be done after it has returned.
    pub reply: Option<Reply>,
    pub resumes_request: bool,
    pub resumes_response: bool,
    pub status: u16,
    pub details: String,
    pub cluster: Option<String>,
    /// Bytes of the request's body.
    pub received: u64,
    /// Bytes of the response's body.
    pub body: usize,
    pub began_ns: u64,
    pub forwarded_ns: Option<u64>,
}

impl StreamState {
    pub fn new(request: Request, now_ns: u64, wall_us: u64) -> Self {
        let mut properties = HashMap::new();
        if let Some(source) = request.source {
            properties.insert("source.address".to_owned(), source.into_bytes());
        }
        if let Some(port) = request.port {
            properties.insert("destination.port".to_owned(), number(port.into()));
        }
        if request.is_http3 {
            properties.insert("connection.tls_version".to_owned(), b"TLSv1.3".to_vec());
        }
        properties.insert("request.time".to_owned(), number(wall_us * 1_000));
        Self {
            waits: Waits::Request,
            is_http3: request.is_http3,
            request: request.headers,
            response: Vec::new(),
            properties,
            filter_state: Vec::new(),
            mutable: true,
            seen_response: false,
            to_pass: None,
            reply: None,
            resumes_request: false,
            resumes_response: false,
            status: 0,
            details: String::new(),
            cluster: None,
            received: request.body,
            body: 0,
            began_ns: now_ns,
            forwarded_ns: None,
        }
    }

    /// The request headers, in a phase that has them. The log has them too, but they
    /// cannot be changed there.
    pub fn request(&mut self, phase: &Phase, change: bool) -> Result<&mut HeaderPairs, HostError> {
        let at_hand = match phase {
            Phase::RequestHeaders | Phase::CallResponse(_) | Phase::Notified => {
                self.mutable && self.waits == Waits::Request
            }
            Phase::Log => !change,
            _ => false,
        };
        if at_hand { Ok(&mut self.request) } else { Err(HostError::BadArgument) }
    }

    /// The response headers, in a phase that has them.
    pub fn response(&mut self, phase: &Phase, change: bool) -> Result<&mut HeaderPairs, HostError> {
        let at_hand = match phase {
            Phase::ResponseHeaders => true,
            Phase::CallResponse(_) | Phase::Notified => {
                self.waits == Waits::Response && !self.resumes_response
            }
            Phase::Log => !change,
            _ => false,
        };
        if at_hand { Ok(&mut self.response) } else { Err(HostError::BadArgument) }
    }

    /// Sets a response without a body.
    pub fn respond(&mut self, status: u16, details: &str, headers: HeaderPairs) {
        (self.status, self.body) = (status, 0);
        details.clone_into(&mut self.details);
        self.response = headers;
        self.response.insert(0, (b":status".to_vec(), status.to_string().into_bytes()));
        self.to_pass = None;
        self.seen_response = true;
        self.mutable = false;
    }

    /// Sends the request to its upstream.
    pub fn forward(&mut self, now_ns: u64) {
        let cluster = self.request.iter().find(|(name, _)| name == b"x-tidegate-cluster");
        self.cluster = cluster.map(|(_, value)| String::from_utf8_lossy(value).into_owned());
        self.forwarded_ns = Some(now_ns);
        self.mutable = false;
        self.waits = Waits::Upstream;
    }

    /// Sets the properties that are known only at the end. In the log Envoy has the request's
    /// headers: `request.total_size` includes them, and `request.size` is what they declare. After
    /// it there are none.
    pub fn complete(&mut self, now_ns: u64, phase: &Phase) {
        let is_log = matches!(phase, Phase::Log);
        let headers = if is_log { size(&self.request) } else { 0 };
        let length = self.request.iter().find(|(name, _)| is_log && name == b"content-length");
        let length = length.and_then(|(_, value)| std::str::from_utf8(value).ok()?.parse().ok());
        self.properties.insert("request.duration".to_owned(), number(now_ns - self.began_ns));
        self.properties.insert("request.total_size".to_owned(), number(headers + self.received));
        self.properties.insert("request.size".to_owned(), number(length.unwrap_or(self.received)));
        self.properties.insert("response.size".to_owned(), number(self.body as u64));
        if self.status != 0 {
            self.properties.insert("response.code".to_owned(), number(self.status.into()));
        }
    }

    pub fn outcome(&self) -> Response {
        Response {
            status: self.status,
            details: self.details.clone(),
            cluster: self.cluster.clone(),
            request: self.request.clone(),
            filter_state: self.filter_state.clone(),
            headers: self.response.clone(),
        }
    }
}

/// Bytes of names and values.
fn size(headers: &HeaderPairs) -> u64 {
    headers.iter().map(|(name, value)| (name.len() + value.len()) as u64).sum()
}

/// An attribute that is a number: 64 bits, little endian.
pub(crate) fn number(value: u64) -> Vec<u8> {
    value.to_le_bytes().to_vec()
}
