//! Per row: quarantine (it has no effect, and why) and, for all tables but `ip_monitor`, a
//! fingerprint, so that rows that changed unnoticed are found.

use std::collections::HashSet;
use std::sync::Arc;

use imbl::OrdMap;
use tidegate_policy::digest::BlobHash;

use super::fingerprint::FingerprintedRow;
use crate::store::StoreTable;

/// A row that is invalid, or has no effect for another reason.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Quarantined {
    /// Its table.
    pub table: StoreTable,
    /// Its raw key.
    pub key: Arc<str>,
    /// What is wrong, and what would be right.
    pub why: Arc<str>,
}

/// A row that cannot be read.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct UnreadableRow<T> {
    /// What is wrong, and what would be right.
    pub why: String,
    /// What holds all the same: what the row said before or, where that is not known, what can be
    /// read of it.
    pub kept: Option<T>,
}

/// Quarantine and fingerprints of rows. Copies share their common parts.
#[derive(Clone, Default)]
pub(super) struct RowIndex {
    quarantine: OrdMap<(StoreTable, Arc<str>), Arc<str>>,
    /// Of invalid rows as well.
    fingerprints: OrdMap<(StoreTable, Arc<str>), BlobHash>,
    /// Of rows that cannot be read since their key was changed: the key that they had.
    origins: OrdMap<(StoreTable, Arc<str>), Arc<str>>,
}

impl RowIndex {
    /// Notes the current row (`None`: deleted), and takes it out of quarantine.
    pub fn note<R: FingerprintedRow>(&mut self, table: StoreTable, key: &str, row: Option<&R>) {
        self.unquarantine(table, key);
        let key = (table, Arc::from(key));
        match row {
            Some(row) => drop(self.fingerprints.insert(key, row.fingerprint())),
            None => drop(self.fingerprints.remove(&key)),
        }
    }

    /// Whether exactly this row was noted already.
    pub fn has<R: FingerprintedRow>(&self, table: StoreTable, row: &R) -> bool {
        self.fingerprints.get(&(table, Arc::from(row.key()))) == Some(&row.fingerprint())
    }

    /// Puts a row into quarantine; `why` says what is wrong, and what would be right.
    pub fn quarantine(&mut self, table: StoreTable, key: &str, why: String) {
        self.quarantine.insert((table, Arc::from(key)), why.into());
    }

    /// Takes a row out of quarantine: it has an effect, or is deleted.
    pub fn unquarantine(&mut self, table: StoreTable, key: &str) {
        let key = (table, Arc::from(key));
        // Otherwise a map without it would be another one: see `has_same_quarantine`.
        if self.quarantine.contains_key(&key) {
            self.quarantine.remove(&key);
        }
    }

    /// Notes that a row's key was changed.
    pub fn note_move(&mut self, table: StoreTable, from: &str, to: &str) {
        let origin = self.origin(table, from);
        self.origins.insert((table, to.into()), origin);
    }

    /// The key under which a row that cannot be read stays in force.
    pub fn origin(&self, table: StoreTable, key: &str) -> Arc<str> {
        let key = Arc::from(key);
        self.origins.get(&(table, Arc::clone(&key))).cloned().unwrap_or(key)
    }

    /// The key of a row that cannot be read, and stays in force under this one, which it had.
    pub fn moved_from(&self, table: StoreTable, key: &str) -> Option<&Arc<str>> {
        self.origins.iter().find_map(|((of, now), origin)| (*of == table && **origin == *key).then_some(now))
    }

    /// Whether there is one.
    pub fn is_origin(&self, table: StoreTable, key: &str) -> bool {
        self.moved_from(table, key).is_some()
    }

    /// Notes that the row with this key can be read, or is gone. Returns the key under which it was
    /// in force until now, if that is another one.
    pub fn take_origin(&mut self, table: StoreTable, key: &str) -> Option<Arc<str>> {
        let origin = self.origins.remove(&(table, Arc::from(key)))?;
        (!self.is_origin(table, &origin)).then_some(origin)
    }

    /// Notes that there is a row with this key, in place of any that had it before.
    pub fn replace_origin(&mut self, table: StoreTable, key: &str) {
        if self.is_origin(table, key) {
            let others = self.origins.iter().filter(|((of, _), origin)| *of != table || ***origin != *key);
            self.origins = others.map(|(key, origin)| (key.clone(), origin.clone())).collect();
        }
    }

    /// Keys of `table` of rows that cannot be read since their key was changed.
    pub fn moved(&self, table: StoreTable) -> Vec<Arc<str>> {
        self.origins.keys().filter(|(of, _)| *of == table).map(|(_, key)| key.clone()).collect()
    }

    /// Whether no row went into quarantine or out of it between the two.
    pub fn has_same_quarantine(&self, other: &Self) -> bool {
        self.quarantine.ptr_eq(&other.quarantine)
    }

    /// What is wrong with a row in quarantine.
    pub fn why(&self, table: StoreTable, key: &str) -> Option<Arc<str>> {
        self.quarantine.get(&(table, Arc::from(key))).cloned()
    }

    /// Removes all rows of a table, before it is read again.
    pub fn forget(&mut self, table: StoreTable) {
        let others = self.fingerprints.iter().filter(|((of, _), _)| *of != table);
        self.fingerprints = others.map(|(key, hash)| (key.clone(), *hash)).collect();
        let others = self.quarantine.iter().filter(|((of, _), _)| *of != table);
        self.quarantine = others.map(|(key, why)| (key.clone(), why.clone())).collect();
    }

    /// The key of the first row in which the index and `rows`, all rows of `table`, differ. Keys
    /// in `moved` are left out.
    pub fn first_difference<R: FingerprintedRow>(
        &self,
        table: StoreTable,
        rows: &[R],
        moved: &HashSet<(StoreTable, String)>,
    ) -> Option<String> {
        let stored: HashSet<&str> = rows.iter().map(R::key).collect();
        let held = self.fingerprints.keys().filter(|(of, _)| *of == table).map(|(_, key)| &**key);
        let gone = held.filter(|key| !stored.contains(key));
        let changed = rows.iter().filter(|row| !self.has(table, *row)).map(R::key);
        let mut differing = changed.chain(gone);
        differing.find(|key| !moved.contains(&(table, (*key).to_owned()))).map(str::to_owned)
    }

    /// Rows in quarantine, by table and key.
    pub fn quarantined(&self) -> impl ExactSizeIterator<Item = Quarantined> + '_ {
        self.quarantine.iter().map(|((table, key), why)| Quarantined {
            table: *table,
            key: key.clone(),
            why: why.clone(),
        })
    }

    /// Rows of `table` in quarantine: key, and what is wrong.
    pub fn quarantine_of(&self, table: StoreTable) -> impl Iterator<Item = (&Arc<str>, &Arc<str>)> {
        let of = self.quarantine.iter().filter(move |((of, _), _)| *of == table);
        of.map(|((_, key), why)| (key, why))
    }
}
