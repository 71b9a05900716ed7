//! Wake-ups: each VM has a shared queue of its own, and another VM enqueues one byte
//! to wake it. The next tick does the same work, so nothing depends on a wake-up.

use tidegate_policy::version::Version;
use tidegate_policy::wire::event::VmId;

use super::keys::Keys;
use super::slots::Slot;
use crate::host::{Host, HostError, QueueId};

/// A wake-up without effect for this long is repeated.
const LOST_NS: u64 = 250_000_000;
/// The root that owns the registration is taken for gone when it has not ticked
/// for this long although another root of the VM has.
const GONE_NS: u64 = 2_000_000_000;
/// The most messages taken out in one callback.
const DRAIN: usize = 64;

/// This VM's own queue, registered by one of its roots: Envoy notifies only the root
/// that registered last, and none when that is gone.
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

    /// At a tick of `root`: registers the queue if no root has, if the slot changed
    /// since, or if the root that did is gone. Returns the root that is gone.
    pub fn register_if_needed<H: Host>(
        &mut self,
        host: &H,
        keys: &Keys,
        root: u32,
        slot: u16,
    ) -> Option<u32> {
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

    /// Wakes this VM itself, in a later turn of the thread's event loop. False: nobody would
    /// be notified.
    pub fn wake_itself<H: Host>(&self, host: &H) -> bool {
        self.registered.as_ref().is_some_and(|registered| host.enqueue(registered.queue, &[1]).is_ok())
    }

    /// Takes all messages out; they have no content.
    pub fn drain<H: Host>(&self, host: &H) {
        let Some(registered) = &self.registered else { return };
        for _ in 0..DRAIN {
            if !matches!(host.dequeue(registered.queue), Ok(Some(_))) {
                return;
            }
        }
    }
}

/// Wakes other VMs.
#[derive(Debug, Default)]
pub struct Waker {
    known: Vec<KnownQueue>,
}

#[derive(Debug)]
struct KnownQueue {
    slot: u16,
    queue: QueueId,
    /// The last wake-up, while it has had no effect: the slot's source, version and
    /// refresh then, and when it was, monotonic nanoseconds.
    outstanding: Option<(VmId, Version, u64, u64)>,
}

impl Waker {
    /// Wakes the VM in `index`, unless the last wake-up is recent and what the VM
    /// enforces has not changed since.
    pub fn wake<H: Host>(&mut self, host: &H, keys: &Keys, index: u16, slot: &Slot) {
        let now = host.monotonic_ns();
        if let Some(known) = self.known.iter_mut().find(|known| known.slot == index)
            && let Some((source, version, refresh, at)) = known.outstanding
            && (source, version, refresh) == (slot.source, slot.version, slot.refresh)
            && now.saturating_sub(at) < LOST_NS
        {
            return;
        }
        self.wake_always(host, keys, index);
        if let Some(known) = self.known.iter_mut().find(|known| known.slot == index) {
            known.outstanding = Some((slot.source, slot.version, slot.refresh, now));
        }
    }

    /// Enqueues one byte into the queue of the slot. A VM that has not registered
    /// yet looks at its first tick.
    pub fn wake_always<H: Host>(&mut self, host: &H, keys: &Keys, index: u16) {
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
