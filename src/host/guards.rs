//! In front of eight callbacks of proxy-wasm, for what Envoy does and the crate's dispatcher
//! traps on, or has no word for. Each is an export under a name of its own; the step after
//! the link (`xtask/src/filter.rs`) gives it the callback's name and drops the
//! crate's. A module without that step works, unguarded.
//!
//! | Envoy | without the guard |
//! | --- | --- |
//! | logs a request after it deleted its context (access logs that HTTP/3 defers until the last ack) | trap |
//! | tells a VM that was loaded anew of a message for a root of the one before: numbers begin at 1 again | trap |
//! | shows a response, or more of a body, of a request whose context is deleted (headers seen with ext_proc) | trap |
//! | takes 1 (`Action::Pause`) for "stop the headers only" where the plugin has `allow_on_headers_stop_iteration`: a body that arrives lets the headers go on, undecided | a banned POST passes |
//!
//! No others: Envoy creates a root before it configures or ticks it and forgets its timer
//! when it deletes it, calls `proxy_on_done` and `proxy_on_delete` for contexts that it
//! created and once, and answers no call of a VM that is gone, nor one that it refused
//! (`source/extensions/common/wasm/context.cc`, proxy-wasm-cpp-host `src/wasm.cc`).

use proxy_wasm::types::Action;

use super::live::{ContextKind, is_live};

/// Envoy's `StopAllIterationAndWatermark`.
const STOP_ALL: u32 = 4;

// The exports of the proxy-wasm crate.
unsafe extern "C" {
    safe fn proxy_on_log(context: u32);
    safe fn proxy_on_queue_ready(root: u32, queue: u32);
    safe fn proxy_on_request_headers(context: u32, headers: usize, end: bool) -> Action;
    safe fn proxy_on_response_headers(context: u32, headers: usize, end: bool) -> Action;
    safe fn proxy_on_request_body(context: u32, bytes: usize, end: bool) -> Action;
    safe fn proxy_on_request_trailers(context: u32, trailers: usize) -> Action;
    safe fn proxy_on_response_body(context: u32, bytes: usize, end: bool) -> Action;
    safe fn proxy_on_response_trailers(context: u32, trailers: usize) -> Action;
    #[cfg(target_arch = "wasm32")]
    safe fn proxy_on_foreign_function(context: u32, function: u32, len: usize);
}

#[unsafe(no_mangle)]
extern "C" fn guarded_on_log(context: u32) {
    // A root's: of a request that no filter saw, told by the access log.
    if is_live(context, ContextKind::Http) || is_live(context, ContextKind::Root) {
        proxy_on_log(context);
    }
}

#[unsafe(no_mangle)]
extern "C" fn guarded_on_queue_ready(root: u32, queue: u32) {
    if is_live(root, ContextKind::Root) {
        proxy_on_queue_ready(root, queue);
    }
}

/// A request without a context does not pass.
#[unsafe(no_mangle)]
extern "C" fn guarded_on_request_headers(context: u32, headers: usize, end: bool) -> u32 {
    let is_live = is_live(context, ContextKind::Http);
    if is_live { status(proxy_on_request_headers(context, headers, end)) } else { STOP_ALL }
}

#[unsafe(no_mangle)]
extern "C" fn guarded_on_response_headers(context: u32, headers: usize, end: bool) -> u32 {
    let is_live = is_live(context, ContextKind::Http);
    status(if is_live { proxy_on_response_headers(context, headers, end) } else { Action::Continue })
}

#[unsafe(no_mangle)]
extern "C" fn guarded_on_request_body(context: u32, bytes: usize, end: bool) -> u32 {
    passes(context, || proxy_on_request_body(context, bytes, end))
}

#[unsafe(no_mangle)]
extern "C" fn guarded_on_request_trailers(context: u32, trailers: usize) -> u32 {
    passes(context, || proxy_on_request_trailers(context, trailers))
}

#[unsafe(no_mangle)]
extern "C" fn guarded_on_response_body(context: u32, bytes: usize, end: bool) -> u32 {
    passes(context, || proxy_on_response_body(context, bytes, end))
}

#[unsafe(no_mangle)]
extern "C" fn guarded_on_response_trailers(context: u32, trailers: usize) -> u32 {
    passes(context, || proxy_on_response_trailers(context, trailers))
}

/// What the filter only looks at goes on, whatever the callback says.
fn passes(context: u32, callback: impl FnOnce() -> Action) -> u32 {
    if is_live(context, ContextKind::Http) {
        callback();
    }
    0
}

/// The dispatcher's way to a request from another context's callback: it makes the host calls
/// that follow those of the request, and knows afterwards who made a call. Envoy itself never
/// calls this (`xtask/src/filter.rs` drops the export). Of a request that is gone the
/// dispatcher would look among the roots, one of which is in its callback: a trap.
#[cfg(target_arch = "wasm32")]
pub(super) fn notify_request(context: u32, function: u32, len: usize) {
    if is_live(context, ContextKind::Http) {
        proxy_on_foreign_function(context, function, len);
    }
}

fn status(action: Action) -> u32 {
    if action == Action::Continue { 0 } else { STOP_ALL }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::process::Command;

    use proxy_wasm::traits::{Context, HttpContext, RootContext};
    use proxy_wasm::types::ContextType;

    use super::super::live::LiveContext;
    use super::*;

    unsafe extern "C" {
        safe fn proxy_on_context_create(context: u32, root: u32);
        safe fn proxy_on_delete(context: u32);
    }

    const ROOT: u32 = 1;
    const REQUEST: u32 = 2;
    /// A number that no context has any more.
    const GONE: u32 = 3;
    /// Set in the process that does without the guard.
    const UNGUARDED: &str = "TIDEGATE_TEST_UNGUARDED";

    /// A context that pauses whatever comes.
    struct Pauses {
        id: u32,
        _live: LiveContext,
    }
    impl Context for Pauses {}
    thread_local!(static LOGGED: Cell<u32> = const { Cell::new(0) });
    impl HttpContext for Pauses {
        fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
            Action::Pause
        }

        fn on_http_response_headers(&mut self, _: usize, end: bool) -> Action {
            if end { Action::Continue } else { Action::Pause }
        }
    }
    impl RootContext for Pauses {
        fn on_log(&mut self) {
            LOGGED.set(self.id);
        }

        fn get_type(&self) -> Option<ContextType> {
            Some(ContextType::HttpContext)
        }

        fn create_http_context(&self, context: u32) -> Option<Box<dyn HttpContext>> {
            assert_eq!(self.id, ROOT);
            Some(Box::new(Pauses { id: context, _live: LiveContext::new(context, ContextKind::Http) }))
        }
    }

    /// This thread's VM has a root and a request; another request is over.
    fn contexts() {
        proxy_wasm::set_root_context(|root| {
            Box::new(Pauses { id: root, _live: LiveContext::new(root, ContextKind::Root) })
        });
        proxy_on_context_create(ROOT, 0);
        for request in [REQUEST, GONE] {
            proxy_on_context_create(request, ROOT);
        }
        proxy_on_delete(GONE);
    }

    /// The guard lives through what the crate's callback traps on: natively it aborts,
    /// which a process of its own shows. `test` is the calling test.
    fn only_the_guard_lives(test: &str, guard: impl FnOnce(), callback: impl FnOnce()) {
        contexts();
        if std::env::var_os(UNGUARDED).is_some() {
            return callback();
        }
        guard();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture", &format!("host::guards::tests::{test}")])
            .env(UNGUARDED, "")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&child.stderr);
        assert!(!child.status.success() && said.contains("invalid context_id"), "{said}");
    }

    #[test]
    fn log_of_a_context_that_is_gone() {
        let guard = || guarded_on_log(GONE);
        only_the_guard_lives("log_of_a_context_that_is_gone", guard, || proxy_on_log(GONE));
    }

    #[test]
    fn the_access_log_tells_a_root() {
        contexts();
        guarded_on_log(ROOT);
        assert_eq!(LOGGED.get(), ROOT);
    }

    #[test]
    fn message_for_a_root_that_is_not_there() {
        let guard = || [GONE, REQUEST].into_iter().for_each(|root| guarded_on_queue_ready(root, 7));
        let callback = || proxy_on_queue_ready(REQUEST, 7);
        only_the_guard_lives("message_for_a_root_that_is_not_there", guard, callback);
        guarded_on_queue_ready(ROOT, 7);
    }

    #[test]
    fn response_of_a_context_that_is_gone() {
        let guard = || assert_eq!(guarded_on_response_headers(GONE, 3, false), 0);
        let callback = || assert_ne!(proxy_on_response_headers(GONE, 3, false), Action::Pause);
        only_the_guard_lives("response_of_a_context_that_is_gone", guard, callback);
    }

    #[test]
    fn bodies_of_a_context_that_is_gone() {
        let guard = || {
            let passed = [
                guarded_on_request_body(GONE, 3, false),
                guarded_on_request_trailers(GONE, 1),
                guarded_on_response_body(GONE, 3, true),
                guarded_on_response_trailers(GONE, 1),
            ];
            assert_eq!(passed, [0; 4]);
        };
        let callback = || assert_ne!(proxy_on_response_body(GONE, 3, false), Action::Pause);
        only_the_guard_lives("bodies_of_a_context_that_is_gone", guard, callback);
        assert_eq!(guarded_on_response_body(REQUEST, 3, true), 0);
    }

    #[test]
    fn a_pause_stops_the_body_too() {
        contexts();
        assert_eq!(proxy_on_request_headers(REQUEST, 3, false) as u32, 1);
        assert_eq!(guarded_on_request_headers(REQUEST, 3, false), STOP_ALL);
        assert_eq!(guarded_on_request_headers(GONE, 3, false), STOP_ALL);
        assert_eq!(guarded_on_response_headers(REQUEST, 3, false), STOP_ALL);
        assert_eq!(guarded_on_response_headers(REQUEST, 3, true), 0);
    }
}
