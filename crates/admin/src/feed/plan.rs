//! What an answer to a poll must contain, and a cache of encoded answers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use tidegate_policy::tables::Table;
use tokio::time::Instant;

use super::change_log::LogPosition;
use super::restart_guess::RestartGuess;
use crate::lock::locked;

/// An encoded answer is reused for this long: it contains the server's time.
const FRESH: Duration = Duration::from_millis(50);
/// Answers cached per state, at most.
const MAX_CACHED: usize = 256;

/// What an answer must contain. Gateways with the same plan get the same bytes.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Plan {
    pub bans: BansPlan,
    pub whole: Vec<Table>,
    pub ack_wanted: bool,
}

/// How the bans of a gateway are brought up to date.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum BansPlan {
    /// They are up to date.
    Unchanged,
    /// It has the current base, and had our bans at this position: changes since then.
    Delta(LogPosition),
    /// It has the current base, or must fetch it: the whole overlay.
    Whole,
    /// It has another base, which it folds if the guess is right.
    FoldRestartGuess(RestartGuess),
    /// It has another base, and had our bans at this position: it folds the changes since then.
    FoldSince(LogPosition),
    /// It has another base, and its bans are exactly those of the current base.
    FoldNothing,
}

/// Encoded answers of one state.
#[derive(Default)]
pub(super) struct AnswerCache(Mutex<HashMap<Plan, (Instant, EncodedAnswer)>>);

type EncodedAnswer = Arc<OnceLock<Bytes>>;

impl Clone for AnswerCache {
    /// A copy is empty: states are copied to become another state.
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl AnswerCache {
    /// The bytes of the answer to `plan`; the first caller encodes them.
    pub fn get_or_encode(&self, plan: &Plan, encode: impl FnOnce() -> Bytes) -> Bytes {
        let slot = {
            let mut cache = locked(&self.0);
            if cache.len() >= MAX_CACHED && !cache.contains_key(plan) {
                cache.clear();
            }
            let now = Instant::now();
            let (made, slot) = cache.entry(plan.clone()).or_insert_with(|| (now, EncodedAnswer::default()));
            if now.saturating_duration_since(*made) > FRESH {
                (*made, *slot) = (now, EncodedAnswer::default());
            }
            slot.clone()
        };
        slot.get_or_init(encode).clone()
    }
}
