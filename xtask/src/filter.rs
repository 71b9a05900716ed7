//! The filter as it ships: built, guarded, and rid of what Envoy need not call.
//!
//! proxy-wasm exports every callback that there is, and Envoy calls every one that it
//! finds, each some 0.1 us: those that the filter does not implement go. In front of eight
//! of the others stand guards (`src/host/guards.rs`), which get the callbacks' names here.
//! V8 compiles all of a module when it is loaded, so what nobody calls any more goes too.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use tidegate_stack::programs::repository;
use walrus::{ExportItem, ModuleConfig};

use crate::command::{cargo, execute, target_dir};
use crate::{install, remap};

/// What the module exports, neither more nor less: what the host asks for, and the
/// callbacks that the contexts implement.
const EXPORTS: [&str; 18] = [
    "memory",
    "_initialize",
    "proxy_abi_version_0_2_1",
    "proxy_on_memory_allocate",
    "proxy_on_configure",
    "proxy_on_context_create",
    "proxy_on_tick",
    "proxy_on_queue_ready",
    "proxy_on_http_call_response",
    "proxy_on_request_headers",
    "proxy_on_request_body",
    "proxy_on_request_trailers",
    "proxy_on_response_headers",
    "proxy_on_response_body",
    "proxy_on_response_trailers",
    "proxy_on_done",
    "proxy_on_log",
    "proxy_on_delete",
];

/// Exports that take the place of others: the guard, and the callback that it guards.
const GUARDS: [(&str, &str); 8] = [
    ("guarded_on_queue_ready", "proxy_on_queue_ready"),
    ("guarded_on_request_headers", "proxy_on_request_headers"),
    ("guarded_on_request_body", "proxy_on_request_body"),
    ("guarded_on_request_trailers", "proxy_on_request_trailers"),
    ("guarded_on_response_headers", "proxy_on_response_headers"),
    ("guarded_on_response_body", "proxy_on_response_body"),
    ("guarded_on_response_trailers", "proxy_on_response_trailers"),
    ("guarded_on_log", "proxy_on_log"),
];

/// proxy-wasm's callbacks that the contexts do not implement. A callback that is in no
/// list is an error: a new version of the crate may have some.
const UNUSED: [&str; 11] = [
    "proxy_on_vm_start",
    "proxy_on_new_connection",
    "proxy_on_downstream_data",
    "proxy_on_downstream_connection_close",
    "proxy_on_upstream_data",
    "proxy_on_upstream_connection_close",
    "proxy_on_grpc_receive_initial_metadata",
    "proxy_on_grpc_receive",
    "proxy_on_grpc_receive_trailing_metadata",
    "proxy_on_grpc_close",
    "proxy_on_foreign_function",
];

/// What LLVM may copy into its callers. The filter is built for speed (`opt-level = 3`), but with
/// LLVM's own thresholds, 250, and 325 for what is marked inline, it was 486,289 bytes instead of
/// 447,903 and no faster. Optimized for size (`opt-level = "s"`, LLVM's own thresholds) it was
/// 457,441, and a request cost Envoy some 10 us more of processor time. (Before the filter had the
/// proxy-wasm crate; the builds side by side as the cases of `cargo xtask bench gate`, on a busy
/// machine where a request cost 94 to 118 us. In 12 and in 20 rounds the two for speed were 0.0
/// and 1.0 us apart, and one build 8.1 and 1.1 us from itself.)
const INLINING: [&str; 2] = ["-Cllvm-args=-inline-threshold=100", "-Cllvm-args=-inlinehint-threshold=150"];

/// A stripped module.
pub struct Dist {
    /// Where it is.
    pub path: PathBuf,
    /// Bytes as the compiler made it.
    pub before: usize,
}

/// Builds and strips; the result is written only when it changed.
pub fn build() -> Result<Dist> {
    let target = install::WASM_TARGET;
    let mut build = cargo(&["build", "-p", "tidegate", "--lib", "--target", target, "--profile", "filter"]);
    let flags = [&[remap::flags(target)?], INLINING.map(str::to_owned).as_slice()].concat();
    execute(build.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f")))?;
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

/// Sets the guards, drops unused callbacks, exports that are no function and every custom
/// section (names, producers, target features).
fn strip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut config = ModuleConfig::new();
    config.generate_name_section(false).generate_producers_section(false);
    let mut module = config.parse(bytes).context("the filter is not a module that can be read")?;
    for (guard, callback) in GUARDS {
        module.exports.remove(callback).with_context(|| format!("the filter does not export {callback}"))?;
        let guard = module.exports.get_func(guard).with_context(|| format!("there is no {guard}"))?;
        module.exports.add(callback, guard);
    }
    let dropped = |name: &str| UNUSED.contains(&name) || GUARDS.iter().any(|(guard, _)| *guard == name);
    let exports: Vec<_> = module.exports.iter().map(|export| (export.id(), export.name.clone())).collect();
    for (id, name) in exports.into_iter().filter(|(_, name)| !EXPORTS.contains(&name.as_str())) {
        ensure!(
            dropped(&name) || !matches!(module.exports.get(id).item, ExportItem::Function(_)),
            "the filter exports {name}, which xtask/src/filter.rs does not know"
        );
        module.exports.delete(id);
    }
    for name in EXPORTS {
        ensure!(module.exports.iter().any(|export| export.name == name), "the filter does not export {name}");
    }
    let custom: Vec<_> = module.customs.iter().map(|(id, _)| id).collect();
    for id in custom {
        module.customs.delete(id);
    }
    walrus::passes::gc::run(&mut module);
    Ok(module.emit_wasm())
}

#[cfg(test)]
mod tests {
    use super::*;
    use walrus::Module;
    use walrus::ir::{Const, Instr, Value};

    /// A module that exports these functions and the guards, and has `extra`. The body of
    /// each is its name's length.
    fn module(exports: &[&str], extra: &str) -> Vec<u8> {
        let guards = GUARDS.iter().map(|(guard, _)| guard);
        let functions: String = exports
            .iter()
            .chain(guards)
            .filter(|name| **name != "memory")
            .map(|name| format!("(func (export \"{name}\") (drop (i32.const {})))", name.len()))
            .collect();
        wat::parse_str(format!("(module (memory (export \"memory\") 1) {functions} {extra})")).unwrap()
    }

    /// The number in the body of an exported function.
    fn body(module: &Module, export: &str) -> i32 {
        let function = module.funcs.get(module.exports.get_func(export).unwrap()).kind.unwrap_local();
        match &function.block(function.entry_block()).instrs[0].0 {
            Instr::Const(Const { value: Value::I32(number) }) => *number,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn guards_take_the_names_of_what_they_guard() {
        let guarded = Module::from_buffer(&strip(&module(&EXPORTS, "")).unwrap()).unwrap();
        for (guard, callback) in GUARDS {
            assert_eq!(body(&guarded, callback), guard.len() as i32);
        }
        assert_eq!(body(&guarded, "proxy_on_tick"), "proxy_on_tick".len() as i32);
    }

    #[test]
    fn what_is_no_callback_of_ours_goes() {
        let extra = "(global $end (export \"__heap_base\") i32 (i32.const 8)) (@custom \"notes\" \"here\") \
                     (func (export \"proxy_on_grpc_close\") nop)";
        let stripped = Module::from_buffer(&strip(&module(&EXPORTS, extra)).unwrap()).unwrap();
        assert_eq!(stripped.exports.iter().count(), EXPORTS.len());
        assert_eq!(stripped.globals.iter().count(), 0);
        assert_eq!(stripped.customs.iter().count(), 0);
    }

    #[test]
    fn an_export_that_nobody_knows_is_an_error() {
        let said =
            strip(&module(&EXPORTS, "(func (export \"proxy_on_new_thing\") nop)")).unwrap_err().to_string();
        assert!(said.contains("proxy_on_new_thing"), "{said}");
    }

    #[test]
    fn a_callback_that_is_missing_is_an_error() {
        let without: Vec<&str> = EXPORTS.into_iter().filter(|name| *name != "proxy_on_log").collect();
        let said = strip(&module(&without, "")).unwrap_err().to_string();
        assert!(said.contains("proxy_on_log"), "{said}");
    }
}
