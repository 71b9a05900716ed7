//! The lists that rows refer to, without repeats: texts, backends, actions, regexes, names.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use serde_bytes::ByteBuf;

use super::error::{CompileError, MAX_AUTOMATA, index_of};
use crate::pattern;
use crate::{Match, Regex, Route, ValueMatch};
use tidegate_policy::codec::encode;
use tidegate_policy::route::Backend;
use tidegate_policy::route::action::Action;
use tidegate_policy::route::layout::{ConditionRow, ElementTestRow, PathTest, RouteLayout, Span, ValueTest};

/// Interned values, in the order of their first use.
pub(super) struct Tables {
    text: Vec<u8>,
    spans: HashMap<Vec<u8>, Span>,
    backends: HashMap<Backend, u32>,
    /// Index by encoded action.
    actions: HashMap<Vec<u8>, u32>,
    automata: Vec<ByteBuf>,
    regexes: HashMap<Arc<[u8]>, u32>,
    automata_bytes: usize,
    element_tests: Vec<ElementTestRow>,
    /// The span of the tests of elements by index and regex.
    element_spans: HashMap<Vec<(u32, u32)>, Span>,
    query_names: Vec<ByteBuf>,
    regex_tests: RegexTests,
}

/// How the rest of a regex is tested, of paths that have one of its shapes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum RegexTests {
    /// Element by element where that can be, which is fastest.
    Elements,
    /// By the automaton of the whole regex, which can be smaller than those of its elements.
    Whole,
}

impl Tables {
    pub fn new(routes: &[&Route], regex_tests: RegexTests) -> Self {
        let matches = routes.iter().flat_map(|route| &route.rules).flat_map(|rule| &rule.matches);
        let names: BTreeSet<_> =
            matches.flat_map(|wanted| &wanted.query).map(|condition| condition.name.as_bytes()).collect();
        Self {
            text: Vec::new(),
            spans: HashMap::new(),
            backends: HashMap::new(),
            actions: HashMap::new(),
            automata: Vec::new(),
            regexes: HashMap::new(),
            automata_bytes: 0,
            element_tests: Vec::new(),
            element_spans: HashMap::new(),
            query_names: names.into_iter().map(|name| ByteBuf::from(name.to_vec())).collect(),
            regex_tests,
        }
    }

    pub fn text(&mut self, bytes: &[u8]) -> Result<Span, CompileError> {
        if let Some(&span) = self.spans.get(bytes) {
            return Ok(span);
        }
        let span = Span { start: index_of(self.text.len())?, len: index_of(bytes.len())? };
        self.text.extend_from_slice(bytes);
        self.spans.insert(bytes.to_vec(), span);
        Ok(span)
    }

    pub fn backend(&mut self, backend: Backend, layout: &mut RouteLayout) -> Result<u32, CompileError> {
        if let Some(&index) = self.backends.get(&backend) {
            return Ok(index);
        }
        let index = index_of(layout.backends.len())?;
        layout.backends.push(backend.clone());
        self.backends.insert(backend, index);
        Ok(index)
    }

    /// The action's index; `None` if the action does nothing.
    pub fn action(&mut self, action: Action, layout: &mut RouteLayout) -> Result<Option<u32>, CompileError> {
        if action.is_nothing() {
            return Ok(None);
        }
        let bytes = encode(0, &action)?;
        if let Some(&index) = self.actions.get(&bytes) {
            return Ok(Some(index));
        }
        let index = index_of(layout.actions.len())?;
        layout.actions.push(action);
        self.actions.insert(bytes, index);
        Ok(Some(index))
    }

    /// What is left to test of paths that have one of the regex's shapes.
    pub fn path_test(&mut self, regex: &Regex) -> Result<PathTest, CompileError> {
        match &regex.of_paths().test {
            pattern::PathTest::Elements(tests) if tests.is_empty() => Ok(PathTest::Known),
            pattern::PathTest::Elements(tests) if self.regex_tests == RegexTests::Elements => {
                Ok(PathTest::Elements(self.element_tests(tests)?))
            }
            pattern::PathTest::Elements(_) | pattern::PathTest::Whole => {
                Ok(PathTest::Regex(self.regex(regex.automaton())?))
            }
        }
    }

    fn element_tests(&mut self, tests: &[(usize, Arc<[u8]>)]) -> Result<Span, CompileError> {
        let mut rows = Vec::with_capacity(tests.len());
        for (element, automaton) in tests {
            rows.push((index_of(*element)?, self.regex(automaton)?));
        }
        if let Some(&span) = self.element_spans.get(&rows) {
            return Ok(span);
        }
        let span = Span { start: index_of(self.element_tests.len())?, len: index_of(rows.len())? };
        let test = |&(element, regex): &(u32, u32)| ElementTestRow { element, regex };
        self.element_tests.extend(rows.iter().map(test));
        self.element_spans.insert(rows, span);
        Ok(span)
    }

    fn regex(&mut self, automaton: &[u8]) -> Result<u32, CompileError> {
        if let Some(&index) = self.regexes.get(automaton) {
            return Ok(index);
        }
        let index = index_of(self.automata.len())?;
        self.automata_bytes = self.automata_bytes.saturating_add(automaton.len());
        if self.automata_bytes > MAX_AUTOMATA {
            return Err(CompileError::TooManyRegexes);
        }
        self.automata.push(ByteBuf::from(automaton.to_vec()));
        self.regexes.insert(automaton.into(), index);
        Ok(index)
    }

    /// Appends the conditions of a match to the layout.
    pub fn conditions(&mut self, wanted: &Match, layout: &mut RouteLayout) -> Result<(), CompileError> {
        for condition in &wanted.headers {
            let name = self.text(condition.name.as_bytes())?;
            let test = self.test(&condition.value)?;
            layout.conditions.push(ConditionRow::Header(name, test));
        }
        for condition in &wanted.query {
            let found =
                self.query_names.binary_search_by(|name| name.as_slice().cmp(condition.name.as_bytes()));
            let name = index_of(found.unwrap_or_default())?;
            let test = self.test(&condition.value)?;
            layout.conditions.push(ConditionRow::Query(name, test));
        }
        Ok(())
    }

    fn test(&mut self, value: &ValueMatch) -> Result<ValueTest, CompileError> {
        Ok(match value {
            ValueMatch::Exact(value) => ValueTest::Exact(self.text(value.as_bytes())?),
            ValueMatch::Regex(regex) => ValueTest::Regex(self.regex(regex.automaton())?),
        })
    }

    pub fn finish(self, layout: &mut RouteLayout) {
        layout.regexes = self.automata;
        layout.element_tests = self.element_tests;
        layout.query_names = self.query_names;
        layout.text = ByteBuf::from(self.text);
    }
}
