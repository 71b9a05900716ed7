//! All rows of `ip_monitor` at once: at the start, after a restore, and to check what was kept
//! change by change.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use tidegate_policy::address::Prefix;

use super::ip_monitor::{ChangedPrefixes, IpMonitor};
use super::ip_rows::{ParsedRow, ParsedRows, ReasonInterner, RowStatus};
use super::row_index::{RowIndex, UnreadableRow};
use super::table_room::arrival;
use crate::store::{IpRow, StoreTable};

/// All rows of `ip_monitor`, parsed: by prefix, and the invalid ones.
pub(super) struct ParsedIpMonitor {
    prefixes: Vec<(Prefix, ParsedRows)>,
    quarantine: BTreeMap<Arc<str>, Arc<str>>,
}

impl ParsedIpMonitor {
    /// Parses all rows; those that cannot be read mean what they do in `held`. Takes a second per
    /// million: not for the async threads.
    pub fn read(rows: Vec<IpRow>, held: &IpMonitor, index: &RowIndex) -> Self {
        let mut reasons = ReasonInterner::default();
        let mut quarantine = BTreeMap::new();
        let mut read: Vec<(Prefix, ParsedRow)> = Vec::with_capacity(rows.len());
        for row in rows {
            match held.read(index, &row, &mut reasons) {
                Ok(parsed) => read.push(parsed),
                Err(UnreadableRow { why, kept }) => {
                    read.extend(kept);
                    quarantine.insert(row.ip.into(), why.into());
                }
            }
        }
        read.sort_by(|(a, one), (b, other)| a.cmp(b).then_with(|| one.cmp_key(other)));
        let mut prefixes: Vec<(Prefix, ParsedRows)> = Vec::with_capacity(read.len());
        let mut read = read.into_iter().peekable();
        while let Some((prefix, first)) = read.next() {
            let mut rows = vec![first];
            while let Some((_, row)) = read.next_if(|(next, _)| *next == prefix) {
                rows.push(row);
            }
            prefixes.push((prefix, rows.into()));
        }
        Self { prefixes, quarantine }
    }

    /// The prefixes in which `ips` differs from these rows, with the rows that each should have.
    /// Prefixes for which `skip` returns true are left out.
    pub fn differences(&self, ips: &IpMonitor, skip: impl Fn(&Prefix) -> bool) -> Vec<(Prefix, ParsedRows)> {
        let mut found = Vec::new();
        let mut held = ips.entries.iter().peekable();
        for (prefix, rows) in &self.prefixes {
            while let Some((gone, _)) = held.next_if(|(held, _)| *held < prefix) {
                found.push((*gone, ParsedRows::from([])));
            }
            let same = match held.peek() {
                Some((at, _)) if (*at).cmp(prefix) == Ordering::Equal => {
                    held.next().is_some_and(|(_, held)| held == rows)
                }
                _ => false,
            };
            if !same {
                found.push((*prefix, rows.clone()));
            }
        }
        found.extend(held.map(|(gone, _)| (*gone, ParsedRows::from([]))));
        found.retain(|(prefix, _)| !skip(prefix));
        found
    }

    /// The key of an invalid row that only one side has, or for another reason. Those in `moved`
    /// are left out.
    pub fn quarantine_differs(&self, index: &RowIndex, moved: &HashSet<String>) -> Option<Arc<str>> {
        let held: BTreeMap<_, _> = index.quarantine_of(StoreTable::Ip).collect();
        let mine = self.quarantine.iter().filter(|(key, why)| held.get(key) != Some(why)).map(|(key, _)| key);
        let theirs = held.keys().copied().filter(|key| !self.quarantine.contains_key(*key));
        mine.chain(theirs).find(|key| !moved.contains(&***key)).cloned()
    }

    /// Replaces the contents of `ips` and `index` by these rows.
    pub fn replace_all(self, ips: &mut IpMonitor, index: &mut RowIndex) -> ChangedPrefixes {
        let mut changed = ChangedPrefixes::default();
        let mut differences = self.differences(ips, |_| false);
        if !ips.has_room_for(differences.len()) {
            // Those that came first are to be in.
            differences.sort_by_key(|(_, rows)| {
                RowStatus::ALL.map(|status| arrival(rows, status)).into_iter().max()
            });
        }
        for (prefix, rows) in differences {
            ips.replace_rows(prefix, rows, &mut changed);
        }
        ips.let_in(&mut changed);
        index.forget(StoreTable::Ip);
        for key in index.moved(StoreTable::Ip) {
            if !self.quarantine.contains_key(&key) {
                index.take_origin(StoreTable::Ip, &key);
            }
        }
        for (key, why) in self.quarantine {
            index.quarantine(StoreTable::Ip, &key, why.to_string());
        }
        changed
    }
}
