//! Lists of addresses to ban, as people write and services publish them: read in pieces, in memory
//! that does not grow with them. `tests/ban-lists` has an example of each format.
//!
//! What is wrong with an entry refuses that entry, with its line; what shows that the whole is no list
//! (HTML, UTF-16, a JSON text that is cut off) refuses all of it.

mod address;
mod fields;
mod json;
mod lines;
mod refusal;
mod table;
#[cfg(test)]
mod tests;

use std::str::FromStr;
use std::time::Duration;

use tidegate_policy::address::Prefix;
use tidegate_policy::scope::Scope;

use json::JsonReader;
use refusal::{Output, Refusal};
pub use refusal::{RefusalCode, RefusedEntry, SkipReason};
use table::Table;

/// Bytes of a line, or of a JSON value that is one entry, at most.
pub const MAX_ENTRY: usize = 64 << 10;

/// The format of a list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ListFormat {
    /// An address, block or range to a line; `#` and `;` begin a comment.
    Plain,
    /// An address and its score to a line, as ipsum has them.
    Scored,
    /// Rows under a header that names the columns.
    Csv,
    /// A JSON text: an array of texts or objects, or an object with one.
    Json,
    /// A JSON value to a line.
    JsonLines,
}

impl ListFormat {
    /// The formats that a parameter can name, for messages.
    pub const FORM: &str = "write plain (or netset, drop), ipsum, csv, json (or crowdsec) or jsonl";

    /// The name in answers.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Scored => "ipsum",
            Self::Csv => "csv",
            Self::Json => "json",
            Self::JsonLines => "jsonl",
        }
    }
}

impl FromStr for ListFormat {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        Ok(match name {
            "plain" | "netset" | "drop" => Self::Plain,
            "ipsum" => Self::Scored,
            "csv" => Self::Csv,
            "json" | "crowdsec" => Self::Json,
            "jsonl" => Self::JsonLines,
            _ => return Err(()),
        })
    }
}

/// When the ban of an entry ends, as the list says it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum ListedEnd {
    /// It does not say.
    #[default]
    Unsaid,
    /// This long after now.
    After(Duration),
    /// At this time, as the list writes it.
    At(String),
}

/// A block that is to be banned.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListedBan {
    /// The line of its entry, from 1.
    pub line: u64,
    /// The block. A range is as many of them as it takes.
    pub prefix: Prefix,
    /// Why, if the list says it.
    pub reason: Option<String>,
    /// Until when.
    pub end: ListedEnd,
    /// Where, if the list says it; `None`: everywhere.
    pub applies_to: Option<Scope>,
}

/// What became of an entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ListItem {
    /// It is a block to ban; of a range one of several.
    Ban(ListedBan),
    /// The same, of a decision that CrowdSec only simulates.
    Simulated(ListedBan),
    /// It is none that is wanted.
    Skipped(SkipReason),
    /// It is wrong.
    Refused(RefusedEntry),
}

/// Why the whole is no list.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ListError {
    /// A page, probably of an error or a login.
    #[error("line {0}: this is HTML or XML, not a list: look at what the address or file really gives")]
    Html(u64),
    /// Another encoding.
    #[error("this is UTF-16, or not text at all: save the list as UTF-8")]
    Utf16,
    /// A compressed file.
    #[error("this is compressed: unpack it, or send a gzip file with Content-Encoding: gzip")]
    Compressed,
    /// `min_score` for a format without scores.
    #[error("`min_score` was given, and a list of the format {0} without a column of scores has none")]
    NoScores(&'static str),
    /// CSV without a header.
    #[error(
        "line {0}: the first line must name the columns, one of them ip, ip_address, cidr, network or range, \
         or two of them start and end"
    )]
    NoColumns(u64),
    /// JSON that is broken, so that where an entry ends is not known.
    #[error("line {line}: the JSON is broken: {why}")]
    BrokenJson {
        /// The line.
        line: u64,
        /// What is wrong.
        why: String,
    },
}

/// Reads a list that comes in pieces.
pub struct BanListReader {
    wanted: Option<ListFormat>,
    min_score: Option<f64>,
    body: Body,
    /// The beginning of the line that has not ended.
    rest: Vec<u8>,
    /// That line is longer than [`MAX_ENTRY`].
    is_too_long: bool,
    /// Lines that have ended.
    lines: u64,
}

/// What is known of the format.
enum Body {
    /// There was no entry yet.
    Unknown,
    Plain,
    Scored,
    Csv(Box<Table>),
    Json(JsonReader),
    JsonLines(JsonReader),
}

impl BanListReader {
    /// A reader of `format`; `None`: as its content tells. Entries with a lower score than `min_score`
    /// are skipped.
    #[must_use]
    pub fn new(format: Option<ListFormat>, min_score: Option<f64>) -> Self {
        Self {
            wanted: format,
            min_score,
            body: Body::Unknown,
            rest: Vec::new(),
            is_too_long: false,
            lines: 0,
        }
    }

    /// Reads on.
    ///
    /// # Errors
    /// When it is no list; then nothing more can be read.
    pub fn push(&mut self, bytes: &[u8], item: &mut dyn FnMut(ListItem)) -> Result<(), ListError> {
        let out = &mut Output { min_score: self.min_score, item };
        let mut bytes = bytes;
        while !matches!(self.body, Body::Json(_)) {
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let Some((line, after)) = end.and_then(|end| bytes.split_at_checked(end)) else {
                return self.hold(bytes, out);
            };
            bytes = after.get(1..).unwrap_or_default();
            if self.rest.is_empty() && line.len() <= MAX_ENTRY {
                self.end_line(line, out)?;
            } else {
                self.hold(line, out)?;
                if !matches!(self.body, Body::Json(_)) {
                    let line = std::mem::take(&mut self.rest);
                    self.end_line(&line, out)?;
                }
            }
            // It turned out to be in this line.
            if let Body::Json(json) = &mut self.body {
                json.push(b"\n", out)?;
            }
        }
        match &mut self.body {
            Body::Json(json) => Ok(json.push(bytes, out)?),
            _ => Ok(()),
        }
    }

    /// The list ends. Returns its format.
    ///
    /// # Errors
    /// When it is no list, or a JSON text that does not end.
    pub fn finish(mut self, item: &mut dyn FnMut(ListItem)) -> Result<ListFormat, ListError> {
        let out = &mut Output { min_score: self.min_score, item };
        if !self.rest.is_empty() || self.is_too_long {
            let line = std::mem::take(&mut self.rest);
            self.end_line(&line, out)?;
        }
        Ok(match &self.body {
            Body::Unknown => self.wanted.unwrap_or(ListFormat::Plain),
            Body::Plain => ListFormat::Plain,
            Body::Scored => ListFormat::Scored,
            Body::Csv(_) => ListFormat::Csv,
            Body::JsonLines(_) => ListFormat::JsonLines,
            Body::Json(json) => {
                json.finish()?;
                ListFormat::Json
            }
        })
    }

    /// Keeps the beginning of a line.
    fn hold(&mut self, part: &[u8], out: &mut Output<'_>) -> Result<(), ListError> {
        if self.is_too_long {
            return Ok(());
        }
        if let Body::Json(json) = &mut self.body {
            return Ok(json.push(part, out)?);
        }
        self.rest.extend_from_slice(part);
        if self.rest.len() <= MAX_ENTRY {
            return Ok(());
        }
        let line = std::mem::take(&mut self.rest);
        if matches!(self.body, Body::Unknown) {
            let line = self.without_mark(&line)?;
            self.body = self.body_of(line, false)?;
            if let Body::Json(json) = &mut self.body {
                return Ok(json.push(line, out)?);
            }
        }
        self.is_too_long = true;
        Ok(())
    }

    /// A line has ended, or the list with it.
    fn end_line(&mut self, line: &[u8], out: &mut Output<'_>) -> Result<(), ListError> {
        let number = self.lines + 1;
        if std::mem::take(&mut self.is_too_long) {
            let why = format!("the line is longer than {MAX_ENTRY} bytes");
            out.refuse(number, b"", Refusal::new(RefusalCode::TooLong, why));
        } else if matches!(self.body, Body::Unknown) {
            let line = self.without_mark(line)?;
            if !lines::is_nothing(line) {
                self.body = self.body_of(line, true)?;
                self.entry(number, line, out)?;
            }
        } else {
            self.entry(number, line, out)?;
        }
        self.lines = number;
        Ok(())
    }

    fn entry(&mut self, number: u64, line: &[u8], out: &mut Output<'_>) -> Result<(), ListError> {
        match &mut self.body {
            Body::Unknown => {}
            Body::Plain => lines::plain(number, line, out),
            Body::Scored => lines::scored(number, line, out),
            Body::Csv(table) => table.line(number, line, out),
            // Only the first line comes here.
            Body::Json(json) => json.push(line, out)?,
            Body::JsonLines(json) => json.line(number, line, out),
        }
        Ok(())
    }

    /// The line, if it is the first, without the mark that it may begin with.
    fn without_mark<'l>(&self, line: &'l [u8]) -> Result<&'l [u8], ListError> {
        if self.lines > 0 {
            return Ok(line);
        }
        let packed = [&b"\x1f\x8b"[..], b"PK\x03\x04", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"];
        if packed.iter().any(|magic| line.starts_with(magic)) {
            return Err(ListError::Compressed);
        }
        let utf16 = line.starts_with(b"\xff\xfe") || line.starts_with(b"\xfe\xff");
        if utf16 || line.iter().take(4).any(|byte| *byte == 0) {
            return Err(ListError::Utf16);
        }
        Ok(crate::strict_json::without_byte_order_mark(line))
    }

    /// The format of a list whose first entry is `line`, or begins with it.
    fn body_of(&self, line: &[u8], is_whole: bool) -> Result<Body, ListError> {
        let (number, text) = (self.lines + 1, line.trim_ascii());
        if text.starts_with(b"<") {
            return Err(ListError::Html(number));
        }
        let header = || Table::of_header(line).map(Box::new);
        let json = || JsonReader::new(number);
        let body = match self.wanted {
            Some(ListFormat::Plain) => Body::Plain,
            Some(ListFormat::Scored) => Body::Scored,
            Some(ListFormat::Csv) => Body::Csv(header().ok_or(ListError::NoColumns(number))?),
            Some(ListFormat::Json) => Body::Json(json()),
            Some(ListFormat::JsonLines) => Body::JsonLines(json()),
            None if text.starts_with(b"{") && is_whole && json::is_complete(text) => Body::JsonLines(json()),
            None if text.starts_with(b"{") || text.starts_with(b"[") => Body::Json(json()),
            None => match header() {
                Some(table) => Body::Csv(table),
                None if lines::has_score(line) => Body::Scored,
                None => Body::Plain,
            },
        };
        match (&body, self.min_score) {
            (Body::Plain, Some(_)) => Err(ListError::NoScores(ListFormat::Plain.name())),
            (Body::Csv(table), Some(_)) if !table.has_scores() => {
                Err(ListError::NoScores(ListFormat::Csv.name()))
            }
            _ => Ok(body),
        }
    }
}
