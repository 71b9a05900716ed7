//! Routes, from documents to the rule that wins.

use serde_json::{Value, json};
use tidegate_policy::author;
use tidegate_policy::decide::Facts;
use tidegate_policy::route::RouteTable;

fn table(documents: &[Value]) -> RouteTable {
    let routes: Vec<_> = documents.iter().map(|document| author::read(document).unwrap()).collect();
    RouteTable::from_bytes(&author::compile(&routes).unwrap()).unwrap()
}

#[test]
fn smoke() {
    let table = table(&[json!({"metadata": {"name": "a"}, "spec": {"rules": [
        {"matches": [{"path": {"value": "/abc"}}], "backendRefs": [{"name": "one"}]},
        {"backendRefs": [{"name": "two"}]},
    ]}})]);
    let found = table.find(&Facts { path: b"/abc/d?x", ..Facts::default() }).unwrap();
    assert_eq!((found.route, found.rule), ("a", 0));
    assert_eq!(table.backends()[found.backend.unwrap()].name, "one");
    assert_eq!(table.find(&Facts { path: b"/abcd", ..Facts::default() }).unwrap().rule, 1);
}
