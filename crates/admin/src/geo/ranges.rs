//! Ranges as files say them, put in order and joined.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use tidegate_policy::geo::CountryRange;

use super::country_codes::country_of;

/// One of the files.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct FileIndex(u16);

/// Where a range was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct FileLine {
    /// In which file.
    pub file: FileIndex,
    /// In which line of it, from 1; 0: a file without lines.
    pub line: u32,
}

/// A range as a file says it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SourceRange {
    range: CountryRange,
    at: FileLine,
}

/// Ranges of all files at most, those that are left out included: a small file can
/// say more than any machine holds.
const MAX_RANGES: usize = 1 << 24;

/// All ranges of all files.
pub(super) struct RangeCollector {
    files: Vec<PathBuf>,
    found: Vec<SourceRange>,
    skipped: BTreeMap<String, u64>,
    /// How many more there may be.
    pub room: usize,
}

impl Default for RangeCollector {
    fn default() -> Self {
        Self { files: Vec::new(), found: Vec::new(), skipped: BTreeMap::new(), room: MAX_RANGES }
    }
}

impl RangeCollector {
    /// The next file begins.
    pub fn begin(&mut self, path: &Path) -> FileIndex {
        self.files.push(path.to_owned());
        FileIndex(u16::try_from(self.files.len() - 1).unwrap_or(u16::MAX))
    }

    /// Takes what a file says of a range: of one family, first and last included.
    ///
    /// # Errors
    /// When the range is reversed or of two families, `code` is no code, or there are too
    /// many.
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

    /// All of them in order, neighbours of one country as one; and how many were
    /// left out, by code.
    pub fn join(mut self) -> anyhow::Result<(Vec<CountryRange>, BTreeMap<String, u64>)> {
        // Of two that begin at one address the one that was found first.
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

/// IPv4 that is written as IPv6 is IPv4: so it is looked up.
fn unmapped(first: Ipv6Addr, last: Ipv6Addr) -> (IpAddr, IpAddr) {
    match (first.to_ipv4_mapped(), last.to_ipv4_mapped()) {
        (Some(first), Some(last)) => (first.into(), last.into()),
        _ => (first.into(), last.into()),
    }
}

/// Whether `later`, which does not begin before `earlier`, has an address of it.
/// Every IPv4 address comes before every IPv6 one.
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
