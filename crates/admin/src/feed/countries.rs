//! The row of `geo_countries`: the country table as an import laid it out.

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use tidegate_policy::codec::{FormatError, MAX_TABLE};
use tidegate_policy::geo::CountryTable;
use tidegate_policy::wire::sync::BlobRef;

use super::clock::{self, Millis};
use super::fingerprint::FingerprintedRow;
use super::row_index::RowIndex;
use super::table_bytes::{TableBytes, name};
use crate::store::{CountriesRow, StoreTable};

/// The key of the only row of `geo_countries`.
pub(super) const COUNTRIES_KEY: &str = "countries";

/// The country table that is in force.
#[derive(Debug)]
pub struct CountriesInfo {
    /// What was imported, as the operator named it: a file's name.
    pub source: String,
    /// Runs of IPv4 addresses.
    pub v4: usize,
    /// Runs of IPv6 addresses.
    pub v6: usize,
    /// Its hash and size.
    pub blob: BlobRef,
    imported: Option<Millis>,
    table: CountryTable,
}

impl CountriesInfo {
    /// When it was imported.
    #[must_use]
    pub fn imported(&self) -> Option<Timestamp> {
        Timestamp::from_millisecond(self.imported?.get()).ok()
    }

    /// The table itself. A clone shares the bytes.
    #[must_use]
    pub fn table(&self) -> &CountryTable {
        &self.table
    }

    /// The row that it was read from.
    pub(super) fn to_row(&self) -> CountriesRow {
        CountriesRow {
            source: self.source.clone(),
            imported_at: self.imported.map(clock::text),
            table: self.table.as_bytes().to_vec(),
        }
    }

    fn read(row: CountriesRow) -> Result<Self, FormatError> {
        let blob = name(&row.table, MAX_TABLE)?;
        let table = CountryTable::from_bytes(row.table)?;
        let (v4, v6) = table.len();
        let imported = row.imported_at.as_deref().and_then(clock::millis);
        Ok(Self { source: row.source, v4, v6, blob, imported, table })
    }
}

/// A table's bytes as a buffer, without copying them.
struct CountryBytes(CountryTable);

impl AsRef<[u8]> for CountryBytes {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl FingerprintedRow for CountriesRow {
    fn key(&self) -> &str {
        COUNTRIES_KEY
    }

    fn fields(&self) -> [Option<&[u8]>; 3] {
        let imported_at = self.imported_at.as_deref().map(str::as_bytes);
        [Some(&self.table), Some(self.source.as_bytes()), imported_at]
    }
}

/// Applies the current row; `None`: there is none. If it cannot be read, the table before it,
/// `held`, stays in force.
pub(super) fn apply(held: &mut Option<Arc<CountriesInfo>>, index: &mut RowIndex, row: Option<CountriesRow>) {
    if row.as_ref().is_some_and(|row| index.has(StoreTable::Countries, row)) {
        return;
    }
    index.note(StoreTable::Countries, COUNTRIES_KEY, row.as_ref());
    match row.map(CountriesInfo::read) {
        None => *held = None,
        Some(Ok(info)) => *held = Some(Arc::new(info)),
        Some(Err(error)) => {
            let instead = match held {
                Some(held) => format!("the one before it, of `{}`, stays in force", held.source),
                None => "no country is known until then".to_owned(),
            };
            let why = format!("not a country table ({error}): import it again; {instead}");
            index.quarantine(StoreTable::Countries, COUNTRIES_KEY, why);
        }
    }
}

/// The table of `held`; an empty one without it.
pub(super) fn table(held: Option<&CountriesInfo>) -> CountryTable {
    held.map_or_else(CountryTable::empty, |held| held.table.clone())
}

/// The table of `held` as gateways get it; an empty one without it.
pub(super) fn table_bytes(held: Option<&CountriesInfo>) -> Result<TableBytes, FormatError> {
    let Some(held) = held else { return TableBytes::new(CountryTable::empty().as_bytes().to_vec(), Some(0)) };
    let bytes = Bytes::from_owner(CountryBytes(held.table.clone()));
    Ok(TableBytes { blob: held.blob, bytes, entries: Some(held.v4 + held.v6) })
}
