//! JSON: cut into the values that are entries, each of which is then read by itself.

use serde::de::IgnoredAny;
use serde_json::Value;

use super::fields::{Field, Record};
use super::refusal::{Output, Refusal, RefusalCode, SkipReason};
use super::{ListError, MAX_ENTRY};
use crate::strict_json::StrictValue;

/// Lists within lists, at most.
const MAX_OPEN: usize = 32;
/// Bytes of a name that is looked at; the names of lists are shorter.
const MAX_NAME: usize = 16;

/// Whether `text` is one JSON value.
pub(super) fn is_complete(text: &[u8]) -> bool {
    serde_json::from_slice::<IgnoredAny>(text).is_ok()
}

/// Whether an object's member of this name is a list of entries, and then whether these are of no
/// interest.
fn list(name: &[u8]) -> Option<bool> {
    match name {
        b"data" | b"items" | b"decisions" | b"new" | b"bans" => Some(false),
        b"deleted" => Some(true),
        _ => None,
    }
}

/// What was begun around the value that is read.
enum Open {
    /// A list of entries.
    List { is_skipped: bool },
    /// An object with such a list.
    Object,
}

/// How far a member of an object was read.
#[derive(PartialEq, Eq)]
enum Member {
    Elsewhere,
    InName,
    BehindName,
    BehindColon,
}

/// Cuts a JSON text that comes in pieces into its entries.
pub(super) struct JsonReader {
    line: u64,
    open: Vec<Open>,
    /// The entry that is being read, and its first line.
    value: Vec<u8>,
    value_line: u64,
    is_too_long: bool,
    /// It is no entry, for it has a list of entries.
    is_rest: bool,
    /// Brackets that are open in it.
    depth: usize,
    in_text: bool,
    is_escaped: bool,
    member: Member,
    name: Vec<u8>,
}

/// Why a JSON text cannot be cut.
pub(super) struct BrokenJson {
    line: u64,
    why: String,
}

impl From<BrokenJson> for ListError {
    fn from(BrokenJson { line, why }: BrokenJson) -> Self {
        Self::BrokenJson { line, why }
    }
}

impl JsonReader {
    /// A reader whose first byte is in `line`.
    pub fn new(line: u64) -> Self {
        Self {
            line,
            open: Vec::new(),
            value: Vec::new(),
            value_line: line,
            is_too_long: false,
            is_rest: false,
            depth: 0,
            in_text: false,
            is_escaped: false,
            member: Member::Elsewhere,
            name: Vec::new(),
        }
    }

    /// Reads on.
    pub fn push(&mut self, bytes: &[u8], out: &mut Output<'_>) -> Result<(), BrokenJson> {
        for byte in bytes {
            match self.depth == 0 && !self.in_text {
                true => self.between(*byte)?,
                false => self.within(*byte, out)?,
            }
            self.line += u64::from(*byte == b'\n');
        }
        Ok(())
    }

    /// Reads a line of a text that has a value in each.
    pub fn line(&mut self, number: u64, line: &[u8], out: &mut Output<'_>) {
        let row = line.trim_ascii();
        if row.starts_with(b"#") {
            return;
        }
        *self = Self::new(number);
        if let Err(BrokenJson { why, .. }) = self.push(row, out).and_then(|()| self.finish()) {
            out.refuse(number, row, Refusal::new(RefusalCode::BadJson, why));
        }
    }

    /// The text ends.
    pub fn finish(&self) -> Result<(), BrokenJson> {
        match self.depth == 0 && !self.in_text && self.open.is_empty() {
            true => Ok(()),
            false => self.broken("it ends within a value: it was cut off"),
        }
    }

    fn broken<T>(&self, why: impl Into<String>) -> Result<T, BrokenJson> {
        Err(BrokenJson { line: self.line, why: why.into() })
    }

    /// A byte between entries.
    fn between(&mut self, byte: u8) -> Result<(), BrokenJson> {
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' | b',' => {}
            b'[' if self.open.is_empty() => self.open.push(Open::List { is_skipped: false }),
            b'{' | b'[' => self.begin(byte, 1),
            b'"' => {
                self.begin(byte, 0);
                self.in_text = true;
            }
            b']' => match (self.open.pop(), self.open.pop()) {
                (Some(Open::List { .. }), None) => {}
                (Some(Open::List { .. }), Some(Open::Object)) => {
                    self.begin(b'{', 1);
                    self.is_rest = true;
                }
                _ => return self.broken("a bracket closes that was not opened"),
            },
            other => {
                return self.broken(format!(
                    "`{}` is neither a text in quotes nor an object",
                    char::from(other).escape_default()
                ));
            }
        }
        Ok(())
    }

    fn begin(&mut self, byte: u8, depth: usize) {
        self.value.clear();
        self.value.push(byte);
        (self.value_line, self.depth) = (self.line, depth);
        (self.is_too_long, self.is_rest, self.member) = (false, false, Member::Elsewhere);
    }

    /// A byte of an entry.
    fn within(&mut self, byte: u8, out: &mut Output<'_>) -> Result<(), BrokenJson> {
        if self.value.len() < MAX_ENTRY {
            self.value.push(byte);
        } else {
            self.is_too_long = true;
        }
        if self.in_text {
            return self.within_text(byte, out);
        }
        match byte {
            b'"' => {
                self.in_text = true;
                if self.depth == 1 {
                    self.member = Member::InName;
                    self.name.clear();
                }
            }
            b':' if self.member == Member::BehindName => self.member = Member::BehindColon,
            b' ' | b'\t' | b'\r' | b'\n' => {}
            b'[' if self.depth == 1 && self.member == Member::BehindColon => match list(&self.name) {
                Some(is_skipped) => return self.descend(is_skipped),
                None => self.depth += 1,
            },
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => {
                self.depth -= 1;
                if self.depth == 0 {
                    self.end(out);
                }
            }
            _ => self.member = Member::Elsewhere,
        }
        Ok(())
    }

    fn within_text(&mut self, byte: u8, out: &mut Output<'_>) -> Result<(), BrokenJson> {
        let was_escaped = std::mem::take(&mut self.is_escaped);
        match byte {
            b'\n' => return self.broken("a text in quotes does not end on its line"),
            b'"' if !was_escaped => {
                self.in_text = false;
                if self.depth == 0 {
                    self.end(out);
                } else if self.member == Member::InName {
                    self.member = Member::BehindName;
                }
            }
            _ => {
                self.is_escaped = byte == b'\\' && !was_escaped;
                if self.member == Member::InName && self.name.len() < MAX_NAME {
                    self.name.push(byte);
                }
            }
        }
        Ok(())
    }

    /// A list of entries begins in an object.
    fn descend(&mut self, is_skipped: bool) -> Result<(), BrokenJson> {
        if self.open.len() >= MAX_OPEN {
            return self.broken("lists are nested too deeply");
        }
        self.open.push(Open::Object);
        self.open.push(Open::List { is_skipped });
        self.depth = 0;
        Ok(())
    }

    /// An entry ends.
    fn end(&mut self, out: &mut Output<'_>) {
        if std::mem::take(&mut self.is_rest) {
            return;
        }
        if matches!(self.open.last(), Some(Open::List { is_skipped: true })) {
            return out.skip(SkipReason::Deleted);
        }
        if self.is_too_long {
            let why = format!("the value is longer than {MAX_ENTRY} bytes");
            return out.refuse(self.value_line, &self.value, Refusal::new(RefusalCode::TooLong, why));
        }
        match record(&self.value) {
            Ok(record) => record.take(self.value_line, &self.value, out),
            Err(why) => {
                out.refuse(self.value_line, &self.value, Refusal::new(RefusalCode::BadJson, why));
            }
        }
    }
}

/// The fields of a text or an object.
fn record(json: &[u8]) -> Result<Record<'static>, String> {
    let StrictValue(value) = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    let mut record = Record::default();
    match value {
        Value::String(text) => record.set(Field::Address(0), text),
        Value::Object(members) => {
            for (name, value) in members {
                let Some(field) = Field::of(&name) else { continue };
                match value {
                    Value::String(text) => record.set(field, text),
                    Value::Number(_) | Value::Bool(_) => record.set(field, value.to_string()),
                    Value::Array(_) | Value::Object(_) if field == Field::AppliesTo => {
                        record.set(field, value.to_string());
                    }
                    Value::Null | Value::Array(_) | Value::Object(_) => {}
                }
            }
        }
        _ => return Err("neither a text in quotes nor an object".to_owned()),
    }
    Ok(record)
}
