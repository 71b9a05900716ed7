//! The country table, from the files that providers offer: country databases (mmdb) of MaxMind,
//! DB-IP and ipinfo, and lists of ranges or blocks (CSV), alone, in a folder or in a zip archive.
//! Files are read completely and checked before any of it is used, so a broken file changes nothing.

mod archive;
mod columns;
mod country_codes;
mod csv;
mod mmdb;
mod places;
mod ranges;

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{anyhow, bail, ensure};
use tidegate_policy::codec::MAX_TABLE;
use tidegate_policy::geo::CountryTable;

use archive::Archive;
use places::Places;
use ranges::RangeCollector;

/// Bytes of a file, at most. The largest country databases have a tenth of it.
const MAX_FILE: u64 = 512 << 20;

/// Format of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum FileFormat {
    /// Detected from its content.
    #[default]
    Auto,
    /// A country database of MaxMind, DB-IP or ipinfo.
    Mmdb,
    /// Lines of `start,end,country` or `block,country`.
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

/// Reads `files`, which together are one table. A folder stands for the lists and databases in it,
/// and so does a zip archive.
///
/// # Errors
/// When one cannot be read, is not what `format` says, or two ranges overlap.
pub fn read(files: &[PathBuf], format: FileFormat) -> anyhow::Result<Imported> {
    let mut reading = Reading { format, ranges: RangeCollector::default(), places: Places::default() };
    let mut paths = with_folders(files)?;
    paths.sort_by_key(|path| !has_places(&name(path)));
    paths.iter().try_for_each(|path| reading.loaded(path, load(path, MAX_FILE)?))?;
    table(names(files), reading.ranges)
}

/// What `files` are called together, in messages and as the table's source.
#[must_use]
pub fn names(files: &[PathBuf]) -> String {
    files.iter().map(|path| name(path)).collect::<Vec<_>>().join(", ")
}

/// One zip archive with what [`read`] would read, for [`read_bytes`].
///
/// # Errors
/// When a file cannot be read, or an archive among them is damaged.
pub fn pack(files: &[PathBuf]) -> anyhow::Result<Vec<u8>> {
    let mut packed = Vec::new();
    for (number, path) in with_folders(files)?.iter().enumerate() {
        // Two folders may have files of one name, and one that is named may end as it likes.
        let called = |name: &str| {
            let end = if may_be_read(name) { "" } else { ".csv" };
            format!("{number}/{name}{end}")
        };
        let bytes = load(path, MAX_FILE)?;
        if !archive::is_one(&bytes) {
            packed.push((called(&name(path)), bytes));
            continue;
        }
        let wrong = |why| anyhow!("{}: {why}", path.display());
        let archive = Archive::open(&bytes).map_err(wrong)?;
        for member in archive.members().map_err(wrong)? {
            packed.push((called(&member.name), archive.unpack(&member, MAX_FILE).map_err(wrong)?));
        }
    }
    archive::pack(&packed).map_err(|error| anyhow!("the files cannot be packed together: {error}"))
}

/// `files`, with what is in a folder in its place.
fn with_folders(files: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for path in files {
        match path.is_dir() {
            true => paths.append(&mut in_folder(path)?),
            false => paths.push(path.clone()),
        }
    }
    Ok(paths)
}

/// Reads one file that is at hand already, `path` only naming it; an archive gives all of its members.
///
/// # Errors
/// As [`read`].
pub fn read_bytes(path: &Path, bytes: Vec<u8>, format: FileFormat) -> anyhow::Result<Imported> {
    let mut reading = Reading { format, ranges: RangeCollector::default(), places: Places::default() };
    reading.loaded(path, bytes)?;
    table(name(path), reading.ranges)
}

/// Files as far as they were read.
struct Reading {
    format: FileFormat,
    ranges: RangeCollector,
    places: Places,
}

impl Reading {
    fn loaded(&mut self, path: &Path, bytes: Vec<u8>) -> anyhow::Result<()> {
        if !archive::is_one(&bytes) {
            return self.bytes(path, bytes);
        }
        let wrong = |why| anyhow!("{}: {why}", path.display());
        let archive = Archive::open(&bytes).map_err(wrong)?;
        let mut members = archive.members().map_err(wrong)?;
        ensure!(!members.is_empty(), wrong(NOTHING.to_owned()));
        members.sort_by_key(|member| !has_places(&member.name));
        for member in members {
            let path = path.join(&member.name);
            let bytes =
                archive.unpack(&member, MAX_FILE).map_err(|why| anyhow!("{}: {why}", path.display()))?;
            self.bytes(&path, bytes)?;
        }
        Ok(())
    }

    fn bytes(&mut self, path: &Path, bytes: Vec<u8>) -> anyhow::Result<()> {
        let file = self.ranges.begin(path);
        match self.format.of(&bytes) {
            FileFormat::Mmdb => mmdb::read(bytes, file, &mut self.ranges),
            FileFormat::Csv | FileFormat::Auto => csv::read(&bytes, file, &mut self.ranges, &mut self.places),
        }
        .map_err(|why| anyhow!("{}: {why}", path.display()))
    }
}

/// What is wrong with a folder or an archive of something else.
const NOTHING: &str = "there is no file *.csv or *.mmdb in it";

/// Whether a file of this name is read where it is one of many. Hidden ones are not: macOS puts
/// `._NAME` into archives.
fn may_be_read(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    !name.starts_with('.') && (name.ends_with(".csv") || name.ends_with(".mmdb"))
}

/// Whether a file of this name has the places that other files name: it is read before them.
fn has_places(name: &str) -> bool {
    name.contains("-Locations-")
}

fn in_folder(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let unreadable = |error| anyhow!("{}: {error}", folder.display());
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if may_be_read(&name(&path)) {
            paths.push(path);
        }
    }
    ensure!(!paths.is_empty(), "{}: {NOTHING}", folder.display());
    paths.sort();
    Ok(paths)
}

/// The table of these ranges.
fn table(source: String, ranges: RangeCollector) -> anyhow::Result<Imported> {
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

/// A file's bytes; an error if there are more than `most`, or it is compressed otherwise than as a
/// zip archive.
fn load(path: &Path, most: u64) -> anyhow::Result<Vec<u8>> {
    let shown = path.display();
    let unreadable = |error| anyhow!("{shown}: {error}");
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    // Pipes and devices have no known size.
    file.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(unreadable)?;
    ensure!(bytes.len() as u64 <= most, "{shown}: {}", too_large(most));
    let packed = [(&b"\x1f\x8b"[..], "gunzip"), (b"7z\xbc\xaf", "7z x"), (b"\xfd7zXZ", "unxz")];
    match packed.iter().find(|(magic, _)| bytes.starts_with(magic)) {
        Some((_, with)) => bail!("{shown}: this is compressed: unpack it first, with {with}"),
        None => Ok(bytes),
    }
}

/// What is wrong with a file of over `most` bytes.
fn too_large(most: u64) -> String {
    format!("a country database has {} MiB at most", most >> 20)
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
