//! Wake-up calls: each VM has a queue of its own, and whoever has news for it
//! enqueues one byte. The tick is the backstop: nothing depends on a wake-up.

use tidegate_policy::version::Version;
use tidegate_policy::wire::event::Source;

use super::keys::Keys;
use super::slots::Slot;
use crate::host::{Host, HostError, QueueId};

/// A wake-up that has shown no effect for this long is taken for lost.
const LOST_NS: u64 = 250_000_000;
/// The root that owns the registration is taken for gone when it has not ticked
/// for this long although another root of the VM has.
const GONE_NS: u64 = 2_000_000_000;
/// Messages taken out in one callback.
const DRAIN: usize = 64;

/// This VM's own queue, registered by one of its roots: a queue notifies its
/// last registrant only, and nobody when that root is gone.
#[derive(Debug, Default)]
pub struct OwnQueue {
    registered: Option<Registered>,
}

#[derive(Debug)]
struct Registered {
    root: u32,
    slot: u16,
    queue: QueueId,
    ticked_ns: u64,
}

impl OwnQueue {
    /// The root that owns the registration.
    #[must_use]
    pub fn root(&self) -> Option<u32> {
        self.registered.as_ref().map(|registered| registered.root)
    }

    /// Whether `queue` is this VM's.
    #[must_use]
    pub fn is(&self, queue: QueueId) -> bool {
        self.registered.as_ref().is_some_and(|registered| registered.queue == queue)
    }

    /// At a tick of `root`: registers if nobody has, if the slot is another one
    /// than then, or if the root that did is gone. Answers the root that is gone.
    pub fn keep<H: Host>(&mut self, host: &H, keys: &Keys, root: u32, slot: u16) -> Option<u32> {
        let now = host.monotonic_ns();
        let mut gone = None;
        if let Some(registered) = &mut self.registered {
            if registered.root == root {
                registered.ticked_ns = now;
            }
            let is_gone = now.saturating_sub(registered.ticked_ns) > GONE_NS;
            if registered.slot == slot && !is_gone {
                return None;
            }
            gone = is_gone.then_some(registered.root);
        }
        let queue = host.queue_register(&keys.wake(slot)).ok();
        self.registered = queue.map(|queue| Registered { root, slot, queue, ticked_ns: now });
        gone
    }

    /// `root` is gone.
    pub fn root_gone(&mut self, root: u32) {
        if self.root() == Some(root) {
            self.registered = None;
        }
    }

    /// Takes all messages out; they say nothing but "look".
    pub fn drain<H: Host>(&self, host: &H) {
        let Some(registered) = &self.registered else { return };
        for _ in 0..DRAIN {
            if !matches!(host.dequeue(registered.queue), Ok(Some(_))) {
                return;
            }
        }
    }
}

/// Wakes others.
#[derive(Debug, Default)]
pub struct Waker {
    known: Vec<KnownQueue>,
}

#[derive(Debug)]
struct KnownQueue {
    slot: u16,
    queue: QueueId,
    /// The last wake-up that has shown no effect yet: what the slot said then.
    outstanding: Option<(Source, Version, u64, u64)>,
}

impl Waker {
    /// Wakes the VM in `index` unless a call to it is still outstanding: what
    /// it enforces has not changed since, and the call is not old.
    pub fn wake<H: Host>(&mut self, host: &H, keys: &Keys, index: u16, slot: &Slot) {
        let now = host.monotonic_ns();
        if let Some(known) = self.known.iter_mut().find(|known| known.slot == index)
            && let Some((source, version, refresh, at)) = known.outstanding
            && (source, version, refresh) == (slot.source, slot.version, slot.refresh)
            && now.saturating_sub(at) < LOST_NS
        {
            return;
        }
        self.call(host, keys, index);
        if let Some(known) = self.known.iter_mut().find(|known| known.slot == index) {
            known.outstanding = Some((slot.source, slot.version, slot.refresh, now));
        }
    }

    /// One byte into the queue of the slot; a slot whose VM has not registered
    /// yet looks by itself at its first tick.
    pub fn call<H: Host>(&mut self, host: &H, keys: &Keys, index: u16) {
        let Some(queue) = self.queue(host, keys, index) else { return };
        if host.enqueue(queue, &[1]) == Err(HostError::NotFound) {
            self.known.retain(|known| known.slot != index);
            if let Some(queue) = self.queue(host, keys, index) {
                // Not found again: its VM looks at its next tick.
                let _ = host.enqueue(queue, &[1]);
            }
        }
    }

    fn queue<H: Host>(&mut self, host: &H, keys: &Keys, index: u16) -> Option<QueueId> {
        if let Some(known) = self.known.iter().find(|known| known.slot == index) {
            return Some(known.queue);
        }
        let queue = host.queue_resolve(&keys.wake(index)).ok().flatten()?;
        self.known.push(KnownQueue { slot: index, queue, outstanding: None });
        Some(queue)
    }
}
