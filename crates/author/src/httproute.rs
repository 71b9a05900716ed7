//! An HTTPRoute read from its document, as far as it matters for requests.

use crate::pattern::Regex;
use crate::route_id::DEFAULT_NAMESPACE;
use crate::template::Template;
use tidegate_policy::route::action::Action;
use tidegate_policy::route::{Backend, Method};

/// An HTTPRoute, as far as it matters for requests.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Route {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.namespace`; `None`: `default`.
    pub namespace: Option<String>,
    /// When the route was created, milliseconds since the Unix epoch. Not from
    /// the document: [`read`](crate::read) leaves `None`, which counts as younger than all.
    pub created: Option<i64>,
    /// Its `parentRefs`, which are alternatives; none: it holds on every listener.
    pub parents: Vec<Parent>,
    /// Hostnames, in lower case; none: every host.
    pub hostnames: Vec<String>,
    /// Rules, in order.
    pub rules: Vec<Rule>,
}

/// A Gateway, or one of its listeners, that a route is for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Parent {
    /// The Gateway, as `{namespace}/{name}`. It does not tell requests apart.
    pub gateway: String,
    /// `sectionName`: the listener's name.
    pub section: Option<String>,
    /// The listener's port.
    pub port: Option<u16>,
}

/// A rule: which requests it matches, and what is done with them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// Its name.
    pub name: Option<String>,
    /// It matches what any of these matches; [`read`](crate::read) fills in the default.
    pub matches: Vec<Match>,
    /// Where its requests go.
    pub backends: Vec<BackendRef>,
    /// Names of the geo rules that its requests must pass, each once: its
    /// `ExtensionRef` filters of group `tidegate.dev` and kind `GeoRule`.
    pub geo: Vec<String>,
    /// Its other filters, its timeouts and retries; mirrors are filled in by
    /// [`compile`](crate::compile).
    pub action: Action,
    /// Backends that get a copy of its requests.
    pub mirrors: Vec<MirrorRef>,
}

impl Route {
    /// All references to backends, those of mirrors included.
    pub fn references(&self) -> impl Iterator<Item = &ObjectRef> {
        self.rules.iter().flat_map(|rule| {
            let backends = rule.backends.iter();
            let mirrors = rule.mirrors.iter().chain(backends.clone().flat_map(|backend| &backend.mirrors));
            backends.map(|backend| &backend.to).chain(mirrors.map(|mirror| &mirror.to))
        })
    }

    /// The name of the backend of the API that the reference `to` means, if there is a
    /// backend of that name; `None` if it cannot mean one.
    #[must_use]
    pub fn backend_of_api<'r>(&self, to: &'r ObjectRef) -> Option<&'r str> {
        match to {
            ObjectRef::Service(to)
                if to.namespace.as_deref().unwrap_or(self.namespace()) == DEFAULT_NAMESPACE =>
            {
                Some(&to.name)
            }
            ObjectRef::Api(name) => Some(name),
            ObjectRef::Service(_) | ObjectRef::Foreign(_) => None,
        }
    }
}

/// One of the backends of a rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BackendRef {
    /// The reference.
    pub to: ObjectRef,
    /// Its part of the requests, from 0 to 1,000,000.
    pub weight: u32,
    /// The filters for the requests that it gets; mirrors are filled in by
    /// [`compile`](crate::compile).
    pub action: Action,
    /// Backends that get a copy of the requests that it gets.
    pub mirrors: Vec<MirrorRef>,
}

/// A backend that gets a copy of requests. One that cannot be resolved gets none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MirrorRef {
    /// The reference.
    pub to: ObjectRef,
    /// Copied are this many of `denominator` requests.
    pub numerator: u32,
    /// Never 0.
    pub denominator: u32,
}

/// What a backendRef names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ObjectRef {
    /// A Service, of its route's namespace unless it gives one: in namespace `default` a backend of
    /// the API if that has one of this name; else a cluster of Envoy's.
    Service(Backend),
    /// A backend of the API: kind `Backend` of group `tidegate.dev`.
    Api(String),
    /// An object of another kind, as text: its share is answered with 500.
    Foreign(String),
}

/// One way to match: everything in it must hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Match {
    /// The condition on the path.
    pub path: PathMatch,
    /// The method; `None`: any.
    pub method: Option<Method>,
    /// Conditions on headers; names in lower case, each once.
    pub headers: Vec<Condition>,
    /// Conditions on query parameters; names each once.
    pub query: Vec<Condition>,
}

impl Default for Match {
    /// Matches every path: the CRD's default.
    fn default() -> Self {
        let path = PathMatch::Prefix("/".to_owned());
        Self { path, method: None, headers: Vec::new(), query: Vec::new() }
    }
}

/// A condition on a path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PathMatch {
    /// Exactly these bytes.
    Exact(String),
    /// These elements, of which some may be any. Tidegate's own: HTTPRoute has no such
    /// type.
    Template(Template),
    /// It begins with these elements; a trailing `/` has no effect.
    Prefix(String),
    /// The regex matches all of it.
    Regex(Regex),
}

/// A condition on a header or a query parameter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Condition {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: ValueMatch,
}

/// A condition on a value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ValueMatch {
    /// Exactly these bytes.
    Exact(String),
    /// The regex matches all of it.
    Regex(Regex),
}
