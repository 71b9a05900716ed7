//! The row of `geo_countries`: a table that an import laid out.

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use tidegate_policy::codec::FormatError;
use tidegate_policy::digest::BlobHash;
use tidegate_policy::geo::CountryTable;
use tidegate_policy::wire::sync::BlobRef;

use super::base;
use super::clock::{self, Millis};
use super::fingerprint::COUNTRIES_KEY;
use super::snapshot::Snapshot;
use super::state::Whole;
use crate::store::{CountriesRow, StoreTable};

/// The country table that is in force.
#[derive(Debug)]
pub struct CountriesInfo {
    /// What was imported, in the operator's words: a file's name.
    pub source: String,
    /// Runs of IPv4 addresses.
    pub v4: usize,
    /// Runs of IPv6 addresses.
    pub v6: usize,
    /// Its name and size.
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

    /// What it says. A clone shares the bytes.
    #[must_use]
    pub fn table(&self) -> &CountryTable {
        &self.table
    }

    fn read(row: CountriesRow) -> Result<Self, FormatError> {
        let blob = base::name(&row.table)?;
        let table = CountryTable::from_bytes(row.table)?;
        let (v4, v6) = table.len();
        let imported = row.imported_at.as_deref().and_then(clock::millis);
        Ok(Self { source: row.source, v4, v6, blob, imported, table })
    }
}

/// A table's bytes, as gateways fetch them: not a copy.
struct Shared(CountryTable);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl Snapshot {
    /// Takes the country table as it now stands; `None`: there is none. One that
    /// cannot be read leaves the one before it in force.
    pub(super) fn apply_countries(&mut self, row: Option<CountriesRow>) {
        if row.as_ref().is_some_and(|row| self.has_row(StoreTable::Countries, row)) {
            return;
        }
        self.note_row(StoreTable::Countries, COUNTRIES_KEY, row.as_ref());
        match row.map(CountriesInfo::read) {
            None => self.countries = None,
            Some(Ok(info)) => self.countries = Some(Arc::new(info)),
            Some(Err(error)) => {
                let instead = match &self.countries {
                    Some(held) => format!("the one before it, of `{}`, stays in force", held.source),
                    None => "no country is known until then".to_owned(),
                };
                let why = format!("not a country table ({error}): import it again; {instead}");
                self.set_aside(StoreTable::Countries, COUNTRIES_KEY, why);
            }
        }
    }

    /// The country table in force.
    pub(super) fn country_table(&self) -> CountryTable {
        self.countries.as_ref().map_or_else(CountryTable::empty, |info| info.table.clone())
    }

    /// The same as gateways get it.
    pub(super) fn whole_countries(&self) -> Whole {
        let table = self.country_table();
        let blob = self.countries.as_ref().map(|info| info.blob);
        let blob = blob.unwrap_or_else(|| {
            let bytes = table.as_bytes();
            BlobRef { hash: BlobHash::of(bytes), len: bytes.len() as u64 }
        });
        Whole { blob, bytes: Bytes::from_owner(Shared(table)) }
    }
}
