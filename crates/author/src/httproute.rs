//! An HTTPRoute, as far as it matters for requests: what a document says, read.

use crate::pattern::Regex;
use crate::template::Template;
use tidegate_policy::route::action::Action;
use tidegate_policy::route::{Backend, Method};

/// An HTTPRoute, as far as it matters for requests.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Route {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.namespace`.
    pub namespace: Option<String>,
    /// When the route was created, milliseconds since the Unix epoch. Not from
    /// the document: [`read`](crate::read) leaves `None`, which counts as younger than all.
    pub created: Option<i64>,
    /// Hostnames, in lower case; none: every host.
    pub hostnames: Vec<String>,
    /// Rules, in order.
    pub rules: Vec<Rule>,
}

/// A rule: what it takes, and where to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// Its name.
    pub name: Option<String>,
    /// It takes what any of these takes; [`read`](crate::read) fills in the default.
    pub matches: Vec<Match>,
    /// Where its requests go.
    pub backends: Vec<BackendRef>,
    /// Names of the geo rules that its requests must pass, each once: its
    /// `ExtensionRef` filters of group `tidegate.dev` and kind `GeoRule`.
    pub geo: Vec<String>,
    /// Its other filters, its timeouts and retries; mirrors are filled in by
    /// [`compile`](crate::compile).
    pub action: Action,
    /// Who gets a copy of its requests.
    pub mirrors: Vec<MirrorRef>,
}

impl Route {
    /// All that it refers to: where requests go, and who gets copies.
    pub fn references(&self) -> impl Iterator<Item = &ObjectRef> {
        self.rules.iter().flat_map(|rule| {
            let backends = rule.backends.iter();
            let mirrors = rule.mirrors.iter().chain(backends.clone().flat_map(|backend| &backend.mirrors));
            backends.map(|backend| &backend.to).chain(mirrors.map(|mirror| &mirror.to))
        })
    }

    /// The name of the backend of the API that one of its references means, if there
    /// is one of that name.
    #[must_use]
    pub fn backend_of_api<'r>(&self, to: &'r ObjectRef) -> Option<&'r str> {
        match to {
            ObjectRef::Service(to) if to.namespace.is_none() && self.namespace.is_none() => Some(&to.name),
            ObjectRef::Api(name) => Some(name),
            ObjectRef::Service(_) | ObjectRef::Foreign(_) => None,
        }
    }
}

/// One of the backends of a rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BackendRef {
    /// Who that is.
    pub to: ObjectRef,
    /// Its part of the requests, from 0 to 1,000,000.
    pub weight: u32,
    /// The filters for the requests that it gets; mirrors are filled in by
    /// [`compile`](crate::compile).
    pub action: Action,
    /// Who gets a copy of the requests that it gets.
    pub mirrors: Vec<MirrorRef>,
}

/// Somebody who gets a copy of requests. One that cannot be resolved gets none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MirrorRef {
    /// Who that is.
    pub to: ObjectRef,
    /// Of `denominator` requests this many.
    pub numerator: u32,
    /// Never 0.
    pub denominator: u32,
}

/// What a backendRef names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ObjectRef {
    /// A Service: a backend of the API if that has one of this name and neither
    /// the reference nor its route gives a namespace; else a cluster of Envoy's.
    Service(Backend),
    /// A backend of the API: kind `Backend` of group `tidegate.dev`.
    Api(String),
    /// Something of another kind, in words: its share is answered with 500.
    Foreign(String),
}

/// One way to match: everything in it must hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Match {
    /// What the path must be like.
    pub path: PathMatch,
    /// The method, if only one will do.
    pub method: Option<Method>,
    /// Conditions on headers, names in lower case and different.
    pub headers: Vec<Condition>,
    /// Conditions on query parameters, names different.
    pub query: Vec<Condition>,
}

impl Default for Match {
    /// Takes every path: what the CRD fills in.
    fn default() -> Self {
        let path = PathMatch::Prefix("/".to_owned());
        Self { path, method: None, headers: Vec::new(), query: Vec::new() }
    }
}

/// What a path must be like.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PathMatch {
    /// This, to the byte.
    Exact(String),
    /// These elements, of which some are open. Tidegate's own: HTTPRoute has no
    /// such type.
    Template(Template),
    /// These elements first; a trailing `/` says nothing.
    Prefix(String),
    /// As a whole like this.
    Regex(Regex),
}

/// What a header or a query parameter must be like.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Condition {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: ValueMatch,
}

/// What a value must be like.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ValueMatch {
    /// This, to the byte.
    Exact(String),
    /// As a whole like this.
    Regex(Regex),
}
