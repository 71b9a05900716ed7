//! What a program is made of: a list in CycloneDX's JSON, 1.6, out of what cargo
//! resolves. Without a serial number and a time, which are optional, so that the same
//! sources give the same bytes.
//!
//! It lists crates. It does not list Rust's standard library, and not SQLite, whose
//! source is a part of the crate `libsqlite3-sys`.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::command::cargo;
use crate::install::WASM_TARGET;

/// A program that ships, and how it is built.
pub struct Subject {
    /// Its package.
    package: &'static str,
    /// All packages of the command that builds it: features are those that any of
    /// them needs.
    built_with: &'static [&'static str],
    /// What it is built for; `None`: this machine.
    target: Option<&'static str>,
    description: &'static str,
}

/// `tidegate.wasm`.
pub const FILTER: Subject = Subject {
    package: "tidegate",
    built_with: &["tidegate"],
    target: Some(WASM_TARGET),
    description: "The proxy-wasm filter of Tidegate",
};

/// `tidegate`.
pub const SERVICE: Subject = Subject {
    package: "tidegate-admin",
    built_with: &["tidegate-admin", "tidegate-stack"],
    target: None,
    description: "The admin service of Tidegate",
};

/// A crate as cargo shows it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Crate {
    name: String,
    version: String,
    license: String,
    /// Of this repository, and not of a registry.
    own: bool,
}

/// The list, with a line feed at its end.
pub fn of(subject: &Subject, version: &str) -> Result<Vec<u8>> {
    let mut command = cargo(&["tree", "--locked", "--prefix", "depth", "--no-dedupe"]);
    // What is linked: no build scripts' dependencies, no macros.
    command.args(["--edges", "normal,no-proc-macro", "--format", "\t{p}\t{l}"]);
    for package in subject.built_with {
        command.args(["--package", package]);
    }
    if let Some(target) = subject.target {
        command.args(["--target", target]);
    }
    let output = command.output().context("cannot run cargo tree")?;
    ensure!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    let crates = crates(&String::from_utf8(output.stdout)?, subject.package)?;
    let mut bytes = serde_json::to_vec_pretty(&document(subject, version, &crates))?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// All crates below this package, out of lines `DEPTH\tNAME vVERSION (...)\tLICENSE`.
fn crates(tree: &str, package: &str) -> Result<BTreeSet<Crate>> {
    let mut found = BTreeSet::new();
    let mut inside = false;
    for line in tree.lines().filter(|line| !line.is_empty()) {
        let mut parts = line.split('\t');
        let (Some(depth), Some(named), Some(license)) = (parts.next(), parts.next(), parts.next()) else {
            anyhow::bail!("cargo tree says {line:?}");
        };
        let mut words = named.split(' ');
        let name = words.next().unwrap_or_default();
        let version = words.next().and_then(|word| word.strip_prefix('v')).context("no version")?;
        if depth == "0" {
            inside = name == package;
        } else if inside {
            found.insert(Crate {
                name: name.to_owned(),
                version: version.to_owned(),
                // As it was written before cargo took expressions.
                license: license.replace('/', " OR ").replace("  ", " "),
                // A path in brackets.
                own: words.next().is_some_and(|word| word.starts_with("(/")),
            });
        }
    }
    ensure!(!found.is_empty(), "cargo tree does not show {package}");
    Ok(found)
}

fn document(subject: &Subject, version: &str, crates: &BTreeSet<Crate>) -> Value {
    let components: Vec<Value> = crates
        .iter()
        .map(|krate| {
            let mut component = json!({
                "type": "library",
                "bom-ref": format!("{}@{}", krate.name, krate.version),
                "name": krate.name,
                "version": krate.version,
            });
            if !krate.license.is_empty() {
                component["licenses"] = json!([{ "expression": krate.license }]);
            }
            if !krate.own {
                component["purl"] = json!(format!("pkg:cargo/{}@{}", krate.name, krate.version));
            }
            component
        })
        .collect();
    let mut document = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": format!("{}@{version}", subject.package),
                "name": subject.package,
                "version": version,
                "description": subject.description,
                "licenses": [{ "expression": "Apache-2.0" }],
            },
        },
        "components": components,
    });
    document.sort_all_objects();
    document
}

#[cfg(test)]
mod tests {
    use super::*;

    const TREE: &str = "0\ttidegate-admin v0.1.0 (/src/crates/admin)\tApache-2.0\n\
                        1\taxum v0.8.9\tMIT\n\
                        2\tserde v1.0.228\tMIT OR Apache-2.0\n\
                        1\ttidegate-policy v0.1.0 (/src/crates/policy)\tApache-2.0\n\
                        2\tserde v1.0.228\tMIT OR Apache-2.0\n\
                        1\told v0.1.1\tMIT/Apache-2.0\n\
                        \n\
                        0\ttidegate-stack v0.1.0 (/src/crates/stack)\tApache-2.0\n\
                        1\tonly-of-tests v1.0.0\tMIT\n";

    #[test]
    fn each_crate_is_listed_once_and_those_of_other_packages_are_not() {
        let crates = crates(TREE, "tidegate-admin").unwrap();
        let names: Vec<&str> = crates.iter().map(|krate| krate.name.as_str()).collect();
        assert_eq!(names, ["axum", "old", "serde", "tidegate-policy"]);
        let document = document(&SERVICE, "0.1.0", &crates);
        let component = |at: usize| &document["components"][at];
        assert_eq!(component(1)["licenses"][0]["expression"], "MIT OR Apache-2.0");
        assert_eq!(component(2)["purl"], "pkg:cargo/serde@1.0.228");
        assert_eq!(component(3).get("purl"), None, "no registry has it");
    }

    #[test]
    fn a_package_that_is_not_there_is_an_error() {
        assert!(crates(TREE, "nobody").is_err());
    }
}
