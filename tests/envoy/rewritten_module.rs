//! The released module, rewritten so that its callbacks trap on a sign. The filter has no
//! switch for that, and must have none.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tidegate_stack::http::{Connection, Request};
use walrus::ir::{BinaryOp, Value};
use walrus::{ExportItem, FunctionBuilder, FunctionId, InstrSeqBuilder, Module, ValType};

/// A request with more header lines than this traps the VM: fewer than Envoy lets in by
/// default, and more than any other request of these tests has.
const TRAP_HEADERS: i32 = 80;

/// The function behind an export.
pub fn exported(module: &Module, name: &str) -> Result<FunctionId> {
    module
        .exports
        .iter()
        .find_map(|export| match export.item {
            ExportItem::Function(function) if export.name == name => Some(function),
            _ => None,
        })
        .with_context(|| format!("the filter does not export {name}"))
}

/// Puts `function` in the place of an export.
pub fn replace(module: &mut Module, name: &str, function: FunctionId) {
    for export in module.exports.iter_mut() {
        if export.name == name {
            export.item = ExportItem::Function(function);
        }
    }
}

pub fn trap_now(code: &mut InstrSeqBuilder<'_>) {
    code.unreachable();
}

/// `proxy_on_request_headers` traps when there are too many headers.
pub fn trap_on_headers(module: &mut Module) -> Result<()> {
    let name = "proxy_on_request_headers";
    let original = exported(module, name)?;
    let locals = [(); 3].map(|()| module.locals.add(ValType::I32));
    let mut builder = FunctionBuilder::new(&mut module.types, &[ValType::I32; 3], &[ValType::I32]);
    builder
        .func_body()
        .local_get(locals[1])
        .const_(Value::I32(TRAP_HEADERS))
        .binop(BinaryOp::I32GtU)
        .if_else(None, trap_now, |_| {})
        .local_get(locals[0])
        .local_get(locals[1])
        .local_get(locals[2])
        .call(original);
    let wrapper = builder.finish(locals.to_vec(), &mut module.funcs);
    replace(module, name, wrapper);
    Ok(())
}

/// The released module, rewritten, beside the test's other files.
pub fn rewritten(wasm: &Path, dir: &Path, rewrite: impl Fn(&mut Module) -> Result<()>) -> Result<PathBuf> {
    let mut module = Module::from_file(wasm)?;
    rewrite(&mut module)?;
    std::fs::create_dir_all(dir)?;
    let path = dir.join("trapping.wasm");
    module.emit_wasm_file(&path)?;
    Ok(path)
}

/// Traps the worker behind this connection.
pub fn trap(worker: &mut Connection) -> Result<()> {
    let mut request = Request::get("/trap");
    for at in 0..TRAP_HEADERS {
        request = request.header(&format!("x-{at}"), "v");
    }
    let answer = worker.send(&request)?;
    ensure!(answer.status == 503, "the VM did not trap: {} {}", answer.status, answer.text());
    Ok(())
}
