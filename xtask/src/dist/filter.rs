//! The filter as it ships: built, and rid of what Envoy never calls.
//!
//! The SDK exports every callback of the ABI, and an export keeps its function and
//! all that this one needs. V8 compiles all of a module when it is loaded, so what
//! is not called costs start-up time.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use tidegate_stack::programs::repository;
use walrus::{ExportItem, Module, ModuleConfig};

use crate::command::{cargo, execute, target_dir};
use crate::install;

use super::paths;

/// Exports that stay: what the host asks for, and the callbacks that the filter
/// implements.
const KEPT: [&str; 15] = [
    "memory",
    "_initialize",
    "proxy_abi_version_0_2_1",
    "proxy_on_memory_allocate",
    "proxy_on_vm_start",
    "proxy_on_configure",
    "proxy_on_context_create",
    "proxy_on_tick",
    "proxy_on_queue_ready",
    "proxy_on_http_call_response",
    "proxy_on_request_headers",
    "proxy_on_response_headers",
    "proxy_on_done",
    "proxy_on_log",
    "proxy_on_delete",
];

/// Exports of the SDK that go, each with the trait methods that would need it: if
/// the filter implements one of those, dropping the export would silence it.
const DROPPED: [(&str, &[&str]); 15] = [
    ("proxy_on_new_connection", &["on_new_connection"]),
    ("proxy_on_downstream_data", &["on_downstream_data"]),
    ("proxy_on_downstream_connection_close", &["on_downstream_close"]),
    ("proxy_on_upstream_data", &["on_upstream_data"]),
    ("proxy_on_upstream_connection_close", &["on_upstream_close"]),
    ("proxy_on_request_body", &["on_http_request_body"]),
    ("proxy_on_request_trailers", &["on_http_request_trailers"]),
    ("proxy_on_response_body", &["on_http_response_body"]),
    ("proxy_on_response_trailers", &["on_http_response_trailers"]),
    ("proxy_on_grpc_receive_initial_metadata", &["on_grpc_stream_initial_metadata"]),
    ("proxy_on_grpc_receive", &["on_grpc_call_response", "on_grpc_stream_message"]),
    ("proxy_on_grpc_receive_trailing_metadata", &["on_grpc_stream_trailing_metadata"]),
    ("proxy_on_grpc_close", &["on_grpc_call_response", "on_grpc_stream_close"]),
    ("proxy_on_foreign_function", &["on_foreign_function"]),
    ("main", &[]),
];

/// A stripped module.
pub struct Dist {
    /// Where it is.
    pub path: PathBuf,
    /// Bytes as the compiler made it.
    pub before: usize,
}

/// Builds and strips; the result is written only when it changed.
pub fn build() -> Result<Dist> {
    check_source()?;
    let target = install::WASM_TARGET;
    let mut build = cargo(&["build", "-p", "tidegate", "--lib", "--target", target, "--profile", "filter"]);
    execute(build.env("CARGO_ENCODED_RUSTFLAGS", paths::flags(target)?))?;
    let built = target_dir()?.join(install::WASM_TARGET).join("filter/tidegate.wasm");
    let bytes = std::fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    let stripped = strip(&bytes)?;
    let path = repository().join("target/dist/tidegate.wasm");
    if std::fs::read(&path).ok().as_deref() != Some(&stripped) {
        std::fs::create_dir_all(repository().join("target/dist"))?;
        // Moved into place: a running Envoy may be reading the old one.
        let new = path.with_extension("new");
        std::fs::write(&new, &stripped)?;
        std::fs::rename(&new, &path)?;
    }
    Ok(Dist { path, before: bytes.len() })
}

/// Fails if the filter implements a callback whose export is dropped.
fn check_source() -> Result<()> {
    let mut folders = vec![repository().join("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path)?;
                for (export, methods) in DROPPED {
                    if let Some(method) =
                        methods.iter().find(|method| text.contains(&format!("fn {method}(")))
                    {
                        bail!(
                            "{} implements {method}: move {export} to KEPT in xtask/src/dist/filter.rs",
                            path.display()
                        );
                    }
                }
            }
        }
    }
    Ok(())
}

/// Drops the exports that nobody calls, what only they needed, and every custom
/// section (names, producers, target features).
fn strip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut config = ModuleConfig::new();
    config.generate_name_section(false).generate_producers_section(false);
    let mut module = config.parse(bytes).context("the filter is not a module that can be read")?;
    let exports: Vec<_> = module.exports.iter().map(|export| (export.id(), export.name.clone())).collect();
    for (id, name) in exports {
        if KEPT.contains(&name.as_str()) {
            continue;
        }
        ensure!(
            DROPPED.iter().any(|(dropped, _)| *dropped == name) || !is_function(&module, id),
            "the filter exports {name}, which is neither in KEPT nor in DROPPED of xtask/src/dist/filter.rs"
        );
        module.exports.delete(id);
    }
    for name in KEPT {
        ensure!(module.exports.iter().any(|export| export.name == name), "the filter does not export {name}");
    }
    let custom: Vec<_> = module.customs.iter().map(|(id, _)| id).collect();
    for id in custom {
        module.customs.delete(id);
    }
    walrus::passes::gc::run(&mut module);
    Ok(module.emit_wasm())
}

fn is_function(module: &Module, id: walrus::ExportId) -> bool {
    matches!(module.exports.get(id).item, ExportItem::Function(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A module that exports these functions, after `imports` and before `extra`.
    fn module(exports: &[&str], imports: &str, extra: &str) -> Vec<u8> {
        let functions: String = exports
            .iter()
            .filter(|name| **name != "memory")
            .map(|name| format!("(func (export \"{name}\") nop)"))
            .collect();
        wat::parse_str(format!("(module {imports} (memory (export \"memory\") 1) {functions} {extra})"))
            .unwrap()
    }

    #[test]
    fn what_nobody_calls_goes_with_all_it_needs() {
        let import = "(import \"env\" \"needed_by_body\" (func $needed))";
        let body = "(func (export \"proxy_on_request_body\") call $needed)";
        let stripped = Module::from_buffer(&strip(&module(&KEPT, import, body)).unwrap()).unwrap();
        assert_eq!(stripped.imports.iter().count(), 0, "only what was dropped needed it");
        assert_eq!(stripped.exports.iter().count(), KEPT.len());
    }

    #[test]
    fn an_export_that_nobody_knows_is_an_error() {
        let said =
            strip(&module(&KEPT, "", "(func (export \"proxy_on_new_thing\") nop)")).unwrap_err().to_string();
        assert!(said.contains("proxy_on_new_thing"), "{said}");
    }

    #[test]
    fn a_callback_that_is_missing_is_an_error() {
        let without: Vec<&str> = KEPT.into_iter().filter(|name| *name != "proxy_on_log").collect();
        let said = strip(&module(&without, "", "")).unwrap_err().to_string();
        assert!(said.contains("proxy_on_log"), "{said}");
    }
}
