//! Country databases in MaxMind's format (mmdb): GeoIP2 and GeoLite2 Country (and City), those of
//! DB-IP, ipinfo, and others with the same records.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use maxminddb::{MaxMindDbError, Metadata, Reader, WithinOptions};
use serde::Deserialize;

use super::ranges::{FileIndex, FileLine, RangeCollector};

/// Marker before the metadata, which is at the end of the file.
const MARKER: &[u8] = b"\xab\xcd\xefMaxMind.com";
/// Bytes of the metadata, at most.
const MAX_METADATA: usize = 128 << 10;

/// Paths in the tree per range, at most: IPv4 ranges can also be reached through the IPv6
/// addresses that stand for them.
const WAYS_PER_RANGE: usize = 8;

/// Whether `bytes` are such a database, or the beginning of one: a truncated file has lost its
/// metadata, but its search tree is not text.
pub(super) fn is_one(bytes: &[u8]) -> bool {
    let end = &bytes[bytes.len().saturating_sub(MAX_METADATA)..];
    end.windows(MARKER.len()).any(|window| window == MARKER)
        || bytes.iter().take(1_024).any(|byte| *byte == 0)
}

/// Reads a database.
///
/// # Errors
/// When it is damaged, or contains no countries.
pub(super) fn read(bytes: Vec<u8>, file: FileIndex, ranges: &mut RangeCollector) -> Result<(), String> {
    let damaged = |error: MaxMindDbError| match error {
        MaxMindDbError::Decoding { .. } => format!("not a database of countries: {error}"),
        error => format!("not a whole MaxMind database ({error}): fetch it again"),
    };
    let reader = Reader::from_source(&bytes).map_err(damaged)?;
    let Metadata { node_count, record_size, .. } = *reader.metadata();
    let tree = Tree { bytes: &bytes, node_count: u64::from(node_count), record_size };
    if !tree.can_be_walked(ranges.room.saturating_mul(WAYS_PER_RANGE)) {
        return Err("not a whole MaxMind database (its search tree has no end): fetch it again".to_owned());
    }
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
                let decoded: Option<MmdbRecord> = found.decode().map_err(damaged)?;
                new.insert(decoded.and_then(MmdbRecord::code))
            }
        };
        let code = code.as_deref();
        any |= code.is_some();
        let network = found.network().map_err(damaged)?;
        ranges.add(
            network.network(),
            network.broadcast(),
            code.unwrap_or_default(),
            FileLine { file, line: 0 },
        )?;
    }
    let kind = &reader.metadata().database_type;
    if any { Ok(()) } else { Err(format!("a database of type `{kind}`, which names no countries")) }
}

/// The search tree at the beginning of the file: nodes of two records each, which point to
/// another node, to data, or to nothing.
struct Tree<'b> {
    bytes: &'b [u8],
    node_count: u64,
    record_size: u16,
}

impl Tree<'_> {
    /// Whether there are at most `most` paths from the root to an end. Where branches join again
    /// there may be 2^128 of them, in a file of a few hundred bytes.
    fn can_be_walked(&self, most: usize) -> bool {
        let most = most as u64;
        let mut ends = 0u64;
        let mut level: HashMap<u64, u64> = HashMap::from([(0, 1)]);
        // An address has 128 bits; a longer path is found when the tree is walked.
        for _bit in 0..128 {
            let mut next: HashMap<u64, u64> = HashMap::with_capacity(level.len());
            let mut ways = 0u64;
            for (node, count) in level {
                for child in self.records(node).unwrap_or_default() {
                    if child < self.node_count {
                        *next.entry(child).or_default() += count;
                        ways = ways.saturating_add(count);
                    } else {
                        ends = ends.saturating_add(count);
                    }
                }
            }
            if ends.saturating_add(ways) > most {
                return false;
            }
            level = next;
        }
        true
    }

    /// Both records of a node; `None`: the file has no such node.
    fn records(&self, node: u64) -> Option<[u64; 2]> {
        let size = usize::from(self.record_size) / 4;
        let at = usize::try_from(node).ok()?.checked_mul(size)?;
        let bytes = self.bytes.get(at..at.checked_add(size)?)?;
        let number = |bytes: &[u8]| bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        let (left, right) = bytes.split_at(size / 2);
        match (self.record_size, right) {
            // The byte in the middle has four more bits of each.
            (28, [middle, right @ ..]) => {
                let (high, low) = (u64::from(middle >> 4), u64::from(middle & 15));
                Some([high << 24 | number(left), low << 24 | number(right)])
            }
            _ => Some([number(left), number(right)]),
        }
    }
}

/// The country in a record: where the users are, else where the network is registered.
#[derive(Deserialize)]
struct MmdbRecord {
    country: Option<MmdbCountry>,
    registered_country: Option<MmdbCountry>,
    /// The field of ip-location-db and of ipinfo, whose `country` is the name.
    country_code: Option<String>,
}

/// An object in MaxMind's and DB-IP's records, a text in others.
#[derive(Deserialize)]
#[serde(untagged)]
enum MmdbCountry {
    Code(String),
    Object { iso_code: Option<String> },
}

impl MmdbRecord {
    fn code(self) -> Option<String> {
        let of = |country| match country {
            MmdbCountry::Code(code) => Some(code),
            MmdbCountry::Object { iso_code } => iso_code,
        };
        let country = self.country_code.or_else(|| self.country.and_then(of));
        country.or_else(|| self.registered_country.and_then(of))
    }
}
