//! Events: batches, and open events.

use tidegate_policy::wire::event::{Batch, EventPost, OpenEvent, RECEIPT, REFUSALS};

use super::{Feed, LastingFault, Reply};
use crate::process::Sim;
use crate::world::CallView;

impl Feed {
    /// Stores the events that are new: each number is stored once, however often it
    /// comes, and completes the open event of that number.
    pub(super) fn take_events(&mut self, body: &[u8]) -> Reply {
        let refused = Reply::Answer(400, REFUSALS[0].to_vec());
        let Ok(post) = EventPost::from_bytes(body) else { return refused };
        for sealed in &post.batches {
            let Ok(batch) = Batch::from_bytes(&sealed.0) else { return refused };
            for event in batch.events {
                let key = (batch.source, event.number);
                if self.stored.insert(key) {
                    self.open.remove(&key);
                    self.events.push((batch.source, event));
                } else {
                    self.duplicates += 1;
                }
            }
        }
        self.posts.push(post);
        Reply::Answer(200, RECEIPT.to_vec())
    }

    /// Stores an open event, unless its completed one was stored already. It is stored also
    /// if the answer is slow or missing, but not if that is a reset or a status from 400 on.
    pub(super) fn take_open(&mut self, call: &CallView, sim: &Sim) -> Option<Reply> {
        let fault = self.open_fault;
        let stores = !matches!(
            fault,
            Some(LastingFault::Status(400..) | LastingFault::InPlace(_) | LastingFault::Reset)
        );
        if stores && self.seen.insert(call.id) {
            let Ok(open) = OpenEvent::from_bytes(&call.body) else {
                return Some(Reply::Answer(400, Vec::new()));
            };
            let key = (open.source, open.event.number);
            if !self.stored.contains(&key) {
                self.open.insert(key, open.event.clone());
            }
            self.opened.push(open);
        }
        if self.waits(fault, call, sim) {
            return None;
        }
        Some(match fault {
            Some(LastingFault::Status(status)) => Reply::Answer(status, Vec::new()),
            Some(LastingFault::InPlace(status)) => Reply::InPlace(status),
            Some(LastingFault::Reset) => Reply::Reset,
            Some(LastingFault::Garbage) => Reply::Answer(200, b"\xff no answer".to_vec()),
            _ => Reply::Answer(204, Vec::new()),
        })
    }
}
