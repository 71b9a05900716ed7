//! Routes: Gateway API HTTPRoute semantics. `author` reads, validates and
//! compiles; what is here holds the compiled table and searches it.
//!
//! The specification leaves some points open. What is chosen here:
//!
//! - **Hosts** are compared without port, without one trailing dot and without
//!   regard to case. A host that is absent, an IPv6 literal, longer than 253
//!   bytes, or has an empty label or a port that is no number, has no name: only
//!   routes without hostnames take it.
//! - **Hostname precedence is not exclusive**: when no rule of the exact hostname
//!   matches, those of the longest wildcard are tried, then the shorter ones,
//!   then the routes without hostnames.
//! - **RegularExpression paths** come after `Exact` and before every
//!   `PathPrefix`, as in Envoy Gateway, so that a catch-all `/` does not hide
//!   them. Among each other they are equal: method, headers, query parameters,
//!   age, name and order decide, never the length of the pattern.
//! - **Template paths** are Tidegate's own, as `/repos/{owner}/{repo}`: a `{name}`
//!   takes one element that is not empty, everything else is to the byte, and all
//!   of the path must be taken. They come after `Exact` and before
//!   `RegularExpression`. Of two that take a path the one with more literal elements
//!   comes first, then the one that is literal where they first differ; names do
//!   not count.
//! - A trailing `/` of a prefix does not count for its length.
//! - **Paths** are the bytes before `?` or `#`, neither decoded nor normalised
//!   (Envoy has done that, or was told not to). A target that does not begin with
//!   `/` (CONNECT, `OPTIONS *`) is no path and matches nothing.
//! - **Headers**: values of a repeated header are joined by `,`, as in RFC 9110
//!   and in Envoy. A match on `host` sees the request's host.
//! - **Query parameters** are cut at `&` and the first `=`, compared as bytes
//!   without decoding; the first of a repeated one counts; one without `=` is
//!   empty.
//! - Of several conditions on one name in a match the first counts, also for the
//!   number of conditions that decides precedence.
//! - Routes of unknown age are younger than all others. A route without
//!   namespace sorts as `default/<name>`.

pub mod action;
pub mod layout;
mod load;
mod request;
#[cfg(test)]
pub(crate) mod sample;
mod template;
mod trie;

use std::sync::Arc;

use regex_automata::dfa::{Automaton, sparse};
use regex_automata::{Anchored, Input};

pub use layout::{MAX_ELEMENTS, MAX_ROUTE_TABLE, Method, ROUTES_FORMAT};
pub use load::RouteLoad;

use crate::decide::Facts;
use crate::wire::WireError;
use action::{Action, Cors, CorsHeaders, Redirect};
pub(crate) use layout::MAX_GEO_NAMES;
use layout::{ConditionRow, MAX_NAME, MAX_TEMPLATE, PathTest, Span, Test};
use request::{HostName, Request};
use template::Templates;
use trie::{Trie, slice};

/// Compiled routes, searched without regard to how many there are.
pub struct RouteTable {
    routes: Vec<String>,
    rules: Vec<Rule>,
    geo: Vec<String>,
    shares: Vec<Share>,
    backends: Vec<Backend>,
    actions: Vec<Arc<Action>>,
    matches: Vec<Match>,
    conditions: Vec<ConditionRow>,
    query_names: Vec<serde_bytes::ByteBuf>,
    hosts: Trie<HostGroups>,
    any_host: Option<u32>,
    paths: Trie<Candidates>,
    templates: Templates,
    candidates: Vec<u32>,
    regexes: Vec<sparse::DFA<Vec<u8>>>,
    text: serde_bytes::ByteBuf,
}

/// The rule that wins for a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RouteMatch<'t> {
    /// Name of the HTTPRoute.
    pub route: &'t str,
    /// Index of the rule within it.
    pub rule: usize,
    /// The template that took the path, as written, if one did: a name for all the
    /// paths that it takes.
    pub template: Option<&'t str>,
    /// Which backend takes the request; `None`: the rule has none that could (500).
    pub backend: Option<&'t Backend>,
    /// Names of the geo rules that it must pass, in the rule's order.
    pub geo: &'t [String],
    /// What else the rule does with it.
    pub action: Option<&'t Arc<Action>>,
    /// What the backend that was chosen has done with it besides.
    pub backend_action: Option<&'t Arc<Action>>,
}

/// A request's path or headers are so long, and there are so many regular
/// expressions for them, that the rule which wins was not found out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error, serde::Serialize, serde::Deserialize)]
#[error("the request is too long for as many regular expressions")]
pub struct TooLong;

/// Who answers a request that a rule took.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answerer<'t> {
    /// The gate: a browser's preflight request, with these headers.
    Preflight(CorsHeaders),
    /// The gate, which sends the client elsewhere.
    Redirect(&'t Redirect),
    /// This backend.
    Backend(&'t Backend),
    /// Nobody could: 500.
    Nobody,
}

impl<'t> RouteMatch<'t> {
    /// Which pages may read the answer; a backend's word counts before its rule's.
    #[must_use]
    pub fn cors(&self) -> Option<&'t Cors> {
        self.actions().filter_map(|action| action.cors.as_ref()).last()
    }

    /// Who answers the request.
    #[must_use]
    pub fn answerer(&self, facts: &Facts<'_>) -> Answerer<'t> {
        // Before a redirect, and without a backend too: browsers take nothing else
        // for an answer.
        if let Some(headers) = self.cors().and_then(|cors| cors.preflight(facts)) {
            return Answerer::Preflight(headers);
        }
        match (self.redirect(), self.backend) {
            (Some(redirect), _) => Answerer::Redirect(redirect),
            (None, Some(backend)) => Answerer::Backend(backend),
            (None, None) => Answerer::Nobody,
        }
    }

    /// Whether nobody answers it, whatever it asks for.
    #[must_use]
    pub fn is_dead_end(&self) -> bool {
        self.backend.is_none() && self.redirect().is_none() && self.cors().is_none()
    }

    /// What is done with the request: of the rule, then of the backend.
    pub fn actions(&self) -> impl Iterator<Item = &'t Arc<Action>> + use<'t> {
        self.action.into_iter().chain(self.backend_action)
    }

    /// Where the request is sent instead of to a backend.
    #[must_use]
    pub fn redirect(&self) -> Option<&'t Redirect> {
        self.actions().find_map(|action| action.redirect.as_ref())
    }
}

/// Where a rule sends its requests.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, serde::Serialize, serde::Deserialize)]
pub struct Backend {
    /// The backendRef's name.
    pub name: String,
    /// Its namespace; where it is not given, its route's.
    pub namespace: Option<String>,
    /// Its port, where given.
    pub port: Option<u16>,
    /// Where it is, when it is a backend of the API; `None`: Envoy has a cluster
    /// of it.
    pub target: Option<Target>,
}

/// What the names of clusters begin with that are between the gate and Envoy. A
/// route may not name one: some go wherever a request's host says.
pub const OWN_CLUSTERS: &str = "tidegate-";

/// An upstream that Envoy's configuration does not know.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, serde::Serialize, serde::Deserialize)]
pub struct Target {
    /// A DNS name, or an address (v6 without brackets).
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How it is spoken to over TLS; `None`: in the clear.
    pub tls: Option<TargetTls>,
}

/// How a backend is spoken to over TLS. Its certificate is always verified.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, serde::Serialize, serde::Deserialize)]
pub struct TargetTls {
    /// The name that is asked for and that the certificate must have.
    pub sni: String,
    /// Whose certificates are trusted: Envoy's cluster `tidegate-dynamic-tls-<trust>`
    /// knows; `None`: the system's roots.
    pub trust: Option<String>,
}

impl Target {
    fn is_sound(&self) -> bool {
        let is_word = |text: &str| is_name(text) && text.bytes().all(|byte| byte.is_ascii_graphic());
        let tls = self.tls.as_ref();
        is_word(&self.host)
            && tls.is_none_or(|tls| is_word(&tls.sni) && tls.trust.as_deref().is_none_or(is_word))
    }
}

impl Backend {
    /// Whether a cluster can be called by it: the names travel in a header, in
    /// answers and in events.
    #[must_use]
    pub(crate) fn is_sound(&self) -> bool {
        let is_part = |name: &str| is_name(name) && name.bytes().all(|byte| byte.is_ascii_graphic());
        is_part(&self.name)
            && self.namespace.as_deref().is_none_or(is_part)
            && self.target.as_ref().is_none_or(Target::is_sound)
    }
}

/// Whether this can be the name of a route or a geo rule: names travel in answers
/// and events, which are bounded.
pub(crate) fn is_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len())
}

/// Whether this can be the pattern of a template: it travels in answers and events.
pub(crate) fn is_template(pattern: &str) -> bool {
    (1..=MAX_TEMPLATE).contains(&pattern.len())
}

struct Rule {
    route: u32,
    index: usize,
    shares: Span,
    geo: Span,
    action: Option<u32>,
}

struct Share {
    backend: Option<usize>,
    action: Option<u32>,
    /// Weights of this and the rule's earlier shares together.
    up_to: u32,
}

struct Match {
    rule: u32,
    method: Option<Method>,
    path: PathTest,
    conditions: Span,
}

struct HostGroups {
    exact: Option<u32>,
    wildcard: Option<u32>,
}

struct Candidates {
    exact: Span,
    regexes: Span,
    prefixes: Span,
}

impl RouteTable {
    /// A table without routes.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            routes: Vec::new(),
            rules: Vec::new(),
            geo: Vec::new(),
            shares: Vec::new(),
            backends: Vec::new(),
            actions: Vec::new(),
            matches: Vec::new(),
            conditions: Vec::new(),
            query_names: Vec::new(),
            hosts: Trie::empty(),
            any_host: None,
            paths: Trie::empty(),
            templates: Templates::new(Trie::empty()),
            candidates: Vec::new(),
            regexes: Vec::new(),
            text: serde_bytes::ByteBuf::new(),
        }
    }

    /// Takes and checks what `author::compile` made, so that a search need not; in
    /// one go, see [`RouteLoad`].
    /// What it allocates is at most some 25 times the bytes, whatever they are, and
    /// 20 MB for names; of real tables it is twice.
    ///
    /// # Errors
    /// When the bytes are over [`MAX_ROUTE_TABLE`] or not a route table.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, WireError> {
        let mut load = RouteLoad::new(bytes)?;
        loop {
            if let Some(table) = load.step(usize::MAX)? {
                return Ok(table);
            }
        }
    }

    /// Number of HTTPRoutes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.routes.len()
    }

    /// Whether there is no route.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// Number of rules of all routes.
    #[must_use]
    pub fn rules(&self) -> usize {
        self.rules.len()
    }

    /// Number of matches of all rules.
    #[must_use]
    pub fn matches(&self) -> usize {
        self.matches.len()
    }

    /// Number of different regexes.
    #[must_use]
    pub fn regexes(&self) -> usize {
        self.regexes.len()
    }

    /// Every backend that a rule names, each once.
    #[must_use]
    pub fn backends(&self) -> &[Backend] {
        &self.backends
    }

    /// The rule that wins, by the precedence of the Gateway API specification; none
    /// does: no route matches.
    ///
    /// # Errors
    /// When the request is so long that finding out would take too long: another
    /// rule than the right one must not have it.
    pub fn find(&self, facts: &Facts<'_>) -> Result<Option<RouteMatch<'_>>, TooLong> {
        let Some(request) = Request::new(facts) else { return Ok(None) };
        let named = HostName::new(facts.host).and_then(|name| self.find_by_host(&name, &request));
        let won = named.or_else(|| self.find_in(self.any_host?, &request));
        match request.is_exhausted() {
            true => Err(TooLong),
            false => Ok(won.and_then(|won| self.outcome(won, facts.dice))),
        }
    }

    /// The best match under the exact hostname, else under the longest wildcard,
    /// else under the next.
    fn find_by_host(&self, name: &HostName, request: &Request<'_>) -> Option<u32> {
        let mut labels = name.labels().peekable();
        let mut node = 0;
        while let Some(label) = labels.peek() {
            let Some(child) = self.hosts.child(node, label, &self.text) else { break };
            node = child;
            labels.next();
        }
        let whole = labels.peek().is_none();
        let exact = self.hosts.payload(node).filter(|_| whole).and_then(|groups| groups.exact);
        // A wildcard stands for at least one label, so that of the last node
        // does not cover a name that ends there.
        let wildcards =
            self.hosts.upwards(node).skip(usize::from(whole)).filter_map(|groups| groups.wildcard);
        exact.into_iter().chain(wildcards).find_map(|group| self.find_in(group, request))
    }

    /// The best match among those of one group of hostnames.
    fn find_in(&self, group: u32, request: &Request<'_>) -> Option<u32> {
        let mut elements = request.elements().peekable();
        let mut node = group;
        while let Some(element) = elements.peek() {
            let Some(child) = self.paths.child(node, element, &self.text) else { break };
            node = child;
            elements.next();
        }
        let exact = self.paths.payload(node).filter(|_| elements.peek().is_none());
        exact
            .and_then(|node| self.first(node.exact, request, u32::MAX))
            .or_else(|| {
                let first = |list| self.first(list, request, u32::MAX);
                self.templates.find(group, request.elements(), &self.text, first)
            })
            .or_else(|| self.find_regex(node, request))
            .or_else(|| {
                self.paths.upwards(node).find_map(|node| self.first(node.prefixes, request, u32::MAX))
            })
    }

    /// The best regex among those whose literal beginning the path shares.
    fn find_regex(&self, node: u32, request: &Request<'_>) -> Option<u32> {
        self.paths
            .upwards(node)
            .fold(None, |best, node| self.first(node.regexes, request, best.unwrap_or(u32::MAX)).or(best))
    }

    /// The first candidate of a list, which is in the order of rank, that the
    /// request satisfies and that ranks before `limit`.
    fn first(&self, list: Span, request: &Request<'_>, limit: u32) -> Option<u32> {
        let ranks = slice(&self.candidates, list)?.iter().copied();
        ranks.take_while(|&rank| rank < limit).find(|&rank| self.satisfies(rank, request).unwrap_or(false))
    }

    fn satisfies(&self, rank: u32, request: &Request<'_>) -> Option<bool> {
        let wanted = at(&self.matches, rank)?;
        if wanted.method.is_some() && wanted.method != request.method {
            return Some(false);
        }
        if let PathTest::Regex(regex) = wanted.path
            && !self.matches_whole(regex, request.path, request)
        {
            return Some(false);
        }
        let mut conditions = slice(&self.conditions, wanted.conditions)?.iter();
        Some(conditions.all(|condition| {
            match condition {
                ConditionRow::Header(name, test) => slice(&self.text, *name)
                    .and_then(|name| request.header(name))
                    .is_some_and(|value| self.passes(test, &value, request)),
                ConditionRow::Query(name, test) => request
                    .parameter(*name, &self.query_names)
                    .is_some_and(|value| self.passes(test, value, request)),
            }
        }))
    }

    fn passes(&self, test: &Test, value: &[u8], request: &Request<'_>) -> bool {
        match test {
            Test::Exact(wanted) => slice(&self.text, *wanted) == Some(value),
            Test::Regex(regex) => self.matches_whole(*regex, value, request),
        }
    }

    fn matches_whole(&self, regex: u32, bytes: &[u8], request: &Request<'_>) -> bool {
        if !request.spend(bytes.len()) {
            return false;
        }
        let input = Input::new(bytes).anchored(Anchored::Yes).earliest(true);
        at(&self.regexes, regex).is_some_and(|dfa| matches!(dfa.try_search_fwd(&input), Ok(Some(_))))
    }

    fn outcome(&self, won: u32, dice: u32) -> Option<RouteMatch<'_>> {
        let won = at(&self.matches, won)?;
        let rule = at(&self.rules, won.rule)?;
        let shares = slice(&self.shares, rule.shares)?;
        let total = shares.last().map_or(0, |share| share.up_to);
        let point = u64::from(dice).saturating_mul(u64::from(total)) >> 32;
        let chosen = shares.get(shares.partition_point(|share| u64::from(share.up_to) <= point));
        let backend = chosen.and_then(|share| self.backends.get(share.backend?));
        let template = match won.path {
            PathTest::Template(pattern) => template_at(&self.text, pattern),
            PathTest::Known | PathTest::Regex(_) => None,
        };
        let action_of = |index: Option<u32>| index.and_then(|index| at(&self.actions, index));
        Some(RouteMatch {
            route: at(&self.routes, rule.route)?,
            rule: rule.index,
            template,
            backend,
            geo: slice(&self.geo, rule.geo)?,
            action: action_of(rule.action),
            backend_action: chosen.and_then(|share| action_of(share.action)),
        })
    }
}

impl std::fmt::Debug for RouteTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RouteTable")
            .field("routes", &self.routes.len())
            .field("matches", &self.matches.len())
            .field("regexes", &self.regexes.len())
            .finish_non_exhaustive()
    }
}

fn template_at(text: &[u8], pattern: Span) -> Option<&str> {
    std::str::from_utf8(slice(text, pattern)?).ok()
}

fn at<T>(list: &[T], index: u32) -> Option<&T> {
    list.get(usize::try_from(index).ok()?)
}
