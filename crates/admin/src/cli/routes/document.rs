//! The canonical form in which routes are compared, shown and sent.

use serde_json::{Map, Value};
use similar::TextDiff;
use tidegate_author::{API_VERSION, DEFAULT_NAMESPACE};

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
fn without_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(without_nulls);
        }
        Value::Array(members) => members.iter_mut().for_each(without_nulls),
        _ => {}
    }
}

/// A document as YAML, its fields in the order of their names.
pub fn yaml(document: &Value) -> anyhow::Result<String> {
    Ok(yaml_serde::to_string(document)?)
}

/// What `wanted`, from `location`, would change in the route `id` that the service has: a
/// unified diff, empty without changes.
pub fn unified_diff(
    id: &str,
    held: Option<&Value>,
    location: &str,
    wanted: &Value,
) -> anyhow::Result<String> {
    let (old, new) = (held.map(yaml).transpose()?.unwrap_or_default(), yaml(wanted)?);
    let from = held.map_or_else(|| "/dev/null".to_owned(), |_| format!("{id} (the service)"));
    let to = format!("{id} ({location})");
    Ok(TextDiff::from_lines(&old, &new).unified_diff().header(&from, &to).to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use tidegate_author::strict_json::StrictValue;

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

    #[test]
    fn a_difference_names_both_sides() {
        let (old, new) = (json!({"a": 1, "b": 2}), json!({"a": 1, "b": 3}));
        assert_eq!(
            unified_diff("r", Some(&old), "r.yaml: document 1", &new).unwrap(),
            "--- r (the service)\n+++ r (r.yaml: document 1)\n@@ -1,2 +1,2 @@\n a: 1\n-b: 2\n+b: 3\n"
        );
        assert!(
            unified_diff("r", None, "-", &new)
                .unwrap()
                .starts_with("--- /dev/null\n+++ r (-)\n@@ -0,0 +1,2 @@\n")
        );
        assert_eq!(unified_diff("r", Some(&old), "-", &old).unwrap(), "");
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let text = prop_oneof![
            "[ -~]{0,12}",
            "\\PC{0,8}",
            "[ \t\n\r#:'\"|>-]{0,6}",
            prop::sample::select(vec![
                "yes", "on", "null", "~", "0x1F", "012", "1e3", ".inf", "---", "- a", "!x", "&a"
            ])
            .prop_map(str::to_owned),
        ];
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            text.prop_map(Value::from)
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[ -~]{0,6}", inner, 0..4)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn yaml_says_what_the_document_says(value in any_value()) {
            let text = yaml(&value).unwrap();
            let StrictValue(read) = yaml_serde::from_str(&text).unwrap();
            prop_assert_eq!(read, value, "{}", text);
        }
    }
}
