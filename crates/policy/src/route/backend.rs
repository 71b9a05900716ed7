//! Backends, and the bounds of names.

/// Longest name of a backend or of a geo rule, and longest id of a route, in bytes: an id has a
/// namespace (63) and `/` before a name (253).
pub const MAX_NAME: usize = 317;
/// Longest path template, in bytes: it is a value in a document, and part of answers and
/// events.
pub const MAX_TEMPLATE: usize = 1_024;

/// Where a rule sends its requests.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, serde::Serialize, serde::Deserialize)]
pub struct Backend {
    /// The backendRef's name.
    pub name: String,
    /// Its namespace; where it is not given, its route's.
    pub namespace: Option<String>,
    /// Its port, where given.
    pub port: Option<u16>,
    /// Its address, when it is a backend of the API; `None`: Envoy's configuration has a
    /// cluster for it. Resolved when routes are compiled: a table of backends would have to be
    /// kept consistent with the routes', in every VM and in direct answers.
    pub target: Option<Target>,
}

/// Prefix of the names of clusters that only the filter may choose. A route may not name
/// one: some of them connect to whatever host a request has.
pub const RESERVED_CLUSTER_PREFIX: &str = "tidegate-";

/// An upstream that Envoy's configuration does not have.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, serde::Serialize, serde::Deserialize)]
pub struct Target {
    /// A DNS name, or an address (v6 without brackets).
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Whether it is spoken to in HTTP/2, without `tls`; else in HTTP/1.1.
    pub h2c: bool,
    /// TLS settings; `None`: without TLS.
    pub tls: Option<TargetTls>,
}

/// TLS settings of a backend. Its certificate is always verified.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, serde::Serialize, serde::Deserialize)]
pub struct TargetTls {
    /// The SNI, which the certificate must also have as a name.
    pub sni: String,
    /// Which root certificates are trusted: those configured in Envoy's cluster
    /// `tidegate-dynamic-tls-<trust>`; `None`: the system's.
    pub trust: Option<String>,
}

impl Target {
    fn is_valid(&self) -> bool {
        let is_word = |text: &str| is_name(text) && text.bytes().all(|byte| byte.is_ascii_graphic());
        let tls = self.tls.as_ref();
        is_word(&self.host)
            && tls.is_none_or(|tls| is_word(&tls.sni) && tls.trust.as_deref().is_none_or(is_word))
    }
}

impl Backend {
    /// Whether its parts can be in a cluster's name: names are sent in a header, in answers
    /// and in events.
    #[must_use]
    pub(crate) fn is_valid(&self) -> bool {
        let is_part = |name: &str| is_name(name) && name.bytes().all(|byte| byte.is_ascii_graphic());
        is_part(&self.name)
            && self.namespace.as_deref().is_none_or(is_part)
            && self.target.as_ref().is_none_or(Target::is_valid)
    }
}

/// Whether this can be the name of a route or a geo rule: names are part of answers and
/// events, which are bounded.
pub(crate) fn is_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len())
}

/// Whether this can be the pattern of a template: it is part of answers and events.
pub(crate) fn is_template(pattern: &str) -> bool {
    (1..=MAX_TEMPLATE).contains(&pattern.len())
}
