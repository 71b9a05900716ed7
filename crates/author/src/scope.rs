//! Reads `applies_to`: where a ban applies, if not everywhere.
//!
//! ```json
//! {"hostnames": ["shop.example.com", "*.shop.example.com"], "routes": ["team-a/orders"]}
//! ```

use serde_json::{Map, Value};
use tidegate_policy::scope::{MAX_SCOPE_NAMES, Scope};

use super::names::hostname_problem;
use super::reader::{DocumentError, DocumentErrors, DocumentNode, Object};
use super::route_id::{ROUTE_ID_FORM, read_route_id};
use super::strict_json::StrictValue;

const FIELDS: &[&str] = &["hostnames", "routes"];
/// Characters of a label of a hostname, at most (RFC 1035, 2.3.4).
const MAX_LABEL: usize = 63;

/// Reads `applies_to`: `hostnames`, as an HTTPRoute has them, `routes`, or both, with at least one name. A route
/// need not exist.
///
/// # Errors
/// All problems, with pointers into `value`. Nothing at all, and an empty list, are refused: whoever writes them
/// may mean everywhere, or nowhere.
pub fn read_scope(value: &Value) -> Result<Scope, Vec<DocumentError>> {
    let mut errors = DocumentErrors::default();
    let read = scope(&DocumentNode::root(value), &mut errors);
    errors.into_result(read)
}

/// Reads `applies_to` as the database has it: JSON in a text.
///
/// # Errors
/// What is wrong, in a sentence.
pub fn read_scope_text(text: &str) -> Result<Scope, String> {
    let form =
        "write a JSON object like {\"hostnames\": [\"shop.example.com\"], \"routes\": [\"team-a/orders\"]}";
    let value: Value =
        serde_json::from_str::<StrictValue>(text).map_err(|error| format!("is no JSON ({error}): {form}"))?.0;
    read_scope(&value).map_err(|errors| {
        let first = errors.into_iter().next();
        first.map_or_else(
            || form.to_owned(),
            |error| match error.pointer.as_str() {
                "" => error.message,
                pointer => format!("{pointer}: {}", error.message),
            },
        )
    })
}

/// A scope as documents and answers have it. Read again it is the same.
#[must_use]
pub fn write_scope(scope: &Scope) -> Value {
    let fields = [("hostnames", &scope.hostnames), ("routes", &scope.routes)];
    let given = fields.into_iter().filter(|(_, names)| !names.is_empty());
    Value::Object(given.map(|(name, names)| (name.to_owned(), names.clone().into())).collect::<Map<_, _>>())
}

pub(super) fn scope(node: &DocumentNode<'_>, errors: &mut DocumentErrors) -> Option<Scope> {
    let fields = node.object(FIELDS, errors)?;
    if fields.get("hostnames").is_none() && fields.get("routes").is_none() {
        node.note(
            errors,
            "required",
            "must have hostnames or routes: what applies everywhere has no applies_to",
        );
        return None;
    }
    Some(places(&fields, errors))
}

/// The `hostnames` and `routes` of an object.
pub(super) fn places(fields: &Object<'_>, errors: &mut DocumentErrors) -> Scope {
    let hostnames = fields.get("hostnames").map(|node| names(&node, errors, hostname)).unwrap_or_default();
    let routes = fields.get("routes").map(|node| names(&node, errors, route)).unwrap_or_default();
    Scope { hostnames, routes }
}

/// The members of a list, sorted, and each once.
pub(super) fn names(
    list: &DocumentNode<'_>,
    errors: &mut DocumentErrors,
    read: impl Fn(&str) -> Result<String, String>,
) -> Vec<String> {
    let nodes = list.list(MAX_SCOPE_NAMES, errors);
    if nodes.is_empty() && list.value.is_array() {
        list.note(errors, "invalid", "an empty list is nowhere: leave it out, or name what is meant");
    }
    let mut names = Vec::new();
    for node in nodes {
        match node.text(1, 317, errors).map(&read) {
            None => {}
            Some(Ok(name)) => names.push(name),
            Some(Err(problem)) => node.note(errors, "invalid", problem),
        }
    }
    names.sort_unstable();
    names.dedup();
    names
}

fn hostname(text: &str) -> Result<String, String> {
    // A host with a longer label has no request.
    let is_long = text.split('.').any(|label| label.len() > MAX_LABEL);
    let too_long = || format!("has a label of more than {MAX_LABEL} characters");
    match hostname_problem(text).map(str::to_owned).or_else(|| is_long.then(too_long)) {
        // Who wrote several at once has to find the one that is meant.
        Some(problem) => Err(format!("the hostname `{}` {problem}", shown(text))),
        None => Ok(text.to_owned()),
    }
}

fn route(text: &str) -> Result<String, String> {
    read_route_id(text).ok_or_else(|| format!("the route `{}` {ROUTE_ID_FORM}", shown(text)))
}

/// The beginning of a text, for messages.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::{select, subsequence};
    use serde_json::json;
    use tidegate_policy::host::RequestHost;
    use tidegate_policy::request::Facts;
    use tidegate_policy::route::RouteTable;
    use tidegate_policy::tables::TableData;

    use super::*;
    use crate::{Backends, FIRST_LISTENERS, compile, read, read_listener};

    #[test]
    fn it_is_read_as_it_is_written() {
        let read = read_scope(&json!({"hostnames": ["b.example", "*.a.example", "b.example"],
            "routes": ["team/r", "default/q"]}));
        let scope = read.unwrap();
        assert_eq!(scope.hostnames, ["*.a.example", "b.example"]);
        assert_eq!(scope.routes, ["q", "team/r"]);
        assert_eq!(read_scope_text(&write_scope(&scope).to_string()), Ok(scope));
        assert_eq!(write_scope(&read_scope(&json!({"routes": ["q"]})).unwrap()), json!({"routes": ["q"]}));
    }

    #[test]
    fn what_may_mean_everywhere_or_nowhere_is_refused() {
        let many = vec!["a.example"; MAX_SCOPE_NAMES + 1];
        for (value, pointer, code) in [
            (json!({}), "", "required"),
            (json!("a.example"), "", "wrong_type"),
            (json!({"hostnames": []}), "/hostnames", "invalid"),
            (json!({"hostnames": null}), "", "required"),
            (json!({"hostnames": ["A.example"]}), "/hostnames/0", "invalid"),
            (json!({"hostnames": ["a.example:80"]}), "/hostnames/0", "invalid"),
            (json!({"hostnames": ["a.*.example"]}), "/hostnames/0", "invalid"),
            (json!({"hostnames": ["10.0.0.1"]}), "/hostnames/0", "invalid"),
            (
                json!({"hostnames": ["a.example", format!("{}.example", "x".repeat(64))]}),
                "/hostnames/1",
                "invalid",
            ),
            (json!({"hostnames": many}), "/hostnames", "too_many"),
            (json!({"routes": [7]}), "/routes/0", "wrong_type"),
            (json!({"routes": ["a/b/c"]}), "/routes/0", "invalid"),
            (json!({"host": ["a"], "routes": ["r"]}), "/host", "unknown_field"),
        ] {
            let errors = read_scope(&value).expect_err("must be refused");
            let found: Vec<_> = errors.iter().map(|error| (error.pointer.as_str(), error.code)).collect();
            assert_eq!(found, [(pointer, code)], "{value}");
            // Who names it by an option has no pointer.
            let named = value["hostnames"][0].as_str().filter(|_| pointer == "/hostnames/0");
            assert!(named.is_none_or(|name| errors[0].message.contains(name)), "{errors:?}");
        }
        for text in ["", "x", "{\"routes\": [\"r\"]", "{\"routes\": [\"r\"], \"routes\": [\"q\"]}", "[]"] {
            assert!(read_scope_text(text).is_err(), "{text}");
        }
    }

    fn routes_of(hostnames: &[&str]) -> RouteTable {
        let route = read(&json!({"metadata": {"name": "r"}, "spec": {"hostnames": hostnames,
            "rules": [{"backendRefs": [{"name": "b", "port": 80}]}]}}));
        let listener = |(name, document): (&str, &str)| {
            let document = serde_json::from_str(document).unwrap();
            (name.to_owned(), read_listener(name, &document).unwrap())
        };
        let bytes =
            compile(&[route.unwrap()], &Backends::new(), &FIRST_LISTENERS.map(listener).into()).unwrap();
        let mut decoder = <std::sync::Arc<RouteTable>>::decoder(&std::sync::Arc::new(bytes)).unwrap();
        loop {
            if let Some(table) = <std::sync::Arc<RouteTable>>::step(&mut decoder).unwrap() {
                return std::sync::Arc::into_inner(table).unwrap();
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn a_host_is_in_a_scope_if_a_route_with_its_hostnames_takes_it(
            hostnames in subsequence(&["a.b", "*.a.b", "*.b", "b", "x.a.b", "*.x.y.b"][..], 1..4),
            labels in prop::collection::vec(select(&["a", "b", "x", "y", "A"][..]), 1..5),
            end in select(&["", ".", ":80", ".:80"][..]),
        ) {
            let host = format!("{}{end}", labels.join("."));
            let scope = read_scope(&json!({ "hostnames": hostnames.clone() })).unwrap();
            let facts = Facts { method: b"GET", host: host.as_bytes(), path: b"/", ..Facts::default() };
            let is_routed = routes_of(&hostnames).find(&facts).unwrap().is_some();
            prop_assert_eq!(scope.fits_host(&RequestHost::read(host.as_bytes()).unwrap()), is_routed, "{}", host);
        }
    }
}
