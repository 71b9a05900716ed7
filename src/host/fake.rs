//! A host for unit tests: one VM, queues, metrics, callouts that the test
//! answers, and a clock that it moves. `crates/host-sim` is the one for scenarios.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use super::{
    Call, CallToken, Cas, Expect, HeaderPairs, Host, HostError, LocalReply, MetricId, MetricKind, QueueId,
};

/// A call that was made.
#[derive(Clone, Debug)]
pub struct Made {
    pub token: CallToken,
    pub path: String,
    pub body: Vec<u8>,
}

/// What a gate did to a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Done {
    Set(String, String),
    Added(String, String),
    Removed(String),
    State(String, String),
    Property(String, String),
    Resumed,
    ResponseResumed,
    Replied(u16, String),
}

/// A shared value and its token.
type Value = (Vec<u8>, Cas);

/// A queue's number and its messages.
pub type Queue = (QueueId, VecDeque<Vec<u8>>);

/// What the fake keeps.
#[derive(Default)]
pub struct State {
    pub now_ns: Cell<u64>,
    pub shared: RefCell<BTreeMap<String, Value>>,
    /// What a request has; none: the host refuses to show its headers.
    pub headers: RefCell<Option<HeaderPairs>>,
    pub queues: RefCell<BTreeMap<String, Queue>>,
    pub metrics: RefCell<BTreeMap<String, (MetricId, i64)>>,
    pub calls: RefCell<Vec<Made>>,
    /// Why calls are refused, if they are.
    pub refuse_calls: Cell<Option<HostError>>,
    /// The host refuses to set request headers.
    pub refuse_headers: Cell<bool>,
    /// Headers of the last reply.
    pub reply: RefCell<HeaderPairs>,
    /// `:status` of the answer at hand.
    pub status: Cell<Option<u16>>,
    /// The body of the answer at hand.
    pub body: RefCell<Vec<u8>>,
    /// The client of the request at hand.
    pub client: RefCell<Option<String>>,
    /// The headers of the response at hand; none: it is not in that phase.
    pub response: RefCell<Option<HeaderPairs>>,
    /// What was done to the request at hand, in order.
    pub done: RefCell<Vec<Done>>,
    tokens: Cell<u32>,
}

/// A handle.
#[derive(Clone, Default)]
pub struct Fake(pub Rc<State>);

impl Fake {
    pub fn advance(&self, by: Duration) {
        self.0.now_ns.set(self.0.now_ns.get() + u64::try_from(by.as_nanos()).unwrap());
    }

    pub fn figure(&self, name: &str) -> i64 {
        self.0.metrics.borrow()[name].1
    }

    pub fn set_figure(&self, name: &str, value: i64) {
        self.0.metrics.borrow_mut().get_mut(name).unwrap().1 = value;
    }

    pub fn messages(&self, queue: &str) -> Vec<Vec<u8>> {
        self.0.queues.borrow()[queue].1.iter().cloned().collect()
    }

    /// The calls made since the last time.
    pub fn take_calls(&self) -> Vec<Made> {
        std::mem::take(&mut *self.0.calls.borrow_mut())
    }

    /// What was done to the request at hand since the last time.
    pub fn take_done(&self) -> Vec<Done> {
        std::mem::take(&mut *self.0.done.borrow_mut())
    }

    fn do_it(&self, done: Done) -> Result<(), HostError> {
        self.0.done.borrow_mut().push(done);
        Ok(())
    }

    fn with_queue<T>(
        &self,
        queue: QueueId,
        act: impl FnOnce(&mut VecDeque<Vec<u8>>) -> T,
    ) -> Result<T, HostError> {
        let mut queues = self.0.queues.borrow_mut();
        let found = queues.values_mut().find(|(id, _)| *id == queue);
        found.map(|(_, messages)| act(messages)).ok_or(HostError::NotFound)
    }

    fn with_metric<T>(&self, metric: MetricId, act: impl FnOnce(&mut i64) -> T) -> Result<T, HostError> {
        let mut metrics = self.0.metrics.borrow_mut();
        let found = metrics.values_mut().find(|(id, _)| *id == metric);
        found.map(|(_, value)| act(value)).ok_or(HostError::NotFound)
    }
}

impl Host for Fake {
    fn wall_us(&self) -> u64 {
        1_795_000_000_000_000 + self.0.now_ns.get() / 1_000
    }

    fn monotonic_ns(&self) -> u64 {
        self.0.now_ns.get()
    }

    fn random_u64(&self) -> u64 {
        4
    }

    fn shared_get(&self, key: &str) -> Result<Option<(Vec<u8>, Cas)>, HostError> {
        Ok(self.0.shared.borrow().get(key).cloned())
    }

    fn shared_set(&self, key: &str, value: &[u8], expect: Expect) -> Result<(), HostError> {
        let mut shared = self.0.shared.borrow_mut();
        let found = shared.get(key).map(|(_, cas)| *cas);
        match (expect, found) {
            (Expect::Absent, None) => {}
            (Expect::Unchanged(read), Some(cas)) if read == cas => {}
            _ => return Err(HostError::CasMismatch),
        }
        shared.insert(key.to_owned(), (value.to_vec(), found.unwrap_or(0) + 1));
        Ok(())
    }

    fn queue_register(&self, name: &str) -> Result<QueueId, HostError> {
        let mut queues = self.0.queues.borrow_mut();
        let next = QueueId::try_from(queues.len() + 1).unwrap();
        Ok(queues.entry(name.to_owned()).or_insert((next, VecDeque::new())).0)
    }

    fn queue_resolve(&self, name: &str) -> Result<Option<QueueId>, HostError> {
        Ok(self.0.queues.borrow().get(name).map(|(id, _)| *id))
    }

    fn enqueue(&self, queue: QueueId, message: &[u8]) -> Result<(), HostError> {
        self.with_queue(queue, |messages| messages.push_back(message.to_vec()))
    }

    fn dequeue(&self, queue: QueueId) -> Result<Option<Vec<u8>>, HostError> {
        self.with_queue(queue, VecDeque::pop_front)
    }

    fn call(&self, call: Call<'_>) -> Result<CallToken, HostError> {
        if let Some(error) = self.0.refuse_calls.get() {
            return Err(error);
        }
        let token = self.0.tokens.get() + 1;
        self.0.tokens.set(token);
        let path = call.headers.iter().find(|(name, _)| *name == ":path").unwrap().1.to_owned();
        self.0.calls.borrow_mut().push(Made { token, path, body: call.body.to_vec() });
        Ok(token)
    }

    fn call_status(&self) -> Option<u16> {
        self.0.status.get()
    }

    fn call_body(&self, _max: usize) -> Vec<u8> {
        self.0.body.borrow().clone()
    }

    fn request_headers(&self) -> HeaderPairs {
        self.0.headers.borrow().clone().unwrap_or_default()
    }

    fn set_request_header(&self, name: &str, value: &[u8]) -> Result<(), HostError> {
        if self.0.refuse_headers.get() {
            return Err(HostError::BadArgument);
        }
        let value = String::from_utf8(value.to_vec()).unwrap();
        self.do_it(Done::Set(name.to_owned(), value))
    }

    fn add_request_header(&self, name: &str, value: &[u8]) -> Result<(), HostError> {
        self.do_it(Done::Added(name.to_owned(), String::from_utf8(value.to_vec()).unwrap()))
    }

    fn remove_request_header(&self, name: &str) -> Result<(), HostError> {
        if self.0.refuse_headers.get() {
            return Err(HostError::BadArgument);
        }
        self.do_it(Done::Removed(name.to_owned()))
    }

    fn response_header(&self, name: &str) -> Option<Vec<u8>> {
        let response = self.0.response.borrow();
        let found = response.as_ref()?.iter().find(|(other, _)| other == name.as_bytes());
        found.map(|(_, value)| value.clone())
    }

    fn set_response_header(&self, name: &str, value: &[u8]) -> Result<(), HostError> {
        let mut response = self.0.response.borrow_mut();
        let headers = response.as_mut().ok_or(HostError::BadArgument)?;
        headers.retain(|(other, _)| other != name.as_bytes());
        headers.push((name.as_bytes().to_vec(), value.to_vec()));
        Ok(())
    }

    fn add_response_header(&self, name: &str, value: &[u8]) -> Result<(), HostError> {
        let mut response = self.0.response.borrow_mut();
        let headers = response.as_mut().ok_or(HostError::BadArgument)?;
        headers.push((name.as_bytes().to_vec(), value.to_vec()));
        Ok(())
    }

    fn remove_response_header(&self, name: &str) -> Result<(), HostError> {
        let mut response = self.0.response.borrow_mut();
        let headers = response.as_mut().ok_or(HostError::BadArgument)?;
        headers.retain(|(other, _)| other != name.as_bytes());
        Ok(())
    }

    fn set_filter_state(&self, name: &str, value: &str) -> Result<(), HostError> {
        if self.0.refuse_headers.get() {
            return Err(HostError::NotFound);
        }
        self.do_it(Done::State(name.to_owned(), value.to_owned()))
    }

    fn resume_request(&self) -> Result<(), HostError> {
        self.do_it(Done::Resumed)
    }

    fn resume_response(&self) -> Result<(), HostError> {
        self.do_it(Done::ResponseResumed)
    }

    fn reply(&self, reply: LocalReply<'_>) -> Result<(), HostError> {
        let pair = |(name, value): &(&str, &[u8])| (name.as_bytes().to_vec(), value.to_vec());
        self.0.reply.replace(reply.headers.iter().map(pair).collect());
        self.do_it(Done::Replied(reply.status, reply.details.to_owned()))
    }

    fn set_property(&self, name: &str, value: &[u8]) -> Result<(), HostError> {
        self.do_it(Done::Property(name.to_owned(), String::from_utf8_lossy(value).into_owned()))
    }

    fn property(&self, path: &[&str]) -> Result<Option<Vec<u8>>, HostError> {
        match path {
            ["source", "address"] => Ok(self.0.client.borrow().clone().map(String::into_bytes)),
            _ => Ok(None),
        }
    }

    fn plugin_configuration(&self) -> Result<Vec<u8>, HostError> {
        Err(HostError::BadArgument)
    }

    fn set_tick(&self, _period: Duration) -> Result<(), HostError> {
        Ok(())
    }

    fn define_metric(&self, _kind: MetricKind, name: &str) -> Result<MetricId, HostError> {
        let mut metrics = self.0.metrics.borrow_mut();
        let next = MetricId::try_from(metrics.len() + 1).unwrap();
        Ok(metrics.entry(name.to_owned()).or_insert((next, 0)).0)
    }

    fn add_metric(&self, metric: MetricId, by: i64) -> Result<(), HostError> {
        self.with_metric(metric, |value| *value += by)
    }

    fn set_metric(&self, metric: MetricId, value: u64) -> Result<(), HostError> {
        self.with_metric(metric, |old| *old = i64::try_from(value).unwrap())
    }

    fn metric(&self, metric: MetricId) -> Result<u64, HostError> {
        self.with_metric(metric, |value| value.cast_unsigned())
    }

    fn log(&self, _level: log::Level, _message: &str) {}

    fn environment(&self, _name: &str) -> Option<String> {
        None
    }
}
