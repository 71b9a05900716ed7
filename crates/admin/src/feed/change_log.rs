//! Log of changed bans in memory: the prefixes that changed since an earlier position of a
//! gateway.

use std::collections::BTreeSet;
use std::time::Duration;

use imbl::{OrdMap, OrdSet};
use tidegate_policy::address::Prefix;
use tokio::time::Instant;

/// A position in the sequence of states of this process: `seq` counts within an epoch, and
/// `epoch_index` counts epochs, so that positions of former epochs stay comparable.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub(super) struct LogPosition {
    pub epoch_index: u32,
    pub seq: u64,
}

/// Prefixes by the position of their last change.
#[derive(Clone, Default)]
pub(super) struct ChangedKeys {
    at: OrdMap<Prefix, LogPosition>,
    /// `None` sorts before every prefix, for ranges; it is never stored.
    order: OrdSet<(LogPosition, Option<Prefix>)>,
}

impl ChangedKeys {
    fn note(&mut self, prefix: Prefix, position: LogPosition) {
        if let Some(before) = self.at.insert(prefix, position) {
            self.order.remove(&(before, Some(prefix)));
        }
        self.order.insert((position, Some(prefix)));
    }

    /// Keys whose last change came after `since`.
    pub fn after(&self, since: LogPosition) -> impl Iterator<Item = Prefix> + '_ {
        let next = LogPosition { seq: since.seq.saturating_add(1), ..since };
        self.order.range((next, None)..).filter_map(|(_, prefix)| *prefix)
    }

    /// The keys, in order.
    pub fn keys(&self) -> impl Iterator<Item = Prefix> + '_ {
        self.at.keys().copied()
    }

    pub fn len(&self) -> usize {
        self.at.len()
    }
}

/// The changes since the base was cut, and those before it while gateways may still have an older
/// base.
#[derive(Clone)]
pub(super) struct ChangeLog {
    /// Changes since the base was cut: the keys of the overlay.
    pub current: ChangedKeys,
    older: Vec<ClosedLog>,
    /// Changes up to this position are not known.
    floor: LogPosition,
}

/// The changes between two cuts, as known at the later one.
#[derive(Clone)]
struct ClosedLog {
    changed: ChangedKeys,
    end: LogPosition,
    ended: Instant,
}

impl ChangeLog {
    /// A log without changes since `floor`.
    pub fn new(floor: LogPosition) -> Self {
        Self { current: ChangedKeys::default(), older: Vec::new(), floor }
    }

    pub fn note(&mut self, prefixes: &[Prefix], position: LogPosition) {
        for prefix in prefixes {
            self.current.note(*prefix, position);
        }
    }

    /// Notes that a base was cut at the position `cut`, when the current changes were `at_cut`.
    pub fn cut(&mut self, at_cut: ChangedKeys, cut: LogPosition) {
        let mut since = ChangedKeys::default();
        for prefix in self.current.after(cut) {
            if let Some(position) = self.current.at.get(&prefix) {
                since.note(prefix, *position);
            }
        }
        self.current = since;
        self.older.push(ClosedLog { changed: at_cut, end: cut, ended: Instant::now() });
    }

    /// Removes closed logs older than `keep` or beyond `max_keys` keys, but never the last one.
    pub fn prune(&mut self, keep: Duration, max_keys: usize) {
        let keys = |older: &[ClosedLog]| older.iter().map(|older| older.changed.len()).sum::<usize>();
        while self.older.len() > 1 && (self.older[0].ended.elapsed() > keep || keys(&self.older) > max_keys) {
            self.floor = self.older.remove(0).end;
        }
    }

    /// Whether all changes after `since` are known.
    pub fn reaches(&self, since: LogPosition) -> bool {
        since >= self.floor
    }

    /// The prefixes in which the bans at `since` may differ from the base that was cut at `cut`,
    /// whichever of the two is older; `None`: the log does not reach back to `since`.
    pub fn between(&self, since: LogPosition, cut: LogPosition) -> Option<BTreeSet<Prefix>> {
        if !self.reaches(since) {
            return None;
        }
        if since > cut {
            return Some(self.current.keys().collect());
        }
        Some(self.older.iter().flat_map(|older| older.changed.after(since)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn prefix(n: u8) -> Prefix {
        Prefix::host([192, 0, 2, n].into())
    }

    fn position(step: usize) -> LogPosition {
        LogPosition { epoch_index: 0, seq: step as u64 + 1 }
    }

    /// Whether each key exists, after each step.
    fn history(flips: &[u8]) -> Vec<[bool; 6]> {
        let mut states = vec![[false; 6]];
        for key in flips {
            let mut next = *states.last().unwrap_or(&[false; 6]);
            next[usize::from(*key)] ^= true;
            states.push(next);
        }
        states
    }

    fn differ(states: &[[bool; 6]], one: usize, other: usize) -> BTreeSet<Prefix> {
        let differs = |key: &u8| states[one][usize::from(*key)] != states[other][usize::from(*key)];
        (0..6).filter(differs).map(prefix).collect()
    }

    proptest! {
        /// Whatever a gateway missed, and wherever the base was cut meanwhile: the keys that it
        /// gets are all in which it can differ.
        #[test]
        fn what_differs_is_told(
            flips in proptest::collection::vec(0..6u8, 1..40),
            cuts in proptest::collection::btree_map(0..40usize, 0..6usize, 0..6),
        ) {
            let states = history(&flips);
            let mut log = ChangeLog::new(position(0));
            let (mut cut, mut in_progress): (usize, Option<(usize, usize, ChangedKeys)>) = (0, None);
            for (step, key) in flips.iter().enumerate() {
                let now = step + 1;
                log.note(&[prefix(*key)], position(now));
                if let (Some(takes), None) = (cuts.get(&step), &in_progress) {
                    in_progress = Some((now, now + takes, log.current.clone()));
                }
                if let Some((at, _, at_cut)) = in_progress.take_if(|(_, done, _)| *done <= now) {
                    log.cut(at_cut, position(at));
                    cut = at;
                }
                let differ = |one, other| differ(&states, one, other);
                for since in 0..=now {
                    let folded = log.between(position(since), position(cut)).unwrap();
                    prop_assert!(differ(since, cut).is_subset(&folded));
                    let told: BTreeSet<_> = log.current.after(position(since)).collect();
                    prop_assert!(since < cut || differ(since, now).is_subset(&told));
                }
                let overlay: BTreeSet<_> = log.current.keys().collect();
                prop_assert!(differ(cut, now).is_subset(&overlay));
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_forgotten_is_not_guessed() {
        let mut log = ChangeLog::new(position(0));
        for step in 1..=3 {
            log.note(&[prefix(1)], position(step));
            let at_cut = log.current.clone();
            log.cut(at_cut, position(step));
            log.prune(Duration::from_secs(60), 100);
            tokio::time::sleep(Duration::from_secs(25)).await;
        }
        assert!(log.between(position(0), position(3)).is_some());
        log.prune(Duration::from_secs(60), 100);
        assert_eq!(log.between(position(0), position(3)), None);
        assert!(log.between(position(1), position(3)).is_some());
        tokio::time::sleep(Duration::from_secs(500)).await;
        log.prune(Duration::from_secs(60), 0);
        assert_eq!(log.between(position(1), position(3)), None);
        assert!(log.between(position(2), position(3)).is_some(), "the last cut stays");
    }
}
