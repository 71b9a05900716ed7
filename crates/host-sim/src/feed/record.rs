//! Events: batches of them, and those that a response waits for.

use tidegate_policy::wire::event::{Batch, EventPost, OpenEvent};

use super::{Feed, Reply, Trouble};
use crate::process::Sim;
use crate::world::CallView;

impl Feed {
    /// Stores what is new: a number is stored once, however often it comes, and
    /// completes the event that was open.
    pub(super) fn take_events(&mut self, body: &[u8]) -> Reply {
        let refused = Reply::Answer(400, Vec::new());
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
        Reply::Answer(200, Vec::new())
    }

    /// Stores an event that is not over, unless it is known to be. With a slow
    /// answer it is the answer that is late; without one the row may be there.
    pub(super) fn take_open(&mut self, call: &CallView, sim: &Sim) -> Option<Reply> {
        let trouble = self.open_trouble;
        let stores = !matches!(trouble, Some(Trouble::Status(400..) | Trouble::Reset));
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
        if self.waits(trouble, call, sim) {
            return None;
        }
        Some(match trouble {
            Some(Trouble::Status(status)) => Reply::Answer(status, Vec::new()),
            Some(Trouble::Reset) => Reply::Reset,
            Some(Trouble::Garbage) => Reply::Answer(200, b"\xff no answer".to_vec()),
            _ => Reply::Answer(200, Vec::new()),
        })
    }
}
