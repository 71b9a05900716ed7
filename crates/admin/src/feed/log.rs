//! Which bans changed when: what a gateway of some moment still has to hear.

use std::collections::BTreeSet;
use std::time::Duration;

use imbl::{OrdMap, OrdSet};
use tidegate_policy::address::Prefix;
use tokio::time::Instant;

/// A moment in the life of this process: `seq` counts within an epoch, `era`
/// counts epochs, so that moments of a former epoch keep their place.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub(super) struct Moment {
    pub era: u32,
    pub seq: u64,
}

/// Keys by the moment of their last change.
#[derive(Clone, Default)]
pub(super) struct Changed {
    at: OrdMap<Prefix, Moment>,
    /// `None` sorts before every prefix, for ranges; it is never stored.
    order: OrdSet<(Moment, Option<Prefix>)>,
}

impl Changed {
    fn note(&mut self, prefix: Prefix, moment: Moment) {
        if let Some(before) = self.at.insert(prefix, moment) {
            self.order.remove(&(before, Some(prefix)));
        }
        self.order.insert((moment, Some(prefix)));
    }

    /// Keys whose last change came after `since`.
    pub fn after(&self, since: Moment) -> impl Iterator<Item = Prefix> + '_ {
        let next = Moment { seq: since.seq.saturating_add(1), ..since };
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

/// The changes since the base was cut, and those before it for as long as
/// gateways may stand on an older base.
#[derive(Clone)]
pub(super) struct Log {
    /// Since the base was cut: the keys of the overlay.
    pub current: Changed,
    older: Vec<Older>,
    /// Nothing is known of changes up to here.
    floor: Moment,
}

/// The changes between two cuts, as they stood at the later one.
#[derive(Clone)]
struct Older {
    changed: Changed,
    end: Moment,
    ended: Instant,
}

impl Log {
    /// Nothing changed since `floor`.
    pub fn new(floor: Moment) -> Self {
        Self { current: Changed::default(), older: Vec::new(), floor }
    }

    pub fn note(&mut self, prefixes: &[Prefix], moment: Moment) {
        for prefix in prefixes {
            self.current.note(*prefix, moment);
        }
    }

    /// A base was cut when the log was `at_cut`, at the moment `cut`.
    pub fn cut(&mut self, at_cut: Changed, cut: Moment) {
        let mut since = Changed::default();
        for prefix in self.current.after(cut) {
            if let Some(moment) = self.current.at.get(&prefix) {
                since.note(prefix, *moment);
            }
        }
        self.current = since;
        self.older.push(Older { changed: at_cut, end: cut, ended: Instant::now() });
    }

    /// Forgets what is older than `keep`, but not the last cut's.
    pub fn prune(&mut self, keep: Duration, max_keys: usize) {
        let keys = |older: &[Older]| older.iter().map(|older| older.changed.len()).sum::<usize>();
        while self.older.len() > 1 && (self.older[0].ended.elapsed() > keep || keys(&self.older) > max_keys) {
            self.floor = self.older.remove(0).end;
        }
    }

    /// The keys in which a gateway of `since` may differ from the base, which
    /// was cut at `cut`, whichever of the two is the older; `None`: too long ago.
    pub fn between(&self, since: Moment, cut: Moment) -> Option<BTreeSet<Prefix>> {
        if since < self.floor {
            return None;
        }
        if since > cut {
            return Some(self.current.keys().collect());
        }
        Some(self.older.iter().flat_map(|older| older.changed.after(since)).collect())
    }
}
