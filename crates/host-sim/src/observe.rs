//! What a test can read of the process from outside of its VMs.

use std::rc::Rc;

use crate::process::{Sim, Worker};
use crate::stream::{StreamId, Waits};
use crate::world::{CallView, Post};

impl Sim {
    /// Monotonic nanoseconds.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        self.world.borrow().now_ns
    }

    /// True time, milliseconds since the Unix epoch.
    #[must_use]
    pub fn wall_ms(&self) -> u64 {
        self.world.borrow().wall_us / 1_000
    }

    /// Keys in shared data.
    #[must_use]
    pub fn keys(&self) -> Vec<String> {
        self.world.borrow().shared.keys().cloned().collect()
    }

    /// A shared value.
    #[must_use]
    pub fn shared(&self, key_end: &str) -> Option<Vec<u8>> {
        let world = self.world.borrow();
        world.shared.iter().find(|(key, _)| key.ends_with(key_end)).map(|(_, (value, _))| value.clone())
    }

    /// Overwrites a shared value, to emulate corruption.
    pub fn overwrite(&mut self, key_end: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut world = self.world.borrow_mut();
        let found = world.shared.iter().find(|(key, _)| key.ends_with(key_end));
        let Some((key, (value, cas))) = found.map(|(key, value)| (key.clone(), value.clone())) else {
            return;
        };
        let mut value = value;
        change(&mut value);
        world.write(&key, &value, cas);
    }

    /// Writes to shared data that the worker's VM made or tried.
    #[must_use]
    pub fn shared_writes(&self, worker: Worker) -> u64 {
        self.world.borrow().vms[self.threads[worker.0].vm].shared_writes
    }

    /// Host calls that the worker's VM made.
    #[must_use]
    pub fn host_calls(&self, worker: Worker) -> u64 {
        self.world.borrow().vms[self.threads[worker.0].vm].host_calls
    }

    /// Attributes that the worker's VM asked for.
    #[must_use]
    pub fn properties(&self, worker: Worker) -> u64 {
        self.world.borrow().vms[self.threads[worker.0].vm].properties
    }

    /// A metric's value, 0 when there is none of that name; the sum for metrics with one
    /// per instance.
    #[must_use]
    pub fn metric(&self, name: &str) -> u64 {
        self.world
            .borrow()
            .metrics
            .iter()
            .filter(|(other, _, _)| {
                other.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            })
            .fold(0, |sum, (_, _, value)| sum.wrapping_add(*value))
    }

    /// Number of messages in the queue whose name ends with `name_end`.
    #[must_use]
    pub fn queued(&self, name_end: &str) -> usize {
        let world = self.world.borrow();
        world
            .queues
            .iter()
            .filter(|queue| queue.name.ends_with(name_end))
            .map(|queue| queue.messages.len())
            .sum()
    }

    /// What the VMs logged at error level.
    #[must_use]
    pub fn errors(&self) -> Vec<String> {
        let world = self.world.borrow();
        let errors = world.log.iter().filter(|(level, _)| *level == log::Level::Error);
        errors.map(|(_, message)| message.clone()).collect()
    }

    /// What VMs did that Envoy does not tolerate: resumed what was not held, or replied
    /// after response headers were seen.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        self.world.borrow().violations.clone()
    }

    /// Number of handles of the host: those of root contexts and requests. Shows what a
    /// request that has ended leaves behind in the guest.
    #[must_use]
    pub fn handles(&self) -> usize {
        Rc::strong_count(&self.world)
    }

    /// What a request waits for; `None`: it is over.
    #[must_use]
    pub fn waits(&self, stream: StreamId) -> Option<Waits> {
        self.world.borrow().streams.get(&stream).map(|stream| stream.waits)
    }

    /// Callouts of a request that wait for an answer, in the order in which they
    /// were made.
    #[must_use]
    pub fn calls_of(&self, stream: StreamId) -> Vec<CallView> {
        self.calls().into_iter().filter(|call| call.stream == Some(stream)).collect()
    }

    /// Requests that the gate holds and that no callout can resume.
    #[must_use]
    pub fn stuck(&self) -> Vec<StreamId> {
        let world = self.world.borrow();
        let has_call = |id: &StreamId| {
            world.calls.iter().any(|call| call.view.stream == Some(*id))
                || world.posts.iter().any(|post| match post {
                    Post::Call { stream, .. } => *stream == Some(*id),
                    Post::Notify { stream, .. } => stream == id,
                    Post::Queue { .. } => false,
                })
        };
        let held = world.streams.iter().filter(|(_, s)| matches!(s.waits, Waits::Request | Waits::Response));
        held.map(|(id, _)| *id).filter(|id| !has_call(id)).collect()
    }
}
