//! Any bytes give a table or an error, and a table that loads can be searched.

use std::sync::LazyLock;

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::json;
use tidegate_policy::request::Facts;
use tidegate_policy::route::{ROUTES_FORMAT, RouteLoad, RouteTable};

use super::{document, found, read};

/// A table that has every kind of row.
static BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let rules = json!([
        {"matches": [
            {"path": {"value": "/a/b"}, "headers": [{"name": "x", "value": "1"}], "method": "GET"},
            {"path": {"type": "Exact", "value": "/a"}, "queryParams": [{"name": "p", "value": "1"}]},
            {"path": {"type": "RegularExpression", "value": "/a/[^/]+/(c|d)*"}},
            {"path": {"type": "RegularExpression", "value": "/a/[^/]+/c/?"}},
            {"path": {"type": "RegularExpression", "value": "/x/[a-z]+/[^/]*"}},
            {"headers": [{"type": "RegularExpression", "name": "x", "value": ".*(foo|bar)[0-9]{2}"}]},
            {"path": {"type": "Template", "value": "/a/{x}/c"}, "method": "GET"},
            {"path": {"type": "Template", "value": "/{x}/b/{y}"}},
            {"queryParams": [{"type": "RegularExpression", "name": "p", "value": "[a-z]*"}]},
        ], "backendRefs": [{"name": "one", "weight": 3, "port": 80}, {"name": "two"}]},
        {"backendRefs": [{"name": "one", "namespace": "other"}], "filters": [
            {"type": "ExtensionRef", "extensionRef": {"group": "tidegate.dev", "kind": "GeoRule", "name": "g"}},
        ]},
    ]);
    let hosts = ["a.example", "*.example", "*.a.example"];
    let mut held = document("b", &[], rules.clone());
    held["spec"]["parentRefs"] = json!([
        {"name": "g", "sectionName": "http"}, {"name": "g", "port": 8080}, {"name": "g", "sectionName": "gone"}
    ]);
    let routes =
        [read(&document("a", &hosts, rules.clone())), read(&held), read(&document("c", &hosts[..1], rules))];
    super::compile(&routes).unwrap()
});

/// Searches with requests that reach every part of a table.
fn search(table: &RouteTable) {
    let headers: &[(&[u8], &[u8])] = &[(b"x", b"1"), (b"y", b"a"), (b"x", b"foo12"), (b"", b"")];
    for host in [&b"a.example"[..], b"x.a.example", b"b.example:80", b"", b"\xff.example"] {
        for path in [
            &b"/a"[..],
            b"/a/b",
            b"/a/b/c",
            b"/x/b/c",
            b"/a/x/ccd?p=1",
            b"/a?p=1&p=2",
            b"/?p=zz",
            b"/\xff",
            b"*",
            b"/",
        ] {
            for (method, headers) in [(&b"GET"[..], headers), (b"PUT", &[])] {
                let facts = Facts { method, host, path, headers, random_bits: 1 << 31, ..Facts::default() };
                let _ = found(table, &facts);
                let _ = found(table, &Facts { https: true, port: 8080, ..facts });
            }
        }
    }
}

#[test]
fn the_table_loads() {
    search(&RouteTable::from_bytes(&BYTES).unwrap());
}

#[test]
fn it_loads_in_steps_with_a_regex_at_a_time() {
    let mut load = RouteLoad::new(&BYTES).unwrap();
    let mut steps = 0;
    let table = loop {
        steps += 1;
        if let Some(table) = load.step(1).unwrap() {
            break table;
        }
    };
    assert_eq!(table.regexes(), 4);
    // The rules, the regexes, the hostnames, the paths, the templates, the shapes of regexes.
    assert_eq!(steps, 1 + 4 + 1 + 3);
    search(&table);
    assert!(load.step(1).is_err(), "over");
}

#[test]
fn every_cut_is_an_error() {
    for len in 0..BYTES.len() {
        assert!(RouteTable::from_bytes(&BYTES[..len]).is_err(), "{len} bytes");
    }
    let mut longer = BYTES.clone();
    longer.push(0);
    assert!(RouteTable::from_bytes(&longer).is_err());
}

#[test]
fn every_byte_changed_is_a_table_or_an_error() {
    let mut bytes = BYTES.clone();
    for at in 0..bytes.len() {
        let was = bytes[at];
        for other in [was ^ 1, was ^ 0x80, was.wrapping_add(1), was.wrapping_sub(1), 0, 0x7f, 0xff] {
            bytes[at] = other;
            if let Ok(table) = RouteTable::from_bytes(&bytes) {
                search(&table);
            }
        }
        bytes[at] = was;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn any_bytes_are_a_table_or_an_error(mut bytes: Vec<u8>) {
        if let Some(first) = bytes.first_mut() { *first = ROUTES_FORMAT; }
        if let Ok(table) = RouteTable::from_bytes(&bytes) {
            search(&table);
        }
    }

    #[test]
    fn several_changes_are_a_table_or_an_error(changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut bytes = BYTES.clone();
        for (at, other) in changes {
            let at = at.index(bytes.len());
            bytes[at] = other;
        }
        if let Ok(table) = RouteTable::from_bytes(&bytes) {
            search(&table);
        }
    }
}
