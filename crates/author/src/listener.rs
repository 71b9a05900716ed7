//! Listeners: by what they tell requests apart, and the routes that are held to them.
//!
//! ```json
//! {"scheme": "https", "port": 8443, "hostname": "*.example.com"}
//! ```

use std::collections::BTreeMap;

use serde_json::Value;

use super::names::{hostname_problem, intersection, is_subdomain};
use super::reader::{DocumentError, DocumentErrors, DocumentNode};
use super::{Parent, Route};

const FIELDS: &[&str] = &["name", "scheme", "port", "hostname"];

/// Code of a problem: a `parentRef` names a listener that is not declared.
pub const UNKNOWN_LISTENER: &str = "unknown_listener";

/// The listeners that every service has from the start, as name and document: routes written
/// for other gateways name them without having declared them.
pub const FIRST_LISTENERS: [(&str, &str); 2] =
    [("http", r#"{"scheme":"http"}"#), ("https", r#"{"scheme":"https"}"#)];

/// A listener: the requests that came by it. By default all.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Listener {
    /// Whether its clients use TLS; `None`: both kinds.
    pub https: Option<bool>,
    /// The port by which clients know it; `None`: any.
    pub port: Option<u16>,
    /// The hostname that its requests have, which may be a wildcard; `None`: any.
    pub hostname: Option<String>,
}

/// The declared listeners, by name.
pub type Listeners = BTreeMap<String, Listener>;

/// The listeners that a route is held to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Holds {
    /// The listeners: alternatives.
    pub by: Vec<Listener>,
    /// Whether a `parentRef` names a listener that is not declared.
    pub has_unknown: bool,
}

impl Listener {
    /// Whether requests of this scheme at this port come by it.
    pub(super) fn admits(&self, https: bool, port: u16) -> bool {
        self.https.is_none_or(|wanted| wanted == https) && self.port.is_none_or(|wanted| wanted == port)
    }

    fn document(&self) -> String {
        let scheme = self.https.map(|https| format!("\"scheme\": \"{}\"", scheme(https)));
        let port = self.port.map(|port| format!("\"port\": {port}"));
        format!("{{{}}}", scheme.into_iter().chain(port).collect::<Vec<_>>().join(", "))
    }
}

/// The name of a scheme.
fn scheme(https: bool) -> &'static str {
    if https { "https" } else { "http" }
}

impl Route {
    /// Its hostnames; `None`: any.
    pub(super) fn hosts(&self) -> impl Iterator<Item = Option<&str>> {
        let any = self.hostnames.is_empty().then_some(None);
        self.hostnames.iter().map(|name| Some(name.as_str())).chain(any)
    }

    /// The listeners that it is held to.
    pub(super) fn holds(&self, listeners: &Listeners) -> Holds {
        if self.parents.is_empty() {
            return Holds { by: vec![Listener::default()], has_unknown: false };
        }
        let found: Vec<_> = self.parents.iter().map(|parent| parent.listeners(listeners)).collect();
        let has_unknown = found.iter().any(Vec::is_empty);
        Holds { by: found.into_iter().flatten().collect(), has_unknown }
    }

    /// Why it cannot be held to the listeners that its `parentRefs` name, with the pointer of
    /// each that is not declared; and if none of its hostnames comes by any of them, of each.
    #[must_use]
    pub fn listener_problems(&self, listeners: &Listeners) -> Vec<DocumentError> {
        let named: Vec<_> = self.parents.iter().map(|parent| parent.listeners(listeners)).collect();
        let is_reached = named.iter().flatten().any(|listener| self.comes_by(listener));
        let unknown = |parent: &Parent| Some(parent.unknown(listeners));
        let problem = |((index, parent), named): ((usize, &Parent), &Vec<Listener>)| {
            let (code, message) = match named.is_empty() {
                true => unknown(parent)?,
                false => ("conflict", self.not_reached(named).filter(|_| !is_reached)?),
            };
            Some(DocumentError { pointer: parent.pointer(index), code, message })
        };
        self.parents.iter().enumerate().zip(&named).filter_map(problem).collect()
    }

    /// Of a route that others of its `parentRefs` hold: those by which none of its hostnames comes, as
    /// sentences with the place in the document.
    pub(super) fn idle_parents(&self, listeners: &Listeners) -> Vec<String> {
        let idle = |(index, parent): (usize, &Parent)| {
            let message = self.not_reached(&parent.listeners(listeners))?;
            Some(format!("{}: {message}", parent.pointer(index)))
        };
        let found: Vec<_> = self.parents.iter().enumerate().filter_map(idle).collect();
        if found.len() < self.parents.len() { found } else { Vec::new() }
    }

    /// Whether requests for one of its hostnames come by this listener.
    fn comes_by(&self, listener: &Listener) -> bool {
        self.hosts().any(|host| intersection(host, listener.hostname.as_deref()).is_some())
    }

    /// What is wrong with listeners by which none of its hostnames comes.
    fn not_reached(&self, named: &[Listener]) -> Option<String> {
        if named.is_empty() || named.iter().any(|listener| self.comes_by(listener)) {
            return None;
        }
        let names = named.iter().filter_map(|listener| listener.hostname.as_deref()).collect::<Vec<_>>();
        Some(format!(
            "the listener has requests for {} only, and the route is for none of these: \
             change the route's hostnames or the listener's",
            names.join(", ")
        ))
    }

    /// Whether there are requests that this route and `other` both could take by their
    /// hostnames.
    #[must_use]
    pub fn shares_hosts_with(&self, other: &Self) -> bool {
        self.hosts().any(|one| other.hosts().any(|other| intersection(one, other).is_some()))
    }
}

impl Parent {
    /// Where it says by which listener, as a JSON pointer.
    fn pointer(&self, index: usize) -> String {
        let field = if self.section.is_some() { "sectionName" } else { "port" };
        format!("/spec/parentRefs/{index}/{field}")
    }

    /// The listeners that it names: alternatives; none if they are not declared.
    fn listeners(&self, listeners: &Listeners) -> Vec<Listener> {
        let at_port = |listener: &Listener| self.port.is_none_or(|port| listener.port == Some(port));
        match &self.section {
            None if self.port.is_none() => vec![Listener::default()],
            None => listeners.values().filter(|listener| at_port(listener)).cloned().collect(),
            // Where the listener has any port, the reference is for one of them.
            Some(name) => listeners
                .get(name)
                .filter(|listener| listener.port.is_none() || at_port(listener))
                .map(|listener| Listener { port: self.port.or(listener.port), ..listener.clone() })
                .into_iter()
                .collect(),
        }
    }

    /// Why it names no listener, and how one is declared.
    fn unknown(&self, listeners: &Listeners) -> (&'static str, String) {
        let known: Vec<_> = listeners.keys().map(|name| format!("`{name}`")).collect();
        let known =
            format!("there are {}", if known.is_empty() { "none".to_owned() } else { known.join(", ") });
        let declare = |name: &str, listener: &Listener| {
            format!("declare it, for example with PUT /api/admin/listeners/{name} {}", listener.document())
        };
        let section = self.section.as_deref();
        let of_name = section.and_then(|name| listeners.get(name));
        match (section, of_name.and_then(|listener| listener.port), self.port) {
            (Some(name), Some(own), Some(port)) => (
                "conflict",
                format!(
                    "the listener `{name}` has the port {own}, and not {port}: change one of them, or declare another listener"
                ),
            ),
            (Some(name), _, port) => {
                let https = sounds_https(name, port);
                let how =
                    declare(name, &Listener { https: Some(https.unwrap_or(true)), port, hostname: None });
                let or = if https.is_none() { " (or \"http\", if its clients use no TLS)" } else { "" };
                (UNKNOWN_LISTENER, format!("there is no listener `{name}`: {how}{or}; {known}"))
            }
            (None, _, port) => {
                let listener = Listener { https: None, port, hostname: None };
                let port = port.unwrap_or_default();
                let how = declare("NAME", &listener);
                (UNKNOWN_LISTENER, format!("there is no listener with the port {port}: {how}; {known}"))
            }
        }
    }
}

/// Whether clients of a listener use TLS, by what its name and port say to a reader; `None`: nothing.
fn sounds_https(name: &str, port: Option<u16>) -> Option<bool> {
    let has = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
    match port {
        _ if has(&["https", "tls", "ssl", "secure"]) => Some(true),
        Some(443 | 8443) => Some(true),
        Some(80 | 8080) => Some(false),
        _ => has(&["http"]).then_some(false),
    }
}

/// Reads the listener of this name. Nothing is required: what is left out tells no requests
/// apart. A `name` in the document must be this one.
///
/// # Errors
/// All problems of the document, up to [`MAX_PROBLEMS`](super::MAX_PROBLEMS).
/// A problem with `name` itself has the pointer `/name`.
pub fn read_listener(name: &str, document: &Value) -> Result<Listener, Vec<DocumentError>> {
    let mut errors = DocumentErrors::default();
    if !is_subdomain(name) {
        let message = "a listener's name must be labels of a-z, 0-9 and - with dots between, as in https";
        errors.note("/name", "invalid", message);
    }
    let listener = listener(name, &DocumentNode::root(document), &mut errors);
    errors.into_result(listener)
}

fn listener(name: &str, document: &DocumentNode<'_>, errors: &mut DocumentErrors) -> Option<Listener> {
    let fields = document.object(FIELDS, errors)?;
    fields.check_name("the listener is called", name, errors);
    let https = fields.get("scheme").and_then(|node| node.one_of(&["http", "https"], errors));
    let port = fields.get("port").and_then(|node| node.integer(1, 65_535, errors));
    let hostname = fields.get("hostname").and_then(|node| {
        let name = node.text(1, 253, errors)?;
        match hostname_problem(name) {
            Some(problem) => node.note(errors, "invalid", problem),
            None => return Some(name.to_owned()),
        }
        None
    });
    let port = port.and_then(|port| u16::try_from(port).ok());
    Some(Listener { https: https.map(|scheme| scheme == "https"), port, hostname })
}
