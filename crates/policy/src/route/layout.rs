//! The encoded form of a route table. Lists that belong to a row (a rule's weighted backends, a
//! node's children) follow each other in the order of their owners, so only their
//! lengths are written: whatever the lengths are, two lists cannot overlap, and the
//! reader checks only their sum.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::action::Action;
use super::backend::Backend;
use super::method::Method;
use crate::codec::at_most;

/// Version of a route table's bytes.
pub const ROUTES_FORMAT: u8 = 5;
/// The most bytes of a route table. 10,000 prefix routes take under 0.5 MB.
pub const MAX_ROUTE_TABLE: usize = 16 << 20;
/// The most elements of a path template, and of a shape of paths: of longer paths a shape has the
/// beginning.
pub const MAX_ELEMENTS: usize = 32;
/// The most geo rules that one rule of a route names.
pub const MAX_GEO_NAMES: usize = 16;
/// The most routes, backends, names of geo rules, names of query parameters, and regexes:
/// each is an allocation, however few bytes it takes here.
pub const MAX_LIST: usize = 100_000;

/// All of a table.
#[derive(Serialize, Deserialize, Default)]
pub struct RouteLayout {
    /// Names of the HTTPRoutes, in the order of precedence.
    #[serde(deserialize_with = "at_most::<MAX_LIST, _, _>")]
    pub routes: Vec<String>,
    /// Rules of all routes, in the order of the routes.
    pub rules: Vec<RuleRow>,
    /// Names of the geo rules that the rules' requests must pass.
    #[serde(deserialize_with = "at_most::<MAX_LIST, _, _>")]
    pub geo: Vec<String>,
    /// The rules' weighted backends.
    pub weighted_backends: Vec<WeightedBackendRow>,
    /// Backends, each once.
    #[serde(deserialize_with = "at_most::<MAX_LIST, _, _>")]
    pub backends: Vec<Backend>,
    /// Actions, each different one once.
    #[serde(deserialize_with = "at_most::<MAX_LIST, _, _>")]
    pub actions: Vec<Action>,
    /// Matches of all rules, in the order of precedence apart from their paths: a match's
    /// index is its rank, and a lower one wins.
    pub matches: Vec<MatchRow>,
    /// The matches' conditions: each match's headers, then its query parameters.
    pub conditions: Vec<ConditionRow>,
    /// Names of query parameters that conditions name, sorted.
    #[serde(deserialize_with = "at_most::<MAX_LIST, _, _>")]
    pub query_names: Vec<ByteBuf>,
    /// Hostnames by label, the last label first. The first nodes are the roots of tries: of one
    /// for each of the ways in which requests arrive that routes tell apart.
    pub hosts: Vec<HostRow>,
    /// How many roots there are.
    pub roots: u32,
    /// The ports that routes are held to, ascending.
    pub ports: Vec<u32>,
    /// The root for requests at any other port, with http and with https, then for those at
    /// each of `ports` the same. Empty if no route is held to a listener: it is root 0 for all.
    pub arrivals: Vec<u32>,
    /// Groups: hostnames with the same routes share one. The first nodes of
    /// `paths` are their roots.
    pub groups: u32,
    /// Paths by element.
    pub paths: Vec<PathRow>,
    /// Path templates by element, a trie for each group as in `paths`.
    pub templates: Vec<ShapeRow>,
    /// Shapes of the paths that regexes match, by element, a trie for each group as in `paths`.
    pub regex_shapes: Vec<ShapeRow>,
    /// The nodes' candidates, as indices into `matches`: of each path node the exact ones and the
    /// prefixes, then of each node of a template, then of a regex's shape, those that end there and
    /// the prefixes; each list in the order of rank.
    pub candidates: Vec<u32>,
    /// Tests of single elements of paths.
    pub element_tests: Vec<ElementTestRow>,
    /// Sparse DFAs, little-endian, anchored at both ends.
    #[serde(deserialize_with = "at_most::<MAX_LIST, _, _>")]
    pub regexes: Vec<ByteBuf>,
    /// The bytes that spans refer to.
    pub text: ByteBuf,
}

impl RouteLayout {
    /// Whether every list is short enough to be read again.
    #[must_use]
    pub fn can_be_read(&self) -> bool {
        let Self { routes, geo, backends, actions, query_names, regexes, .. } = self;
        [routes.len(), geo.len(), backends.len(), actions.len(), query_names.len(), regexes.len()]
            .into_iter()
            .all(|len| len <= MAX_LIST)
    }
}

/// A run of bytes in [`RouteLayout::text`], or of rows in a list.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Span {
    /// Index of the first.
    pub start: u32,
    /// Number of bytes or rows.
    pub len: u32,
}

/// A rule of a route.
#[derive(Serialize, Deserialize)]
pub struct RuleRow {
    /// Its route.
    pub route: u32,
    /// Its index within the route.
    pub index: u32,
    /// Number of its weighted backends.
    pub weighted_backends: u32,
    /// Number of the geo rules that it names.
    pub geo: u32,
    /// Index of its action.
    pub action: Option<u32>,
}

/// A backend's part of a rule's requests.
#[derive(Serialize, Deserialize)]
pub struct WeightedBackendRow {
    /// The backend; `None`: one that cannot answer keeps its share.
    pub backend: Option<u32>,
    /// Index of the backendRef's action.
    pub action: Option<u32>,
    /// Its weight, never 0.
    pub weight: u32,
}

/// One way to match a rule.
#[derive(Serialize, Deserialize)]
pub struct MatchRow {
    /// Its rule.
    pub rule: u32,
    /// The method it wants.
    pub method: Option<Method>,
    /// What is left to test of its path, once its node is found.
    pub path: PathTest,
    /// Number of its conditions.
    pub conditions: u32,
}

/// What is left to test of a match's path, after its node in the tries was found.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub enum PathTest {
    /// Nothing.
    Known,
    /// The whole path must match this regex.
    Regex(u32),
    /// Its elements must pass these of [`RouteLayout::element_tests`].
    Elements(Span),
    /// Nothing; the match is this template, as written.
    Template(Span),
}

/// A test of an element of a path.
#[derive(Serialize, Deserialize)]
pub struct ElementTestRow {
    /// Which element: 0 is the first.
    pub element: u32,
    /// The regex that must match all of it.
    pub regex: u32,
}

/// A condition of a match besides its path and method.
#[derive(Serialize, Deserialize)]
pub enum ConditionRow {
    /// The header of this name (lower case) must have a value like this.
    Header(Span, ValueTest),
    /// The query parameter of this name, an index into [`RouteLayout::query_names`].
    Query(u32, ValueTest),
}

/// What a value must be.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub enum ValueTest {
    /// These bytes.
    Exact(Span),
    /// Something that this regex matches as a whole.
    Regex(u32),
}

/// A node of the trie of hostnames.
#[derive(Serialize, Deserialize)]
pub struct HostRow {
    /// Its label, in [`RouteLayout::text`].
    pub label: Span,
    /// Number of its children, which are sorted by label.
    pub children: u32,
    /// The group of the hostname that ends here.
    pub exact: Option<u32>,
    /// The group of the wildcard that covers what is below; of a root the group of the routes
    /// without hostnames.
    pub wildcard: Option<u32>,
}

/// A node of a trie of paths.
#[derive(Serialize, Deserialize)]
pub struct PathRow {
    /// Its label, in [`RouteLayout::text`].
    pub label: Span,
    /// Number of its children, which are sorted by label.
    pub children: u32,
    /// Number of matches on exactly this path.
    pub exact: u32,
    /// Number of matches on this prefix.
    pub prefixes: u32,
}

/// A node of a trie of path shapes, whose elements are literal or any that is not empty: of templates,
/// or of what regexes match.
#[derive(Serialize, Deserialize)]
pub struct ShapeRow {
    /// Its label, in [`RouteLayout::text`].
    pub label: Span,
    /// Number of its children: first the one that takes any element, where there
    /// is one, then the others, sorted by label.
    pub children: u32,
    /// Whether its first child takes any element.
    pub any: bool,
    /// Number of matches on the shape that ends here.
    pub ends: u32,
    /// Number of matches on paths that begin like this, whatever follows. Templates have none.
    pub prefixes: u32,
}
