//! The lists that rows refer to, without repeats: texts, backends, actions, regexes, names.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use serde_bytes::ByteBuf;

use super::error::{CompileError, MAX_AUTOMATA, index_of};
use crate::Regex;
use crate::{Match, Route, ValueMatch};
use tidegate_policy::codec::encode;
use tidegate_policy::route::Backend;
use tidegate_policy::route::action::Action;
use tidegate_policy::route::layout::{ConditionRow, RouteLayout, Span, ValueTest};

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
    query_names: Vec<ByteBuf>,
}

impl Tables {
    pub fn new(routes: &[&Route]) -> Self {
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
            query_names: names.into_iter().map(|name| ByteBuf::from(name.to_vec())).collect(),
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

    pub fn regex(&mut self, regex: &Regex) -> Result<u32, CompileError> {
        if let Some(&index) = self.regexes.get(regex.automaton()) {
            return Ok(index);
        }
        let index = index_of(self.automata.len())?;
        self.automata_bytes = self.automata_bytes.saturating_add(regex.automaton().len());
        if self.automata_bytes > MAX_AUTOMATA {
            return Err(CompileError::TooManyRegexes);
        }
        self.automata.push(ByteBuf::from(regex.automaton().to_vec()));
        self.regexes.insert(regex.automaton().into(), index);
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
            ValueMatch::Regex(regex) => ValueTest::Regex(self.regex(regex)?),
        })
    }

    pub fn finish(self, layout: &mut RouteLayout) {
        layout.regexes = self.automata;
        layout.query_names = self.query_names;
        layout.text = ByteBuf::from(self.text);
    }
}
