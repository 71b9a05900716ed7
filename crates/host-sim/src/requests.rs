//! Requests in the emulated Envoy: held, resumed, answered, logged.

use std::mem::forget;

use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;
use tidegate_host::HeaderPairs;

use crate::phase::Phase;
use crate::process::{Live, Root, Sim, Worker};
use crate::stream::{Request, Response, StreamId, StreamState, Waits, number};
use crate::world::VmIndex;

/// Bytes of every upstream's body.
const UPSTREAM_BODY: usize = 1_000;

impl Sim {
    /// Runs a request from its headers to its log; see [`finish`](Self::finish).
    pub fn request(&mut self, worker: Worker, root: Root, request: Request) -> Response {
        let stream = self.begin(worker, root, request);
        self.finish(stream)
    }

    /// A request's headers reach the gate. A dead VM is loaded anew first, unless
    /// it was loaded within the last second: then Envoy answers 503.
    pub fn begin(&mut self, worker: Worker, root: Root, request: Request) -> StreamId {
        self.reload_if_dead(worker.0, root.0);
        let (headers, ends) = (request.headers.len(), request.body == 0);
        let id = self.enter(worker, root, request);
        let action =
            self.in_stream(id, Phase::RequestHeaders, |guest| guest.on_http_request_headers(headers, ends));
        self.after(id, action);
        id
    }

    /// Makes a request's context.
    fn enter(&mut self, worker: Worker, root: Root, request: Request) -> StreamId {
        let thread = &self.threads[worker.0];
        let mut world = self.world.borrow_mut();
        let id = world.next_context();
        let context = thread.roots.get(&root.0).expect("a root lives as long as its requests");
        let guest = context.create_http_context(id).expect("a filter for HTTP");
        let id = StreamId(id);
        let state = StreamState::new(request, world.now_ns, world.wall_us);
        world.streams.insert(id, state);
        self.streams.insert(id, Live { vm: thread.vm, root: root.0, guest: Some(guest) });
        id
    }

    /// The upstream answers: the response's headers reach the gate. They declare the length of its body,
    /// unless there is a `transfer-encoding`.
    ///
    /// # Panics
    /// When the request does not wait for the upstream.
    pub fn upstream(&mut self, stream: StreamId, status: u16, headers: &[(&str, &str)]) {
        assert_eq!(self.waits(stream), Some(Waits::Upstream), "an upstream that was not asked");
        let is_bodiless = matches!(status, 101 | 204 | 304) || {
            let world = self.world.borrow();
            let asked = &world.streams[&stream].request;
            asked.iter().any(|(name, value)| name == b":method" && value == b"HEAD")
        };
        let body = if is_bodiless { 0 } else { UPSTREAM_BODY };
        let mut headers: HeaderPairs =
            headers.iter().map(|(n, v)| (n.as_bytes().to_vec(), v.as_bytes().to_vec())).collect();
        if !headers.iter().any(|(name, _)| name == b"transfer-encoding") {
            headers.push((b"content-length".to_vec(), UPSTREAM_BODY.to_string().into_bytes()));
        }
        {
            let mut world = self.world.borrow_mut();
            let now = world.now_ns;
            if let Some(state) = world.streams.get_mut(&stream) {
                let took = now - state.forwarded_ns.unwrap_or(now);
                state.properties.insert("response.backend_latency".to_owned(), number(took));
            }
        }
        self.respond(stream, status, "via_upstream", headers, body);
    }

    /// Envoy answers by itself, whatever the gate or the upstream are doing: its time-outs
    /// (408, 504), a cluster that does not exist.
    ///
    /// # Panics
    /// When response headers were seen already.
    pub fn answer_early(&mut self, stream: StreamId, status: u16, details: &str) {
        assert!(matches!(self.waits(stream), Some(Waits::Request | Waits::Upstream)), "answered already");
        self.respond(stream, status, details, Vec::new(), 0);
    }

    /// Envoy replaces a response after its headers were seen: the gate can read that only
    /// in the log.
    ///
    /// # Panics
    /// When response headers were not seen.
    pub fn turn(&mut self, stream: StreamId, status: u16, details: &str) {
        let mut world = self.world.borrow_mut();
        let state = world.streams.get_mut(&stream).filter(|state| state.seen_response);
        let state = state.expect("a response to turn");
        state.respond(status, details, Vec::new());
        state.properties.remove("response.backend_latency");
        state.waits = Waits::Nobody;
    }

    /// Response headers reach the gate, unless its VM is dead.
    fn respond(&mut self, stream: StreamId, status: u16, details: &str, headers: HeaderPairs, body: usize) {
        if let Some(state) = self.world.borrow_mut().streams.get_mut(&stream) {
            state.respond(status, details, headers);
            state.body = body;
            state.to_pass = Some(body).filter(|body| *body > 0);
            state.waits = Waits::Nobody;
        }
        let headers = self.world.borrow().streams.get(&stream).map_or(0, |state| state.response.len());
        let action = self.in_stream(stream, Phase::ResponseHeaders, |guest| {
            guest.on_http_response_headers(headers, body == 0)
        });
        if action == Some(Action::Pause)
            && let Some(state) = self.world.borrow_mut().streams.get_mut(&stream)
        {
            state.waits = Waits::Response;
        }
        self.after(stream, action);
    }

    /// So many bytes of the response's body go past the gate, which holds none of it.
    ///
    /// # Panics
    /// When there are not as many.
    pub fn pass(&mut self, stream: StreamId, bytes: usize) {
        let left = {
            let mut world = self.world.borrow_mut();
            let state = world.streams.get_mut(&stream).filter(|state| state.waits == Waits::Nobody);
            let left = state.as_ref().and_then(|state| state.to_pass?.checked_sub(bytes));
            let left = left.expect("a response with as many bytes to come");
            if let Some(state) = state {
                state.to_pass = Some(left).filter(|left| *left > 0);
            }
            left
        };
        self.in_stream(stream, Phase::Body, |guest| guest.on_http_response_body(bytes, left == 0));
    }

    /// All that is left of the response's body goes past the gate, and trailers after it.
    pub fn pass_with_trailers(&mut self, stream: StreamId) {
        let left = self.world.borrow_mut().streams.get_mut(&stream).and_then(|state| state.to_pass.take());
        let left = left.expect("a body");
        self.in_stream(stream, Phase::Body, |guest| guest.on_http_response_body(left, false));
        self.in_stream(stream, Phase::Body, |guest| guest.on_http_response_trailers(1));
    }

    /// Answers a callout of a request; does nothing if the request has ended.
    pub(crate) fn answer_stream(
        &mut self,
        stream: StreamId,
        phase: Phase,
        answer: impl FnOnce(&mut dyn Context),
    ) {
        let done = self.in_stream(stream, phase, |guest| answer(guest));
        self.after(stream, done.map(|()| Action::Pause));
    }

    /// Runs a callback of a request's context; `None` if the request or its VM is gone.
    fn in_stream<T>(
        &mut self,
        id: StreamId,
        phase: Phase,
        call: impl FnOnce(&mut dyn HttpContext) -> T,
    ) -> Option<T> {
        let live = self.streams.get_mut(&id)?;
        let (vm, root) = (live.vm, live.root);
        let mut guest = live.guest.take()?;
        self.world.borrow_mut().vm(vm).stream = Some(id);
        let result = self.callback(vm, root, phase, || call(&mut *guest));
        self.world.borrow_mut().vm(vm).stream = None;
        match (&result, self.streams.get_mut(&id)) {
            (Some(_), Some(live)) => live.guest = Some(guest),
            _ => {
                // The guest's memory is gone: no destructor of it may run.
                forget(guest);
                self.fail_streams(vm);
            }
        }
        result
    }

    /// Does what a callback asked for, after it has returned.
    fn after(&mut self, id: StreamId, action: Option<Action>) {
        let (reply, body) = {
            let mut world = self.world.borrow_mut();
            let now = world.now_ns;
            let Some(state) = world.streams.get_mut(&id) else { return };
            let mut body = 0;
            let reply = state.reply.take();
            let resumes_request = std::mem::take(&mut state.resumes_request);
            let resumes_response = std::mem::take(&mut state.resumes_response);
            let goes_on = resumes_request || (action == Some(Action::Continue) && !state.seen_response);
            if reply.is_none() && goes_on && state.waits == Waits::Request {
                state.forward(now);
                body = state.received;
            }
            if resumes_response && state.waits == Waits::Response {
                state.waits = Waits::Nobody;
            }
            if reply.is_some() && action == Some(Action::Continue) {
                world.violations.push("replies, and lets the request go on".to_owned());
            }
            (reply, body)
        };
        if body > 0 {
            let bytes = usize::try_from(body).expect("a body that fits into memory");
            self.in_stream(id, Phase::Body, |guest| guest.on_http_request_body(bytes, true));
        }
        if let Some(reply) = reply {
            let mut headers = reply.headers;
            if !reply.body.is_empty() {
                headers.push((b"content-length".to_vec(), reply.body.len().to_string().into_bytes()));
            }
            self.respond(id, reply.status, &reply.details, headers, reply.body.len());
        }
    }

    /// A VM has died: Envoy answers 503 to all requests that it held.
    pub(crate) fn fail_streams(&mut self, vm: VmIndex) {
        let mut world = self.world.borrow_mut();
        for (id, live) in self.streams.iter_mut().filter(|(_, live)| live.vm == vm) {
            if let Some(guest) = live.guest.take() {
                forget(guest);
            }
            if let Some(state) = world.streams.get_mut(id)
                && state.waits != Waits::Nobody
            {
                state.respond(503, "wasm_fail_stream", Vec::new());
                state.waits = Waits::Nobody;
            }
        }
    }

    /// Ends a request: its upstream answers 200, or, if the gate still holds it or its
    /// response, Envoy's time-out answers 504. Then it is logged and removed.
    ///
    /// # Panics
    /// When it has ended already.
    pub fn finish(&mut self, stream: StreamId) -> Response {
        match self.waits(stream).expect("ends once") {
            Waits::Request => self.answer_early(stream, 504, "stream_idle_timeout"),
            Waits::Upstream => self.upstream(stream, 200, &[]),
            Waits::Response | Waits::Nobody => {}
        }
        if self.waits(stream) == Some(Waits::Response) {
            self.turn(stream, 504, "stream_idle_timeout");
        }
        let left = self.world.borrow().streams.get(&stream).and_then(|state| state.to_pass);
        if let Some(left) = left {
            self.pass(stream, left);
        }
        let is_http3 = self.world.borrow().streams.get(&stream).is_some_and(|state| state.is_http3);
        if !is_http3 {
            self.log(stream);
        }
        self.end(stream)
    }

    /// The client leaves. Its request is logged, without a status unless the response was
    /// sent, and removed.
    ///
    /// # Panics
    /// When it has ended already.
    pub fn leave(&mut self, stream: StreamId) -> Response {
        if let Some(state) = self.world.borrow_mut().streams.get_mut(&stream)
            && state.waits != Waits::Nobody
        {
            state.status = 0;
            "downstream_remote_disconnect".clone_into(&mut state.details);
        }
        if let Some(state) = self.world.borrow_mut().streams.get_mut(&stream) {
            state.body -= state.to_pass.take().unwrap_or(0);
        }
        self.log(stream);
        self.end(stream)
    }

    /// Envoy refuses a request before the gate: only `on_log` and the context's end follow.
    pub fn refuse(&mut self, worker: Worker, root: Root) {
        let id = self.enter(worker, root, Request::default());
        if let Some(state) = self.world.borrow_mut().streams.get_mut(&id) {
            state.respond(400, "http1.codec_error", Vec::new());
            state.waits = Waits::Nobody;
        }
        self.log(id);
        self.end(id);
    }

    /// A request ends that reached no filter, since Envoy's codec refused it: by the access log, a
    /// root's `on_log` is the one callback. The log tells a root of other requests too: `request` is what
    /// Envoy has of it, `answer` the status and the details of what it answered.
    pub fn log_to_root(&mut self, worker: Worker, root: Root, request: Request, answer: Option<(u16, &str)>) {
        let vm = self.threads[worker.0].vm;
        let id = {
            let mut world = self.world.borrow_mut();
            let id = StreamId(world.next_context());
            let mut state = StreamState::new(request, world.now_ns, world.wall_us);
            if let Some((_, method)) = state.request.iter().find(|(name, _)| name == b":method") {
                state.properties.insert("request.method".to_owned(), method.clone());
            }
            let (status, details) = answer.unwrap_or_default();
            state.status = status;
            state.properties.insert("response.code_details".to_owned(), details.as_bytes().to_vec());
            state.complete(world.now_ns, &Phase::Log);
            world.streams.insert(id, state);
            world.vm(vm).stream = Some(id);
            id
        };
        self.in_root(worker.0, vm, root.0, Phase::Log, |context| context.on_log());
        let mut world = self.world.borrow_mut();
        world.vm(vm).stream = None;
        world.streams.remove(&id);
    }

    fn log(&mut self, stream: StreamId) {
        self.complete(stream, Phase::Log);
        self.in_stream(stream, Phase::Log, |guest| guest.on_log());
    }

    /// The context ends, and the stream with it.
    fn end(&mut self, stream: StreamId) -> Response {
        self.complete(stream, Phase::Done);
        self.in_stream(stream, Phase::Done, |guest| guest.on_done());
        self.streams.remove(&stream);
        let state = self.world.borrow_mut().streams.remove(&stream);
        state.expect("ends once").outcome()
    }

    fn complete(&mut self, stream: StreamId, phase: Phase) {
        let mut world = self.world.borrow_mut();
        let now = world.now_ns;
        world.streams.get_mut(&stream).expect("ends once").complete(now, &phase);
    }
}
