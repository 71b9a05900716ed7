//! Documents as YAML, and how two differ by lines.

use serde_json::Value;
use similar::TextDiff;

/// A document as YAML, its fields in the order of their names.
pub fn yaml(document: &Value) -> anyhow::Result<String> {
    Ok(yaml_serde::to_string(document)?)
}

/// What makes `wanted`, from `location`, of the document `name` that the service has: a unified diff,
/// empty without changes. `None`: it is not there, or would not be.
pub fn unified_diff(
    name: &str,
    held: Option<&Value>,
    location: &str,
    wanted: Option<&Value>,
) -> anyhow::Result<String> {
    let text = |document: Option<&Value>| {
        Ok::<_, anyhow::Error>(document.map(yaml).transpose()?.unwrap_or_default())
    };
    let (old, new) = (text(held)?, text(wanted)?);
    let side = |document: Option<&Value>, place: &str| match document {
        Some(_) => format!("{name} ({place})"),
        None => "/dev/null".to_owned(),
    };
    let (from, to) = (side(held, "the service"), side(wanted, location));
    Ok(TextDiff::from_lines(&old, &new).unified_diff().header(&from, &to).to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use tidegate_author::strict_json::StrictValue;

    #[test]
    fn a_difference_names_both_sides() {
        let (old, new) = (json!({"a": 1, "b": 2}), json!({"a": 1, "b": 3}));
        assert_eq!(
            unified_diff("r", Some(&old), "r.yaml: document 1", Some(&new)).unwrap(),
            "--- r (the service)\n+++ r (r.yaml: document 1)\n@@ -1,2 +1,2 @@\n a: 1\n-b: 2\n+b: 3\n"
        );
        assert!(
            unified_diff("r", None, "-", Some(&new))
                .unwrap()
                .starts_with("--- /dev/null\n+++ r (-)\n@@ -0,0 +1,2 @@\n")
        );
        assert_eq!(unified_diff("r", Some(&old), "-", Some(&old)).unwrap(), "");
        let removed = unified_diff("r", Some(&old), "not in the files", None).unwrap();
        assert!(removed.starts_with("--- r (the service)\n+++ /dev/null\n@@ -1,2 +0,0 @@\n"), "{removed}");
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
