//! The names of fields. Kubernetes drops one that it does not know, with a warning at
//! most, so a misspelt one is a setting that is not there. `fields.txt` has all that
//! were looked up in the schemas that `docs/DEPLOY.md` names.

use std::collections::BTreeSet;

use serde_json::Value;
use tidegate_stack::programs::repository;

use crate::files::{all, documents};

/// Objects whose keys are whoever's who writes them, or are read by the filter's own
/// parser, which refuses what it does not know.
const FREE: [&str; 5] = ["annotations", "config", "matchLabels", "pluginConfig", "portLevelMtls"];

/// `labels` of a container's metadata, and not a field of that name.
fn is_free(name: &str, value: &Value) -> bool {
    FREE.contains(&name) || (name == "labels" && value.is_object())
}

/// Every field below that has no fields itself, as a path without the numbers of lists.
fn fields(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Array(list) if !list.is_empty() => list.iter().for_each(|entry| fields(entry, path, found)),
        Value::Object(object) if !object.is_empty() => {
            for (name, value) in object {
                let path = format!("{path}.{name}");
                let value = if is_free(name, value) { &Value::Null } else { value };
                fields(value, &path, found);
            }
        }
        _ => {
            found.insert(path.to_owned());
        }
    }
}

/// Of all manifests, each below its kind, and below its file's name if it has none.
fn used() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for path in all() {
        for document in documents(&std::fs::read_to_string(&path).unwrap()).unwrap() {
            let file = path.file_name().unwrap().to_str().unwrap();
            let root = document["kind"].as_str().unwrap_or(file).to_owned();
            fields(&document, &root, &mut found);
        }
    }
    found
}

#[test]
fn every_field_was_looked_up() {
    let list = repository().join("tests/manifests/fields.txt");
    let known = std::fs::read_to_string(&list).unwrap();
    let known: BTreeSet<String> = known.lines().map(str::to_owned).collect();
    let used = used();
    let new: Vec<&String> = used.difference(&known).collect();
    let gone: Vec<&String> = known.difference(&used).collect();
    assert!(
        new.is_empty() && gone.is_empty(),
        "look them up in their schemas, and put them into {}: {new:#?}\nno longer used: {gone:#?}",
        list.display()
    );
}
