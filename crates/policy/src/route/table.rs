//! Searching compiled routes, which are tries: hostnames by label, paths, path templates and the
//! shapes of regular expressions by element. A path's elements are followed to the deepest node,
//! then the nodes are tried from there up to the root (templates and regexes: `shapes.rs`). So the
//! time depends on the path and on its candidates, not on the number of routes.

use std::sync::Arc;

use regex_automata::dfa::{Automaton, sparse};
use regex_automata::{Anchored, Input};

use super::action::Action;
use super::backend::Backend;
use super::found::{RouteMatch, TooLong};
use super::layout::{ConditionRow, ElementTestRow, PathTest, Span, ValueTest};
use super::method::Method;
use super::parsed_request::ParsedRequest;
use super::shapes::Shapes;
use super::trie::{Trie, slice};
use crate::host::RequestHost;
use crate::request::Facts;

/// Compiled routes. The time of a search does not depend on how many there are.
pub struct RouteTable {
    pub(super) routes: Vec<String>,
    pub(super) rules: Vec<Rule>,
    pub(super) geo: Vec<String>,
    pub(super) weighted_backends: Vec<WeightedBackend>,
    pub(super) backends: Vec<Backend>,
    pub(super) actions: Vec<Arc<Action>>,
    pub(super) matches: Vec<Match>,
    pub(super) conditions: Vec<ConditionRow>,
    pub(super) query_names: Vec<serde_bytes::ByteBuf>,
    pub(super) hosts: Trie<HostGroups>,
    pub(super) ports: Vec<u32>,
    pub(super) arrivals: Vec<u32>,
    pub(super) paths: Trie<Candidates>,
    pub(super) templates: Shapes,
    pub(super) regex_shapes: Shapes,
    pub(super) element_tests: Vec<ElementTestRow>,
    pub(super) candidates: Vec<u32>,
    pub(super) regexes: Vec<sparse::DFA<Vec<u8>>>,
    pub(super) text: serde_bytes::ByteBuf,
}

pub(super) struct Rule {
    pub(super) route: u32,
    pub(super) index: usize,
    pub(super) weighted_backends: Span,
    pub(super) geo: Span,
    pub(super) action: Option<u32>,
}

pub(super) struct WeightedBackend {
    pub(super) backend: Option<usize>,
    pub(super) action: Option<u32>,
    /// Sum of the weights of this and the rule's earlier backends.
    pub(super) up_to: u32,
}

pub(super) struct Match {
    pub(super) rule: u32,
    pub(super) method: Option<Method>,
    pub(super) path: PathTest,
    pub(super) conditions: Span,
}

pub(super) struct HostGroups {
    pub(super) exact: Option<u32>,
    pub(super) wildcard: Option<u32>,
}

pub(super) struct Candidates {
    pub(super) exact: Span,
    pub(super) prefixes: Span,
}

impl RouteTable {
    /// A table without routes.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            routes: Vec::new(),
            rules: Vec::new(),
            geo: Vec::new(),
            weighted_backends: Vec::new(),
            backends: Vec::new(),
            actions: Vec::new(),
            matches: Vec::new(),
            conditions: Vec::new(),
            query_names: Vec::new(),
            hosts: Trie::empty(),
            ports: Vec::new(),
            arrivals: Vec::new(),
            paths: Trie::empty(),
            templates: Shapes::new(Trie::empty()),
            regex_shapes: Shapes::new(Trie::empty()),
            element_tests: Vec::new(),
            candidates: Vec::new(),
            regexes: Vec::new(),
            text: serde_bytes::ByteBuf::new(),
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

    /// Whether [`Facts::https`] matters.
    #[must_use]
    pub fn asks_scheme(&self) -> bool {
        !self.arrivals.is_empty()
    }

    /// Whether [`Facts::port`] matters.
    #[must_use]
    pub fn asks_port(&self) -> bool {
        !self.ports.is_empty()
    }

    /// The rule that wins, by the precedence of the Gateway API specification; `None`:
    /// no route matches.
    ///
    /// # Errors
    /// When the request is so long that the search would take too long: the request must
    /// not go to another rule than the right one.
    pub fn find(&self, facts: &Facts<'_>) -> Result<Option<RouteMatch<'_>>, TooLong> {
        let Some(request) = ParsedRequest::new(facts) else { return Ok(None) };
        let host = RequestHost::read(facts.host);
        if host.is_none() && !facts.host.is_empty() {
            return Ok(None);
        }
        let root = self.root_for(facts);
        let won = match host {
            Some(host) => self.find_by_host(root, &host, &request),
            None => self.hosts.payload(root).and_then(|any| self.find_in(any.wildcard?, &request)),
        };
        match request.is_exhausted() {
            true => Err(TooLong),
            false => Ok(won.and_then(|won| self.route_match(won, facts.random_bits))),
        }
    }

    /// The root of the hostnames of the routes that take requests which arrive like this.
    fn root_for(&self, facts: &Facts<'_>) -> u32 {
        let place = self.ports.binary_search(&facts.port.into()).map_or(0, |at| at.saturating_add(1));
        let at = place.saturating_mul(2).saturating_add(usize::from(facts.https));
        self.arrivals.get(at).copied().unwrap_or(0)
    }

    /// The best match under the exact hostname, else under the longest wildcard,
    /// else under the next, at last among the routes without hostnames.
    fn find_by_host(&self, root: u32, host: &RequestHost, request: &ParsedRequest<'_>) -> Option<u32> {
        let mut labels = host.labels().peekable();
        let mut node = root;
        while let Some(label) = labels.peek() {
            let Some(child) = self.hosts.child(node, label, &self.text) else { break };
            node = child;
            labels.next();
        }
        let whole = labels.peek().is_none();
        let exact = self.hosts.payload(node).filter(|_| whole).and_then(|groups| groups.exact);
        // A wildcard stands for at least one label, so the last node's does not cover a
        // name that ends at this node.
        let wildcards = self
            .hosts
            .upwards(node)
            .skip(usize::from(whole && node != root))
            .filter_map(|groups| groups.wildcard);
        exact.into_iter().chain(wildcards).find_map(|group| self.find_in(group, request))
    }

    /// The best match among those of one group of hostnames.
    fn find_in(&self, group: u32, request: &ParsedRequest<'_>) -> Option<u32> {
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
                self.templates.find_template(group, request.elements(), &self.text, first)
            })
            .or_else(|| {
                let first = |list, limit| self.first(list, request, limit);
                self.regex_shapes.find_lowest(group, request.elements(), &self.text, first)
            })
            .or_else(|| {
                self.paths.upwards(node).find_map(|node| self.first(node.prefixes, request, u32::MAX))
            })
    }

    /// The first candidate of a list, which is in the order of rank, that the
    /// request satisfies and that ranks before `limit`.
    fn first(&self, list: Span, request: &ParsedRequest<'_>, limit: u32) -> Option<u32> {
        let ranks = slice(&self.candidates, list)?.iter().copied();
        ranks.take_while(|&rank| rank < limit).find(|&rank| self.satisfies(rank, request).unwrap_or(false))
    }

    fn satisfies(&self, rank: u32, request: &ParsedRequest<'_>) -> Option<bool> {
        let wanted = at(&self.matches, rank)?;
        if wanted.method.is_some() && wanted.method != request.method {
            return Some(false);
        }
        let path_passes = match wanted.path {
            PathTest::Known | PathTest::Template(_) => true,
            PathTest::Regex(regex) => self.matches_whole(regex, request.path, request),
            PathTest::Elements(tests) => {
                slice(&self.element_tests, tests)?.iter().all(|test| self.element_passes(test, request))
            }
        };
        if !path_passes {
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

    fn passes(&self, test: &ValueTest, value: &[u8], request: &ParsedRequest<'_>) -> bool {
        match test {
            ValueTest::Exact(wanted) => slice(&self.text, *wanted) == Some(value),
            ValueTest::Regex(regex) => self.matches_whole(*regex, value, request),
        }
    }

    fn element_passes(&self, test: &ElementTestRow, request: &ParsedRequest<'_>) -> bool {
        let element = usize::try_from(test.element).ok().and_then(|element| request.element(element));
        element.is_some_and(|element| self.matches_whole(test.regex, element, request))
    }

    fn matches_whole(&self, regex: u32, bytes: &[u8], request: &ParsedRequest<'_>) -> bool {
        if !request.spend(bytes.len()) {
            return false;
        }
        let input = Input::new(bytes).anchored(Anchored::Yes).earliest(true);
        at(&self.regexes, regex).is_some_and(|dfa| matches!(dfa.try_search_fwd(&input), Ok(Some(_))))
    }

    fn route_match(&self, won: u32, random_bits: u32) -> Option<RouteMatch<'_>> {
        let won = at(&self.matches, won)?;
        let rule = at(&self.rules, won.rule)?;
        let weighted_backends = slice(&self.weighted_backends, rule.weighted_backends)?;
        let total = weighted_backends.last().map_or(0, |backend| backend.up_to);
        let point = u64::from(random_bits).saturating_mul(u64::from(total)) >> 32;
        let chosen = weighted_backends
            .get(weighted_backends.partition_point(|backend| u64::from(backend.up_to) <= point));
        let backend = chosen.and_then(|share| self.backends.get(share.backend?));
        let template = match won.path {
            PathTest::Template(pattern) => template_at(&self.text, pattern),
            PathTest::Known | PathTest::Regex(_) | PathTest::Elements(_) => None,
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

pub(super) fn template_at(text: &[u8], pattern: Span) -> Option<&str> {
    std::str::from_utf8(slice(text, pattern)?).ok()
}

fn at<T>(list: &[T], index: u32) -> Option<&T> {
    list.get(usize::try_from(index).ok()?)
}
