//! Callbacks of Envoy's that proxy-wasm's dispatcher traps on, and what stands in front of
//! them in the module that ships (`src/host/guards.rs`). That they trap without it is shown
//! there. Envoy makes them rarely, so the module is rewritten to make them itself.

use std::time::Duration;

use anyhow::Result;
use tidegate_stack::http::Request;
use tidegate_stack::load::Load;
use tidegate_stack::{Options, Stack};
use walrus::ir::{BinaryOp, Value};
use walrus::{FunctionBuilder, Module, ValType};

use crate::rewritten_module::{exported, replace, rewritten};

/// Whenever a request's context is deleted, Envoy seems to go on as if it were not: to show
/// it response headers, to log it, and to have a message for it as for a root.
fn go_on_after_the_end(module: &mut Module) -> Result<()> {
    let [delete, log, queue, response] =
        ["proxy_on_delete", "proxy_on_log", "proxy_on_queue_ready", "proxy_on_response_headers"]
            .map(|name| exported(module, name));
    let context = module.locals.add(ValType::I32);
    let mut builder = FunctionBuilder::new(&mut module.types, &[ValType::I32], &[]);
    builder
        .func_body()
        .local_get(context)
        .call(delete?)
        .local_get(context)
        .const_(Value::I32(3))
        .const_(Value::I32(1))
        .call(response?)
        .drop()
        .local_get(context)
        .call(log?)
        .local_get(context)
        .const_(Value::I32(1))
        .call(queue?);
    let wrapper = builder.finish(vec![context], &mut module.funcs);
    replace(module, "proxy_on_delete", wrapper);
    Ok(())
}

/// What a request's headers get without the guard: 1, `Action::Pause`, for 4.
pub fn pause_the_headers_only(module: &mut Module) -> Result<()> {
    let name = "proxy_on_request_headers";
    let original = exported(module, name)?;
    let locals = [(); 3].map(|()| module.locals.add(ValType::I32));
    let mut builder = FunctionBuilder::new(&mut module.types, &[ValType::I32; 3], &[ValType::I32]);
    builder
        .func_body()
        .local_get(locals[0])
        .local_get(locals[1])
        .local_get(locals[2])
        .call(original)
        .const_(Value::I32(0))
        .binop(BinaryOp::I32Ne);
    let wrapper = builder.finish(locals.to_vec(), &mut module.funcs);
    replace(module, name, wrapper);
    Ok(())
}

#[test]
fn callbacks_for_contexts_that_are_gone_are_nobodys() {
    let mut options = Options::for_test("guards").unwrap();
    options.programs.wasm = rewritten(&options.programs.wasm, &options.dir, go_on_after_the_end).unwrap();
    let stack = Stack::start_serving(options).unwrap();
    let get = |_| Request::get("/").from("192.0.2.14");
    let tally = Load::start(stack.gate(), 8, Some(500), get).finish();
    assert_eq!(tally.status(200), 500, "{tally:?}");
    let whole = stack.recorded(Duration::from_secs(30)).unwrap();
    assert!(whole.is_whole(), "{whole:?}");
    let log = std::fs::read(stack.log("envoy")).unwrap();
    assert!(!String::from_utf8_lossy(&log).contains("proxy_on_delete failed"), "a VM trapped");
}
