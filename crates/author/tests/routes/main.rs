//! Routes, from documents to the rule that wins.

mod bytes;
mod documents;
mod explained;
mod filters;
mod listeners;
mod oracle;
mod regexes;
mod semantics;

use serde_json::{Value, json};
use tidegate_author::{self as author, Backends, Listeners, Route};
use tidegate_policy::request::Facts;
use tidegate_policy::route::{RouteMatch, RouteTable};

/// The route of a document that must be valid.
fn read(document: &Value) -> Route {
    author::read(document).unwrap_or_else(|problems| panic!("{document}: {problems:?}"))
}

/// Those that every service has from the start, and three more.
fn listeners() -> Listeners {
    let documents = [
        ("http", json!({"scheme": "http"})),
        ("https", json!({"scheme": "https"})),
        ("alt", json!({"port": 8080})),
        ("wide", json!({"scheme": "https", "hostname": "*.a.example"})),
        ("one", json!({"port": 8080, "hostname": "a.example"})),
    ];
    let read =
        |(name, document): (&str, Value)| (name.to_owned(), author::read_listener(name, &document).unwrap());
    documents.into_iter().map(read).collect()
}

fn compile(routes: &[Route]) -> Result<Vec<u8>, author::CompileError> {
    author::compile(routes, &Backends::new(), &listeners())
}

fn table_of(routes: &[Route]) -> RouteTable {
    RouteTable::from_bytes(&compile(routes).unwrap()).unwrap()
}

/// A document of this name, hostnames and rules.
fn document(name: &str, hostnames: &[&str], rules: Value) -> Value {
    json!({"metadata": {"name": name}, "spec": {"hostnames": hostnames, "rules": rules}})
}

/// The rule that wins for a request that is short enough.
fn found<'t>(table: &'t RouteTable, facts: &Facts<'_>) -> Option<RouteMatch<'t>> {
    table.find(facts).unwrap()
}

/// What wins: route, rule, the template that matched, and the name of the backend.
type Winner = (String, usize, Option<String>, Option<String>);

/// The result of a search.
fn winner(table: &RouteTable, facts: &Facts<'_>) -> Option<Winner> {
    let found = found(table, facts)?;
    let backend = found.backend.map(|backend| backend.name.clone());
    Some((found.route.to_owned(), found.rule, found.template.map(str::to_owned), backend))
}
