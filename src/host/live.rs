//! Which contexts of this VM are alive. proxy-wasm's dispatcher traps on a number that it
//! does not know, and has no way to ask it; the guards (`guards.rs`) ask here.

use std::cell::RefCell;
use std::collections::BTreeMap;

/// What a context is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ContextKind {
    /// A plugin configuration.
    Root,
    /// A request.
    Http,
}

thread_local! {
    static LIVE: RefCell<BTreeMap<u32, ContextKind>> = const { RefCell::new(BTreeMap::new()) };
}

/// Held by a context: it is alive until this is dropped, which the dispatcher does in
/// `proxy_on_delete`.
pub struct LiveContext(u32);

impl LiveContext {
    /// The context of this number begins.
    pub fn new(context: u32, kind: ContextKind) -> Self {
        LIVE.with_borrow_mut(|live| live.insert(context, kind));
        Self(context)
    }

    /// The context's number.
    pub fn number(&self) -> u32 {
        self.0
    }
}

impl Drop for LiveContext {
    fn drop(&mut self) {
        // Natively the thread, and its statics with it, may be ending.
        let _ = LIVE.try_with(|live| live.borrow_mut().remove(&self.0));
    }
}

/// Whether there is such a context now.
pub fn is_live(context: u32, kind: ContextKind) -> bool {
    LIVE.with_borrow(|live| live.get(&context) == Some(&kind))
}
