//! The SDK's side: which callback of Envoy's is which of ours. Nothing is decided
//! here. The SDK's own host calls are not used; see `host/envoy.rs`.

use std::rc::Rc;

use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType};

use crate::gate::{Flow, Stream};
use crate::home::Home;
use crate::host::envoy::Envoy;
use crate::root::Root;

thread_local! {
    static HOME: Rc<Home<Envoy>> = Home::new(Envoy);
}

proxy_wasm::main! {{
    proxy_wasm::set_root_context(|context_id| {
        Box::new(RootAdapter(Root::new(HOME.with(Rc::clone), context_id)))
    });
}}

struct RootAdapter(Root<Envoy>);

impl Context for RootAdapter {
    fn on_http_call_response(&mut self, token: u32, num_headers: usize, _body: usize, _trailers: usize) {
        self.0.on_call_response(token, num_headers);
    }

    fn on_done(&mut self) -> bool {
        self.0.on_done();
        true
    }
}

impl RootContext for RootAdapter {
    fn on_configure(&mut self, _configuration_size: usize) -> bool {
        self.0.on_configure()
    }

    fn on_tick(&mut self) {
        self.0.on_tick();
    }

    fn on_queue_ready(&mut self, queue: u32) {
        self.0.on_queue_ready(queue);
    }

    fn create_http_context(&self, context_id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(StreamAdapter(self.0.stream(context_id))))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

struct StreamAdapter(Stream<Envoy>);

impl Context for StreamAdapter {
    fn on_http_call_response(&mut self, token: u32, num_headers: usize, _body: usize, _trailers: usize) {
        self.0.on_call_response(token, num_headers);
    }
}

impl HttpContext for StreamAdapter {
    fn on_http_request_headers(&mut self, _num_headers: usize, end_of_stream: bool) -> Action {
        action(self.0.on_request_headers(end_of_stream))
    }

    fn on_http_response_headers(&mut self, _num_headers: usize, end_of_stream: bool) -> Action {
        action(self.0.on_response_headers(end_of_stream))
    }

    fn on_log(&mut self) {
        self.0.on_log();
    }
}

fn action(flow: Flow) -> Action {
    match flow {
        Flow::Continue => Action::Continue,
        Flow::Stop => Action::Pause,
    }
}
