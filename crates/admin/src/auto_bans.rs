//! Automatic bans: counts the requests that rules are about, and says who has reached a rule's
//! threshold. `docs/BANS.md`, "Automatic bans".
//!
//! The store notes events while it writes them ([`NewHits`]), and counts them once they are durable
//! ([`AutoBans::count`]). Who has reached a threshold waits in [`AutoBans::reached`] for
//! the task that bans (`serve/auto_bans.rs`). The counters are in memory: a restart forgets them.

mod hits;
mod key_counter;
mod rule_counters;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tidegate_author::AutoBan;
use tidegate_policy::address::Prefix;
use tokio::sync::Notify;

use crate::lock::locked;
use rule_counters::RuleCounters;

pub use hits::{NewHits, RuleSet};

/// Rules that count at the same time, at most.
pub const MAX_RULES: usize = 32;
/// Counters that are kept, one for each rule and key, at most; rules share them evenly.
pub const MAX_COUNTERS: usize = 100_000;
/// Those who have reached a threshold and wait to be banned, at most.
const MAX_WAITING: usize = 10_000;
/// Health speaks of what happened within this time.
const RECENTLY: Duration = Duration::from_secs(600);

/// Who has reached the threshold of a rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reached {
    /// The rule.
    pub rule: Arc<AutoBan>,
    /// What is to be banned.
    pub prefix: Prefix,
    /// Requests within the window that count,
    pub bad: u64,
    /// of so many; `None`: the rule does not count these.
    pub all: Option<u64>,
}

/// What became of one who had reached a threshold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RuleOutcome {
    /// It was banned.
    Banned,
    /// The rule is in shadow: it is watched.
    Watched,
    /// It was banned, or watched, already.
    Known,
    /// It has addresses of a protected network, or of a private one.
    Protected,
    /// The allow list has it.
    Allowed,
    /// The rule had banned as many within its window as it may.
    HeldBack,
    /// The database took nothing.
    Failed,
}

impl RuleOutcome {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Banned,
        Self::Watched,
        Self::Known,
        Self::Protected,
        Self::Allowed,
        Self::HeldBack,
        Self::Failed,
    ];

    /// The name in metrics and answers.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Banned => "banned",
            Self::Watched => "watched",
            Self::Known => "known",
            Self::Protected => "protected",
            Self::Allowed => "allowed",
            Self::HeldBack => "held_back",
            Self::Failed => "failed",
        }
    }
}

/// Counts by outcome.
pub type PerOutcome = [u64; RuleOutcome::ALL.len()];

/// What a rule has done since it was written, or the service began.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RuleState {
    /// What became of those who had reached its threshold.
    pub outcomes: PerOutcome,
    /// Its counters.
    pub counters: usize,
    /// Counters that were dropped although they had requests of the window.
    pub dropped: u64,
    /// Events that came too late to be counted.
    pub late: u64,
    /// Whether it held bans back within the last 10 minutes.
    pub holds_back: bool,
    /// Whether it dropped counters within the last 10 minutes.
    pub is_full: bool,
}

/// What all rules have done since the service began, those that are gone included.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AutoBanTotals {
    /// What became of those who had reached a threshold.
    pub outcomes: PerOutcome,
    /// The counters.
    pub counters: usize,
    /// See [`RuleState::dropped`].
    pub dropped: u64,
    /// See [`RuleState::late`].
    pub late: u64,
}

/// The rules with their counters.
#[derive(Default)]
pub struct AutoBans {
    rules: Mutex<Arc<RuleSet>>,
    counting: Mutex<Counting>,
    bell: Notify,
}

#[derive(Default)]
struct Counting {
    /// In the order of their names.
    rules: Vec<CountingRule>,
    waiting: VecDeque<Reached>,
    totals: AutoBanTotals,
}

struct CountingRule {
    counters: RuleCounters,
    state: RuleState,
    held_back_at: Option<Instant>,
    dropped_at: Option<Instant>,
}

impl CountingRule {
    fn new(rule: Arc<AutoBan>) -> Self {
        let counters = RuleCounters::new(rule);
        Self { counters, state: RuleState::default(), held_back_at: None, dropped_at: None }
    }
}

impl AutoBans {
    /// Counts by these rules from now on, the first [`MAX_RULES`] by name. One that stays as it is keeps
    /// its counters.
    pub fn set_rules(&self, mut rules: Vec<Arc<AutoBan>>) {
        rules.sort_by(|one, other| one.name.cmp(&other.name));
        rules.truncate(MAX_RULES);
        let mut counting = locked(&self.counting);
        let kept = std::mem::take(&mut counting.rules).into_iter();
        let mut kept: HashMap<String, CountingRule> =
            kept.map(|of| (of.counters.rule().name.clone(), of)).collect();
        let each = MAX_COUNTERS / rules.len().max(1);
        for rule in &rules {
            let same = kept.remove(&rule.name).filter(|of| **of.counters.rule() == **rule);
            let mut of = same.unwrap_or_else(|| CountingRule::new(Arc::clone(rule)));
            of.counters.set_room(each);
            counting.rules.push(of);
        }
        *locked(&self.rules) = Arc::new(RuleSet::new(rules));
    }

    /// The rules, to note events by.
    #[must_use]
    pub fn rules(&self) -> Arc<RuleSet> {
        Arc::clone(&locked(&self.rules))
    }

    /// Counts what was noted, at `now` (milliseconds by the service's clock).
    pub fn count(&self, hits: &NewHits, now: i64) {
        if hits.is_empty() {
            return;
        }
        let mut counting = locked(&self.counting);
        let Counting { rules, waiting, totals } = &mut *counting;
        let was_waiting = waiting.len();
        for (rule, of_rule) in hits.by_rule() {
            // A rule that has been changed since counts anew.
            let Some(of) = rules.iter_mut().find(|of| **of.counters.rule() == **rule) else { continue };
            for hit in of_rule {
                if waiting.len() < MAX_WAITING {
                    waiting.extend(of.counters.count(hit, now));
                } else {
                    // It is looked at again with its next request.
                    of.counters.count_only(hit, now);
                }
            }
            let (dropped, late) = of.counters.take_losses();
            if dropped > 0 {
                of.dropped_at = Some(Instant::now());
            }
            (of.state.dropped, of.state.late) = (of.state.dropped + dropped, of.state.late + late);
            (totals.dropped, totals.late) = (totals.dropped + dropped, totals.late + late);
        }
        if waiting.len() > was_waiting {
            self.bell.notify_one();
        }
    }

    /// The counters of exactly this prefix begin anew.
    pub fn forget(&self, prefix: &Prefix) {
        let mut counting = locked(&self.counting);
        counting.rules.iter_mut().for_each(|of| of.counters.forget(prefix));
        counting.waiting.retain(|reached| reached.prefix != *prefix);
    }

    /// Waits until somebody has reached a threshold, and returns at most `most` of them, those who came
    /// first.
    pub async fn reached(&self, most: usize) -> Vec<Reached> {
        loop {
            {
                let waiting = &mut locked(&self.counting).waiting;
                let count = waiting.len().min(most);
                if count > 0 {
                    return waiting.drain(..count).collect();
                }
            }
            // A bell that rang before is heard here.
            self.bell.notified().await;
        }
    }

    /// Notes what became of `count` who had reached the threshold of `rule`.
    pub fn note(&self, rule: &AutoBan, outcome: RuleOutcome, count: u64) {
        let mut counting = locked(&self.counting);
        counting.totals.outcomes[outcome as usize] += count;
        if let Some(of) = counting.rules.iter_mut().find(|of| **of.counters.rule() == *rule) {
            of.state.outcomes[outcome as usize] += count;
            if outcome == RuleOutcome::HeldBack && count > 0 {
                of.held_back_at = Some(Instant::now());
            }
        }
    }

    /// The rules that count, and what they have done.
    #[must_use]
    pub fn states(&self) -> Vec<(Arc<AutoBan>, RuleState)> {
        let recent = |at: Option<Instant>| at.is_some_and(|at| at.elapsed() < RECENTLY);
        let state = |of: &CountingRule| {
            let state = RuleState {
                counters: of.counters.len(),
                holds_back: recent(of.held_back_at),
                is_full: recent(of.dropped_at),
                ..of.state.clone()
            };
            (Arc::clone(of.counters.rule()), state)
        };
        locked(&self.counting).rules.iter().map(state).collect()
    }

    /// What all rules have done.
    #[must_use]
    pub fn totals(&self) -> AutoBanTotals {
        let counting = locked(&self.counting);
        let counters = counting.rules.iter().map(|of| of.counters.len()).sum();
        AutoBanTotals { counters, ..counting.totals.clone() }
    }
}
