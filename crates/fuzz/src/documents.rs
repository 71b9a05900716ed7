//! Documents that people write: JSON or YAML, of each kind.

use serde_json::Value;
use tidegate_author::strict_json::{
    StrictValue, carry_out_merges, check_yaml_depth, without_byte_order_mark,
};
use tidegate_author::{self as author, Backends, FIRST_LISTENERS, Listeners};
use tidegate_policy::request::Facts;
use tidegate_policy::route::RouteTable;

/// Reads `bytes` as a document of each kind. A route that is taken compiles, and its table loads
/// and is searched.
pub fn run(bytes: &[u8]) -> bool {
    let mut read = false;
    let bytes = without_byte_order_mark(bytes);
    let json = serde_json::from_slice(bytes).ok().map(|StrictValue(document)| document);
    let documents = [json, from_yaml(bytes)];
    for document in documents.into_iter().flatten() {
        read |= author::read_auto_ban("a", &document).is_ok();
        read |= author::read_backend("a", &document).is_ok();
        read |= author::read_geo_rule("a", &document).is_ok();
        read |= author::read_limit("a", &document).is_ok();
        read |= author::read_listener("a", &document).is_ok();
        read |= author::read_page("ip_banned", &document).is_ok();
        read |= author::read_flags(&document).is_ok();
        if let Ok(route) = author::read(&document) {
            compile(&route);
            read = true;
        }
    }
    read
}

fn from_yaml(bytes: &[u8]) -> Option<Value> {
    check_yaml_depth(bytes).ok()?;
    let StrictValue(mut document) = yaml_serde::from_slice(bytes).ok()?;
    carry_out_merges(&mut document).ok()?;
    Some(document)
}

fn compile(route: &author::Route) {
    let listener = |(name, document): (&str, &str)| {
        let document = serde_json::from_str(document).expect("JSON");
        (name.to_owned(), author::read_listener(name, &document).expect("a listener"))
    };
    let listeners: Listeners = FIRST_LISTENERS.into_iter().map(listener).collect();
    let _ = author::warnings(route, &listeners);
    let _ = route.listener_problems(&listeners);
    if let Ok(table) = author::compile(std::slice::from_ref(route), &Backends::new(), &listeners) {
        let table = RouteTable::from_bytes(&table).expect("what compiles loads");
        for path in [&b"/"[..], b"/a/b?c=d", b"*", b"\xff"] {
            let _ = table.find(&Facts { method: b"GET", host: b"a.example", path, ..Facts::default() });
        }
    }
}
