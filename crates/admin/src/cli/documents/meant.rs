//! Which documents among others were meant for this service, though their kind is misspelt or missing.

use serde_json::Value;
use tidegate_author as author;

use crate::manifest::{API_VERSION, Kind};

/// Letters that may be wrong, missing, too many or swapped in a kind that is still recognised.
const MAX_TYPOS: usize = 1;

/// Whether a document that is of no kind that is taken was probably meant for this service: one of its
/// `apiVersion` whose kind it does not have; one without `apiVersion`, or of the Gateway API, whose kind is a
/// known one but for a letter, or for the spelling of `kind` itself. Also a list of such without its `kind`.
pub fn is_meant_for_us(document: &Value) -> bool {
    if let Value::Array(items) = document {
        return items.iter().any(|item| item["kind"].is_string() && is_known(item) || is_meant_for_us(item));
    }
    if !document.is_object() || is_known(document) {
        return false;
    }
    let kind = field(document, "kind");
    let is_near = |known: &str| kind.is_some_and(|kind| is_nearly(kind, known));
    let route = Kind::Document(crate::store::DocumentKind::Route);
    match field(document, "apiVersion").map(group) {
        Some(version) if version == group(API_VERSION) => true,
        Some(version) if version == group(author::API_VERSION) => kind.is_none() || is_near(route.name()),
        Some(_) => false,
        None => Kind::ALL.into_iter().any(|kind| is_near(kind.name())),
    }
}

/// Whether the kind is one of this service's, or a list of one.
fn is_known(document: &Value) -> bool {
    let kind = document["kind"].as_str().unwrap_or_default();
    Kind::named(kind.strip_suffix("List").unwrap_or(kind)).is_some()
}

/// The kinds that there are, for messages.
pub fn known_kinds() -> String {
    Kind::ALL.map(Kind::name).join(", ")
}

/// The text of a field, however its name is written.
fn field<'d>(document: &'d Value, name: &str) -> Option<&'d str> {
    let fields = document.as_object()?;
    fields.iter().find(|(key, _)| key.eq_ignore_ascii_case(name))?.1.as_str()
}

/// Of `tidegate.dev/v1`: `tidegate.dev`.
fn group(api_version: &str) -> &str {
    api_version.split('/').next().unwrap_or_default()
}

fn is_nearly(kind: &str, known: &str) -> bool {
    let kind = kind.strip_suffix("List").unwrap_or(kind);
    strsim::osa_distance(&kind.to_ascii_lowercase(), &known.to_ascii_lowercase()) <= MAX_TYPOS
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_was_meant_for_this_service_is_told_from_what_is_another_programs() {
        let (ours, routes) = ("tidegate.dev/v1", "gateway.networking.k8s.io/v1");
        for meant in [
            json!({"apiVersion": ours, "kind": "GeoRuel"}),
            json!({"apiVersion": ours, "Kind": "GeoRule"}),
            json!({"apiVersion": ours}),
            json!({"apiversion": "tidegate.dev/v2", "kind": "Rule"}),
            json!({"apiVersion": ours, "kind": "GeoRulesList"}),
            json!([{"apiVersion": ours, "kind": "GeoRule"}]),
            json!({"apiVersion": routes, "kind": "HttpRoute"}),
            json!({"apiVersion": routes, "kind": "HTTPRouet"}),
            json!({"apiVersion": routes}),
            json!({"kind": "georule"}),
            json!({"Kind": "AutoBan"}),
        ] {
            assert!(is_meant_for_us(&meant), "{meant}");
        }
        for other in [
            json!({"apiVersion": routes, "kind": "TCPRoute"}),
            json!({"apiVersion": routes, "kind": "GRPCRoute"}),
            json!({"apiVersion": routes, "kind": "Gateway"}),
            json!({"apiVersion": "v1", "kind": "Pages"}),
            json!({"resources": ["routes.yaml"]}),
            json!({"kind": "Secret"}),
            json!([1, 2]),
            // Known, and not taken by a command of one kind.
            json!({"apiVersion": ours, "kind": "GeoRule"}),
            json!({"kind": "GeoRuleList"}),
        ] {
            assert!(!is_meant_for_us(&other), "{other}");
        }
    }
}
