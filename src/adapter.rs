//! The module's exports: which callback of Envoy's is which of ours. Nothing is
//! decided here.
//!
//! The ABI is proxy-wasm 0.2.1. What is not exported Envoy does not call: bodies and
//! trailers pass without waking the VM.

use std::rc::Rc;

use crate::contexts::{Calls, ContextId, Contexts};
use crate::host::envoy::{Envoy, enter};
use crate::http_context::{Flow, RequestContext};
use crate::root::Root;

thread_local! {
    static CONTEXTS: Contexts<Envoy> = {
        let calls = Rc::new(Calls::default());
        Contexts::new(Envoy::new(calls.clone()), calls)
    };
}

/// `proxy_action_t`.
const CONTINUE: u32 = 0;
/// Envoy's `StopAllIterationAndWatermark`, which the ABI's own 1 becomes by default.
/// Where the plugin has `allow_on_headers_stop_iteration`, 1 stops the headers only, and
/// a body that arrives lets them go on undecided.
const STOP: u32 = 4;

unsafe extern "C" {
    fn __wasm_call_ctors();
}

/// Envoy calls it first. Without it the linker would have each export call the
/// constructors.
#[unsafe(no_mangle)]
extern "C" fn _initialize() {
    // SAFETY: the linker makes it, and nobody else calls it.
    unsafe { __wasm_call_ctors() }
}

/// Says which ABI this is, by its name.
#[unsafe(no_mangle)]
extern "C" fn proxy_abi_version_0_2_1() {}

/// Memory for bytes that Envoy hands over: a boxed slice, which the call that they
/// are the answer to takes over (`host/envoy/abi.rs`).
#[unsafe(no_mangle)]
extern "C" fn proxy_on_memory_allocate(len: usize) -> *mut u8 {
    Box::into_raw(Box::<[u8]>::new_uninit_slice(len)).cast()
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_context_create(id: ContextId, root: ContextId) {
    CONTEXTS.with(|contexts| contexts.create(id, root));
}

/// One that is not there takes no configuration.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_configure(root: ContextId, _len: usize) -> u32 {
    CONTEXTS.with(|contexts| u32::from(contexts.root(root, Root::on_configure).unwrap_or(false)))
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_tick(root: ContextId) {
    CONTEXTS.with(|contexts| contexts.root(root, Root::on_tick));
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_queue_ready(root: ContextId, queue: u32) {
    CONTEXTS.with(|contexts| contexts.root(root, |root| root.on_queue_ready(queue)));
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_http_call_response(
    _root: ContextId,
    token: u32,
    headers: usize,
    _body: usize,
    _trailers: usize,
) {
    CONTEXTS.with(|contexts| contexts.on_call_response(token, headers, enter));
}

/// A request without a context does not pass.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_headers(id: ContextId, _headers: usize, end: u32) -> u32 {
    let flow = CONTEXTS.with(|contexts| contexts.stream(id, |stream| stream.on_request_headers(end != 0)));
    action(flow.unwrap_or(Flow::Stop))
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_response_headers(id: ContextId, _headers: usize, end: u32) -> u32 {
    let flow = CONTEXTS.with(|contexts| contexts.stream(id, |stream| stream.on_response_headers(end != 0)));
    action(flow.unwrap_or(Flow::Continue))
}

/// Nothing of ours lives on after it: always done.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_done(id: ContextId) -> u32 {
    CONTEXTS.with(|contexts| contexts.done(id));
    1
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_log(id: ContextId) {
    CONTEXTS.with(|contexts| contexts.stream(id, RequestContext::on_log));
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_delete(id: ContextId) {
    CONTEXTS.with(|contexts| contexts.delete(id));
}

fn action(flow: Flow) -> u32 {
    match flow {
        Flow::Continue => CONTINUE,
        Flow::Stop => STOP,
    }
}
