//! What is known of rows besides what they say: which have no effect and why, and, of
//! all tables but `ip_monitor`, a fingerprint of each row, so that one that changed
//! unseen is found.

use std::collections::HashSet;
use std::sync::Arc;

use imbl::OrdMap;
use tidegate_policy::digest::BlobHash;

use super::fingerprint::FingerprintedRow;
use crate::store::StoreTable;

/// A row that could not be understood, or has no effect for another reason.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Quarantined {
    /// Where it stands.
    pub table: StoreTable,
    /// Its raw key.
    pub key: Arc<str>,
    /// What is wrong, and what would be right.
    pub why: Arc<str>,
}

/// See the module. A copy shares what it has in common with the original.
#[derive(Clone, Default)]
pub(super) struct RowIndex {
    quarantine: OrdMap<(StoreTable, Arc<str>), Arc<str>>,
    /// Of malformed rows as well.
    fingerprints: OrdMap<(StoreTable, Arc<str>), BlobHash>,
}

impl RowIndex {
    /// Takes note of a row as it now stands (`None`: deleted), and forgets what was
    /// wrong with it before.
    pub fn note<R: FingerprintedRow>(&mut self, table: StoreTable, key: &str, row: Option<&R>) {
        let key = (table, Arc::from(key));
        self.quarantine.remove(&key);
        match row {
            Some(row) => drop(self.fingerprints.insert(key, row.fingerprint())),
            None => drop(self.fingerprints.remove(&key)),
        }
    }

    /// Whether exactly this row was noted already.
    pub fn has<R: FingerprintedRow>(&self, table: StoreTable, row: &R) -> bool {
        self.fingerprints.get(&(table, Arc::from(row.key()))) == Some(&row.fingerprint())
    }

    /// The row has no effect; `why` says what is wrong, and what would be right.
    pub fn set_aside(&mut self, table: StoreTable, key: &str, why: String) {
        self.quarantine.insert((table, Arc::from(key)), why.into());
    }

    /// The row has an effect, or is gone.
    pub fn release(&mut self, table: StoreTable, key: &str) {
        self.quarantine.remove(&(table, Arc::from(key)));
    }

    /// Forgets the rows of a table, before it is read again.
    pub fn forget(&mut self, table: StoreTable) {
        let others = self.fingerprints.iter().filter(|((of, _), _)| *of != table);
        self.fingerprints = others.map(|(key, hash)| (key.clone(), *hash)).collect();
        let others = self.quarantine.iter().filter(|((of, _), _)| *of != table);
        self.quarantine = others.map(|(key, why)| (key.clone(), why.clone())).collect();
    }

    /// The key of the first row in which this and `rows`, all that `table` has, differ.
    /// Those in `moved` are passed over.
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
    pub fn quarantine(&self) -> impl ExactSizeIterator<Item = Quarantined> + '_ {
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
