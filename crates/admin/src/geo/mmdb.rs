//! Country databases in MaxMind's format: GeoIP2 and GeoLite2 Country (and City),
//! those of DB-IP, and what follows either.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use maxminddb::{MaxMindDbError, Reader, WithinOptions};
use serde::Deserialize;

use super::ranges::{File, Place, Ranges};

/// Begins the metadata, which stands at the end of the file.
const MARKER: &[u8] = b"\xab\xcd\xefMaxMind.com";
/// The metadata has this many bytes at most.
const MAX_METADATA: usize = 128 << 10;

/// Whether `bytes` are such a database, or at least once were: one that was cut
/// short has lost its metadata, and its search tree is no text.
pub(super) fn is_one(bytes: &[u8]) -> bool {
    let end = &bytes[bytes.len().saturating_sub(MAX_METADATA)..];
    end.windows(MARKER.len()).any(|window| window == MARKER)
        || bytes.iter().take(1_024).any(|byte| *byte == 0)
}

/// Reads a database.
///
/// # Errors
/// When it is damaged, or says nothing of countries.
pub(super) fn read(bytes: Vec<u8>, file: File, ranges: &mut Ranges) -> Result<(), String> {
    let damaged = |error: MaxMindDbError| match error {
        MaxMindDbError::Decoding { .. } => format!("not a database of countries: {error}"),
        error => format!("not a whole MaxMind database ({error}): fetch it again"),
    };
    let reader = Reader::from_source(bytes).map_err(damaged)?;
    let networks = reader.networks(WithinOptions::default()).map_err(damaged)?;
    // Many networks share a record.
    let mut codes: HashMap<usize, Option<String>> = HashMap::new();
    let mut any = false;
    for found in networks {
        let found = found.map_err(damaged)?;
        let Some(record) = found.offset() else { continue };
        let code = match codes.entry(record) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let decoded: Option<Record> = found.decode().map_err(damaged)?;
                new.insert(decoded.and_then(Record::code))
            }
        };
        let code = code.as_deref();
        any |= code.is_some();
        let network = found.network().map_err(damaged)?;
        ranges.add(
            network.network(),
            network.broadcast(),
            code.unwrap_or_default(),
            Place { file, line: 0 },
        )?;
    }
    let kind = &reader.metadata().database_type;
    if any { Ok(()) } else { Err(format!("a database of type `{kind}`, which names no countries")) }
}

/// A record, as far as it says a country: where the users are, else where the
/// network is registered.
#[derive(Deserialize)]
struct Record {
    country: Option<Country>,
    registered_country: Option<Country>,
    /// As ip-location-db has it.
    country_code: Option<String>,
}

/// An object in MaxMind's and DB-IP's records, a text in others.
#[derive(Deserialize)]
#[serde(untagged)]
enum Country {
    Code(String),
    Object { iso_code: Option<String> },
}

impl Record {
    fn code(self) -> Option<String> {
        let of = |country| match country {
            Country::Code(code) => Some(code),
            Country::Object { iso_code } => iso_code,
        };
        let country = self.country.and_then(of);
        country.or_else(|| self.registered_country.and_then(of)).or(self.country_code)
    }
}
