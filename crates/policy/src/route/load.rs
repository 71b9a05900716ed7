//! From a route table's bytes to the table that is searched: every index is checked here,
//! once.

use std::sync::Arc;

use regex_automata::dfa::sparse;

use super::action::Action;
use super::backend::{Backend, is_name, is_template};
use super::layout::{
    ConditionRow, MAX_GEO_NAMES, MAX_ROUTE_TABLE, PathTest, ROUTES_FORMAT, RouteLayout, ShapeRow, Span,
    ValueTest,
};
use super::shapes::{ShapeMatches, Shapes};
use super::table::{Candidates, HostGroups, Match, RouteTable, Rule, WeightedBackend, template_at};
use super::trie::{Row, Trie, slice};
use crate::codec::{FormatError, decode, encode};

impl RouteTable {
    /// The bytes of a table without routes.
    ///
    /// # Errors
    /// See [`encode`]: never.
    pub fn empty_bytes() -> Result<Vec<u8>, FormatError> {
        encode(ROUTES_FORMAT, &RouteLayout::default())
    }

    /// Reads and checks what `author::compile` made, so that a search need not check it;
    /// in one go, see [`RouteLoad`]. Allocates at most some 25 times the bytes, whatever
    /// they are, and 20 MB for names; for real tables twice the bytes.
    ///
    /// # Errors
    /// When the bytes are over [`MAX_ROUTE_TABLE`] or not a route table.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut load = RouteLoad::new(bytes)?;
        loop {
            if let Some(table) = load.step(usize::MAX)? {
                return Ok(table);
            }
        }
    }
}

/// A table that is read from its bytes in steps: a worker's requests are served between
/// two.
pub struct RouteLoad {
    stage: LoadStage,
}

enum LoadStage {
    RouteLayout(Box<RouteLayout>),
    Rows(Box<Rows>),
    Over,
}

/// The parts of the table that are read so far.
struct Rows {
    layout: RouteLayout,
    rules: Vec<Rule>,
    weighted_backends: Vec<WeightedBackend>,
    matches: Vec<Match>,
    regexes: Vec<sparse::DFA<Vec<u8>>>,
    hosts: Option<Trie<HostGroups>>,
    /// The lists of candidates, of which those of paths come first, then those of templates.
    candidates: Lists,
    paths: Option<Trie<Candidates>>,
    templates: Option<Shapes>,
}

impl RouteLoad {
    /// Begins by decoding what `author::compile` made, which is the largest step.
    ///
    /// # Errors
    /// When the bytes are over [`MAX_ROUTE_TABLE`] or not a route table.
    pub fn new(bytes: &[u8]) -> Result<Self, FormatError> {
        let layout = decode::<RouteLayout>(ROUTES_FORMAT, MAX_ROUTE_TABLE, bytes)?;
        Ok(Self { stage: LoadStage::RouteLayout(Box::new(layout)) })
    }

    /// Makes one step; the table when that was the last. One step each: the rules with their
    /// matches, the hostnames, the paths, the templates, the shapes of regexes, and `budget` bytes
    /// of regexes, rounded up to a whole regex.
    ///
    /// # Errors
    /// When the bytes are not a route table. There is no further step then.
    pub fn step(&mut self, budget: usize) -> Result<Option<RouteTable>, FormatError> {
        self.stage = match std::mem::replace(&mut self.stage, LoadStage::Over) {
            LoadStage::RouteLayout(layout) => LoadStage::Rows(Box::new(Rows::new(*layout)?)),
            LoadStage::Rows(mut rows) => {
                if rows.layout.regexes.len() > rows.regexes.len() {
                    rows.take_regexes(budget)?;
                } else if rows.hosts.is_none() {
                    rows.hosts = Some(hosts(&rows.layout)?);
                } else if rows.paths.is_none() {
                    rows.paths = Some(paths(&rows.layout, &mut rows.candidates)?);
                } else if rows.templates.is_none() {
                    let templates = shapes(&rows.layout, &rows.layout.templates, &mut rows.candidates)?;
                    rows.templates = Some(templates);
                } else {
                    return rows.finish().map(Some);
                }
                LoadStage::Rows(rows)
            }
            LoadStage::Over => return Err(FormatError::Malformed("loaded already")),
        };
        Ok(None)
    }
}

impl Rows {
    fn new(layout: RouteLayout) -> Result<Self, FormatError> {
        check(layout.routes.iter().chain(&layout.geo).all(|name| is_name(name)), "the length of a name")?;
        check(layout.backends.iter().all(Backend::is_valid), "a backend that no cluster can be")?;
        check(layout.actions.iter().all(Action::is_valid), "what no document can ask for")?;
        let rules = rules(&layout)?;
        let weighted_backends = weighted_backends(&layout, &rules)?;
        let matches = matches(&layout)?;
        if layout.query_names.windows(2).any(|pair| pair.first() >= pair.get(1)) {
            return Err(FormatError::Malformed("query names are not sorted"));
        }
        check_candidates(&layout)?;
        check_arrivals(&layout)?;
        Ok(Self {
            rules,
            weighted_backends,
            matches,
            regexes: Vec::new(),
            hosts: None,
            candidates: Lists::of(layout.candidates.len())?,
            paths: None,
            templates: None,
            layout,
        })
    }

    fn take_regexes(&mut self, budget: usize) -> Result<(), FormatError> {
        let mut left = budget;
        for bytes in self.layout.regexes.get(self.regexes.len()..).unwrap_or_default() {
            self.regexes.push(regex(bytes)?);
            if bytes.len() >= left {
                break;
            }
            left = left.saturating_sub(bytes.len());
        }
        Ok(())
    }

    fn finish(self) -> Result<RouteTable, FormatError> {
        let Self {
            layout,
            rules,
            weighted_backends,
            matches,
            regexes,
            hosts,
            mut candidates,
            paths,
            templates,
        } = self;
        let (Some(hosts), Some(paths), Some(templates)) = (hosts, paths, templates) else {
            return Err(FormatError::Malformed("a step was left out"));
        };
        let regex_shapes = shapes(&layout, &layout.regex_shapes, &mut candidates)?;
        candidates.end()?;
        Ok(RouteTable {
            rules,
            weighted_backends,
            matches,
            hosts,
            paths,
            templates,
            regex_shapes,
            element_tests: layout.element_tests,
            regexes,
            ports: layout.ports,
            arrivals: layout.arrivals,
            routes: layout.routes,
            geo: layout.geo,
            backends: layout.backends,
            actions: layout.actions.into_iter().map(Arc::new).collect(),
            conditions: layout.conditions,
            query_names: layout.query_names,
            candidates: layout.candidates,
            text: layout.text,
        })
    }
}

fn check_action(layout: &RouteLayout, action: Option<u32>) -> Result<(), FormatError> {
    check(action.is_none_or(|action| (action as usize) < layout.actions.len()), "no such action")
}

fn check_group(layout: &RouteLayout, group: Option<u32>) -> Result<(), FormatError> {
    check(group.is_none_or(|group| group < layout.groups), "no such group")
}

fn check_arrivals(layout: &RouteLayout) -> Result<(), FormatError> {
    let wanted = layout.ports.len().saturating_add(1).saturating_mul(2);
    let is_plain = layout.ports.is_empty() && layout.arrivals.is_empty();
    check(is_plain || layout.arrivals.len() == wanted, "ports and arrivals do not add up")?;
    check(layout.ports.is_sorted_by(|one, other| one < other), "ports are not sorted")?;
    check(layout.arrivals.iter().all(|root| *root < layout.roots), "no such root")
}

fn hosts(layout: &RouteLayout) -> Result<Trie<HostGroups>, FormatError> {
    let mut rows = Vec::with_capacity(layout.hosts.len());
    for row in &layout.hosts {
        check_group(layout, row.exact)?;
        check_group(layout, row.wildcard)?;
        check_text(layout, row.label)?;
        let payload = HostGroups { exact: row.exact, wildcard: row.wildcard };
        rows.push(Row { label: row.label, children: row.children, any: false, payload });
    }
    Trie::load(rows.into_iter(), layout.roots)
}

fn rules(layout: &RouteLayout) -> Result<Vec<Rule>, FormatError> {
    let mut weighted_backends = Lists::of(layout.weighted_backends.len())?;
    let mut geo = Lists::of(layout.geo.len())?;
    let mut rules = Vec::with_capacity(layout.rules.len());
    for row in &layout.rules {
        check_index(row.route, layout.routes.len(), "no such route")?;
        let index = usize::try_from(row.index).map_err(|_| FormatError::Malformed("no such rule"))?;
        check(row.geo as usize <= MAX_GEO_NAMES, "too many geo rules")?;
        check_action(layout, row.action)?;
        let (weighted_backends, geo) = (weighted_backends.next(row.weighted_backends)?, geo.next(row.geo)?);
        rules.push(Rule { route: row.route, index, weighted_backends, geo, action: row.action });
    }
    weighted_backends.end()?;
    geo.end()?;
    Ok(rules)
}

fn weighted_backends(layout: &RouteLayout, rules: &[Rule]) -> Result<Vec<WeightedBackend>, FormatError> {
    let bad = FormatError::Malformed("no such backend weight");
    let mut weighted_backends = Vec::with_capacity(layout.weighted_backends.len());
    for rule in rules {
        let mut up_to = 0u32;
        for row in slice(&layout.weighted_backends, rule.weighted_backends).ok_or_else(|| bad.clone())? {
            if let Some(backend) = row.backend {
                check_index(backend, layout.backends.len(), "no such backend")?;
            }
            up_to = up_to.checked_add(row.weight).ok_or_else(|| bad.clone())?;
            check_action(layout, row.action)?;
            let backend = row.backend.and_then(|backend| usize::try_from(backend).ok());
            weighted_backends.push(WeightedBackend { backend, action: row.action, up_to });
        }
    }
    Ok(weighted_backends)
}

fn matches(layout: &RouteLayout) -> Result<Vec<Match>, FormatError> {
    let mut lists = Lists::of(layout.conditions.len())?;
    let mut matches = Vec::with_capacity(layout.matches.len());
    for row in &layout.matches {
        check_index(row.rule, layout.rules.len(), "no such rule")?;
        match row.path {
            PathTest::Known => {}
            PathTest::Regex(regex) => check_index(regex, layout.regexes.len(), "no such regex")?,
            PathTest::Elements(tests) => {
                check(slice(&layout.element_tests, tests).is_some(), "no such test of an element")?;
            }
            PathTest::Template(pattern) => {
                let pattern = template_at(&layout.text, pattern);
                check(pattern.is_some_and(is_template), "not a template")?;
            }
        }
        let conditions = lists.next(row.conditions)?;
        matches.push(Match { rule: row.rule, method: row.method, path: row.path, conditions });
    }
    lists.end()?;
    for test in &layout.element_tests {
        check_index(test.regex, layout.regexes.len(), "no such regex")?;
    }
    for condition in &layout.conditions {
        let test = match condition {
            ConditionRow::Header(name, test) => {
                check_text(layout, *name)?;
                test
            }
            ConditionRow::Query(name, test) => {
                check_index(*name, layout.query_names.len(), "no such query name")?;
                test
            }
        };
        match test {
            ValueTest::Exact(value) => check_text(layout, *value)?,
            ValueTest::Regex(regex) => check_index(*regex, layout.regexes.len(), "no such regex")?,
        }
    }
    Ok(matches)
}

fn paths(layout: &RouteLayout, lists: &mut Lists) -> Result<Trie<Candidates>, FormatError> {
    let mut rows = Vec::with_capacity(layout.paths.len());
    for row in &layout.paths {
        check_text(layout, row.label)?;
        let payload = Candidates { exact: lists.next(row.exact)?, prefixes: lists.next(row.prefixes)? };
        rows.push(Row { label: row.label, children: row.children, any: false, payload });
    }
    Trie::load(rows.into_iter(), layout.groups)
}

fn shapes(layout: &RouteLayout, of: &[ShapeRow], lists: &mut Lists) -> Result<Shapes, FormatError> {
    let mut rows = Vec::with_capacity(of.len());
    for row in of {
        check_text(layout, row.label)?;
        let (ends, prefixes) = (lists.next(row.ends)?, lists.next(row.prefixes)?);
        let payload = ShapeMatches::new(ends, prefixes, &layout.candidates);
        rows.push(Row { label: row.label, children: row.children, any: row.any, payload });
    }
    Ok(Shapes::new(Trie::load(rows.into_iter(), layout.groups)?))
}

fn check_candidates(layout: &RouteLayout) -> Result<(), FormatError> {
    layout.candidates.iter().try_for_each(|&rank| check_index(rank, layout.matches.len(), "no such match"))
}

fn regex(bytes: &[u8]) -> Result<sparse::DFA<Vec<u8>>, FormatError> {
    let bad = FormatError::Malformed("not a DFA");
    match sparse::DFA::from_bytes(bytes) {
        Ok((dfa, read)) if read == bytes.len() => Ok(dfa.to_owned()),
        _ => Err(bad),
    }
}

fn check(holds: bool, what: &'static str) -> Result<(), FormatError> {
    if holds { Ok(()) } else { Err(FormatError::Malformed(what)) }
}

fn check_index(index: u32, len: usize, what: &'static str) -> Result<(), FormatError> {
    check(usize::try_from(index).is_ok_and(|index| index < len), what)
}

fn check_text(layout: &RouteLayout, span: Span) -> Result<(), FormatError> {
    check(slice(&layout.text, span).is_some(), "a span outside of the text")
}

/// Lists that follow each other and of which only the lengths are written.
struct Lists {
    next: u32,
    len: u32,
}

impl Lists {
    fn of(len: usize) -> Result<Self, FormatError> {
        let len = u32::try_from(len).map_err(|_| FormatError::Malformed("a list is too long"))?;
        Ok(Self { next: 0, len })
    }

    fn next(&mut self, len: u32) -> Result<Span, FormatError> {
        let start = self.next;
        check(len <= self.len.saturating_sub(start), "lists do not add up")?;
        self.next = start.saturating_add(len);
        Ok(Span { start, len })
    }

    fn end(&self) -> Result<(), FormatError> {
        check(self.next == self.len, "lists do not add up")
    }
}

#[cfg(test)]
mod tests {
    use serde_bytes::ByteBuf;

    use super::*;
    use crate::codec::encode;
    use crate::route::backend::MAX_NAME;
    use crate::route::layout::{MAX_LIST, RuleRow};

    fn load(routes: &[String], geo: &[String], of_rule: u32) -> Result<RouteTable, FormatError> {
        let rule = RuleRow { route: 0, index: 0, weighted_backends: 0, geo: of_rule, action: None };
        let (routes, geo) = (routes.to_vec(), geo.to_vec());
        let layout = RouteLayout { routes, geo, rules: vec![rule], ..RouteLayout::default() };
        RouteTable::from_bytes(&encode(ROUTES_FORMAT, &layout).unwrap())
    }

    #[test]
    fn a_list_of_allocations_is_refused_before_it_is_read() {
        let routes = |len: usize| RouteLayout { routes: vec!["a".to_owned(); len], ..RouteLayout::default() };
        let load = |layout: &RouteLayout| RouteTable::from_bytes(&encode(ROUTES_FORMAT, layout).unwrap());
        assert!(load(&routes(MAX_LIST)).is_ok());
        assert!(load(&routes(MAX_LIST + 1)).is_err());
        assert!(routes(MAX_LIST).can_be_read() && !routes(MAX_LIST + 1).can_be_read());
        // As many as the bytes can name, of nothing.
        let empty = RouteLayout { regexes: vec![ByteBuf::new(); MAX_LIST + 1], ..RouteLayout::default() };
        assert!(load(&empty).is_err() && !empty.can_be_read());
    }

    #[test]
    fn a_backend_has_a_name_that_a_header_can_carry() {
        let load = |name: &str, namespace: Option<&str>| {
            let namespace = namespace.map(str::to_owned);
            let backends = vec![Backend { name: name.to_owned(), namespace, port: None, target: None }];
            RouteTable::from_bytes(
                &encode(ROUTES_FORMAT, &RouteLayout { backends, ..RouteLayout::default() }).unwrap(),
            )
        };
        assert!(load("shop", Some("prod")).is_ok());
        let long = "a".repeat(MAX_NAME + 1);
        for bad in ["", "a b", "a\r\nx: y", &long] {
            assert!(load(bad, None).is_err() && load("shop", Some(bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn names_have_a_length_and_a_rule_has_few_geo_rules() {
        let name = |len: usize| "a".repeat(len);
        assert!(load(&[name(MAX_NAME)], &[name(MAX_NAME)], 1).is_ok());
        for bad in [0, MAX_NAME + 1] {
            assert!(load(&[name(bad)], &[name(1)], 1).is_err(), "a route's name of {bad} bytes");
            assert!(load(&[name(1)], &[name(bad)], 1).is_err(), "a geo rule's name of {bad} bytes");
        }
        let many = vec![name(1); 17];
        assert!(load(&[name(1)], &many[..16], 16).is_ok());
        assert!(load(&[name(1)], &many, 17).is_err());
        assert!(load(&[name(1)], &many[..2], 1).is_err(), "one that no rule names");
        assert!(load(&[name(1)], &[], 1).is_err(), "one that is not there");
    }
}
