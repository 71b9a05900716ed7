//! Ranges from files, sorted and joined.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use tidegate_policy::geo::CountryRange;

use super::country_codes::country_of;

/// Index of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct FileIndex(u16);

/// The place of a range in the files.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct FileLine {
    /// The file.
    pub file: FileIndex,
    /// Its line, from 1; 0: a file without lines.
    pub line: u32,
}

/// A range from a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SourceRange {
    range: CountryRange,
    at: FileLine,
}

/// Ranges of all files, at most, including those that are left out: a small file can describe
/// more than fits into memory.
const MAX_RANGES: usize = 1 << 24;

/// All ranges of all files.
pub(super) struct RangeCollector {
    files: Vec<PathBuf>,
    found: Vec<SourceRange>,
    skipped: BTreeMap<String, u64>,
    /// Number of further ranges that are accepted.
    pub room: usize,
}

impl Default for RangeCollector {
    fn default() -> Self {
        Self { files: Vec::new(), found: Vec::new(), skipped: BTreeMap::new(), room: MAX_RANGES }
    }
}

impl RangeCollector {
    /// Begins the next file.
    pub fn begin(&mut self, path: &Path) -> FileIndex {
        self.files.push(path.to_owned());
        FileIndex(u16::try_from(self.files.len() - 1).unwrap_or(u16::MAX))
    }

    /// Adds a range of a file: of one address family, first and last included.
    ///
    /// # Errors
    /// When the range is reversed or of two families, `code` is not a code, or there are too many
    /// ranges.
    pub fn add(&mut self, first: IpAddr, last: IpAddr, code: &str, at: FileLine) -> Result<(), String> {
        let too_many = || format!("over {MAX_RANGES} ranges: no country database has so many");
        self.room = self.room.checked_sub(1).ok_or_else(too_many)?;
        let (first, last) = match (first, last) {
            (IpAddr::V6(one), IpAddr::V6(other)) => unmapped(one, other),
            (one, other) if one.is_ipv4() == other.is_ipv4() => (one, other),
            _ => return Err(format!("{first} and {last} are of two families: a range is IPv4 or IPv6")),
        };
        if first > last {
            return Err(format!("the range is reversed: {first} comes after {last}"));
        }
        match country_of(code)? {
            Some(country) => {
                self.found.push(SourceRange { range: CountryRange { first, last, country }, at });
            }
            None => {
                let code = if code.is_empty() { "none" } else { code };
                *self.skipped.entry(code.to_owned()).or_default() += 1;
            }
        }
        Ok(())
    }

    /// All ranges in order, neighbours of one country joined; and how many were left out, by
    /// code.
    pub fn join(mut self) -> anyhow::Result<(Vec<CountryRange>, BTreeMap<String, u64>)> {
        // Of two that begin at the same address, the one found first comes first.
        self.found.sort_by_key(|found| found.range.first);
        let mut joined: Vec<CountryRange> = Vec::with_capacity(self.found.len());
        let mut before: Option<&SourceRange> = None;
        for found in &self.found {
            if let Some(before) = before.filter(|before| overlap(&before.range, &found.range)) {
                let [earlier, later] = [before, found].map(|found| self.describe(found));
                anyhow::bail!("{later} overlaps {earlier}: an address can be in one country only");
            }
            before = Some(found);
            match joined.last_mut() {
                Some(last) if follows(last, &found.range) => last.last = found.range.last,
                _ => joined.push(found.range),
            }
        }
        Ok((joined, self.skipped))
    }

    fn describe(&self, found: &SourceRange) -> String {
        let CountryRange { first, last, country } = found.range;
        let FileIndex(file) = found.at.file;
        let path = self.files.get(usize::from(file)).map(|path| path.display().to_string());
        let line = match found.at.line {
            0 => String::new(),
            line => format!(":{line}"),
        };
        format!("{}{line} ({first} to {last}, {country})", path.unwrap_or_default())
    }
}

/// IPv4 addresses written as IPv6 become IPv4: they are looked up as such.
fn unmapped(first: Ipv6Addr, last: Ipv6Addr) -> (IpAddr, IpAddr) {
    match (first.to_ipv4_mapped(), last.to_ipv4_mapped()) {
        (Some(first), Some(last)) => (first.into(), last.into()),
        _ => (first.into(), last.into()),
    }
}

/// Whether `later`, which does not begin before `earlier`, overlaps it. Every IPv4 address is
/// before every IPv6 address.
fn overlap(earlier: &CountryRange, later: &CountryRange) -> bool {
    later.first <= earlier.last
}

fn follows(before: &CountryRange, next: &CountryRange) -> bool {
    let after = match before.last {
        IpAddr::V4(last) => last.to_bits().checked_add(1).map(|bits| IpAddr::from(Ipv4Addr::from_bits(bits))),
        IpAddr::V6(last) => last.to_bits().checked_add(1).map(|bits| IpAddr::from(Ipv6Addr::from_bits(bits))),
    };
    before.country == next.country && after == Some(next.first)
}
