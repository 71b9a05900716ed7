//! From a table's bytes to what is searched: every index is checked here, once.

use regex_automata::dfa::sparse;

use super::layout::{ConditionRow, Layout, Span, Test};
use super::trie::{Trie, slice};
use super::{Candidates, HostGroups, Match, RouteTable, Rule, Share};
use crate::wire::WireError;

/// The table that `layout` describes.
pub(super) fn table(layout: Layout) -> Result<RouteTable, WireError> {
    let rules = rules(&layout)?;
    let shares = shares(&layout, &rules)?;
    let matches = matches(&layout)?;
    if layout.query_names.windows(2).any(|pair| pair.first() >= pair.get(1)) {
        return Err(WireError::Malformed("query names are not sorted"));
    }
    check_candidates(&layout)?;
    let mut regexes = Vec::new();
    for bytes in &layout.regexes {
        regexes.push(regex(bytes)?);
    }
    let groups = |group: Option<u32>| check(group.is_none_or(|group| group < layout.groups), "no such group");
    groups(layout.any_host)?;
    let mut host_rows = Vec::with_capacity(layout.hosts.len());
    for row in &layout.hosts {
        groups(row.exact)?;
        groups(row.wildcard)?;
        check_text(&layout, row.label)?;
        host_rows.push((row.label, row.children, HostGroups { exact: row.exact, wildcard: row.wildcard }));
    }
    let hosts = Trie::load(host_rows.into_iter(), u32::from(!layout.hosts.is_empty()))?;
    Ok(RouteTable {
        rules,
        shares,
        matches,
        hosts,
        paths: paths(&layout)?,
        regexes,
        any_host: layout.any_host,
        routes: layout.routes,
        backends: layout.backends,
        conditions: layout.conditions,
        query_names: layout.query_names,
        candidates: layout.candidates,
        text: layout.text,
    })
}

fn rules(layout: &Layout) -> Result<Vec<Rule>, WireError> {
    let mut lists = Lists::of(layout.shares.len())?;
    let mut rules = Vec::with_capacity(layout.rules.len());
    for row in &layout.rules {
        check_index(row.route, layout.routes.len(), "no such route")?;
        let index = usize::try_from(row.index).map_err(|_| WireError::Malformed("no such rule"))?;
        rules.push(Rule { route: row.route, index, shares: lists.next(row.shares)? });
    }
    lists.end()?;
    Ok(rules)
}

fn shares(layout: &Layout, rules: &[Rule]) -> Result<Vec<Share>, WireError> {
    let bad = WireError::Malformed("no such share");
    let mut shares = Vec::with_capacity(layout.shares.len());
    for rule in rules {
        let mut up_to = 0u32;
        for row in slice(&layout.shares, rule.shares).ok_or_else(|| bad.clone())? {
            if let Some(backend) = row.backend {
                check_index(backend, layout.backends.len(), "no such backend")?;
            }
            up_to = up_to.checked_add(row.weight).ok_or_else(|| bad.clone())?;
            let backend = row.backend.and_then(|backend| usize::try_from(backend).ok());
            shares.push(Share { backend, up_to });
        }
    }
    Ok(shares)
}

fn matches(layout: &Layout) -> Result<Vec<Match>, WireError> {
    let mut lists = Lists::of(layout.conditions.len())?;
    let mut matches = Vec::with_capacity(layout.matches.len());
    for row in &layout.matches {
        check_index(row.rule, layout.rules.len(), "no such rule")?;
        if let Some(path) = row.path {
            check_index(path, layout.regexes.len(), "no such regex")?;
        }
        let conditions = lists.next(row.conditions)?;
        matches.push(Match { rule: row.rule, method: row.method, path: row.path, conditions });
    }
    lists.end()?;
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
            Test::Exact(value) => check_text(layout, *value)?,
            Test::Regex(regex) => check_index(*regex, layout.regexes.len(), "no such regex")?,
        }
    }
    Ok(matches)
}

fn paths(layout: &Layout) -> Result<Trie<Candidates>, WireError> {
    let mut lists = Lists::of(layout.candidates.len())?;
    let mut rows = Vec::with_capacity(layout.paths.len());
    for row in &layout.paths {
        check_text(layout, row.label)?;
        let (exact, regexes) = (lists.next(row.exact)?, lists.next(row.regexes)?);
        let candidates = Candidates { exact, regexes, prefixes: lists.next(row.prefixes)? };
        rows.push((row.label, row.children, candidates));
    }
    lists.end()?;
    Trie::load(rows.into_iter(), layout.groups)
}

fn check_candidates(layout: &Layout) -> Result<(), WireError> {
    layout.candidates.iter().try_for_each(|&rank| check_index(rank, layout.matches.len(), "no such match"))
}

fn regex(bytes: &[u8]) -> Result<sparse::DFA<Vec<u8>>, WireError> {
    let bad = WireError::Malformed("not a DFA");
    match sparse::DFA::from_bytes(bytes) {
        Ok((dfa, read)) if read == bytes.len() => Ok(dfa.to_owned()),
        _ => Err(bad),
    }
}

fn check(holds: bool, what: &'static str) -> Result<(), WireError> {
    if holds { Ok(()) } else { Err(WireError::Malformed(what)) }
}

fn check_index(index: u32, len: usize, what: &'static str) -> Result<(), WireError> {
    check(usize::try_from(index).is_ok_and(|index| index < len), what)
}

fn check_text(layout: &Layout, span: Span) -> Result<(), WireError> {
    check(slice(&layout.text, span).is_some(), "a span outside of the text")
}

/// Lists that stand one after the other and of which only the lengths are known.
struct Lists {
    next: u32,
    len: u32,
}

impl Lists {
    fn of(len: usize) -> Result<Self, WireError> {
        let len = u32::try_from(len).map_err(|_| WireError::Malformed("a list is too long"))?;
        Ok(Self { next: 0, len })
    }

    fn next(&mut self, len: u32) -> Result<Span, WireError> {
        let start = self.next;
        check(len <= self.len.saturating_sub(start), "lists do not add up")?;
        self.next = start.saturating_add(len);
        Ok(Span { start, len })
    }

    fn end(&self) -> Result<(), WireError> {
        check(self.next == self.len, "lists do not add up")
    }
}
