//! The counters of one rule, in two generations: who has had no request for longest is dropped when
//! there are too many. Dropping half of them at once costs nothing per request, and no order of all
//! keys needs to be kept.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use tidegate_author::{AutoBan, AutoBanKey};
use tidegate_policy::address::Prefix;

use super::Reached;
use super::hits::Hit;
use super::key_counter::{KeyCounter, PARTS};

/// How much later than the window an event may come, milliseconds. Recorders keep events while the
/// service is away: nobody is banned for what was an hour ago.
pub(super) const LATE_MS: i64 = 60_000;

/// The counters of a rule.
pub(super) struct RuleCounters {
    rule: Arc<AutoBan>,
    /// Keys with a request since `old` began.
    young: HashMap<IpAddr, KeyCounter>,
    /// Keys without one.
    old: HashMap<IpAddr, KeyCounter>,
    /// Counters of each generation, at most.
    room: usize,
    dropped: u64,
    late: u64,
}

impl RuleCounters {
    pub(super) fn new(rule: Arc<AutoBan>) -> Self {
        Self { rule, young: HashMap::new(), old: HashMap::new(), room: 1, dropped: 0, late: 0 }
    }

    pub(super) fn rule(&self) -> &Arc<AutoBan> {
        &self.rule
    }

    /// There may be so many counters from now on. Those that are too many go as others come.
    pub(super) fn set_room(&mut self, counters: usize) {
        self.room = (counters / 2).max(1);
    }

    pub(super) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// Counters that were dropped although they had requests of the window, and events that came too
    /// late, since this was asked last.
    pub(super) fn take_losses(&mut self) -> (u64, u64) {
        (std::mem::take(&mut self.dropped), std::mem::take(&mut self.late))
    }

    /// Counts a request at `now` (milliseconds). Returns its key if that has reached the threshold with it:
    /// its counter begins anew then.
    pub(super) fn count(&mut self, hit: &Hit, now: i64) -> Option<Reached> {
        let (bad, all) = self.count_only(hit, now).filter(|_| hit.is_bad)?;
        let rule = &self.rule;
        let is_share =
            rule.share.is_none_or(|share| bad.saturating_mul(100) > all.saturating_mul(share.into()));
        if bad < u64::from(rule.threshold) || !is_share {
            return None;
        }
        self.young.remove(&hit.key);
        let all = rule.share.map(|_| all);
        Some(Reached { rule: Arc::clone(rule), prefix: prefix_of(rule.key, hit.key)?, bad, all })
    }

    /// Counts a request. Returns the sums of its key; `None`: it came too late.
    pub(super) fn count_only(&mut self, hit: &Hit, now: i64) -> Option<(u64, u64)> {
        // A gateway's clock may be ahead.
        let time = hit.time_ms.min(now);
        let window = i64::from(self.rule.window_s) * 1_000;
        if now.saturating_sub(time) > window + LATE_MS {
            self.late += 1;
            return None;
        }
        let part = |time: i64| time.div_euclid(window / PARTS);
        let (part, newest) = (part(time), part(now));
        let counter = self.counter(hit.key, part, newest);
        let sums = counter.add(part, hit.is_bad).then(|| counter.sums());
        self.late += u64::from(sums.is_none());
        sums
    }

    /// The counter of `key`, among the young ones.
    fn counter(&mut self, key: IpAddr, part: i64, newest: i64) -> &mut KeyCounter {
        if !self.young.contains_key(&key) {
            let held = self.old.remove(&key);
            if self.young.len() >= self.room {
                self.drop_old(newest);
            }
            self.young.insert(key, held.unwrap_or_else(|| KeyCounter::new(part)));
        }
        let counter = self.young.entry(key).or_insert_with(|| KeyCounter::new(part));
        // The service's clock was set back.
        if counter.newest() > newest {
            *counter = KeyCounter::new(part);
        }
        counter
    }

    /// The young ones become the old ones.
    fn drop_old(&mut self, newest: i64) {
        let young = HashMap::with_capacity(self.room.min(self.young.len()));
        let old = std::mem::replace(&mut self.old, std::mem::replace(&mut self.young, young));
        let counted = old.into_values().filter(|counter| counter.newest() > newest - PARTS);
        self.dropped += counted.count() as u64;
    }

    /// The counter of exactly this prefix begins anew.
    pub(super) fn forget(&mut self, prefix: &Prefix) {
        let key = prefix.ends().0;
        if prefix_of(self.rule.key, key) == Some(*prefix) {
            self.young.remove(&key);
            self.old.remove(&key);
        }
    }
}

/// What is banned for a key.
fn prefix_of(key: AutoBanKey, address: IpAddr) -> Option<Prefix> {
    match (key, address) {
        (AutoBanKey::Network, IpAddr::V6(v6)) => Prefix::v6(v6.to_bits(), 64),
        _ => Some(Prefix::host(address)),
    }
}
