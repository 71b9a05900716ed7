//! What all tables but `ip_monitor` have in common: few rows, each kept as a
//! fingerprint, so that a row that changed unseen is found.

use std::collections::HashSet;
use std::sync::Arc;

use tidegate_author::DocumentError;
use tidegate_policy::digest::{BlobHash, BlobHasher};

use super::snapshot::Snapshot;
use crate::store::{CountriesRow, DocumentRow, FlagRow, StoreTable};

/// The key of the only row of `geo_countries`.
pub(super) const COUNTRIES_KEY: &str = "countries";

/// A row of a table that is compared by fingerprints.
pub(super) trait FingerprintedRow {
    /// Its raw key.
    fn key(&self) -> &str;

    /// Everything else.
    fn fields(&self) -> [Option<&[u8]>; 3];

    /// Tells it from another row of the same key.
    fn fingerprint(&self) -> BlobHash {
        let mut hasher = BlobHasher::default();
        for field in self.fields() {
            // Its length first: what one field ends with is not what the next begins with.
            let len = field.map_or(u64::MAX, |field| field.len() as u64);
            hasher.update(&len.to_le_bytes());
            hasher.update(field.unwrap_or_default());
        }
        hasher.finish()
    }
}

fn bytes(text: &Option<String>) -> Option<&[u8]> {
    text.as_deref().map(str::as_bytes)
}

impl FingerprintedRow for DocumentRow {
    fn key(&self) -> &str {
        &self.name
    }

    fn fields(&self) -> [Option<&[u8]>; 3] {
        [Some(self.document.as_bytes()), bytes(&self.created_at), bytes(&self.updated_at)]
    }
}

impl FingerprintedRow for FlagRow {
    fn key(&self) -> &str {
        &self.name
    }

    fn fields(&self) -> [Option<&[u8]>; 3] {
        [Some(self.value.as_bytes()), bytes(&self.updated_at), None]
    }
}

impl FingerprintedRow for CountriesRow {
    fn key(&self) -> &str {
        COUNTRIES_KEY
    }

    fn fields(&self) -> [Option<&[u8]>; 3] {
        [Some(&self.table), Some(self.source.as_bytes()), bytes(&self.imported_at)]
    }
}

impl Snapshot {
    /// Takes note of a row as it now stands (`None`: deleted), and forgets what
    /// was wrong with it before.
    pub(super) fn note_row<R: FingerprintedRow>(&mut self, table: StoreTable, key: &str, row: Option<&R>) {
        let key = (table, Arc::from(key));
        self.quarantine.remove(&key);
        match row {
            Some(row) => drop(self.small_rows.insert(key, row.fingerprint())),
            None => drop(self.small_rows.remove(&key)),
        }
    }

    /// Whether exactly this row was taken already.
    pub(super) fn has_row<R: FingerprintedRow>(&self, table: StoreTable, row: &R) -> bool {
        self.small_rows.get(&(table, Arc::from(row.key()))) == Some(&row.fingerprint())
    }

    /// A row that could not be understood has no effect.
    pub(super) fn set_aside(&mut self, table: StoreTable, key: &str, why: String) {
        self.quarantine.insert((table, Arc::from(key)), why.into());
    }

    /// Forgets the rows of a table, before it is read again.
    pub(super) fn forget_rows(&mut self, table: StoreTable) {
        let others = self.small_rows.iter().filter(|((of, _), _)| *of != table);
        self.small_rows = others.map(|(key, hash)| (key.clone(), *hash)).collect();
        self.forget_quarantine(table);
    }

    /// The first row in which this snapshot and `rows`, all that `table` has, differ. Those
    /// in `moved` are passed over.
    pub(super) fn row_that_differs<R: FingerprintedRow>(
        &self,
        table: StoreTable,
        rows: &[R],
        moved: &HashSet<(StoreTable, String)>,
    ) -> Option<String> {
        let stored: HashSet<&str> = rows.iter().map(R::key).collect();
        let held = self.small_rows.keys().filter(|(of, _)| *of == table).map(|(_, key)| &**key);
        let gone = held.filter(|key| !stored.contains(key));
        let changed = rows.iter().filter(|row| !self.has_row(table, *row)).map(R::key);
        let mut differing = changed.chain(gone);
        differing.find(|key| !moved.contains(&(table, (*key).to_owned()))).map(str::to_owned)
    }
}

/// The first problems of a document, for health.
pub(super) fn describe(errors: &[DocumentError]) -> String {
    let shown = errors.iter().take(3).map(|problem| match problem.pointer.as_str() {
        "" => problem.message.clone(),
        pointer => format!("{pointer}: {}", problem.message),
    });
    let mut text = shown.collect::<Vec<_>>().join("; ");
    if let more @ 1.. = errors.len().saturating_sub(3) {
        text.push_str(&format!("; and {more} more"));
    }
    text
}

/// How many of `all`, taken from the oldest on, fit together.
pub(super) fn how_many_fit(all: usize, fit: impl Fn(usize) -> bool) -> usize {
    let (mut fits, mut too_many) = (0, all.saturating_add(1));
    while too_many - fits > 1 {
        let middle = fits.midpoint(too_many);
        match fit(middle) {
            true => fits = middle,
            false => too_many = middle,
        }
    }
    fits
}
