//! Updates for gateways that were fed by a former process of this service. Their versions are of
//! an epoch that this process does not know, but the store's change log may still have what
//! changed since: a guess, which the gateway verifies by the hash of what it folds. Without it, a
//! restart with one ban in between would make every gateway fetch the whole base.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use tidegate_policy::address::Prefix;
use tokio::sync::Mutex;

use super::change_log::LogPosition;
use crate::store::{Changes, TableStore};

/// Guesses kept: the gateways of a former process are at few different versions.
const MAX_GUESSES: usize = 64;
/// Changes since then, at most; beyond it fetching the base is better.
const MAX_CHANGES: u64 = 100_000;

/// The prefixes that changed after `since`, a number of a former process, up to a position of
/// this one.
#[derive(Clone, Debug)]
pub(super) struct RestartGuess {
    since: u64,
    pub upto: LogPosition,
    pub keys: Arc<[Prefix]>,
}

impl PartialEq for RestartGuess {
    fn eq(&self, other: &Self) -> bool {
        (self.since, self.upto) == (other.since, other.upto)
    }
}

impl Eq for RestartGuess {}

impl Hash for RestartGuess {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.since, self.upto).hash(state);
    }
}

/// The guesses made so far, by number; `None`: the change log does not reach back.
#[derive(Default)]
pub(super) struct RestartGuesses(Mutex<HashMap<u64, Option<RestartGuess>>>);

impl RestartGuesses {
    /// The changes since a former process gave out `since`.
    pub async fn guess(&self, store: &dyn TableStore, since: u64, now: LogPosition) -> Option<RestartGuess> {
        if since > now.seq || now.seq - since > MAX_CHANGES {
            return None;
        }
        // Held while the store is read: thousands of gateways need the same guess at once.
        let mut guesses = self.0.lock().await;
        let known = guesses.get(&since);
        if let Some(known) =
            known.filter(|guess| guess.as_ref().is_none_or(|guess| guess.upto.epoch_index == now.epoch_index))
        {
            return known.clone();
        }
        let guess = match store.changes_since(since).await {
            Ok(Changes::Rows { seq, rows }) => {
                let keys = rows.ips.iter().filter_map(|(key, _)| key.parse().ok()).collect();
                Some(RestartGuess { since, upto: LogPosition { seq, ..now }, keys })
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
