//! CSV with a header that names the columns.

use csv_core::{ReadRecordResult, Reader, ReaderBuilder};

use super::fields::{Field, Record};
use super::lines::nul_byte;
use super::refusal::{Output, Refusal, RefusalCode};

/// Fields of a row, at most.
const MAX_FIELDS: usize = 256;
/// What may be between fields.
const DELIMITERS: [u8; 3] = [b',', b';', b'\t'];

/// A table whose header was read.
pub(super) struct Table {
    rows: Rows,
    columns: Vec<Option<Field>>,
    /// The header itself comes as the next line.
    is_at_header: bool,
}

impl Table {
    /// The table whose header this is; `None`: it names no address.
    pub fn of_header(line: &[u8]) -> Option<Self> {
        DELIMITERS.into_iter().find_map(|delimiter| {
            let mut rows = Rows::new(delimiter);
            let names = rows.split(line).ok()?;
            let columns: Vec<Option<Field>> = names.iter().map(|name| Field::of(name)).collect();
            let has = |wanted: fn(&Field) -> bool| columns.iter().flatten().any(wanted);
            let is_range = has(|field| *field == Field::First) && has(|field| *field == Field::Last);
            let is_header = has(|field| matches!(field, Field::Address(_))) || is_range;
            is_header.then_some(Self { rows, columns, is_at_header: true })
        })
    }

    /// Whether a column has scores.
    pub fn has_scores(&self) -> bool {
        self.columns.contains(&Some(Field::Score))
    }

    /// Reads a row.
    pub fn line(&mut self, number: u64, line: &[u8], out: &mut Output<'_>) {
        let row = line.trim_ascii();
        if std::mem::take(&mut self.is_at_header) || row.is_empty() || row.starts_with(b"#") {
            return;
        }
        if row.contains(&0) {
            return out.refuse(number, row, nul_byte());
        }
        match self.rows.split(line) {
            Ok(fields) => {
                let mut record = Record::default();
                for (field, text) in self.columns.iter().zip(fields) {
                    if let Some(field) = field {
                        record.set(*field, text);
                    }
                }
                record.take(number, row, out);
            }
            Err(refusal) => out.refuse(number, row, refusal),
        }
    }
}

/// Splits rows into fields.
struct Rows {
    reader: Box<Reader>,
    input: Vec<u8>,
    text: Vec<u8>,
    ends: Vec<usize>,
}

impl Rows {
    fn new(delimiter: u8) -> Self {
        let reader = Box::new(ReaderBuilder::new().delimiter(delimiter).build());
        Self { reader, input: Vec::new(), text: Vec::new(), ends: vec![0; MAX_FIELDS] }
    }

    fn split(&mut self, line: &[u8]) -> Result<Vec<String>, Refusal> {
        self.input.clear();
        self.input.extend_from_slice(line);
        self.input.push(b'\n');
        self.text.resize(self.input.len(), 0);
        self.reader.reset();
        let (result, _, _, fields) = self.reader.read_record(&self.input, &mut self.text, &mut self.ends);
        let bad = |why: &str| Err(Refusal::new(RefusalCode::BadCsv, why));
        match result {
            ReadRecordResult::Record => {}
            ReadRecordResult::OutputEndsFull => return bad("the row has over 256 fields"),
            _ => return bad("a quote is not closed on its line"),
        }
        let mut begin = 0;
        let ends = self.ends.iter().take(fields);
        let field = ends.map(|end| {
            let bytes = self.text.get(begin..*end).unwrap_or_default();
            begin = *end;
            String::from_utf8_lossy(bytes).into_owned()
        });
        Ok(field.collect())
    }
}
