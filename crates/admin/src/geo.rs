//! The country table, out of the files that people get: MaxMind's and DB-IP's
//! country databases (mmdb) and lists of ranges (CSV). Read whole and checked
//! before anything of it is used, so that a file that is broken changes nothing.

mod country_codes;
mod csv;
mod mmdb;
mod ranges;

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use tidegate_policy::codec::{FormatError, MAX_TABLE};
use tidegate_policy::geo::CountryTable;

pub use ranges::Overlap;
use ranges::RangeCollector;

/// Bytes of a file at most. The largest country databases have a tenth of it.
const MAX_FILE: u64 = 512 << 20;

/// What a file is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum FileFormat {
    /// Found out by looking at it.
    #[default]
    Auto,
    /// A country database of MaxMind or DB-IP.
    Mmdb,
    /// Lines of `start,end,country`.
    Csv,
}

/// What was made of some files.
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
    /// Ranges of the files that were left out, by the code that says why.
    pub skipped: BTreeMap<String, u64>,
}

/// Why nothing was imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A file cannot be read.
    #[error("{}: {error}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{}: {why}", path.display())]
    Malformed {
        /// Which.
        path: PathBuf,
        /// What is wrong, and what would be right.
        why: String,
    },
    /// Two ranges have an address in common.
    #[error(transparent)]
    Overlap(#[from] Overlap),
    /// All files together say nothing.
    #[error("no range of a country in {0}")]
    Nothing(String),
    /// They say more than a table holds.
    #[error("too much for one table ({0})")]
    TooLarge(FormatError),
    /// The table is larger than a gateway takes.
    #[error("the table has {0} bytes, gateways take up to {MAX_TABLE}")]
    TooManyBytes(usize),
}

/// Reads `files`, which together are one table.
///
/// # Errors
/// When one cannot be read, is not what `format` says, or two ranges overlap.
pub fn read(files: &[PathBuf], format: FileFormat) -> Result<Imported, ImportError> {
    let mut ranges = RangeCollector::default();
    for path in files {
        let bytes = load(path, MAX_FILE)?;
        let malformed = |why| ImportError::Malformed { path: path.clone(), why };
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
    if joined.is_empty() {
        return Err(ImportError::Nothing(source));
    }
    let v4 = joined.iter().filter(|range| range.first.is_ipv4()).count();
    let mut countries: Vec<_> = joined.iter().map(|range| range.country).collect();
    countries.sort_unstable();
    countries.dedup();
    let v6 = joined.len() - v4;
    let table = CountryTable::encode(joined.into_iter()).map_err(ImportError::TooLarge)?;
    if table.len() > MAX_TABLE {
        return Err(ImportError::TooManyBytes(table.len()));
    }
    Ok(Imported { source, table, v4, v6, countries: countries.len(), skipped })
}

impl FileFormat {
    /// What `bytes` are, unless it is known. Whatever is no mmdb is read as CSV,
    /// which says what is wrong with it.
    fn of(self, bytes: &[u8]) -> Self {
        match self {
            Self::Auto if mmdb::is_one(bytes) => Self::Mmdb,
            Self::Auto => Self::Csv,
            known => known,
        }
    }
}

/// A file's bytes, `most` at most.
fn load(path: &Path, most: u64) -> Result<Vec<u8>, ImportError> {
    let unreadable = |error| ImportError::Unreadable { path: path.to_owned(), error };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    // What is no file (a pipe, a device) does not say its size.
    file.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > most {
        let why = format!("a country database has {} MiB at most", most >> 20);
        return Err(ImportError::Malformed { path: path.to_owned(), why });
    }
    let packed = [
        (&b"\x1f\x8b"[..], "gunzip"),
        (b"PK\x03\x04", "unzip"),
        (b"7z\xbc\xaf", "7z x"),
        (b"\xfd7zXZ", "unxz"),
    ];
    match packed.iter().find(|(magic, _)| bytes.starts_with(magic)) {
        Some((_, with)) => {
            let why = format!("this is compressed: unpack it first, with {with}");
            Err(ImportError::Malformed { path: path.to_owned(), why })
        }
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
