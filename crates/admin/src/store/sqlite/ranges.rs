//! Ranges of event numbers, both ends included, and the tables that hold them.

use rusqlite::{Connection, params};
use tidegate_policy::wire::event::VmId;

use super::integers::{from_sql, to_sql};

/// Highest event number of a source, whatever it says. A busy gateway would need years to reach it.
pub(super) const MAX_NUMBER: u64 = 1 << 48;

/// Event numbers `first` to `last`, never empty.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct NumberRange {
    pub(super) first: u64,
    pub(super) last: u64,
}

impl NumberRange {
    /// The range if it is valid: 1 <= `first` <= `last` <= [`MAX_NUMBER`].
    pub(super) fn checked(first: u64, last: u64) -> Option<Self> {
        (1 <= first && first <= last && last <= MAX_NUMBER).then_some(Self { first, last })
    }

    /// How many numbers it has.
    pub(super) fn len(self) -> u64 {
        self.last - self.first + 1
    }

    /// Whether `number` is in it.
    pub(super) fn has(self, number: u64) -> bool {
        (self.first..=self.last).contains(&number)
    }

    /// Its indices in `whole`, of which it must be a part.
    pub(super) fn within(self, whole: Self) -> std::ops::RangeInclusive<usize> {
        (self.first - whole.first) as usize..=(self.last - whole.first) as usize
    }

    /// The intersection.
    pub(super) fn common(self, other: Self) -> Option<Self> {
        let (first, last) = (self.first.max(other.first), self.last.min(other.last));
        (first <= last).then_some(Self { first, last })
    }

    /// The parts of it that are not in `taken`, which must be sorted and disjoint.
    pub(super) fn without(self, taken: &[Self]) -> Vec<Self> {
        let mut left = Vec::new();
        let mut next = self.first;
        for t in taken.iter().filter_map(|t| t.common(self)) {
            if next < t.first {
                left.push(Self { first: next, last: t.first - 1 });
            }
            next = t.last + 1;
        }
        if next <= self.last {
            left.push(Self { first: next, last: self.last });
        }
        left
    }
}

/// A table of disjoint ranges per source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum RangeTable {
    /// Numbers whose rows were stored.
    Ledger,
    /// Numbers that were given up.
    Dropped,
}

impl RangeTable {
    fn name(self) -> &'static str {
        match self {
            Self::Ledger => "ledger",
            Self::Dropped => "dropped",
        }
    }

    /// Its ranges of `source` that overlap `range`, in order; the first `most` of them.
    pub(super) fn overlapping(
        self,
        conn: &Connection,
        source: VmId,
        range: NumberRange,
        most: usize,
    ) -> rusqlite::Result<Vec<NumberRange>> {
        // The ranges are disjoint: of those that begin before `range` only the last can overlap
        // it.
        let mut statement = conn.prepare_cached(&format!(
            "SELECT first, last FROM {0} WHERE source = ?1 AND first <= ?3 AND first >= coalesce(
               (SELECT max(first) FROM {0} WHERE source = ?1 AND first <= ?2), 0) ORDER BY first LIMIT ?4",
            self.name()
        ))?;
        let key = source.0.to_be_bytes();
        // The first one may end before `range` begins.
        let limit = to_sql(most as u64).saturating_add(1);
        let rows = statement
            .query_map(params![key, to_sql(range.first), to_sql(range.last), limit], |row| {
                Ok(NumberRange { first: from_sql(row.get(0)?), last: from_sql(row.get(1)?) })
            })?;
        let found: Result<Vec<NumberRange>, _> = rows.collect();
        Ok(found?.into_iter().filter(|r| r.common(range).is_some()).take(most).collect())
    }

    /// How many numbers of `source` up to `upto` it has.
    pub(super) fn count_upto(self, conn: &Connection, source: VmId, upto: u64) -> rusqlite::Result<u64> {
        let count: i64 = conn
            .prepare_cached(&format!(
                "SELECT coalesce(sum(min(last, ?2) - first + 1), 0) FROM {} WHERE source = ?1 AND first <= ?2",
                self.name()
            ))?
            .query_row(params![source.0.to_be_bytes(), to_sql(upto)], |row| row.get(0))?;
        Ok(from_sql(count))
    }
}

/// Adds `range`, which must not overlap what the ledger has, and merges it with its neighbours.
pub(super) fn add_to_ledger(conn: &Connection, source: VmId, range: NumberRange) -> rusqlite::Result<()> {
    let key = source.0.to_be_bytes();
    let after: Option<i64> = conn
        .prepare_cached("DELETE FROM ledger WHERE source = ?1 AND first = ?2 RETURNING last")?
        .query_map(params![key, to_sql(range.last + 1)], |row| row.get(0))?
        .next()
        .transpose()?;
    let last = after.unwrap_or(to_sql(range.last));
    let grown = conn
        .prepare_cached(
            "UPDATE ledger SET last = ?3 WHERE source = ?1 AND last = ?2 AND first =
               (SELECT max(first) FROM ledger WHERE source = ?1 AND first <= ?2)",
        )?
        .execute(params![key, to_sql(range.first - 1), last])?;
    if grown == 0 {
        conn.prepare_cached("INSERT INTO ledger (source, first, last) VALUES (?1, ?2, ?3)")?
            .execute(params![key, to_sql(range.first), last])?;
    }
    Ok(())
}

/// Adds `range`, which must not overlap what was dropped before.
pub(super) fn add_to_dropped(
    conn: &Connection,
    source: VmId,
    range: NumberRange,
    reason: &str,
) -> rusqlite::Result<()> {
    let key = source.0.to_be_bytes();
    let grown = conn
        .prepare_cached(
            "UPDATE dropped SET last = ?3 WHERE source = ?1 AND last = ?2 AND reason = ?4 AND first =
               (SELECT max(first) FROM dropped WHERE source = ?1 AND first <= ?2)",
        )?
        .execute(params![key, to_sql(range.first - 1), to_sql(range.last), reason])?;
    if grown == 0 {
        conn.prepare_cached("INSERT INTO dropped (source, first, last, reason) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![key, to_sql(range.first), to_sql(range.last), reason])?;
    }
    Ok(())
}

/// Removes `range` from the dropped ranges: its events arrived after all. Returns how many
/// numbers were removed.
pub(super) fn take_from_dropped(
    conn: &Connection,
    source: VmId,
    range: NumberRange,
) -> rusqlite::Result<u64> {
    let key = source.0.to_be_bytes();
    let mut taken = 0;
    for old in RangeTable::Dropped.overlapping(conn, source, range, usize::MAX)? {
        let reason: String = conn
            .prepare_cached("DELETE FROM dropped WHERE source = ?1 AND first = ?2 RETURNING reason")?
            .query_row(params![key, to_sql(old.first)], |row| row.get(0))?;
        for rest in old.without(&[range]) {
            conn.prepare_cached("INSERT INTO dropped (source, first, last, reason) VALUES (?1, ?2, ?3, ?4)")?
                .execute(params![key, to_sql(rest.first), to_sql(rest.last), reason])?;
        }
        taken += old.common(range).map_or(0, NumberRange::len);
    }
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn numbers(ranges: &[NumberRange]) -> Vec<u64> {
        ranges.iter().flat_map(|r| r.first..=r.last).collect()
    }

    proptest! {
        #[test]
        fn without_is_set_difference(first in 1u64..60, len in 1u64..40, mut cuts in prop::collection::btree_set(1u64..110, 0..12)) {
            let range = NumberRange { first, last: first + len - 1 };
            if cuts.len() % 2 == 1 { cuts.pop_last(); }
            let cuts: Vec<u64> = cuts.into_iter().collect();
            let taken: Vec<NumberRange> = cuts.chunks(2).map(|c| NumberRange { first: c[0], last: c[1] }).collect();
            let gone = numbers(&taken);
            let want: Vec<u64> = (range.first..=range.last).filter(|n| !gone.contains(n)).collect();
            prop_assert_eq!(numbers(&range.without(&taken)), want);
        }
    }

    #[test]
    fn what_is_no_run_of_numbers() {
        assert_eq!(NumberRange::checked(0, 4), None);
        assert_eq!(NumberRange::checked(5, 4), None);
        assert_eq!(NumberRange::checked(5, u64::MAX), None);
        assert_eq!(NumberRange::checked(5, 5).map(NumberRange::len), Some(1));
    }
}
