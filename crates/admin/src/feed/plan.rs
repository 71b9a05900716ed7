//! What an answer to a poll must contain, and answers that were encoded already.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use tidegate_policy::tables::Table;
use tokio::time::Instant;

use super::change_log::LogPosition;
use super::restart_guess::Guess;
use crate::lock::locked;

/// An encoded answer is given out for this long: it says what time it is.
const FRESH: Duration = Duration::from_millis(50);
/// Different answers kept for one state.
const MAX_CACHED: usize = 256;

/// What an answer must contain. Gateways with one plan get the same bytes.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Plan {
    pub bans: BansPlan,
    pub whole: Vec<Table>,
    pub ack_wanted: bool,
}

/// How the bans of a gateway become ours.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum BansPlan {
    /// They are.
    Unchanged,
    /// It stands on our base and held our bans at this moment.
    Delta(LogPosition),
    /// It holds our base, or has to fetch it.
    Whole,
    /// It holds another base, and if the guess is right folds it.
    FoldGuess(Guess),
    /// It holds another base, and our bans as they were at this moment.
    FoldSince(LogPosition),
    /// It holds another base, and exactly what ours says.
    FoldNothing,
}

/// Encoded answers of one state.
#[derive(Default)]
pub(super) struct AnswerCache(Mutex<HashMap<Plan, (Instant, EncodedAnswer)>>);

type EncodedAnswer = Arc<OnceLock<Bytes>>;

impl Clone for AnswerCache {
    /// A copy of a state is about to become another one.
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl AnswerCache {
    /// The bytes of the answer to `plan`; encoded by whoever comes first.
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
