//! The country table, from the files that providers offer: MaxMind's and DB-IP's country
//! databases (mmdb), and lists of ranges (CSV). Files are read completely and checked before any
//! of it is used, so a broken file changes nothing.

mod country_codes;
mod csv;
mod mmdb;
mod ranges;

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{anyhow, bail, ensure};
use tidegate_policy::codec::MAX_TABLE;
use tidegate_policy::geo::CountryTable;

use ranges::RangeCollector;

/// Bytes of a file, at most. The largest country databases have a tenth of it.
const MAX_FILE: u64 = 512 << 20;

/// Format of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum FileFormat {
    /// Detected from its content.
    #[default]
    Auto,
    /// A country database of MaxMind or DB-IP.
    Mmdb,
    /// Lines of `start,end,country`.
    Csv,
}

/// The result of an import.
#[derive(Debug)]
pub struct Imported {
    /// The names of the files, without their folders.
    pub source: String,
    /// The table's bytes.
    pub table: Vec<u8>,
    /// Ranges of IPv4, neighbours of one country joined.
    pub v4: usize,
    /// Ranges of IPv6.
    pub v6: usize,
    /// Countries in it.
    pub countries: usize,
    /// Ranges that were left out, by their code.
    pub skipped: BTreeMap<String, u64>,
}

/// Reads `files`, which together are one table.
///
/// # Errors
/// When one cannot be read, is not what `format` says, or two ranges overlap.
pub fn read(files: &[PathBuf], format: FileFormat) -> anyhow::Result<Imported> {
    let mut ranges = RangeCollector::default();
    for path in files {
        let bytes = load(path, MAX_FILE)?;
        let malformed = |why| anyhow!("{}: {why}", path.display());
        let file = ranges.begin(path);
        match format.of(&bytes) {
            FileFormat::Mmdb => mmdb::read(bytes, file, &mut ranges),
            FileFormat::Csv | FileFormat::Auto => csv::read(&bytes, file, &mut ranges),
        }
        .map_err(malformed)?;
    }
    let names: Vec<_> = files.iter().map(|path| name(path)).collect();
    let source = names.join(", ");
    let (joined, skipped) = ranges.join()?;
    ensure!(!joined.is_empty(), "no range of a country in {source}");
    let v4 = joined.iter().filter(|range| range.first.is_ipv4()).count();
    let mut countries: Vec<_> = joined.iter().map(|range| range.country).collect();
    countries.sort_unstable();
    countries.dedup();
    let v6 = joined.len() - v4;
    let table = CountryTable::encode(joined.into_iter())
        .map_err(|error| anyhow!("too much for one table ({error})"))?;
    let bytes = table.len();
    ensure!(bytes <= MAX_TABLE, "the table has {bytes} bytes, gateways take up to {MAX_TABLE}");
    Ok(Imported { source, table, v4, v6, countries: countries.len(), skipped })
}

impl FileFormat {
    /// The format of `bytes`, unless it is given. What is not mmdb is read as CSV, whose errors
    /// say what is wrong.
    fn of(self, bytes: &[u8]) -> Self {
        match self {
            Self::Auto if mmdb::is_one(bytes) => Self::Mmdb,
            Self::Auto => Self::Csv,
            known => known,
        }
    }
}

/// A file's bytes; an error if there are more than `most`.
fn load(path: &Path, most: u64) -> anyhow::Result<Vec<u8>> {
    let shown = path.display();
    let unreadable = |error| anyhow!("{shown}: {error}");
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    // Pipes and devices have no known size.
    file.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(unreadable)?;
    ensure!(bytes.len() as u64 <= most, "{shown}: a country database has {} MiB at most", most >> 20);
    let packed = [
        (&b"\x1f\x8b"[..], "gunzip"),
        (b"PK\x03\x04", "unzip"),
        (b"7z\xbc\xaf", "7z x"),
        (b"\xfd7zXZ", "unxz"),
    ];
    match packed.iter().find(|(magic, _)| bytes.starts_with(magic)) {
        Some((_, with)) => bail!("{shown}: this is compressed: unpack it first, with {with}"),
        None => Ok(bytes),
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

impl fmt::Display for Imported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}: {} IPv4 and {} IPv6 ranges of {} countries, {} bytes",
            self.source,
            self.v4,
            self.v6,
            self.countries,
            self.table.len()
        )?;
        let left_out: u64 = self.skipped.values().sum();
        if left_out == 0 {
            return Ok(());
        }
        write!(f, "left out, as of no known country: {left_out} ranges (")?;
        let mut comma = "";
        for (code, count) in &self.skipped {
            write!(f, "{comma}{code}: {count}")?;
            comma = ", ";
        }
        writeln!(f, ")")
    }
}

#[cfg(test)]
mod tests;
