//! The set that a list becomes: whether it may, its bytes, and what it changes.

use std::collections::BTreeMap;

use serde::Serialize;
use tidegate_author::ban_list::{ListFormat, RefusalCode};
use tidegate_policy::address::Prefix;
use tidegate_policy::codec::FormatError;
use tidegate_policy::table::{AddressTable, Entry, EntryState};

use super::{Bans, End};
use crate::ban_lists::check::CheckedList;
use crate::feed::SourceSet;

/// Two ends that differ by no more seconds are the same: lists say durations, which are counted from the
/// second of the fetch, so that each entry would be another one each time.
const SAME_END_S: u32 = 10;

/// What became of a list's entries.
#[derive(Serialize, Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Counts {
    /// How it was read.
    pub format: &'static str,
    /// Different blocks that are taken.
    pub taken: usize,
    /// Different blocks that it only simulates to ban: they are in shadow.
    pub simulated: usize,
    /// Entries that others repeat.
    pub duplicates: u64,
    /// Entries that are not wanted, by reason.
    pub skipped: BTreeMap<&'static str, u64>,
    /// Entries that were refused, by reason.
    pub refused: BTreeMap<&'static str, u64>,
}

impl Counts {
    pub fn of(format: ListFormat, list: &CheckedList) -> Self {
        Self {
            format: format.name(),
            taken: list.bans.len(),
            simulated: list.simulated.as_ref().map_or(0, Vec::len),
            duplicates: list.duplicates,
            skipped: list.skipped.iter().map(|(why, count)| (why.name(), *count)).collect(),
            refused: list.refused.iter().map(|(code, count)| (code.name(), *count)).collect(),
        }
    }

    /// Decisions about something else, or that ask for something else than a ban, are none that is wrong.
    pub fn skip_other_decisions(&mut self) {
        for code in [RefusalCode::OtherScope, RefusalCode::NotABan] {
            if let Some(count) = self.refused.remove(code.name()) {
                self.skipped.insert(code.name(), count);
            }
        }
    }
}

/// Why a list is not in force.
#[derive(Serialize, Clone, PartialEq, Eq, Debug)]
pub(super) struct HeldBack {
    /// `empty` or `shrank`.
    pub code: &'static str,
    /// Entries in force.
    pub had: usize,
    /// Entries of the list.
    pub has: usize,
    /// In words.
    pub detail: String,
}

/// Why a list with these `bans` may not take the place of `held`, if so.
pub(super) fn guard(held: &SourceSet, bans: &Bans, counts: &Counts, max_shrink: f64) -> Option<HeldBack> {
    let (had, has) = (held.len(), bans.len());
    let refused: u64 = counts.refused.values().sum();
    let why = |code, detail| Some(HeldBack { code, had, has, detail });
    if has == 0 && refused > 0 {
        return why("empty", format!("all {refused} entries of the list were refused"));
    }
    if had == 0 {
        return None;
    }
    if has == 0 {
        return why("empty", format!("the list is empty, and had {had} entries"));
    }
    #[expect(clippy::cast_precision_loss, reason = "sets have a few million entries")]
    let lost = 1.0 - has as f64 / had as f64;
    if lost > max_shrink {
        let detail = format!(
            "the list has {has} entries in the place of {had}: it lost more than max_shrink allows, {max_shrink} of 1"
        );
        return why("shrank", detail);
    }
    None
}

/// A set as it is stored, and what it changes.
#[derive(Debug)]
pub(super) struct LaidOut {
    pub bytes: Vec<u8>,
    /// Without those that are only simulated.
    pub entries: usize,
    pub added: u64,
    pub removed: u64,
    /// Entries with another end.
    pub changed: u64,
}

/// Lays out `bans`. Ends that are nearly those of `held` stay as they are.
pub(super) fn lay_out(held: &SourceSet, bans: Bans) -> Result<LaidOut, FormatError> {
    let listed = lay_out_table(&held.listed, bans.listed)?;
    let simulated = lay_out_table(&held.simulated, bans.simulated)?;
    Ok(LaidOut {
        bytes: SourceSet::encode(listed.bytes, &simulated.bytes),
        entries: listed.entries,
        added: listed.added + simulated.added,
        removed: listed.removed + simulated.removed,
        changed: listed.changed + simulated.changed,
    })
}

fn lay_out_table(held: &AddressTable, mut bans: Vec<(Prefix, End)>) -> Result<LaidOut, FormatError> {
    let (mut added, mut changed) = (0u64, 0u64);
    let mut before = held.iter().peekable();
    let mut kept = 0usize;
    for (prefix, end) in &mut bans {
        while before.next_if(|entry| entry.prefix < *prefix).is_some() {}
        match before.next_if(|entry| entry.prefix == *prefix) {
            None => added += 1,
            Some(entry) => {
                kept += 1;
                let had = match entry.state {
                    EntryState::Present(had) => had,
                    EntryState::Absent => None,
                };
                match (*end, had) {
                    (Some(new), Some(old)) if new.abs_diff(old) <= SAME_END_S => *end = Some(old),
                    (new, old) => changed += u64::from(new != old),
                }
            }
        }
    }
    let entry = |(prefix, end): &(Prefix, End)| Entry { prefix: *prefix, state: EntryState::Present(*end) };
    let bytes = AddressTable::encode(bans.iter().map(entry))?;
    Ok(LaidOut { bytes, entries: bans.len(), added, removed: (held.len() - kept) as u64, changed })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bans(last: std::ops::Range<u8>, end: End) -> Vec<(Prefix, End)> {
        last.map(|n| (Prefix::host([192, 0, 2, n].into()), end)).collect()
    }

    fn set(listed: Vec<(Prefix, End)>) -> SourceSet {
        let bans = Bans { listed, ..Bans::default() };
        SourceSet::from_bytes(lay_out(&SourceSet::default(), bans).unwrap().bytes).unwrap()
    }

    fn listed(bans: Vec<(Prefix, End)>) -> Bans {
        Bans { listed: bans, ..Bans::default() }
    }

    #[test]
    fn a_list_that_became_empty_or_lost_too_much_is_held_back() {
        let held = set(bans(0..100, None));
        let counts = Counts::default();
        let code = |has: u8, max_shrink| {
            guard(&held, &listed(bans(0..has, None)), &counts, max_shrink).map(|why| why.code)
        };
        assert_eq!(code(0, 1.0), Some("empty"));
        assert_eq!(code(49, 0.5), Some("shrank"));
        for (has, max_shrink) in [(50, 0.5), (1, 1.0), (100, 0.0), (200, 0.0)] {
            assert_eq!(code(has, max_shrink), None, "{has} {max_shrink}");
        }
        assert_eq!(code(99, 0.0), Some("shrank"));
        let (none, nothing) = (SourceSet::default(), Bans::default());
        assert_eq!(guard(&none, &nothing, &counts, 0.5), None, "it was empty before");
        let refused = Counts { refused: [("not_an_address", 5)].into(), ..Counts::default() };
        assert_eq!(guard(&none, &nothing, &refused, 1.0).map(|why| why.code), Some("empty"));
    }

    #[test]
    fn what_differs_is_counted_and_ends_do_not_wander() {
        let held = set(bans(0..10, Some(1_000)));
        let lay_out = |held: &SourceSet, bans| lay_out(held, listed(bans));
        let same = lay_out(&held, bans(0..10, Some(1_007))).unwrap();
        assert_eq!((same.added, same.removed, same.changed, same.entries), (0, 0, 0, 10));
        assert_eq!(same.bytes, held.listed.as_bytes());
        let other = lay_out(&held, [bans(5..10, Some(1_050)), bans(20..23, None)].concat()).unwrap();
        assert_eq!((other.added, other.removed, other.changed, other.entries), (3, 5, 5, 8));
        let never = lay_out(&held, bans(0..10, None)).unwrap();
        assert_eq!((never.added, never.removed, never.changed), (0, 0, 10));
    }

    #[test]
    fn what_is_simulated_is_a_table_of_its_own() {
        let held = set(bans(0..10, None));
        let simulated = Bans { listed: bans(0..9, None), simulated: bans(9..10, None) };
        let new = super::lay_out(&held, simulated).unwrap();
        assert_eq!((new.entries, new.added, new.removed), (9, 1, 1));
        let read = SourceSet::from_bytes(new.bytes).unwrap();
        assert_eq!((read.listed.len(), read.simulated.len()), (9, 1));
    }
}
