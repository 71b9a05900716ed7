//! A single VM, for unit tests. The test sets the current request and its phase, and reads
//! what was done to it.

use std::cell::{RefCell, RefMut};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use tidegate_host::{CallToken, Cas, HeaderPairs, HostError};
use tidegate_policy::wire::sync::TIME_HEADER;

use crate::host::SimHost;
use crate::phase::{CallEnd, Phase};
use crate::stream::{Done, Request, StreamId, StreamState, Waits};
use crate::world::{CallView, Post, VmState, World};

/// The one request of a single VM.
const REQUEST: StreamId = StreamId(1);

impl SimHost {
    /// The host of a single VM.
    #[must_use]
    pub fn alone() -> Self {
        let mut world = World::new();
        world.vms.push(VmState::default());
        world.done = Some(Vec::new());
        Self { world: Rc::new(RefCell::new(world)), vm: 0 }
    }

    fn set(&self, change: impl FnOnce(&mut World)) {
        change(&mut self.world.borrow_mut());
    }

    /// Moves the clocks.
    pub fn advance(&self, by: Duration) {
        self.set(|world| {
            world.now_ns += by.as_nanos() as u64;
            world.wall_us += by.as_micros() as u64;
        });
    }

    /// Begins a new request, in the phase of its headers.
    pub fn begin(&self, request: Request) {
        self.set(|world| {
            let state = StreamState::new(request, world.now_ns, world.wall_us);
            world.streams.insert(REQUEST, state);
            world.vm(0).stream = Some(REQUEST);
            world.vm(0).phase = Phase::RequestHeaders;
        });
    }

    /// Gives the current request a response, in the phase of its headers.
    pub fn respond(&self, headers: HeaderPairs) {
        if self.world.borrow().streams.is_empty() {
            self.begin(Request::default());
        }
        self.set(|world| {
            world.vm(0).phase = Phase::ResponseHeaders;
            if let Some(stream) = world.streams.get_mut(&REQUEST) {
                (stream.response, stream.waits) = (headers, Waits::Response);
            }
        });
    }

    /// The response's headers as they are now.
    #[must_use]
    pub fn response(&self) -> HeaderPairs {
        let world = self.world.borrow();
        world.streams.get(&REQUEST).map(|stream| stream.response.clone()).unwrap_or_default()
    }

    /// Headers of the local reply.
    #[must_use]
    pub fn reply_headers(&self) -> HeaderPairs {
        let world = self.world.borrow();
        let reply = world.streams.get(&REQUEST).and_then(|stream| stream.reply.as_ref());
        reply.map(|reply| reply.headers.clone()).unwrap_or_default()
    }

    /// Body of the local reply.
    #[must_use]
    pub fn reply_body(&self) -> Vec<u8> {
        let world = self.world.borrow();
        let reply = world.streams.get(&REQUEST).and_then(|stream| stream.reply.as_ref());
        reply.map(|reply| reply.body.clone()).unwrap_or_default()
    }

    /// Gives the admin service's answer to a callout, in the phase of its callback; `None`: it
    /// failed without one.
    pub fn answer(&self, status: Option<u16>, body: Vec<u8>) {
        let time = self.world.borrow().wall_us / 1_000;
        self.answer_with(status, vec![(TIME_HEADER.to_owned(), time.to_string())], body);
    }

    /// As [`answer`](Self::answer), by something in the service's place.
    pub fn answer_in_place(&self, status: u16, body: Vec<u8>) {
        self.answer_with(Some(status), Vec::new(), body);
    }

    fn answer_with(&self, status: Option<u16>, headers: Vec<(String, String)>, body: Vec<u8>) {
        let answer = |status| CallEnd::Answer { status, headers, body };
        let end = status.map_or(CallEnd::Failure, answer);
        self.set(|world| world.vm(0).phase = Phase::CallResponse(end));
    }

    /// The call and the status of which the request is notified, in the phase of that callback.
    #[must_use]
    pub fn notified(&self) -> Option<(CallToken, u16)> {
        let mut world = self.world.borrow_mut();
        let found = world.posts.iter().find_map(|post| match post {
            Post::Notify { token, status, .. } => Some((*token, *status)),
            _ => None,
        })?;
        world.posts.clear();
        world.vm(0).phase = Phase::Notified;
        Some(found)
    }

    /// What was done to the current request since the last time, in order.
    #[must_use]
    pub fn take_done(&self) -> Vec<Done> {
        self.world.borrow_mut().done.replace(Vec::new()).unwrap_or_default()
    }

    /// The callouts made since the last time.
    #[must_use]
    pub fn take_calls(&self) -> Vec<CallView> {
        self.world.borrow_mut().calls.drain(..).map(|call| call.view).collect()
    }

    /// Refuses callouts from now on, for this reason; `None`: no longer.
    pub fn refuse_calls(&self, why: Option<HostError>) {
        self.set(|world| world.refuses_calls = why);
    }

    /// Whether changes of request headers and of filter state are refused from now on.
    pub fn refuse_headers(&self, refuse: bool) {
        self.set(|world| world.refuses_headers = refuse);
    }

    /// A metric's value; 0 when there is none of that name.
    #[must_use]
    pub fn metric_value(&self, name: &str) -> i64 {
        let world = self.world.borrow();
        let found = world.metrics.iter().find(|(other, _, _)| other == name);
        found.map_or(0, |(_, _, value)| value.cast_signed())
    }

    /// Sets a metric, as another VM would.
    ///
    /// # Panics
    /// When there is none of that name.
    pub fn set_metric_value(&self, name: &str, value: i64) {
        self.set(|world| {
            let found = world.metrics.iter_mut().find(|(other, _, _)| other == name);
            found.expect("a metric").2 = value.cast_unsigned();
        });
    }

    /// The messages in a queue.
    #[must_use]
    pub fn messages(&self, queue: &str) -> Vec<Vec<u8>> {
        let world = self.world.borrow();
        let found = world.queues.iter().find(|other| other.name == queue);
        found.map(|queue| queue.messages.iter().cloned().collect()).unwrap_or_default()
    }

    /// Removes all queues, as Envoy does with the last VM of their `vm_id`.
    pub fn forget_queues(&self) {
        self.set(|world| world.queues.iter_mut().for_each(|queue| queue.name.clear()));
    }

    /// Shared data: values and their tokens.
    #[must_use]
    pub fn shared(&self) -> RefMut<'_, BTreeMap<String, (Vec<u8>, Cas)>> {
        RefMut::map(self.world.borrow_mut(), |world| &mut world.shared)
    }
}
