//! The least that a filter made with the proxy-wasm SDK is: every callback is
//! called, and does nothing. `cargo xtask bench gate` measures what that costs, and
//! tests set it beside the gate.
#![cfg(target_arch = "wasm32")]
#![expect(missing_docs, reason = "the SDK's macro writes a function without")]

use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::ContextType;

proxy_wasm::main! {{
    proxy_wasm::set_root_context(|_| Box::new(Nothing));
}}

struct Nothing;

impl Context for Nothing {}

impl RootContext for Nothing {
    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, _: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Nothing))
    }
}

impl HttpContext for Nothing {}
