//! The contexts of a VM, by the numbers that Envoy gives them, and which of them a
//! callback is for.
//!
//! A number that nobody has is no reason to trap: Envoy may tell of a request after it
//! deleted it (a log that HTTP/3 defers), and answers calls of requests that are gone.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::host::{CallToken, Host};
use crate::http_context::RequestContext;
use crate::root::Root;
use crate::worker::Worker;

/// A context's number, unique within a VM and never given again.
pub type ContextId = u32;

/// Values by numbers that grow: sorted, and what is new stands at the end, where what
/// does not last long is taken out again without moving much.
struct Numbered<T>(Vec<(u32, T)>);

impl<T> Numbered<T> {
    fn at(&self, number: u32) -> Result<usize, usize> {
        self.0.binary_search_by_key(&number, |(other, _)| *other)
    }

    fn insert(&mut self, number: u32, value: T) {
        match self.at(number) {
            Ok(at) => {
                if let Some((_, old)) = self.0.get_mut(at) {
                    *old = value;
                }
            }
            Err(at) => self.0.insert(at, (number, value)),
        }
    }

    fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        let at = self.at(number).ok()?;
        self.0.get_mut(at).map(|(_, value)| value)
    }

    fn remove(&mut self, number: u32) -> Option<T> {
        let at = self.at(number).ok()?;
        Some(self.0.remove(at).1)
    }
}

impl<T> Default for Numbered<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

/// Who made which call. Envoy answers all of them at the root.
#[derive(Default)]
pub struct Calls {
    /// Whose callback runs.
    caller: Cell<ContextId>,
    made: RefCell<Numbered<ContextId>>,
}

impl Calls {
    /// The context whose callback runs has made this call.
    pub fn made(&self, token: CallToken) {
        self.made.borrow_mut().insert(token, self.caller.get());
    }

    /// Who made this call; it is answered, and forgotten.
    fn take(&self, token: CallToken) -> Option<ContextId> {
        self.made.borrow_mut().remove(token)
    }
}

/// Roots and requests. No callback runs within another: what one asks of Envoy,
/// Envoy does when it is over.
pub struct Contexts<H: Host> {
    home: Rc<Worker<H>>,
    calls: Rc<Calls>,
    roots: RefCell<Numbered<Root<H>>>,
    streams: RefCell<Numbered<Box<RequestContext<H>>>>,
}

impl<H: Host> Contexts<H> {
    /// A VM without contexts. `host` reports the calls that it makes to `calls`.
    pub fn new(host: H, calls: Rc<Calls>) -> Self {
        Self { home: Worker::new(host), calls, roots: RefCell::default(), streams: RefCell::default() }
    }

    /// A root (whose own root is 0), or a request of a root. One of a root that is not
    /// there is one of a gate without configuration, which nothing passes.
    pub fn create(&self, id: ContextId, root: ContextId) {
        if root == 0 {
            self.roots.borrow_mut().insert(id, Root::new(self.home.clone(), id));
            return;
        }
        let stream = self.root(root, |root| Root::stream(root));
        let stream = stream.unwrap_or_else(|| RequestContext::new(self.home.host().clone(), None));
        self.streams.borrow_mut().insert(id, Box::new(stream));
    }

    /// Runs a root's callback, if there is such a root.
    pub fn root<T>(&self, id: ContextId, callback: impl FnOnce(&mut Root<H>) -> T) -> Option<T> {
        let mut roots = self.roots.borrow_mut();
        let root = roots.get_mut(id)?;
        self.calls.caller.set(id);
        Some(callback(root))
    }

    /// Runs a request's callback, if there is such a request.
    pub fn stream<T>(&self, id: ContextId, callback: impl FnOnce(&mut RequestContext<H>) -> T) -> Option<T> {
        let mut streams = self.streams.borrow_mut();
        let stream = streams.get_mut(id)?;
        self.calls.caller.set(id);
        Some(callback(stream))
    }

    /// A call was answered, or failed (`num_headers` is zero). `enter` makes what the
    /// host is asked next be about the context that made the call.
    pub fn on_call_response(&self, token: CallToken, num_headers: usize, enter: impl Fn(ContextId)) {
        let Some(id) = self.calls.take(token) else { return };
        let stream = self.stream(id, |stream| {
            enter(id);
            stream.on_call_response(token, num_headers);
        });
        if stream.is_none() {
            self.root(id, |root| {
                enter(id);
                root.on_call_response(token, num_headers);
            });
        }
    }

    /// The context ends; [`delete`](Self::delete) follows.
    pub fn done(&self, id: ContextId) {
        if self.stream(id, RequestContext::on_done).is_none() {
            self.root(id, Root::on_done);
        }
    }

    /// The context is gone.
    pub fn delete(&self, id: ContextId) {
        let stream = self.streams.borrow_mut().remove(id);
        if stream.is_none() {
            self.roots.borrow_mut().remove(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::{Done, Fake};
    use crate::http_context::Flow;

    const ROOT: ContextId = 1;
    const STREAM: ContextId = 2;

    fn contexts(host: &Fake) -> (Rc<Calls>, Contexts<Fake>) {
        let calls = Rc::new(Calls::default());
        let contexts = Contexts::new(host.clone(), calls.clone());
        contexts.create(ROOT, 0);
        contexts.create(STREAM, ROOT);
        (calls, contexts)
    }

    /// Who hears of the answer to this call.
    fn hears(contexts: &Contexts<Fake>, token: CallToken) -> Option<ContextId> {
        let heard = Cell::default();
        contexts.on_call_response(token, 0, |id| assert_eq!(heard.replace(Some(id)), None));
        heard.get()
    }

    #[test]
    fn who_made_a_call_hears_of_its_answer_once() {
        let (calls, contexts) = contexts(&Fake::default());
        contexts.root(ROOT, |_| calls.made(7));
        contexts.stream(STREAM, |_| calls.made(8));
        assert_eq!(hears(&contexts, 7), Some(ROOT));
        assert_eq!(hears(&contexts, 8), Some(STREAM));
        assert_eq!(hears(&contexts, 8), None);
        assert_eq!(hears(&contexts, 9), None, "nobody made it");
    }

    #[test]
    fn an_answer_to_one_that_is_gone_reaches_nobody() {
        let (calls, contexts) = contexts(&Fake::default());
        contexts.stream(STREAM, |_| calls.made(7));
        contexts.delete(STREAM);
        assert_eq!(hears(&contexts, 7), None);
        assert_eq!(contexts.stream(STREAM, RequestContext::on_log), None);
        contexts.delete(STREAM);
        assert!(contexts.root(ROOT, |_| ()).is_some(), "the root stays");
        contexts.delete(ROOT);
        assert!(contexts.root(ROOT, |_| ()).is_none());
    }

    #[test]
    fn nothing_passes_without_a_root() {
        let host = Fake::default();
        let (_, contexts) = contexts(&host);
        contexts.create(4, 3);
        assert_eq!(contexts.stream(4, |stream| stream.on_request_headers(true)), Some(Flow::Stop));
        assert_eq!(host.take_done(), [Done::Replied(503, "not_ready".to_owned())]);
    }
}
