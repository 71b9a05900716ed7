//! The most frequent values of a stream in bounded memory: the space-saving algorithm (Metwally,
//! Agrawal, El Abbadi 2005). A value with more than 1/limit of all is always among those kept; a count is never
//! too low, and too high by as much as is kept beside it at most.

use std::borrow::Borrow;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::Hash;

/// Counts per value.
pub(super) struct SpaceSaving<K> {
    /// Values that are kept at most.
    limit: usize,
    places: Vec<Tracked<K>>,
    by_key: HashMap<K, usize>,
    /// Heap of one (count, place) per place, lowest count first. Counts in it may be out of date,
    /// too low: the first one is corrected when the lowest is looked for.
    by_count: BinaryHeap<Reverse<(u64, usize)>>,
    /// Places that differ from what was stored of them.
    changed: Vec<usize>,
}

/// A value that is kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Tracked<K> {
    pub(super) key: K,
    pub(super) count: u64,
    /// How much `count` may be too high.
    pub(super) over: u64,
    /// When it last came, milliseconds since the Unix epoch.
    pub(super) last_ms: i64,
    is_changed: bool,
}

impl<K: Clone + Eq + Hash + Ord> SpaceSaving<K> {
    /// Without any; keeps `limit` of them.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            places: Vec::new(),
            by_key: HashMap::new(),
            by_count: BinaryHeap::new(),
            changed: Vec::new(),
        }
    }

    /// Puts a value back that was stored.
    pub(super) fn put(&mut self, key: K, count: u64, over: u64, last_ms: i64) {
        let place = self.places.len();
        // Another program may have written too many rows, or a value twice.
        if place >= self.limit || self.by_key.contains_key(&key) {
            return;
        }
        self.by_key.insert(key.clone(), place);
        self.by_count.push(Reverse((count, place)));
        self.places.push(Tracked { key, count, over, last_ms, is_changed: false });
    }

    /// Counts a value `many` times.
    pub(super) fn note<Q>(&mut self, key: &Q, many: u64, time_ms: i64)
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let place = match self.by_key.get(key) {
            Some(&place) => place,
            None if self.places.len() < self.limit => {
                self.put(key.to_owned(), 0, 0, time_ms);
                self.places.len() - 1
            }
            None => self.replace_rarest(key.to_owned(), time_ms),
        };
        let Some(found) = self.places.get_mut(place) else { return };
        found.count += many;
        found.last_ms = found.last_ms.max(time_ms);
        if !found.is_changed {
            found.is_changed = true;
            self.changed.push(place);
        }
    }

    /// Replaces the value with the lowest count by `key`, which takes over that count. Returns its place.
    fn replace_rarest(&mut self, key: K, time_ms: i64) -> usize {
        while let Some(mut top) = self.by_count.peek_mut() {
            let Reverse((known, place)) = *top;
            let of = &mut self.places[place];
            if known < of.count {
                *top = Reverse((of.count, place));
                continue;
            }
            // The caller adds 1 to the count, at least.
            *top = Reverse((of.count + 1, place));
            drop(top);
            self.by_key.remove(&of.key);
            self.by_key.insert(key.clone(), place);
            (of.key, of.over, of.last_ms) = (key, of.count, time_ms);
            return place;
        }
        0
    }

    /// The most frequent values, at most `limit`.
    pub(super) fn top(&self, limit: usize) -> Vec<&Tracked<K>> {
        let mut places: Vec<_> = self.places.iter().collect();
        places.sort_unstable_by(|a, b| b.count.cmp(&a.count).then_with(|| a.key.cmp(&b.key)));
        places.truncate(limit);
        places
    }

    /// One value.
    pub(super) fn one<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&Tracked<K>>
    where
        K: Borrow<Q>,
    {
        self.by_key.get(key).map(|&place| &self.places[place])
    }

    /// Whether any differs from what was stored.
    pub(super) fn is_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    /// The places that differ from what was stored, which they do no longer after this.
    pub(super) fn take_changed(&mut self) -> Vec<(u64, Tracked<K>)> {
        let mut changed = std::mem::take(&mut self.changed);
        changed.sort_unstable();
        let take = |place: usize| {
            let of = &mut self.places[place];
            of.is_changed = false;
            (place as u64, of.clone())
        };
        changed.into_iter().map(take).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_count_is_never_too_low_nor_further_off_than_it_says(
            values in prop::collection::vec((prop_oneof![0u32..6, 0u32..60], 1u64..4), 0..600), limit in 1usize..12,
        ) {
            let mut top = SpaceSaving::new(limit);
            let mut exact: HashMap<u32, u64> = HashMap::new();
            for (value, many) in &values {
                top.note(value, *many, 0);
                *exact.entry(*value).or_default() += many;
            }
            let kept = top.top(usize::MAX);
            prop_assert!(kept.len() <= limit && kept.is_sorted_by(|a, b| a.count >= b.count));
            let all = values.iter().map(|(_, many)| many).sum::<u64>();
            prop_assert_eq!(kept.iter().map(|row| row.count).sum::<u64>(), all);
            let rarest = kept.last().map_or(0, |row| row.count);
            for (value, count) in exact {
                match top.one(&value) {
                    Some(row) => prop_assert!(row.count >= count && row.count - row.over <= count, "{row:?} {count}"),
                    None => prop_assert!(count <= rarest, "{value} {count} {rarest}"),
                }
            }
        }
    }
}
