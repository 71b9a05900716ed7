//! The canonical form in which routes are compared, shown and sent.

use serde_json::{Map, Value};

use crate::document::API_VERSION;
use crate::route_id::DEFAULT_NAMESPACE;

/// Fields of a document's metadata that only Kubernetes writes.
const SET_BY_KUBERNETES: [&str; 8] = [
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "generation",
    "managedFields",
    "resourceVersion",
    "selfLink",
    "uid",
];
/// The annotation in which kubectl keeps the document as it was applied.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The valid `document` with the `apiVersion` and `kind` of routes, and without the namespace `default`,
/// nulls, and what Kubernetes writes, so that documents of equal meaning are equal.
#[must_use]
pub fn canonical(mut document: Value) -> Value {
    let Value::Object(fields) = &mut document else { return document };
    fields.remove("status");
    if let Some(Value::Object(metadata)) = fields.get_mut("metadata") {
        metadata.retain(|name, value| match name.as_str() {
            "namespace" => value != DEFAULT_NAMESPACE,
            name => !SET_BY_KUBERNETES.contains(&name),
        });
        without_last_applied(metadata);
    }
    without_nulls(&mut document);
    if let Value::Object(fields) = &mut document {
        fields.insert("apiVersion".to_owned(), API_VERSION.into());
        fields.insert("kind".to_owned(), "HTTPRoute".into());
    }
    document
}

fn without_last_applied(metadata: &mut Map<String, Value>) {
    let Some(Value::Object(annotations)) = metadata.get_mut("annotations") else { return };
    if annotations.remove(LAST_APPLIED).is_some() && annotations.is_empty() {
        metadata.remove("annotations");
    }
}

/// Removes null fields, which mean absent ones; a null in a list stays, because it has a
/// position.
pub fn without_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(without_nulls);
        }
        Value::Array(members) => members.iter_mut().for_each(without_nulls),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_only_kubernetes_writes_makes_no_difference() {
        let spec = json!({"rules": [{"backendRefs": [{"name": "demo", "weight": 1}]}]});
        let plain = json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"name": "a", "labels": {"team": "x"}}, "spec": spec,
        });
        let of_a_cluster = json!({
            "kind": "HTTPRoute",
            "metadata": {
                "name": "a", "namespace": "default", "labels": {"team": "x"}, "uid": "1", "resourceVersion": "7", "generation": 2,
                "creationTimestamp": null, "managedFields": [{}], "annotations": {LAST_APPLIED: "{}"},
            },
            "spec": {"hostnames": null, "rules": spec["rules"]},
            "status": {"parents": []},
        });
        assert_eq!(canonical(of_a_cluster), plain);
        assert_eq!(canonical(plain.clone()), plain);
        let annotated = json!({"annotations": {"mine": "x"}, "name": "a"});
        let mut other = plain.clone();
        other["metadata"] = annotated.clone();
        assert_eq!(canonical(other)["metadata"], annotated);
        assert_eq!(canonical(json!([null, 5])), json!([null, 5]));
    }
}
