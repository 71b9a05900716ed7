//! Gateways that were fed by this service before it was started anew. Their versions mean
//! nothing to the new process, but the store's log may still tell what changed since: a guess
//! that the gateway proves by the hash of what it folds. Without it, a restart with one ban
//! in between would make every gateway fetch the whole base.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use tidegate_policy::address::Prefix;
use tokio::sync::Mutex;

use super::change_log::LogPosition;
use crate::store::{Changes, TableStore};

/// Guesses kept: gateways of one former process are at few different versions.
const MAX_GUESSES: usize = 64;
/// Changes since then at most; beyond it the base is the better answer.
const MAX_CHANGES: u64 = 100_000;

/// The keys that changed after `since`, a number of a former process, and up to a
/// position of this one.
#[derive(Clone, Debug)]
pub(super) struct Guess {
    since: u64,
    pub upto: LogPosition,
    pub keys: Arc<[Prefix]>,
}

impl PartialEq for Guess {
    fn eq(&self, other: &Self) -> bool {
        (self.since, self.upto) == (other.since, other.upto)
    }
}

impl Eq for Guess {}

impl Hash for Guess {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.since, self.upto).hash(state);
    }
}

/// The guesses made so far, by number; `None`: the log does not tell.
#[derive(Default)]
pub(super) struct RestartGuesses(Mutex<HashMap<u64, Option<Guess>>>);

impl RestartGuesses {
    /// What changed since a former process gave out `since`.
    pub async fn guess(&self, store: &dyn TableStore, since: u64, now: LogPosition) -> Option<Guess> {
        if since > now.seq || now.seq - since > MAX_CHANGES {
            return None;
        }
        // Held while the store is asked: thousands ask the same at once.
        let mut guesses = self.0.lock().await;
        let known = guesses.get(&since);
        if let Some(known) =
            known.filter(|guess| guess.as_ref().is_none_or(|guess| guess.upto.era == now.era))
        {
            return known.clone();
        }
        let guess = match store.changes_since(since).await {
            Ok(Changes::Rows { seq, rows }) => {
                let keys = rows.ips.iter().filter_map(|(key, _)| key.parse().ok()).collect();
                Some(Guess { since, upto: LogPosition { seq, ..now }, keys })
            }
            Ok(Changes::Reload { .. }) | Err(_) => None,
        };
        if guesses.len() >= MAX_GUESSES {
            guesses.clear();
        }
        guesses.insert(since, guess.clone());
        guess
    }
}
