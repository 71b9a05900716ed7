//! The files, read.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use tidegate_stack::programs::repository;

/// Folders whose every `.yaml` is a manifest, or a part of one.
const FOLDERS: [&str; 3] = ["deploy/kubernetes", "envoy/istio", "envoy/envoy-gateway"];

/// The documents of a text in YAML.
pub fn documents(text: &str) -> Result<Vec<Value>, yaml_serde::Error> {
    let mut documents = Vec::new();
    for document in yaml_serde::Deserializer::from_str(text) {
        let document = Value::deserialize(document)?;
        if !document.is_null() {
            documents.push(document);
        }
    }
    Ok(documents)
}

/// The only document of a file.
pub fn one(path: &str) -> Value {
    let text = fs::read_to_string(repository().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    let mut documents = documents(&text).unwrap_or_else(|error| panic!("{path}: {error}"));
    assert_eq!(documents.len(), 1, "{path}");
    documents.remove(0)
}

/// All files of the manifests.
pub fn all() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = FOLDERS.iter().map(|folder| repository().join(folder)).collect();
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "yaml") {
                files.push(path);
            }
        }
    }
    files
}

#[test]
fn every_file_is_yaml_and_holds_something() {
    let files = all();
    assert!(files.len() > 30, "{files:?}");
    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        let documents = documents(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(!documents.is_empty(), "{}", path.display());
    }
}

/// A release has its own tag, and nobody's registry but that of whoever deploys it.
#[test]
fn every_image_is_of_this_version_and_of_a_registry_to_be_filled_in() {
    let mut images = 0;
    for path in all() {
        let text = fs::read_to_string(&path).unwrap();
        for image in text.split("ghcr.io/").skip(1) {
            images += 1;
            assert!(image.starts_with("OWNER/tidegate-"), "{}: {image}", path.display());
            let rest = image.split('\n').next().unwrap();
            assert!(rest.contains(env!("CARGO_PKG_VERSION")), "{}: {rest}", path.display());
        }
    }
    assert!(images >= 6, "{images}");
}

/// What stands at `a.b.0.c` of a document; a panic names it if there is nothing.
pub fn at<'v>(value: &'v Value, path: &str) -> &'v Value {
    let pointer = format!("/{}", path.replace('.', "/"));
    value.pointer(&pointer).unwrap_or_else(|| panic!("no {path} in {value}"))
}

/// A text of a document.
pub fn text<'v>(value: &'v Value, path: &str) -> &'v str {
    at(value, path).as_str().unwrap_or_else(|| panic!("{path} is no text in {value}"))
}

/// Whether there is such a program on the `PATH`.
pub fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| Path::new(&dir).join(program).is_file())
}
