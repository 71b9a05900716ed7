//! Zip archives: MaxMind offers its lists in them, IP2Location all its files.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::bufread::DeflateDecoder;
use flate2::write::DeflateEncoder;
use rawzip::{
    CompressionMethod, Error, ZipArchive, ZipArchiveEntryWayfinder, ZipArchiveWriter, ZipSliceArchive,
};

/// Files of an archive that are read, at most. MaxMind's have ten.
const MAX_MEMBERS: usize = 64;

/// A file in an archive.
pub(super) struct Member {
    /// Its name, without its folders.
    pub name: String,
    place: ZipArchiveEntryWayfinder,
    method: CompressionMethod,
}

/// An archive.
pub(super) struct Archive<'b>(ZipSliceArchive<&'b [u8]>);

/// Whether `bytes` are one.
pub(super) fn is_one(bytes: &[u8]) -> bool {
    bytes.starts_with(b"PK\x03\x04")
}

impl<'b> Archive<'b> {
    /// Opens `bytes`.
    ///
    /// # Errors
    /// When they are cut short.
    pub fn open(bytes: &'b [u8]) -> Result<Self, String> {
        ZipArchive::from_slice(bytes).map(Self).map_err(damaged)
    }

    /// Its files that may be country databases, by their names.
    ///
    /// # Errors
    /// When it is damaged, or has too many.
    pub fn members(&self) -> Result<Vec<Member>, String> {
        let mut members = Vec::new();
        for entry in self.0.entries() {
            let entry = entry.map_err(damaged)?;
            let path = String::from_utf8_lossy(entry.file_path().as_bytes()).into_owned();
            let name = path.rsplit('/').next().unwrap_or_default().to_owned();
            if !super::may_be_read(&name) {
                continue;
            }
            if members.len() == MAX_MEMBERS {
                return Err(format!("over {MAX_MEMBERS} lists: no country database has so many"));
            }
            members.push(Member { name, place: entry.wayfinder(), method: entry.compression_method() });
        }
        Ok(members)
    }

    /// The bytes of one of them: a small archive can hold more than fits into memory.
    ///
    /// # Errors
    /// When it is damaged, has over `most` bytes, or is packed in another way than zip programs do by
    /// default.
    pub fn unpack(&self, member: &Member, most: u64) -> Result<Vec<u8>, String> {
        let entry = self.0.get_entry(member.place).map_err(damaged)?;
        let packed: Box<dyn Read> = match member.method {
            CompressionMethod::STORE => Box::new(entry.data()),
            CompressionMethod::DEFLATE => Box::new(DeflateDecoder::new(entry.data())),
            other => return Err(format!("packed with {other}: unpack the archive, and give its folder")),
        };
        let mut bytes = Vec::new();
        let mut unpacked = entry.verifying_reader(packed).take(most.saturating_add(1));
        unpacked.read_to_end(&mut bytes).map_err(|error| format!("not a whole archive ({error})"))?;
        match bytes.len() as u64 <= most {
            true => Ok(bytes),
            false => Err(super::too_large(most)),
        }
    }
}

/// The archive of these files, by their names.
pub(super) fn pack(files: &[(String, Vec<u8>)]) -> Result<Vec<u8>, Error> {
    let mut archive = ZipArchiveWriter::new(Vec::new());
    for (name, bytes) in files {
        let file = archive.new_file(name.as_str()).compression_method(CompressionMethod::DEFLATE);
        let (mut entry, config) = file.start()?;
        let mut writer = config.wrap(DeflateEncoder::new(&mut entry, Compression::fast()));
        writer.write_all(bytes)?;
        let (encoder, end) = writer.finish()?;
        encoder.finish()?;
        entry.finish(end)?;
    }
    archive.finish()
}

fn damaged(error: Error) -> String {
    format!("not a whole archive ({error}): fetch it again")
}
